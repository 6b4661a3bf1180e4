"""A hub, and laptops that dial in."""

import json
import subprocess
import urllib.parse

from .process import BINARY, PATIENCE, Process


def make_key(folder, name):
    """A key of OpenSSH, and the line of it for a file of authorized keys."""
    file = folder / name
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@laptop", "-f", str(file)],
        check=True,
    )
    return file, file.with_suffix(".pub").read_text(encoding="utf-8")


class Hub(Process):
    """`devroute hub`, on this machine or another."""

    def __init__(self, *flags, machine=None, listen="127.0.0.1:0", address="127.0.0.1"):
        command = [BINARY, "hub", f"--listen={listen}", f"--address={address}"]
        command += ["--admin=127.0.0.1:0", "--workers=2", *flags]
        super().__init__(machine.command(*command) if machine else command)
        self.machine = machine
        started = json.loads(self.lines.wait(lambda it: "hub listens" in it, "that it listens"))
        self.address = started["listen"]
        self.url = f"http://{self.address}"
        self.admin = started["admin"]

    def metric(self, sample):
        command = ["curl", "-sS", f"http://{self.admin}/metrics"]
        command = self.machine.command(*command) if self.machine else command
        text = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
        for line in text.stdout.splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return int(float(value))
        return 0


class Laptop(Process):
    """`devroute connect`, which says what becomes of it in lines of JSON."""

    def __init__(self, hub, key, *flags, machine=None):
        command = [BINARY, "connect", *flags, "--json", "--hub", getattr(hub, "url", hub)]
        command += ["--key", str(key)] if key else []
        command = machine.command(*command) if machine else command
        super().__init__(command, read="stdout", stderr=None, env={"HOME": "/nonexistent"})

    def events(self, kind):
        """What it has said of this kind."""
        said = (json.loads(line) for line in self.lines.so_far() if line.startswith("{"))
        return [event for event in said if event["event"] == kind]

    def connected(self):
        """Waits for its first contract."""
        line = self.lines.wait(lambda it: '"event":"connected"' in it, "that says it is connected")
        return json.loads(line)

    def at(self, service):
        """Where a service of it is reached: host and port."""
        return self.connected()["services"][service]

    def port(self, service):
        return urllib.parse.urlsplit(f"//{self.at(service)}").port
