"""`devroute contract --router`: what a developer is told whose laptop is in another network."""

import json
import socket
import subprocess

import pytest

from support import lan
from support.process import BINARY, PATIENCE, Process

PORT = 8001


@pytest.fixture
def network(started):
    """A laptop and a cluster with a router in it; asks from the laptop, and returns what is said."""
    reason = lan.why_not()
    if reason:
        pytest.skip(f"{reason}: whether a laptop is reached is not tested")

    def network(**addresses):
        return Network(started, **addresses)

    return network


class Network(lan.Lan):
    def __init__(self, started, **addresses):
        super().__init__(started, **addresses)
        self.started = started
        # Of the laptop; a firewall of its own must not meet what it says to itself.
        self.on(self.laptop, "iptables -A INPUT -i lo -j ACCEPT")

    def router(self, *flags):
        flags = ["--admin=off", "--connect-timeout=500ms", *flags]
        command = [BINARY, "router", f"--listen={lan.CLUSTER}:8080", *flags]
        process = self.cluster.run(lambda: Process(command))
        self.started.append(process)
        assert "listens" in process.lines.first()

    def listen(self, address, space=None):
        """A listener that nobody accepts at: the kernel takes connections to it."""
        space = space or self.laptop
        listener = space.run(lambda: socket.create_server((address, PORT)))
        self.started.append(Closing(listener))

    def ask(self):
        """The status and the JSON of `devroute contract`."""
        url = f"http://{lan.CLUSTER}:8080"
        command = [BINARY, "contract", f"foo={PORT}", "--router", url, "--json"]

        def run():
            return subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE, check=False, env={}
            )

        ran = self.laptop.run(run)
        assert ran.stdout, ran.stderr
        said = json.loads(ran.stdout)
        (entry,) = said["reach"]["entries"]
        assert (ran.returncode == 0) == (entry["finding"] == "reachable")
        return said, entry, "\n".join(entry["advice"])


class Closing:
    def __init__(self, listener):
        self.stop = listener.close


def contract_of(said):
    return json.loads(said["header"]["value"])


def test_a_laptop_that_is_routed_to_is_reached(network):
    network = network()
    network.router()
    network.listen("0.0.0.0")
    said, entry, advice = network.ask()
    assert (entry["finding"], said["reach"]["peer"], advice) == ("reachable", lan.LAPTOP, "")
    assert contract_of(said) == {"foo": f"{lan.LAPTOP}:{PORT}"}


def test_of_two_networks_the_contract_has_the_one_that_the_router_sees(network):
    network = network(other="10.1.2.3")
    network.router()
    network.listen("0.0.0.0")
    said, entry, _ = network.ask()
    assert entry["finding"] == "reachable"
    assert contract_of(said) == {"foo": f"{lan.LAPTOP}:{PORT}"}
    assert {"address": "10.1.2.3", "interface": "other"} in said["alternatives"]


def test_an_application_that_is_bound_to_loopback_only(network):
    network = network()
    network.router()
    network.listen("127.0.0.1")
    _, entry, advice = network.ask()
    assert entry["finding"] == "refused"
    assert f"bound to loopback only: let it listen on 0.0.0.0:{PORT}" in advice


def test_nobody_listens(network):
    network = network()
    network.router()
    _, entry, advice = network.ask()
    assert entry["finding"] == "refused"
    assert advice == f"nothing listens on port {PORT} of this machine: start foo, and ask again"


def test_a_firewall_on_the_laptop(network):
    network = network()
    network.router()
    network.listen("0.0.0.0")
    network.swallow(network.laptop, f"-p tcp --dport {PORT}")
    _, entry, advice = network.ask()
    assert entry["finding"] == "timed_out"
    assert "a firewall, here or on the way" in advice
    assert f"devroute connect foo={PORT}" in advice


@pytest.mark.parametrize("finding", ["refused", "timed_out"])
def test_behind_nat(network, finding):
    network = network()
    network.masquerade()
    if finding == "timed_out":
        network.swallow(network.gateway, f"-p tcp --dport {PORT}")
    network.router()
    network.listen("0.0.0.0")
    said, entry, advice = network.ask()
    assert (entry["finding"], said["reach"]["peer"]) == (finding, lan.GATEWAY)
    assert f"the cluster sees you as {lan.GATEWAY}" in advice
    assert f"(it is {lan.LAPTOP} here)" in advice
    assert f"devroute connect foo={PORT}" in advice


def test_an_open_port_of_the_gateway_is_not_taken_for_the_laptop(network):
    network = network()
    network.masquerade()
    network.listen("0.0.0.0", network.gateway)
    network.router()
    network.listen("0.0.0.0")
    _, entry, advice = network.ask()
    assert entry["finding"] == "not_here"
    assert "does not end on this machine" in entry["text"]
    assert f"devroute connect foo={PORT}" in advice


def test_a_gateway_that_sends_everything_on_is_the_address_of_the_laptop(network):
    network = network()
    network.masquerade()
    network.on(
        network.gateway,
        f"iptables -t nat -A PREROUTING -i wan -p tcp -j DNAT --to-destination {lan.LAPTOP}",
    )
    network.router()
    network.listen("0.0.0.0")
    said, entry, _ = network.ask()
    assert entry["finding"] == "reachable"
    assert contract_of(said) == {"foo": f"{lan.GATEWAY}:{PORT}"}


def test_an_address_of_tailscale_names_its_switch(network):
    laptop = "100.64.77.2"
    network = network(laptop=laptop)
    network.router()
    network.listen("0.0.0.0")
    said, entry, advice = network.ask()
    assert (entry["finding"], said["reach"]["peer"]) == ("not_allowed", laptop)
    assert "can allow it with --allow tailscale" in advice


def test_a_router_that_cannot_be_reached(network):
    network = network()
    said, entry, _ = network.ask()
    assert entry["finding"] == "not_asked"
    assert "cannot be asked" in entry["text"]
    assert contract_of(said) == {"foo": f"{lan.LAPTOP}:{PORT}"}
