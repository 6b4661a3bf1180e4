"""gRPC between tonic and tonic, and between tonic and grpcio, either way round (rules 12 and 17).

What grpcio and grpcio have to say to each other is in test_grpc.py.
"""

import subprocess
import threading

import grpc
import pytest

from support.process import PATIENCE, TONIC_PEER, Process, until

#: What "at once" means here, for a cancellation that crosses up to two proxies.
AT_ONCE = 1.0


class TonicServer(Process):
    """tonic's server of `echo.proto`, which says when a call was given up."""

    def __init__(self):
        super().__init__([TONIC_PEER, "serve"], read="stdout")
        self.port = int(self.lines.first().rpartition(":")[2])
        self.seen = 0

    def hears_the_end(self):
        """Waits until one more call was given up."""
        self.seen += 1
        until(lambda: self.lines.so_far().count("cancelled") == self.seen, "the end", AT_ONCE)


@pytest.fixture
def tonic_server(started):
    server = TonicServer()
    started.append(server)
    return server


def call_with_tonic(way, hears_the_end):
    """Runs tonic's client; `hears_the_end` is called when it has given up a call."""
    fields = [f"{name}: {value}" for name, value in way.fields.items()]
    command = [TONIC_PEER, "call", way.address, *fields]
    client = Process(command, read="stdout", stdin=subprocess.PIPE, stderr=None)
    try:
        for moment in ["over time", "given up"]:
            client.lines.wait(lambda it, moment=moment: it == moment, moment)
            hears_the_end()
            client.child.stdin.write("\n")
            client.child.stdin.flush()
        assert client.wait() == 0
    finally:
        client.child.stdin.close()
        client.stop()


def test_tonic_calls_tonic(way, tonic_server):
    """Metadata, all kinds of call, errors, 8 MiB, gzip, a deadline and a cancellation."""
    call_with_tonic(way(tonic_server.port), tonic_server.hears_the_end)


def test_tonic_calls_grpcio(way, grpc_peer):
    peer = grpc_peer()

    def hears_the_end():
        assert peer.cancelled.wait(AT_ONCE), "the server goes on"
        peer.cancelled.clear()

    call_with_tonic(way(peer.port), hears_the_end)


def test_grpcio_calls_tonic(way, tonic_server, grpc_client):
    client = grpc_client(way(tonic_server.port))
    raw = bytes(range(256))
    request = client.text(text="hello")
    call = client.call("Unary", request, metadata=[("x-ask", "a, b"), ("x-ask-bin", raw)])
    assert call.result().text == "HELLO"
    assert ("x-back", "a, b") in call.initial_metadata()
    assert ("x-back-bin", raw) in call.initial_metadata()

    parts = (client.text(text=f"{number},") for number in range(100))
    assert client.call("Collect", parts).result().text == "".join(f"{n}," for n in range(100))

    answered = threading.Semaphore(1)

    def one_after_the_other():
        for number in range(20):
            assert answered.acquire(timeout=PATIENCE)
            yield client.text(text=f"text {number}")

    answers = client.call("Chat", one_after_the_other())
    for number, answer in enumerate(answers):
        assert answer.text == f"{number}: text {number}"
        answered.release()
    assert number == 19

    payload = raw * (8 * 4096)
    assert client.call("Unary", client.text(payload=payload)).result().payload == payload
    request = client.text(payload=b"compressible " * 500_000)
    call = client.call("Unary", request, compression=grpc.Compression.Gzip)
    assert call.result().payload == request.payload

    with pytest.raises(grpc.RpcError) as failed:
        client.call("Fail", client.text()).result()
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert failed.value.details() == "süß & 100%: no\nsecond line"
    trailing = dict(failed.value.trailing_metadata())
    assert trailing["grpc-status-details-bin"] == b"\0\xffdetails"
    with pytest.raises(grpc.RpcError) as failed:
        client.channel.unary_unary(
            "/devroute.e2e.Echo/Unknown", client.text.SerializeToString, client.text.FromString
        )(client.text(), metadata=client.metadata, timeout=PATIENCE)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_grpcio_gives_up_on_tonic(way, tonic_server, grpc_client):
    client = grpc_client(way(tonic_server.port))
    call = client.call("Hang", client.text())
    assert next(call).text == "hanging"
    call.cancel()
    tonic_server.hears_the_end()
    # Connected before the clock runs.
    call = client.call("Hang", client.text(), timeout=0.5)
    with pytest.raises(grpc.RpcError) as failed:
        list(call)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    tonic_server.hears_the_end()


def test_rule_12_tonic_is_told_why_a_laptop_does_not_answer(rerouted_way, nobody):
    way = rerouted_way(nobody)
    ran = subprocess.run(
        [TONIC_PEER, "fail", way.address, *(": ".join(field) for field in way.fields.items())],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said, proxy_status, mark = ran.stdout.splitlines()
    assert said.startswith("Unavailable: ")
    assert f"127.0.0.1:{nobody} refused the connection" in said
    assert proxy_status.startswith("proxy-status: devroute; error=connection_refused; ")
    assert mark == "x-devroute-routed: checkout=none; reason=connection_refused"
