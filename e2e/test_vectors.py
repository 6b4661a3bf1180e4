"""devroute-core's vectors over the wire, against the binary: each gets a clear answer, and the next one is served."""

import json

import pytest

from support import namespace, vectors, ways
from support.process import Devroute
from support.wire import Server, answering, connect


@pytest.fixture
def ask(started):
    """Asks a sidecar on a machine without a network: the status, and the problem where there is one."""
    reason = namespace.why_not()
    if reason:
        pytest.skip(f"{reason}: targets would be connected to")
    space = namespace.Namespace("ip link set lo up")
    started.append(space)

    def make():
        baseline = Server(answering("baseline"))
        started.append(baseline)
        upstream = f"--upstream=http://127.0.0.1:{baseline.port}"
        started.append(Devroute("sidecar", f"--service={ways.SERVICE}", upstream))
        return started[-1]

    sidecar = space.run(make)

    def ask(lists_of_lines):
        """What becomes of each of these requests, on as few connections as possible."""
        answers, client = [], None
        for lines in lists_of_lines:
            client = client or connect(sidecar.port)
            client.send("GET / HTTP/1.1\r\nhost: foo\r\n")
            for name, value in lines:
                client.send(f"{name}: ", value, "\r\n")
            client.send("\r\n")
            head, body = client.answer()
            answers.append((head.status, json.loads(body) if head.status >= 400 else None))
            if head.get("connection") == "close":
                client.close()
                client = None
        if client:
            client.close()
        return answers

    return lambda lists_of_lines: space.run(lambda: ask(lists_of_lines))


@pytest.mark.parametrize("file", ["contract.json", "json_test_suite.json"])
def test_rule_01_what_is_malformed_is_refused_and_all_else_is_not(ask, file):
    sent = [each for each in vectors.read(file)["vectors"] if can_be_sent(each)]
    assert len(sent) > 150
    answers = ask([vectors.lines([("x-devroute", vectors.raw(each))]) for each in sent])
    for vector, (status, problem) in zip(sent, answers, strict=True):
        if "malformed" in vector:
            assert (status, problem["cause"]) == (400, "malformed"), vector["name"]
            assert problem["detail"].isprintable() and len(problem["detail"]) < 400, vector["name"]
        else:
            assert status == 200, vector["name"]


def test_rules_03_and_05_every_spelling_of_a_target_gets_its_verdict(ask):
    every = vectors.read("target.json")["vectors"]
    contracts = [json.dumps({ways.SERVICE: each["target"]}).encode() for each in every]
    answers = ask([[("x-devroute", contract)] for contract in contracts])
    for vector, (status, problem) in zip(every, answers, strict=True):
        what = vector["target"]
        if "malformed" in vector:
            assert (status, problem["cause"]) == (400, "malformed"), what
        elif "refused" in vector:
            assert (status, problem["cause"]) == (403, vector["refused"]), what
        else:
            # It was tried, and there is no network.
            assert (status, problem["cause"]) == (502, "unreachable"), what


def can_be_sent(vector):
    return vectors.can_be_sent([("x-devroute", vectors.raw(vector))])
