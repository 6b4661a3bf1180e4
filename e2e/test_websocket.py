"""WebSocket: tunnelled as bytes after the peer's 101 (rule 17), between the `websockets` package's
own client and server, and between a browser and that server.
"""

import contextlib
import queue
import socket
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_websocket

from support import ways
from support.process import PATIENCE
from support.websocket import WebSocketServer
from support.wire import connect


@pytest.fixture
def peer(started):
    def peer(handler, **options):
        made = WebSocketServer(handler, **options)
        started.append(made)
        return made

    return peer


def client_of(way, path="/", **options):
    return connect_websocket(
        f"ws://{way.address}{path}",
        additional_headers=way.fields,
        proxy=None,
        max_size=None,
        open_timeout=PATIENCE,
        close_timeout=PATIENCE,
        **options,
    )


def echo(websocket):
    for message in websocket:
        websocket.send(message)


def test_messages_of_both_kinds_come_back_in_order(way, peer):
    way = way(peer(echo).port)
    with client_of(way) as client:
        assert client.response.headers.get("x-devroute-routed") == way.mark
        for message in ["text ü", b"\x00\xff", "", b"", "x" * 70_000]:
            client.send(message)
            assert client.recv(PATIENCE) == message


def test_path_and_subprotocol_are_the_peers_business(way, peer):
    peer = peer(echo, subprotocols=["v2", "v1"])
    way = way(peer.port)
    with client_of(way, "/chat?room=1", subprotocols=["v1", "v2", "v3"]) as client:
        assert client.subprotocol == "v2"
        request = peer.requests.get(timeout=PATIENCE)
        assert request.path == "/chat?room=1"
        assert request.headers["host"] == way.address


def test_the_clients_close_code_and_reason_arrive(way, peer):
    closed = queue.Queue()

    def handler(websocket):
        try:
            websocket.recv(PATIENCE)
        except ConnectionClosed as end:
            closed.put((end.rcvd.code, end.rcvd.reason))

    with client_of(way(peer(handler).port)) as client:
        client.close(4001, "done here")
    assert closed.get(timeout=PATIENCE) == (4001, "done here")


def test_the_peers_close_code_and_reason_arrive(way, peer):
    with client_of(way(peer(lambda websocket: websocket.close(4002, "go away")).port)) as client:
        with pytest.raises(ConnectionClosed) as end:
            client.recv(PATIENCE)
        assert (end.value.rcvd.code, end.value.rcvd.reason) == (4002, "go away")


def test_fragments_stay_fragments(way, peer):
    """Nothing puts the frames of a message together on the way."""
    got = queue.Queue()

    def handler(websocket):
        got.put(list(websocket.recv_streaming()))
        websocket.send(["a", "b", "c"])

    with client_of(way(peer(handler, compression=None).port), compression=None) as client:
        client.send(["one ", "two ", "", "three"])
        assert "".join(got.get(timeout=PATIENCE)) == "one two three"
        assert [it for it in client.recv_streaming() if it] == ["a", "b", "c"]


def test_a_fragment_arrives_before_the_next_is_sent(way, peer):
    def handler(websocket):
        for fragment in websocket.recv_streaming():
            if fragment:
                websocket.send(f"got {fragment}")

    with client_of(way(peer(handler, compression=None).port), compression=None) as client:

        def fragments():
            yield "first"
            assert client.recv(PATIENCE) == "got first"
            yield "second"

        client.send(fragments())
        assert client.recv(PATIENCE) == "got second"


def test_16_mib_messages_pass(way, peer):
    message = bytes(range(256)) * (16 * 4096)
    assert len(message) == 16 * 2**20
    with client_of(way(peer(echo, compression=None).port), compression=None) as client:
        client.send(message)
        assert client.recv(PATIENCE) == message


def test_pings_are_answered_by_the_other_side(way, peer):
    """The payload of a pong can only come from whoever was pinged, in both directions."""
    ponged = threading.Event()

    def handler(websocket):
        if websocket.ping(b"from the peer").wait(PATIENCE):
            ponged.set()
        echo(websocket)

    with client_of(way(peer(handler).port)) as client:
        assert client.ping(b"from the client").wait(PATIENCE)
        # A client of this package answers pings while it lives; nothing else has to be received.
        assert ponged.wait(PATIENCE)


def test_20_connections_at_once_do_not_mix(way, peer):
    way = way(peer(echo).port)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client_of(way)) for _ in range(20)]
        for turn in range(10):
            for number, client in enumerate(clients):
                client.send(f"{number} {turn}")
            for number, client in reversed(list(enumerate(clients))):
                assert client.recv(PATIENCE) == f"{number} {turn}"


@pytest.mark.parametrize("status", [403, 404])
def test_a_refused_upgrade_is_a_plain_answer(way, peer, status):
    def refuse(connection, _request):
        return connection.respond(status, "not for you\n")

    way = way(peer(echo, process_request=refuse).port)
    with pytest.raises(InvalidStatus) as refused:
        client_of(way)
    response = refused.value.response
    assert (response.status_code, response.body) == (status, b"not for you\n")
    assert response.headers.get("x-devroute-routed") == way.mark


# The ends of tunnels.

HANDSHAKE = (
    "GET / HTTP/1.1\r\nhost: foo\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
SWITCH = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"


def test_a_half_closed_tunnel_still_carries_the_other_half(way, serve):
    def handler(conn):
        head = conn.head()
        assert head.get("upgrade") == "websocket"
        assert head.get("connection").lower() == "upgrade"
        assert head.get("sec-websocket-key") == "dGhlIHNhbXBsZSBub25jZQ=="
        conn.send(SWITCH)
        assert conn.rest() == b"all of it"
        conn.send("the answer", " after the end")

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(f"{HANDSHAKE}{way.lines}\r\n")
        assert client.head().status == 101
        client.send("all of it")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b"the answer after the end"


def test_a_half_closing_peer_still_hears_the_client(way, serve):
    heard = queue.Queue()

    def handler(conn):
        conn.head()
        conn.send(SWITCH, "goodbye")
        conn.sock.shutdown(socket.SHUT_WR)
        heard.put(conn.rest())

    way = way(serve(handler).port)
    with connect(way.port) as client:
        client.send(f"{HANDSHAKE}{way.lines}\r\n")
        assert client.head().status == 101
        assert client.rest() == b"goodbye"
        client.send("still here")
        client.sock.shutdown(socket.SHUT_WR)
        assert heard.get(timeout=PATIENCE) == b"still here"


def test_a_client_that_is_gone_ends_the_tunnel(way, serve):
    ended, open_ = queue.Queue(), threading.Event()

    def handler(conn):
        conn.head()
        conn.send(SWITCH)
        open_.set()
        ended.put(conn.ends())

    way = way(serve(handler).port)
    client = connect(way.port)
    client.send(f"{HANDSHAKE}{way.lines}\r\n")
    assert client.head().status == 101
    assert open_.wait(PATIENCE)
    gone = time.monotonic()
    client.reset()
    assert ended.get(timeout=PATIENCE) - gone < 1


# What devroute answers itself.


def test_rule_12_a_laptop_that_is_down_is_a_plain_502(rerouted_way, nobody):
    with pytest.raises(InvalidStatus) as refused:
        client_of(rerouted_way(nobody))
    response = refused.value.response
    assert response.status_code == 502
    assert b'"cause":"connection_refused"' in response.body


def test_rule_13_the_baseline_gets_the_upgrade_when_the_laptop_is_down(way_of, peer, nobody):
    baseline = peer(echo)
    flags = ["--allow=loopback", "--on-failure=fallback"]
    way = way_of(ways.BASELINE, baseline.port, flags=flags)
    way.fields["x-devroute"] = f'{{"checkout":"127.0.0.1:{nobody}"}}'
    with client_of(way) as client:
        mark = client.response.headers["x-devroute-routed"]
        assert mark == "checkout=baseline; reason=connection_refused"
        client.send("hello")
        assert client.recv(PATIENCE) == "hello"
