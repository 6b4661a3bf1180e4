"""Processes on their cores, and what they take."""

import os
import re
import signal
import socket
import subprocess
import time


def free_port():
    """A port that nobody listens at, on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def tree(pid):
    """A process and its descendants: nginx works in a child."""
    pids = [pid]
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            for child in children.read().split():
                pids += tree(int(child))
    except OSError:
        pass
    return pids


def threads(pid):
    """The CPU time of each thread in nanoseconds, by its name and number."""
    taken = {}
    for process in tree(pid):
        for thread in os.listdir(f"/proc/{process}/task"):
            try:
                with open(f"/proc/{process}/task/{thread}/schedstat") as schedstat:
                    nanoseconds = int(schedstat.read().split()[0])
                with open(f"/proc/{process}/task/{thread}/comm") as comm:
                    taken[comm.read().strip(), thread] = nanoseconds
            except OSError:
                pass
    return taken


def cpu(pid):
    """The CPU time of a process, user's and kernel's, in nanoseconds."""
    return sum(threads(pid).values())


def ticks(pid):
    """What a process has taken so far, of itself and of the system, in the ticks of its clock."""
    own = system = 0
    for process in tree(pid):
        try:
            with open(f"/proc/{process}/stat") as stat:
                # Behind the name, which may have anything in it.
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        own, system = own + int(fields[11]), system + int(fields[12])
    return own, system


def memory(pid, what):
    """`VmHWM`, the peak, or `VmRSS`, what is resident now, in KiB."""
    total = 0
    for process in tree(pid):
        with open(f"/proc/{process}/status") as status:
            found = re.search(rf"{what}:\s+(\d+)", status.read())
            total += int(found.group(1)) if found else 0
    return total


class NotStarted(Exception):
    """A process that does not listen where it should."""


class Processes:
    """What was started, and ends together."""

    def __init__(self, directory):
        self.directory = directory
        self.running = {}

    def start(self, name, command, cores, ports, env=None):
        """Starts `command` on `cores`, and waits until it listens at `ports`."""
        log = open(os.path.join(self.directory, f"{name}.log"), "w")
        process = subprocess.Popen(
            ["taskset", "-c", cores, *command],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env={**os.environ, **(env or {})},
        )
        self.running[name] = process
        for port in ports:
            self.wait_for(name, process, port)
        return process

    def wait_for(self, name, process, port):
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if process.poll() is not None:
                    break
                time.sleep(0.05)
        with open(os.path.join(self.directory, f"{name}.log")) as log:
            raise NotStarted(f"{name} does not listen at {port}: {log.read()[-1000:]}")

    def end(self, name):
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def end_all(self):
        for name in list(self.running):
            self.end(name)
