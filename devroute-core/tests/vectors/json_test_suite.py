#!/usr/bin/env python3
"""Makes json_test_suite.json out of JSONTestSuite (Nicolas Seriot, MIT): ./json_test_suite.py CHECKOUT

Each file of the suite is a text that a reader must take (`y_`), must refuse (`n_`), or may do either with (`i_`). Rule 1
takes a part of JSON, one object of strings, so each file gives up to three texts:

- itself: well-formed only if it is a contract, which `{}` is;
- where it is an array of one value, or a string, that value as the value of `$x`: well-formed if it is a string that a
  reader must take;
- where it is an object, the object with a `$` in front of its names, so that their values need not be targets.

What a reader may do either with is refused.
"""

import json
import pathlib
import re
import sys

NAME = re.compile(r"\$?[A-Za-z0-9._-]{1,253}")


def main(checkout):
    vectors = []
    for path in sorted((checkout / "test_parsing").iterdir()):
        raw, must = path.read_bytes(), path.name[0] == "y"
        vectors.append(vector(path.name, raw, not (must and is_contract(raw))))
        stripped = raw.strip()
        if stripped[:1] == b"[" and stripped[-1:] == b"]" or stripped[:1] == b'"':
            value = stripped if stripped[:1] == b'"' else stripped[1:-1]
            good = must and is_string(value)
            vectors.append(vector(f"{path.name}, as a value", b'{"$x":' + value + b"}", not good))
        if stripped[:1] == b"{":
            named = re.sub(rb'([{,]\s*)"', rb'\1"$', raw)
            vectors.append(vector(f"{path.name}, with reserved names", named, not (must and is_contract(named))))
    about = (
        "Rule 1 of docs/contract.md, by JSONTestSuite: made by json_test_suite.py beside this file. Every text is "
        "well-formed, unless `malformed` is set. A `text` may instead be `hex`, or built: `repeat` times `part`, between "
        "`head` and `tail`."
    )
    license = (checkout / "LICENSE").read_text(encoding="utf-8").split("\n")
    head = json.dumps({"about": about, "source": "github.com/nst/JSONTestSuite", "license": license}, indent=2)
    lines = ",\n".join("    " + spelled(each) for each in vectors)
    out = pathlib.Path(__file__).with_suffix(".json")
    out.write_text(head[:-2] + ',\n  "vectors": [\n' + lines + "\n  ]\n}\n", encoding="utf-8")
    print(len(vectors), "texts,", sum("malformed" not in each for each in vectors), "well-formed")


def vector(name, raw, malformed):
    made = {"name": name}
    unit = re.fullmatch(rb'(.*?)((?:\[\{"":)+|\[+)(.*)', raw, re.DOTALL)
    if len(raw) > 2000 and unit:
        head, middle, tail = unit.groups()
        part = b'[{"":' if middle.startswith(b'[{"":') else b"["
        made |= {"head": head.decode(), "part": part.decode(), "repeat": len(middle) // len(part), "tail": tail.decode()}
    else:
        try:
            made["text"] = raw.decode()
        except UnicodeDecodeError:
            made["hex"] = raw.hex()
    return made | ({"malformed": True} if malformed else {})


def spelled(value):
    """JSON in which everything that cannot be seen is escaped, without surrogates."""
    text = json.dumps(value, ensure_ascii=False)
    text = "".join(c if " " <= c <= "~" or ord(c) > 0xFFFF else f"\\u{ord(c):04x}" for c in text)
    return "{ " + text[1:-1] + " }"


def is_string(raw):
    try:
        return isinstance(json.loads(raw.decode(), strict=True), str)
    except ValueError:
        return False


def is_contract(raw):
    try:
        pairs = json.loads(raw.decode(), strict=True, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return False
    if raw.strip()[:1] != b"{":
        return False
    names = [name for name, _ in pairs]
    return (
        len(set(names)) == len(names)
        # Of the values in the suite none is a target.
        and all(name.startswith("$") and NAME.fullmatch(name) and isinstance(value, str) for name, value in pairs)
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
