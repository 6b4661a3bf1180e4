"""Services that know nothing of devroute, run on real OpenTelemetry SDKs, and chains of them."""

import json
import pathlib
import re
import urllib.parse

import pytest

from .process import Devroute, Process
from .wire import Server, connect

SOURCES = pathlib.Path(__file__).parent.parent / "services"
INSTALLED = pathlib.Path(__file__).parent.parent.parent / "target" / "e2e" / "services"

FLASK = "flask"
FASTAPI = "fastapi"
EXPRESS = "express"
GO = "go"

#: Python: Flask with requests and FastAPI with httpx, by `opentelemetry-instrument`. Node: express with
#: fetch, by `auto-instrumentations-node`. All have the SDK's own defaults, and not a line for it.
AUTOMATIC = [FLASK, FASTAPI, EXPRESS]
#: Go's has its propagators called by hand, in the version that Debian has.
ALL = [*AUTOMATIC, GO]

LANGUAGE = {FLASK: "python", FASTAPI: "python", EXPRESS: "node", GO: "go"}

#: How many layers of percent encoding each adds to a member that has one.
ADDED_LAYERS = {FLASK: 0, FASTAPI: 0, EXPRESS: 0, GO: 1}

#: Spans are made and propagated, but not sampled, so that nothing is ever exported.
TRACED = {
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_TRACES_SAMPLER": "always_off",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    # The others ask the metadata services of clouds.
    "OTEL_NODE_RESOURCE_DETECTORS": "env",
}


class Service(Process):
    """A service of a kind, which asks whom its query says; `settings` are what a deployment sets."""

    def __init__(self, kind, settings=None):
        language = LANGUAGE[kind]
        if not (INSTALLED / language / "installed").exists():
            pytest.skip(f"the {language} services are not installed: {kind} is not tested")
        environment = dict(TRACED if settings is None else settings)
        instrumented = [INSTALLED / "python" / "bin" / "opentelemetry-instrument"]
        read = "stdout"
        if language == "python":
            read = "stderr"
            environment["PATH"] = str(INSTALLED / "python" / "bin")
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        if kind == FLASK:
            command = [*instrumented, "flask", "--app", "flask_app", "run", "--port", "0"]
        elif kind == FASTAPI:
            command = [*instrumented, "uvicorn", "fastapi_app:app", "--port", "0"]
        elif kind == EXPRESS:
            environment["NODE_PATH"] = str(INSTALLED / "node" / "node_modules")
            register = "@opentelemetry/auto-instrumentations-node/register"
            command = ["node", "--require", register, "app.js"]
        else:
            command = [INSTALLED / "go" / "service"]
        super().__init__(command, read=read, env=environment, cwd=SOURCES / language)
        self.kind = kind
        line = self.lines.wait(lambda it: "http://127.0.0.1:" in it, "that says where it listens")
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])

    def stop(self):
        # Node's SDK stays after a SIGTERM; none of them has anything to finish.
        self.child.kill()
        super().stop()


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

    Each of `links`, or only the first `sidecars` of them, is behind a sidecar of its own.
    """

    def __init__(self, links, started, *, sidecars=None, say=lambda head: ""):
        def start(process):
            started.append(process)
            return process

        self.laptop = start(Recorder("laptop", say))
        self.baseline = start(Recorder("baseline", say))
        self.c = start(sidecar("c", self.baseline.port, "--allow=loopback"))
        self.services = links
        self.sidecars = [
            start(sidecar(f"b{number}", service.port))
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
    """The URL that goes through services at these ports in turn, to the last of them."""
    *services, last = ports
    url = f"http://127.0.0.1:{last}/last"
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
    while not value.startswith("{"):
        value = urllib.parse.unquote(value, errors="strict")
        layers += 1
        assert layers <= 8, value
    return json.loads(value), layers
