"""A network namespace: a machine of its own whose only network swallows everything.

Nothing that happens in it leaves it, and it is gone with its last process.
"""

import ctypes
import os
import shutil
import subprocess
import threading

from .process import PATIENCE

CLONE_NEWNET = 0x40000000

#: An address behind which everything is dropped without an answer.
BLACK_HOLE = "10.231.0.2"
#: A private address that no route leads to.
UNROUTABLE = "10.232.0.2"

SETUP = f"""
ip link set lo up
ip link add hole type veth peer name abyss
ip address add 10.231.0.1/24 dev hole
ip link set hole up
ip link set abyss up
ip neighbour add {BLACK_HOLE} lladdr 02:00:00:00:00:99 dev hole nud permanent
"""


class Namespace:
    """Made without a name; a holder process keeps it. `setup` is what a shell does in it first."""

    def __init__(self, setup=SETUP):
        self.holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-ec", f"{setup}\necho ready\nexec sleep 600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.holder.stdout.readline() != "ready\n":
            reason = self.holder.stderr.read()
            self.stop()
            raise OSError(reason)

    def run(self, function):
        """Runs `function` in a thread that lives in the namespace.

        What it opens or starts there stays there; the rest of the test does not notice.
        """
        result, errors = [], []

        def inside():
            try:
                enter()
            except BaseException as error:
                errors.append(error)

        def enter():
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/proc/{self.holder.pid}/ns/net", "rb") as it:
                if libc.setns(it.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            result.append(function())

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join(PATIENCE)
        if errors:
            raise errors[0]
        assert result, "nothing came out of the namespace"
        return result[0]

    def stop(self):
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()
        self.holder.stderr.close()


def named_by(resolv_conf):
    """A command that runs another one with this file as its /etc/resolv.conf."""
    script = 'mount --bind "$0" /etc/resolv.conf; exec "$@"'
    return ["unshare", "--mount", "sh", "-ec", script, str(resolv_conf)]


def why_not():
    """Why there can be no namespace here, or None."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    missing = [tool for tool in ("unshare", "ip") if not shutil.which(tool)]
    return f"{missing[0]} is not installed" if missing else None
