"""The commands of docs/tunnel.md, in their order, and what they print; only the ports are others."""

import os
import pathlib
import re
import signal
import subprocess

from support.process import BINARY, PATIENCE, Process, until
from support.servers import accepts, free_port

GUIDE = pathlib.Path(__file__).parent.parent / "docs" / "tunnel.md"
PORTS = re.compile(r"(?<!\d)(8001|8080|8090|3128|43121)(?!\d)")


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


def is_said(expected, got):
    """Whether a line is as the guide has it, which may leave out its end."""
    if expected.endswith("..."):
        return got.startswith(expected.removesuffix("..."))
    return got == expected


def test_the_guide_does_what_it_says(tool, tmp_path, started):
    for needed in ("ssh-keygen", "curl"):
        tool(needed, "the guide to hubs")
    ports = {}

    def ours(text):
        return PORTS.sub(lambda found: str(ports.setdefault(found[1], free_port())), text)

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "devroute").symlink_to(pathlib.Path(BINARY).absolute())
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    jobs, ran = [], 0
    for command, printed in commands():
        command, expected = ours(command), [ours(line) for line in printed]
        ran += 1
        job = re.fullmatch(r"kill (?:-(KILL) )?%(\d+)", command)
        if job:
            jobs[int(job[2]) - 1].signal(signal.SIGKILL if job[1] else signal.SIGTERM)
            jobs[int(job[2]) - 1].wait()
            continue
        if not command.endswith(" &"):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=env,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, (command, done.stderr)
            got = done.stdout.splitlines()
            assert len(got) == len(expected) and all(map(is_said, expected, got)), (command, got)
            continue
        process = Process(["bash", "-c", f"exec {command[:-2]}"], read="stdout", cwd=tmp_path, env=env)
        started.append(process)
        jobs.append(process)
        if expected:
            until(lambda: len(process.lines.so_far()) >= len(expected), command)
            assert all(map(is_said, expected, process.lines.so_far())), process.lines.so_far()
        else:
            port = re.search(r"\b\d{4,5}\b", command)[0]
            until(lambda: accepts(int(port)) or process.child.poll() is not None, command)
    assert ran == len(commands()) > 10


def test_every_flag_of_the_guide_is_one():
    text = GUIDE.read_text(encoding="utf-8")
    helps = "".join(
        subprocess.run([BINARY, mode, "--help"], capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
        for mode in ("hub", "connect", "router", "manifests")
    )
    for flag in sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--bind"}):
        assert flag in helps, flag


