"""Machines of their own, and what is between them: a laptop behind a gateway that translates addresses, and a cluster
that has no way to it.

    laptop 192.168.77.2 ── 192.168.77.1 gateway 10.66.0.1 ── 10.66.0.2 cluster

The gateway lets nothing in but answers. Each machine is a network namespace, gone with its last process.
"""

import ctypes
import os
import shutil
import subprocess
import threading

from .process import PATIENCE

CLONE_NEWNET = 0x40000000

CLUSTER = "10.66.0.2"
LAPTOP = "192.168.77.2"
#: What the laptop has after it has changed networks.
MOVED = "192.168.77.3"


class Machine:
    """A network namespace, kept by a process that does nothing."""

    def __init__(self):
        self.holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-ec", "ip link set lo up; echo ready; exec sleep 900"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self.holder.stdout.readline() != "ready\n":
            reason = self.holder.stderr.read()
            self.stop()
            raise OSError(reason)

    @property
    def pid(self):
        return self.holder.pid

    def command(self, *command):
        """The command that runs this one on the machine."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *map(str, command)]

    def sh(self, script):
        """Runs a script; what it prints."""
        done = subprocess.run(
            self.command("sh", "-ec", script), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (script, done.stderr)
        return done.stdout

    def run(self, function):
        """Runs `function` in a thread that lives on the machine; what it opens stays there."""
        result = []

        def inside():
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/proc/{self.pid}/ns/net", "rb") as it:
                if libc.setns(it.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            result.append(function())

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join(PATIENCE)
        assert result, "nothing came out of the namespace"
        return result[0]

    def stop(self):
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()
        self.holder.stderr.close()


class Network:
    """The three machines."""

    def __init__(self):
        self.machines = []
        try:
            self.laptop, self.gateway, self.cluster = (self._machine() for _ in range(3))
            self._join(self.laptop, f"{LAPTOP}/24", self.gateway, "192.168.77.1/24", "home")
            self._join(self.cluster, f"{CLUSTER}/24", self.gateway, "10.66.0.1/24", "away")
            self.laptop.sh("ip route add default via 192.168.77.1")
            self.gateway.sh(
                """
                echo 1 > /proc/sys/net/ipv4/ip_forward
                iptables -t nat -A POSTROUTING -o away -j MASQUERADE
                iptables -P FORWARD DROP
                iptables -A FORWARD -i home -j ACCEPT
                iptables -A FORWARD -i away -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
                """
            )
        except BaseException:
            self.stop()
            raise

    def _machine(self):
        self.machines.append(Machine())
        return self.machines[-1]

    def _join(self, machine, address, gateway, gateways, name):
        subprocess.run(
            ["ip", "link", "add", "eth0", "netns", str(machine.pid), "type", "veth"]
            + ["peer", "name", name, "netns", str(gateway.pid)],
            check=True,
        )
        machine.sh(f"ip address add {address} dev eth0; ip link set eth0 up")
        gateway.sh(f"ip address add {gateways} dev {name}; ip link set {name} up")

    def cut(self):
        """The link of the laptop goes away: nothing comes through, and nobody is told."""
        self.gateway.sh("iptables -I FORWARD 1 -j DROP")

    def mend(self):
        self.gateway.sh("iptables -D FORWARD 1")

    def lose(self, part):
        """Loses a part of all packets between laptop and cluster, at random."""
        self.gateway.sh(
            f"iptables -I FORWARD 1 -m statistic --mode random --probability {part} -j DROP"
        )

    def move(self):
        """The laptop comes back from another network, with another address."""
        self.laptop.sh(
            f"""
            ip address flush dev eth0
            ip address add {MOVED}/24 dev eth0
            ip route add default via 192.168.77.1
            """
        )
        # The gateway has forgotten what it translated for the other one.
        self.gateway.sh("conntrack -F 2>/dev/null || true")

    def stop(self):
        for machine in self.machines:
            machine.stop()


def why_not():
    """Why there can be no such network here, or None."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    missing = [tool for tool in ("unshare", "nsenter", "ip", "iptables") if not shutil.which(tool)]
    return f"{missing[0]} is not installed" if missing else None
