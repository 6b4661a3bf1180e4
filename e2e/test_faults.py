"""What a peer can do wrong, one thing after the other: the answer, its fields, its body, and the
metric (rule 12).
"""

import json
import queue

import pytest

from support import faults, ways
from support.faults import AFTER_CONNECT, AFTER_CONNECT_H2, CLOSED, NOT_HTTP, REFUSED, post, post_grpc
from support.process import PATIENCE
from support.verdicts import (
    is_answered_for,
    is_refused,
    is_reported,
    is_reported_to_grpc,
    is_unharmed,
)
from support.wire import answering, connect


# Before the connection.


def test_rule_12_nobody_listens(way, nobody):
    way = way(nobody)
    is_reported(way, post(way), REFUSED, f"127.0.0.1:{nobody}")


def test_rule_12_a_malformed_contract(rerouted_way, serve):
    peer = serve(answering("peer"))
    way = rerouted_way(peer.port)
    way.fields["x-devroute"] = '{"checkout":"127.0.0.1:80"'
    head, body = post(way)
    assert (head.status, json.loads(body)["cause"]) == (400, "malformed")
    assert head.get("proxy-status").startswith("devroute; error=http_request_error; ")
    assert not peer.connections
    is_refused(way, "malformed")


@pytest.mark.parametrize(
    "target", ["169.254.169.254:80", "203.0.113.7:80", "[fe80::1]:80", "0.0.0.0:80"]
)
def test_rule_12_a_target_that_is_not_allowed(rerouted_way, serve, target):
    way = rerouted_way(serve(answering("peer")).port)
    way.fields["x-devroute"] = json.dumps({ways.SERVICE: target})
    head, body = post(way)
    problem = json.loads(body)
    assert (head.status, problem["service"], problem["target"]) == (403, ways.SERVICE, target)
    assert head.get("proxy-status").startswith("devroute; error=destination_ip_prohibited; ")
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=none; reason={problem['cause']}"
    is_refused(way, problem["cause"])


# After it.


@AFTER_CONNECT
def test_rule_12_no_answer_comes_of_it(way, serve, handler, fault):
    peer = serve(handler)
    way = way(peer.port)
    is_reported(way, post(way), fault, f"127.0.0.1:{peer.port}")
    assert len(peer.connections) == 1, "a request that may have been seen is not sent again"


def test_rule_12_nobody_listens_for_a_grpc_call(way, nobody):
    way = way(nobody)
    is_reported_to_grpc(way, post_grpc(way), REFUSED, f"127.0.0.1:{nobody}")


@AFTER_CONNECT_H2
def test_rule_12_no_answer_comes_of_it_over_http_2(way, serve, handler, fault):
    peer = serve(handler)
    way = way(peer.port, scheme="h2c")
    is_reported(way, post(way), fault, f"h2c://127.0.0.1:{peer.port}")
    assert len(peer.connections) == 1, "a request that may have been seen is not sent again"


@pytest.mark.parametrize(
    ("handler", "fault"),
    [
        (faults.close_before_the_head, CLOSED),
        (faults.h2_reset_of_the_stream, CLOSED),
        (faults.h2_no_preface, NOT_HTTP),
        (faults.h2_flood_of_1xx, NOT_HTTP),
    ],
    ids=lambda it: getattr(it, "__name__", None),
)
def test_rule_12_no_answer_comes_of_a_grpc_call(way, serve, handler, fault):
    """Behind `http`, where a gRPC request is recognised."""
    peer = serve(handler)
    way = way(peer.port)
    is_reported_to_grpc(way, post_grpc(way), fault, f"127.0.0.1:{peer.port}")
    assert len(peer.connections) == 1


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
    is_unharmed(way, requests=1)


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
    is_unharmed(way, requests=3)


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
    is_unharmed(way, requests=3)


@pytest.mark.parametrize("body", ["1 EUR", ""], ids=["body", "no body"])
def test_a_request_that_may_not_be_repeated_is_not(way, serve, body):
    paid = []

    def handler(conn):
        for turn in range(2):
            head = conn.head()
            paid.append(conn.body(head))
            if turn == 0:
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    peer = serve(handler)
    way = way(peer.port)
    with connect(way.port) as client:
        answers = []
        for _ in range(2):
            client.send(
                f"POST /pay HTTP/1.1\r\nhost: foo\r\ncontent-length: {len(body)}\r\n"
                f"{way.lines}\r\n{body}"
            )
            answers.append(client.answer())
    assert [head.status for head, _ in answers] == [200, 502]
    is_answered_for(way, answers[1], CLOSED, f"127.0.0.1:{peer.port}")
    assert paid == [body.encode()] * 2
    assert len(peer.connections) == 1


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
    is_unharmed(way, requests=10)
