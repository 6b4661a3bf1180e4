"""The payloads of `devroute-proxy/tests/payloads`, whose README says how they are written."""

import dataclasses
import json
import pathlib

FOLDER = pathlib.Path(__file__).parents[2] / "devroute-proxy" / "tests" / "payloads"


@dataclasses.dataclass
class Payload:
    name: str
    entry: dict
    send: bytes
    want: int


def entries(file):
    lines = (FOLDER / file).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line and not line.startswith("#")]


def of(entry):
    """The payloads of an entry, one for each of its alternatives."""
    alternatives = entry.get("each", [""])
    if "fill" in entry:
        text, times = entry["fill"]
        alternatives = [text * times]
    for alternative in alternatives:
        name = entry["name"] + (f" {alternative!r}" if "each" in entry else "")
        send = entry["send"].replace("§", alternative).replace("¤", "")
        yield Payload(name, entry, send.encode("latin-1"), entry.get("want", 0))


@dataclasses.dataclass
class Http2Payload:
    name: str
    fields: list
    body: bytes | None
    trailers: list | None
    want: int
    #: The body that the target gets.
    gets: bytes
    #: Whether it is reset, be it before or after it was sent on.
    may_be_reset: bool


def http2():
    for entry in entries("http2.jsonl"):
        for alternative in entry.get("each", [""]):

            def bytes_of(text, alternative=alternative):
                return text.replace("§", alternative).encode("latin-1")

            def fields(name, entry=entry, bytes_of=bytes_of):
                return name in entry and [tuple(map(bytes_of, it)) for it in entry[name]] or None

            name = entry["name"] + (f" {alternative!r}" if "each" in entry else "")
            body = bytes_of(entry["body"]) if "body" in entry else None
            gets = bytes_of(entry.get("gets", entry.get("body", "")))
            want = entry.get("want", 0)
            resets = "gets" in entry
            yield Http2Payload(name, fields("fields"), body, fields("trailers"), want, gets, resets)
