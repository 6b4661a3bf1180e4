"""The manifests for Istio, as configuration of a real Envoy: each patch lands where it is meant to, and does what it says."""

import json

import pytest

from support import envoy as envoys
from support import istio, manifests
from support.chains import as_field, as_member
from support.istio import BAR, FOO, ROUTER
from support.manifests import DEPLOY
from support.process import Devroute
from support.wire import connect

ISTIO = DEPLOY / "istio"
CLUSTERS = {"foo": f"outbound|8000||{FOO}", "bar": f"outbound|8000||{BAR}", "elsewhere": "PassthroughCluster"}


@pytest.fixture(autouse=True)
def tools():
    missing = manifests.why_not()
    if missing:
        pytest.skip(missing)


@pytest.fixture
def mesh(envoy, started, serve_recorder, tmp_path):
    """Starts a proxy of the mesh with what is applied; what it can reach are recorders, and a router."""

    def mesh(context, *folders, workload="front", without=None, change=lambda documents: documents):
        peers = {name: serve_recorder(name) for name in CLUSTERS}
        router = Devroute("router", "--allow=loopback")
        started.append(router)
        clusters = {CLUSTERS[name]: peer.port for name, peer in peers.items()}
        clusters |= {f"outbound|8080||{ROUTER}": router.port, "inbound|8000||": peers["foo"].port}
        clusters.pop(without, None)
        applied = [it for folder in folders for it in manifests.documents(manifests.kustomize(ISTIO / folder))]
        proxy = istio.Proxy(context, clusters).apply(change(applied))
        file = proxy.write(tmp_path / "envoy.json")
        running = envoy(str(file), {}, service="foo", env={"ISTIO_META_WORKLOAD_NAME": workload})
        return running.port, peers

    return mesh


@pytest.fixture
def laptop(serve_recorder):
    return serve_recorder("a laptop")


def ask(port, host, *fields):
    with connect(port) as conn:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        conn.send(f"GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{lines}\r\n")
        head, body = conn.answer()
    return head, body.decode()


def contract(**targets):
    return {name: f"127.0.0.1:{target.port}" for name, target in targets.items()}


def test_at_the_caller_the_host_says_which_service_is_meant(mesh, laptop):
    port, peers = mesh("SIDECAR_OUTBOUND", "caller", "service")
    assert ask(port, FOO)[1] == "foo"
    head, body = ask(port, FOO, as_field(contract(foo=laptop)))
    assert body == "a laptop"
    assert head.get("x-devroute-routed") == f"foo=127.0.0.1:{laptop.port}"
    assert ask(port, "foo", as_member(contract(foo=laptop)))[1] == "a laptop", "from baggage, and by its short name"
    # A name in a value is none, and somebody else's entry is carried on.
    assert ask(port, FOO, as_field({"bar": "foo:8001"}))[1] == "foo"
    assert peers["foo"].heads[-1].get("baggage").startswith("devroute=%7B")
    head, body = ask(port, FOO, as_field({"foo": 8001}))
    assert head.status == 400 and json.loads(body)["cause"] == "malformed"


def test_at_the_caller_its_own_name_means_nothing(mesh, laptop):
    port, peers = mesh("SIDECAR_OUTBOUND", "caller", "service", workload="front")
    for host in (FOO, "bar"):
        assert ask(port, host, as_field(contract(front=laptop)))[1] == host.partition(".")[0]
    # `bar` has no EnvoyFilter of its own: it is not rerouted, and still gets both carriers.
    assert ask(port, BAR, as_field(contract(bar=laptop)))[1] == "bar"
    for head in peers["bar"].heads:
        assert head.get("x-devroute") and head.get("baggage") and not head.get("x-devroute-matched")
    assert not laptop.heads


def test_without_the_default_the_callers_name_would_be_taken(mesh, laptop):
    def weakened(documents):
        for it in documents:
            patches = it["spec"].get("configPatches", [])
            it["spec"]["configPatches"] = [each for each in patches if each["applyTo"] != "ROUTE_CONFIGURATION"]
        return documents

    port, peers = mesh("SIDECAR_OUTBOUND", "caller", workload="front", change=weakened)
    assert ask(port, BAR, as_field(contract(front=laptop)))[1] == "bar"
    assert peers["bar"].only().get("x-devroute-matched") == "front", "or the test above would show nothing"


def test_to_hosts_outside_goes_no_contract(mesh, laptop):
    port, peers = mesh("SIDECAR_OUTBOUND", "caller", "service")
    fields = as_field(contract(foo=laptop)), as_member(contract(foo=laptop), "other=1")
    assert ask(port, "api.example", *fields)[1] == "elsewhere"
    head = peers["elsewhere"].only()
    assert head.get("x-devroute") is None and head.get("baggage") == "other=1"


def test_where_the_routers_cluster_is_missing_the_answer_is_marked(mesh, laptop):
    """A `Sidecar` resource that does not name the router: Envoy's 503 has nothing in it but what the filter adds."""
    scoped = manifests.documents(manifests.kustomize(ISTIO / "scoped"))
    assert f"devroute/{ROUTER}" in scoped[0]["spec"]["egress"][0]["hosts"]
    port, _ = mesh("SIDECAR_OUTBOUND", "caller", "service", without=f"outbound|8080||{ROUTER}")
    head, body = ask(port, FOO, as_field(contract(foo=laptop)))
    assert (head.status, body) == (503, "")
    assert head.get("x-devroute-routed") == "foo=none; reason=router_unreachable"
    assert ask(port, FOO)[1] == "foo"


def test_at_the_service_the_workload_says_which_it_is(mesh, laptop):
    port, peers = mesh("SIDECAR_INBOUND", "callee", workload="foo")
    assert ask(port, FOO)[1] == "foo"
    assert ask(port, FOO, as_field(contract(foo=laptop)))[1] == "a laptop"
    assert ask(port, FOO, as_field(contract(bar=laptop)))[1] == "foo"
    # A mark that somebody sets leads nowhere, and what was rerouted is not rerouted again.
    assert ask(port, FOO, ("x-devroute-matched", "bar"))[1] == "foo"
    head, body = ask(port, FOO, as_field(contract(foo=laptop)), ("x-devroute-matched", "foo"))
    assert body == "foo"
    assert head.get("x-devroute-routed") == "foo=baseline; reason=already_rerouted"
    assert all(it.get("x-devroute-matched") is None for it in peers["foo"].heads)


def test_at_the_entry_contracts_of_the_outside_end(mesh, laptop):
    port, peers = mesh("GATEWAY", "entry")
    fields = as_field(contract(foo=laptop)), as_member(contract(foo=laptop), "other=1"), ("x-devroute-matched", "foo")
    assert ask(port, "foo.example", *fields)[1] == "foo"
    head = peers["foo"].only()
    assert head.get("x-devroute") is None and head.get("x-devroute-matched") is None
    assert head.get("baggage") == "other=1"


def test_without_a_filter_a_virtual_service_alone_finds_the_service(mesh, laptop):
    port, peers = mesh("SIDECAR_OUTBOUND", "config-only")
    assert ask(port, FOO)[1] == "foo"
    assert ask(port, FOO, as_field(contract(bar=laptop, foo=laptop)))[1] == "a laptop"
    assert ask(port, FOO, as_field({"bar": "foo:8001"}))[1] == "foo"
    assert ask(port, FOO, ("x-devroute-matched", "bar"))[1] == "foo"
    assert ask(port, FOO, as_field(contract(foo=laptop)), ("x-devroute-matched", "foo"))[1] == "foo"
    assert all(it.get("x-devroute-matched") is None for it in peers["foo"].heads)
    head, body = ask(port, FOO, as_field({"foo": 8001}))
    assert head.status == 400 and json.loads(body)["cause"] == "malformed"


@pytest.mark.parametrize("folder", ["caller", "callee", "entry"])
def test_the_filter_is_the_file_itself(folder):
    lua = (envoys.FILES / "devroute.lua").read_text(encoding="utf-8")
    (built,) = manifests.documents(manifests.kustomize(ISTIO / folder))
    value = built["spec"]["configPatches"][0]["patch"]["value"]
    assert value["typed_config"]["default_source_code"]["inline_string"] == lua
    # And nowhere a copy of it, which somebody would have to keep.
    copies = [it for it in DEPLOY.rglob("*") if it.is_file() and "function envoy_on_request" in it.read_text("utf-8")]
    assert copies == [envoys.FILES / "devroute.lua"]
