"""What has to come of a fault: the answer, its fields, its body, and the metric (rule 12)."""

import json

from . import ways


def is_reported(way, answer, fault, peer):
    """The whole of an answer that devroute gives itself, and the counters."""
    is_answered_for(way, answer, fault, peer)
    is_counted(way, fault.cause)


def is_answered_for(way, answer, fault, peer):
    head, body = answer
    problem = json.loads(body)
    assert head.status == problem["status"] == fault.status
    assert head.get("content-type") == "application/problem+json"
    assert head.get("cache-control") == "no-store"
    assert problem["cause"] == fault.cause
    assert problem["title"]
    assert problem["detail"]
    assert problem["help"]
    proxy_status = head.all("proxy-status")[0].decode()
    assert proxy_status.startswith(f"devroute; error={fault.proxy_status}; ")
    if way.kind == ways.BASELINE:
        assert "service" not in problem
        assert "x-devroute-routed" not in head.names()
    else:
        assert (problem["service"], problem["target"]) == (ways.SERVICE, peer)
        assert f'next-hop="{peer}"' in proxy_status
        assert head.get("x-devroute-routed") == f"{ways.SERVICE}=none; reason={fault.cause}"


def is_counted(way, cause):
    """A failure is counted once by each proxy that saw it."""
    if way.kind == ways.EMBEDDED:
        return
    for number, proxy in enumerate(way.proxies):
        if way.kind == ways.BASELINE:
            assert proxy.decisions() == {"none": 1}
            assert proxy.failures() == {f"upstream {cause}": 1}
        else:
            # A sidecar knows only that its router said so.
            seen = "router" if len(way.proxies) > 1 and number == 0 else cause
            assert proxy.decisions() == {"failed": 1}
            assert proxy.failures() == {f"reroute {seen}": 1}


def is_reported_to_grpc(way, answer, fault, peer):
    """The same to a gRPC client, all of it in one header block, with the status of HTTP that it has to
    have.
    """
    head, body, trailers = answer
    assert (head[b":status"], body, trailers) == (b"200", b"", None)
    assert head[b"content-type"] == b"application/grpc"
    assert head[b"grpc-status"] == b"14"
    assert head[b"proxy-status"].startswith(f"devroute; error={fault.proxy_status}; ".encode())
    if way.kind == ways.BASELINE:
        assert b"x-devroute-routed" not in head
    else:
        assert peer.encode() in head[b"grpc-message"]
        mark = f"{ways.SERVICE}=none; reason={fault.cause}"
        assert head[b"x-devroute-routed"] == mark.encode()
    is_counted(way, fault.cause)


def is_refused(way, cause):
    """A refusal is counted by the one that judges; a sidecar knows only that its router said so."""
    if way.kind == ways.EMBEDDED:
        return
    judge = way.proxies[-1]
    if cause == "malformed":
        # What cannot be read is not passed on to be judged.
        judge, others = way.proxies[0], way.proxies[1:]
        assert not any(proxy.decisions() for proxy in others)
    elif judge is not way.proxies[0]:
        assert way.proxies[0].decisions() == {"failed": 1}
        assert way.proxies[0].failures() == {"reroute router": 1}
    assert judge.decisions() == {"refused": 1}
    assert judge.failures() == {f"reroute {cause}": 1}


def is_unharmed(way, *, requests):
    """All that the proxies saw was as it should be."""
    if way.kind == ways.EMBEDDED:
        return
    for proxy in way.proxies:
        decision = "none" if way.kind == ways.BASELINE else "rerouted"
        assert proxy.decisions() == {decision: requests}
        assert not proxy.failures()
