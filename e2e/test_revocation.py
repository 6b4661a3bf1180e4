"""A key that is taken out of the authorized keys is refused within a second (rule 15), also at the very end."""

import json
import shutil
import subprocess
import time

from support import vectors, ways
from support.process import BINARY, PATIENCE, Devroute, until
from support.wire import answering, connect

KEY = vectors.FOLDER / "alice"


def signed(target, folder):
    """A signed contract; the key as ssh-keygen leaves it, readable by its owner only."""
    key = shutil.copy(KEY, folder / "key")
    (folder / "key").chmod(0o600)
    made = subprocess.run(
        [BINARY, "contract", target, "--allow=loopback", f"--sign={key}", "--json"],
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    return json.loads(made.stdout)["header"]["value"]


def test_rule_15_a_key_that_is_gone_is_refused_by_a_proxy_that_drains(started, serve, tmp_path):
    laptop = serve(answering("laptop"))
    contract = signed(f"{ways.SERVICE}=127.0.0.1:{laptop.port}", tmp_path)
    keys = tmp_path / "authorized_keys"
    keys.write_bytes((KEY.with_suffix(".pub")).read_bytes())
    sidecar = Devroute(
        "sidecar",
        f"--service={ways.SERVICE}",
        f"--upstream=http://127.0.0.1:{serve(answering('baseline')).port}",
        "--allow=loopback",
        f"--authorized-keys={keys}",
        # It goes on accepting for so long.
        "--drain-delay=20s",
    )
    started.append(sidecar)

    def ask():
        with connect(sidecar.port) as client:
            client.send(f"GET / HTTP/1.1\r\nhost: foo\r\nx-devroute: {contract}\r\n\r\n")
            head, body = client.answer()
        return head.status, json.loads(body)["cause"] if head.status >= 400 else None

    assert ask() == (200, None)
    sidecar.terminate()
    sidecar.lines.wait(lambda line: "drain" in line, "that it drains")
    assert ask() == (200, None)
    keys.write_bytes(b"")
    began = time.monotonic()
    until(lambda: ask() == (403, "unknown_key"), "the refusal")
    # A second, and what a busy machine takes.
    assert time.monotonic() - began < 5
    sidecar.child.kill()
