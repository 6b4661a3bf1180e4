"""A laptop that the cluster cannot reach: behind a gateway that translates addresses, over a link that loses packets,
goes away and comes back (hub and connect, in network namespaces).
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from support import network as networks
from support.process import BINARY, Process, until
from support.tunnel import Hub, Laptop, make_key

APP = pathlib.Path(__file__).parent / "support" / "tunnel_app.py"
LONG = os.environ.get("E2E_LONG") == "1"
CLUSTER = networks.CLUSTER
#: A port of the cluster for each thing that runs there.
HUB, ROUTER, BAR = 8090, 8080, 9000
#: On the laptop.
FOO, PROXY, FORWARD = 8001, 3128, 9100
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
#: A dead peer is detected in ten seconds; the rest is for a busy machine.
DETECTED = 10 + 5


@pytest.fixture
def network():
    reason = networks.why_not()
    if reason:
        pytest.skip(f"{reason}: laptops behind NAT are not tested")
    made = networks.Network()
    yield made
    made.stop()


@pytest.fixture
def world(network, started, tmp_path, tool):
    tool("ssh-keygen", "a hub")
    tool("curl", "a hub")
    return World(network, started, tmp_path)


class World:
    """A cluster with a router, a hub and a service `bar`, and a laptop with its copy of `foo`."""

    def __init__(self, network, started, folder):
        self.network, self.started = network, started
        self.key, line = make_key(folder, "alice")
        self.keys = folder / "authorized_keys"
        self.keys.write_text(line, encoding="utf-8")
        cluster = network.cluster
        router = [BINARY, "router", f"--listen={CLUSTER}:{ROUTER}", "--admin=off", "--workers=1"]
        self.router = self.start(Process(cluster.command(*router)))
        self.router.lines.wait(lambda it: "router listens" in it, "that it listens")
        self.app(cluster, "bar", BAR)
        self.hub = self.start_hub()
        self.app(network.laptop, "foo", FOO, f"http://127.0.0.1:{PROXY}", f"{CLUSTER}:{BAR}")
        self.laptop = self.start(
            Laptop(
                f"http://{CLUSTER}:{HUB}",
                self.key,
                f"foo={FOO}",
                "--insecure-plain",
                f"--proxy={PROXY}",
                f"--forward={FORWARD}={CLUSTER}:{BAR}",
                "--name=alice-laptop",
                machine=network.laptop,
            )
        )
        self.contract = self.laptop.connected()["header"]["value"]

    def start(self, process):
        self.started.append(process)
        return process

    def start_hub(self, ports="43000-43099"):
        return self.start(
            Hub(
                f"--authorized-keys={self.keys}",
                "--plain-exposed",
                f"--ports={ports}",
                machine=self.network.cluster,
                listen=f"{CLUSTER}:{HUB}",
                address=CLUSTER,
            )
        )

    def app(self, machine, *arguments):
        command = machine.command(sys.executable, APP, *arguments)
        app = self.start(Process(command, read="stdout"))
        app.lines.wait(lambda it: "listens" in it, "that it listens")

    def curl(self, machine, *arguments):
        """Status and body of an answer."""
        command = ["curl", "-sS", "--max-time", "30", "-w", "\n%{http_code}", *arguments]
        done = subprocess.run(machine.command(*command), capture_output=True, text=True, check=False)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body, done.stderr

    def foo(self, path="/", *fields):
        """Asks the router for `foo`, with the contract."""
        fields = [f"x-devroute: {self.contract}", "x-devroute-matched: foo", *fields]
        flags = [part for field in fields for part in ("-H", field)]
        status, body, error = self.curl(
            self.network.cluster, *flags, f"http://{CLUSTER}:{ROUTER}{path}"
        )
        return status, json.loads(body) if body else error

    def answers(self):
        return self.foo()[0] == 200

    def latest(self, kind, count):
        """Waits until the laptop has said something of this kind so often; the last of it."""
        until(lambda: len(self.laptop.events(kind)) >= count, f"{count} times {kind}", 60)
        return self.laptop.events(kind)[-1]


def test_a_laptop_behind_nat_is_called_and_calls(world):
    network = world.network
    # There is no way in.
    probe = f"curl -sS --max-time 2 http://10.66.0.1:{FOO}/ || curl -sS --max-time 2 http://{networks.LAPTOP}:{FOO}/"
    with pytest.raises(AssertionError):
        network.cluster.sh(probe)

    status, answer = world.foo("/some?path", f"traceparent: {TRACE}")
    assert (status, answer["name"], answer["path"]) == (200, "foo", "/some?path")
    assert not [name for name in answer["fields"] if name.startswith("devroute-tunnel-")]

    # foo asks bar, through the laptop's proxy and out of the hub, and the contract goes with it.
    status, answer = world.foo("/call", f"traceparent: {TRACE}")
    assert (status, answer["other"]["name"]) == (200, "bar")
    assert json.loads(answer["other"]["fields"]["x-devroute"]) == json.loads(world.contract)

    # By a fixed port, and by a tunnel of its own.
    laptop = network.laptop
    status, body, _ = world.curl(laptop, f"http://127.0.0.1:{FORWARD}/fixed")
    assert (status, json.loads(body)["name"], json.loads(body)["path"]) == (200, "bar", "/fixed")
    assert json.loads(body)["fields"]["host"] == f"{CLUSTER}:{BAR}"
    proxy = ["-x", f"http://127.0.0.1:{PROXY}"]
    status, body, _ = world.curl(laptop, *proxy, "-p", f"http://{CLUSTER}:{BAR}/tunnelled")
    assert (status, json.loads(body)["path"]) == (200, "/tunnelled")
    # Where the policy of the hub allows no request goes none.
    status, body, _ = world.curl(laptop, *proxy, "http://169.254.169.254/latest/meta-data")
    assert (status, json.loads(body)["cause"]) == (403, "prohibited")

    line = world.laptop.lines.wait(lambda it: '"path":"/call"' in it, "of the request")
    line = json.loads(line)
    assert (line["method"], line["status"], line["service"]) == ("GET", 200, "foo")


def test_a_link_that_goes_away_and_comes_back(world):
    assert world.answers()
    world.network.cut()
    gone = time.monotonic()
    # What is in flight is ended, and what comes after that is answered at once.
    status, answer = world.foo()
    assert time.monotonic() - gone < DETECTED
    assert (status, answer["cause"]) == (502, "laptop_disconnected")
    began = time.monotonic()
    status, answer = world.foo()
    assert time.monotonic() - began < 2
    assert status == 502
    assert "alice@laptop" in answer["detail"] and "disconnected at" in answer["detail"]
    assert world.hub.metric("devroute_hub_held_sessions") == 1
    time.sleep(max(0, (30 if LONG else 0) - (time.monotonic() - gone)))

    world.network.mend()
    event = world.latest("resumed", 1)
    assert event["services"] == world.laptop.connected()["services"]
    assert world.answers()
    assert world.hub.metric("devroute_hub_laptops") == 1
    assert world.hub.metric("devroute_hub_held_sessions") == 0


def test_another_source_address(world):
    assert world.answers()
    world.network.move()
    world.latest("resumed", 1)
    until(world.answers, "the laptop at its new address", 30)


@pytest.mark.parametrize("part", [0.05, 0.3 if LONG else 0.15])
def test_packets_are_lost(world, part):
    world.network.lose(part)
    for number in range(20):
        status, answer = world.foo(f"/{number}")
        # A link that bad may be taken for a dead one; then it is opened again.
        if status == 502:
            assert answer["cause"] == "laptop_disconnected"
            until(world.answers, "the laptop again", 60)
            continue
        assert (status, answer["path"]) == (200, f"/{number}")


def test_a_laptop_that_is_killed_and_started_again(world):
    assert world.answers()
    world.laptop.signal(signal.SIGKILL)
    world.laptop.wait()
    status, answer = until(lambda: (it := world.foo())[0] == 502 and it, "the end of the laptop")
    assert answer["cause"] == "laptop_disconnected"
    again = world.start(
        Laptop(
            f"http://{CLUSTER}:{HUB}",
            world.key,
            f"foo={FOO}",
            "--insecure-plain",
            "--name=alice-laptop",
            machine=world.network.laptop,
        )
    )
    # It is known by its key and name.
    assert again.connected()["header"]["value"] == world.contract
    assert again.connected()["resumed"]
    assert world.answers()
    # One that ends as it is meant to leaves nothing.
    again.signal(signal.SIGINT)
    assert again.wait() == 0
    until(lambda: world.hub.metric("devroute_hub_services") == 0, "the end of the session")


def test_a_hub_that_is_killed_and_one_that_is_replaced(world):
    assert world.answers()
    world.hub.signal(signal.SIGKILL)
    world.hub.wait()
    world.latest("lost", 1)
    world.hub = world.start_hub()
    # It knows nothing, and the laptop knows where it was.
    world.latest("resumed", 1)
    assert world.answers()

    # Another one has other addresses; the session is called what it was.
    world.hub.signal(signal.SIGTERM)
    assert world.hub.wait() == 0
    world.hub = world.start_hub("44000-44099")
    event = world.latest("connected", 2)
    assert event["session"] == "alice-laptop"
    world.contract = event["header"]["value"]
    assert ":440" in world.contract
    assert world.answers()


