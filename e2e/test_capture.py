"""iptables redirects what a service sends to the outbound listener of its sidecar: the service knows of no proxy, and the
listener finds out by `Host` where a request goes (docs/protocols.md).
"""

import json
import shutil
import socket

import pytest

from support import namespace
from support.process import PATIENCE, Devroute
from support.wire import Conn, Server, answering, connect

#: The sidecar's own traffic is known by its group, as a pod's proxy is.
SIDECAR = 1338
ADDRESSES = "for address in 10.98.0.50 10.98.1.20; do ip address add $address/32 dev lo; done\n"
NOT_THE_SIDECAR = f"iptables -t nat -A OUTPUT -p tcp -m owner --gid-owner {SIDECAR} -j RETURN\n"
CAPTURE = "iptables -t nat -A OUTPUT -p tcp -d 10.98.0.0/16 -j REDIRECT --to-ports 15001\n"

BAR, LAPTOP = ("10.98.0.50", 8080), ("10.98.1.20", 9999)
#: Names are looked up in a file of the test's.
WITH_HOSTS = ["unshare", "--mount", "sh", "-ec", 'mount --bind "$0" /etc/hosts; exec "$@"']
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Pod:
    """A service that hands on `traceparent` and nothing else, and what iptables does to what it sends."""

    def __init__(self, started, folder, rules, *flags):
        self.started = started
        self.space = self._keep(namespace.Namespace(namespace.SETUP + ADDRESSES + rules))
        self.bar = self.serve(BAR, answering("bar"))
        self.laptop = self.serve(LAPTOP, answering("the laptop"))
        self.host = "bar:8080"
        own = self.serve(("127.0.0.1", 0), self._asks_bar)
        hosts = folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{BAR[0]} bar\n", encoding="ascii")
        flags = [
            "--service=foo",
            f"--upstream=http://127.0.0.1:{own.port}",
            "--outbound=127.0.0.1:15001",
            *flags,
        ]
        self.sidecar = self._keep(
            self.space.run(
                lambda: Devroute("sidecar", *flags, prefix=[*WITH_HOSTS, str(hosts)], group=SIDECAR)
            )
        )

    def _keep(self, process):
        self.started.append(process)
        return process

    def serve(self, at, handler):
        sock = self.space.run(lambda: socket.create_server(at))
        return self._keep(Server(handler, sock))

    def _asks_bar(self, conn):
        while head := conn.head():
            said = self.space.run(lambda head=head: self._ask_bar(head.get("traceparent")))
            conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(said)}\r\n\r\n", said)

    def _ask_bar(self, traceparent):
        with Conn(socket.create_connection(BAR, PATIENCE)) as client:
            line = f"traceparent: {traceparent}\r\n" if traceparent else ""
            client.send(f"GET / HTTP/1.1\r\nhost: {self.host}\r\n{line}\r\n")
            head, body = client.answer()
            return f"{head.status} ".encode() + body

    def ask(self, **entries):
        """What the service was answered by whom it asked."""

        def inside():
            with connect(self.sidecar.port) as client:
                lines = f"traceparent: {TRACEPARENT}\r\n"
                if entries:
                    lines += f"x-devroute: {json.dumps(entries)}\r\n"
                client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{lines}\r\n")
                return client.answer()[1].decode()

        return self.space.run(inside)


@pytest.fixture
def pod(started, tmp_path):
    reason = namespace.why_not()
    if reason:
        pytest.skip(f"{reason}: redirected traffic is not tested")
    if not shutil.which("iptables"):
        pytest.skip("iptables is not installed: redirected traffic is not tested")
    return lambda *arguments: Pod(started, tmp_path, *arguments)


@pytest.fixture
def contracts(monkeypatch):
    """The contracts that came to whoever answered, by `answering`."""
    seen = []
    head = Conn.head

    def keep(conn):
        found = head(conn)
        if found and conn.sock.getsockname() in (BAR, LAPTOP):
            seen.append(found.get("x-devroute"))
        return found

    monkeypatch.setattr(Conn, "head", keep)
    return seen


def test_without_a_redirect_the_contract_is_lost_in_the_service(pod, contracts):
    """The tests below can fail."""
    assert pod("").ask(bar="10.98.1.20:9999") == "200 bar GET / "
    assert contracts == [None]


@pytest.mark.parametrize("host", ["bar:8080", "10.98.0.50:8080"])
def test_rule_11_what_is_redirected_carries_the_contract_on(pod, contracts, host):
    pod = pod(NOT_THE_SIDECAR + CAPTURE)
    pod.host = host
    assert pod.ask() == "200 bar GET / "
    assert pod.ask(bar="10.98.1.20:9999") == "200 bar GET / "
    assert contracts == [None, '{"bar": "10.98.1.20:9999"}']


def test_what_is_redirected_is_rerouted_where_that_is_switched_on(pod, contracts):
    pod = pod(NOT_THE_SIDECAR + CAPTURE, "--outbound-reroute")
    assert pod.ask() == "200 bar GET / "
    assert pod.ask(bar="10.98.1.20:9999") == "200 the laptop GET / "
    assert contracts == [None, '{"bar": "10.98.1.20:9999"}']
    # An address is the name of no service.
    pod.host = "10.98.0.50:8080"
    assert pod.ask(bar="10.98.1.20:9999") == "200 bar GET / "


def test_rule_08_a_redirect_that_catches_the_sidecar_itself_ends(pod):
    pod = pod(CAPTURE)
    assert pod.ask(bar="10.98.1.20:9999").startswith("508 "), "the hops are counted"
    assert not pod.bar.connections
