"""HTTP/1, byte for byte: what must arrive as if nothing were in between (rules 16 and 17)."""

import queue
import threading

import pytest

from support import ways
from support.process import PATIENCE
from support.wire import answering, connect


def exchange(way, request, *, to="GET"):
    """Sends raw bytes on the way and reads one answer."""
    with connect(way.port) as client:
        client.send(request)
        return client.answer(to=to)


def recording(answer=b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"):
    """A handler that records heads and bodies, and answers all with the same."""
    seen = queue.Queue()

    def handler(conn):
        while head := conn.head():
            seen.put((head, conn.body(head)))
            conn.send(answer)

    return handler, seen


def one(seen):
    return seen.get(timeout=PATIENCE)


def test_an_upstream_may_have_a_name(started, serve):
    sidecar = ways.sidecar_of(f"http://localhost:{serve(answering('peer')).port}")
    started.append(sidecar)
    way = ways.Way(ways.BASELINE, sidecar.port, {}, None, [sidecar])
    assert exchange(way, "GET / HTTP/1.1\r\nhost: foo\r\n\r\n")[1] == b"peer GET / "


# Requests.


@pytest.mark.parametrize(
    "target",
    ["/", "/a%2Fb/../c//d;p=1", "/?q=%20%zz&&=", "/~!$&'()*+,;=:@", "/a?b?c/d", "/%C3%BC"],
)
def test_rule_16_method_path_and_query_pass_byte_for_byte(way, serve, target):
    handler, seen = recording()
    way = way(serve(handler).port)
    exchange(way, f"PURGE {target} HTTP/1.1\r\nhost: foo.qa\r\n{way.lines}\r\n")
    head, _ = one(seen)
    assert (head.method, head.target) == ("PURGE", target)


def test_rule_16_the_baseline_gets_what_was_sent_and_nothing_else(way_of, serve):
    handler, seen = recording()
    way = way_of(ways.BASELINE, serve(handler).port)
    fields = [("host", b"foo.qa:81"), ("x-a", b"1"), ("accept", b"*/*"), ("x-a", b"2")]
    lines = "".join(f"{name}: {value.decode()}\r\n" for name, value in fields)
    exchange(way, f"GET / HTTP/1.1\r\n{lines}\r\n")
    head, _ = one(seen)
    assert sorted(head.fields) == sorted(fields)
    assert head.all("x-a") == [b"1", b"2"]


def test_rule_16_a_rerouted_request_says_where_it_comes_from(rerouted_way, serve):
    handler, seen = recording()
    way = rerouted_way(serve(handler).port)
    answer, _ = exchange(way, f"GET / HTTP/1.1\r\nhost: foo.qa\r\n{way.lines}\r\n")
    head, _ = one(seen)
    hops = 2 if way.kind == ways.VIA_ROUTER else 1
    assert head.get("host") == "foo.qa"
    assert head.get("x-forwarded-host") == "foo.qa"
    assert head.get("x-forwarded-proto") == "http"
    assert head.get("x-forwarded-for") == ", ".join(["127.0.0.1"] * hops)
    assert head.all("via") == [b"1.1 devroute"] * hops
    assert head.get("x-devroute-matched") == ways.SERVICE
    assert head.get("x-devroute") == way.fields["x-devroute"]
    assert head.get("baggage").startswith("devroute=%7B%22checkout%22%3A%22127.0.0.1%3A")
    assert answer.get("x-devroute-routed") == way.mark


@pytest.mark.parametrize("fields", ["forwarded", "both"])
def test_rule_16_forwarded_is_told_where_it_is_asked_for(fields, way_of, serve):
    """To a target, and by the other switch to the baseline; what came in stays in front."""
    element = 'for=127.0.0.1;host="foo.qa:81";proto=http'
    for kind, switches in [
        (ways.REROUTED, []),
        (ways.ROUTER, []),
        (ways.BASELINE, ["--forwarded-on=all"]),
    ]:
        handler, seen = recording()
        way = way_of(kind, serve(handler).port, flags=(f"--forwarded={fields}", *switches))
        exchange(
            way, f"GET / HTTP/1.1\r\nhost: foo.qa:81\r\nforwarded: for=unknown\r\n{way.lines}\r\n"
        )
        head, _ = one(seen)
        assert head.get("forwarded") == f"for=unknown, {element}", kind
        assert head.all("via") == [b"1.1 devroute"]
        assert head.get("x-forwarded-for") == ("127.0.0.1" if fields == "both" else None)


def test_rule_16_hop_by_hop_fields_end_at_the_hop(way, serve):
    handler, seen = recording(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x-hop\r\nx-hop: 1\r\n"
        b"keep-alive: timeout=9\r\nx-kept: 1\r\n\r\nok"
    )
    way = way(serve(handler).port)
    answer, _ = exchange(
        way,
        "GET / HTTP/1.1\r\nhost: foo\r\nconnection: keep-alive, x-mine\r\nx-mine: 1\r\n"
        "keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nte: gzip, trailers\r\n"
        f"x-kept: 1\r\n{way.lines}\r\n",
    )
    head, _ = one(seen)
    gone = {"x-mine", "keep-alive", "proxy-connection", "connection"}
    assert not head.names() & gone
    assert head.get("te") == "trailers"
    assert head.get("x-kept") == "1"
    assert not answer.names() & {"x-hop", "keep-alive"}
    assert answer.get("x-kept") == "1"


def test_rule_16_obs_text_and_repeated_fields_pass_both_ways(way, serve):
    handler, seen = recording(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nset-cookie: a=1; Path=/\r\nx-text: caf\xe9 \xff\r\n"
        b"set-cookie: b=2, c\r\nset-cookie: a=1; Path=/\r\n\r\nok"
    )
    way = way(serve(handler).port)
    answer, _ = exchange(
        way,
        b"GET / HTTP/1.1\r\nhost: foo\r\nx-text: \xfcber\r\naccept: a\r\naccept: b\r\naccept: a\r\n"
        + way.lines.encode()
        + b"\r\n",
    )
    head, _ = one(seen)
    assert head.all("x-text") == [b"\xfcber"]
    assert head.all("accept") == [b"a", b"b", b"a"]
    assert answer.all("set-cookie") == [b"a=1; Path=/", b"b=2, c", b"a=1; Path=/"]
    assert answer.all("x-text") == [b"caf\xe9 \xff"]


def test_rule_16_absolute_form_becomes_origin_form_with_its_own_host(way, serve):
    handler, seen = recording()
    way = way(serve(handler).port)
    exchange(way, f"GET http://foo.qa:81/a?b HTTP/1.1\r\nhost: other\r\n{way.lines}\r\n")
    head, _ = one(seen)
    assert (head.target, head.get("host")) == ("/a?b", "foo.qa:81")


def test_rule_16_options_asterisk_passes(way, serve):
    handler, seen = recording()
    way = way(serve(handler).port)
    exchange(way, f"OPTIONS * HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
    head, _ = one(seen)
    assert (head.method, head.target) == ("OPTIONS", "*")


def test_a_chunked_upload_streams_even_with_get(way, serve):
    """A body of unknown length stays chunked, and its first chunk arrives before the second is sent."""
    first = queue.Queue()

    def handler(conn):
        head = conn.head()
        assert head.get("transfer-encoding") == "chunked"
        assert not head.get("content-length")
        first.put(conn.chunk())
        rest = b""
        while data := conn.chunk():
            rest += data
        conn.trailers()
        conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(rest)}\r\n\r\n", rest)

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(f"GET / HTTP/1.1\r\nhost: foo\r\ntransfer-encoding: chunked\r\n{way.lines}\r\n")
        client.send("5\r\nfirst\r\n")
        assert first.get(timeout=PATIENCE) == b"first"
        client.send("6\r\nsecond\r\n0\r\n\r\n")
        assert client.answer()[1] == b"second"


def test_announced_trailers_pass_both_ways(way, serve):
    got = queue.Queue()

    def handler(conn):
        head = conn.head()
        body = b""
        while data := conn.chunk():
            body += data
        got.put((head, body, conn.trailers()))
        conn.send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n"
            "2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n"
        )

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(
            "POST / HTTP/1.1\r\nhost: foo\r\nte: trailers\r\ntrailer: x-check\r\n"
            f"transfer-encoding: chunked\r\n{way.lines}\r\n3\r\nabc\r\n0\r\nx-check: 7\r\n\r\n"
        )
        head, body, trailers = one(got)
        assert (body, trailers) == (b"abc", [("x-check", b"7")])
        assert head.get("trailer") == "x-check"
        answer = client.head()
        assert answer.get("trailer") == "x-sum"
        assert client.chunk() == b"ok"
        assert client.chunk() == b""
        assert client.trailers() == [("x-sum", b"42")]


def test_http_1_0_clients_get_no_chunks(way, serve):
    def handler(conn):
        head = conn.head()
        assert head.start[2] == b"HTTP/1.1", "the outgoing version is our own"
        conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(f"GET / HTTP/1.0\r\nhost: foo\r\n{way.lines}\r\n")
        head = client.head()
        assert head.status == 200
        assert "transfer-encoding" not in head.names()
        assert client.rest() == b"hello"


def test_http_1_0_clients_may_keep_their_connection(way, serve):
    """Where the length is known, and they ask for it (RFC 9112, section 9.3)."""
    way = way(serve(answering("peer")).port)
    with connect(way.port) as client:
        for number in range(3):
            client.send(
                f"GET /{number} HTTP/1.0\r\nhost: foo\r\nconnection: keep-alive\r\n{way.lines}\r\n"
            )
            head, body = client.answer()
            assert (head.get("connection"), body) == ("keep-alive", f"peer GET /{number} ".encode())
        client.send(f"GET /last HTTP/1.0\r\nhost: foo\r\n{way.lines}\r\n")
        assert client.answer()[1] == b"peer GET /last "
        assert client.rest() == b""


def test_http_1_0_targets_are_understood(way, serve):
    def handler(conn):
        conn.head()
        conn.send("HTTP/1.0 200 Fine\r\nx-a: 1\r\n\r\nall until the end")

    way = way(serve(handler).port)
    with connect(way.port) as client:
        for _ in range(2):
            client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
            head, body = client.answer()
            assert head.start[0] == b"HTTP/1.1"
            assert head.get("transfer-encoding") == "chunked"
            assert body == b"all until the end"


# Answers.


def test_head_keeps_the_length_and_has_no_body(way, serve):
    handler, seen = recording(b'HTTP/1.1 200 OK\r\ncontent-length: 1234\r\netag: "x"\r\n\r\n')
    way = way(serve(handler).port)
    with connect(way.port) as client:
        for _ in range(2):
            client.send(f"HEAD /x HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
            head, _ = client.answer(to="HEAD")
            assert (head.status, head.get("content-length"), head.get("etag")) == (200, "1234", '"x"')
            assert one(seen)[0].method == "HEAD"


def test_the_length_of_a_request_is_kept(way, serve):
    handler, seen = recording()
    way = way(serve(handler).port)
    for length in [0, 1, 70_000]:
        exchange(
            way,
            f"PUT / HTTP/1.1\r\nhost: foo\r\ncontent-length: {length}\r\n{way.lines}\r\n" + "x" * length,
        )
        head, body = one(seen)
        assert (head.all("content-length"), len(body)) == ([str(length).encode()], length)
        assert "transfer-encoding" not in head.names()


def test_a_304_has_no_body_and_loses_its_length(way, serve):
    handler, _ = recording(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1234\r\n\r\n")
    way = way(serve(handler).port)
    with connect(way.port) as client:
        for _ in range(2):
            client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
            head = client.head()
            assert (head.status, head.get("content-length")) == (304, None)
        assert client.buffer == b""


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_without_a_body_keep_the_connection(way, serve, status):
    handler, _ = recording(f'HTTP/1.1 {status}\r\netag: "x"\r\n\r\n'.encode())
    way = way(serve(handler).port)
    with connect(way.port) as client:
        for _ in range(2):
            client.send(f'GET / HTTP/1.1\r\nhost: foo\r\nif-none-match: "x"\r\n{way.lines}\r\n')
            head, _ = client.answer()
            assert (head.status, head.get("etag")) == (int(status[:3]), '"x"')
            assert "transfer-encoding" not in head.names()


def test_a_304_with_a_length_has_no_body_all_the_same(way, serve):
    """The length is that of the answer which a GET would have had (RFC 9110, section 8.6)."""
    handler, _ = recording(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1234\r\n\r\n")
    server = serve(handler)
    way = way(server.port)
    with connect(way.port) as client:
        for _ in range(3):
            client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
            assert client.head().status == 304
    assert len(server.connections) == 1


@pytest.mark.parametrize("status", [200, 299, 404, 418, 500, 503, 599])
def test_statuses_and_lengths_are_the_targets(way, serve, status):
    handler, _ = recording(f"HTTP/1.1 {status} Odd\r\ncontent-length: 3\r\n\r\nabc".encode())
    way = way(serve(handler).port)
    head, body = exchange(way, f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
    assert (head.status, head.get("content-length"), body) == (status, "3", b"abc")
    assert "proxy-status" not in head.names()


def test_an_answer_may_come_before_the_request_is_read(way, serve):
    """The target refuses an upload after its head; the client hears of it while it still uploads."""

    def handler(conn):
        conn.head()
        conn.send("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno!")
        conn.ends()

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(f"POST / HTTP/1.1\r\nhost: foo\r\ncontent-length: 99999\r\n{way.lines}\r\nabc")
        head, body = client.answer()
        assert (head.status, body) == (413, b"no!")


def test_an_answer_streams_while_the_upload_goes_on(way, serve):
    """Full duplex: chunk n of the answer comes only after chunk n of the request."""

    def handler(conn):
        conn.head()
        conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while data := conn.chunk():
            conn.send(f"{len(data):x}\r\n", data.upper(), "\r\n")
        conn.send("0\r\n\r\n")

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(f"POST / HTTP/1.1\r\nhost: foo\r\ntransfer-encoding: chunked\r\n{way.lines}\r\n")
        assert client.head().status == 200
        for text in ["one", "two", "three"]:
            client.send(f"{len(text):x}\r\n{text}\r\n")
            assert client.chunk() == text.upper().encode()
        client.send("0\r\n\r\n")
        assert client.chunk() == b""


# Connections.


def test_one_connection_serves_many_requests(way, serve):
    server = serve(answering("peer"))
    way = way(server.port)
    with connect(way.port) as client:
        for number in range(50):
            body = "x" * number
            client.send(
                f"POST /{number} HTTP/1.1\r\nhost: foo\r\ncontent-length: {number}\r\n"
                f"{way.lines}\r\n{body}"
            )
            assert client.answer()[1] == f"peer POST /{number} {body}".encode()
    assert len(server.connections) == 1, "its connection to the peer is used again"


def test_pipelined_requests_are_answered_in_sequence(way, serve):
    way = way(serve(answering("peer")).port)
    with connect(way.port) as client:
        client.send(*(f"GET /{n} HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n" for n in range(8)))
        for number in range(8):
            assert client.answer()[1] == f"peer GET /{number} ".encode()


def test_a_pipelined_request_waits_for_the_answer_before_it(way, serve):
    """RFC 9112, section 9.3.2: the second must not be begun where the first may change what it does."""
    asked, may_answer = queue.Queue(), threading.Event()

    def handler(conn):
        while head := conn.head():
            conn.body(head)
            asked.put(head.target)
            assert may_answer.wait(PATIENCE)
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    server = serve(handler)
    way = way(server.port)
    with connect(way.port) as client:
        first = f"POST /1 HTTP/1.1\r\nhost: foo\r\ncontent-length: 3\r\n{way.lines}\r\nabc"
        client.send(first, f"GET /2 HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
        assert asked.get(timeout=PATIENCE) == "/1"
        with pytest.raises(queue.Empty):
            asked.get(timeout=0.3)
        may_answer.set()
        assert [client.answer()[1] for _ in range(2)] == [b"ok", b"ok"]
        assert asked.get(timeout=PATIENCE) == "/2"
    assert len(server.connections) == 1


def test_connection_close_closes(way, serve):
    way = way(serve(answering("peer")).port)
    with connect(way.port) as client:
        client.send(f"GET / HTTP/1.1\r\nhost: foo\r\nconnection: close\r\n{way.lines}\r\n")
        head, body = client.answer()
        assert (head.get("connection"), body) == ("close", b"peer GET / ")
        assert client.rest() == b""


# `Expect: 100-continue`.

EXPECTING = "POST /up HTTP/1.1\r\nhost: foo\r\nexpect: 100-continue\r\ncontent-length: 4\r\n"


def test_rule_16_expect_is_answered_by_the_target_alone(way, serve):
    asked, go_on = threading.Event(), threading.Event()

    def handler(conn):
        head = conn.head()
        assert head.get("expect") == "100-continue"
        asked.set()
        assert go_on.wait(PATIENCE)
        conn.send("HTTP/1.1 100 Continue\r\n\r\n")
        body = conn.body(head)
        conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n", body)

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(f"{EXPECTING}{way.lines}\r\n")
        assert asked.wait(PATIENCE)
        assert client.is_silent(0.3), "nobody but the target says 100"
        go_on.set()
        assert client.head().status == 100
        client.send("body")
        head, body = client.answer()
        assert (head.status, body) == (200, b"body")


@pytest.mark.parametrize("status", [413, 417])
def test_rule_16_a_refused_expectation_is_no_upload(way, serve, status):
    def handler(conn):
        conn.head()
        conn.send(f"HTTP/1.1 {status} No\r\ncontent-length: 2\r\n\r\nno")
        assert conn.rest() == b"", "not a byte of the body came"

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(f"{EXPECTING}{way.lines}\r\n")
        head = client.head()
        assert head.status == status, "and no 100 before"
        assert head.get("connection") == "close", "whose body was not read, it cannot be kept"
        assert client.body(head) == b"no"
        assert client.rest() == b""


def test_rule_16_a_target_that_knows_no_expect_gets_the_body_after_a_while(way, serve):
    def handler(conn):
        head = conn.head()
        body = conn.body(head)
        conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n", body)

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(f"{EXPECTING}{way.lines}\r\n")
        assert client.head().status == 100
        client.send("late")
        assert client.answer()[1] == b"late"


# Upgrades, as far as they are not WebSocket.


def test_rule_17_h2c_is_never_tunnelled(way, serve):
    handler, seen = recording()
    way = way(serve(handler).port)
    head, _ = exchange(
        way,
        "GET / HTTP/1.1\r\nhost: foo\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"
        f"http2-settings: AAMAAABkAAQAAP__\r\n{way.lines}\r\n",
    )
    assert head.status == 200
    assert not one(seen)[0].names() & {"upgrade", "connection", "http2-settings"}


def test_connect_is_refused(way, serve):
    server = serve(answering("peer"))
    way = way(server.port)
    with connect(way.port) as client:
        client.send(f"CONNECT foo:443 HTTP/1.1\r\nhost: foo:443\r\n{way.lines}\r\n")
        head = client.head()
        assert head.status >= 400, head.start
    assert not server.connections


def test_early_bytes_after_an_upgrade_are_not_lost(way, serve):
    """Bytes behind the 101, and behind the request, belong to the tunnel."""

    def handler(conn):
        conn.head()
        conn.send(
            "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nearly from target "
        )
        conn.send(conn.exactly(5))

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(
            f"GET / HTTP/1.1\r\nhost: foo\r\nconnection: upgrade\r\nupgrade: echo\r\n{way.lines}\r\n"
            "hello"
        )
        head = client.head()
        assert (head.status, head.get("upgrade")) == (101, "echo")
        assert client.rest() == b"early from target hello"
