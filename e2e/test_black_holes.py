"""Thousands of reroutes to an address that swallows everything, and those who ask for something else meanwhile (as
root, in a network namespace).
"""

import json
import os
import threading
import time

import pytest

from support import namespace, ways
from support.process import Devroute
from support.wire import Conn, Server, answering, connect

CLIENTS = 300
ROUNDS = 7
#: What `--max-connects` is by default.
AT_ONCE = 64
#: Files that a proxy has open beside its connections, and connections of others.
OTHERS = 64
#: Seconds; far more than an answer takes on a busy machine, and less than any of the time-outs.
PROMPT = 0.5
CONNECT_TIMEOUT = 1.0


@pytest.fixture
def space(started):
    reason = namespace.why_not()
    if reason:
        pytest.skip(f"{reason}: black holes are not tested")
    space = namespace.Namespace()
    started.append(space)
    return space


def request(fields):
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"GET / HTTP/1.1\r\nhost: foo\r\n{lines}\r\n".encode()


def get(conn, fields):
    conn.send(request(fields))
    return conn.answer()


def contract(target, mode):
    fields = {"x-devroute": json.dumps({ways.SERVICE: target})}
    if mode == "router":
        fields["x-devroute-matched"] = ways.SERVICE
    return fields


def swallowed(proxy, mode, laptop):
    """Asks for the black hole, all at once and again and again, and for a laptop meanwhile."""
    lost = contract(f"{namespace.BLACK_HOLE}:80", mode)
    causes, files, times = [], [0], []
    stop = threading.Event()

    def somebody():
        with connect(proxy.port) as conn:
            while not stop.is_set():
                began = time.monotonic()
                head, body = get(conn, contract(f"127.0.0.1:{laptop.port}", mode))
                times.append(time.monotonic() - began)
                assert (head.status, body[:6]) == (200, b"laptop")
                files[0] = max(files[0], len(os.listdir(f"/proc/{proxy.pid}/fd")))
                time.sleep(0.01)

    other = threading.Thread(target=somebody)
    other.start()
    clients: list[Conn] = [connect(proxy.port) for _ in range(CLIENTS)]
    for _ in range(ROUNDS):
        for conn in clients:
            conn.send(request(lost))
        for conn in clients:
            head, body = conn.answer()
            causes.append((head.status, json.loads(body)["cause"]))
    for conn in clients:
        conn.close()
    stop.set()
    other.join()
    return causes, files[0], times


@pytest.mark.parametrize("mode", ["sidecar", "router"])
def test_rule_12_a_black_hole_starves_nobody(space, started, mode):
    def inside():
        laptop = Server(answering("laptop"))
        started.append(laptop)
        flags = ["--allow=loopback", f"--connect-timeout={CONNECT_TIMEOUT:.0f}s"]
        if mode == "sidecar":
            flags += [f"--service={ways.SERVICE}", f"--upstream=http://127.0.0.1:{laptop.port}"]
        proxy = Devroute(mode, *flags)
        started.append(proxy)
        with proxy.grows_less_than(32 * 2**20):
            return swallowed(proxy, mode, laptop), len(proxy.lines.so_far())

    (causes, files, times), lines = space.run(inside)
    assert len(causes) == CLIENTS * ROUNDS
    assert set(causes) == {(504, "connect_timeout")}, "a line of 1024 has room for all of them"
    assert files <= CLIENTS + AT_ONCE + OTHERS
    times.sort()
    assert len(times) > 10
    assert times[len(times) * 99 // 100] < PROMPT
    assert lines < 50 * 40, "the log does not flood"
