"""A laptop, a gateway and a cluster, each a network namespace of its own.

    laptop 192.168.77.2 -- 192.168.77.1 gateway 10.77.0.1 -- 10.77.0.2 cluster

Nothing that happens in them leaves them, and they are gone with their last processes.
"""

import os
import shutil
import subprocess

from .namespace import Namespace

LAPTOP = "192.168.77.2"
GATEWAY = "10.77.0.1"
CLUSTER = "10.77.0.2"


class Lan:
    """What the laptop sends is routed to the cluster and back, until a gateway is told otherwise."""

    def __init__(self, started, laptop=LAPTOP, other=None):
        """`other` is an address of the laptop in one more network, which it had before."""
        self.laptop, self.gateway, self.cluster = (Namespace("ip link set lo up") for _ in range(3))
        started.extend([self.laptop, self.gateway, self.cluster])
        if other:
            self.on(
                self.laptop,
                "ip link add other type veth peer name nobody; ip link set other up;"
                f"ip address add {other}/24 dev other",
            )
        router = laptop.rpartition(".")[0] + ".1"
        self._link(self.laptop, laptop, router, "lan")
        self._link(self.cluster, CLUSTER, GATEWAY, "wan")
        self.on(self.gateway, "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def _link(self, space, address, router, name):
        self.on(space, f"ip link add {name} type veth peer name {name} netns {self.gateway.holder.pid}")
        for here, own in [(space, address), (self.gateway, router)]:
            self.on(here, f"ip address add {own}/24 dev {name}; ip link set {name} up")
        self.on(space, f"ip route add default via {router}")

    def on(self, space, script):
        """Runs a shell script in a namespace; it must succeed."""
        command = ["nsenter", f"--net=/proc/{space.holder.pid}/ns/net", "sh", "-ec", script]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{script}: {ran.stderr}"

    def masquerade(self):
        """The gateway puts its own address before what the laptop sends."""
        self.on(self.gateway, "iptables -t nat -A POSTROUTING -o wan -j MASQUERADE")

    def swallow(self, space, rule):
        """What comes in and fits `rule` is dropped without a word."""
        self.on(space, f"iptables -A INPUT {rule} -j DROP")


def why_not():
    """Why there can be no such network here, or None."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    tools = ["unshare", "nsenter", "ip", "iptables"]
    missing = [tool for tool in tools if not shutil.which(tool)]
    return f"{missing[0]} is not installed" if missing else None
