"""The filter at an entry (rule 20), in a real Envoy: the cookie, what is stripped, and whom it is not stripped of."""

import json
import pathlib
import queue
import subprocess

import pytest

from support import envoy as envoys
from support import vectors
from support.process import BINARY, PATIENCE, Devroute
from support.wire import answering, connect

ALICE = vectors.FOLDER / "alice"


@pytest.fixture
def entry(envoy, serve):
    """An Envoy of `foo` with these settings of the filter: who got a request, and with which fields."""
    got, clients = queue.Queue(), []

    def at(whom):
        def handler(conn):
            while head := conn.head():
                got.put((whom, head))
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        return handler

    baseline, router = serve(at("baseline")), serve(at("router"))

    def entry(settings, connection_manager=""):
        edits = {
            "filter_context: { service: foo }": f"filter_context: {{ service: foo, {settings} }}",
            "codec_type: AUTO": f"codec_type: AUTO\n{connection_manager}",
        }
        ports = {envoys.BASELINE_PORT: baseline.port, envoys.ROUTER_PORT: router.port}
        client = connect(envoy(envoys.FILTER, ports, service="foo", edits=edits).port)
        clients.append(client)

        def hop(*fields):
            client.send("GET / HTTP/1.1\r\nhost: foo\r\n")
            for name, value in fields:
                client.send(f"{name}: ", value, "\r\n")
            client.send("\r\n")
            assert client.answer()[0].status == 200, fields
            return got.get(timeout=PATIENCE)

        return hop

    yield entry
    for client in clients:
        client.close()


def test_rules_09_and_20_every_vector_of_the_cookie(entry):
    hop, off = entry("cookie: true"), entry("cookie: false")
    for vector in vectors.read("cookie.json")["vectors"]:
        name, fields = vector["name"], vectors.lines(vector["fields"])
        whom, head = hop(*fields)
        is_for_router = "malformed" in vector or "foo" in json.loads(vector["contract"] or "{}")
        assert whom == ("router" if is_for_router else "baseline"), name
        left = [value for _, value in vectors.lines(vector["left"])]
        assert b"; ".join(head.all("cookie")) == b"; ".join(left), name
        if vector.get("contract"):
            assert json.loads(head.get("x-devroute")) == json.loads(vector["contract"]), name
        _, head = off(*fields)
        sent = [value for field, value in fields if field == "cookie"]
        assert head.all("cookie") == sent, name


def test_a_malformed_cookie_is_refused_by_the_router_in_words(envoy, serve, started):
    router = Devroute("router", "--allow=loopback")
    started.append(router)
    ports = {envoys.BASELINE_PORT: serve(answering("baseline")).port, envoys.ROUTER_PORT: router.port}
    edits = {"filter_context: { service: foo }": "filter_context: { service: foo, cookie: true }"}
    port = envoy(envoys.FILTER, ports, service="foo", edits=edits).port
    for cookie in ("devroute=yes", "devroute=%7B%7D; devroute=%7B%7D", "devroute="):
        with connect(port) as client:
            client.send(f"GET / HTTP/1.1\r\nhost: foo\r\ncookie: {cookie}\r\n\r\n")
            head, body = client.answer()
        assert (head.status, json.loads(body)["cause"]) == (400, "malformed"), cookie


CARRIERS = [
    ("x-devroute", '{"foo":"10.0.0.1:80"}'),
    ("baggage", "a=1,devroute=%7B%22foo%22%3A%2210.0.0.1%3A80%22%7D"),
    ("cookie", "a=1; devroute=%7B%22foo%22%3A%2210.0.0.1%3A80%22%7D"),
]


def test_rule_20_strip_leaves_no_carrier(entry):
    for settings in ("strip: true", "strip: true, cookie: true", "strip: unsigned"):
        whom, head = entry(settings)(*CARRIERS, ("x-devroute-matched", "foo"))
        assert whom == "baseline", settings
        assert not head.names() & {"x-devroute", "x-devroute-matched"}, settings
        assert (head.all("baggage"), head.all("cookie")) == ([b"a=1"], [b"a=1"]), settings


#: What Envoy is told about proxies in front of it, what the client says, and the client's address as the filter has it
#: with `trust_forwarded`; the connection is always from loopback.
FORWARDED = [
    # Envoy's own default believes the last entry, whoever wrote it.
    ("", "10.0.0.7", "10.0.0.7"),
    ("use_remote_address: true", "10.0.0.7", "127.0.0.1"),
    ("use_remote_address: true, xff_num_trusted_hops: 1", "10.0.0.9, 10.0.0.7", "10.0.0.7"),
    ("use_remote_address: true, xff_num_trusted_hops: 1", "", "127.0.0.1"),
]


@pytest.mark.parametrize(("manager", "forwarded", "client"), FORWARDED)
def test_rule_20_whom_to_trust(entry, manager, forwarded, client):
    manager = "".join(f"          {it.strip()}\n" for it in manager.split(",") if it)
    fields = [CARRIERS[0], *([("x-forwarded-for", forwarded)] if forwarded else [])]
    for settings, trusted in [
        ("trust: 127.0.0.0/8", "127.0.0.1"),
        (f"trust: {client}", client if client == "127.0.0.1" else None),
        (f"trust: {client}, trust_forwarded: true", client),
        ("trust: 10.0.0.9/32, trust_forwarded: true", None),
    ]:
        whom, head = entry(f"strip: true, {settings}", manager)(*fields)
        assert whom == ("router" if trusted else "baseline"), (manager, settings)
        assert ("x-devroute" in head.names()) == bool(trusted), (manager, settings)


def test_rule_20_what_says_that_it_is_signed_comes_in_and_the_router_verifies_it(
    envoy, serve, started, tmp_path
):
    keys = tmp_path / "authorized_keys"
    keys.write_text(pathlib.Path(f"{ALICE}.pub").read_text(encoding="ascii"), encoding="ascii")
    key = tmp_path / "alice"
    key.write_bytes(ALICE.read_bytes())
    key.chmod(0o600)
    router = Devroute("router", "--allow=loopback", f"--authorized-keys={keys}")
    started.append(router)
    ports = {envoys.BASELINE_PORT: serve(answering("baseline")).port, envoys.ROUTER_PORT: router.port}
    context = "filter_context: { service: foo, strip: unsigned, cookie: true }"
    edits = {"filter_context: { service: foo }": context}
    port = envoy(envoys.FILTER, ports, service="foo", edits=edits).port
    target = f"foo=127.0.0.1:{serve(answering('laptop')).port}"
    made = json.loads(
        subprocess.run(
            [BINARY, "contract", target, "--allow=loopback", f"--sign={key}", "--json"],
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        ).stdout
    )
    signed = made["header"]["value"]
    cookie = made["cookie"].split("'")[1].split(";")[0]
    unsigned = {name: value for name, value in json.loads(signed).items() if name[0] != "$"}
    forged = {**json.loads(signed), "foo": "127.0.0.1:9"}
    for field, status, body in [
        (f"x-devroute: {signed}", 200, b"laptop"),
        (f"cookie: {cookie}", 200, b"laptop"),
        (f"x-devroute: {json.dumps(unsigned)}", 200, b"baseline"),
        (f"x-devroute: {json.dumps(forged)}", 403, b'"signature_invalid"'),
    ]:
        with connect(port) as client:
            client.send(f"GET / HTTP/1.1\r\nhost: foo\r\n{field}\r\n\r\n")
            head, said = client.answer()
        assert head.status == status and body in said, (field, said)
