"""Other people's servers as peers: hypercorn and nginx."""

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
