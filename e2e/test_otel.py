"""The contract through services that nobody changed: real tracing SDKs carry it as baggage.

Each is the middle of a chain: a request with a contract comes to its sidecar, it asks the service
`c` by itself, and a laptop has to answer for that one.
"""

import concurrent.futures
import json
import threading

import pytest

from support.chains import as_field, as_member, ask, decode, encode, members, sidecar, through
from support.process import PATIENCE
from support.services import (
    ADDED_LAYERS,
    ALL,
    AUTOMATIC,
    DATADOG,
    DATADOG_EXPRESS,
    DATADOG_FLASK,
    EXPRESS,
    FASTAPI,
    FLASK,
    GO,
    KINDS,
    Service,
)

NOT_WRITTEN = "devroute_baggage_members_not_written_total"


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("carrier", [as_field, as_member])
def test_c_is_answered_by_the_laptop(kind, carrier, chain):
    chain = chain(kind)
    contract = chain.contract(**{"$id": "run-42"})
    head = chain.is_answered_by_the_laptop(contract, carrier(contract))
    assert head.get("x-devroute-matched") == "c"
    assert chain.sidecars[0].decisions() == {"baseline": 1}


@pytest.mark.parametrize("kind", ALL)
def test_without_a_contract_nothing_is_there_that_was_not_before(kind, chain):
    chain = chain(kind)
    assert chain.ask(("baggage", "user=alice")) == (200, "baseline")
    head = chain.baseline.only()
    assert head.all("baggage") == [b"user=alice"]
    assert not any(name.startswith("x-devroute") for name in head.names())


OTHERS = "a=1;p=v, b = x%20y ,c=x+y,d=%2B%25,e=f=g,user=al%2Cice"
#: For one member that it does not like it drops all.
OTHERS_FOR_GO = "a=1;p=v,b=x%20y,user=al%2Cice"


@pytest.mark.parametrize("kind", ALL)
def test_other_members_are_what_the_sdk_makes_of_them(kind, chain, serve_recorder):
    """The same as without devroute, byte for byte; and there the SDK alone has changed them."""
    others = OTHERS_FOR_GO if kind == GO else OTHERS
    recorder = serve_recorder("recorder")
    chain = chain(kind)
    ask(through(chain.services[0].port, recorder.port), ("baggage", others))
    ours, left = members(recorder.only())
    assert (ours, len(left)) == ([], others.count(",") + 1)

    contract = chain.contract()
    head = chain.is_answered_by_the_laptop(contract, as_field(contract), ("baggage", others))
    ours, passed = members(head)
    assert len(ours) == 1
    # Go keeps them in a map.
    assert sorted(passed) == sorted(left) if kind == GO else passed == left


def test_what_each_sdk_makes_of_other_members(service, serve_recorder):
    """Recorded in docs/propagation.md; what changes here is to be changed there."""
    seen = {}
    for kind in [*AUTOMATIC, *DATADOG]:
        recorder = serve_recorder(kind)
        ask(through(service(kind).port, recorder.port), ("baggage", OTHERS))
        seen[kind] = recorder.only().all("baggage")
    python = [b"a=1%3Bp%3Dv,b=x+y,c=x+y,d=%2B%25,e=f%3Dg,user=al%2Cice"]
    assert seen == {
        FLASK: python,
        FASTAPI: python,
        EXPRESS: [b"a=1;p=v,b=x%20y,c=x%2By,d=%2B%25,e=f%3Dg,user=al%2Cice"],
        # What `d` decodes to is another from here on.
        DATADOG_FLASK: [b"a=1%3Bp%3Dv,b=x%20y,c=x+y,d=+%,e=f%3Dg,user=al%2Cice"],
        DATADOG_EXPRESS: [b"a=1,b=x%20y,c=x%2By,d=%2B%25,e=f%3Dg,user=al%2Cice"],
    }


@pytest.mark.parametrize("kind", ALL)
def test_concurrent_requests_with_different_contracts_never_mix(kind, chain):
    """Each round of requests is in the service at once: `c` answers none before it has all of them."""
    at_once, rounds = 32, 10
    together = threading.Barrier(at_once)

    def say(head):
        together.wait(PATIENCE)
        return head.get("x-devroute") or "nothing"

    chain = chain(kind, say=say)

    def one(number):
        if number % 4 == 0:
            return chain.ask() == (200, "baseline nothing")
        field = as_field(chain.contract(**{"$id": f"run-{number}"}))
        said = field[1].replace(" ", "")
        return chain.ask(field) == (200, f"laptop {said}")

    with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
        right = list(threads.map(one, range(at_once * rounds)))
    assert all(right), f"{right.count(False)} of {len(right)} got what was not theirs"
    assert chain.c.decisions() == {"rerouted": at_once * rounds * 3 // 4, "none": at_once * rounds // 4}


# Longer chains.


@pytest.mark.parametrize(
    "kinds",
    [
        [FLASK, FASTAPI],
        [FASTAPI, EXPRESS],
        [EXPRESS, FLASK, FASTAPI],
        [EXPRESS, GO, FLASK],
        [DATADOG_FLASK, EXPRESS, DATADOG_EXPRESS],
    ],
    ids="-".join,
)
def test_chains_with_a_sidecar_at_each_service(kinds, chain):
    chain = chain(*kinds)
    contract = chain.contract(**{"$id": "run-42"})
    chain.is_answered_by_the_laptop(contract, as_field(contract), ("baggage", "user=alice"))
    assert [it.decisions() for it in chain.sidecars] == [{"baseline": 1}] * len(kinds)


@pytest.mark.parametrize(
    "kinds",
    [
        [FLASK, EXPRESS, FASTAPI],
        [EXPRESS, EXPRESS, FLASK],
        [GO] * 7,
        [GO, FLASK, GO],
        [FASTAPI, DATADOG_EXPRESS, EXPRESS],
    ],
    ids="-".join,
)
def test_chains_without_a_sidecar_until_c(kinds, chain, serve_recorder):
    """Nobody takes off on the way what some SDKs add at each hop."""
    chain, recorder = chain(*kinds, sidecars=0), serve_recorder("recorder")
    contract = chain.contract(**{"$id": "run-42"})
    chain.is_answered_by_the_laptop(contract, as_member(contract))
    chain.ask(as_member(contract), last=recorder.port)
    (ours,), _ = members(recorder.only())
    assert decode(ours) == (contract, 1 + sum(ADDED_LAYERS.get(kind, 0) for kind in kinds))


def test_eight_services_that_each_add_a_layer_need_a_sidecar_among_them(chain):
    """Eight layers are taken off, and the first one is ours."""
    chain, contract = chain(*[GO] * 8, sidecars=0), {"c": "127.0.0.1:80"}
    assert chain.ask(as_member(contract))[0] == 400
    assert chain.c.decisions() == {"refused": 1}


@pytest.mark.parametrize("size", [1, 7900])
def test_a_service_that_forwards_the_field_itself_carries_any_contract(size, chain, serve):
    """As many do that forward what they are told to, or all that begins with `x-`."""

    def forward(conn):
        while head := conn.head():
            status, said = ask(through(plain.c.port), ("x-devroute", head.get("x-devroute")))
            conn.send(f"HTTP/1.1 {status} OK\r\ncontent-length: {len(said)}\r\n\r\n{said}")

    plain = chain(serve(forward))
    contract = padded(plain.contract(), size)
    plain.is_answered_by_the_laptop(contract, as_field(contract))


@pytest.mark.parametrize("kind", [FLASK, FASTAPI])
def test_python_turns_the_blanks_of_a_member_made_by_hand_into_plus(kind, chain):
    """Which is why a sidecar, and `devroute contract`, write none."""
    member = ("baggage", "devroute=" + encode('{"c": "127.0.0.1:80"}'))
    bare = chain(kind, sidecars=0)
    assert bare.ask(member)[0] == 400
    assert bare.c.decisions() == {"refused": 1}

    chain = chain(kind)
    contract = chain.contract()
    blanks = ("baggage", "devroute=" + encode(json.dumps(contract)))
    chain.is_answered_by_the_laptop(contract, blanks)


def test_a_service_in_the_middle_can_be_replaced_as_well(chain, serve_recorder, started):
    """The laptop's copy of the second service is plain, and its own requests end with it."""
    chain, copy = chain(FLASK, EXPRESS), serve_recorder("copy")
    chain.sidecars[1].stop()
    replaced = sidecar("b2", chain.services[1].port, "--allow=loopback")
    started.append(replaced)
    url = through(chain.sidecars[0].port, replaced.port, chain.c.port)
    contract = chain.contract(b2=f"127.0.0.1:{copy.port}")
    assert ask(url, as_field(contract)) == (200, "copy")
    assert ask(url, as_field(chain.contract())) == (200, "laptop")
    assert replaced.decisions() == {"rerouted": 1, "baseline": 1}


# What cannot be carried.


def padded(contract, size):
    """The contract with a reserved member, so that its text has about this size."""
    return {**contract, "$pad": "x" * size}


def many(number):
    return ",".join(f"k{it}=v" for it in range(number))


def filling(size):
    """Two members that have this many bytes together; one alone must not have over 4096."""
    half = (size - 1) // 2
    return f"k={'v' * (half - 2)},l={'v' * (size - half - 3)}"


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("others", "size"),
    [("", 3 * 1024), ("", 8000), (many(64), 1), (filling(8150), 1)],
    ids=["member over 3 KiB", "contract near 8 KiB", "64 others", "8150 bytes of others"],
)
def test_a_contract_that_no_member_holds_goes_on_in_the_field_alone(kind, others, size, chain):
    """The service gets the field, which the SDK does not forward; a metric says at which hop."""
    chain = chain(kind)
    fields = [("baggage", others)] if others else []
    assert chain.ask(as_field(padded(chain.contract(), size)), *fields) == (200, "baseline")
    assert chain.sidecars[0].metric(NOT_WRITTEN) == 1
    assert chain.sidecars[0].decisions() == {"baseline": 1}
    assert chain.c.decisions() == {"none": 1}
    ours, left = members(chain.baseline.only())
    assert (len(ours), len(left)) == (0, len(others.split(",")) if others else 0)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("limit", ["64 members", "8192 bytes", "3072 bytes"])
def test_a_contract_at_the_limits_is_carried(kind, limit, chain):
    chain = chain(kind)
    contract = chain.contract()
    if limit == "3072 bytes":
        contract = padded(contract, 0)
        contract = padded(contract, 3072 - len(as_member(contract)[1]))
    ours = len(as_member(contract)[1])
    # It counts a comma behind the last member as well.
    most = 8191 if kind == DATADOG_EXPRESS else 8192
    others = {
        "64 members": many(63),
        "8192 bytes": filling(most - 1 - ours),
        "3072 bytes": "user=alice",
    }
    chain.is_answered_by_the_laptop(contract, as_field(contract), ("baggage", others[limit]))
    assert chain.sidecars[0].metric(NOT_WRITTEN) == 0


WITHOUT_BAGGAGE = {
    FLASK: {"OTEL_PROPAGATORS": "tracecontext"},
    EXPRESS: {"OTEL_PROPAGATORS": "tracecontext"},
    DATADOG_EXPRESS: {"DD_TRACE_PROPAGATION_STYLE": "datadog,tracecontext"},
}


@pytest.mark.parametrize("kind", WITHOUT_BAGGAGE)
def test_without_the_baggage_propagator_the_contract_is_lost(kind, chain, service):
    """The first sidecar that sees no contract is behind the service that lost it; what still comes
    through is the trace id.
    """
    plain = service(kind, **WITHOUT_BAGGAGE[kind])
    chain = chain(plain)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    parent = ("traceparent", f"00-{trace}-00f067aa0ba902b7-01")
    assert chain.ask(as_field(chain.contract()), parent) == (200, "baseline")
    assert chain.sidecars[0].decisions() == {"baseline": 1}
    assert chain.c.decisions() == {"none": 1}
    head = chain.baseline.only()
    assert head.all("baggage") == []
    assert head.get("traceparent").split("-")[1] == trace


def test_the_record_of_a_run_says_where_it_was_rerouted_and_where_not(chain, service):
    """What docs/propagation.md tells to ask: each sidecar, for the run by its `$id`."""

    def record(chain):
        return chain.c.ask_admin("/reroutes?id=run-42")

    kept, lost = chain(EXPRESS), chain(service(EXPRESS, **WITHOUT_BAGGAGE[EXPRESS]))
    for it in (kept, lost):
        it.ask(as_field(it.contract(**{"$id": "run-42"})))
    (rerouted,) = json.loads(record(kept))["reroutes"]
    said = {"id": "run-42", "service": "c", "outcome": "rerouted", "direction": "inbound", "status": 200}
    assert said.items() <= rerouted.items()
    assert json.loads(record(lost))["reroutes"] == []


@pytest.mark.parametrize("kind", [FLASK, FASTAPI])
def test_an_sdk_sends_the_contract_to_anybody(kind, chain, serve_recorder, started):
    """Outside hosts are no others to it. What stands for them here is a proxy that each of its
    requests goes to, since nothing leaves the machine.
    """
    outside = serve_recorder("outside")
    proxied = {"http_proxy": f"http://127.0.0.1:{outside.port}", "no_proxy": ""}
    started.append(Service(kind, {**KINDS[kind].settings, **proxied}))
    chain = chain(started[-1])
    url = "http://shop.example/cart"
    contract = chain.contract()
    assert ask(through(chain.sidecars[0].port, url), as_field(contract)) == (200, "outside")
    head = outside.only()
    assert head.target == url
    assert decode(members(head)[0][0]) == (contract, 1)


def test_python_with_an_exporter_that_is_not_installed_propagates_nothing(chain, started):
    """The default exporter is another package; without it the service runs, and the SDK does not."""
    flask = Service(FLASK, {})
    started.append(flask)
    chain = chain(flask)
    assert chain.ask(as_field(chain.contract())) == (200, "baseline")
    assert chain.c.decisions() == {"none": 1}
    assert chain.baseline.only().all("baggage") == []
    said = "Failed to auto initialize OpenTelemetry"
    flask.lines.wait(lambda line: said in line, "that says so")
