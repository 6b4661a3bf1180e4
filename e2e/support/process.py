"""Processes: each is started by a test, waited for by what it says, and ended by its own handle."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request

# Longer than anything takes on a busy machine; no test waits so long for what does happen.
PATIENCE = 15.0

BINARY = os.environ.get("DEVROUTE_BIN", "target/debug/devroute")
TONIC_PEER = os.environ.get("DEVROUTE_TONIC_PEER", "target/debug/tonic-peer")
EXAMPLE = os.environ.get("DEVROUTE_EXAMPLE", "target/debug/examples/hyper-service")


def until(condition, what, patience=PATIENCE):
    """Waits until `condition()` is true, and returns what it returned."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {patience} s in vain for {what}"
        time.sleep(0.005)


class Lines:
    """The lines that a process writes, read as they come so that its pipe never fills."""

    def __init__(self, stream):
        self._lines = []
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def first(self):
        with self._changed:
            ready = self._changed.wait_for(lambda: self._lines or self._ended, PATIENCE)
            assert ready and self._lines, "the process said nothing"
            return self._lines[0]

    def wait(self, predicate, what):
        def found():
            return next((line for line in self._lines if predicate(line)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self._ended, PATIENCE)
            line = found()
            assert line is not None, f"no line {what} in {self._lines}"
            return line

    def so_far(self):
        with self._changed:
            return list(self._lines)

    def all(self):
        self._thread.join(PATIENCE)
        return list(self._lines)


class Process:
    """A child process with its standard error, or output, read line by line."""

    def __init__(self, command, *, read="stderr", env=None, cwd=None, **streams):
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            read: subprocess.PIPE,
            **streams,
        }
        # Nothing of the caller's environment decides what is tested.
        environment = {"PATH": os.environ["PATH"], **(env or {})}
        self.child = subprocess.Popen(command, text=True, env=environment, cwd=cwd, **streams)
        self.lines = Lines(getattr(self.child, read))

    @property
    def pid(self):
        return self.child.pid

    def signal(self, number):
        self.child.send_signal(number)

    def wait(self, patience=PATIENCE):
        """Waits for its end; the exit status."""
        return self.child.wait(patience)

    def stop(self):
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(2)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait(PATIENCE)
        self.lines.all()

    def memory(self, field="VmRSS"):
        """Resident memory in bytes; `VmHWM` for the highest there was."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith(f"{field}:"):
                    return int(line.split()[1]) * 1024
        raise AssertionError(f"no {field}")

    @contextlib.contextmanager
    def grows_less_than(self, limit):
        """Asserts that its resident memory never grows by `limit` bytes in the block."""
        with open(f"/proc/{self.pid}/clear_refs", "w", encoding="ascii") as clear:
            clear.write("5")  # begins the high-water mark anew
        before = self.memory()
        yield
        growth = self.memory("VmHWM") - before
        assert growth < limit, f"{self.child.args[1]} grew by {growth / 2**20:.1f} MiB"


class Devroute(Process):
    """`devroute sidecar` or `devroute router`, which says where it listens in its first line.

    `prefix` is a command that runs it.
    """

    def __init__(
        self,
        mode,
        *flags,
        env=None,
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        prefix=(),
        **streams,
    ):
        command = [*prefix, BINARY, mode, f"--listen={listen}", f"--admin={admin}", *flags]
        super().__init__(command, env=env, **streams)
        # At the level of trace it says a little more before.
        started = json.loads(self.lines.wait(lambda line: "listen" in line, "that it listens"))
        assert "listens" in started["message"], started
        self.started = started
        self.mode = mode
        self.port = int(started["listen"].rpartition(":")[2])
        self.admin = int(started["admin"].rpartition(":")[2])

    def ask_admin(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=PATIENCE) as it:
            return it.read().decode()

    def metric(self, sample):
        """The value of one sample, as the scrape spells it; 0 where there is none."""
        for line in self.ask_admin("/metrics").splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return int(float(value))
        return 0

    def _counts(self, prefix):
        """The samples of one label that are not zero, by its value."""
        counts = {}
        for line in self.ask_admin("/metrics").splitlines():
            if line.startswith(prefix):
                name, _, value = line.removeprefix(prefix).partition('"} ')
                if int(value):
                    counts[name] = int(value)
        return counts

    def decisions(self):
        """How many requests were decided which way, without the zeros."""
        return self._counts('devroute_requests_total{decision="')

    def failures(self):
        """How often what failed, of reroutes and of the upstream."""
        return {
            f"{family} {cause}": count
            for family in ("reroute", "upstream")
            for cause, count in self._counts(f'devroute_{family}_failures_total{{cause="').items()
        }

    def open_connections(self):
        return self.metric('devroute_open_connections{listener="proxy"}')

    def terminate(self):
        self.signal(signal.SIGTERM)


class Embedded(Process):
    """The example of a service on plain hyper that embeds the layer, named `checkout`."""

    def __init__(self, *arguments):
        super().__init__([EXAMPLE, "0", *arguments], read="stdout")
        self.mode = "embedded"
        self.port = int(self.lines.first().rpartition(":")[2])
