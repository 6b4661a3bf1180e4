"""What is measured, one class a question. A figure is what one round of one peer gave."""

import contextlib
import socket
import time

import load
import machine


class Scenario:
    """One question. `measure` gives the figures of a peer, which are compared within a round."""

    key = ""
    title = ""
    # The figures that `measure` gives, in their order.
    figures = ()
    peers = ("devroute", "devroute-cargo", "hyper", "haproxy", "haproxy-tcp", "nginx", "envoy")
    # Whose figure the others are put in proportion to.
    to = "haproxy"
    rounds = True

    def __init__(self, scale, backend):
        self.scale, self.backend = scale, backend

    def count(self, requests):
        return max(200, int(requests * self.scale))

    def warm_up(self, peer):
        self.measure(peer)

    def measure(self, peer):
        raise NotImplementedError


def spent(pids, work):
    """The CPU time in nanoseconds that processes take for `work`."""
    before = sum(machine.cpu(pid) for pid in pids)
    work()
    return sum(machine.cpu(pid) for pid in pids) - before


class Plain(Scenario):
    key = "plain"
    title = "A request without a contract"
    figures = ("CPU, us a request",)

    def headers(self, _peer):
        return ()

    def measure(self, peer):
        count = self.count(10_000)
        arguments = self.headers(peer)
        took = spent(peer.pids, lambda: load.h2load(peer.port, "/get", count, 64, *arguments))
        return [took / count / 1e3]


class Rerouted(Plain):
    key = "rerouted"
    title = "A contract of three entries, one of them for this service"
    peers = ("devroute", "devroute-cargo", "haproxy", "nginx", "envoy", "reference")

    def headers(self, peer):
        contract = ["-H", f"x-devroute: {self.backend.contract()}"]
        # The reference is told the service by whoever routes to it.
        named = ["-H", "x-devroute-matched: foo"] if peer.name == "reference" else []
        return contract + named


class Body(Scenario):
    peers = ("devroute", "haproxy", "haproxy-tcp", "nginx", "envoy")
    figures = ("CPU, ms a GiB",)
    path, size, requests, connections = "", 0, 0, 0

    def measure(self, peer):
        count = max(self.connections, int(self.requests * self.scale))
        took = spent(peer.pids, lambda: self.transfer(peer, count))
        return [took / 1e6 / (count * self.size / (1 << 30))]

    def transfer(self, peer, count):
        load.h2load(peer.port, self.path, count, self.connections)


class Body1M(Body):
    key = "body-1m"
    title = "Answers of 1 MiB"
    path, size, requests, connections = "/1m", 1 << 20, 256, 16


class Body100M(Body):
    key = "body-100m"
    title = "Answers of 100 MiB"
    path, size, requests, connections = "/100m", 100 << 20, 4, 2


class Upload1M(Body):
    key = "upload-1m"
    title = "Requests of 1 MiB"
    path, size, requests, connections = "/get", 1 << 20, 256, 16

    def transfer(self, peer, count):
        body = f"{self.backend.files}/1m"
        load.h2load(peer.port, self.path, count, self.connections, "-d", body)


class Http2(Scenario):
    key = "http2"
    title = "HTTP/2: 8 connections with 32 streams each, to a service that speaks HTTP/1.1"
    peers = ("devroute", "devroute-cargo", "haproxy", "nginx", "envoy")
    figures = ("CPU, us a request",)
    to = "envoy"

    def measure(self, peer):
        count = self.count(10_000)

        def work():
            load.h2load(peer.h2, "/get", count, 8, "-m32", http1=False)

        return [spent(peer.pids, work) / count / 1e3]


class Grpc(Scenario):
    key = "grpc"
    title = "gRPC: unary calls, 8 connections with 32 streams each, HTTP/2 to the service too"
    peers = ("devroute", "devroute-cargo", "haproxy", "nginx", "envoy")
    figures = ("CPU, us a call",)
    to = "envoy"

    def measure(self, peer):
        count = self.count(10_000)
        took = spent(peer.pids, lambda: load.grpc(peer.grpc, count, 8, 32))
        return [took / count / 1e3]


class Latency(Scenario):
    key = "latency"
    title = "5,000 requests a second, no more and no less, over 64 connections"
    peers = ("devroute", "haproxy", "haproxy-tcp", "nginx", "envoy")
    figures = ("p50, us", "p99, us", "p99.9, us")

    def measure(self, peer):
        times = load.latencies(peer.port, "/get", 5_000, max(1, round(3 * self.scale)), 64)
        return [times[int(len(times) * part)] for part in (0.5, 0.99, 0.999)]


class Connections(Scenario):
    key = "connections"
    title = "A new connection for each request"
    peers = ("devroute", "devroute-cargo", "hyper", "haproxy", "nginx", "envoy")
    figures = ("CPU, us a request",)

    def measure(self, peer):
        done = 0

        def work():
            nonlocal done
            done = load.reconnecting(peer.port, "/get", max(1, round(2 * self.scale)), 16)

        took = spent(peer.pids, work)
        return [took / done / 1e3]


class Memory(Scenario):
    """Of a process that has done nothing before, so it is asked once, and first."""

    key = "memory"
    title = "Memory"
    peers = ("devroute", "haproxy", "nginx", "envoy")
    figures = ("peak at 64 busy connections, MiB", "an idle connection, KiB")
    rounds = False

    def measure(self, peer):
        pid = peer.pids[0]
        load.h2load(peer.port, "/get", 5_000, 64)
        peak = machine.memory(pid, "VmHWM") / 1024
        before = machine.memory(pid, "VmRSS")
        idle = 2_000
        with contextlib.ExitStack() as kept:
            for _ in range(idle):
                client = kept.enter_context(socket.create_connection(("127.0.0.1", peer.port)))
                client.sendall(b"GET /get HTTP/1.1\r\nhost: foo\r\n\r\n")
                if not client.recv(4096).startswith(b"HTTP/1.1 200"):
                    raise load.Failed("an idle connection was not answered")
            each = (machine.memory(pid, "VmRSS") - before) / idle
        time.sleep(0.5)
        return [peak, each]


class Cores(Scenario):
    """A few long connections must not keep one core busy while others idle."""

    key = "cores"
    title = "4 long HTTP/2 connections on two cores: the busier one's share of the work"
    peers = ("devroute-2", "envoy-2")
    figures = ("share of the busier thread, %",)
    to = None

    def measure(self, peer):
        before = machine.threads(peer.pids[0])
        load.h2load(peer.h2, "/get", self.count(10_000), 4, "-m32", http1=False)
        after = machine.threads(peer.pids[0])
        took = [after[thread] - before.get(thread, 0) for thread in after]
        return [100 * max(took) / sum(took)]


ALL = (
    Memory, Plain, Rerouted, Body1M, Body100M, Upload1M,
    Http2, Grpc, Latency, Connections, Cores,
)  # fmt: skip

