"""Two routers behind HAProxy, one of which ends under load: a request that had not reached it is not lost (docs/scaling.md).

A router holds nothing that another one lacks, so a load balancer may send a request to any of them, and to another one when
the first could not be connected. What had reached a router that is killed is lost, and HAProxy says which requests those are.
"""

import contextlib
import itertools
import json
import threading

import grpc
import pytest

from support import ways
from support.process import Devroute, until
from support.servers import Haproxy
from support.wire import answering, connect

CLIENTS = 4
#: How many requests every client makes before, and after, one of the routers is gone.
ENOUGH = 60


class Load:
    """Clients that ask one after the other until they are told to stop; each request has an id of its own."""

    def __init__(self, asking):
        self.asking = asking
        self.ids = itertools.count(1)
        self.done = [0] * CLIENTS
        #: What went wrong, by the id of the request.
        self.failed = {}
        self.stopped = threading.Event()
        self.threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(CLIENTS)
        ]
        for thread in self.threads:
            thread.start()

    def _run(self, number):
        while not self.stopped.is_set():
            with contextlib.ExitStack() as stack:
                ask = self.asking(stack)
                while not self.stopped.is_set():
                    request = f"r{next(self.ids)}"
                    wrong = ask(request)
                    self.done[number] += 1
                    if wrong:
                        # What was asked may be gone with the connection.
                        self.failed[request] = wrong
                        break

    def go_on(self):
        """Waits until every client has made enough requests from now on."""
        before = list(self.done)
        until(
            lambda: all(now - then >= ENOUGH for now, then in zip(self.done, before, strict=True)),
            "the load",
            60,
        )

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive(), "a client hangs"


@pytest.fixture
def routers(started):
    """Two routers by name."""
    made = {name: Devroute("router", "--allow=loopback") for name in ("one", "two")}
    started.extend(made.values())
    return made


@pytest.fixture(params=["http1", "grpc"])
def balanced(request, routers, started, serve, tool, grpc_peer, grpc_client):
    """HAProxy in front of the routers, load on it, and the routers."""
    program = tool("haproxy", "what several replicas lose")
    is_grpc = request.param == "grpc"
    balancer = Haproxy(program, {name: it.port for name, it in routers.items()}, http2=is_grpc)
    started.append(balancer)
    laptop = grpc_peer() if is_grpc else serve(answering("laptop"))
    contract = {ways.SERVICE: f"127.0.0.1:{laptop.port}"}
    fields = {"x-devroute": json.dumps(contract), "x-devroute-matched": ways.SERVICE}
    way = ways.Way(ways.ROUTER, balancer.port, fields, None, [])

    def http(stack):
        client = stack.enter_context(connect(balancer.port))

        def ask(number):
            lines = "".join(f"{name}: {value}\r\n" for name, value in {**fields, "x-id": number}.items())
            try:
                client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{lines}\r\n")
                head, body = client.answer()
            except (OSError, EOFError, AssertionError) as error:
                return repr(error)
            return None if (head.status, body) == (200, b"laptop GET / ") else f"{head.status} {body}"

        return ask

    def calls(stack):
        client = grpc_client(way)
        stack.callback(client.channel.close)

        def ask(number):
            try:
                call = client.call("Unary", client.text(text=number), metadata=[("x-id", number)])
                said = call.result().text
            except grpc.RpcError as error:
                return f"{error.code()} {error.details()}"
            return None if said == number.upper() else said

        return ask

    load = Load(calls if is_grpc else http)
    started.append(load)
    load.balancer, load.routers = balancer, routers
    load.go_on()
    assert all(it.decisions()["rerouted"] > ENOUGH for it in routers.values()), "both are asked"
    return load


def test_a_router_that_is_told_to_end_loses_nothing(balanced):
    ending = balanced.routers["one"]
    ending.terminate()
    assert ending.wait() == 0
    before = balanced.routers["two"].decisions()["rerouted"]
    balanced.go_on()
    balanced.stop()
    assert balanced.failed == {}
    assert balanced.routers["two"].decisions()["rerouted"] >= before + CLIENTS * ENOUGH


def test_a_router_that_is_killed_loses_what_had_reached_it_and_nothing_else(balanced):
    balanced.routers["one"].child.kill()
    balanced.routers["one"].wait()
    balanced.go_on()
    balanced.stop()
    # At most one for each connection that HAProxy had to it: what each client was waiting for, and what was sent on one
    # that had been kept before HAProxy saw that it is dead.
    assert len(balanced.failed) <= 2 * CLIENTS, balanced.failed
    logged = balanced.balancer.logged
    last = f"r{next(balanced.ids) - 1}"
    until(lambda: last in balanced.failed or last in logged(), "the last line of the log")
    for request, wrong in balanced.failed.items():
        if request in logged():
            server, end, *_ = logged()[request]
            assert server == "one" and end[0] == "S" and end[1] in "HDL", (request, wrong, server, end)
        else:
            # It was sent on a connection that had served before. HAProxy logs nothing then, and closes without an
            # answer, for which clients ask again by themselves (RFC 9112 section 9.3.1).
            assert "closed without an answer" in wrong or "RST_STREAM" in wrong, (request, wrong)
