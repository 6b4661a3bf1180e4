"""Rule 10 against the SDKs it was made for: what a contract may hold arrives as it was, and what they
do to members on the way is what docs/propagation.md says.
"""

import string

import pytest

from support.chains import as_field, as_member, ask, decode, encode, members, through
from support.services import (
    ADDED_LAYERS,
    ALL,
    AUTOMATIC,
    DATADOG_EXPRESS,
    DATADOG_FLASK,
    EXPRESS,
    FASTAPI,
    FLASK,
    GO,
)

#: What is in a contract besides the entry for `c`.
CONTENTS = {
    "nothing": {},
    "quotes and backslashes": {"$note": 'a "quoted" \\ word', "$other": '"'},
    "equals signs": {"$note": "a=b==c="},
    "plus signs": {"$note": "a+b++c+"},
    "blanks": {"$note": " a  b "},
    "percent signs": {"$note": "100% %2B %25 %zz %"},
    "commas and semicolons": {"$note": "a,b;c,,d;;e"},
    "other alphabets": {"$note": "Grüße, 世界 🚀"},
    "control characters": {"$note": "a\tb\nc\0"},
    "all punctuation": {"$note": string.punctuation},
    "IPv6 targets": {"d": "[fd00::1]:8001", "e": "https://[fd12:3456::c0a8:1]:443"},
    "schemes and names": {"d": "h2c://10.0.0.1:1", "e": "http://laptop.qa.example:8080"},
    "reserved members": {
        "$id": "run-42",
        "$exp": "4102444800",
        "$key": "SHA256:abc",
        "$sig": "A-_z" * 21 + "Qg",
    },
    "64 entries": {f"s{number}": f"10.0.0.{number}:80" for number in range(63)},
}

#: What is encoded when it comes and not when it goes; all of it is allowed in a value.
LEFT_PLAIN = {EXPRESS: "!'()*", DATADOG_EXPRESS: "!'()*", DATADOG_FLASK: "!#$&'*+^`|()/:<>?@[]{}"}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("contents", CONTENTS.values(), ids=CONTENTS)
def test_rule_10_arrives_as_it_was(kind, contents, chain, serve_recorder):
    """At the laptop behind `c`; and what the SDK sends is our member, changed by nothing but layers."""
    chain, recorder = chain(kind), serve_recorder("recorder")
    contract = chain.contract(**contents)
    chain.is_answered_by_the_laptop(contract, as_field(contract), ("baggage", "user=alice"))

    chain.ask(as_field(contract), ("baggage", "user=alice"), last=recorder.port)
    (ours,), others = members(recorder.only())
    assert others == ["user=alice"]
    assert decode(ours) == (contract, 1 + ADDED_LAYERS.get(kind, 0))
    assert set(ours) <= set(string.ascii_letters + string.digits + "-._~%" + LEFT_PLAIN.get(kind, ""))


@pytest.mark.parametrize("contents", CONTENTS.values(), ids=CONTENTS)
def test_rule_10_arrives_as_it_was_through_three_sdks(contents, chain):
    """Without a sidecar between them, so that each has what the one before it has made."""
    chain = chain(EXPRESS, GO, FLASK, sidecars=1)
    contract = chain.contract(**contents)
    chain.is_answered_by_the_laptop(contract, as_field(contract))


@pytest.mark.parametrize("kind", ALL)
def test_rule_10_near_3_kib_of_entries(kind, chain):
    """The longest that a member can hold is carried, also by what then makes it 5 KiB."""
    chain = chain(kind)
    contract, number = chain.contract(), 0
    while len(as_member({**contract, f"service-{number}": "[fd00::1]:80"})[1]) <= 3072:
        contract[f"service-{number}"] = "[fd00::1]:80"
        number += 1
    assert number > 40
    head = chain.is_answered_by_the_laptop(contract, as_field(contract))
    (ours,), _ = members(head)
    assert 3000 < len(f"devroute={ours}") <= 3072


@pytest.mark.parametrize("kind", AUTOMATIC)
@pytest.mark.parametrize("layers", [2, 3, 8])
def test_rule_9_layers_that_were_there_before_stay_and_are_taken_off_at_c(
    kind, layers, chain, serve_recorder
):
    """No sidecar is in front of the service, which gets a member that was encoded several times."""
    chain, recorder = chain(kind, sidecars=0), serve_recorder("recorder")
    contract = chain.contract()
    chain.is_answered_by_the_laptop(contract, as_member(contract, layers=layers))
    chain.ask(as_member(contract, layers=layers), last=recorder.port)
    (ours,), _ = members(recorder.only())
    assert decode(ours) == (contract, layers)


# Several lines.

MEMBER_LAST = [("baggage", "user=alice"), None]
MEMBER_FIRST = [None, ("baggage", "user=alice")]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("lines", [MEMBER_FIRST, MEMBER_LAST], ids=["member first", "member last"])
def test_rule_10_a_second_line_is_not_lost_behind_a_sidecar(kind, lines, chain):
    chain = chain(kind)
    contract = chain.contract()
    lines = [line or as_member(contract) for line in lines]
    head = chain.is_answered_by_the_laptop(contract, *lines)
    assert members(head)[1] == ["user=alice"]


@pytest.mark.parametrize("kind", ALL)
def test_without_a_sidecar_some_lose_the_second_line(kind, chain):
    bare = chain(kind, sidecars=0)
    answer = bare.ask(("baggage", "user=alice"), as_member(bare.contract()))
    is_lost = kind in (FASTAPI, GO)
    assert answer == (200, "baseline" if is_lost else "laptop")


# What SDKs do without a sidecar in front of them.

ROWS = {
    "second line": ["a=1", "b=2"],
    "raw JSON": ['devroute={"d":"10.0.0.1:80","e":"10.0.0.1:80"},b=2'],
    "properties": ["a=1;ttl=3,b=2"],
    "an encoded blank": ["a=1%202"],
    "long member": ["a=1,b=" + "v" * 4100],
    "long line": ["a=" + "v" * 4000 + ",b=" + "v" * 4000 + ",c=" + "v" * 200],
}
FIRST_TWO = ["a=" + "v" * 4000, "b=" + "v" * 4000]
TABLE = {
    FLASK: [["a=1", "b=2"], ["b=2"], ["a=1%3Bttl%3D3", "b=2"], ["a=1+2"], ["a=1"], []],
    FASTAPI: [["a=1"], ["b=2"], ["a=1%3Bttl%3D3", "b=2"], ["a=1+2"], ["a=1"], []],
    EXPRESS: [
        ["a=1", "b=2"],
        ["devroute=%7B%22d%22%3A%2210.0.0.1%3A80%22", "b=2"],
        ["a=1;ttl=3", "b=2"],
        ["a=1%202"],
        ["a=1"],
        FIRST_TWO,
    ],
    GO: [["a=1"], [], ["a=1;ttl=3", "b=2"], ["a=1%25202"], [], []],
    DATADOG_FLASK: [
        ["a=1", "b=2"],
        [],
        ["a=1%3Bttl%3D3", "b=2"],
        ["a=1%202"],
        ["a=1", "b=" + "v" * 4100],
        FIRST_TWO,
    ],
    DATADOG_EXPRESS: [
        ["a=1", "b=2"],
        [],
        ["a=1", "b=2"],
        ["a=1%202"],
        ["a=1", "b=" + "v" * 4100],
        FIRST_TWO,
    ],
}


@pytest.mark.parametrize("kind", ALL)
def test_the_table_of_what_sdks_do(kind, service, serve_recorder):
    """The one of docs/propagation.md, which changes with this."""
    port, recorder = service(kind).port, serve_recorder("recorder")
    found = []
    for lines in ROWS.values():
        ask(through(port, recorder.port), *[("baggage", line) for line in lines])
        values = [line.decode() for line in recorder.heads[-1].all("baggage")]
        # Go keeps members in a map, without an order.
        found.append(sorted(member for value in values for member in value.split(",")))
    assert dict(zip(ROWS, found)) == {row: sorted(it) for row, it in zip(ROWS, TABLE[kind])}


# Members that SDKs drop.

TOO_LONG = "big=" + "v" * 4100


@pytest.mark.parametrize("kind", AUTOMATIC)
def test_a_member_over_4096_bytes_is_dropped_and_ours_is_not(kind, chain):
    chain = chain(kind)
    contract = chain.contract()
    others = ("baggage", f"user=alice,{TOO_LONG},b=2")
    head = chain.is_answered_by_the_laptop(contract, as_field(contract), others)
    assert members(head)[1] == ["user=alice", "b=2"]
    # The sidecar has kept it.
    assert chain.sidecars[0].metric("devroute_baggage_members_not_written_total") == 0


@pytest.mark.parametrize("other", [TOO_LONG, 'q="quoted"'], ids=["long", "quotes"])
def test_go_drops_all_members_for_one_that_it_does_not_like(other, chain, serve_recorder):
    """Ours is among them: the contract is lost, as the metrics of the two sidecars tell."""
    chain = chain(GO)
    contract = chain.contract()
    assert chain.ask(as_field(contract), ("baggage", f"user=alice,{other}")) == (200, "baseline")
    assert chain.sidecars[0].decisions() == {"baseline": 1}
    assert chain.c.decisions() == {"none": 1}
    assert chain.baseline.only().all("baggage") == []


@pytest.mark.parametrize("kind", [FLASK, FASTAPI])
def test_python_drops_all_members_of_a_line_over_8192_bytes(kind, chain):
    """Why no sidecar makes a line longer than that."""
    bare = chain(kind, sidecars=0)
    contract = bare.contract()
    line = as_member(contract, "a=" + "v" * 4000, "b=" + "v" * 4000)[1]
    assert bare.ask(("baggage", f"{line},c={'v' * (8192 - len(line) - 3)}")) == (200, "laptop")
    assert bare.ask(("baggage", f"{line},c={'v' * (8193 - len(line) - 3)}")) == (200, "baseline")


# What a sidecar repairs before the SDK sees it.

RAW = '{{"c":"{target}"}}'


@pytest.mark.parametrize("kind", ALL)
def test_raw_json_and_properties_arrive_behind_a_sidecar(kind, chain):
    chain = chain(kind)
    contract = chain.contract()
    raw = RAW.format(target=contract["c"])
    for member in [raw, f"{encode(raw)};ttl=30", f" {encode(raw)} ; ttl=30 "]:
        assert chain.ask(("baggage", f"devroute={member},user=alice")) == (200, "laptop"), member
    assert chain.c.decisions() == {"rerouted": 3}


@pytest.mark.parametrize("kind", ALL)
def test_raw_json_without_a_sidecar_is_lost_by_some(kind, chain):
    bare = chain(kind, sidecars=0)
    raw = RAW.format(target=bare.contract()["c"])
    answer = bare.ask(("baggage", f"devroute={raw},user=alice"))
    assert answer == (200, "baseline" if kind in (FLASK, FASTAPI, GO) else "laptop")


@pytest.mark.parametrize("kind", [FLASK, FASTAPI])
def test_python_folds_properties_into_the_value(kind, chain, serve_recorder):
    """Of a member that no sidecar has written, which is then malformed at the next."""
    recorder = serve_recorder("recorder")
    bare = chain(kind, sidecars=0)
    raw = encode(RAW.format(target=bare.contract()["c"]))
    fields = [("baggage", f"devroute={raw};ttl=30")]
    assert bare.ask(*fields)[0] == 400
    ask(through(bare.services[0].port, recorder.port), *fields)
    assert members(recorder.only())[0] == [raw + encode(";ttl=30")]
