"""The vectors of devroute-core, as bytes that can be sent."""

import json
import pathlib

FOLDER = pathlib.Path(__file__).parent.parent.parent / "devroute-core" / "tests" / "vectors"


def read(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def raw(value):
    """The bytes of a text that stands there as it is, in hexadecimal digits, or is to be built."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if "text" in value:
        return value["text"].encode()
    if "hex" in value:
        return bytes.fromhex(value["hex"])
    parts = (value["part"].replace("#", str(number)) for number in range(value["repeat"]))
    return (value["head"] + "".join(parts) + value["tail"]).encode()


def lines(fields):
    """Fields as pairs of name and bytes, without the blanks around a value that no parser of HTTP keeps."""
    return [(name, raw(value).strip(b" \t")) for name, value in fields]


def can_be_sent(fields):
    """Whether HTTP/1 can carry these values (RFC 9110 section 5.5), and servers take heads of that size."""
    values = [value for _, value in lines(fields)]
    return all(
        len(value) < 50_000 and all(byte == 9 or (byte >= 32 and byte != 127) for byte in value)
        for value in values
    )
