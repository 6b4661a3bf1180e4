"""Fixtures: ways to a peer, raw servers, and everything stopped again, by its own handle."""

import contextlib
import os
import pathlib
import shutil
import socket

import pytest

from support import envoy as envoys
from support import grpc_peer, ways
from support.certificates import Authority
from support.chains import Chain, Recorder
from support.process import BINARY, EXAMPLE, TONIC_PEER
from support.servers import Hypercorn
from support.services import KINDS, Service
from support.wire import Server

#: The work directory, which no commit sees.
WORK = pathlib.Path(__file__).parent.parent / "target" / "e2e"


def pytest_sessionstart():
    for binary in (BINARY, EXAMPLE, TONIC_PEER):
        if not shutil.which(binary):
            pytest.exit(f"{binary} is not there: run e2e/run, or cargo build", 4)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left():
    """Nothing that was started here is left. The last test of each process is where that shows."""
    yield
    left = []
    for task in pathlib.Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(OSError):
                command = pathlib.Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ")
                left.append(f"{child}: {command.decode(errors='replace')}")
    assert not left, "processes were left behind:\n  " + "\n  ".join(left)


@pytest.fixture
def started():
    """What a test has started, ended in the reverse order of its start."""
    started = []
    yield started
    with contextlib.ExitStack() as stack:
        for process in started:
            stack.callback(process.stop)


@pytest.fixture
def serve(started):
    """Starts a raw server with this handler."""

    def serve(handler):
        server = Server(handler)
        started.append(server)
        return server

    return serve


@pytest.fixture
def serve_recorder(started):
    """Starts a server that answers with its name, and keeps what it got."""

    def serve_recorder(name):
        started.append(Recorder(name))
        return started[-1]

    return serve_recorder


@pytest.fixture(scope="session")
def service():
    """A service of a kind, with further settings: one for all tests."""
    running = {}

    def service(kind, **settings):
        key = (kind, *settings.items())
        if key not in running:
            running[key] = Service(kind, {**KINDS[kind].settings, **settings})
        return running[key]

    yield service
    for process in running.values():
        process.stop()


@pytest.fixture
def chain(started, service):
    """A chain of services, or of kinds of them, to `c` at its end."""

    def chain(*links, **options):
        links = [service(link) if isinstance(link, str) else link for link in links]
        return Chain(links, started, **options)

    return chain


@pytest.fixture
def nobody():
    """A port that nobody listens on, and that nobody else gets."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def made_ways():
    """The ways of a test, of which only the peer may be reached in the end."""
    made = []
    yield made
    for way in made:
        reached = way.decoy.connections if way.decoy else []
        assert not reached, "a rerouted request reached the baseline"


@pytest.fixture
def way_of(started, made_ways):
    """Makes a way of a kind to a peer, and checks at the end that it alone was reached."""

    def way_of(kind, peer, **options):
        made_ways.append(ways.make(kind, peer, started, **options))
        return made_ways[-1]

    return way_of


@pytest.fixture
def envoy(started):
    """Starts Envoy with a file of `deploy/envoy`; where there is none the test is skipped, and says so."""
    if not envoys.binary():
        pytest.skip("Envoy is not installed: nothing is tested on it")

    def envoy(name, upstreams, **options):
        started.append(envoys.Envoy(name, upstreams, **options))
        return started[-1]

    return envoy


@pytest.fixture
def envoy_way(envoy, started, made_ways):
    """Makes a way through Envoy, as `way_of` does for devroute alone."""

    def envoy_way(kind, peer, **options):
        made_ways.append(envoys.make(kind, peer, started, **options))
        return made_ways[-1]

    return envoy_way


@pytest.fixture(params=ways.ALL)
def way(request, way_of):
    """Makes a way to a peer; the test runs once for each kind of way."""
    return lambda peer, **options: way_of(request.param, peer, **options)


@pytest.fixture(params=ways.REROUTES)
def rerouted_way(request, way_of):
    """Makes a way to a peer that the contract names; once for each kind."""
    return lambda peer, **options: way_of(request.param, peer, **options)


@pytest.fixture
def tool():
    """The path of a system tool; without it the test is skipped, and says so."""

    def tool(name, why):
        path = shutil.which(name)
        if not path:
            pytest.skip(f"{name} is not installed: {why} is not tested")
        return path

    return tool


@pytest.fixture
def authority(tool, tmp_path):
    """Issues certificates for this test."""
    return Authority(tool("openssl", "TLS"), tmp_path)


@pytest.fixture(scope="session")
def protocol(work):
    """The modules of `echo.proto`."""
    # Each process that runs tests has its own, or one would read what another writes.
    into = work / "generated" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
    return grpc_peer.compile_protocol(pathlib.Path(__file__).parent, into)


@pytest.fixture(name="grpc_peer")
def start_grpc_peer(protocol, started):
    """Starts a gRPC server."""

    def start(name="peer"):
        made = grpc_peer.Peer(*protocol, name)
        started.append(made)
        return made

    return start


@pytest.fixture
def grpc_client(protocol):
    """Opens a client on a way; calls go with its metadata."""
    channels = []

    def client(way, credentials=None, **options):
        made = grpc_peer.Client(*protocol, way, credentials, **options)
        channels.append(made.channel)
        return made

    yield client
    for channel in channels:
        channel.close()


@pytest.fixture(scope="module")
def hypercorn():
    """A server that keeps nothing between requests, so that one does for many tests."""
    server = Hypercorn()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def work():
    WORK.mkdir(parents=True, exist_ok=True)
    return WORK
