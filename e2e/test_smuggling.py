"""The payloads of HTTP/1 through devroute, nginx and HAProxy: what is sent on, and by whom.

The target is a raw socket that reads what it gets by the letter. devroute sends on exactly the requests that
the data says; where it sends one on that another refuses, the data has to name it (`refused_by`).
"""

import os
import socket
import threading

import pytest

from support import payloads, ways
from support.http2 import RawClient
from support.process import until
from support.servers import PlainHaproxy, Nginx
from support.strict import Bad, Reader
from support.wire import Server, connect

ENTRIES = payloads.entries("requests.jsonl")
CLASSES = list(dict.fromkeys(entry["class"] for entry in ENTRIES))

#: Answered where a payload has left the connection as it was.
LAST = b"GET /last HTTP/1.1\r\nHost: foo\r\nConnection: close\r\n\r\n"

#: How long somebody may wait for more before that is what they do: more than the second that a target has to ask
#: for a body.
SILENCE = 4.0


class Recorder(Server):
    """Answers each request, and keeps those that came whole, and what was none."""

    def __init__(self):
        self.lock = threading.Lock()
        self.requests, self.bad = [], []
        super().__init__(self.record)

    def record(self, conn):
        reader = Reader()
        while data := conn.sock.recv(65536):
            try:
                new = reader.read(data)
            except Bad as bad:
                with self.lock:
                    self.bad.append(str(bad))
                return
            with self.lock:
                self.requests += reader.requests[len(reader.requests) - new :]
            conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" * new)

    def take(self):
        with self.lock:
            taken = self.requests, self.bad
            self.requests, self.bad = [], []
        return taken


def nginx(path, peer):
    return Nginx(
        path,
        """
        listen 127.0.0.1:PORT;
        client_header_timeout 2s; client_body_timeout 2s;
        location / {
            proxy_pass http://peer; proxy_http_version 1.1; proxy_request_buffering off;
            proxy_set_header Connection ""; proxy_set_header Host $http_host;
        }
        """,
        http=f"upstream peer {{ server 127.0.0.1:{peer}; keepalive 4; }}",
    )


@pytest.fixture(name="peers", params=["devroute", "nginx", "haproxy"])
def start_peers(request, started, tool):
    recorder = Recorder()
    started.append(recorder)
    if request.param == "devroute":
        # Half-closed is what a client here is that has said all it has to say.
        upstream = f"http://127.0.0.1:{recorder.port}"
        proxy = ways.sidecar_of(upstream, "--half-close=keep")
    elif request.param == "nginx":
        proxy = nginx(tool("nginx", "what nginx makes of the payloads"), recorder.port)
    else:
        proxy = PlainHaproxy(tool("haproxy", "what HAProxy makes of the payloads"), recorder.port)
    started.append(proxy)
    return request.param, proxy, recorder


def send(port, data):
    """Sends a payload and what is behind it, and waits until everything is said."""
    reader = Reader()
    try:
        reader.read(data + LAST)
        is_whole = not reader.bytes
    except Bad:
        is_whole = True
    with connect(port) as client:
        try:
            client.send(data + LAST)
            if not is_whole:
                client.sock.shutdown(socket.SHUT_WR)
            client.sock.settimeout(SILENCE)
            while client.sock.recv(65536):
                pass
        except (ConnectionError, TimeoutError):
            pass


@pytest.mark.parametrize("kind", CLASSES)
def test_who_sends_on_which_requests(peers, kind):
    name, proxy, recorder = peers
    wrong = []
    for entry in ENTRIES:
        if entry["class"] != kind:
            continue
        refused = 0
        for payload in payloads.of(entry):
            send(proxy.port, payload.send)
            requests, bad = recorder.take()
            count = sum(target != b"/last" for _, target, _ in requests)
            if name == "devroute" and (bad or count != payload.want):
                wrong.append(f"{payload.name}: {count} requests and not {payload.want}, {bad}")
            if name != "devroute" and count < payload.want:
                refused += 1
            if os.environ.get("E2E_VERDICTS"):
                print(f"verdict\t{name}\t{payload.name}\t{payload.want}\t{count}\t{bad}")
        if refused and name not in entry.get("refused_by", []):
            wrong.append(f"{entry['name']}: {name} refuses {refused} of what devroute sends on")
    assert not wrong, "\n".join(wrong)


def test_what_http_2_holds_is_one_request_of_http_1_or_none(way, started):
    recorder = Recorder()
    started.append(recorder)
    way = way(recorder.port)
    own = [(name.encode(), value.encode()) for name, value in way.fields.items()]
    wrong = []
    # Requests that may have been sent on and are not there yet: they come while the next payload is looked at.
    late = 0
    for payload in payloads.http2():
        with RawClient(way.port) as client:
            client.request(1, [*payload.fields, *own], payload.body, payload.trailers)
            outcome = client.outcome(1)
        # A request that is whole may be reset before anybody has seen it arrive.
        if payload.want and not payload.may_be_reset and way.kind != ways.EMBEDDED:
            until(lambda: recorder.requests or recorder.bad, payload.name)
        requests, bad = recorder.take()
        # The example has a server of its own, which refuses less.
        is_open = payload.may_be_reset or way.kind == ways.EMBEDDED
        least, most = (0, 1) if is_open else (payload.want, payload.want)
        if bad or not least <= len(requests) <= most + late:
            wrong.append(f"{payload.name}: {len(requests)} and not {least} to {most}, {outcome}, {bad}")
            continue
        was_late = late
        # One that was answered has come, or never will.
        late = max(0, late + (most if outcome is None else min(most, len(requests))) - len(requests))
        if not payload.want:
            if way.kind != ways.EMBEDDED and outcome is not None and not 400 <= outcome <= 505:
                wrong.append(f"{payload.name}: {outcome}")
            continue
        if requests and not was_late:
            sent = dict(payload.fields)
            path = sent[b":path"].split(b"#")[0]
            if requests[0] != (sent[b":method"], path, payload.gets):
                wrong.append(f"{payload.name}: {requests[0]}")
    assert not wrong, "\n".join(wrong)
