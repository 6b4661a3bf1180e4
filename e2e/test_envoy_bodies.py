"""Bodies through a real Envoy stream in both directions, and no process on the way grows: scenarios of
`test_streaming.py`, and 100 MiB there and back at once.
"""

import contextlib
import hashlib
import subprocess

import pytest

from support import envoy as envoys
from support.envoy import rerouted_way as way  # noqa: F401: a fixture
from test_streaming import (  # noqa: F401: scenarios
    GROWTH,
    MIB,
    test_an_event_arrives_before_the_next_is_made,
    test_an_event_arrives_over_http_2,
)

VOLUME = 100 * MIB
#: Long enough for an unoptimised build on a busy machine.
LONG = 45


def echo(conn):
    """Sends back what it gets as it gets it."""
    head = conn.head()
    assert head.get("content-length") == str(VOLUME)
    conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {VOLUME}\r\n\r\n", conn.buffer)
    rest = VOLUME - len(conn.buffer)
    room = memoryview(bytearray(MIB))
    while rest:
        count = conn.sock.recv_into(room)
        assert count
        conn.sock.sendall(room[:count])
        rest -= count


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        (envoys.BASELINE, "--http1.1"),
        (envoys.REROUTED, "--http1.1"),
        # Envoy speaks HTTP/2 to the router then, and the router HTTP/1.1 to the laptop.
        (envoys.REROUTED, "--http2-prior-knowledge"),
    ],
)
def test_100_mib_there_and_back_need_little_memory(envoy_way, serve, tool, tmp_path, kind, version):
    curl = tool("curl", "a large body")
    whole = tmp_path / "whole"
    piece = bytes(range(256)) * (MIB // 256)
    with whole.open("wb") as file:
        file.writelines([piece] * (VOLUME // MIB))
    way = envoy_way(kind, serve(echo).port)
    command = [curl, "-sS", version, *way.curl, "-H", "expect:", "-T", str(whole), way.url]
    with contextlib.ExitStack() as stack:
        for proxy in way.proxies:
            stack.enter_context(proxy.grows_less_than(GROWTH))
        with (tmp_path / "back").open("wb") as back:
            ran = subprocess.run(command, stdout=back, timeout=LONG, check=False, env={})
    assert ran.returncode == 0
    with whole.open("rb") as sent, (tmp_path / "back").open("rb") as got:
        assert hashlib.file_digest(got, "md5").digest() == hashlib.file_digest(sent, "md5").digest()
