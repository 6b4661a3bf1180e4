"""Two real Envoys, as a mesh has them: beside the caller and beside the service. What a laptop does wrong must not be
asked for twice, nor count against the service that everybody shares (docs/envoy.md).
"""

import contextlib
import json
import queue

import h2.events
import pytest

from support import envoy as envoys
from support import chains, ways
from support.faults import close_before_the_head, reset_before_the_head
from support.http2 import H2Client, h2_peer
from support.process import PATIENCE, Devroute
from support.services import AUTOMATIC
from support.wire import answering, connect

SERVICE = ways.SERVICE

#: Everything that Envoy can be told to retry.
RETRIES = {
    "retry_on: connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes": (
        "retry_on: 5xx,gateway-error,reset,connect-failure,refused-stream,retriable-4xx,cancelled,"
        "deadline-exceeded,internal,resource-exhausted,unavailable,retriable-status-codes"
    ),
    "retriable_status_codes: [503]": "retriable_status_codes: [400, 403, 500, 502, 503, 504, 508]",
}
#: A caller whose Envoy only carries contracts on.
CARRIES = {"filter_context: { service: foo }": 'filter_context: { service: "" }'}

CALLER_SIDE = "caller-side"
CALLEE_SIDE = "callee-side"
CALLEE_SIDE_BY_CONFIG = "callee-side-config-only"
SIDES = [CALLER_SIDE, CALLEE_SIDE, CALLEE_SIDE_BY_CONFIG]


def build(start, side, *, baseline, callee=None, edits=None, retries=RETRIES):
    """The caller's Envoy in front of the service's, with a router that the one or the other sends reroutes to."""
    router = start(Devroute("router", "--allow=loopback"))
    # Nothing listens where the other would look for the router.
    at_caller, at_callee = (router.port, 9) if side == CALLER_SIDE else (9, router.port)
    if callee is None:
        file = envoys.CONFIG_ONLY if side == CALLEE_SIDE_BY_CONFIG else envoys.FILTER
        ports = {envoys.BASELINE_PORT: baseline, envoys.ROUTER_PORT: at_callee}
        callee = start(envoys.Envoy(file, ports)).port
    ports = {envoys.CALLEE_PORT: callee, envoys.ROUTER_PORT: at_caller, envoys.ELSEWHERE_PORT: baseline}
    edits = {**retries, **({} if side == CALLER_SIDE else CARRIES), **(edits or {})}
    caller = start(envoys.Envoy(envoys.CALLER, ports, edits=edits))
    caller.router = router
    return caller


@pytest.fixture
def mesh(envoy, serve, started):
    """Builds a mesh of the test's own."""
    del envoy  # it skips the test where there is none

    def start(process):
        started.append(process)
        return process

    def mesh(side, *, baseline=None, **options):
        baseline = baseline or serve(answering("baseline")).port
        return build(start, side, baseline=baseline, **options)

    return mesh


@pytest.fixture(scope="module", params=SIDES)
def caller(request):
    """The caller's Envoy of a mesh that the tests share; they leave it as it was."""
    if not envoys.binary():
        pytest.skip("Envoy is not installed: nothing is tested on it")
    with contextlib.ExitStack() as stack:

        def start(process):
            stack.callback(process.stop)
            return process

        # Nothing listens where the baseline would.
        yield build(start, request.param, baseline=9)


def ask(port, target=None, *, host=SERVICE, lines=""):
    with connect(port) as client:
        if target:
            lines += f"x-devroute: {json.dumps({SERVICE: target})}\r\n"
        client.send(f"GET / HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n")
        return client.answer()


def call(port, target):
    """A gRPC call that ends in the head of its answer."""

    class Way:
        fields = {"x-devroute": json.dumps({SERVICE: target})}

    Way.port = port
    with H2Client(Way) as client:
        stream = client.state.get_next_available_stream_id()
        pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", SERVICE), (":path", "/a.B/C")]
        grpc = [("content-type", "application/grpc"), ("te", "trailers"), *client.fields]
        client.headers(stream, [*pseudo, *grpc], end=True)
        return dict(client.wait(h2.events.ResponseReceived, stream).headers)


def asked_at(router):
    """How many requests have come to the router."""
    return sum(router.decisions().values())


@pytest.fixture
def down(nobody):
    """The address of a laptop that is not there."""
    return f"127.0.0.1:{nobody}"


def failing(served, status="503 Service Unavailable"):
    def handler(conn):
        while conn.head():
            served.put(True)
            conn.send(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")

    return handler


def unavailable(served):
    def handler(peer, stream, _fields):
        served.put(True)
        fields = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14")]
        peer.headers(stream, fields, end=True)

    return handler


# Retries.


def test_a_failure_that_is_not_marked_is_retried(mesh, serve):
    """The tests below can fail: what anybody else answers so is asked for three times."""
    served = queue.Queue()
    port = mesh(CALLEE_SIDE, callee=serve(failing(served)).port).port
    assert ask(port, "127.0.0.1:9")[0].status == 503
    assert served.qsize() == 3

    served.queue.clear()
    port = mesh(CALLEE_SIDE, callee=serve(h2_peer(unavailable(served))).port, retries={}).port
    assert call(port, "127.0.0.1:9")[b"grpc-status"] == b"14"
    assert served.qsize() == 3, "by Istio's defaults"


def test_rule_12_a_laptop_that_is_down_is_dialled_once(caller, down):
    before = asked_at(caller.router)
    head, _ = ask(caller.port, down)
    assert head.status == 502
    assert head.get("x-devroute-routed") == f"{SERVICE}=none; reason=connection_refused"
    assert asked_at(caller.router) == before + 1
    assert call(caller.port, down)[b"grpc-status"] == b"14"
    assert asked_at(caller.router) == before + 2


def test_rule_12_what_is_refused_is_refused_once(caller):
    for text, status in [("[]", 400), (f'{{"{SERVICE}":"169.254.169.254:80"}}', 403)]:
        before = asked_at(caller.router)
        assert ask(caller.port, lines=f"x-devroute: {text}\r\n")[0].status == status
        assert asked_at(caller.router) == before + 1


def test_what_a_laptop_answers_is_asked_for_once(caller, serve):
    served = queue.Queue()
    laptop = serve(failing(served))
    assert ask(caller.port, f"127.0.0.1:{laptop.port}")[0].status == 503
    assert served.qsize() == 1
    laptop = serve(h2_peer(unavailable(served)))
    assert call(caller.port, f"127.0.0.1:{laptop.port}")[b"grpc-status"] == b"14"
    assert served.qsize() == 2


@pytest.mark.parametrize("handler", [close_before_the_head, reset_before_the_head])
def test_a_laptop_that_hangs_up_is_asked_once(caller, serve, handler):
    laptop = serve(handler)
    assert ask(caller.port, f"127.0.0.1:{laptop.port}")[0].status == 502
    assert len(laptop.connections) == 1


@pytest.mark.parametrize("side", SIDES)
def test_a_router_that_is_down_is_no_reason_to_try_again(mesh, side):
    caller = mesh(side)
    caller.router.stop()
    head, _ = ask(caller.port, "127.0.0.1:9")
    assert head.status == 503
    assert caller.count(f"cluster.{SERVICE}.upstream_rq_retry") == 0


def test_a_client_that_asks_for_retries_gets_none_where_a_laptop_answers(mesh):
    """A client whose word counts, inside a mesh, may set Envoy's own fields."""
    trusted = {
        "codec_type: AUTO": "codec_type: AUTO\n          use_remote_address: true\n"
        "          internal_address_config: { cidr_ranges: "
        "[{ address_prefix: 127.0.0.0, prefix_len: 8 }] }"
    }
    lines = "x-envoy-retry-on: connect-failure\r\nx-envoy-max-retries: 3\r\n"
    caller = mesh(CALLER_SIDE, edits=trusted)
    caller.router.stop()
    assert ask(caller.port, "127.0.0.1:9", lines=lines)[0].status == 503
    assert caller.count("cluster.devroute-router.upstream_rq_retry") == 0


# Outlier detection.


@pytest.fixture
def broken(serve):
    """The address of a laptop that answers 500."""
    return f"127.0.0.1:{serve(failing(queue.Queue(), '500 Mine')).port}"


#: For callers that have to do with reroutes at the callee: a failure that says that it is a laptop's is none of the
#: service's.
MATCHER = {
    "    load_assignment:\n      cluster_name: foo\n": """\
        outlier_detection:
          error_matcher:
            and_match:
              rules:
              - http_response_headers_match:
                  headers: [{ name: ":status", string_match: { prefix: "5" } }]
              - not_match:
                  http_response_headers_match:
                    headers: [{ name: x-devroute-routed, present_match: true }]
    load_assignment:
      cluster_name: foo
"""
}


@pytest.mark.parametrize(
    ("side", "edits", "is_ejected"),
    [
        (CALLEE_SIDE, None, True),
        (CALLEE_SIDE_BY_CONFIG, None, True),
        (CALLEE_SIDE, MATCHER, False),
        (CALLEE_SIDE_BY_CONFIG, MATCHER, False),
        (CALLER_SIDE, None, False),
    ],
    ids=["callee", "callee-config-only", "callee-matcher", "callee-config-only-matcher", "caller"],
)
def test_a_laptops_errors_eject_the_service_only_where_they_count_against_it(
    mesh, broken, down, side, edits, is_ejected
):
    caller = mesh(side, edits=edits, retries={})
    for target in [broken, down] * 4:
        ask(caller.port, target)
    head, body = ask(caller.port)
    ejected = caller.count(f"cluster.{SERVICE}.outlier_detection.ejections_active")
    if is_ejected:
        assert (head.status, body) == (503, b"no healthy upstream"), "everybody's requests"
        assert ejected == 1
    else:
        assert (head.status, body) == (200, b"baseline GET / ")
        assert ejected == 0


def test_the_services_own_errors_eject_it_all_the_same(mesh, serve):
    baseline = serve(failing(queue.Queue(), "500 Its own"))
    caller = mesh(CALLER_SIDE, baseline=baseline.port, edits=MATCHER, retries={})
    for _ in range(5):
        assert ask(caller.port, lines='x-devroute: {"other":"127.0.0.1:9"}\r\n')[0].status == 500
    assert caller.count(f"cluster.{SERVICE}.outlier_detection.ejections_active") == 1


# Time.

#: After so long with nothing on a stream a gateway ends it: a second stands for Envoy's 5 minutes.
GATEWAY = {"codec_type: AUTO": "codec_type: AUTO\n          stream_idle_timeout: 1s"}
ITS_ROUTE = "route: { cluster: foo, timeout: 0s, idle_timeout: 0s }"


@pytest.mark.parametrize(
    ("edits", "status"), [({}, 200), ({ITS_ROUTE: "route: { cluster: foo, timeout: 0s }"}, 504)]
)
def test_rule_18_a_gateway_has_a_limit_of_its_own_which_its_route_lifts(mesh, serve, edits, status):
    """Nothing that is said beside the service holds in the Envoy in front of it."""

    def breakpoint_(conn):
        while conn.head():
            if conn.is_silent(2.2):
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nafter")

    gateway = mesh(CALLEE_SIDE, edits={**GATEWAY, **edits})
    assert ask(gateway.port, f"127.0.0.1:{serve(breakpoint_).port}")[0].status == status


# Where contracts go.


def test_rule_11_to_anywhere_else_goes_no_contract(mesh, serve):
    heads = queue.Queue()

    def handler(conn):
        while head := conn.head():
            heads.put(head)
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    caller = mesh(CALLER_SIDE, baseline=serve(handler).port)
    lines = "baggage: a=1,devroute=%7B%7D\r\nx-devroute-matched: x\r\n"
    ask(caller.port, "127.0.0.1:9", host="api.example.com", lines=lines)
    head = heads.get(timeout=PATIENCE)
    assert not head.names() & {"x-devroute", "x-devroute-matched"}
    assert head.all("baggage") == [b"a=1"]
    ask(caller.port, host=SERVICE, lines=lines)
    assert heads.get(timeout=PATIENCE).all("baggage") == [b"a=1,devroute=%7B%7D"]


def test_a_chain_of_services_that_propagate_baggage_needs_nothing_but_envoy(envoy, serve, started):
    """A -> B -> C, where A and B copy `baggage` to what they ask, as plain OpenTelemetry does, and know no more."""
    router = Devroute("router", "--allow=loopback")
    started.append(router)

    def asks(name, next_port):
        def handler(conn):
            while head := conn.head():
                baggage = "".join(f"baggage: {it.decode()}\r\n" for it in head.all("baggage"))
                said = name.encode() + b" -> " + ask(next_port, lines=baggage)[1]
                conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(said)}\r\n\r\n", said)

        return serve(handler).port

    def beside(name, port):
        ports = {envoys.BASELINE_PORT: port, envoys.ROUTER_PORT: router.port}
        return envoy(envoys.FILTER, ports, service=name).port

    def says(name):
        def handler(conn):
            while conn.head():
                conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(name)}\r\n\r\n{name}")

        return serve(handler).port

    c = beside("c", says("C"))
    b = beside("b", asks("B", c))
    a = beside("a", asks("A", b))
    assert ask(a)[1] == b"A -> B -> C"
    for text, story in [
        ({"c": f"127.0.0.1:{says('laptop')}"}, b"A -> B -> laptop"),
        ({"b": f"127.0.0.1:{asks('laptop', c)}"}, b"A -> laptop -> C"),
    ]:
        assert ask(a, lines=f"x-devroute: {json.dumps(text)}\r\n")[1] == story


@pytest.mark.parametrize("kind", AUTOMATIC)
def test_services_with_opentelemetry_need_nothing_but_envoy(envoy, serve_recorder, started, service, kind):
    """A service that nobody changed, on a real SDK, with an Envoy beside it; and behind it `c`, with another."""
    router = Devroute("router", "--allow=loopback")
    started.append(router)

    def beside(name, port):
        ports = {envoys.BASELINE_PORT: port, envoys.ROUTER_PORT: router.port}
        return envoy(envoys.FILTER, ports, service=name).port

    baseline, laptop = serve_recorder("baseline"), serve_recorder("laptop")
    b, c = beside("b", service(kind).port), beside("c", baseline.port)
    url = chains.through(b, c)
    assert chains.ask(url, ("baggage", "user=alice")) == (200, "baseline")
    assert baseline.only().all("baggage") == [b"user=alice"]
    contract = {"c": f"127.0.0.1:{laptop.port}", "$id": "run-7"}
    for fields in [
        [chains.as_field(contract)],
        [chains.as_member(contract)],
        [chains.as_field(contract), ("baggage", "user=alice")],
    ]:
        assert chains.ask(url, *fields) == (200, "laptop")
    assert [json.loads(head.get("x-devroute")) for head in laptop.heads] == [contract] * 3
    ours, others = chains.members(laptop.heads[-1])
    assert (len(ours), others) == (1, ["user=alice"])
