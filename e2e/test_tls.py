"""TLS, in each place where it is spoken: nginx, grpcio, curl and `websockets` on the other side."""

import asyncio
import contextlib
import json
import queue
import shutil
import socket
import ssl
import subprocess

import grpc
import pytest
from websockets.asyncio.client import connect as connect_with_asyncio
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_websocket

from support import ways
from support.faults import TIMED_OUT, Fault, post, post_grpc
from support.process import PATIENCE, Devroute, until
from support.servers import Nginx
from support.verdicts import is_reported, is_reported_to_grpc
from support.websocket import WebSocketServer
from support.wire import answering

#: Where the peer can be one that speaks TLS; the example that embeds the layer is built without.
TO_TLS = pytest.mark.parametrize("kind", [ways.BASELINE, ways.REROUTED, ways.VIA_ROUTER, ways.ROUTER])

CERTIFICATE = Fault(502, "tls_certificate", "tls_certificate_error")
ALERT = Fault(502, "tls_alert", "tls_alert_received")
NO_TLS = Fault(502, "tls_protocol", "tls_protocol_error")


def believing(authority, kind):
    """The flag that makes the proxy believe the peer of this way."""
    return [f"--{'upstream' if kind == ways.BASELINE else 'target'}-ca={authority.cert}"]


@pytest.fixture
def nginx_by_tls(tool, started):
    """nginx with a certificate."""
    program = tool("nginx", "nginx by TLS")

    def nginx_by_tls(identity, server, *, listen="ssl", versions="TLSv1.2 TLSv1.3"):
        peer = Nginx(
            program,
            f"listen 127.0.0.1:PORT {listen}; ssl_protocols {versions}; ssl_certificate {identity.cert};"
            f"ssl_certificate_key {identity.key}; {server}",
        )
        started.append(peer)
        return peer

    return nginx_by_tls


@pytest.fixture
def curl(tool):
    program = tool("curl", "what curl sees by TLS")

    def curl(way, *arguments, path="/", ca=None):
        trusted = ["--cacert", ca] if ca else []
        command = [program, "-sS", *trusted, *way.curl, *arguments, way.url + path]
        return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, env={})

    return curl


SAYS_HOW = 'location / { return 200 "$server_protocol $ssl_protocol $ssl_alpn_protocol $request_uri"; }'


# To the peer.


@TO_TLS
@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
@pytest.mark.parametrize(
    ("listen", "spoken"),
    [("ssl", "HTTP/1.1 TLSv1.3 http/1.1"), ("ssl http2", "HTTP/2.0 TLSv1.3 h2")],
    ids=["http/1.1", "h2"],
)
def test_rule_17_nginx_is_spoken_to_in_what_it_chooses_by_alpn(
    kind, way_of, authority, nginx_by_tls, curl, version, listen, spoken
):
    peer = nginx_by_tls(authority.issue("peer", "IP:127.0.0.1"), SAYS_HOW, listen=listen)
    way = way_of(kind, peer.port, scheme="https", judge=believing(authority, kind))
    ran = curl(way, version, "--data-binary", "abc", path="/a%2Fb?c")
    assert ran.stdout.decode() == f"{spoken} /a%2Fb?c", ran.stderr


@TO_TLS
def test_tls_1_2_is_spoken_to_a_peer_that_has_no_later_one(kind, way_of, authority, nginx_by_tls, curl):
    peer = nginx_by_tls(authority.issue("peer", "IP:127.0.0.1"), SAYS_HOW, versions="TLSv1.2")
    way = way_of(kind, peer.port, scheme="https", judge=believing(authority, kind))
    assert curl(way).stdout == b"HTTP/1.1 TLSv1.2 http/1.1 /"


def test_the_machines_authorities_are_believed(started, authority, nginx_by_tls, curl):
    peer = nginx_by_tls(authority.issue("peer", "DNS:localhost"), SAYS_HOW)
    sidecar = Devroute(
        "sidecar",
        "--service=checkout",
        f"--upstream=https://localhost:{peer.port}",
        env={"SSL_CERT_FILE": str(authority.cert)},
    )
    started.append(sidecar)
    way = ways.Way(ways.BASELINE, sidecar.port, {}, None, [sidecar])
    assert curl(way).stdout == b"HTTP/1.1 TLSv1.3 http/1.1 /"


def test_the_named_switch_believes_anybody(way_of, authority, nginx_by_tls, curl):
    peer = nginx_by_tls(authority.issue("peer", "DNS:somebody.else"), SAYS_HOW)
    way = way_of(ways.REROUTED, peer.port, scheme="https", judge=["--target-insecure"])
    assert curl(way).stdout == b"HTTP/1.1 TLSv1.3 http/1.1 /"


@TO_TLS
def test_a_websocket_by_tls_is_a_tunnel(kind, way_of, authority, started, nginx_by_tls):
    def echo(websocket):
        for message in websocket:
            websocket.send(message)

    peer = WebSocketServer(echo)
    started.append(peer)
    nginx = nginx_by_tls(
        authority.issue("peer", "IP:127.0.0.1"),
        f"""location / {{ proxy_pass http://127.0.0.1:{peer.port}; proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }}""",
        listen="ssl http2",
    )
    way = way_of(kind, nginx.port, scheme="https", judge=believing(authority, kind))
    with connect_websocket(
        f"ws://{way.address}/", additional_headers=way.fields, proxy=None, max_size=None
    ) as client:
        for message in ["hello", bytes(range(256)) * 4096]:
            client.send(message)
            assert client.recv(PATIENCE) == message


@TO_TLS
def test_grpc_by_tls_through_nginx(kind, way_of, authority, nginx_by_tls, grpc_peer, grpc_client):
    peer = grpc_peer()
    identity = authority.issue("peer", "IP:127.0.0.1")
    front = f"location / {{ grpc_pass grpc://127.0.0.1:{peer.port}; }}"
    nginx = nginx_by_tls(identity, front, listen="ssl http2")
    way = way_of(kind, nginx.port, scheme="https", judge=believing(authority, kind))
    client = grpc_client(way)
    assert client.call("Unary", client.text(text="hello")).result().text == "HELLO"
    answers = client.call("Chat", iter([client.text(text="a"), client.text(text="b")]))
    assert [answer.text for answer in answers] == ["0: a", "1: b"]


# Whom not to believe, and who does not speak it.


def silent(conn):
    conn.ends()


def leaves(conn):
    conn.exactly(5)


@TO_TLS
@pytest.mark.parametrize(
    ("peer", "fault"),
    [
        ("stranger", CERTIFICATE),
        ("other name", CERTIFICATE),
        ("no tls", NO_TLS),
        ("old tls", ALERT),
        ("leaves", NO_TLS),
        ("silent", TIMED_OUT),
    ],
)
@pytest.mark.parametrize("says", ["http", "grpc"])
def test_rule_12_a_handshake_that_fails(
    kind, way_of, serve, authority, tmp_path_factory, nginx_by_tls, peer, fault, says
):
    folder = tmp_path_factory.mktemp("stranger")
    name = "DNS:somebody.else" if peer == "other name" else "IP:127.0.0.1"
    issuer = authority if peer != "stranger" else type(authority)(authority.openssl, folder)
    identity = issuer.issue("peer", name)
    if peer in ("leaves", "silent"):
        server = serve(leaves if peer == "leaves" else silent)
    elif peer == "no tls":
        server = nginx_by_tls(identity, SAYS_HOW, listen="")
    elif peer == "old tls":
        weak = "ssl_ciphers DEFAULT@SECLEVEL=0;" + SAYS_HOW
        server = nginx_by_tls(identity, weak, listen="ssl http2", versions="TLSv1.1")
    else:
        server = nginx_by_tls(identity, SAYS_HOW, listen="ssl http2")
    believed = [*believing(authority, kind), "--connect-timeout=300ms"]
    way = way_of(kind, server.port, scheme="https", judge=believed)
    target = f"https://127.0.0.1:{server.port}"
    if says == "http":
        is_reported(way, post(way), fault, target)
    else:
        is_reported_to_grpc(way, post_grpc(way), fault, target)


def test_rule_13_the_baseline_answers_for_a_peer_that_is_not_believed(
    way_of, serve, authority, nginx_by_tls
):
    laptop = nginx_by_tls(authority.issue("laptop", "IP:127.0.0.1"), SAYS_HOW)
    baseline = serve(answering("baseline"))
    flags = ["--allow=loopback", "--on-failure=fallback"]
    way = way_of(ways.BASELINE, baseline.port, flags=flags)
    way.fields["x-devroute"] = json.dumps({ways.SERVICE: f"https://127.0.0.1:{laptop.port}"})
    head, body = post(way)
    assert (head.status, body) == (200, b"baseline POST /pay paid twice?")
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=baseline; reason=tls_certificate"
    assert way.proxies[0].decisions() == {"fallback": 1}
    assert way.proxies[0].failures() == {"reroute tls_certificate": 1}


# From the client.


@pytest.fixture
def way_by_tls(way_of, authority):
    """A way whose client has to come by TLS."""

    def way_by_tls(kind, peer, **options):
        server = authority.issue("server", "IP:127.0.0.1", "DNS:front.test")
        flags = [f"--tls-cert={server.cert}", f"--tls-key={server.key}", "--tls-reload=10ms"]
        return way_of(kind, peer, flags=flags, client="https", **options)

    return way_by_tls


@TO_TLS
@pytest.mark.parametrize(
    ("version", "spoken"), [("-0", "1"), ("--http1.1", "1.1"), ("--http2", "2")], ids=["1.0", "1.1", "2"]
)
def test_curl_speaks_what_it_chooses_by_alpn(kind, way_by_tls, authority, serve, curl, version, spoken):
    way = way_by_tls(kind, serve(answering("peer")).port)
    ran = curl(way, version, "-d", "abc", "-w", " %{http_version}", path="/a?b", ca=authority.cert)
    assert ran.stdout.decode() == f"peer POST /a?b abc {spoken}", ran.stderr


def test_who_speaks_no_tls_or_believes_nobody_is_counted(way_by_tls, serve, curl):
    way = way_by_tls(ways.BASELINE, serve(answering("peer")).port)
    assert curl(way).returncode == 60, "curl does not believe it"
    way.scheme = "http"
    assert curl(way).returncode == 1, "curl gets an alert of TLS, and no HTTP"
    failures = "devroute_tls_handshake_failures_total"
    until(lambda: way.proxies[0].metric(failures) == 2, "both to be counted")
    assert not way.proxies[0].decisions()


@TO_TLS
def test_grpcio_by_tls(kind, way_by_tls, authority, grpc_peer, grpc_client):
    way = way_by_tls(kind, grpc_peer().port)
    client = grpc_client(way, grpc.ssl_channel_credentials(authority.cert.read_bytes()))
    payload = bytes(range(256)) * 40_000
    assert client.call("Unary", client.text(payload=payload)).result().payload == payload
    answers = client.call("Chat", iter([client.text(text="a"), client.text(text="b")]))
    assert [answer.text for answer in answers] == ["0: a", "1: b"]


@TO_TLS
def test_a_websocket_from_tls_is_a_tunnel(kind, way_by_tls, authority, started):
    codes = queue.Queue()

    def echo(websocket):
        with contextlib.suppress(ConnectionClosed):
            for message in websocket:
                websocket.send(message)
        codes.put((websocket.close_code, websocket.close_reason))

    peer = WebSocketServer(echo)
    started.append(peer)
    way = way_by_tls(kind, peer.port)

    # The client with threads reads and writes one TLS connection at a time that OpenSSL does not bear.
    async def story():
        async with connect_with_asyncio(
            f"wss://{way.address}/",
            ssl=ssl.create_default_context(cafile=authority.cert),
            additional_headers=way.fields,
            proxy=None,
            max_size=None,
        ) as client:
            for message in ["hello", bytes(range(256)) * 4096]:
                await client.send(message)
                assert await asyncio.wait_for(client.recv(), PATIENCE) == message
            await client.close(4001, "bye")

    asyncio.run(story())
    assert codes.get(timeout=PATIENCE) == (4001, "bye")


def test_nginx_in_front_comes_by_tls_and_believes_it(way_by_tls, authority, serve, tool, started, curl):
    way = way_by_tls(ways.BASELINE, serve(answering("peer")).port)
    front = Nginx(
        tool("nginx", "nginx as a front by TLS"),
        f"""listen 127.0.0.1:PORT; location / {{
            proxy_pass https://127.0.0.1:{way.port}; proxy_http_version 1.1;
            proxy_ssl_verify on; proxy_ssl_name front.test; proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_ssl_trusted_certificate {authority.cert}; }}""",
    )
    started.append(front)
    way.port, way.scheme = front.port, "http"
    for _ in range(3):
        assert curl(way, "-d", "abc", path="/a").stdout == b"peer POST /a abc"


@TO_TLS
def test_a_large_body_by_tls_on_both_sides_arrives_as_it_was(
    kind, way_by_tls, authority, nginx_by_tls, curl, tmp_path
):
    peer = nginx_by_tls(
        authority.issue("peer", "IP:127.0.0.1"),
        "dav_methods PUT; client_max_body_size 0;",
        listen="ssl http2",
    )
    way = way_by_tls(kind, peer.port, scheme="https", judge=believing(authority, kind))
    sent, got = tmp_path / "sent", tmp_path / "got"
    sent.write_bytes(bytes(range(256)) * 4096 * 8)
    for version in ["--http1.1", "--http2"]:
        name = f"/file{version}"
        put = curl(way, version, "-T", sent, "-w", "%{http_code}", path=name, ca=authority.cert)
        assert put.stdout == b"201", put.stderr
        assert (peer.www / name[1:]).read_bytes() == sent.read_bytes()
        curl(way, version, "-o", got, path=name, ca=authority.cert)
        assert got.read_bytes() == sent.read_bytes()


def shown(way):
    """The certificate that a new connection is shown."""
    return ssl.get_server_certificate(("127.0.0.1", way.port), timeout=PATIENCE)


def test_a_certificate_is_replaced_under_open_connections(way_by_tls, authority, serve):
    way = way_by_tls(ways.BASELINE, serve(answering("peer")).port)
    context = ssl.create_default_context(cafile=authority.cert)
    first = shown(way)
    with (
        socket.create_connection(("127.0.0.1", way.port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as open_before,
    ):
        # The key of another is not taken; the pair that fits is.
        other = authority.issue("other", "IP:127.0.0.1")
        key = authority.folder / "server.key"
        kept = key.read_bytes()
        shutil.copy(other.key, key)
        way.proxies[0].lines.wait(lambda it: "not the key of" in it, "that refuses the key")
        assert shown(way) == first
        key.write_bytes(kept)
        authority.issue("server", "IP:127.0.0.1")
        until(lambda: shown(way) != first, "the new certificate")
        open_before.sendall(b"GET /old HTTP/1.1\r\nhost: foo\r\nconnection: close\r\n\r\n")
        answer = b""
        while data := open_before.recv(65536):
            answer += data
        assert answer.endswith(b"peer GET /old ")
