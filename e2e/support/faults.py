"""What a peer can do wrong once it has been connected to, and what has to come of it."""

import dataclasses

import pytest

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
