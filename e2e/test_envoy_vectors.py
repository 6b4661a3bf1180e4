"""devroute-core's vectors against the filter: under luajit, and in a real Envoy."""

import json
import queue
import subprocess

import pytest

from support import envoy as envoys
from support import vectors
from support.process import PATIENCE
from support.wire import connect

CARRIERS = ("x-devroute", "baggage")


def test_every_vector_under_luajit(tool):
    luajit = tool("luajit", "the filter by itself")
    for env in ({}, {"DEVROUTE_SERVICE": "foo"}, {"ISTIO_META_WORKLOAD_NAME": "foo"}):
        ran = subprocess.run(
            [luajit, "deploy/envoy/tests/run.lua"],
            cwd=envoys.ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert int(ran.stdout.split()[0]) > 2500


@pytest.fixture
def hop(envoy, serve):
    """Sends the lines of a request through the filter of `foo`: who got it, with which fields, and the answer."""
    got = queue.Queue()

    def at(whom):
        def handler(conn):
            while head := conn.head():
                got.put((whom, head))
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        return handler

    baseline, router = serve(at("baseline")), serve(at("router"))
    upstreams = {envoys.BASELINE_PORT: baseline.port, envoys.ROUTER_PORT: router.port}
    envoy = envoy(envoys.FILTER, upstreams, service="foo")
    client = connect(envoy.port)

    def hop(fields):
        client.send("GET / HTTP/1.1\r\nhost: foo\r\n")
        for name, value in fields:
            client.send(f"{name}: ", value, "\r\n")
        client.send("\r\n")
        answer, _ = client.answer()
        assert answer.status == 200, fields
        return *got.get(timeout=PATIENCE), answer

    yield hop
    client.close()


def test_rules_01_to_03_what_is_malformed_goes_to_the_router(hop):
    sent = 0
    for vector in vectors.read("contract.json")["vectors"]:
        fields = [("x-devroute", vectors.raw(vector))]
        if not vectors.can_be_sent(fields):
            continue
        sent += 1
        lines = vectors.lines(fields)
        whom, head, _ = hop(lines)
        name = vector["name"]
        is_for_router = "malformed" in vector or "foo" in json.loads(lines[0][1])
        assert whom == ("router" if is_for_router else "baseline"), name
        assert head.get("x-devroute-matched") == ("foo" if whom == "router" else None), name
        assert head.all("x-devroute") == [lines[0][1]], name
    assert sent > 100


def test_rule_01_json_is_read_as_the_json_test_suite_says(hop):
    sent = 0
    for vector in vectors.read("json_test_suite.json")["vectors"]:
        fields = [("x-devroute", vectors.raw(vector))]
        if not vectors.can_be_sent(fields):
            continue
        sent += 1
        whom, _, _ = hop(vectors.lines(fields))
        assert whom == ("router" if "malformed" in vector else "baseline"), vector["name"]
    assert sent > 400


def test_rule_03_every_spelling_of_a_target_goes_to_the_router_whole(hop):
    sent = 0
    for vector in vectors.read("target.json")["vectors"]:
        # For another service only what is malformed goes to the router, which answers 400.
        for service, is_for_router in ("foo", True), ("bar", "malformed" in vector):
            contract = json.dumps({service: vector["target"]})
            whom, head, _ = hop([("x-devroute", contract.encode())])
            assert whom == ("router" if is_for_router else "baseline"), vector["target"]
            assert head.get("x-devroute") == contract, vector["target"]
            sent += 1
    assert sent > 1200


def test_rules_06_to_10_what_a_hop_makes_of_a_request(hop):
    sent = 0
    for vector in vectors.read("hop.json")["vectors"]:
        if vector["service"] != "foo" or not vectors.can_be_sent(vector["fields"]):
            continue
        sent += 1
        lines = vectors.lines(vector["fields"])
        whom, head, answer = hop(lines)
        name, decision = vector["name"], vector["decision"]
        goes_to_router = decision in ("reroute", "malformed")
        assert whom == ("router" if goes_to_router else "baseline"), name
        assert head.all("x-devroute-matched") == ([b"foo"] if goes_to_router else []), name
        forwarded = vectors.lines(vector.get("forwarded", vector["fields"]))
        for carrier in CARRIERS:
            assert head.all(carrier) == [value for it, value in forwarded if it == carrier], name
        # The router of this test says nothing, so that the filter speaks for it.
        mark = {
            "already_rerouted": "foo=baseline; reason=already_rerouted",
            "reroute": "foo=none; reason=router_unreachable",
            "malformed": "foo=none; reason=router_unreachable",
        }.get(decision)
        assert answer.get("x-devroute-routed") == mark, name
    assert sent > 45


def test_rule_09_reading_the_carriers(hop):
    for vector in vectors.read("carrier.json")["read"]:
        whom, head, _ = hop(vectors.lines(vector["fields"]))
        name = vector["name"]
        is_named = "foo" in (vector.get("contract") or "")
        assert whom == ("router" if "malformed" in vector or is_named else "baseline"), name
        if whom == "baseline" and vector["contract"] is None:
            assert not head.all("x-devroute"), name
