"""Host names as targets (rules 3 and 5), with a name server that lies, changes its mind, fails or is slow."""

import json
import socket
import time

import pytest

from support import dns, namespace, ways
from support.process import PATIENCE, Devroute
from support.wire import Server, answering, connect

NAME = "laptop.lab"
LAPTOP = "10.9.0.1"
#: Where nothing listens.
EMPTY = "10.9.0.2"
EMPTY_V6 = "fd00:9::2"
DENIED = "10.9.5.1"

SETUP = f"""{namespace.SETUP}
ip link add names type veth peer name others
ip link set others up
ip address add {LAPTOP}/24 dev names
ip address add {EMPTY}/24 dev names
ip address add {DENIED}/24 dev names
ip -6 address add fd00:9::1/64 dev names nodad
ip -6 address add {EMPTY_V6}/64 dev names nodad
ip link set names up
"""


class World:
    """A laptop, somebody who must not be reached at the same port, a name server, and a sidecar."""

    def __init__(self, started, folder):
        resolv = folder / "resolv.conf"
        resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", encoding="ascii")
        self.names = dns.Names()
        started.append(self.names)
        self.laptop = self.server(started, (LAPTOP, 0), "laptop")
        self.port = self.laptop.port
        self.secret = self.server(started, ("127.0.0.1", self.port), "secret")
        self.denied = self.server(started, (DENIED, self.port), "denied")
        self.baseline = self.server(started, ("127.0.0.1", 0), "baseline")
        self.sidecar = Devroute(
            "sidecar",
            f"--service={ways.SERVICE}",
            f"--upstream=http://127.0.0.1:{self.baseline.port}",
            "--allow-suffix=.lab",
            f"--deny={DENIED}",
            prefix=namespace.named_by(resolv),
        )
        started.append(self.sidecar)

    def server(self, started, address, text):
        server = Server(answering(text), socket.create_server(address))
        started.append(server)
        return server

    def ask(self, name=NAME, port=None):
        """The answer to a request with a contract for this name: status, cause or body, and seconds."""
        contract = json.dumps({ways.SERVICE: f"{name}:{port or self.port}"})
        began = time.monotonic()
        with connect(self.sidecar.port) as client:
            client.send(f"GET / HTTP/1.1\r\nhost: foo\r\nx-devroute: {contract}\r\n\r\n")
            head, body = client.answer()
        said = json.loads(body)["cause"] if head.status >= 400 else body.split()[0].decode()
        return head.status, said, time.monotonic() - began

    def nobody_else_was_reached(self):
        return not (self.secret.connections or self.denied.connections or self.baseline.connections)


@pytest.fixture
def world(started, tmp_path):
    reason = namespace.why_not()
    if reason:
        pytest.skip(f"{reason}: host names are not tested")
    space = namespace.Namespace(SETUP)
    started.append(space)
    world = space.run(lambda: World(started, tmp_path))
    world.run = space.run
    return world


def asked(world, answers, name=NAME, **kwargs):
    world.names.answers[name] = answers
    return world.run(lambda: world.ask(name, **kwargs))


def test_rule_05_the_judged_address_is_dialled_though_the_name_has_another_one_by_then(world):
    # What is said to whoever asks again is this machine.
    status, said, _ = asked(world, [[LAPTOP], ["127.0.0.1"]])
    assert (status, said) == (200, "laptop")
    assert world.names.lookups(NAME) == 1, "nobody asks twice for one request"
    # The next request asks anew, and a connection that is open does not spare it the judgement.
    status, said, _ = world.run(world.ask)
    assert (status, said) == (403, "loopback")
    assert world.names.lookups(NAME) == 2
    assert len(world.laptop.connections) == 1
    assert world.nobody_else_was_reached()


def test_rule_05_a_name_that_changes_with_each_question_never_leads_astray(world):
    turn = iter(range(10**6))
    world.names.answers[NAME] = lambda: [LAPTOP] if next(turn) % 3 else ["127.0.0.1"]
    seen = [world.run(world.ask)[:2] for _ in range(60)]
    # A question for each kind of address, so any of the two may be astray.
    assert set(seen) <= {(200, "laptop"), (403, "loopback"), (502, "dns_failed")}
    assert (200, "laptop") in seen and (403, "loopback") in seen
    assert world.nobody_else_was_reached()


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ([LAPTOP, "127.0.0.1"], "loopback"),
        (["127.0.0.1", LAPTOP], "loopback"),
        ([LAPTOP, "169.254.169.254"], "metadata"),
        ([LAPTOP, "::1"], "loopback"),
        ([LAPTOP, "::ffff:169.254.169.254"], "metadata"),
        ([LAPTOP, "::ffff:127.0.0.1"], "loopback"),
        ([LAPTOP, "64:ff9b::a9fe:a9fe"], "embedded_ipv4"),
        ([LAPTOP, "fd00:ec2::254"], "metadata"),
        ([LAPTOP, "fd00:c1::a9fe:a9fe"], "metadata"),
        ([LAPTOP, "fe80::1"], "link_local"),
        ([LAPTOP, "0.0.0.0"], "unspecified"),
        ([LAPTOP, "::"], "unspecified"),
        ([LAPTOP, "8.8.8.8"], "public"),
        ([LAPTOP, "100.64.0.1"], "cgnat"),
        ([LAPTOP, "224.0.0.1"], "multicast"),
        ([LAPTOP, DENIED], "denied"),
        (["fd00:9::1", "2002:a9fe:a9fe::1"], "embedded_ipv4"),
        ([f"{NAME}>a.lab", "a.lab>b.test", "b.test=127.0.0.1"], "loopback"),
        ([f"{NAME}>a.lab", f"a.lab={LAPTOP}", "a.lab=169.254.169.254"], "metadata"),
        ([*(f"10.9.0.{n}" for n in range(1, 120)), "127.0.0.1"], "loopback"),
    ],
    ids=lambda it: it if isinstance(it, str) else it[-1],
)
def test_rule_05_one_address_that_is_refused_refuses_the_name(world, answer, cause):
    assert asked(world, [answer])[:2] == (403, cause)
    assert not world.laptop.connections
    assert world.nobody_else_was_reached()


@pytest.mark.parametrize(
    "answer",
    [
        [LAPTOP],
        [f"::ffff:{LAPTOP}"],
        [f"{NAME}>a.lab", "a.lab>b.lab", "b.lab>outside.test", f"outside.test={LAPTOP}"],
        [LAPTOP, LAPTOP, LAPTOP],
    ],
    ids=["one", "mapped", "by other names", "three times"],
)
def test_rule_03_a_name_leads_to_its_address(world, answer):
    assert asked(world, [answer])[:2] == (200, "laptop")
    assert world.nobody_else_was_reached()


@pytest.mark.parametrize(
    "first",
    [EMPTY_V6, EMPTY, namespace.BLACK_HOLE, namespace.UNROUTABLE],
    ids=["refused over IPv6", "refused", "black hole", "no route"],
)
def test_rule_03_the_next_judged_address_is_tried(world, first):
    # Whichever of them the resolver puts first.
    assert asked(world, [[first, LAPTOP]])[:2] == (200, "laptop")
    assert world.nobody_else_was_reached()


def test_rule_03_of_many_addresses_few_are_tried(world):
    status, said, took = asked(world, [[f"10.231.0.{n}" for n in range(2, 102)]])
    # Of a network that swallows all of it.
    assert (status, said) in {(504, "connect_timeout"), (502, "unreachable")}
    assert took < PATIENCE / 2
    status, said, _ = asked(world, [[EMPTY, EMPTY_V6]], name="none.lab")
    assert (status, said) == (502, "connection_refused")


@pytest.mark.parametrize(
    ("answer", "status", "cause"),
    [
        (dns.NXDOMAIN, 502, "dns_failed"),
        (dns.SERVFAIL, 502, "dns_failed"),
        (dns.REFUSED, 502, "dns_failed"),
        ([], 502, "dns_failed"),
        ([f"{NAME}>a.lab", f"a.lab>{NAME}"], 502, "dns_failed"),
        ([f"{NAME}>gone.lab"], 502, "dns_failed"),
        # The system gives up after a second here, the layer after two.
        (dns.SILENCE, 502, "dns_failed"),
    ],
    ids=["NXDOMAIN", "SERVFAIL", "REFUSED", "empty", "circle", "leads nowhere", "silence"],
)
def test_rule_12_a_name_without_an_address(world, answer, status, cause):
    found, said, took = asked(world, [answer])
    if answer == dns.SILENCE and (found, said) == (504, "dns_timeout"):
        assert took >= 1.9
    else:
        assert (found, said) == (status, cause)
    assert took < PATIENCE / 2
    assert world.nobody_else_was_reached()


def test_rule_03_a_slow_name_server_is_waited_for(world):
    def slowly():
        time.sleep(0.4)
        return [LAPTOP]

    status, said, took = asked(world, slowly)
    assert (status, said) == (200, "laptop")
    assert took >= 0.4


@pytest.mark.parametrize("name", ["laptop.test", "lab", "evil-lab", "laptop.lab.test", "localhost"])
def test_rule_05_what_has_another_suffix_is_not_even_looked_up(world, name):
    assert asked(world, [[LAPTOP]], name=name)[:2] == (403, "host_name")
    assert world.names.asked == []
