"""The container image: its recipe, and what it makes, started as a container that may do nothing."""

import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading

import pytest

from support.chains import as_field, ask
from support.manifests import DEPLOY, ROOT
from support.process import BINARY, Devroute, Process

IMAGE = DEPLOY / "image"
#: What `deploy/image/build` has made; e2e/run says where.
STATIC = os.environ.get("DEVROUTE_STATIC")

needs_static = pytest.mark.skipif(not STATIC, reason="DEVROUTE_STATIC is not set: the image's binary is not tested")


def instructions():
    text = (IMAGE / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def test_the_recipe_builds_with_the_script_and_ends_with_nothing_else():
    found = instructions()
    tools, run = [rest for name, rest in found if name == "RUN"]
    assert tools == "rustup component add llvm-tools"
    assert run == 'install -D "$(deploy/image/build release)" /image/devroute'
    stages = [index for index, (name, _) in enumerate(found) if name == "FROM"]
    last = found[stages[-1] :]
    assert last[0] == ("FROM", "scratch")
    assert [name for name, _ in last] == ["FROM", "COPY", "COPY", "USER", "ENTRYPOINT"]
    uid, gid = re.fullmatch(r"(\d+):(\d+)", dict(last)["USER"]).groups()
    assert int(uid) > 10000 and int(gid) > 10000
    entry = json.loads(dict(last)["ENTRYPOINT"])
    assert any(rest.endswith(f" {entry[0]}") for name, rest in last if name == "COPY")


def test_what_is_built_is_what_the_manifests_name():
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    named = set()
    for file in (*DEPLOY.rglob("*.yaml"), IMAGE / "Dockerfile"):
        named |= set(re.findall(r"\bdevroute:\d\S*", file.read_text(encoding="utf-8")))
    assert named == {f"devroute:{version}"}


def is_static(path):
    """Whether an ELF file names no interpreter, which would load libraries."""
    data = pathlib.Path(path).read_bytes()
    assert data[:5] == b"\x7fELF\x02"
    (offset,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    kinds = [struct.unpack_from("<I", data, offset + index * size)[0] for index in range(count)]
    return 3 not in kinds


class Names:
    """A DNS server that knows one name, on an address of loopback that is nobody else's."""

    ADDRESS = "127.83.7.53"

    def __init__(self, name):
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        self.question = labels + b"\0"
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((self.ADDRESS, 53))
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(512)
            except OSError:
                return
            if not query:
                return
            end = 12 + len(self.question) + 4
            known = query[12 : 12 + len(self.question)].lower() == self.question
            is_a = query[end - 4 : end - 2] == b"\0\1"
            answers = 1 if known and is_a else 0
            flags = 0x8180 if known else 0x8183
            reply = query[:2] + struct.pack(">HHHHH", flags, 1, answers, 0, 0) + query[12:end]
            if answers:
                reply += b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton("127.0.0.1")
            self.socket.sendto(reply, client)

    def stop(self):
        # A datagram of nothing ends the thread; closing alone would not wake it.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", (self.ADDRESS, 53))
        self.thread.join()
        self.socket.close()


@needs_static
def test_it_runs_as_nobody_in_an_empty_root_that_cannot_be_written(started, serve_recorder, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can take its rights away: the image's binary is not tested in an empty root")
    assert is_static(STATIC) and not is_static(sys.executable) and not is_static(BINARY)
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    shutil.copy(STATIC, root / "devroute")
    # What the kubelet puts there.
    (root / "etc" / "hosts").write_text("127.0.0.1 service.by-file\n", encoding="ascii")
    (root / "etc" / "resolv.conf").write_text(f"nameserver {Names.ADDRESS}\n", encoding="ascii")
    for folder in (tmp_path, *tmp_path.parents[:1]):
        folder.chmod(0o755)

    baseline, laptop = serve_recorder("baseline"), serve_recorder("laptop")
    started.append(Names("router.by-dns.svc"))
    router = Devroute("router", "--allow=loopback")
    started.append(router)
    flags = ["--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--service=foo", f"--via=router.by-dns.svc:{router.port}"]
    helper = str(ROOT / "e2e" / "support" / "empty_root.py")
    upstream = f"--upstream=http://service.by-file:{baseline.port}"
    command = [sys.executable, helper, str(root), "/devroute", "sidecar", upstream, *flags]
    started.append(Process(command))
    running = started[-1]
    listening = json.loads(running.lines.first())

    status = dict(
        line.split(":\t", 1) for line in pathlib.Path(f"/proc/{running.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == ["65532"] * 4 and status["Gid"].split() == ["65532"] * 4
    assert status["Groups"].strip() == "" and status["NoNewPrivs"] == "1"
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert sorted(os.listdir(f"/proc/{running.pid}/root")) == ["devroute", "etc"]
    mounts = pathlib.Path(f"/proc/{running.pid}/mountinfo").read_text().splitlines()
    (mounted,) = [line.split() for line in mounts if line.split()[4] == "/"]
    assert "ro" in mounted[5].split(",")

    url = f"http://{listening['listen']}/"
    assert ask(url) == (200, "baseline")
    assert ask(url, as_field({"foo": f"127.0.0.1:{laptop.port}"})) == (200, "laptop")
    running.child.terminate()
    assert running.wait() == 0


@needs_static
def test_it_says_what_it_is():
    said = [subprocess.run([it, "--version"], capture_output=True, text=True, check=True).stdout for it in (STATIC, BINARY)]
    assert said[0] == said[1] != ""
