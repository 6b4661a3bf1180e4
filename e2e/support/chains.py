"""Chains of services with their sidecars, what goes into them, and what comes out."""

import json
import urllib.parse

from .process import Devroute
from .wire import Server, connect


class Recorder(Server):
    """Answers each request with its name and what `say` makes of the head, and keeps the heads."""

    def __init__(self, name, say=lambda head: ""):
        self.name = name
        self.heads = []

        def handler(conn):
            while head := conn.head():
                conn.body(head)
                self.heads.append(head)
                said = f"{name} {say(head)}".strip().encode()
                conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(said)}\r\n\r\n", said)

        super().__init__(handler)

    def only(self):
        """The head of the only request there was."""
        (head,) = self.heads
        return head


def sidecar(name, port, *flags):
    """A sidecar that does not wait, at its end, for the connections that services keep."""
    upstream = f"--upstream=http://127.0.0.1:{port}"
    return Devroute("sidecar", f"--service={name}", upstream, "--drain-grace=0s", *flags)


class Chain:
    """Services in a row, and at their end the service `c`: a sidecar, its baseline, and a laptop.

    Each of `links`, or only the first `sidecars` of them, is behind a sidecar of its own, with `flags`.
    """

    def __init__(self, links, started, *, sidecars=None, flags=(), say=lambda head: ""):
        def start(process):
            started.append(process)
            return process

        self.laptop = start(Recorder("laptop", say))
        self.baseline = start(Recorder("baseline", say))
        self.c = start(sidecar("c", self.baseline.port, "--allow=loopback"))
        self.services = links
        self.sidecars = [
            start(sidecar(f"b{number}", service.port, *flags))
            for number, service in enumerate(links[:sidecars], 1)
        ]
        self._ports = [it.port for it in self.sidecars + links[len(self.sidecars) :]]

    def contract(self, **others):
        """A contract that sends `c` to the laptop."""
        return {"c": f"127.0.0.1:{self.laptop.port}", **others}

    def ask(self, *fields, last=None):
        """Sends a request through all services to `c`, or to the port `last` behind them."""
        return ask(through(*self._ports, last or self.c.port), *fields)

    def is_answered_by_the_laptop(self, contract, *fields):
        """Asserts that `c` was rerouted, once, and that the laptop has the contract; its head."""
        answer = self.ask(*fields)
        assert answer == (200, "laptop"), answer
        assert (self.c.decisions(), self.baseline.heads) == ({"rerouted": 1}, [])
        head = self.laptop.only()
        assert json.loads(head.get("x-devroute")) == contract
        return head


def through(*ports):
    """The URL that goes through services at these ports in turn, to the last of them or to a URL."""
    *services, last = ports
    url = last if isinstance(last, str) else f"http://127.0.0.1:{last}/last"
    for port in reversed(services):
        url = f"http://127.0.0.1:{port}/?next={urllib.parse.quote(url, safe='')}"
    return url


def ask(url, *fields):
    """Sends a request with these fields, byte for byte; the status and the text of the answer."""
    parts = urllib.parse.urlsplit(url)
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    with connect(parts.port) as conn:
        conn.send(
            f"GET {parts.path}?{parts.query} HTTP/1.1\r\n",
            f"host: {parts.netloc}\r\nconnection: close\r\n",
            lines.encode(),
            "\r\n",
        )
        head, body = conn.answer()
    return head.status, body.decode()


def as_field(contract):
    return "x-devroute", json.dumps(contract, ensure_ascii=False)


def as_member(contract, *others, layers=1):
    """The contract as a member of `baggage`, behind other members, encoded so many times."""
    text = json.dumps(contract, separators=(",", ":"))
    return "baggage", ",".join([*others, f"devroute={encode(text, layers)}"])


def encode(text, layers=1):
    for _ in range(layers):
        text = urllib.parse.quote(text, safe="-._~")
    return text


def members(head):
    """The members of all `baggage` lines of a head, ours and the others."""
    found = [
        member.strip()
        for line in head.all("baggage")
        for member in line.decode("latin-1").split(",")
    ]
    ours = [it.removeprefix("devroute=") for it in found if it.startswith("devroute=")]
    return ours, [it for it in found if not it.startswith("devroute=")]


def decode(value):
    """What a member's value holds, and how many layers of encoding were around it."""
    layers = 0
    # Datadog leaves the brace as it is.
    while not value.startswith('{"'):
        value = urllib.parse.unquote(value, errors="strict")
        layers += 1
        assert layers <= 8, value
    return json.loads(value), layers
