"""Clients that go away: whoever works for them learns it at once."""

import queue
import time

import pytest

from support.http2 import H2Client
from support.process import PATIENCE
from support.wire import connect

#: The promise. A busy machine may be late for once, never three times in a row.
AT_ONCE = 0.1


def hangs(seen, *, answer=b""):
    """A handler that reads a request, may begin an answer, and says when its peer is gone."""

    def handler(conn):
        conn.body(conn.head())
        conn.send(answer)
        seen.put("asked")
        seen.put(conn.ends())

    return handler


@pytest.mark.parametrize("version", ["HTTP/1", "HTTP/2"])
@pytest.mark.parametrize("state", ["waiting", "streaming"])
@pytest.mark.parametrize("end", ["close", "reset"])
def test_the_peer_learns_at_once_that_the_client_is_gone(way, serve, version, state, end):
    if end == "reset" and version == "HTTP/2":
        end = "cancel"
    seen = queue.Queue()
    begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    way = way(serve(hangs(seen, answer=begun if state == "streaming" else b"")).port)
    delays = []
    for _ in range(3):
        with H2Client(way) if version == "HTTP/2" else connect(way.port) as client:
            if version == "HTTP/2":
                stream = client.request(method="POST")
                conn = client.conn
            else:
                client.send(f"POST / HTTP/1.1\r\nhost: foo\r\ncontent-length: 0\r\n{way.lines}\r\n")
                conn = client
            assert seen.get(timeout=PATIENCE) == "asked"
            if state == "streaming":
                assert conn.sock.recv(1)
            gone = time.monotonic()
            if end == "cancel":
                client.reset(stream)
            else:
                getattr(conn, end)()
            delays.append(seen.get(timeout=PATIENCE) - gone)
        if delays[-1] < AT_ONCE:
            return
    raise AssertionError(f"the peer learned it after {delays} s")


def test_a_client_that_is_gone_in_its_upload_ends_the_request(way, serve):
    seen = queue.Queue()

    def handler(conn):
        conn.head()
        assert conn.chunk() == b"half"
        seen.put("asked")
        seen.put(conn.ends())

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(f"PUT / HTTP/1.1\r\nhost: foo\r\ntransfer-encoding: chunked\r\n{way.lines}\r\n")
        client.send("4\r\nhalf\r\n")
        assert seen.get(timeout=PATIENCE) == "asked"
        gone = time.monotonic()
        client.close()
        assert seen.get(timeout=PATIENCE) - gone < 1
