"""Writes a seed for each payload of HTTP/1: a byte that says how it is cut, and what is sent."""

import hashlib
import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
payloads = pathlib.Path(__file__).parents[1] / "tests" / "payloads" / "requests.jsonl"
for line in payloads.read_text(encoding="utf-8").split("\n"):
    if line.startswith("{"):
        entry = json.loads(line)
        for alternative in entry.get("each", [""]):
            sent = entry["send"].replace("§", alternative).replace("¤", "").encode("latin-1")
            (folder / hashlib.sha1(sent).hexdigest()).write_bytes(b"\0" + sent)
