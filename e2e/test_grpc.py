"""gRPC between grpcio's own client and server (rules 12 and 17)."""

import json
import queue
import time

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from support import ways
from support.process import PATIENCE

#: What "at once" means here, for a cancellation that crosses up to two proxies.
AT_ONCE = 1.0


@pytest.fixture
def peer(grpc_peer):
    return grpc_peer


@pytest.fixture
def client(grpc_client):
    return grpc_client


def error_of(call):
    """What a call with one answer fails with."""
    with pytest.raises(grpc.RpcError) as raised:
        call.result()
    return raised.value


def error_of_stream(answers):
    """What a call with many answers ends with."""
    with pytest.raises(grpc.RpcError) as raised:
        for _ in answers:
            pass
    return raised.value


#: The upstream's own scheme, and a gRPC request that is recognised behind an `http` one.
@pytest.fixture(params=["http", "h2c"])
def any_scheme(request):
    return request.param


def test_rule_17_unary_with_metadata_both_ways(way, any_scheme, peer, client):
    peer = peer()
    client = client(way(peer.port, scheme=any_scheme))
    raw = bytes(range(256))
    call = client.call(
        "Unary", client.text(text="hello"), metadata=[("x-ask", "a, b"), ("x-ask-bin", raw)]
    )
    assert call.result().text == "HELLO"
    leading, trailing = call.initial_metadata(), call.trailing_metadata()
    assert ("x-back", "a, b") in leading
    assert ("x-peer", "peer") in leading
    assert ("x-back-bin", raw) in trailing
    assert [value for name, value in trailing if name == "x-end"] == ["1", "2"]
    assert call.code() is grpc.StatusCode.OK


def test_rule_14_the_answer_says_who_gave_it(rerouted_way, peer, client):
    way = rerouted_way(peer().port)
    call = client(way).call("Unary", client(way).text(text="x"))
    assert ("x-devroute-routed", way.mark) in call.initial_metadata()


def test_client_streaming(way, peer, client):
    client = client(way(peer().port))
    parts = (client.text(text=f"{number},") for number in range(100))
    assert client.call("Collect", parts).result().text == "".join(f"{n}," for n in range(100))


def test_server_streaming_is_not_held_back(way, peer, client):
    """Each message arrives before the next one is made."""
    peer = peer()
    client = client(way(peer.port))
    answers = client.call("Spell", client.text(text="abc"))
    spelled = []
    for answer in answers:
        spelled.append(answer.text)
        peer.next_letter.set()
    assert spelled == ["a", "b", "c"]


def test_bidirectional_streaming_is_interleaved(way, peer, client):
    """Request n + 1 is made from answer n."""
    client = client(way(peer().port))
    requests = queue.Queue()
    requests.put("begin")
    sent = (client.text(text=text) for text in iter(requests.get, None))
    answers = client.call("Chat", sent)
    got = []
    for answer in answers:
        got.append(answer.text)
        requests.put(f"after {len(got)}" if len(got) < 20 else None)
    assert got == ["0: begin", *(f"{n}: after {n}" for n in range(1, 20))]


def test_many_calls_share_a_connection(way, peer, client):
    client = client(way(peer().port))
    calls = [client.call("Unary", client.text(text=f"call {number}")) for number in range(100)]
    assert [call.result().text for call in calls] == [f"CALL {number}" for number in range(100)]


def test_a_deadline_ends_both_sides(way, peer, client):
    peer = peer()
    client = client(way(peer.port))
    # Connected before the clock runs.
    client.call("Unary", client.text(text="x")).result()
    call = client.call("Hang", client.text(text="x"), timeout=0.5)
    assert error_of_stream(call).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert peer.cancelled.wait(AT_ONCE), "the server goes on after the deadline"


def test_a_cancelled_call_reaches_the_far_side(way, peer, client):
    peer = peer()
    client = client(way(peer.port))
    call = client.call("Hang", client.text(text="x"))
    assert next(call).text == "hanging"
    began = time.monotonic()
    call.cancel()
    assert peer.cancelled.wait(AT_ONCE), "the server goes on after the cancellation"
    assert time.monotonic() - began < AT_ONCE
    assert error_of_stream(call).code() is grpc.StatusCode.CANCELLED


def test_a_client_that_is_gone_reaches_the_far_side(way, peer, client):
    peer = peer()
    client = client(way(peer.port))
    call = client.call("Hang", client.text(text="x"))
    assert next(call).text == "hanging"
    client.channel.close()
    assert peer.cancelled.wait(AT_ONCE), "the server goes on without its client"


def test_a_server_that_dies_is_an_error_and_no_end(way, peer, client):
    peer = peer()
    client = client(way(peer.port))
    call = client.call("Hang", client.text(text="x"))
    assert next(call).text == "hanging"
    peer.stop()
    error = error_of_stream(call)
    assert error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    ), error


def test_errors_pass_with_text_and_details(way, peer, client):
    client = client(way(peer().port))
    error = error_of(client.call("Fail", client.text(text="x")))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "süß & 100%: no\nsecond line"
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("TESTED", "e2e")


def test_trailers_only_answers_pass(way, peer, client):
    """grpcio answers a method that it does not know in one header block."""
    client = client(way(peer().port))
    unknown = client.channel.unary_unary(
        "/devroute.e2e.Nowhere/Unknown", client.text.SerializeToString, client.text.FromString
    )
    error = error_of(unknown.future(client.text(), metadata=client.metadata, timeout=PATIENCE))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_8_mib_messages_pass_both_ways(way, peer, client):
    client = client(way(peer().port))
    payload = bytes(range(256)) * (8 * 4096)
    assert len(payload) == 8 * 2**20
    assert client.call("Unary", client.text(payload=payload)).result().payload == payload
    answers = client.call("Chat", iter([client.text(payload=payload)] * 2))
    assert [answer.payload == payload for answer in answers] == [True, True]


def test_compressed_messages_pass(way, peer, client):
    client = client(way(peer().port))
    payload = b"compressible " * 100_000
    request = client.text(text="gzip", payload=payload)
    call = client.call("Unary", request, compression=grpc.Compression.Gzip)
    assert call.result().payload == payload


# What devroute answers itself.


def test_rule_12_a_laptop_that_is_down_is_unavailable_and_says_why(rerouted_way, nobody, client):
    way = rerouted_way(nobody)
    error = error_of(client(way).call("Unary", client(way).text(text="x")))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert f"127.0.0.1:{nobody} refused the connection" in error.details()
    assert "start checkout on that machine" in error.details()
    metadata = {**dict(error.initial_metadata() or ()), **dict(error.trailing_metadata() or ())}
    assert "connection_refused" in metadata["proxy-status"]


@pytest.mark.parametrize(
    ("contract", "code", "text"),
    [
        ("not JSON", grpc.StatusCode.INVALID_ARGUMENT, "contract"),
        ('{"checkout":1}', grpc.StatusCode.INVALID_ARGUMENT, "contract"),
        ('{"checkout":"169.254.169.254:80"}', grpc.StatusCode.PERMISSION_DENIED, "not allowed"),
    ],
)
def test_rule_12_contracts_that_are_not_obeyed(rerouted_way, peer, client, contract, code, text):
    way = rerouted_way(peer().port)
    way.fields["x-devroute"] = contract
    error = error_of(client(way).call("Unary", client(way).text(text="x")))
    assert error.code() is code, error
    assert text in error.details()


#: A client that tries three times, as the applications of many teams do.
RETRYING = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.02s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@pytest.mark.parametrize("kind", [ways.REROUTED, ways.VIA_ROUTER, ways.ROUTER])
def test_rule_12_a_client_with_a_retry_policy_does_not_try_again(kind, way_of, peer, client):
    laptop = peer()
    laptop.stop()
    way = way_of(kind, laptop.port)
    client = client(way, options=[("grpc.service_config", json.dumps(RETRYING))])
    error = error_of(client.call("Unary", client.text(text="x")))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert way.proxies[0].decisions() == {"failed": 1}


@pytest.mark.parametrize("kind", [ways.REROUTED, ways.BASELINE])
def test_rule_13_the_baseline_answers_a_stream_when_the_laptop_is_down(
    kind, way_of, peer, nobody, client
):
    """A fallback in front of a gRPC baseline; and what the baseline path does with the same flags."""
    baseline = peer("baseline")
    way = way_of(ways.BASELINE, baseline.port, flags=["--allow=loopback", "--on-failure=fallback"])
    if kind == ways.REROUTED:
        way.fields["x-devroute"] = f'{{"checkout":"127.0.0.1:{nobody}"}}'
    client = client(way)
    answers = client.call("Chat", iter([client.text(text="a"), client.text(text="b")]))
    assert [answer.text for answer in answers] == ["0: a", "1: b"]
    call = client.call("Unary", client.text(text="x"))
    assert dict(call.initial_metadata())["x-peer"] == "baseline"
    mark = dict(call.initial_metadata()).get("x-devroute-routed")
    fell_back = "checkout=baseline; reason=connection_refused"
    assert mark == (fell_back if kind == ways.REROUTED else None)
