"""Other people's servers as peers: hypercorn, nginx and HAProxy."""

import contextlib
import os
import pathlib
import socket
import sys
import tempfile

from .process import Process, until


def free_port():
    """A port that was free a moment ago, for servers that cannot say which one they took."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def accepts(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


class Hypercorn(Process):
    """hypercorn, which speaks HTTP/1.1 and HTTP/2 with prior knowledge on one port."""

    def __init__(self):
        folder = pathlib.Path(__file__).parent
        command = [sys.executable, "-m", "hypercorn", "asgi_app:app", "--bind", "127.0.0.1:0"]
        # hypercorn imports the application from where it runs.
        env = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
        super().__init__(command, cwd=folder, env=env)
        line = self.lines.wait(lambda it: "Running on http://" in it, "that says where it listens")
        self.port = int(line.split("http://127.0.0.1:")[1].split()[0])


class Nginx(Process):
    """nginx in the foreground, with the `server` block of the test, which must listen on `PORT`."""

    def __init__(self, nginx, server, *, http=""):
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="devroute-e2e-nginx-")
        folder = pathlib.Path(self.folder.name)
        (folder / "www").mkdir()
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};\n"
            for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            f"""
            daemon off; worker_processes 1; pid {folder}/pid; error_log stderr warn; {user}
            events {{ worker_connections 256; }}
            http {{
                access_log off; root {folder}/www; default_type text/plain;
                {temporary}
                {http}
                server {{ {server.replace("PORT", str(self.port))} }}
            }}
            """,
            encoding="utf-8",
        )
        super().__init__([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")])
        try:
            until(lambda: accepts(self.port) or self.child.poll() is not None, "nginx")
            assert self.child.poll() is None, self.lines.all()
        except BaseException:
            self.stop()
            raise

    @property
    def www(self):
        return pathlib.Path(self.folder.name) / "www"

    def stop(self):
        super().stop()
        self.folder.cleanup()


class Haproxy(Process):
    """HAProxy in the foreground, which spreads what comes over servers, each of whose names is its key in `servers`.

    It looks at each server's `/_healthz`, and sends to another one what could not be connected. It logs a line for each
    request: the field `x-id`, the server, how the session ended (`SH`: the server was gone before it answered), the status
    and the number of tries.
    """

    def __init__(self, haproxy, servers, *, http2=False):
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="devroute-e2e-haproxy-")
        protocol = "proto h2" if http2 else ""
        lines = "\n".join(
            f"server {name} 127.0.0.1:{port} {protocol} check inter 100ms fall 1 rise 1"
            for name, port in servers.items()
        )
        file = pathlib.Path(self.folder.name) / "haproxy.cfg"
        file.write_text(
            f"""
global
    log stdout format raw local0 info
defaults
    mode http
    log global
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    retries 3
    option redispatch 1
    option httpchk GET /_healthz
frontend entry
    bind 127.0.0.1:{self.port} {protocol}
    http-request capture req.hdr(x-id) len 32
    log-format "request %[capture.req.hdr(0)] %s %ts %ST %rc"
    default_backend routers
backend routers
    balance roundrobin
{lines}
""",
            encoding="utf-8",
        )
        super().__init__([haproxy, "-db", "-f", str(file)], read="stdout")
        try:
            until(lambda: accepts(self.port) or self.child.poll() is not None, "HAProxy")
            assert self.child.poll() is None, self.lines.all()
        except BaseException:
            self.stop()
            raise

    def logged(self):
        """What became of each request, by its `x-id`: server, end, status, tries."""
        lines = [line.split() for line in self.lines.so_far() if line.startswith("request ")]
        return {line[1]: line[2:] for line in lines}

    def stop(self):
        super().stop()
        self.folder.cleanup()


class PlainHaproxy(Process):
    """HAProxy in the foreground, in front of the port `peer`, with connections that are used again."""

    def __init__(self, haproxy, peer):
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="devroute-e2e-haproxy-")
        config = pathlib.Path(self.folder.name) / "haproxy.cfg"
        config.write_text(
            f"""
            global
                maxconn 256
            defaults
                mode http
                timeout connect 5s
                timeout client 10s
                timeout server 10s
                timeout http-request 2s
            frontend front
                bind 127.0.0.1:{self.port}
                default_backend back
            backend back
                http-reuse always
                server peer 127.0.0.1:{peer}
            \n""",
            encoding="utf-8",
        )
        super().__init__([haproxy, "-db", "-f", str(config)])
        try:
            until(lambda: accepts(self.port) or self.child.poll() is not None, "HAProxy")
            assert self.child.poll() is None, self.lines.all()
        except BaseException:
            self.stop()
            raise

    def stop(self):
        super().stop()
        self.folder.cleanup()
