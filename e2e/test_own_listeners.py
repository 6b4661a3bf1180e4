"""A contract never leads into the proxy itself: none of its listeners, by none of this machine's addresses (rule 5)."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess

import pytest

from support import dns, namespace, ways
from support.process import Devroute
from support.wire import Server, answering, connect

SETUP = f"""{namespace.SETUP}
ip link add home type veth peer name others
ip link set others up
ip address add 10.9.0.1/24 dev home
ip address add 10.9.0.2/24 dev home
ip address add 10.7.0.1/32 dev lo
ip -6 address add fd00:9::1/64 dev home nodad
ip link set home up
"""

#: As an interface has them when the proxy starts.
ADDRESSES = [
    "127.0.0.1",
    "127.8.8.8",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f08:808]",
    "10.9.0.1",
    "10.9.0.2",
    "10.7.0.1",
    "[::ffff:10.9.0.1]",
    "[::ffff:a09:2]",
    "[fd00:9::1]",
    "[FD00:9:0:0:0:0:0:1]",
    "[fd00:9::0.0.0.1]",
]
#: What becomes an address of the machine after that; 10.77/16 as a whole, without an interface that has it.
LATER = ["10.9.0.3", "[::ffff:10.9.0.3]", "[fd00:9::3]", "10.77.1.2"]
ADD_LATER = """
ip address add 10.9.0.3/24 dev home
ip -6 address add fd00:9::3/64 dev home nodad
ip route add local 10.77.0.0/16 dev lo
"""
EVERYTHING = [
    "--allow=loopback",
    "--allow=0.0.0.0/0:1-65535",
    "--allow=[::/0]:1-65535",
    "--allow-suffix=.lab",
]


@pytest.fixture
def space(started):
    reason = namespace.why_not()
    if reason:
        pytest.skip(f"{reason}: the addresses of a machine are not tested")
    space = namespace.Namespace(SETUP)
    started.append(space)
    return space


def start(space, started, mode, everywhere, prefix=()):
    """A proxy whose listeners are all on all addresses: the proxy, and its ports."""

    def inside():
        baseline = Server(answering("baseline"))
        started.append(baseline)
        flags = EVERYTHING
        if mode == "sidecar":
            flags = [
                *flags,
                f"--service={ways.SERVICE}",
                f"--upstream=http://127.0.0.1:{baseline.port}",
                f"--outbound={everywhere}:0",
                "--outbound-exposed=true",
            ]
        proxy = Devroute(
            mode, *flags, prefix=prefix, listen=f"{everywhere}:0", admin=f"{everywhere}:0"
        )
        started.append(proxy)
        proxy.baseline = baseline
        return proxy

    proxy = space.run(inside)
    ports = [proxy.port, proxy.admin]
    if mode == "sidecar":
        ports.append(int(json.loads(proxy.lines.first())["outbound"].rpartition(":")[2]))
    return proxy, ports


def ask(proxy, target):
    """The status, the cause and the mark of the answer to a contract with this target."""
    lines = f"x-devroute: {json.dumps({ways.SERVICE: target})}\r\n"
    if proxy.mode == "router":
        lines += f"x-devroute-matched: {ways.SERVICE}\r\n"
    with connect(proxy.port) as client:
        client.send(f"GET /metrics HTTP/1.1\r\nhost: foo\r\n{lines}\r\n")
        head, body = client.answer()
    cause = json.loads(body)["cause"] if head.status >= 400 else None
    return head.status, cause


def listens_at(pid):
    """The ports that a process listens at."""
    links = []
    for each in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        # What the process closes between the two calls is no listener.
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(each))
    found = set()
    for table in "tcp", "tcp6":
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text("ascii").splitlines()[1:]:
            local, state, inode = (line.split()[column] for column in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in links:
                found.add(int(local.rpartition(":")[2], 16))
    return found


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "[::]"])
@pytest.mark.parametrize("mode", ["sidecar", "router"])
def test_rule_05_no_listener_is_reached_by_any_address_of_the_machine(
    space, started, mode, everywhere
):
    proxy, ports = start(space, started, mode, everywhere)
    assert listens_at(proxy.pid) == set(ports), "every listener there is is tried"

    def every(addresses):
        for port in ports:
            for address in addresses:
                for scheme in "", "http://", "h2c://":
                    target = f"{scheme}{address}:{port}"
                    assert ask(proxy, target) == (403, "own_listener"), target

    space.run(lambda: every(ADDRESSES))
    space.run(lambda: subprocess.run(["sh", "-ec", ADD_LATER], check=True))
    # One that listens on IPv4 alone cannot be reached over IPv6 at all.
    later = [it for it in LATER if everywhere == "[::]" or "fd00" not in it]
    space.run(lambda: every(later))
    assert proxy.baseline.connections == []

    # The same ports where no listener of this process is are targets like others.
    def elsewhere():
        return ask(proxy, f"{namespace.UNROUTABLE}:{proxy.admin}")

    assert space.run(elsewhere) == (502, "unreachable")


def test_the_same_port_of_another_machine_is_a_target(space, started):
    """As laptops have it whose application listens where the sidecar does."""
    laptop = namespace.Namespace("ip link set lo up")
    started.append(laptop)
    moved = f"""
        ip link set others netns {laptop.holder.pid}
        nsenter --net=/proc/{laptop.holder.pid}/ns/net sh -ec '
            ip address add 10.9.0.9/24 dev others
            ip link set others up'
    """
    space.run(lambda: subprocess.run(["sh", "-ec", moved], check=True))
    for everywhere in "0.0.0.0", "[::]":
        proxy, ports = start(space, started, "sidecar", everywhere)
        for port in ports:
            where = ("10.9.0.9", port)
            says = laptop.run(lambda where=where: Server(answering("laptop"), socket.create_server(where)))
            started.append(says)
            answer = space.run(lambda port=port: ask(proxy, f"10.9.0.9:{port}"))
            assert answer == (200, None), (everywhere, port)


def test_rule_05_nor_by_a_name(space, started, tmp_path):
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", encoding="ascii")
    names = space.run(dns.Names)
    started.append(names)
    prefix = namespace.named_by(resolv)
    proxy, ports = start(space, started, "sidecar", "0.0.0.0", prefix)
    space.run(lambda: subprocess.run(["sh", "-ec", ADD_LATER], check=True))
    for address in "127.0.0.1", "10.9.0.2", "10.9.0.3", "10.77.1.2", "::ffff:10.9.0.1":
        names.answers["home.lab"] = [[address]]
        for port in ports:
            answer = space.run(lambda port=port: ask(proxy, f"home.lab:{port}"))
            assert answer == (403, "own_listener"), (address, port)


def test_a_socket_that_is_connected_to_itself_is_a_refused_connection(space, started):
    proxy, _ = start(space, started, "sidecar", "0.0.0.0")

    def inside():
        # Every outgoing connection gets this port, so one that leads to it leads to itself.
        with open("/proc/sys/net/ipv4/ip_local_port_range", "w", encoding="ascii") as it:
            it.write("45000 45000")
        return ask(proxy, "127.0.0.1:45000")

    assert space.run(inside) == (502, "connection_refused")
