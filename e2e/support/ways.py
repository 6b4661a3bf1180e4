"""The ways that a request can take to a peer; every scenario is run on each that fits."""

import dataclasses
import json

from .process import Devroute, Embedded
from .wire import Server, answering

SERVICE = "checkout"

BASELINE = "baseline"
REROUTED = "rerouted"
VIA_ROUTER = "via-router"
ROUTER = "router"
EMBEDDED = "embedded"

#: A sidecar in front of the peer; a sidecar that reroutes to it; one that leaves that to a router;
#: a router alone; and a service that embeds the layer.
ALL = [BASELINE, REROUTED, VIA_ROUTER, ROUTER, EMBEDDED]
#: Those on which a contract decides.
REROUTES = [REROUTED, VIA_ROUTER, ROUTER, EMBEDDED]


@dataclasses.dataclass
class Way:
    """Where a client goes, what it has to send along, and what lies in between."""

    kind: str
    port: int
    #: The fields that send a request to the peer.
    fields: dict[str, str]
    #: What `x-devroute-routed` says in the answer, if anything.
    mark: str | None
    proxies: list
    decoy: Server | None = None
    #: By which the client comes.
    scheme: str = "http"

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def lines(self):
        """The fields as lines of an HTTP/1 head."""
        return "".join(f"{name}: {value}\r\n" for name, value in self.fields.items())

    @property
    def curl(self):
        """The fields as arguments of curl, h2load and nghttp."""
        return [part for it in self.fields.items() for part in ("-H", f"{it[0]}: {it[1]}")]


def make(kind, peer, started, *, scheme="http", target=None, flags=(), judge=(), client="http"):
    """Makes a way of this kind to the port `peer`; what is started is appended to `started`.

    `scheme` is that of the upstream; a target has it only where it is not `http`, unless `target`
    says what the contract holds. `flags` go to the proxy that the client talks to, by `client`;
    `judge` to the one that dials the peer.
    """

    def start(process):
        started.append(process)
        return process

    if kind == BASELINE:
        sidecar = start(sidecar_of(f"{scheme}://127.0.0.1:{peer}", *judge, *flags))
        return Way(kind, sidecar.port, {}, None, [sidecar], scheme=client)

    target = target or f"{'' if scheme == 'http' else scheme + '://'}127.0.0.1:{peer}"
    fields = {"x-devroute": json.dumps({SERVICE: target, "$id": "e2e"})}
    mark = f"{SERVICE}={target}"
    if kind == ROUTER:
        router = start(Devroute("router", "--allow=loopback", *judge, *flags))
        fields["x-devroute-matched"] = SERVICE
        return Way(kind, router.port, fields, mark, [router], scheme=client)
    if kind == EMBEDDED:
        assert not flags and not judge, "the example has none"
        service = start(Embedded())
        return Way(kind, service.port, fields, mark, [service])

    # Nothing may reach the baseline of a rerouted request.
    decoy = start(Server(answering("the baseline")))
    upstream = f"http://127.0.0.1:{decoy.port}"
    if kind == REROUTED:
        sidecar = start(sidecar_of(upstream, "--allow=loopback", *judge, *flags))
        return Way(kind, sidecar.port, fields, mark, [sidecar], decoy, client)
    assert kind == VIA_ROUTER, kind
    router = start(Devroute("router", "--allow=loopback", *judge))
    sidecar = start(sidecar_of(upstream, f"--via=127.0.0.1:{router.port}", *flags))
    return Way(kind, sidecar.port, fields, mark, [sidecar, router], decoy, client)


def sidecar_of(upstream, *flags):
    return Devroute("sidecar", f"--service={SERVICE}", f"--upstream={upstream}", *flags)
