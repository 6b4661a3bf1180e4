"""SIGTERM: what is in flight finishes, nothing new comes in, and the exit status is 0."""

import queue
import socket
import subprocess
import threading
import urllib.error

import pytest

from support import ways
from support.process import PATIENCE, until
from support.wire import answering, connect

#: The ways through a process that drains; the example does not.
DRAINING = pytest.mark.parametrize("kind", [ways.BASELINE, ways.REROUTED, ways.VIA_ROUTER, ways.ROUTER])


def is_refused(port):
    try:
        connect(port).close()
        return False
    except ConnectionError:
        return True


def terminate(way):
    """Tells the first process to end, and waits until it takes nothing new."""
    proxy = way.proxies[0]
    proxy.terminate()
    until(lambda: is_refused(way.port), "the listener to close")
    return proxy


@pytest.fixture
def slow_peer(serve):
    """Answers each request when it is told to."""

    class Slow:
        def __init__(self):
            self.asked, self.answers = queue.Queue(), queue.Queue()
            self.port = serve(self.handle).port

        def handle(self, conn):
            while head := conn.head():
                conn.body(head)
                self.asked.put(head)
                said = self.answers.get(timeout=PATIENCE)
                conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(said)}\r\n\r\n{said}")

    return Slow()


@DRAINING
def test_a_request_in_flight_is_answered(kind, way_of, slow_peer):
    way = way_of(kind, slow_peer.port)
    with connect(way.port) as client:
        client.send(f"POST / HTTP/1.1\r\nhost: foo\r\ncontent-length: 1\r\n{way.lines}\r\nx")
        slow_peer.asked.get(timeout=PATIENCE)
        proxy = terminate(way)
        slow_peer.answers.put("after all")
        head, body = client.answer()
        assert (head.status, body) == (200, b"after all")
        assert head.get("connection") == "close"
        assert client.rest() == b""
    assert proxy.wait() == 0
    assert "drained" in "\n".join(proxy.lines.all())


@DRAINING
def test_a_request_in_flight_over_http_2_is_answered_and_the_client_sent_away(
    kind, way_of, slow_peer, tool
):
    """nghttp shows the frames. A connection that is going away still carries what was begun (RFC 9113,
    section 6.8).
    """
    nghttp = tool("nghttp", "the GOAWAY of a drain")
    way = way_of(kind, slow_peer.port)
    command = [nghttp, "-v", "--no-dep", *way.curl, way.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={}) as client:
        try:
            slow_peer.asked.get(timeout=PATIENCE)
            proxy = terminate(way)
            slow_peer.answers.put("after all")
            frames, _ = client.communicate(timeout=PATIENCE)
        except BaseException:
            client.kill()
            raise
    assert "recv GOAWAY frame" in frames, frames
    assert ":status: 200" in frames
    assert "after all" in frames
    assert frames.index("recv GOAWAY frame") < frames.index("after all")
    assert proxy.wait() == 0


@DRAINING
def test_a_stream_in_flight_goes_on_to_its_end(kind, way_of, serve):
    next_event = threading.Semaphore(0)

    def handler(conn):
        conn.head()
        conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(5):
            assert next_event.acquire(timeout=PATIENCE)
            conn.send("5\r\nevent\r\n")
        conn.send("0\r\n\r\n")

    way = way_of(kind, serve(handler).port)
    with connect(way.port) as client:
        client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
        client.head()
        next_event.release()
        assert client.chunk() == b"event"
        proxy = terminate(way)
        for _ in range(4):
            next_event.release()
            assert client.chunk() == b"event"
        assert client.chunk() == b""
    assert proxy.wait() == 0


@DRAINING
def test_an_upload_in_flight_goes_on_to_its_end(kind, way_of, serve):
    begun = threading.Event()

    def handler(conn):
        conn.head()
        body = conn.chunk()
        begun.set()
        while data := conn.chunk():
            body += data
        conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n", body)

    way = way_of(kind, serve(handler).port)
    with connect(way.port) as client:
        client.send(f"PUT / HTTP/1.1\r\nhost: foo\r\ntransfer-encoding: chunked\r\n{way.lines}\r\n")
        client.send("4\r\nhalf\r\n")
        assert begun.wait(PATIENCE)
        proxy = terminate(way)
        client.send("6\r\n whole\r\n0\r\n\r\n")
        assert client.answer()[1] == b"half whole"
    assert proxy.wait() == 0


@DRAINING
def test_idle_connections_do_not_hold_the_exit_up(kind, way_of, serve):
    way = way_of(kind, serve(answering("peer")).port)
    with connect(way.port) as idle, connect(way.port) as silent:
        idle.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
        assert idle.answer()[0].status == 200
        until(lambda: way.proxies[0].open_connections() == 2, "both connections")
        proxy = terminate(way)
        assert proxy.wait(5) == 0
        assert idle.rest() == b""
        assert silent.rest() == b""


@pytest.mark.parametrize("kind", [ways.BASELINE, ways.ROUTER])
def test_readiness_ends_before_the_process(kind, way_of, slow_peer):
    way = way_of(kind, slow_peer.port)
    proxy = way.proxies[0]
    assert proxy.ask_admin("/_readyz") == "OK"
    with connect(way.port) as client:
        client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
        slow_peer.asked.get(timeout=PATIENCE)
        terminate(way)
        with pytest.raises(urllib.error.HTTPError) as not_ready:
            proxy.ask_admin("/_readyz")
        assert not_ready.value.code == 503
        not_ready.value.close()
        slow_peer.answers.put("done")
        assert client.answer()[1] == b"done"
    assert proxy.wait() == 0


@pytest.mark.parametrize("kind", [ways.BASELINE, ways.REROUTED])
def test_what_does_not_end_is_cut_at_the_end_of_the_drain(kind, way_of, serve):
    def handler(conn):
        conn.head()
        conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        conn.ends()

    way = way_of(kind, serve(handler).port, flags=["--drain-timeout=300ms"])
    with connect(way.port) as client:
        client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
        client.head()
        assert client.chunk() == b"first"
        proxy = terminate(way)
        client.ends()
        assert client.buffer == b"", "and not with a last chunk"
    assert proxy.wait() == 0
    assert "cut" in "\n".join(proxy.lines.all())


@pytest.mark.parametrize("kind", [ways.BASELINE, ways.REROUTED])
def test_a_tunnel_does_not_outlive_the_drain(kind, way_of, serve):
    def handler(conn):
        conn.head()
        conn.send("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        conn.ends()

    way = way_of(kind, serve(handler).port, flags=["--drain-timeout=300ms"])
    with connect(way.port) as client:
        client.send(
            f"GET / HTTP/1.1\r\nhost: foo\r\nconnection: upgrade\r\nupgrade: echo\r\n{way.lines}\r\n"
        )
        assert client.head().status == 101
        proxy = terminate(way)
        client.ends()
    assert proxy.wait(5) == 0


@DRAINING
def test_a_tunnel_goes_on_within_the_drain(kind, way_of, serve):
    def handler(conn):
        conn.head()
        conn.send("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        conn.send(conn.exactly(5))
        conn.rest()

    way = way_of(kind, serve(handler).port)
    with connect(way.port) as client:
        client.send(
            f"GET / HTTP/1.1\r\nhost: foo\r\nconnection: upgrade\r\nupgrade: echo\r\n{way.lines}\r\n"
        )
        assert client.head().status == 101
        assert way.proxies[0].open_connections() == 1, "a tunnel is an open connection"
        proxy = terminate(way)
        client.send("hello")
        assert client.exactly(5) == b"hello"
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
    assert proxy.wait() == 0
