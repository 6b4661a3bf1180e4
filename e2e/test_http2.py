"""HTTP/2 with prior knowledge, on the same port as HTTP/1, to peers of both kinds."""

import threading

import h2.errors
import h2.events
import httpx
import pytest

from support import ways
from support.http2 import H2Client, h2_peer
from support.process import PATIENCE
from support.wire import answering, connect

#: What the peer speaks.
PEERS = pytest.mark.parametrize("scheme", ["http", "h2c"])


@PEERS
def test_httpx_and_hypercorn(way, hypercorn, scheme):
    """HTTP/2 in; the peer is asked in its own protocol."""
    way = way(hypercorn.port, scheme=scheme)
    with httpx.Client(http1=False, http2=True, trust_env=False, timeout=PATIENCE) as client:
        for number in range(20):
            answer = client.post(f"{way.url}/{number}?a=b", content=b"x" * number, headers=way.fields)
            version = {"http": "1.1", "h2c": "2"}[scheme]
            assert answer.http_version == "HTTP/2"
            assert answer.text == f"HTTP/{version} POST /{number} {number}\n"
            assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
            assert answer.headers.get("x-devroute-routed") == way.mark


def test_http_1_in_http_2_out(way, hypercorn):
    way = way(hypercorn.port, scheme="h2c")
    with connect(way.port) as client:
        for number in range(5):
            body = "x" * number
            client.send(
                f"PUT /{number} HTTP/1.1\r\nhost: foo\r\ncontent-length: {number}\r\n"
                f"{way.lines}\r\n{body}"
            )
            head, said = client.answer()
            assert (head.status, said) == (200, f"HTTP/2 PUT /{number} {number}\n".encode())
            assert head.all("set-cookie") == [b"a=1", b"b=2"]


def test_rule_16_cookie_crumbs_are_one_cookie_for_http_1(way, serve):
    def handler(conn):
        while head := conn.head():
            text = "|".join(it.decode() for it in head.all("cookie")) + " " + head.get("host")
            conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(text)}\r\n\r\n{text}")

    way = way(serve(handler).port)
    with H2Client(way) as client:
        _, body, _ = client.answer(client.request(("cookie", "a=1"), ("cookie", "b=2")))
        assert body == b"a=1; b=2 foo.qa"


def test_rule_16_h2_fields_pass_byte_for_byte(way, serve):
    seen = []

    def handler(peer, stream, fields):
        seen.extend(fields)
        peer.headers(
            stream, [(":status", "200"), ("x-a", b"\xe9"), ("x-b", "1"), ("x-b", "2")], end=True
        )

    way = way(serve(h2_peer(handler)).port, scheme="h2c")
    with H2Client(way) as client:
        stream = client.request(
            ("x-text", b"\xfc"), ("te", "trailers"), ("x-n", "1"), ("x-n", "2"), path="/a%2F?q="
        )
        head = client.wait(h2.events.ResponseReceived, stream).headers
    for field in [
        (b":path", b"/a%2F?q="),
        (b":authority", b"foo.qa"),
        (b"x-text", b"\xfc"),
        (b"te", b"trailers"),
    ]:
        assert field in seen, field
    assert [value for name, value in seen if name == b"x-n"] == [b"1", b"2"]
    assert (b"x-a", b"\xe9") in head
    assert [value for name, value in head if name == b"x-b"] == [b"1", b"2"]


@PEERS
def test_an_early_answer_arrives_while_the_upload_goes_on(way, serve, scheme):
    """The peer refuses after the head; the client hears of it in the middle of its upload."""
    if scheme == "http":

        def handler(conn):
            conn.head()
            conn.send("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nno!")
            conn.ends()

    else:

        def answer(peer, stream, _fields):
            peer.headers(stream, [(":status", "413"), ("content-length", "3")])
            peer.send(stream, b"no!", end=True)

        handler = h2_peer(answer)
    way = way(serve(handler).port, scheme=scheme)
    with H2Client(way) as client:
        stream = client.request(("content-length", "99999"), method="POST", end=False)
        client.send(stream, b"abc")
        head, body, _ = client.answer(stream)
        assert (head[b":status"], head[b"content-length"], body) == (b"413", b"3", b"no!")


@PEERS
def test_lengths_are_kept(way, serve, scheme):
    """Of the request, and of the answer, from HTTP/2 to a peer of either kind."""
    lengths = []
    if scheme == "http":

        def handler(conn):
            while head := conn.head():
                lengths.append(head.get("content-length"))
                assert "transfer-encoding" not in head.names()
                conn.body(head)
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc")

    else:

        def answer(peer, stream, fields):
            lengths.append(dict(fields)[b"content-length"].decode())
            peer.wait(h2.events.StreamEnded, stream)
            peer.headers(stream, [(":status", "200"), ("content-length", "3")])
            peer.send(stream, b"abc", end=True)

        handler = h2_peer(answer)
    way = way(serve(handler).port, scheme=scheme)
    with H2Client(way) as client:
        stream = client.request(("content-length", "5"), method="POST", end=False)
        client.send(stream, b"hello", end=True)
        head, body, _ = client.answer(stream)
    assert (lengths, head[b"content-length"], body) == (["5"], b"3", b"abc")


@PEERS
def test_rule_16_options_asterisk_passes(way, serve, scheme):
    seen = []
    if scheme == "http":

        def handler(conn):
            while head := conn.head():
                seen.append((head.method, head.target))
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    else:

        def answer(peer, stream, fields):
            seen.append((dict(fields)[b":method"].decode(), dict(fields)[b":path"].decode()))
            peer.headers(stream, [(":status", "200")], end=True)

        handler = h2_peer(answer)
    way = way(serve(handler).port, scheme=scheme)
    with H2Client(way) as client:
        head, _, _ = client.answer(client.request(method="OPTIONS", path="*"))
    assert head[b":status"] == b"200"
    assert seen == [("OPTIONS", "*")]


def test_trailers_pass_without_announcement(way, serve):
    got = []

    def handler(peer, stream, _fields):
        got.append(peer.take(peer.wait(h2.events.DataReceived, stream)))
        got.append(dict(peer.wait(h2.events.TrailersReceived, stream).headers))
        peer.headers(stream, [(":status", "200")])
        peer.send(stream, b"ok")
        peer.headers(stream, [("x-sum", "42")], end=True)

    way = way(serve(h2_peer(handler)).port, scheme="h2c")
    with H2Client(way) as client:
        stream = client.request(method="POST", end=False)
        client.send(stream, b"abc")
        client.headers(stream, [("x-check", "7")], end=True)
        head, body, trailers = client.answer(stream)
    assert got == [b"abc", {b"x-check": b"7"}]
    assert (head[b":status"], body, dict(trailers)) == (b"200", b"ok", {b"x-sum": b"42"})


@PEERS
def test_streams_do_not_wait_for_each_other(way, serve, scheme):
    """The second of two requests on a connection is answered while the first one hangs."""
    if scheme == "http":

        def handler(conn):
            while head := conn.head():
                if head.target == "/hang":
                    conn.ends()
                    return
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    else:

        def answer(peer, stream, fields):
            if (b":path", b"/hang") not in fields:
                peer.headers(stream, [(":status", "200")], end=True)

        handler = h2_peer(answer)
    way = way(serve(handler).port, scheme=scheme)
    with H2Client(way) as client:
        client.request(path="/hang")
        head, _, _ = client.answer(client.request(path="/now"))
        assert head[b":status"] == b"200"


# The ends of answers. The peers wait until the client has the beginning: what is cut before that
# may as well be a 502.


def test_a_reset_by_the_peer_is_a_reset_for_the_client(way, serve):
    begun = threading.Event()

    def handler(peer, stream, _fields):
        peer.headers(stream, [(":status", "200")])
        peer.send(stream, b"half")
        assert begun.wait(PATIENCE)
        peer.reset(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)

    way = way(serve(h2_peer(handler)).port, scheme="h2c")
    with H2Client(way) as client:
        stream = client.request()
        assert client.take(client.wait(h2.events.DataReceived, stream)) == b"half"
        begun.set()
        client.is_reset(stream)


def test_a_cut_http_1_answer_is_a_reset_for_an_http_2_client(way, serve):
    begun = threading.Event()

    def handler(conn):
        conn.head()
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        assert begun.wait(PATIENCE)

    way = way(serve(handler).port)
    with H2Client(way) as client:
        stream = client.request()
        assert client.take(client.wait(h2.events.DataReceived, stream)) == b"half"
        begun.set()
        client.is_reset(stream)


def test_a_reset_http_2_answer_is_cut_for_an_http_1_client(way, serve):
    begun = threading.Event()

    def handler(peer, stream, _fields):
        peer.headers(stream, [(":status", "200")])
        peer.send(stream, b"half")
        assert begun.wait(PATIENCE)
        peer.reset(stream)

    way = way(serve(h2_peer(handler)).port, scheme="h2c")
    with connect(way.port) as client:
        client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
        assert client.head().get("transfer-encoding") == "chunked"
        assert client.chunk() == b"half"
        begun.set()
        assert client.rest() == b"", "and no last chunk"


@pytest.mark.parametrize("scheme", ["http", "h2c"])
def test_an_answer_that_is_cut_at_once_never_looks_complete(way, serve, scheme):
    """Head, half a body and the end come in one piece, many times over."""
    if scheme == "http":

        def handler(conn):
            conn.head()
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")

    else:

        def answer(peer, stream, _fields):
            peer.state.send_headers(stream, [(":status", "200")])
            peer.state.send_data(stream, b"half")
            peer.reset(stream)

        handler = h2_peer(answer)
    way = way(serve(handler).port, scheme=scheme)
    with H2Client(way) as client:
        for _ in range(20):
            stream = client.request()
            ended = client.wait((h2.events.StreamReset, h2.events.StreamEnded), stream)
            head = next((it for it in client.events if getattr(it, "stream_id", 0) == stream), None)
            if isinstance(ended, h2.events.StreamEnded):
                assert dict(head.headers)[b":status"] == b"502"


def test_an_idle_connection_that_the_peer_leaves_is_not_used(way, serve):
    def handler(peer, stream, _fields):
        peer.state.send_headers(stream, [(":status", "200")], end_stream=True)
        peer.state.close_connection()
        peer.flush()
        peer.conn.ends()
        raise EOFError

    server = serve(h2_peer(handler))
    way = way(server.port, scheme="h2c")
    with H2Client(way) as client:
        for _ in range(5):
            head, _, _ = client.answer(client.request())
            assert head[b":status"] == b"200"
    assert len(server.connections) == 5


def test_a_request_that_meets_a_goaway_is_sent_again(way, serve):
    """GOAWAY names the last stream that was seen: the one after it is safe to send elsewhere
    (RFC 9113, section 6.8).
    """

    def handler(peer, stream, _fields):
        if stream > 1:
            peer.state.close_connection(last_stream_id=1)
            peer.flush()
            peer.conn.ends()
            raise EOFError
        peer.headers(stream, [(":status", "200")], end=True)

    server = serve(h2_peer(handler))
    way = way(server.port, scheme="h2c")
    with H2Client(way) as client:
        for _ in range(4):
            head, _, _ = client.answer(client.request())
            assert head[b":status"] == b"200"
    assert len(server.connections) == 4


def test_a_refused_stream_is_sent_again(way, serve):
    """REFUSED_STREAM says that nothing was done about it (RFC 9113, section 8.7)."""
    refused = []

    def handler(peer, stream, _fields):
        if not refused and stream > 1:
            refused.append(stream)
            peer.reset(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
        else:
            peer.headers(stream, [(":status", "200")], end=True)

    way = way(serve(h2_peer(handler)).port, scheme="h2c")
    with H2Client(way) as client:
        for _ in range(3):
            head, _, _ = client.answer(client.request())
            assert head[b":status"] == b"200"
    assert refused


def test_an_http_1_peer_behind_h2c_is_a_protocol_error(rerouted_way, serve):
    def handler(conn):
        conn.until(b"\r\n\r\n")
        conn.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        conn.ends()

    way = rerouted_way(serve(handler).port, scheme="h2c")
    with H2Client(way) as client:
        head, body, _ = client.answer(client.request())
    assert head[b":status"] == b"502"
    assert b"h2c:// in front of the target" in body


def test_rule_17_without_a_scheme_an_http_2_client_reaches_an_http_1_target(way_of, serve):
    way = way_of(ways.REROUTED, serve(answering("HTTP/1")).port)
    with H2Client(way) as client:
        head, body, _ = client.answer(client.request())
    assert (head[b":status"], body) == (b"200", b"HTTP/1 GET / ")
