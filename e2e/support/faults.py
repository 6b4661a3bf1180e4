"""What a peer can do wrong once it has been connected to, and what has to come of it."""

import dataclasses

import h2.errors
import h2.events
import pytest

from .http2 import H2, H2Client, h2_peer
from .wire import connect

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


def post_grpc(way):
    """Sends the head and one message of a gRPC call; the head, body and trailers of its answer."""
    with H2Client(way) as client:
        fields = [("content-type", "application/grpc"), ("te", "trailers")]
        stream = client.request(*fields, method="POST", path="/echo.Echo/Unary", end=False)
        client.send(stream, b"\0\0\0\0\x03abc", end=True)
        return client.answer(stream)


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
    # It ends when it is hung up on: one that ended by itself would be a closed connection.
    while True:
        conn.send("HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n" * 1000)


def endless_head(conn):
    conn.body(conn.head())
    conn.send("HTTP/1.1 200 OK\r\n")
    while True:
        conn.send("x-more: " + "x" * 1000 + "\r\n")


def unasked_upgrade(conn):
    conn.body(conn.head())
    conn.send("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: something\r\n\r\n")
    conn.ends()


# The same over HTTP/2, and what only it knows.


LEFT = object()


def h2_fault(fault):
    """A peer that takes a whole request, does `fault(peer, stream)`, and waits until it is left, unless
    that says that it has left itself.
    """

    def handler(peer, stream, _fields):
        peer.wait(h2.events.StreamEnded, stream)
        if fault(peer, stream) is not LEFT:
            peer.conn.ends()
        raise EOFError

    serve = h2_peer(handler)
    serve.__name__ = fault.__name__
    return serve


@h2_fault
def h2_close_before_the_head(_peer, _stream):
    return LEFT


@h2_fault
def h2_reset_of_the_connection(peer, _stream):
    peer.conn.reset()
    return LEFT


@h2_fault
def h2_reset_of_the_stream(peer, stream):
    peer.reset(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)


@h2_fault
def h2_refused_stream(peer, stream):
    """On a new connection: there is no reason to believe that another one would be served."""
    peer.reset(stream, h2.errors.ErrorCodes.REFUSED_STREAM)


@h2_fault
def h2_goaway(peer, _stream):
    peer.state.close_connection(last_stream_id=0)
    peer.flush()


@h2_fault
def h2_protocol_error(peer, stream):
    peer.reset(stream, h2.errors.ErrorCodes.PROTOCOL_ERROR)


@h2_fault
def h2_trailers_first(peer, stream):
    peer.header_block(stream, [("x-a", "1")], end=True)


@h2_fault
def h2_upper_case_name(peer, stream):
    peer.header_block(stream, [(":status", "200"), ("X-A", "1")], end=True)


@h2_fault
def h2_data_without_a_head(peer, stream):
    peer.conn.send(b"\0\0\2\0\0" + stream.to_bytes(4, "big") + b"ab")


@h2_fault
def h2_unknown_settings_length(peer, _stream):
    peer.conn.send(b"\0\0\1\4\0\0\0\0\0x")


@h2_fault
def h2_flood_of_1xx(peer, stream):
    # HEADERS with END_HEADERS, and `:status: 103` as a literal (RFC 7541, section 6.2.2).
    early_hints = b"\0\0\5\1\4" + stream.to_bytes(4, "big") + b"\x08\x03103"
    while True:
        peer.conn.send(early_hints * 1000)


@h2_fault
def h2_endless_head(peer, stream):
    peer.header_block(stream, [(":status", "200")], last=False)
    while True:
        peer.continuation(stream, [("x-more", "x" * 1000)])


def h2_garbage(conn):
    H2(conn, is_client=False).wait(h2.events.RequestReceived)
    conn.send(b"\xff" * 100)
    conn.ends()


def h2_no_preface(conn):
    conn.until(b"PRI * HTTP/2.0\r\n\r\n")
    conn.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    conn.ends()


def h2_close_before_the_preface(conn):
    conn.until(b"SM\r\n\r\n")


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

#: What one does that speaks HTTP/2.
AFTER_CONNECT_H2 = pytest.mark.parametrize(
    ("handler", "fault"),
    [
        (h2_close_before_the_preface, CLOSED),
        (h2_close_before_the_head, CLOSED),
        (h2_reset_of_the_connection, CLOSED),
        (h2_reset_of_the_stream, CLOSED),
        (h2_refused_stream, CLOSED),
        (h2_goaway, CLOSED),
        (h2_no_preface, NOT_HTTP),
        (h2_garbage, NOT_HTTP),
        (h2_protocol_error, NOT_HTTP),
        (h2_trailers_first, NOT_HTTP),
        (h2_upper_case_name, NOT_HTTP),
        (h2_data_without_a_head, NOT_HTTP),
        (h2_unknown_settings_length, NOT_HTTP),
        (h2_flood_of_1xx, NOT_HTTP),
        (h2_endless_head, NOT_HTTP),
    ],
    ids=lambda it: getattr(it, "__name__", "cause"),
)
