"""The sidecar's outbound listener: what goes through it, and contracts through services that hand on
one id and nothing else.

A service is the middle of a chain, as in `test_otel.py`; here its `http_proxy` is its sidecar.
"""

import concurrent.futures
import json
import subprocess

import grpc
import pytest
from websockets.sync.client import connect as connect_websocket
from websockets.sync.server import serve as serve_websocket

from support.chains import as_field, ask, sidecar, through
from support.process import PATIENCE
from support.servers import free_port
from support.services import (
    DATADOG_FLASK,
    FASTAPI,
    FLASK,
    FORWARDING_EXPRESS,
    FORWARDING_FLASK,
    KINDS,
    Service,
)
from support.wire import Server, answering

HALF = "a3ce929d0e0e4736"
TRACE = f"4bf92f3577b34da6{HALF}"
SPAN = "00f067aa0ba902b7"
TRACEPARENT = ("traceparent", f"00-{TRACE}-{SPAN}-01")

RESTORED = 'devroute_contracts_restored_total{id="%s"}'
LOST = 'devroute_propagation_lost_total{service="b1",reason="%s"}'


@pytest.fixture
def proxied_chain(chain, started):
    """A chain through one service, whose `http_proxy` is its sidecar."""

    def proxied_chain(kind, settings, **options):
        outbound = free_port()
        # Nothing here is a host that a client leaves out by itself.
        proxy = {"http_proxy": f"http://127.0.0.1:{outbound}", "no_proxy": ""}
        service = Service(kind, {**KINDS[kind].settings, **settings, **proxy})
        started.append(service)
        return chain(service, flags=(f"--outbound=127.0.0.1:{outbound}",), **options)

    return proxied_chain


#: How a service that hands on no baggage is set up, what comes to it, and which id is seen to tell.
BY_ID = {
    "by hand, traceparent": (FORWARDING_FLASK, {"FORWARDED": "traceparent"}, [TRACEPARENT], "traceparent"),
    "by hand, x-request-id": (
        FORWARDING_FLASK,
        {"FORWARDED": "x-request-id"},
        [("x-request-id", "7d8ac4a0-order-7")],
        "x-request-id",
    ),
    "by hand, axios, x-request-id": (
        FORWARDING_EXPRESS,
        {"FORWARDED": "x-request-id"},
        [("x-request-id", "7d8ac4a0-order-7")],
        "x-request-id",
    ),
    "by hand, b3": (FORWARDING_FLASK, {"FORWARDED": "b3"}, [("b3", f"{TRACE}-{SPAN}-1")], "b3"),
    "by hand, x-b3-traceid of 64 bits": (
        FORWARDING_FLASK,
        {"FORWARDED": "x-b3-traceid x-b3-spanid x-b3-sampled"},
        [("x-b3-traceid", HALF), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")],
        "x-b3-traceid",
    ),
    "OpenTelemetry, Flask": (FLASK, {"OTEL_PROPAGATORS": "tracecontext"}, [TRACEPARENT], "traceparent"),
    "OpenTelemetry, FastAPI": (FASTAPI, {"OTEL_PROPAGATORS": "tracecontext"}, [TRACEPARENT], "traceparent"),
    # Nothing comes in that could be handed on: the sidecar begins a trace.
    "OpenTelemetry, without a trace": (FLASK, {"OTEL_PROPAGATORS": "tracecontext"}, [], "traceparent"),
    "Datadog": (
        DATADOG_FLASK,
        {"DD_TRACE_PROPAGATION_STYLE": "datadog"},
        [("x-datadog-trace-id", "1311768467463790320"), ("x-datadog-parent-id", "7")],
        "x-datadog-trace-id",
    ),
    "Datadog, b3multi": (
        DATADOG_FLASK,
        {"DD_TRACE_PROPAGATION_STYLE": "b3multi"},
        [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")],
        "x-b3-traceid",
    ),
    "Datadog, b3": (
        DATADOG_FLASK,
        {"DD_TRACE_PROPAGATION_STYLE": "b3"},
        [("b3", f"{TRACE}-{SPAN}-1")],
        "b3",
    ),
    # It takes one and sends the other, of the same trace.
    "Datadog, from b3 to traceparent": (
        DATADOG_FLASK,
        {
            "DD_TRACE_PROPAGATION_STYLE_EXTRACT": "b3",
            "DD_TRACE_PROPAGATION_STYLE_INJECT": "tracecontext",
        },
        [("b3", f"{TRACE}-{SPAN}-1")],
        "traceparent",
    ),
}


@pytest.mark.parametrize("how", BY_ID)
def test_one_id_is_enough(how, proxied_chain):
    kind, settings, fields, told = BY_ID[how]
    chain = proxied_chain(kind, settings)
    contract = chain.contract(**{"$id": "run-42"})
    head = chain.is_answered_by_the_laptop(contract, as_field(contract), *fields)
    assert head.get("x-devroute-matched") == "c"
    (b,) = chain.sidecars
    assert b.metric(RESTORED % told) == 1
    assert b.metric("devroute_traceparents_added_total") == (not fields)

    # A request without a contract is left as the service sends it.
    plain = chain.ask(*[(name, value.replace("7", "8")) for name, value in fields])
    assert plain == (200, "baseline")
    assert not any(name.startswith("x-devroute") for name in chain.baseline.only().names())
    assert b.metric("devroute_traceparents_added_total") == (not fields)


def test_hundreds_of_requests_at_once_keep_their_contracts(proxied_chain):
    """Through a service with threads; each third one has no contract and gets none."""

    def say(head):
        contract = json.loads(head.get("x-devroute") or "{}")
        return contract.get("$id", "none")

    chain = proxied_chain(FORWARDING_FLASK, {"FORWARDED": "x-request-id"}, say=say)

    def one(number):
        fields = [("x-request-id", f"id-{number}")]
        if number % 3 == 0:
            return chain.ask(*fields), (200, "baseline none")
        fields.append(as_field(chain.contract(**{"$id": f"run-{number}"})))
        return chain.ask(*fields), (200, f"laptop run-{number}")

    with concurrent.futures.ThreadPoolExecutor(48) as pool:
        for got, expected in pool.map(one, range(300)):
            assert got == expected
    (b,) = chain.sidecars
    assert b.metric(RESTORED % "x-request-id") == 200
    assert b.metric("devroute_correlation_ambiguous_total") == 0


def test_a_service_that_hands_on_nothing_is_named(proxied_chain):
    chain = proxied_chain(FORWARDING_FLASK, {})
    assert chain.ask(as_field(chain.contract()), ("x-request-id", "1")) == (200, "baseline")
    (b,) = chain.sidecars
    assert b.metric(LOST % "no_id") == 1
    line = b.lines.wait(lambda line: "lost" in line, "that names the service")
    said = json.loads(line)
    assert (said["level"], said["service"], said["reason"]) == ("WARN", "b1", "no_id")


def test_a_service_that_makes_ids_of_its_own_is_named(proxied_chain):
    """Datadog's own style knows no `traceparent`, so that the one that was added is not handed on."""
    chain = proxied_chain(DATADOG_FLASK, {"DD_TRACE_PROPAGATION_STYLE": "datadog"})
    assert chain.ask(as_field(chain.contract())) == (200, "baseline")
    assert chain.sidecars[0].metric(LOST % "unknown_id") == 1


def test_the_contract_comes_off_what_an_sdk_sends_outside(started, proxied_chain, serve_recorder):
    """Of two hosts, one is not internal here: the addresses are all of this machine."""
    outbound = free_port()
    proxy = {"http_proxy": f"http://127.0.0.1:{outbound}", "no_proxy": ""}
    flask = Service(FLASK, {**KINDS[FLASK].settings, **proxy})
    started.append(flask)
    flags = ["--outbound", f"127.0.0.1:{outbound}", "--internal=none,localhost"]
    started.append(sidecar("b", flask.port, *flags))
    b = started[-1]
    contract = {"c": "10.0.0.1:1"}
    heads = {}
    for host in ["127.0.0.1", "localhost"]:
        recorder = serve_recorder(host)
        url = through(b.port, f"http://{host}:{recorder.port}/")
        assert ask(url, as_field(contract), ("baggage", "user=alice")) == (200, host)
        heads[host] = recorder.only()
    assert heads["127.0.0.1"].all("baggage") == [b"user=alice"]
    assert "x-devroute" not in heads["127.0.0.1"].names()
    assert json.loads(heads["localhost"].get("x-devroute")) == contract


# Clients.


class Alone:
    """A sidecar whose service is not asked, and its outbound listener."""

    def __init__(self, started, *flags):
        self.port = free_port()
        self.service = Server(answering("service"))
        started.append(self.service)
        self.sidecar = sidecar("b", self.service.port, f"--outbound=127.0.0.1:{self.port}", *flags)
        started.append(self.sidecar)

    @property
    def proxy(self):
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def alone(started):
    return Alone(started)


@pytest.fixture
def curl(tool):
    program = tool("curl", "what curl does with a proxy")

    def curl(*arguments, **env):
        command = [program, "-sS", "--max-time", str(PATIENCE), *arguments]
        ran = subprocess.run(command, capture_output=True, check=True, env=env)
        return ran.stdout.decode()

    return curl


def test_curl_by_http_proxy(alone, serve_recorder, curl):
    recorder = serve_recorder("host")
    url = f"http://127.0.0.1:{recorder.port}/a%2Fb?c=d"
    assert curl("-H", "x-custom: 1", url, http_proxy=alone.proxy) == "host"
    head = recorder.only()
    assert head.target == "/a%2Fb?c=d"
    assert head.get("host") == f"127.0.0.1:{recorder.port}"
    assert head.names() == {"host", "user-agent", "accept", "x-custom", "via"}


def test_curl_by_connect(alone, serve_recorder, curl):
    recorder = serve_recorder("host")
    url = f"http://127.0.0.1:{recorder.port}/"
    field = "x-devroute: {}"
    assert curl("--proxytunnel", "-x", alone.proxy, "-H", field, url) == "host"
    head = recorder.only()
    assert head.names() == {"host", "user-agent", "accept", "x-devroute"}
    assert alone.sidecar.metric("devroute_outbound_tunnels_total") == 1


def test_curl_by_host_over_both_versions(alone, hypercorn, curl):
    """As with an alias of the host, or a redirect."""
    aliased = ["--connect-to", f"::127.0.0.1:{alone.port}"]
    url = f"http://127.0.0.1:{hypercorn.port}/x"
    assert curl(*aliased, url) == "HTTP/1.1 GET /x 0\n"
    assert curl("--http2-prior-knowledge", *aliased, url) == "HTTP/2 GET /x 0\n"


def test_curl_is_told_what_is_wrong(alone, nobody, curl):
    said = json.loads(curl("-x", alone.proxy, f"http://127.0.0.1:{nobody}/"))
    assert (said["status"], said["cause"]) == (502, "connection_refused")
    said = json.loads(curl(alone.proxy))
    assert (said["status"], said["cause"]) == (403, "own_listener")


def test_grpc_by_authority_is_given_its_contract(alone, protocol, grpc_peer):
    """What came in with the same id is still remembered, though its request is over."""
    messages, services = protocol
    peer = grpc_peer()
    ask(
        f"http://127.0.0.1:{alone.sidecar.port}/?",
        as_field({"c": "10.0.0.1:1"}),
        ("x-request-id", "order-7"),
    )
    options = [("grpc.default_authority", f"127.0.0.1:{peer.port}")]
    with grpc.insecure_channel(f"127.0.0.1:{alone.port}", options) as channel:
        stub = services.EchoStub(channel)
        answer = stub.Unary(
            messages.Text(text="hello"), metadata=[("x-request-id", "order-7")], timeout=PATIENCE
        )
        assert answer.text == "HELLO"
    (seen,) = peer.seen
    assert json.loads(seen["x-devroute"]) == {"c": "10.0.0.1:1"}


def test_grpc_by_http_proxy_goes_through_a_tunnel(alone, protocol, grpc_peer):
    messages, services = protocol
    peer = grpc_peer()
    options = [("grpc.http_proxy", alone.proxy)]
    with grpc.insecure_channel(f"127.0.0.1:{peer.port}", options) as channel:
        stub = services.EchoStub(channel)
        assert stub.Unary(messages.Text(text="hello"), timeout=PATIENCE).text == "HELLO"
    assert alone.sidecar.metric("devroute_outbound_tunnels_total") == 1


def test_websocket_by_http_proxy(alone):
    with serve_websocket(lambda it: it.send(it.recv()), "127.0.0.1", 0) as server:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            serving = pool.submit(server.serve_forever)
            port = server.socket.getsockname()[1]
            with connect_websocket(f"ws://127.0.0.1:{port}/", proxy=alone.proxy) as client:
                client.send("hello")
                assert client.recv(PATIENCE) == "hello"
            server.shutdown()
            serving.result(PATIENCE)
    assert alone.sidecar.metric("devroute_outbound_tunnels_total") == 1
