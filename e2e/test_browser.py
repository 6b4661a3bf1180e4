"""A browser: a page that opens a WebSocket and an EventSource, through a sidecar and through Envoy."""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side
from websockets.utils import accept_key

from support import envoy as envoys
from support import ways
from support.process import BINARY, PATIENCE, Devroute, until
from support.servers import Nginx

PAGE = """<!doctype html><title>devroute</title><script>
const said = [];
async function story() {
  said.push(await new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${location.host}/socket`, "v1");
    socket.onopen = () => socket.send("hello ü");
    socket.onmessage = (event) => { said.push(socket.protocol, event.data); socket.close(4001, "bye"); };
    socket.onclose = (event) => resolve([event.code, event.reason, event.wasClean]);
    socket.onerror = () => reject("the socket failed");
  }));
  said.push(await new Promise((resolve, reject) => {
    const events = [], source = new EventSource("/events");
    source.onmessage = (event) => {
      events.push(event.data);
      // The next one is made only when this one was seen.
      if (events.length < 3) fetch("/next", { method: "POST" }); else { source.close(); resolve(events); }
    };
    source.onerror = () => reject("the events failed");
  }));
}
story().catch((error) => said.push(String(error)))
  .then(() => fetch("/report", { method: "POST", body: JSON.stringify(said) }));
</script>"""


def site(report, next_event):
    """The page, its socket, its events, and where it reports to."""

    def handler(conn):
        while head := conn.head():
            body = conn.body(head)
            if head.target == "/":
                answer(conn, "text/html; charset=utf-8", PAGE)
            elif head.target == "/socket":
                echo(conn, head)
                return
            elif head.target == "/events":
                conn.send(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                    "transfer-encoding: chunked\r\n\r\n"
                )
                for number in range(3):
                    if number:
                        next_event.get(timeout=PATIENCE)
                    event = f"data: {number}\n\n"
                    conn.send(f"{len(event):x}\r\n{event}\r\n")
                conn.ends()
                return
            elif head.target == "/next":
                next_event.put(True)
                answer(conn, "text/plain", "")
            elif head.target == "/report":
                report.put(json.loads(body))
                answer(conn, "text/plain", "")
            else:
                conn.send("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    return handler


def answer(conn, kind, text):
    data = text.encode()
    conn.send(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n", data)


def echo(conn, head):
    """Sends back what comes over a WebSocket, its close as well."""
    accept = accept_key(head.get("sec-websocket-key"))
    conn.send(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        f"sec-websocket-accept: {accept}\r\nsec-websocket-protocol: v1\r\n\r\n"
    )
    protocol = Protocol(Side.SERVER)
    protocol.receive_data(conn.buffer)
    while True:
        for frame in protocol.events_received():
            if isinstance(frame, Frame) and frame.opcode is Opcode.TEXT:
                protocol.send_text(frame.data)
        # A close is answered by the protocol itself.
        for data in protocol.data_to_send():
            if data:
                conn.send(data)
        if protocol.close_expected():
            return
        data = conn.sock.recv(65536)
        if not data:
            return
        protocol.receive_data(data)


@pytest.fixture
def chromium():
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("chromium is not installed: no browser is tested")

    def chromium(url):
        folder = tempfile.TemporaryDirectory(prefix="devroute-e2e-chromium-")
        folders.append(folder)
        child = subprocess.Popen(
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                # Nothing but this machine can be reached.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--user-data-dir={folder.name}",
                url,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "HOME": folder.name},
            # A group of its own, so that its helpers can be waited for.
            start_new_session=True,
        )
        children.append(child)

    children, folders = [], []
    yield chromium
    for child in children:
        child.terminate()
        try:
            until(lambda child=child: child.poll() is not None and is_gone(child.pid), "its end")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait(PATIENCE)
    for folder in folders:
        shutil.rmtree(folder.name, ignore_errors=True)
        folder.cleanup()


def is_gone(group):
    try:
        os.killpg(group, 0)
        return False
    except ProcessLookupError:
        return True


@pytest.fixture
def queues():
    """Where the page reports to, and what lets the next event go."""
    return queue.Queue(), queue.Queue()


def story(chromium, url, report):
    chromium(url)
    assert report.get(timeout=45) == [
        "v1",
        "hello ü",
        [4001, "bye", True],
        ["0", "1", "2"],
    ]


def test_a_page_with_a_socket_and_events(chromium, way_of, serve, queues):
    report, next_event = queues
    way = way_of(ways.BASELINE, serve(site(report, next_event)).port)
    story(chromium, f"{way.url}/", report)


def test_a_page_that_is_rerouted_by_the_front(chromium, way_of, serve, started, tool, queues):
    """A page cannot set fields for its socket: the front of the cluster adds the contract."""
    report, next_event = queues
    way = way_of(ways.REROUTED, serve(site(report, next_event)).port)
    contract = way.fields["x-devroute"].replace("$", "${dollar}")
    front = Nginx(
        tool("nginx", "a front that adds the contract"),
        f"""listen 127.0.0.1:PORT;
            location / {{
                proxy_pass {way.url}; proxy_http_version 1.1; proxy_buffering off;
                proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $hop;
                proxy_set_header x-devroute '{contract}';
            }}""",
        http="""geo $dollar { default "$"; }
            map $http_upgrade $hop { default upgrade; "" close; }""",
    )
    started.append(front)
    story(chromium, f"http://127.0.0.1:{front.port}/", report)
    assert set(way.proxies[0].decisions()) == {"rerouted"}


@pytest.fixture(params=["sidecar", "envoy"])
def entry(request, envoy, started):
    """Something in front of a service that reads the cookie, and obeys it."""

    def entry(baseline):
        if request.param == "sidecar":
            flags = [f"--service={ways.SERVICE}", f"--upstream=http://127.0.0.1:{baseline}"]
            front = Devroute("sidecar", *flags, "--cookie", "--allow=loopback")
            started.append(front)
            return front
        router = Devroute("router", "--allow=loopback")
        started.append(router)
        ports = {envoys.BASELINE_PORT: baseline, envoys.ROUTER_PORT: router.port}
        setting = "filter_context: { service: foo }"
        edits = {setting: setting.replace(" }", ", cookie: true }")}
        return envoy(envoys.FILTER, ports, edits=edits)

    return entry


def test_rule_20_a_page_that_sets_the_cookie_is_rerouted_by_itself(chromium, serve, entry, queues):
    """The baseline has the page and nothing else; its socket, events and requests are the laptop's."""
    report, next_event = queues
    cookies = queue.Queue()

    def laptop(conn):
        head = conn.head
        conn.head = lambda: keep(head())
        return site(report, next_event)(conn)

    def keep(head):
        if head:
            cookies.put(head.get("cookie"))
        return head

    target = f"{ways.SERVICE}=127.0.0.1:{serve(laptop).port}"
    made = subprocess.run(
        [BINARY, "contract", target, "--json"], capture_output=True, timeout=PATIENCE, check=True
    )
    script = json.loads(made.stdout)["cookie"]
    page = PAGE.replace("<script>", f"<script>document.cookie = 'theme=dark'; {script};")

    def baseline(conn):
        while head := conn.head():
            is_page = head.target == "/"
            answer(conn, "text/html; charset=utf-8", page if is_page else "the baseline")

    story(chromium, f"http://127.0.0.1:{entry(serve(baseline).port).port}/", report)
    seen = [cookies.get_nowait() for _ in range(cookies.qsize())]
    assert len(seen) >= 5 and set(seen) == {"theme=dark"}, seen
