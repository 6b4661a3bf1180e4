"""The clients: h2load and wrk on a core of their own, and what they say of their requests."""

import os
import re
import subprocess
import tempfile


class Failed(Exception):
    """Not every request had a good answer, so the figure is none."""


def h2load(port, path, requests, connections, *arguments, http1=True, timeout=600):
    """So many requests over so many connections that are kept. Returns the seconds they took."""
    command = ["h2load", *(["--h1"] if http1 else []), "-t1", "-c", str(connections)]
    command += ["-n", str(requests), *arguments, f"http://127.0.0.1:{port}{path}"]
    done = _run(command, timeout)
    good = re.search(r"status codes: (\d+) 2xx", done)
    if not good or int(good.group(1)) != requests:
        raise Failed(f"not all of {requests} answers were 2xx: {done[-400:]}")
    took = re.search(r"finished in ([\d.]+)(us|ms|s|min)", done)
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60}[took.group(2)]
    return float(took.group(1)) * unit


def grpc(port, requests, connections, streams):
    """Unary calls with an empty message; each has to have its `grpc-status` in the trailers."""
    with tempfile.NamedTemporaryFile() as message:
        message.write(b"\0\0\0\0\0")
        message.flush()
        return h2load(
            port, "/test.Service/Call", requests, connections,
            "-m", str(streams), "-d", message.name,
            "-H", "content-type: application/grpc", "-H", "te: trailers",
            http1=False,
        )  # fmt: skip


def latencies(port, path, rate, seconds, connections):
    """The time of each answer in microseconds, at a fixed rate of requests a second."""
    with tempfile.TemporaryDirectory() as directory:
        log = os.path.join(directory, "log")
        each = rate / connections
        h2load(
            port, path, rate * seconds, connections, f"--rps={each}", f"--log-file={log}"
        )  # fmt: skip
        with open(log) as lines:
            return sorted(int(line.split("\t")[2]) for line in lines)


def reconnecting(port, path, seconds, connections):
    """A new connection for each request. Returns the number of requests."""
    command = ["wrk", "-t1", "-c", str(connections), f"-d{seconds}s", "-H", "Connection: close"]
    done = _run([*command, f"http://127.0.0.1:{port}{path}"], seconds + 60)
    if re.search(r"Non-2xx|timeout [1-9]", done):
        raise Failed(f"not all answers were 2xx: {done[-400:]}")
    return int(re.search(r"(\d+) requests in", done).group(1))


def _run(command, timeout):
    ran = subprocess.run(
        ["taskset", "-c", LOAD_CORE, *command],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if ran.returncode:
        raise Failed(f"{command[0]}: {ran.stderr[-400:]}")
    return ran.stdout


# The load and what answers it share a core, so that the proxy has one alone.
LOAD_CORE = "1"
