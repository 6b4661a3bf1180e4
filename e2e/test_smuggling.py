"""The payloads of HTTP/1 through devroute, nginx and HAProxy: what is sent on, and by whom.

The target is a raw socket that reads what it gets by the letter. devroute sends on exactly the requests that
the data says; where it sends one on that another refuses, the data has to name it (`refused_by`).
"""

import dataclasses
import os
import re
import socket
import threading

import hpack
import hyperframe.frame
import pytest

from support import payloads, ways
from support.http2 import RawClient
from support.process import until
from support.servers import PlainHaproxy, Nginx
from support.strict import TOKEN, VALUE, Bad, Reader
from support.wire import Server, connect

ENTRIES = payloads.entries("requests.jsonl")
#: An origin-form, or the asterisk.
TARGET = re.compile(rb"(?:/[\x21-\x7e\x80-\xff]*|\*)")
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


class Http2Recorder(Server):
    """The same for HTTP/2 with prior knowledge, by the letter of RFC 9113."""

    CONNECTION = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}

    def __init__(self):
        self.lock = threading.Lock()
        self.requests, self.bad = [], []
        super().__init__(self.record)

    take = Recorder.take

    def record(self, conn):
        # A tunnel has nothing to say here, and neither has a connection that was one too many.
        first = conn.sock.recv(1)
        if not first:
            return
        if (first := first + conn.exactly(23)) != b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":
            with self.lock:
                self.bad.append(str(first))
            return
        decoder, encoder = hpack.Decoder(), hpack.Encoder()
        conn.send(hyperframe.frame.SettingsFrame().serialize())
        # What is there of each stream: its heads, and its body.
        streams, block = {}, b""
        while True:
            frame, length = hyperframe.frame.Frame.parse_frame_header(memoryview(conn.exactly(9)))
            frame.parse_body(memoryview(conn.exactly(length)))
            stream = frame.stream_id
            match frame:
                case hyperframe.frame.SettingsFrame() if "ACK" not in frame.flags:
                    conn.send(hyperframe.frame.SettingsFrame(flags=["ACK"]).serialize())
                case hyperframe.frame.PingFrame() if "ACK" not in frame.flags:
                    conn.send(hyperframe.frame.PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]).serialize())
                case hyperframe.frame.HeadersFrame() | hyperframe.frame.ContinuationFrame():
                    heads, body, ends = streams.setdefault(stream, ([], b"", False))
                    block += frame.data
                    ends = ends or "END_STREAM" in frame.flags
                    if "END_HEADERS" in frame.flags:
                        heads.append(decoder.decode(block, raw=True))
                        block = b""
                    streams[stream] = heads, body, ends
                case hyperframe.frame.DataFrame():
                    heads, body, ends = streams[stream]
                    streams[stream] = heads, body + frame.data, "END_STREAM" in frame.flags
                case hyperframe.frame.RstStreamFrame():
                    streams.pop(stream, None)
            if block or stream not in streams or not streams[stream][2]:
                continue
            heads, body, _ = streams.pop(stream)
            with self.lock:
                try:
                    self.requests.append(self.request(heads, body))
                except Bad as bad:
                    self.bad.append(str(bad))
            head = hyperframe.frame.HeadersFrame(stream, encoder.encode([(":status", "200")]))
            head.flags |= {"END_HEADERS", "END_STREAM"}
            conn.send(head.serialize())

    def request(self, heads, body):
        """The method, the path and the body of a request."""
        pseudo = [(name, value) for name, value in heads[0] if name.startswith(b":")]
        names = sorted(name for name, _ in pseudo)
        if pseudo != heads[0][: len(pseudo)] or names != [b":authority", b":method", b":path", b":scheme"]:
            raise Bad(f"the pseudo-fields of {heads[0]}")
        fields = heads[0][len(pseudo) :]
        for name, value in [*fields, *(field for head in heads[1:] for field in head)]:
            if not TOKEN.fullmatch(name) or name != name.lower() or name in self.CONNECTION:
                raise Bad(f"the field {name!r}")
            if not VALUE.fullmatch(value) or value != value.strip(b" \t"):
                raise Bad(f"the value {value!r}")
        pseudo = dict(pseudo)
        if not TOKEN.fullmatch(pseudo[b":method"]) or not TARGET.fullmatch(pseudo[b":path"]):
            raise Bad(f"the pseudo-fields {pseudo}")
        if any(name == b"host" and value != pseudo[b":authority"] for name, value in fields):
            raise Bad(f"a host beside {pseudo}")
        lengths = [value for name, value in fields if name == b"content-length"]
        if lengths and lengths != [b"%d" % len(body)]:
            raise Bad(f"the lengths {lengths} of {len(body)} bytes")
        return pseudo[b":method"], pseudo[b":path"], body


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
    # The example has a server of its own, which refuses less.
    embedded = way.kind == ways.EMBEDDED
    sent = (dataclasses.replace(it, fields=[*it.fields, *own]) for it in payloads.http2())
    wrong = hold(sent, way.port, recorder, may_refuse=lambda _: embedded, may_answer=lambda _: embedded)
    assert not wrong, "\n".join(wrong)


@pytest.fixture(name="outbound")
def start_outbound(started):
    """The outbound listener of a sidecar whose service is never asked, at the end of which that is so."""
    decoy = Recorder()
    started.append(decoy)

    def outbound(*flags):
        sidecar = ways.sidecar_of(f"http://127.0.0.1:{decoy.port}", "--outbound=127.0.0.1:0", *flags)
        started.append(sidecar)
        return int(sidecar.started["outbound"].rpartition(":")[2])

    yield outbound
    assert decoy.take() == ([], [])


def test_what_http_2_holds_is_one_request_or_none_where_it_is_forwarded(outbound, started):
    """HTTP/2 of the service itself goes to the host that it names, as HTTP/2."""
    recorder = Http2Recorder()
    started.append(recorder)
    port = outbound()
    host = {b"foo": b"localhost:%d" % recorder.port, b"FOO": b"LOCALHOST:%d" % recorder.port}

    def adapt(payload):
        fields = [
            (name, host.get(value, value) if name in (b":authority", b"host") else value)
            for name, value in payload.fields
        ]
        return dataclasses.replace(payload, fields=fields)

    def comes(payload):
        fields = dict(payload.fields)
        host_of_it = fields.get(b":authority", fields.get(b"host"))
        return host_of_it in host.values() and fields.get(b":scheme") == b"http"

    def is_tunnel(payload):
        return payload.fields == [(b":method", b"CONNECT"), (b":authority", host[b"foo"])]

    sent = [adapt(payload) for payload in payloads.http2()]
    assert sum(bool(comes(it) and it.want) for it in sent) > 30 and any(map(is_tunnel, sent))
    wrong = hold(sent, port, recorder, may_refuse=lambda it: not comes(it), may_answer=is_tunnel)
    assert not wrong, "\n".join(wrong)


def test_what_http_2_holds_is_one_request_of_http_1_or_none_where_the_caller_reroutes(outbound, started):
    """HTTP/2 of the service itself, by a contract for the host that it names: it goes on as HTTP/1."""
    recorder = Recorder()
    started.append(recorder)
    port = outbound("--outbound-reroute=true", "--allow=loopback")
    own = (b"x-devroute", b'{"foo":"127.0.0.1:%d"}' % recorder.port)

    def comes(payload):
        fields = dict(payload.fields)
        return fields.get(b":authority", fields.get(b"host")) == b"foo"

    sent = [dataclasses.replace(it, fields=[*it.fields, own]) for it in payloads.http2()]
    assert sum(bool(comes(it) and it.want) for it in sent) > 30
    wrong = hold(sent, port, recorder, may_refuse=lambda it: not comes(it), may_answer=lambda _: False)
    assert not wrong, "\n".join(wrong)


def hold(sent, port, recorder, *, may_refuse, may_answer):
    """What is wrong with what became of these payloads at `port`, and with what the recorder got of them.

    Of those that `may_refuse` holds for, the request need not have come; of those that `may_answer` holds for, what is
    sent on nowhere may be answered with anything.
    """
    wrong = []
    # Requests that may have been sent on and are not there yet: they come while the next payload is looked at.
    late = 0
    for payload in sent:
        is_open = payload.may_be_reset or may_refuse(payload)
        with RawClient(port) as client:
            client.request(1, payload.fields, payload.body, payload.trailers)
            outcome = client.outcome(1)
        # A request that is whole may be reset before anybody has seen it arrive.
        if payload.want and not is_open:
            until(lambda: recorder.requests or recorder.bad, payload.name)
        requests, bad = recorder.take()
        least, most = (0, 1) if is_open else (payload.want, payload.want)
        if bad or not least <= len(requests) <= most + late:
            wrong.append(f"{payload.name}: {len(requests)} and not {least} to {most}, {outcome}, {bad}")
            continue
        was_late = late
        # One that was answered has come, or never will.
        late = max(0, late + (most if outcome is None else min(most, len(requests))) - len(requests))
        if not payload.want:
            if not may_answer(payload) and outcome is not None and not 400 <= outcome <= 505:
                wrong.append(f"{payload.name}: {outcome}")
            continue
        if requests and not was_late:
            fields = dict(payload.fields)
            path = fields[b":path"].split(b"#")[0]
            if requests[0] != (fields[b":method"], path, payload.gets):
                wrong.append(f"{payload.name}: {requests[0]}")
    return wrong
