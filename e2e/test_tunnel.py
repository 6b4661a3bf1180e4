"""Hub and laptop on one machine: what passes through, who is let in, and what is refused."""

import base64
import contextlib
import hashlib
import http.client
import http.server
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import threading
import time

import grpc
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_websocket

from support import envoy as envoys
from support.chains import sidecar
from support.process import BINARY, PATIENCE, Process, until
from support.servers import Nginx, accepts, free_port
from support.tunnel import Hub, Laptop, make_key
from support.websocket import WebSocketServer
from support.wire import answering, connect

MIB = 1 << 20
#: What a large body has.
LARGE = (1024 if os.environ.get("E2E_LONG") == "1" else 256) * MIB
WELL_KNOWN = "/.well-known/devroute-tunnel"


@pytest.fixture(autouse=True)
def tools(tool):
    tool("ssh-keygen", "a hub")
    tool("curl", "a hub")


@pytest.fixture
def key(tmp_path):
    """Alice's key, and the file of keys that it is in."""
    file, line = make_key(tmp_path, "alice")
    (tmp_path / "keys").write_text(line, encoding="utf-8")
    return file


@pytest.fixture
def hub(started, tmp_path, key):
    """Starts a hub that knows Alice."""

    def hub(*flags, **options):
        started.append(Hub(f"--authorized-keys={tmp_path / 'keys'}", *flags, **options))
        return started[-1]

    return hub


@pytest.fixture
def laptop(started, key):
    """Starts a laptop of Alice's."""

    def laptop(hub, *flags, key=key):
        started.append(Laptop(hub, key, *flags))
        return started[-1]

    return laptop


class App(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """An application: /large?N sends N bytes, POST answers with the hash of what came, anything else with what it got."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, host="127.0.0.1"):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/large":
            self.send_response(200)
            self.send_header("content-length", query)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(int(query) // MIB):
                    self.wfile.write(bytes(MIB))
            return
        fields = {name.lower(): value for name, value in self.headers.items()}
        self.answer(json.dumps({"path": self.path, "fields": fields}).encode())

    def do_POST(self):
        hashed, left = hashlib.sha256(), int(self.headers["content-length"])
        while left:
            data = self.rfile.read(min(left, MIB))
            hashed.update(data)
            left -= len(data)
        self.answer(hashed.hexdigest().encode())

    def handle_expect_100(self):
        if "x-refuse" in self.headers:
            self.send_response(417)
            self.send_header("content-length", "0")
            self.end_headers()
            return False
        return super().handle_expect_100()

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        pass


@pytest.fixture
def app(started):
    def app(*arguments):
        started.append(App(*arguments))
        return started[-1]

    return app


def get(port, path="/", **fields):
    """Status and body of an answer, as JSON."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(client):
        names = {name.replace("_", "-"): value for name, value in fields.items()}
        client.request("GET", path, headers=names)
        answer = client.getresponse()
        return answer.status, json.loads(answer.read())


class Way:
    """A way to a service of a laptop, for clients that take one."""

    def __init__(self, address):
        self.address, self.fields = address, {}


# What passes through


def test_the_contract_is_one_of_the_usual_kind(hub, laptop, app, key, tmp_path):
    laptop = laptop(hub(), f"foo={app().port}", "--sign", "--id", "run-7", "--name", "at-home")
    said = laptop.connected()
    assert (said["session"], said["who"]) == ("at-home", "alice@laptop")
    contract = said["header"]["value"]
    assert json.loads(contract)["foo"] == laptop.at("foo")
    explain = [BINARY, "explain", contract, "--allow=loopback", f"--authorized-keys={tmp_path / 'keys'}"]
    explained = subprocess.run(explain, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "alice@laptop" in explained.stdout
    # What is not asked for a signature goes to the laptop, and a line says so.
    status, answer = get(laptop.port("foo"), "/a?b", x_devroute=contract, x_forwarded_for="10.1.2.3")
    assert (status, answer["path"]) == (200, "/a?b")
    line = until(lambda: laptop.events("request"), "the line of the request")[0]
    expected = {"method": "GET", "path": "/a?b", "status": 200, "service": "foo", "caller": "10.1.2.3", "id": "run-7"}
    assert {name: line[name] for name in expected} == expected


def test_the_line_of_a_request_names_the_service_that_asked(hub, app, key, started, serve):
    hub, port = hub(), app().port
    command = [BINARY, "connect", f"foo={port}", "--hub", hub.url, "--key", str(key)]
    # What a person reads, and what a script does.
    for flags, line in [
        ([], r"200 +[\d.]+ ms  foo  GET /  from bar"),
        (["--json"], r'{.*"caller_service":"bar".*"event":"request".*}'),
    ]:
        laptop = Process([*command, *flags], read="stdout", stderr=None, env={"HOME": "/nonexistent"})
        started.append(laptop)
        contract = laptop.lines.wait(lambda it: "43" in it and "x-devroute" in it, "with the contract")
        target = re.search(r'foo\\?":\\?"(127\.0\.0\.1:\d+)', contract)[1]

        # bar's own requests leave by its outbound listener; foo's sidecar reroutes.
        baseline, outbound = serve(answering("baseline")), free_port()
        started.append(sidecar("foo", baseline.port, "--allow=loopback"))
        called = started[-1]
        started.append(sidecar("bar", baseline.port, f"--outbound=127.0.0.1:{outbound}"))
        asked = ["curl", "-sS", "-x", f"http://127.0.0.1:{outbound}", f"http://127.0.0.1:{called.port}/"]
        field = f'x-devroute: {{"foo":"{target}"}}'
        answer = json.loads(subprocess.check_output([*asked, "-H", field], timeout=PATIENCE))
        assert answer["path"] == "/"
        laptop.lines.wait(re.compile(line).fullmatch, "with the name of the caller")
        laptop.stop()


def test_a_mesh_names_the_service_that_asked_and_what_is_no_name_is_not_shown(hub, laptop, app):
    laptop = laptop(hub(), f"foo={app().port}")
    certificate = "By=spiffe://td/ns/qa/sa/foo;Hash=0a;Subject=\"\";URI=spiffe://td/ns/qa/sa/%s"
    for number, (fields, name) in enumerate(
        [
            ({"x_forwarded_client_cert": certificate % "bar"}, "bar"),
            ({"x_envoy_downstream_service_cluster": "bar"}, "bar"),
            ({"l5d_client_id": "bar.qa.serviceaccount.identity.linkerd.cluster.local"}, "bar"),
            ({"x_forwarded_client_cert": certificate % "\x9b31m"}, None),
            ({}, None),
        ]
    ):
        assert get(laptop.port("foo"), **fields)[0] == 200
        lines = until(lambda: (laptop.events("request") + [None] * 9)[number], "the line of the request")
        assert (lines["caller_service"], lines["caller"]) == (name, "127.0.0.1"), fields


def test_who_offers_nothing_is_told_so(hub, laptop, key, started):
    hub, proxy = hub(), free_port()
    said = laptop(hub, f"--proxy={proxy}").connected()
    assert (said["services"], said["header"], said["curl"], said["way_out"]) == ({}, None, None, True)
    (listening,) = started[-1].events("listening")
    assert listening == {"event": "listening", "proxy": f"127.0.0.1:{proxy}", "forwards": []}
    assert [json.loads(line)["event"] for line in started[-1].lines.so_far()] == ["listening", "connected"]

    command = [BINARY, "connect", f"--forward={free_port()}=bar.qa:80", "--name=alice", "--hub", hub.url]
    started.append(Process([*command, "--key", str(key)], read="stdout", env={"HOME": "/nonexistent"}))
    started[-1].lines.wait(lambda it: it.startswith("session  alice at "), "that it is connected")
    lines = started[-1].lines.so_far()
    assert [line.split()[0] for line in lines] == ["forward", "offered", "session"]
    assert lines[1].startswith("offered  nothing") and "addresses" not in lines[2]


def test_a_hub_that_lets_nothing_out_is_said_to(hub, laptop, key, started):
    hub = hub("--way-out=false")
    assert not laptop(hub, f"--proxy={free_port()}").connected()["way_out"]
    command = [BINARY, "connect", f"--proxy={free_port()}", "--hub", hub.url, "--key", str(key)]
    started.append(Process(command, read="stdout", env={"HOME": "/nonexistent"}))
    started[-1].lines.wait(lambda it: it.startswith("refused  the hub lets no requests"), "that none go out")


def test_websocket_both_ways(hub, laptop, started):
    def echo(websocket):
        for message in websocket:
            websocket.send(message)

    peer = WebSocketServer(echo, subprotocols=["v2", "v1"])
    started.append(peer)
    laptop = laptop(hub(), f"foo={peer.port}")
    with connect_websocket(f"ws://{laptop.at('foo')}/chat?room=1", proxy=None, max_size=None, subprotocols=["v1"]) as client:
        assert client.subprotocol == "v1"
        assert peer.requests.get(timeout=PATIENCE).path == "/chat?room=1"
        for message in ["text ü", b"\x00\xff", "", "x" * 3_000_000]:
            client.send(message)
            assert client.recv(PATIENCE) == message
    line = until(lambda: laptop.events("request"), "the line of the request")[0]
    assert (line["method"], line["status"]) == ("GET", 101)


def test_a_websocket_that_is_refused_and_one_that_the_other_side_ends(hub, laptop, started):
    peer = WebSocketServer(lambda websocket: websocket.close(4000, "enough"))
    refusing = WebSocketServer(lambda websocket: None, process_request=lambda connection, _: connection.respond(403, "no\n"))
    started += [peer, refusing]
    laptop = laptop(hub(), f"foo={peer.port}", f"bar={refusing.port}")
    with connect_websocket(f"ws://{laptop.at('foo')}/", proxy=None) as client:
        with pytest.raises(ConnectionClosed):
            client.recv(PATIENCE)
        assert client.close_code == 4000
    with pytest.raises(InvalidStatus) as refused:
        connect_websocket(f"ws://{laptop.at('bar')}/", proxy=None)
    assert refused.value.response.status_code == 403


def test_an_upgrade_that_is_answered_with_200_is_an_answer(hub, laptop, app):
    laptop = laptop(hub(), f"foo={app().port}")
    status, answer = get(laptop.port("foo"), connection="upgrade", upgrade="websocket")
    assert (status, answer["fields"]["upgrade"]) == (200, "websocket")


def test_grpc_of_all_kinds(hub, laptop, grpc_peer, grpc_client):
    peer = grpc_peer()
    laptop = laptop(hub(), f"foo={peer.port}")
    client = grpc_client(Way(laptop.at("foo")))
    raw = bytes(range(256))
    call = client.call("Unary", client.text(text="hello"), metadata=[("x-ask", "a, b"), ("x-ask-bin", raw)])
    assert call.result().text == "HELLO"
    assert ("x-back", "a, b") in call.initial_metadata()
    assert ("x-back-bin", raw) in call.trailing_metadata()

    answers = client.call("Chat", (client.text(text=text) for text in "abc"))
    assert [answer.text for answer in answers] == ["0: a", "1: b", "2: c"]
    letters = client.call("Spell", client.text(text="xyz"))
    for letter in "xyz":
        assert next(letters).text == letter
        peer.next_letter.set()
    with pytest.raises(grpc.RpcError) as failed:
        client.call("Fail", client.text()).result()
    assert failed.value.code() == grpc.StatusCode.FAILED_PRECONDITION

    hanging = client.call("Hang", client.text())
    assert next(hanging).text == "hanging"
    hanging.cancel()
    assert peer.cancelled.wait(PATIENCE), "the reset comes through to the application"


@pytest.mark.timeout(LARGE // MIB)
def test_large_bodies_pass_without_being_kept(hub, laptop, app):
    hub = hub()
    laptop = laptop(hub, f"foo={app().port}")
    url = f"http://{laptop.at('foo')}"
    # What is under way is in windows, whose sizes docs/operations.md has.
    with hub.grows_less_than(64 * MIB), laptop.grows_less_than(64 * MIB):
        count = f"curl -sS {url}/large?{LARGE} | wc -c"
        assert int(subprocess.check_output(["sh", "-c", count], timeout=300)) == LARGE
        hashed = hashlib.sha256()

        def pieces():
            for _ in range(LARGE // MIB):
                hashed.update(bytes(MIB))
                yield bytes(MIB)

        client = http.client.HTTPConnection(laptop.at("foo"), timeout=300)
        with contextlib.closing(client):
            client.request("POST", "/", pieces(), {"content-length": str(LARGE)})
            assert client.getresponse().read().decode() == hashed.hexdigest()


def test_a_slow_request_stalls_no_other(hub, laptop, app):
    laptop = laptop(hub(), f"foo={app().port}")
    port = laptop.port("foo")
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            # It is asked for more than any buffer holds, and reads nothing of it.
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(f"GET /large?{64 * MIB} HTTP/1.1\r\nhost: foo\r\n\r\n".encode())
            assert slow.recv(15) == b"HTTP/1.1 200 OK"
        for number in range(20):
            began = time.monotonic()
            assert get(port, f"/{number}")[0] == 200
            assert time.monotonic() - began < 5


def test_100_continue_is_the_applications_to_say(hub, laptop, app):
    laptop = laptop(hub(), f"foo={app().port}")
    port = laptop.port("foo")
    head = "POST / HTTP/1.1\r\nhost: foo\r\ncontent-length: 5\r\nexpect: 100-continue\r\n"
    with connect(port) as client:
        client.send(f"{head}x-refuse: 1\r\n\r\n")
        assert client.head().status == 417, "nobody was told to send the body"
    with connect(port) as client:
        client.send(f"{head}\r\n")
        assert client.head().status == 100
        client.send("hello")
        assert client.head().status == 200


def test_who_goes_away_is_not_worked_for(hub, laptop, serve):
    arrived, gone = threading.Event(), threading.Event()

    def hang(conn):
        conn.head()
        arrived.set()
        conn.ends()
        gone.set()

    laptop = laptop(hub(), f"foo={serve(hang).port}")
    with connect(laptop.port("foo")) as client:
        client.send("GET / HTTP/1.1\r\nhost: foo\r\n\r\n")
        assert arrived.wait(PATIENCE)
    assert gone.wait(PATIENCE)
    line = until(lambda: laptop.events("request"), "the line of the request")[0]
    assert line["status"] == 499


def test_an_application_gets_the_host_that_it_takes(hub, laptop, app):
    flags = [f"foo={app().port}", f"bar={app().port}", "--host-header", "foo=localhost:8001"]
    laptop = laptop(hub(), *flags)
    _, answer = get(laptop.port("foo"), host="foo.qa")
    assert (answer["fields"]["host"], answer["fields"]["x-forwarded-host"]) == ("localhost:8001", "foo.qa")
    _, answer = get(laptop.port("bar"), host="bar.qa")
    assert answer["fields"]["host"] == "bar.qa"
    assert "x-forwarded-host" not in answer["fields"]


def test_an_application_that_listens_on_ipv6_alone_or_not_at_all(hub, laptop, app):
    nobody = free_port()
    laptop = laptop(hub(), f"foo={app('::1').port}", f"bar={nobody}")
    assert get(laptop.port("foo"))[0] == 200
    status, problem = get(laptop.port("bar"))
    assert (status, problem["cause"]) == (502, "application_not_running")
    assert f"port {nobody}" in problem["detail"]


def test_several_laptops_with_several_services(hub, laptop, app):
    hub, apps = hub(), [app() for _ in range(4)]
    laptops = [
        laptop(hub, f"foo={apps[2 * number].port}", f"bar={apps[2 * number + 1].port}", "--name", f"laptop-{number}")
        for number in range(2)
    ]
    ports = [laptop.port(service) for laptop in laptops for service in ("foo", "bar")]
    assert len(set(ports)) == 4
    for port in ports:
        assert get(port)[0] == 200
    assert hub.metric("devroute_hub_laptops") == 2
    laptops[0].signal(signal.SIGINT)
    assert laptops[0].wait() == 0
    until(lambda: hub.metric("devroute_hub_services") == 2, "the end of one session")
    assert get(ports[2])[0] == 200
    with pytest.raises(ConnectionRefusedError):
        get(ports[0])


def test_the_laptops_own_requests_are_of_all_kinds(hub, laptop, app, started, grpc_peer, grpc_client):
    def echo(websocket):
        for message in websocket:
            websocket.send(message)

    sockets, peer, plain = WebSocketServer(echo), grpc_peer(), app()
    started.append(sockets)
    ports = [free_port() for _ in range(4)]
    targets = [plain.port, sockets.port, peer.port]
    forwards = [f"--forward={port}=127.0.0.1:{target}" for port, target in zip(ports, targets)]
    laptop = laptop(hub("--allow=loopback"), *forwards, f"--proxy={ports[3]}")
    assert laptop.connected()["way_out"]
    until(lambda: get(ports[0])[0] == 200, "the way out")
    status, answer = get(ports[0], "/a?b", x_devroute='{"foo":"10.0.0.1:80"}')
    assert (status, answer["path"], answer["fields"]["host"]) == (200, "/a?b", f"127.0.0.1:{plain.port}")
    assert json.loads(answer["fields"]["x-devroute"]) == {"foo": "10.0.0.1:80"}
    assert not [name for name in answer["fields"] if name.startswith("devroute-tunnel-")]

    with connect_websocket(f"ws://127.0.0.1:{ports[1]}/chat", proxy=None) as client:
        client.send("hello")
        assert client.recv(PATIENCE) == "hello"
    client = grpc_client(Way(f"127.0.0.1:{ports[2]}"))
    answers = client.call("Chat", (client.text(text=text) for text in "abc"))
    assert [answer.text for answer in answers] == ["0: a", "1: b", "2: c"]
    # By a tunnel, which is how a client of WebSocket goes through a proxy.
    proxy = f"http://127.0.0.1:{ports[3]}"
    with connect_websocket(f"ws://127.0.0.1:{sockets.port}/", proxy=proxy) as client:
        client.send("through")
        assert client.recv(PATIENCE) == "through"
    # Where nothing listens, the hub says so.
    curl = ["curl", "-sS", "-x", proxy, f"http://127.0.0.1:{free_port()}/"]
    problem = json.loads(subprocess.check_output(curl, timeout=PATIENCE))
    assert (problem["status"], problem["cause"]) == (502, "connection_refused")


# Who is let in




def connect_in_vain(hub, key, *flags):
    command = [BINARY, "connect", *flags, "--hub", hub.url, "--key", str(key)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1, done
    return done.stderr


def test_without_keys_a_hub_does_not_start():
    done = subprocess.run([BINARY, "hub", "--address=127.0.0.1"], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "--insecure-no-auth" in done.stderr


def test_who_has_no_key_or_may_not_offer_that_is_told_so(hub, tmp_path, key):
    hub = hub("--offer", "alice@laptop=foo")
    stranger, _ = make_key(tmp_path, "mallory")
    assert "the key is not authorized" in connect_in_vain(hub, stranger, "foo=1")
    assert "alice@laptop may not offer bar" in connect_in_vain(hub, key, "foo=1", "bar=2")
    assert hub.metric('devroute_hub_refused_total{cause="unknown_key"}') == 1
    assert hub.metric('devroute_hub_refused_total{cause="service_not_allowed"}') == 1


def test_an_open_hub_asks_nobody(started, laptop, app):
    hub = Hub("--insecure-no-auth")
    started.append(hub)
    laptop = laptop(hub, f"foo={app().port}", key=None)
    assert laptop.connected()["who"] is None
    assert get(laptop.port("foo"))[0] == 200


def openssh_signature(key, message):
    """The id of the key and its signature by OpenSSH itself, under the namespace of these signatures."""
    sign = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", "devroute-connect"]
    armored = subprocess.run(sign, input=message, capture_output=True, check=True).stdout
    blob = base64.b64decode(b"".join(armored.splitlines()[1:-1]))
    public = base64.b64decode(key.with_suffix(".pub").read_text().split()[1])

    def encoded(data):
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    return encoded(hashlib.sha256(public).digest()), encoded(blob[-64:])


def knock(hub, *lines):
    """Dials in by hand; the head of the answer."""
    offer = '{"services":["foo"],"name":"by-hand","token":"c2VjcmV0IG9mIHRoaXMgc2Vzc2lvbg"}'
    fields = [f"host: {hub.address}", "connection: upgrade", "upgrade: devroute-tunnel/1", f"devroute-offer: {offer}", *lines]
    client = connect(int(hub.address.rpartition(":")[2]))
    client.send(f"GET {WELL_KNOWN} HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in fields) + "\r\n")
    return client, client.head(), offer


def test_openssh_signs_and_a_replay_is_refused(hub, key):
    hub = hub()
    client, challenge, offer = knock(hub)
    client.close()
    assert challenge.status == 401
    nonce = re.search('nonce="([^"]+)"', challenge.get("www-authenticate"))[1]
    message = f"devroute-connect 1\n{nonce}\n{hub.address}\nnone\n{offer}\n"
    key_id, signature = openssh_signature(key, message.encode())
    authorization = f'authorization: DevRoute key="{key_id}", nonce="{nonce}", sig="{signature}"'

    client, answer, _ = knock(hub, authorization)
    assert answer.status == 101
    client.close()
    # Who has seen it can do nothing with it.
    client, answer, _ = knock(hub, authorization)
    client.close()
    assert answer.status == 401
    assert hub.metric('devroute_hub_refused_total{cause="stale_nonce"}') == 1
    client, challenge, _ = knock(hub)
    client.close()
    fresh = re.search('nonce="([^"]+)"', challenge.get("www-authenticate"))[1]
    client, answer, _ = knock(hub, authorization.replace(nonce, fresh))
    client.close()
    assert answer.status == 403


def test_a_key_that_is_taken_out_takes_its_laptop_with_it(hub, laptop, app, tmp_path):
    hub = hub()
    laptop = laptop(hub, f"foo={app().port}")
    port = laptop.port("foo")
    assert get(port)[0] == 200
    (tmp_path / "new").write_text("# nobody\n", encoding="utf-8")
    (tmp_path / "new").rename(tmp_path / "keys")
    assert laptop.wait() == 1, "there is no use in dialling again"
    with pytest.raises(ConnectionRefusedError):
        get(port)


def test_tls_to_the_hub_is_part_of_what_is_signed(hub, laptop, app, authority, key):
    issued = authority.issue("hub", "IP:127.0.0.1")
    hub = hub(f"--tls-cert={issued.cert}", f"--tls-key={issued.key}")
    hub.url = hub.url.replace("http://", "https://")
    assert "issuer" in connect_in_vain(hub, key, "foo=1").lower()
    laptop = laptop(hub, f"foo={app().port}", "--hub-ca", str(authority.cert))
    assert get(laptop.port("foo"))[0] == 200


# What may be in between

NGINX = """
    listen 127.0.0.1:PORT;
    location /hub/ {{
        proxy_pass http://{hub}/;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $http_connection;
    }}
"""

#: What passes WebSocket, and no other upgrade, as gateways of Istio are told to.
ENVOY = """
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: entry
          upgrade_configs: [{{upgrade_type: websocket}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: hub, timeout: 0s}}}}]
  clusters:
  - name: hub
    load_assignment:
      cluster_name: hub
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {hub}}}}}}}
"""


def test_an_ingress_of_nginx_below_a_path(hub, laptop, app, started, tool):
    hub = hub()
    nginx = Nginx(tool("nginx", "a hub behind nginx"), NGINX.format(hub=hub.address))
    started.append(nginx)
    laptop = laptop(f"http://127.0.0.1:{nginx.port}/hub", f"foo={app().port}")
    assert get(laptop.port("foo"))[0] == 200


def test_an_ingress_of_envoy_that_passes_websocket_alone(hub, laptop, app, started, tmp_path):
    if not envoys.binary():
        pytest.skip("Envoy is not installed: a hub behind it is not tested")
    hub, port = hub(), free_port()
    (tmp_path / "envoy.yaml").write_text(
        ENVOY.format(port=port, hub=hub.address.rpartition(":")[2]), encoding="utf-8"
    )
    command = [envoys.binary(), "-c", str(tmp_path / "envoy.yaml"), "--disable-hot-restart"]
    started.append(Process([*command, "--concurrency", "1", "--log-level", "warning"]))
    until(lambda: accepts(port), "Envoy")
    laptop = laptop(f"http://127.0.0.1:{port}", f"foo={app().port}")
    assert get(laptop.port("foo"))[0] == 200


#: At the caller Envoy can say what it stands beside, ...
NAMES_ITSELF = "stat_prefix: entry\n          add_user_agent: true"
#: ... and at the service whose certificate it has seen, as istiod tells it to.
NAMES_ITS_CLIENT = """stat_prefix: entry
          forward_client_cert_details: APPEND_FORWARD
          set_current_client_cert_details: {subject: true, dns: true, uri: true}"""
MUTUAL_TLS = """- transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificates: [{certificate_chain: {filename: "%s"}, private_key: {filename: "%s"}}]
            validation_context: {trusted_ca: {filename: "%s"}}
      filters:"""


def test_a_real_envoy_names_the_service_that_asked(hub, laptop, app, authority, started, tmp_path):
    if not envoys.binary():
        pytest.skip("Envoy is not installed: who asks by it is not tested")
    laptop = laptop(hub(), f"foo={app().port}")
    spiffe = "URI:spiffe://cluster.local/ns/qa/sa/"
    served, bar = authority.issue("foo", "IP:127.0.0.1", f"{spiffe}foo"), authority.issue("bar", f"{spiffe}bar")
    mutual = MUTUAL_TLS % (served.cert, served.key, authority.cert)
    as_bar = ["--cacert", str(authority.cert), "--cert", str(bar.cert), "--key", str(bar.key)]
    for number, (settings, scheme, flags, field) in enumerate(
        [
            ({"stat_prefix: entry": NAMES_ITSELF}, "http", [], "x-envoy-downstream-service-cluster"),
            ({"stat_prefix: entry": NAMES_ITS_CLIENT, "- filters:": mutual}, "https", as_bar, "x-forwarded-client-cert"),
        ]
    ):
        port = free_port()
        text = envoys.edited(ENVOY.format(port=port, hub=laptop.port("foo")), settings)
        (tmp_path / "envoy.yaml").write_text(text, encoding="utf-8")
        command = [envoys.binary(), "-c", str(tmp_path / "envoy.yaml"), "--disable-hot-restart"]
        command += ["--service-cluster", "bar", "--service-node", "bar-1"]
        started.append(Process([*command, "--concurrency", "1", "--log-level", "warning"]))
        until(lambda: accepts(port), "Envoy")
        curl = ["curl", "-sS", *flags, f"{scheme}://127.0.0.1:{port}/"]
        answer = json.loads(subprocess.check_output(curl, timeout=PATIENCE))
        assert "bar" in answer["fields"][field], answer
        line = until(lambda: laptop.events("request")[number:], "the line of the request")[0]
        assert line["caller_service"] == "bar", answer


# What is refused


def test_requests_are_taken_from_networks_that_are_named(hub, laptop, app):
    laptop = laptop(hub("--from", "10.0.0.0/8"), f"foo={app().port}")
    status, problem = get(laptop.port("foo"))
    assert (status, problem["cause"]) == (403, "source_not_allowed")
    assert not laptop.events("request")


def test_a_request_for_another_service_is_misdirected(hub, laptop, app):
    laptop = laptop(hub(), f"foo={app().port}")
    assert get(laptop.port("foo"), x_devroute_matched="foo")[0] == 200
    status, problem = get(laptop.port("foo"), x_devroute_matched="bar")
    assert (status, problem["cause"]) == (421, "other_service")


def test_fields_of_the_tunnel_are_nobody_elses(hub, laptop, app):
    laptop = laptop(hub(), f"foo={app().port}", f"bar={free_port()}")
    status, answer = get(laptop.port("foo"), devroute_tunnel_service="bar", devroute_tunnel_control="1")
    assert status == 200
    assert not [name for name in answer["fields"] if name.startswith("devroute-tunnel-")]


def test_limits_are_kept_and_counted(hub, laptop, app, serve, key):
    waiting = threading.Event()

    def wait(conn):
        conn.head()
        waiting.wait(PATIENCE)
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        conn.ends()

    port = free_port()
    hub = hub("--max-laptop-streams=1", "--max-services=2", f"--ports={port}-{port}")
    assert "may not have as many services" in subprocess_output(hub, key, "a=1", "b=2", "c=3")
    assert "no port left" in subprocess_output(hub, key, "a=1", "b=2")
    laptop = laptop(hub, f"foo={serve(wait).port}")
    with connect(laptop.port("foo")) as first:
        first.send("GET / HTTP/1.1\r\nhost: foo\r\n\r\n")
        until(lambda: hub.metric("devroute_hub_streams") == 1, "the first request")
        status, problem = get(laptop.port("foo"))
        assert (status, problem["cause"]) == (503, "too_many_requests_to_laptop")
        waiting.set()
        assert first.head().status == 200
    for limit in ("services", "ports", "streams"):
        assert hub.metric(f'devroute_hub_limits_reached_total{{limit="{limit}"}}') >= 1, limit


def subprocess_output(hub, key, *flags):
    """What a laptop says that is to dial again."""
    command = ["timeout", "2", BINARY, "connect", *flags, "--hub", hub.url, "--key", str(key)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False).stderr


def test_plain_text_stays_on_this_machine(key):
    command = [BINARY, "connect", "foo=1", "--hub", "http://10.1.2.3:1", "--key", str(key)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "in plain text" in done.stderr
