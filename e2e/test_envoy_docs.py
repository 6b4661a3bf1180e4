"""The commands of docs/envoy.md, in their order, and what they print; only the ports are others."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from support import envoy as envoys
from support.process import BINARY, PATIENCE, Process, until
from support.servers import accepts, free_port

GUIDE = envoys.ROOT / "docs" / "envoy.md"
PORTS = re.compile(r"(?<!\d)(8000|8001|8080|8443|9901|9902|10000|10001)(?!\d)")


def commands():
    """Each command of the guide with the lines that it prints."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return found


class Tree:
    """What the commands find where they run: the shipped files, and the two programs on the `PATH`."""

    def __init__(self, folder):
        self.folder = folder
        ports = {}
        self.port = lambda found: str(ports.setdefault(found[1], free_port()))
        (folder / "deploy").mkdir()
        shutil.copytree(envoys.FILES, folder / "deploy" / "envoy")
        for file in (folder / "deploy" / "envoy").glob("*.yaml"):
            file.write_text(self.ours(file.read_text(encoding="utf-8")), encoding="utf-8")
        (folder / "bin").mkdir()
        (folder / "bin" / "devroute").symlink_to(pathlib.Path(BINARY).absolute())
        # Other Envoys may run on this machine, and all of them would be number 0.
        script = f'#!/bin/sh\nexec "{envoys.binary()}" "$@" --disable-hot-restart --log-level warning\n'
        (folder / "bin" / "envoy").write_text(script, encoding="utf-8")
        (folder / "bin" / "envoy").chmod(0o755)
        self.env = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}

    def ours(self, text):
        return PORTS.sub(self.port, text)

    def start(self, command):
        """Starts a server, and waits until it accepts."""
        if command.startswith("envoy"):
            file = (self.folder / command.split()[-1]).read_text(encoding="utf-8")
            port = re.findall(r"port_value: (\d+)", file)[1]
        else:
            port = re.search(r"\b\d{4,5}\b", command)[0]
        process = Process(["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.env)
        until(lambda: accepts(int(port)) or process.child.poll() is not None, command)
        return process

    def run(self, command):
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ran.returncode == 0, (command, ran.stderr)
        return ran.stdout


def is_said(expected, got):
    """Whether a line is as the guide has it, which may leave out its end."""
    if expected.endswith("..."):
        return got.startswith(expected.removesuffix("..."))
    return got == expected


@pytest.mark.parametrize("file", [None, envoys.CONFIG_ONLY])
def test_the_guide_does_what_it_says(tool, tmp_path, started, file):
    """As it stands there, and with the file that is said to do the same without the filter."""
    tool("curl", "the guide to Envoy")
    if not envoys.binary():
        pytest.skip("Envoy is not installed: its guide is not tested")
    tree, ran = Tree(tmp_path), 0
    for command, printed in commands():
        if file and ("baggage" in command or "caller.yaml" in command or "10001" in command):
            continue
        command = tree.ours(command.replace("deploy/envoy/envoy.yaml", f"deploy/envoy/{file or envoys.FILTER}"))
        if command.endswith(" &"):
            started.append(tree.start(command.removesuffix(" &")))
            continue
        got = tree.run(command).splitlines()
        expected = [tree.ours(line) for line in printed]
        assert len(got) == len(expected), (command, got)
        for line, wanted in zip(got, expected, strict=True):
            assert is_said(wanted, line), command
        ran += bool(expected)
    assert ran == (5 if file else 8), "commands that print something"
