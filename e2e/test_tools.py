"""curl, nghttp, h2load and nginx: the clients and servers that people have."""

import json
import subprocess
import threading

import pytest

from support import ways
from support.process import PATIENCE
from support.servers import Nginx
from support.wire import answering


@pytest.fixture
def curl(tool):
    """Runs curl on a way; what it wrote to standard output and error."""
    program = tool("curl", "what curl sees")

    def curl(way, *arguments, path="/", url=None, data=None):
        ran = subprocess.run(
            [program, "-sS", *way.curl, *arguments, url or way.url + path],
            capture_output=True,
            input=data,
            timeout=PATIENCE * 2,
            check=False,
            env={},
        )
        assert ran.returncode == 0, ran.stderr.decode()
        return ran.stdout.decode("latin-1"), ran.stderr.decode("latin-1")

    return curl


# curl.

#: Waits for the 100 far longer than the proxy does.
EXPECTING = ["-H", "Expect: 100-continue", "--expect100-timeout", "10", "--data-binary", "@-"]


def test_curl_expects_100_and_gets_it_from_the_target(way, serve, curl):
    """curl -v shows 100 only after the target has sent it."""
    events = []

    def handler(conn):
        head = conn.head()
        assert head.get("expect") == "100-continue"
        assert conn.is_silent(0.2), "the body came unasked"
        events.append("100")
        conn.send("HTTP/1.1 100 Continue\r\n\r\n")
        body = conn.body(head)
        events.append(f"{len(body)} bytes")
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    way = way(serve(handler).port)
    body = b"x" * 100_000
    said, log = curl(way, "-v", *EXPECTING, data=body)
    assert said == "ok"
    assert events == ["100", "100000 bytes"]
    assert log.index("< HTTP/1.1 100") < log.index("< HTTP/1.1 200")


@pytest.mark.parametrize("status", [413, 417])
def test_curl_does_not_upload_what_is_refused(way, serve, curl, status):
    """A 417 that keeps the connection makes curl ask again without `Expect`. This one cannot be kept,
    since the body that belongs to it was not read, and says so; curl then takes it for the answer.
    """

    def handler(conn):
        conn.head()
        conn.send(f"HTTP/1.1 {status} No\r\ncontent-length: 2\r\n\r\nno")
        assert conn.rest() == b""

    peer = serve(handler)
    way = way(peer.port)
    said, _ = curl(way, *EXPECTING, "-w", "%{http_code} %{size_upload}", data=b"x" * 100_000)
    assert said == f"no{status} 0"
    assert len(peer.connections) == 1


@pytest.mark.parametrize("version", ["-0", "--http1.1", "--http2-prior-knowledge"])
@pytest.mark.parametrize("scheme", ["http", "h2c"])
def test_curl_in_each_version_to_a_peer_of_each(way, hypercorn, curl, version, scheme):
    way = way(hypercorn.port, scheme=scheme)
    flags = [version, "-w", "%{http_version}", "-X", "PUT", "--data-binary", "abc"]
    said, _ = curl(way, *flags, path="/a%2Fb")
    answered = {"-0": "1", "--http1.1": "1.1", "--http2-prior-knowledge": "2"}[version]
    spoken = {"http": "1.1", "h2c": "2"}[scheme]
    assert said == f"HTTP/{spoken} PUT /a%2Fb 3\n{answered}"


def test_curl_through_a_way_as_its_proxy(way, serve, curl):
    """Absolute-form; nothing of the proxy protocol goes on."""
    way = way(serve(echo_head).port)
    said, _ = curl(way, "--proxy", way.url, url="http://foo.qa:81/a?b")
    head = json.loads(said)
    assert head["target"] == "/a?b"
    assert head["host"] == ["foo.qa:81"]
    assert "proxy-connection" not in head


def echo_head(conn):
    """Answers with the head as it came, as JSON."""
    while head := conn.head():
        seen = {name: [it.decode("latin-1") for it in head.all(name)] for name in head.names()}
        text = json.dumps({"method": head.method, "target": head.target, **seen})
        conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(text)}\r\n\r\n{text}")


def test_curl_options_asterisk_and_path_as_is(way, serve, curl):
    way = way(serve(echo_head).port)
    said, _ = curl(way, "-X", "OPTIONS", "--request-target", "*")
    assert (json.loads(said)["method"], json.loads(said)["target"]) == ("OPTIONS", "*")
    said, _ = curl(way, "--path-as-is", path="/a/../b//c%2f?x=%41")
    assert json.loads(said)["target"] == "/a/../b//c%2f?x=%41"


def test_curl_uploads_from_a_pipe_as_it_fills(way, serve, tool):
    """`-T -`: what curl reads first arrives before there is more to read."""
    path = tool("curl", "an upload from a pipe")
    first, whole = threading.Event(), []

    def handler(conn):
        head = conn.head()
        assert (head.method, head.get("transfer-encoding")) == ("PUT", "chunked")
        assert conn.chunk() == b"first "
        first.set()
        while data := conn.chunk():
            whole.append(data)
        conn.trailers()
        conn.send("HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")

    way = way(serve(handler).port)
    command = [path, "-sS", "-N", *way.curl, "-T", "-", "-w", "%{http_code}", "-H", "Expect:", way.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}) as child:
        try:
            child.stdin.write(b"first ")
            child.stdin.flush()
            assert first.wait(PATIENCE), "the upload is held back"
            said, _ = child.communicate(b"second", timeout=PATIENCE)
        except BaseException:
            child.kill()
            raise
    assert (said, b"".join(whole)) == (b"201", b"second")


def test_curl_sees_the_problem_when_the_laptop_is_down(way_of, nobody, curl):
    way = way_of(ways.REROUTED, nobody)
    said, _ = curl(way, "-w", "%{stderr}%{http_code} %header{proxy-status}")
    problem = json.loads(said)
    assert problem["status"] == 502
    assert problem["target"] == f"127.0.0.1:{nobody}"


# nghttp and h2load.


def test_nghttp_speaks_to_it(way, hypercorn, tool):
    nghttp = tool("nghttp", "nghttp's view of HTTP/2")
    way = way(hypercorn.port)
    ran = subprocess.run(
        [nghttp, *way.curl, f"{way.url}/x"], capture_output=True, timeout=PATIENCE, check=True, env={}
    )
    assert ran.stdout == b"HTTP/1.1 GET /x 0\n"


LOADS = {"h1": ["--h1", "-c8"], "h2": ["-c4", "-m16"]}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("scheme", ["http", "h2c"])
def test_h2load_loses_none_of_1000_requests(way, started, tool, load, scheme):
    h2load = tool("h2load", "1000 requests at once")
    nginx = tool("nginx", "a peer that stands 1000 requests")
    listen = {"http": "listen 127.0.0.1:PORT;", "h2c": "listen 127.0.0.1:PORT http2;"}[scheme]
    peer = Nginx(nginx, listen + ' return 200 "from nginx\\n";')
    started.append(peer)
    way = way(peer.port, scheme=scheme)
    ran = subprocess.run(
        [h2load, "-n1000", *LOADS[load], *way.curl, way.url],
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=True,
        env={},
    )
    assert "1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout" in ran.stdout, ran.stdout
    assert "1000 2xx, 0 3xx, 0 4xx, 0 5xx" in ran.stdout, ran.stdout
    proxy = way.proxies[0]
    if way.kind != ways.EMBEDDED:
        decision = "none" if way.kind == ways.BASELINE else "rerouted"
        assert proxy.decisions() == {decision: 1000}


# nginx.


def test_nginx_as_the_target_serves_ranges_and_validators(way, started, tool, curl):
    peer = Nginx(
        tool("nginx", "nginx as a target"),
        "listen 127.0.0.1:PORT; gzip on; gzip_types text/plain;",
    )
    started.append(peer)
    (peer.www / "file.txt").write_bytes(b"0123456789" * 1000)
    way = way(peer.port)
    said, _ = curl(way, "-i", "-r", "5-9", path="/file.txt")
    assert " 206 " in said
    assert said.endswith("56789")
    assert "Content-Range: bytes 5-9/10000".lower() in said.lower()
    etag = next(it.split(": ")[1] for it in said.splitlines() if it.lower().startswith("etag"))
    said, _ = curl(way, "-w", "%{http_code}", "-H", f"If-None-Match: {etag}", path="/file.txt")
    assert said == "304"
    said, _ = curl(way, "-I", path="/file.txt")
    assert "content-length: 10000" in said.lower()
    said, _ = curl(way, "--compressed", "-w", "%{size_download}", path="/file.txt")
    assert said.startswith("0123456789" * 1000)
    if way.kind == ways.BASELINE:
        # nginx stops compressing for whoever adds `Via` (rule 16).
        assert int(said[10_000:]) < 1000


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_nginx_in_front_as_it_is_usually_configured(way, started, serve, tool, curl, version):
    """1.0 and `Connection: close` are nginx's defaults towards what is behind it."""
    way = way(serve(answering("peer")).port)
    # nginx has no escape for a dollar.
    fields = "".join(
        f"proxy_set_header {name} '{value.replace('$', '${dollar}')}';"
        for name, value in way.fields.items()
    )
    front = Nginx(
        tool("nginx", "nginx as a front"),
        f"listen 127.0.0.1:PORT; location / {{ proxy_pass {way.url}; proxy_http_version {version};"
        f" {fields} proxy_set_header Host $host; }}",
        http='geo $dollar { default "$"; }',
    )
    started.append(front)
    way.port, way.fields = front.port, {}
    for _ in range(3):
        said, _ = curl(way, "-X", "POST", "--data-binary", "@-", path="/a?b", data=b"x" * 50_000)
        assert said == "peer POST /a?b " + "x" * 50_000
