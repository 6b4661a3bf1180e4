"""A real Envoy with the files of `deploy/envoy`: who answers, and what each side sees. Both variants, the filter and
configuration only, do what most tests ask; what only the filter does is at the end.
"""

import contextlib
import json
import queue

import h2.events
import pytest

from support import envoy as envoys
from support import ways
from support.http2 import H2Client, h2_peer
from support.process import PATIENCE, Devroute
from support.wire import Server, answering, connect

SERVICE = ways.SERVICE
FILES = pytest.mark.parametrize("file", [envoys.FILTER, envoys.CONFIG_ONLY])


@pytest.fixture
def mesh(envoy, serve, started):
    """Envoy in front of a baseline that answers with its name, and a real router."""

    def mesh(file, *, baseline=None, **options):
        baseline = baseline or serve(answering("baseline"))
        router = Devroute("router", "--allow=loopback")
        started.append(router)
        upstreams = {envoys.BASELINE_PORT: baseline.port, envoys.ROUTER_PORT: router.port}
        proxy = envoy(file, upstreams, **options)
        proxy.baseline, proxy.router = baseline, router
        return proxy

    return mesh


@pytest.fixture(scope="module")
def file_mesh():
    """As `mesh`, but one for each file and all tests of this module that change nothing."""
    if not envoys.binary():
        pytest.skip("Envoy is not installed: nothing is tested on it")
    made = {}
    with contextlib.ExitStack() as stack:

        def start(process):
            stack.callback(process.stop)
            return process

        def file_mesh(file):
            if file not in made:
                # A connection that Envoy kept would wait for the next test.
                baseline = start(Server(answering("baseline", fields="connection: close\r\n")))
                router = start(Devroute("router", "--allow=loopback"))
                ports = {envoys.BASELINE_PORT: baseline.port, envoys.ROUTER_PORT: router.port}
                made[file] = start(envoys.Envoy(file, ports))
            return made[file]

        yield file_mesh


@pytest.fixture
def laptop(serve):
    """A target that answers with its name and keeps the heads of what it is asked."""
    heads = queue.Queue()

    def handler(conn):
        while head := conn.head():
            heads.put(head)
            said = b"laptop " + conn.body(head)
            conn.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(said)}\r\n\r\n", said)

    server = serve(handler)
    server.heads = heads
    server.target = f"127.0.0.1:{server.port}"
    return server


def ask(port, lines="", *, method="GET", path="/", body=""):
    """Sends one request with these lines; its answer."""
    with connect(port) as client:
        length = f"content-length: {len(body)}\r\n" if body else ""
        client.send(f"{method} {path} HTTP/1.1\r\nhost: {SERVICE}\r\n{length}{lines}\r\n{body}")
        return client.answer()


def contract(**entries):
    return f"x-devroute: {json.dumps(entries)}\r\n"


# Who answers.


@FILES
def test_a_laptop_answers_what_its_contract_names_and_the_baseline_the_rest(mesh, laptop, file):
    proxy = mesh(file)
    head, body = ask(
        proxy.port, contract(**{SERVICE: laptop.target}), method="POST", path="/a?b", body="x"
    )
    assert (head.status, body) == (200, b"laptop x")
    assert head.get("x-devroute-routed") == f"{SERVICE}={laptop.target}"
    asked = laptop.heads.get(timeout=PATIENCE)
    assert (asked.method, asked.target, asked.get("host")) == ("POST", "/a?b", SERVICE)
    assert asked.get("x-devroute-matched") == SERVICE
    assert "devroute=%7B" in asked.get("baggage"), "the router wrote the member"
    for lines in ["", contract(other=laptop.target)]:
        head, body = ask(proxy.port, lines)
        assert (head.status, body) == (200, b"baseline GET / ")
        assert "x-devroute-routed" not in head.names()


@FILES
@pytest.mark.parametrize(
    "text",
    [
        '{"other":"SERVICE:80"}',
        '{"$note":"SERVICE"}',
        r'{"$note":"\"SERVICE\":\"10.0.0.1:80\""}',
        r'{"$note":"\\\"SERVICE\":","other":"10.0.0.1:80"}',
        '{"SERVICE2":"10.0.0.1:80"}',
        '{"my.SERVICE":"10.0.0.1:80"}',
        '{"$SERVICE":"10.0.0.1:80"}',
        "{}",
        "{ }",
    ],
)
def test_a_service_that_is_no_key_is_not_named(file_mesh, file, text):
    text = text.replace("SERVICE", SERVICE)
    assert isinstance(json.loads(text), dict)
    assert SERVICE not in json.loads(text)
    head, body = ask(file_mesh(file).port, f"x-devroute: {text}\r\n")
    assert (head.status, body) == (200, b"baseline GET / ")


@FILES
@pytest.mark.parametrize(
    "text",
    [
        '{"SERVICE":"TARGET"}',
        '{ "SERVICE" : "TARGET" }',
        '{"other":"10.0.0.1:80","SERVICE":"TARGET"}',
        '{"SERVICE":"TARGET","other":"10.0.0.1:80"}',
        r'{"$note":"a backslash \\","SERVICE":"TARGET"}',
        r'{"$note":"\"}{,:","SERVICE":"TARGET"}',
    ],
)
def test_a_service_that_is_a_key_is_named(file_mesh, laptop, file, text):
    text = text.replace("SERVICE", SERVICE).replace("TARGET", laptop.target)
    head, body = ask(file_mesh(file).port, f"x-devroute: {text}\r\n")
    assert (head.status, body) == (200, b"laptop ")


@FILES
@pytest.mark.parametrize("text", ["not JSON", "[]", '{"SERVICE":1}', '{"SERVICE":"10.0.0.1:80"', ""])
def test_rule_12_a_malformed_contract_gets_the_routers_400(file_mesh, file, text):
    text = text.replace("SERVICE", SERVICE)
    # A mark of the client's own does not hide it.
    for lines in ["", f"x-devroute-matched: {SERVICE}\r\n"]:
        head, body = ask(file_mesh(file).port, f"x-devroute: {text}\r\n{lines}")
        problem = json.loads(body)
        assert (head.status, problem["cause"]) == (400, "malformed")
        assert "devroute explain" in problem["help"]
        assert "x-devroute-routed" not in head.names(), "a router was there"


@FILES
def test_rule_12_the_field_twice_gets_the_routers_400(file_mesh, file):
    lines = contract(**{SERVICE: "127.0.0.1:9"}) * 2
    head, body = ask(file_mesh(file).port, lines)
    assert (head.status, json.loads(body)["cause"]) == (400, "malformed")


@FILES
def test_rule_12_a_laptop_that_is_down_is_a_502_that_says_what_to_do(file_mesh, nobody, file):
    target = f"127.0.0.1:{nobody}"
    head, body = ask(file_mesh(file).port, contract(**{SERVICE: target}))
    problem = json.loads(body)
    assert (head.status, head.get("content-type")) == (502, "application/problem+json")
    assert (problem["service"], problem["target"]) == (SERVICE, target)
    assert problem["cause"] == "connection_refused"
    assert f"start {SERVICE} on that machine" in problem["help"]
    assert head.get("x-devroute-routed") == f"{SERVICE}=none; reason=connection_refused"


@FILES
@pytest.mark.parametrize("entry", [True, False])
def test_rule_07_a_mark_of_the_clients_own_selects_the_baseline(mesh, serve, laptop, file, entry):
    heads = queue.Queue()

    def handler(conn):
        while head := conn.head():
            heads.put(head)
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nbaseline")

    proxy = mesh(file, baseline=serve(handler))
    lines = contract(**{SERVICE if entry else "other": laptop.target})
    for matched in [SERVICE, "another"] if not entry else [SERVICE]:
        _, body = ask(proxy.port, f"{lines}x-devroute-matched: {matched}\r\n")
        assert body == b"baseline"
        assert not heads.get(timeout=PATIENCE).all("x-devroute-matched"), "it goes no further"
    # Without a contract either.
    ask(proxy.port, "x-devroute-matched: another\r\n")
    assert not heads.get(timeout=PATIENCE).all("x-devroute-matched")


@FILES
def test_rule_07_a_mark_of_another_service_is_replaced(file_mesh, laptop, file):
    lines = contract(**{SERVICE: laptop.target}) + "x-devroute-matched: another\r\n"
    assert ask(file_mesh(file).port, lines)[1] == b"laptop "
    assert laptop.heads.get(timeout=PATIENCE).all("x-devroute-matched") == [SERVICE.encode()]


# What passes.


@pytest.mark.parametrize("kind", envoys.ALL)
def test_cookies_and_trailers_pass_over_http_1(envoy_way, serve, kind):
    got = queue.Queue()

    def handler(conn):
        head = conn.head()
        while conn.chunk():
            pass
        got.put((head, conn.trailers()))
        conn.send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n"
            "set-cookie: a=1; Path=/\r\nset-cookie: b=2\r\nset-cookie: c=3\r\n\r\n"
            "2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"
        )

    way = envoy_way(kind, serve(handler).port)
    with connect(way.port) as client:
        client.send(
            f"POST / HTTP/1.1\r\nhost: {SERVICE}\r\ntransfer-encoding: chunked\r\nte: trailers\r\n"
            f"connection: te\r\ntrailer: x-up\r\n{way.lines}\r\n1\r\nx\r\n0\r\nx-up: 5\r\n\r\n"
        )
        head = client.head()
        assert client.chunk() == b"ok"
        assert client.chunk() == b""
        trailers = client.trailers()
    assert head.all("set-cookie") == [b"a=1; Path=/", b"b=2", b"c=3"]
    _, sent = got.get(timeout=PATIENCE)
    assert sent == [("x-up", b"5")]
    assert trailers == [("x-sum", b"7")]


@pytest.mark.parametrize("kind", envoys.ALL)
def test_cookies_and_trailers_pass_over_http_2(envoy_way, serve, kind):
    got = queue.Queue()

    def handler(peer, stream, _fields):
        got.put(peer.wait(h2.events.TrailersReceived, stream).headers)
        fields = [("set-cookie", "a=1"), ("set-cookie", "b=2")]
        peer.headers(stream, [(":status", "200"), *fields])
        peer.send(stream, b"ok")
        peer.headers(stream, [("x-sum", "7")], end=True)

    way = envoy_way(kind, serve(h2_peer(handler)).port, scheme="h2c")
    with H2Client(way) as client:
        stream = client.request(("te", "trailers"), method="POST", end=False)
        client.send(stream, b"x")
        client.headers(stream, [("x-up", "5")], end=True)
        head = client.wait(h2.events.ResponseReceived, stream).headers
        ended = client.wait(h2.events.TrailersReceived, stream)
    assert [value for name, value in head if name == b"set-cookie"] == [b"a=1", b"b=2"]
    assert ended.headers == [(b"x-sum", b"7")]
    assert (b"x-up", b"5") in got.get(timeout=PATIENCE)


# Time, in which a second stands for each of Envoy's minutes and more.

#: Longer than what the tests below allow by default.
BREAKPOINT = 2.2
#: The time after which Envoy ends a stream on which nothing happens: 5 minutes by default.
IDLE = {"codec_type: AUTO": "codec_type: AUTO\n          stream_idle_timeout: 1s"}
#: The time that an answer may take: 15 s by default.
TOTAL = {"timeout: 0s, idle_timeout: 0s": "timeout: 1s, idle_timeout: 0s"}


@pytest.fixture
def breakpoint_(serve):
    """Somebody who answers after `BREAKPOINT`, unless the client is gone by then."""

    def handler(conn):
        while conn.head():
            if conn.is_silent(BREAKPOINT):
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nafter")

    return serve(handler)


@FILES
def test_rule_18_a_breakpoint_on_the_laptop_outlives_the_defaults(mesh, breakpoint_, file):
    lines = contract(**{SERVICE: f"127.0.0.1:{breakpoint_.port}"})
    head, body = ask(mesh(file, edits=IDLE).port, lines)
    assert (head.status, body) == (200, b"after")


@FILES
def test_rule_18_a_breakpoint_further_on_outlives_the_defaults(mesh, breakpoint_, file):
    """The laptop is not that of this service but of one that it calls."""
    proxy = mesh(file, baseline=breakpoint_, edits=IDLE)
    assert ask(proxy.port, contract(other="127.0.0.1:9"))[1] == b"after"
    assert ask(proxy.port)[0].status == 504, "without a contract the default holds"


@FILES
def test_rule_18_a_breakpoint_would_not_outlive_a_limit_of_the_route(mesh, breakpoint_, file):
    """What the file says about time is what lets it live."""
    lines = contract(**{SERVICE: f"127.0.0.1:{breakpoint_.port}"})
    assert ask(mesh(file, edits=TOTAL).port, lines)[0].status == 504


# What an answer says that no router has given.


@FILES
def test_rule_14_a_baseline_that_answers_in_place_of_a_target_says_so(file_mesh, file):
    lines = contract(**{SERVICE: "127.0.0.1:9"}) + f"x-devroute-matched: {SERVICE}\r\n"
    head, body = ask(file_mesh(file).port, lines)
    assert body.startswith(b"baseline")
    assert head.get("x-devroute-routed") == f"{SERVICE}=baseline; reason=already_rerouted"
    # Of somebody else's contract nothing is said.
    lines = contract(other="127.0.0.1:9") + f"x-devroute-matched: {SERVICE}\r\n"
    assert "x-devroute-routed" not in ask(file_mesh(file).port, lines)[0].names()


@FILES
def test_rule_14_a_router_that_is_down_is_no_secret(envoy, nobody, file):
    proxy = envoy(file, {envoys.BASELINE_PORT: nobody, envoys.ROUTER_PORT: nobody})
    head, _ = ask(proxy.port, contract(**{SERVICE: "127.0.0.1:9"}))
    assert head.status == 503
    assert head.get("x-devroute-routed") == f"{SERVICE}=none; reason=router_unreachable"
    assert head.get("x-envoy-ratelimited") == "true"
    # A baseline that is down is none of ours.
    for lines in ("", contract(other="127.0.0.1:9"), f"x-devroute-matched: {SERVICE}\r\n"):
        head, _ = ask(proxy.port, lines)
        assert head.status == 503
        assert not head.names() & {"x-devroute-routed", "x-envoy-ratelimited"}, lines


@FILES
def test_rule_14_a_cluster_of_routers_that_envoy_does_not_have_is_no_secret(envoy, serve, file):
    """A scoped `Sidecar` of Istio leaves it out: 503, with an empty body."""
    edits = {
        "route_config:\n": "route_config:\n            validate_clusters: false\n",
        "route: { cluster: devroute-router,": "route: { cluster: devroute-routers,",
    }
    proxy = envoy(file, {envoys.BASELINE_PORT: serve(answering("baseline")).port}, edits=edits)
    head, body = ask(proxy.port, contract(**{SERVICE: "127.0.0.1:9"}))
    assert (head.status, body) == (503, b"")
    assert head.get("x-devroute-routed") == f"{SERVICE}=none; reason=router_unreachable"
    assert head.get("x-envoy-ratelimited") == "true"


# What only the filter does.


@pytest.fixture
def seen(serve):
    """A baseline that keeps the heads of what it is asked."""
    heads = queue.Queue()

    def handler(conn):
        while head := conn.head():
            heads.put(head)
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nbaseline")

    server = serve(handler)
    server.heads = heads
    return server


def test_rule_10_each_carrier_is_written_from_the_other(mesh, seen):
    proxy = mesh(envoys.FILTER, baseline=seen)
    text, member = '{"other":"10.0.0.1:80"}', "devroute=%7B%22other%22%3A%2210.0.0.1%3A80%22%7D"
    for lines, baggage in [
        (f"x-devroute: {text}\r\n", member),
        (f"x-devroute: {text}\r\nbaggage: a=1\r\nbaggage: b=2\r\n", f"a=1,b=2,{member}"),
        (f"baggage: {member}\r\n", member),
        (f"baggage: {member.replace('%', '%25')};p=1, a=1\r\n", f"{member}, a=1"),
        (f"x-devroute: {text}\r\nbaggage: devroute=%7B%7D,a=1\r\n", f"{member},a=1"),
    ]:
        ask(proxy.port, lines)
        head = seen.heads.get(timeout=PATIENCE)
        assert head.all("x-devroute") == [text.encode()], lines
        assert head.all("baggage") == [baggage.encode()], lines


def test_rule_09_the_member_alone_reroutes(file_mesh, laptop):
    text = json.dumps({SERVICE: laptop.target}).encode().hex()
    member = "".join(f"%{text[at : at + 2]}" for at in range(0, len(text), 2))
    head, body = ask(file_mesh(envoys.FILTER).port, f"baggage: a=1,devroute={member}\r\n")
    assert body == b"laptop "
    assert head.get("x-devroute-routed") == f"{SERVICE}={laptop.target}"


@pytest.mark.parametrize("member", ["devroute=%7B", "devroute", "devroute=%7B%7D,devroute=%7B%22"])
def test_rule_12_a_malformed_member_gets_the_routers_400(file_mesh, member):
    head, body = ask(file_mesh(envoys.FILTER).port, f"baggage: {member}\r\n")
    assert (head.status, json.loads(body)["cause"]) == (400, "malformed")


NO_CONTEXT = {"filter_context: { service: foo }": "filter_context: {}"}
ROUTE = "- match: { prefix: / }\n"
METADATA = {
    **NO_CONTEXT,
    ROUTE: f"{ROUTE}                metadata: {{ filter_metadata: {{ envoy.filters.http.lua: "
    "{ service: foo } } }\n",
}
# The route that a request meets first is the one whose metadata the filter sees.
METADATA["headers: [{ name: x-devroute, present_match: true }]"] = (
    "headers: [{ name: x-devroute, present_match: true }]\n"
    "                metadata: { filter_metadata: { envoy.filters.http.lua: { service: foo } } }"
)


@pytest.mark.parametrize(
    ("edits", "env", "is_named"),
    [
        (NO_CONTEXT, {"ISTIO_META_WORKLOAD_NAME": SERVICE}, True),
        (NO_CONTEXT, {"DEVROUTE_SERVICE": SERVICE, "ISTIO_META_WORKLOAD_NAME": "foo-v2"}, True),
        (NO_CONTEXT, {}, False),
        (None, {"DEVROUTE_SERVICE": "another"}, True),
        ({"{ service: foo }": '{ service: "" }'}, {"DEVROUTE_SERVICE": SERVICE}, False),
    ],
    ids=["istio", "devroute-first", "none", "context-first", "none-on-purpose"],
)
def test_the_service_is_named_by_the_environment_or_the_filter_context(
    mesh, laptop, edits, env, is_named
):
    proxy = mesh(envoys.FILTER, edits=edits, env=env)
    _, body = ask(proxy.port, contract(**{SERVICE: laptop.target}))
    assert body.startswith(b"laptop" if is_named else b"baseline")


def test_the_service_is_named_by_the_metadata_of_the_route(mesh, laptop):
    edits = {old: new for old, new in METADATA.items() if old != ROUTE}
    proxy = mesh(envoys.FILTER, edits=edits)
    assert ask(proxy.port, contract(**{SERVICE: laptop.target}))[1] == b"laptop "


def test_rule_20_what_comes_from_outside_is_stripped(mesh, laptop, seen):
    proxy = mesh(
        envoys.FILTER, baseline=seen, edits={"{ service: foo }": "{ service: foo, strip: true }"}
    )
    for lines in [
        contract(**{SERVICE: laptop.target}) + f"x-devroute-matched: {SERVICE}\r\n",
        "x-devroute: []\r\nx-devroute: []\r\nbaggage: a=1, devroute=%7B,b=2\r\n",
    ]:
        assert ask(proxy.port, lines)[1] == b"baseline"
        head = seen.heads.get(timeout=PATIENCE)
        assert not head.names() & {"x-devroute", "x-devroute-matched"}
        assert head.all("baggage") in ([], [b"a=1,b=2"])
