"""Nothing is buffered: first events, slow readers, and gigabytes through little memory."""

import contextlib
import os
import queue
import subprocess
import threading

import h2.events
import pytest

from support import ways
from support.http2 import H2Client, h2_peer
from support.process import PATIENCE
from support.wire import connect

MIB = 2**20
#: What goes through the proxies in one piece.
VOLUME = 2048 * MIB if os.environ.get("E2E_LONG") else 256 * MIB
#: What a process may grow by meanwhile, however much it is.
GROWTH = 16 * MIB
#: Long enough for gigabytes through an unoptimised build.
LONG = VOLUME / (10 * MIB)

CHUNK = b"x" * MIB


# Server-sent events.


def events(next_event):
    """A handler that sends an event whenever it is told to."""

    def handler(conn):
        conn.head()
        conn.send(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for number in range(3):
            assert next_event.acquire(timeout=PATIENCE)
            data = f"data: {number}\n\n"
            conn.send(f"{len(data):x}\r\n{data}\r\n")
        conn.send("0\r\n\r\n")

    return handler


def test_an_event_arrives_before_the_next_is_made(way, serve):
    next_event = threading.Semaphore(0)
    way = way(serve(events(next_event)).port)
    with connect(way.port) as client:
        client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
        assert client.head().get("content-type") == "text/event-stream"
        for number in range(3):
            next_event.release()
            assert client.chunk() == f"data: {number}\n\n".encode()
        assert client.chunk() == b""


def test_an_event_arrives_over_http_2(way, serve):
    next_event = threading.Semaphore(0)
    way = way(serve(events(next_event)).port)
    with H2Client(way) as client:
        stream = client.request()
        client.wait(h2.events.ResponseReceived, stream)
        for number in range(3):
            next_event.release()
            event = client.wait(h2.events.DataReceived, stream)
            assert client.take(event) == f"data: {number}\n\n".encode()


def test_an_event_of_an_http_2_peer_arrives(way, serve):
    next_event = threading.Semaphore(0)

    def handler(peer, stream, _fields):
        peer.headers(stream, [(":status", "200"), ("content-type", "text/event-stream")])
        for number in range(3):
            assert next_event.acquire(timeout=PATIENCE)
            peer.send(stream, f"data: {number}\n\n".encode(), end=number == 2)

    way = way(serve(h2_peer(handler)).port, scheme="h2c")
    with connect(way.port) as client:
        client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
        client.head()
        for number in range(3):
            next_event.release()
            assert client.chunk() == f"data: {number}\n\n".encode()


# Slow readers.

#: More than any number of socket buffers and windows on a way hold.
ENDLESS = 1024 * MIB
#: The most that a writer may be ahead of a reader who has stopped: the buffers of the kernel, which
#: take megabytes on loopback, and the windows of HTTP/2.
AHEAD = 96 * MIB


def write_until_stuck(sock):
    """Writes until nobody has taken anything for a second; how much was written."""
    sock.settimeout(1)
    written = 0
    try:
        while written < ENDLESS:
            written += sock.send(CHUNK)
    except TimeoutError:
        pass
    sock.settimeout(PATIENCE)
    return written


@pytest.fixture
def chain_of(started, serve):
    """A sidecar that speaks HTTP/2 to a second one, which speaks HTTP/1 to the peer: HTTP/1 to HTTP/2
    in the one, HTTP/2 to HTTP/1 in the other.
    """

    def chain_of(handler):
        second = ways.sidecar_of(f"http://127.0.0.1:{serve(handler).port}")
        first = ways.sidecar_of(f"h2c://127.0.0.1:{second.port}")
        started.extend([second, first])
        return ways.Way("chain", first.port, {}, None, [first, second])

    return chain_of


@pytest.fixture(params=[*ways.ALL, "chain"])
def long_way(request, way_of, chain_of, serve):
    """Any way, and one through both translations; to a raw handler."""

    def long_way(handler):
        if request.param == "chain":
            return chain_of(handler)
        return way_of(request.param, serve(handler).port)

    return long_way


@pytest.mark.timeout(120)
def test_a_slow_reader_slows_the_writer(long_way):
    stuck, resume = queue.Queue(), threading.Event()

    def handler(conn):
        conn.head()
        conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {ENDLESS}\r\n\r\n")
        written = write_until_stuck(conn.sock)
        stuck.put(written)
        assert resume.wait(PATIENCE)
        conn.send(b"y" * MIB)
        conn.ends()

    way = long_way(handler)
    with connect(way.port, receive_buffer=65536) as client:
        for proxy in way.proxies:
            proxy.settled = proxy.memory()
        client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
        assert client.head().status == 200
        written = stuck.get(timeout=60)
        assert written < AHEAD, f"{written / MIB:.0f} MiB went to a reader who read nothing"
        for proxy in way.proxies:
            assert proxy.memory() - proxy.settled < GROWTH
        # And it goes on where it stopped, without a byte lost.
        resume.set()
        assert client.exactly(written) == b"x" * written
        assert client.exactly(MIB) == b"y" * MIB


@pytest.mark.timeout(120)
def test_a_peer_that_does_not_read_slows_the_upload(long_way):
    resume, got = threading.Event(), queue.Queue()

    def handler(conn):
        head = conn.head()
        assert resume.wait(60)
        length = 0
        while data := conn.chunk():
            length += len(data)
        got.put((head.get("transfer-encoding"), length))
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    way = long_way(handler)
    with connect(way.port) as client:
        for proxy in way.proxies:
            proxy.settled = proxy.memory()
        client.send(f"PUT / HTTP/1.1\r\nhost: foo\r\ntransfer-encoding: chunked\r\n{way.lines}\r\n")
        client.sock.settimeout(1)
        piece = b"%x\r\n" % MIB + CHUNK + b"\r\n"
        sent, rest = 0, b""
        try:
            while sent < ENDLESS:
                rest = rest or piece
                count = client.sock.send(rest)
                sent, rest = sent + count, rest[count:]
        except TimeoutError:
            pass
        client.sock.settimeout(PATIENCE)
        assert sent < AHEAD, f"{sent / MIB:.0f} MiB went to a peer who read nothing"
        for proxy in way.proxies:
            assert proxy.memory() - proxy.settled < GROWTH
        resume.set()
        client.send(rest, "0\r\n\r\n")
        assert client.answer()[0].status == 200
    chunks = (sent + len(rest)) // len(piece)
    assert got.get(timeout=PATIENCE) == ("chunked", chunks * MIB)


def test_a_slow_http_2_reader_slows_the_writer_of_its_stream_alone(way, serve):
    stuck = queue.Queue()

    def handler(conn):
        while head := conn.head():
            if head.target == "/endless":
                conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {ENDLESS}\r\n\r\n")
                stuck.put(write_until_stuck(conn.sock))
                return
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    way = way(serve(handler).port)
    with H2Client(way) as client:
        # The window of the connection stays open, that of the stream does not.
        client.state.increment_flow_control_window(MIB)
        endless = client.request(path="/endless")
        client.wait(h2.events.ResponseReceived, endless)
        head, body, _ = client.answer(client.request(path="/other"))
        assert (head[b":status"], body) == (b"200", b"ok")
        assert stuck.get(timeout=30) < AHEAD


def fill(client, stream):
    """Sends on a stream until nobody has opened a window for a second; how much was sent."""
    client.conn.sock.settimeout(1)
    sent = 0
    try:
        while sent < ENDLESS:
            window = client.state.local_flow_control_window(stream)
            size = min(window, client.state.max_outbound_frame_size)
            if size:
                client.send(stream, CHUNK[:size])
                sent += size
            else:
                client.wait(h2.events.WindowUpdated)
    except TimeoutError:
        pass
    client.conn.sock.settimeout(PATIENCE)
    return sent


@pytest.mark.parametrize("scheme", ["http", "h2c"])
def test_a_peer_that_does_not_read_slows_the_http_2_upload_of_its_stream_alone(way, serve, scheme):
    resume, got = threading.Event(), queue.Queue()
    if scheme == "http":

        def handler(conn):
            head = conn.head()
            if head.target == "/endless":
                assert resume.wait(60)
                got.put(len(conn.body(head)))
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    else:

        def answer(peer, stream, fields):
            if (b":path", b"/endless") not in fields:
                peer.headers(stream, [(":status", "200")], end=True)

        handler = h2_peer(answer)
    way = way(serve(handler).port, scheme=scheme)
    with H2Client(way) as client:
        endless = client.request(method="PUT", path="/endless", end=False)
        sent = fill(client, endless)
        assert 0 < sent < AHEAD, f"{sent / MIB:.0f} MiB went to a peer who read nothing"
        head, _, _ = client.answer(client.request(path="/other"))
        assert head[b":status"] == b"200"
        if scheme == "http":
            resume.set()
            client.send(endless, b"", end=True)
            head, _, _ = client.answer(endless)
            assert (head[b":status"], got.get(timeout=PATIENCE)) == (b"200", sent)


@pytest.mark.timeout(120)
def test_an_http_1_reader_slows_an_http_2_writer(way, serve):
    stuck = queue.Queue()

    def handler(peer, stream, _fields):
        peer.headers(stream, [(":status", "200")])
        stuck.put(fill(peer, stream))
        peer.conn.ends()
        raise EOFError

    way = way(serve(h2_peer(handler)).port, scheme="h2c")
    with connect(way.port, receive_buffer=65536) as client:
        client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
        assert client.head().status == 200
        written = stuck.get(timeout=60)
        assert 0 < written < AHEAD, f"{written / MIB:.0f} MiB went to a reader who read nothing"
        read = 0
        while read < written:
            read += len(client.chunk())
        assert read == written


# Memory.


#: The protocol of the client.
CLIENTS = pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])


@pytest.mark.timeout(LONG + 60)
@CLIENTS
def test_a_large_download_needs_little_memory(long_way, tool, version):
    curl = tool("curl", "a large download")

    def handler(conn):
        conn.head()
        conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {VOLUME}\r\n\r\n")
        for _ in range(VOLUME // MIB):
            conn.send(CHUNK)

    way = long_way(handler)
    command = [curl, "-sS", version, *way.curl, "-o", "/dev/null", "-w", "%{size_download}", way.url]
    transfer(way, command)


@pytest.mark.timeout(LONG + 60)
@CLIENTS
def test_a_large_upload_needs_little_memory(long_way, tool, version, tmp_path):
    curl = tool("curl", "a large upload")
    whole = tmp_path / "whole"
    with whole.open("wb") as file:
        file.truncate(VOLUME)  # a hole: it takes no room on the disk
    got = queue.Queue()

    def handler(conn):
        head = conn.head()
        assert head.get("content-length") == str(VOLUME)
        conn.send("HTTP/1.1 100 Continue\r\n\r\n" if head.get("expect") else "")
        length = len(conn.buffer)
        room = bytearray(MIB)
        while length < VOLUME:
            count = conn.sock.recv_into(room)
            assert count
            length += count
        got.put(length)
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    way = long_way(handler)
    command = [curl, "-sS", version, *way.curl, "-T", str(whole), "-w", "%{size_upload}", way.url]
    transfer(way, command)
    assert got.get(timeout=PATIENCE) == VOLUME


def transfer(way, command):
    """Runs curl while no process on the way grows by much."""
    with contextlib.ExitStack() as stack:
        for proxy in way.proxies:
            stack.enter_context(proxy.grows_less_than(GROWTH))
        ran = subprocess.run(command, capture_output=True, timeout=LONG + 30, check=False, env={})
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) == VOLUME
