"""What a peer can do wrong, one thing after the other: the answer, its fields, its body, the metric,
and the proof of who got what (rules 12 to 14).
"""

import dataclasses
import json
import queue
import time

import pytest
from support import namespace, ways
from support.http2 import H2Client
from support.process import PATIENCE
from support.wire import Conn, Server, answering, connect

#: A request with a body that must not be answered twice, or by two.
BODY = "paid twice?"


def post(way, *, lines="", body=BODY):
    """Sends one request and reads its answer."""
    with connect(way.port) as client:
        client.send(
            f"POST /pay HTTP/1.1\r\nhost: foo\r\ncontent-length: {len(body)}\r\n"
            f"{way.lines}{lines}\r\n{body}"
        )
        return client.answer()


def close_at_once(conn):
    conn.reset()


def close_before_the_head(conn):
    conn.body(conn.head())


def reset_before_the_head(conn):
    conn.body(conn.head())
    conn.reset()


def close_in_mid_head(conn):
    conn.body(conn.head())
    conn.send("HTTP/1.1 200 OK\r\nx-half: ")


def garbage(conn):
    conn.body(conn.head())
    conn.send("\x00\x01 this is no HTTP\r\n\r\n")
    conn.ends()


def two_lengths(conn):
    conn.body(conn.head())
    conn.send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab")
    conn.ends()


def flood_of_1xx(conn):
    conn.body(conn.head())
    for _ in range(100_000):
        conn.send("HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")


def endless_head(conn):
    conn.body(conn.head())
    conn.send("HTTP/1.1 200 OK\r\n")
    while True:
        conn.send("x-more: " + "x" * 1000 + "\r\n")


def unasked_upgrade(conn):
    conn.body(conn.head())
    conn.send("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: something\r\n\r\n")
    conn.ends()


@dataclasses.dataclass
class Fault:
    status: int
    cause: str
    proxy_status: str


CLOSED = Fault(502, "connection_closed", "connection_terminated")
NOT_HTTP = Fault(502, "protocol_error", "http_protocol_error")
REFUSED = Fault(502, "connection_refused", "connection_refused")
TIMED_OUT = Fault(504, "connect_timeout", "connection_timeout")
UNROUTABLE = Fault(502, "unreachable", "destination_ip_unroutable")
NO_NAME = Fault(502, "dns_failed", "dns_error")

#: What a target does after it has accepted the connection.
AFTER_CONNECT = pytest.mark.parametrize(
    ("handler", "fault"),
    [
        (close_before_the_head, CLOSED),
        (reset_before_the_head, CLOSED),
        (close_in_mid_head, CLOSED),
        (garbage, NOT_HTTP),
        (two_lengths, NOT_HTTP),
        (flood_of_1xx, NOT_HTTP),
        (endless_head, NOT_HTTP),
        (unasked_upgrade, NOT_HTTP),
    ],
    ids=lambda it: getattr(it, "__name__", "cause"),
)


def is_reported(way, answer, fault, peer):
    """The whole of an answer that devroute gives itself, and the counters."""
    head, body = answer
    problem = json.loads(body)
    assert head.status == problem["status"] == fault.status
    assert head.get("content-type") == "application/problem+json"
    assert head.get("cache-control") == "no-store"
    assert problem["cause"] == fault.cause
    assert problem["title"] and problem["detail"] and problem["help"]
    proxy_status = head.all("proxy-status")[0].decode()
    assert proxy_status.startswith(f"devroute; error={fault.proxy_status}; ")
    if way.kind == ways.BASELINE:
        assert "service" not in problem and "x-devroute-routed" not in head.names()
    else:
        assert (problem["service"], problem["target"]) == (ways.SERVICE, peer)
        assert f'next-hop="{peer}"' in proxy_status
        assert head.get("x-devroute-routed") == f"{ways.SERVICE}=none; reason={fault.cause}"
    is_counted(way, fault.cause)


def is_counted(way, cause):
    """A failure is counted once by each proxy that saw it."""
    if way.kind == ways.EMBEDDED:
        return
    for number, proxy in enumerate(way.proxies):
        if way.kind == ways.BASELINE:
            assert proxy.decisions() == {"none": 1}
            assert proxy.metric(f'devroute_upstream_failures_total{{cause="{cause}"}}') == 1
        else:
            # A sidecar knows only that its router said so.
            seen = "router" if len(way.proxies) > 1 and number == 0 else cause
            assert proxy.decisions() == {"failed": 1}
            assert proxy.metric(f'devroute_reroute_failures_total{{cause="{seen}"}}') == 1


# Before the connection.


def test_rule_12_nobody_listens(way, serve):
    peer = serve(answering("peer"))
    peer.stop()
    way = way(peer.port)
    is_reported(way, post(way), REFUSED, f"127.0.0.1:{peer.port}")


def test_rule_12_a_malformed_contract(rerouted_way, serve):
    peer = serve(answering("peer"))
    way = rerouted_way(peer.port)
    way.fields["x-devroute"] = '{"checkout":"127.0.0.1:80"'
    head, body = post(way)
    assert (head.status, json.loads(body)["cause"]) == (400, "malformed")
    assert head.get("proxy-status").startswith("devroute; error=http_request_error; ")
    assert not peer.connections


@pytest.mark.parametrize("target", ["169.254.169.254:80", "203.0.113.7:80", "[fe80::1]:80", "0.0.0.0:80"])
def test_rule_12_a_target_that_is_not_allowed(rerouted_way, serve, target):
    way = rerouted_way(serve(answering("peer")).port)
    way.fields["x-devroute"] = json.dumps({ways.SERVICE: target})
    head, body = post(way)
    problem = json.loads(body)
    assert (head.status, problem["service"], problem["target"]) == (403, ways.SERVICE, target)
    assert head.get("proxy-status").startswith("devroute; error=destination_ip_prohibited; ")
    assert head.get("x-devroute-routed").startswith(f"{ways.SERVICE}=none; reason=")


# After it.


@AFTER_CONNECT
def test_rule_12_no_answer_comes_of_it(way, serve, handler, fault):
    peer = serve(handler)
    way = way(peer.port)
    is_reported(way, post(way), fault, f"127.0.0.1:{peer.port}")
    assert len(peer.connections) == 1, "a request that may have been seen is not sent again"


@pytest.mark.parametrize(
    "length",
    ["content-length: 100\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"],
    ids=["length", "chunks"],
)
@pytest.mark.parametrize("end", ["close", "reset"])
def test_an_answer_that_is_cut_stays_cut(way, serve, length, end):
    begun = queue.Queue()

    def handler(conn):
        conn.body(conn.head())
        conn.send(f"HTTP/1.1 200 OK\r\n{length}")
        begun.get(timeout=PATIENCE)
        getattr(conn, end)()

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
        head = client.head()
        assert head.status == 200
        chunked = head.get("transfer-encoding") == "chunked"
        assert (client.chunk() if chunked else client.exactly(4)) == b"half"
        begun.put(True)
        client.ends()
        assert client.buffer == b"", "no last chunk, nothing made up"


def test_more_than_the_content_length_is_nobodys(way, serve):
    """What follows the announced length reaches neither this client nor the next."""
    def handler(conn):
        head = conn.head()
        said = f"answer to {head.target}"
        smuggled = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong"
        conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(said)}\r\n\r\n{said}{smuggled}")
        conn.ends()

    peer = serve(handler)
    way = way(peer.port)
    with connect(way.port) as client:
        for number in range(3):
            client.send(f"GET /{number} HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
            assert client.answer()[1] == f"answer to /{number}".encode()
    assert len(peer.connections) == 3


# Pooled connections.


def test_a_pooled_connection_that_closes_as_it_is_used_again_is_invisible(way, serve):
    """The peer closes without a word when the second request comes (RFC 9110, section 9.2.2)."""
    def handler(conn):
        head = conn.head()
        conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(head.target)}\r\n\r\n{head.target}")
        conn.head()

    peer = serve(handler)
    way = way(peer.port)
    with connect(way.port) as client:
        for target in ["/1", "/2", "/3"]:
            client.send(f"GET {target} HTTP/1.1\r\nhost: foo\r\n{way.lines}\r\n")
            assert client.answer()[1] == target.encode()


def test_a_request_that_may_not_be_repeated_is_not(way, serve):
    paid = []

    def handler(conn):
        for turn in range(2):
            head = conn.head()
            paid.append(conn.body(head))
            if turn == 0:
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    way = way(serve(handler).port)
    with connect(way.port) as client:
        statuses = []
        for number in range(2):
            client.send(
                f"POST /pay HTTP/1.1\r\nhost: foo\r\ncontent-length: 1\r\n{way.lines}\r\n{number}"
            )
            statuses.append(client.answer()[0].status)
    assert statuses == [200, 502]
    assert paid == [b"0", b"1"]


def test_idle_connections_that_the_peer_closes_are_not_used(way, serve):
    closed = queue.Queue()

    def handler(conn):
        head = conn.head()
        body = conn.body(head)
        conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n", body)
        conn.close()
        closed.put(True)

    way = way(serve(handler).port)
    with connect(way.port) as client:
        for number in range(10):
            client.send(f"POST / HTTP/1.1\r\nhost: foo\r\ncontent-length: 1\r\n{way.lines}\r\n{number}")
            assert client.answer()[1] == str(number).encode()
            closed.get(timeout=PATIENCE)


# Fallback.


@pytest.fixture
def falling_back(way_of, serve):
    """A sidecar with a fallback, in front of a baseline that says what it got."""

    def falling_back(target):
        baseline = serve(answering("baseline"))
        way = way_of(
            ways.BASELINE, baseline.port, flags=["--allow=loopback", "--on-failure=fallback"]
        )
        way.fields["x-devroute"] = json.dumps({ways.SERVICE: target})
        return way, baseline

    return falling_back


def is_answered_by_the_baseline(way, baseline, cause):
    head, body = post(way)
    assert (head.status, body) == (200, f"baseline POST /pay {BODY}".encode())
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=baseline; reason={cause}"
    assert way.proxies[0].decisions() == {"fallback": 1}
    assert way.proxies[0].metric(f'devroute_reroute_failures_total{{cause="{cause}"}}') == 1
    assert len(baseline.connections) == 1


def test_rule_13_the_baseline_answers_for_a_laptop_that_is_down(falling_back, serve):
    laptop = serve(answering("laptop"))
    laptop.stop()
    way, baseline = falling_back(f"127.0.0.1:{laptop.port}")
    is_answered_by_the_baseline(way, baseline, REFUSED.cause)


@AFTER_CONNECT
def test_rule_13_no_byte_goes_to_two_places(falling_back, serve, handler, fault):
    """The laptop has had the request, so the baseline gets not even a connection."""
    laptop = serve(handler)
    way, baseline = falling_back(f"127.0.0.1:{laptop.port}")
    head, body = post(way)
    assert (head.status, json.loads(body)["cause"]) == (fault.status, fault.cause)
    assert laptop.received > len(BODY)
    assert baseline.received == 0 and not baseline.connections


def test_rule_13_no_byte_goes_to_a_laptop_that_hangs_up_at_once(falling_back, serve):
    """An accepted connection that is reset may or may not have been written to: whoever answers, only
    one of the two has the body.
    """
    laptop = serve(close_at_once)
    way, baseline = falling_back(f"127.0.0.1:{laptop.port}")
    head, _ = post(way)
    assert head.status == (200 if baseline.connections else 502)
    assert laptop.received == 0 or baseline.received == 0


def test_rule_13_the_target_is_asked_first_and_alone(falling_back, serve):
    laptop = serve(answering("laptop"))
    way, baseline = falling_back(f"127.0.0.1:{laptop.port}")
    head, body = post(way)
    assert (head.status, body) == (200, f"laptop POST /pay {BODY}".encode())
    assert baseline.received == 0


def test_rule_13_both_are_down(falling_back, serve):
    laptop = serve(answering("laptop"))
    laptop.stop()
    way, baseline = falling_back(f"127.0.0.1:{laptop.port}")
    baseline.stop()
    head, body = post(way)
    problem = json.loads(body)
    assert (head.status, problem["cause"]) == (502, "connection_refused")
    assert "service itself does not answer" in problem["detail"]
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=baseline; reason=connection_refused"
    proxy = way.proxies[0]
    assert proxy.decisions() == {"fallback": 1}
    for family in ["reroute", "upstream"]:
        assert proxy.metric(f'devroute_{family}_failures_total{{cause="connection_refused"}}') == 1


def test_rule_13_what_is_not_allowed_does_not_fall_back(falling_back):
    way, baseline = falling_back("169.254.169.254:80")
    assert post(way)[0].status == 403
    assert not baseline.connections


def test_rule_13_a_router_that_is_down_falls_back(way_of, serve):
    router, baseline = serve(answering("router")), serve(answering("baseline"))
    router.stop()
    flags = ["--on-failure=fallback", f"--via=127.0.0.1:{router.port}"]
    way = way_of(ways.BASELINE, baseline.port, flags=flags)
    way.fields["x-devroute"] = json.dumps({ways.SERVICE: "10.0.0.1:80"})
    is_answered_by_the_baseline(way, baseline, REFUSED.cause)


def test_an_upload_of_any_size_falls_back_whole(falling_back, serve):
    laptop = serve(answering("laptop"))
    laptop.stop()
    way, _ = falling_back(f"127.0.0.1:{laptop.port}")
    body = "x" * 3_000_000
    assert post(way, body=body)[1] == f"baseline POST /pay {body}".encode()


# Networks that swallow (as root).


@pytest.fixture
def swallowed(started):
    """A namespace, a sidecar with a baseline in it, and how to ask it."""
    reason = namespace.why_not()
    if reason:
        pytest.skip(f"{reason}: black holes are not tested")
    space = namespace.Namespace()
    started.append(space)

    def ask(target, *flags):
        def inside():
            baseline = Server(answering("baseline"))
            started.append(baseline)
            flags_ = ["--connect-timeout=300ms", "--allow-suffix=.test", *flags]
            sidecar = ways.sidecar_of(f"http://127.0.0.1:{baseline.port}", *flags_)
            started.append(sidecar)
            way = ways.Way(
                ways.REROUTED,
                sidecar.port,
                {"x-devroute": json.dumps({ways.SERVICE: target})},
                None,
                [sidecar],
                baseline,
            )
            began = time.monotonic()
            answer = post(way)
            took = time.monotonic() - began
            scraped = (sidecar.decisions(), sidecar.ask_admin("/metrics"))
            return way, answer, took, scraped

        return space.run(inside)

    return ask


LOST = pytest.mark.parametrize(
    ("target", "fault"),
    [
        (f"{namespace.BLACK_HOLE}:80", TIMED_OUT),
        (f"{namespace.UNROUTABLE}:80", UNROUTABLE),
        ("laptop.test:80", NO_NAME),
    ],
    ids=["black hole", "no route", "no name"],
)


@LOST
def test_rule_12_a_target_that_is_lost(swallowed, target, fault):
    way, (head, body), took, (decisions, metrics) = swallowed(target)
    problem = json.loads(body)
    assert (head.status, problem["cause"]) == (fault.status, fault.cause)
    assert problem["target"] == target
    assert f"error={fault.proxy_status};" in head.get("proxy-status")
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=none; reason={fault.cause}"
    assert decisions == {"failed": 1}
    assert f'devroute_reroute_failures_total{{cause="{fault.cause}"}} 1\n' in metrics
    assert not way.decoy.connections
    if fault is TIMED_OUT:
        assert 0.3 <= took < 1.5


@LOST
def test_rule_13_the_baseline_answers_for_a_target_that_is_lost(swallowed, target, fault):
    way, (head, body), _, (decisions, _) = swallowed(target, "--on-failure=fallback")
    assert (head.status, body) == (200, f"baseline POST /pay {BODY}".encode())
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=baseline; reason={fault.cause}"
    assert decisions == {"fallback": 1}
    assert len(way.decoy.connections) == 1


# Clients that go.

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

    def handler(conn: Conn):
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
