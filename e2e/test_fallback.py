"""Where the baseline answers instead, where it must not, and the proof of who got what (rule 13); and
targets that are lost on the way, which is where a fallback is for.
"""

import json
import time

import pytest

from support import namespace, ways
from support.faults import (
    AFTER_CONNECT,
    AFTER_CONNECT_H2,
    BODY,
    NO_NAME,
    REFUSED,
    TIMED_OUT,
    UNROUTABLE,
    close_at_once,
    post,
)
from support.wire import Server, answering


@pytest.fixture
def falling_back(way_of, serve):
    """A sidecar with a fallback, in front of a baseline that says what it got."""

    def falling_back(target):
        baseline = serve(answering("baseline"))
        way = way_of(ways.BASELINE, baseline.port, flags=["--allow=loopback", "--on-failure=fallback"])
        way.fields["x-devroute"] = json.dumps({ways.SERVICE: target})
        return way, baseline

    return falling_back


def is_answered_by_the_baseline(way, baseline, cause):
    head, body = post(way)
    assert (head.status, body) == (200, f"baseline POST /pay {BODY}".encode())
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=baseline; reason={cause}"
    assert way.proxies[0].decisions() == {"fallback": 1}
    assert way.proxies[0].failures() == {f"reroute {cause}": 1}
    assert len(baseline.connections) == 1


def test_rule_13_the_baseline_answers_for_a_laptop_that_is_down(falling_back, nobody):
    way, baseline = falling_back(f"127.0.0.1:{nobody}")
    is_answered_by_the_baseline(way, baseline, REFUSED.cause)


def is_the_laptops_alone(falling_back, laptop, target, fault, sent):
    """The laptop has had the request, so the baseline gets not even a connection. Where there is no
    body, nothing that was used up keeps it from that.
    """
    way, baseline = falling_back(target)
    head, body = post(way, body=sent)
    assert (head.status, json.loads(body)["cause"]) == (fault.status, fault.cause)
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=none; reason={fault.cause}"
    assert way.proxies[0].decisions() == {"failed": 1}
    assert way.proxies[0].failures() == {f"reroute {fault.cause}": 1}
    assert laptop.received > 0
    assert len(laptop.connections) == 1
    assert not baseline.connections


#: A body that was begun, and a request that has none to be used up.
SENT = pytest.mark.parametrize("sent", [BODY, ""], ids=["body", "no body"])


@AFTER_CONNECT
@SENT
def test_rule_13_no_byte_goes_to_two_places(falling_back, serve, handler, fault, sent):
    laptop = serve(handler)
    is_the_laptops_alone(falling_back, laptop, f"127.0.0.1:{laptop.port}", fault, sent)


@AFTER_CONNECT_H2
@SENT
def test_rule_13_no_byte_goes_to_two_places_over_http_2(falling_back, serve, handler, fault, sent):
    laptop = serve(handler)
    is_the_laptops_alone(falling_back, laptop, f"h2c://127.0.0.1:{laptop.port}", fault, sent)


def test_rule_13_no_byte_goes_to_a_laptop_that_hangs_up_at_once(falling_back, serve):
    """An accepted connection that is reset may or may not have been written to: whoever answers, only
    one of the two has the body.
    """
    laptop = serve(close_at_once)
    way, baseline = falling_back(f"127.0.0.1:{laptop.port}")
    head, _ = post(way)
    assert head.status == (200 if baseline.connections else 502)
    assert laptop.received == 0 or baseline.received == 0


def test_rule_13_the_target_is_asked_first_and_alone(falling_back, serve):
    laptop = serve(answering("laptop"))
    way, baseline = falling_back(f"127.0.0.1:{laptop.port}")
    head, body = post(way)
    assert (head.status, body) == (200, f"laptop POST /pay {BODY}".encode())
    assert baseline.received == 0


def test_rule_13_both_are_down(falling_back, nobody):
    way, baseline = falling_back(f"127.0.0.1:{nobody}")
    baseline.stop()
    head, body = post(way)
    problem = json.loads(body)
    assert (head.status, problem["cause"]) == (502, "connection_refused")
    assert "service itself does not answer" in problem["detail"]
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=baseline; reason=connection_refused"
    assert head.get("proxy-status").startswith("devroute; error=connection_refused; ")
    assert way.proxies[0].decisions() == {"fallback": 1}
    failures = {"reroute connection_refused": 1, "upstream connection_refused": 1}
    assert way.proxies[0].failures() == failures


def test_rule_13_what_is_not_allowed_does_not_fall_back(falling_back):
    way, baseline = falling_back("169.254.169.254:80")
    assert post(way)[0].status == 403
    assert not baseline.connections


def test_rule_13_a_router_that_is_down_falls_back(way_of, serve, nobody):
    baseline = serve(answering("baseline"))
    flags = ["--on-failure=fallback", f"--via=127.0.0.1:{nobody}"]
    way = way_of(ways.BASELINE, baseline.port, flags=flags)
    way.fields["x-devroute"] = json.dumps({ways.SERVICE: "10.0.0.1:80"})
    is_answered_by_the_baseline(way, baseline, REFUSED.cause)


def test_an_upload_of_any_size_falls_back_whole(falling_back, nobody):
    way, _ = falling_back(f"127.0.0.1:{nobody}")
    body = "x" * 3_000_000
    assert post(way, body=body)[1] == f"baseline POST /pay {body}".encode()


# Networks that swallow (as root).


@pytest.fixture
def swallowed(started):
    """A namespace, a sidecar with a baseline in it, and how to ask it."""
    reason = namespace.why_not()
    if reason:
        pytest.skip(f"{reason}: black holes are not tested")
    space = namespace.Namespace()
    started.append(space)

    def ask(target, *flags, upstream=None):
        def inside():
            baseline = Server(answering("baseline"))
            started.append(baseline)
            flags_ = ["--connect-timeout=300ms", "--allow-suffix=.test", *flags]
            sidecar = ways.sidecar_of(upstream or f"http://127.0.0.1:{baseline.port}", *flags_)
            started.append(sidecar)
            fields = {"x-devroute": json.dumps({ways.SERVICE: target})} if target else {}
            way = ways.Way(ways.REROUTED, sidecar.port, fields, None, [sidecar], baseline)
            began = time.monotonic()
            answer = post(way)
            took = time.monotonic() - began
            scraped = (sidecar.decisions(), sidecar.ask_admin("/metrics"))
            return way, answer, took, scraped

        return space.run(inside)

    return ask


LOST = pytest.mark.parametrize(
    ("target", "fault"),
    [
        (f"{namespace.BLACK_HOLE}:80", TIMED_OUT),
        (f"{namespace.UNROUTABLE}:80", UNROUTABLE),
        ("laptop.test:80", NO_NAME),
    ],
    ids=["black hole", "no route", "no name"],
)


@LOST
def test_rule_12_a_target_that_is_lost(swallowed, target, fault):
    way, (head, body), took, (decisions, metrics) = swallowed(target)
    problem = json.loads(body)
    assert (head.status, problem["cause"]) == (fault.status, fault.cause)
    assert problem["target"] == target
    assert f"error={fault.proxy_status};" in head.get("proxy-status")
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=none; reason={fault.cause}"
    assert decisions == {"failed": 1}
    assert f'devroute_reroute_failures_total{{cause="{fault.cause}"}} 1\n' in metrics
    assert not way.decoy.connections
    if fault is TIMED_OUT:
        assert 0.3 <= took < 1.5


@LOST
def test_rule_13_the_baseline_answers_for_a_target_that_is_lost(swallowed, target, fault):
    way, (head, body), _, (decisions, metrics) = swallowed(target, "--on-failure=fallback")
    assert (head.status, body) == (200, f"baseline POST /pay {BODY}".encode())
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=baseline; reason={fault.cause}"
    assert decisions == {"fallback": 1}
    assert f'devroute_reroute_failures_total{{cause="{fault.cause}"}} 1\n' in metrics
    assert len(way.decoy.connections) == 1


@pytest.mark.parametrize(
    ("upstream", "fault"),
    [
        (f"http://{namespace.BLACK_HOLE}:80", TIMED_OUT),
        (f"http://{namespace.UNROUTABLE}:80", UNROUTABLE),
        ("https://upstream.test", NO_NAME),
    ],
    ids=["black hole", "no route", "no name"],
)
def test_a_baseline_that_is_lost(swallowed, upstream, fault):
    _, (head, body), _, (decisions, metrics) = swallowed(None, upstream=upstream)
    problem = json.loads(body)
    assert (head.status, problem["cause"]) == (fault.status, fault.cause)
    assert "service itself does not answer" in problem["detail"]
    assert "not about a contract" in problem["help"]
    assert f"error={fault.proxy_status};" in head.get("proxy-status")
    assert "x-devroute-routed" not in head.names()
    assert decisions == {"none": 1}
    assert f'devroute_upstream_failures_total{{cause="{fault.cause}"}} 1\n' in metrics


def test_rule_13_both_are_lost(swallowed):
    """Each is waited for as long as a connection may take, and no longer."""
    _, (head, body), took, (decisions, metrics) = swallowed(
        f"{namespace.BLACK_HOLE}:81",
        "--on-failure=fallback",
        upstream=f"http://{namespace.BLACK_HOLE}:80",
    )
    assert (head.status, json.loads(body)["cause"]) == (504, "connect_timeout")
    assert head.get("x-devroute-routed") == f"{ways.SERVICE}=baseline; reason=connect_timeout"
    assert head.get("proxy-status").startswith("devroute; error=connection_timeout; ")
    assert decisions == {"fallback": 1}
    for family in ["reroute", "upstream"]:
        assert f'devroute_{family}_failures_total{{cause="connect_timeout"}} 1\n' in metrics
    assert 0.6 <= took < 3
