"""A pod whose traffic a mesh captures: a network namespace in which iptables redirects what goes out to an Envoy that is
configured as istiod configures it (`support/istio.yaml`). Plain HTTP is routed there by port and `Host`, whatever the
address is; who is told so must reach the target all the same (rule 19, docs/envoy.md).
"""

import json
import pathlib
import shutil
import socket

import pytest

from support import envoy as envoys
from support import namespace, ways
from support.certificates import Authority
from support.process import Devroute, Embedded
from support.wire import Server, answering, connect

CONFIG = pathlib.Path(__file__).parent / "support" / "istio.yaml"
SERVICE = ways.SERVICE

#: Istio knows its own traffic by the same group; the router's stands for a pod without outbound capture
#: (`traffic.sidecar.istio.io/includeOutboundIPRanges: ""`).
ENVOY, ROUTER = 1337, 1338
SETUP = f"""
for address in 10.99.0.10 10.99.0.31 10.99.0.50 10.99.1.20; do ip address add $address/32 dev lo; done
ip route add 10.99.0.30/32 dev lo
nat() {{ iptables -t nat -A OUTPUT -p tcp "$@"; }}
nat -m owner --gid-owner {ENVOY} -j RETURN
"""
NOT_THE_ROUTER = f"nat -m owner --gid-owner {ROUTER} -j RETURN\n"
CAPTURE = "nat -d 10.99.0.0/16 -j REDIRECT --to-ports 15001\n"

VIA = "10.99.0.30:8181"
#: The router by a port that the mesh takes for HTTP.
VIA_HTTP = "10.99.0.30:8080"
#: A laptop whose port some service of the mesh has as well, and one whose port none has.
LAPTOP, LAPTOP_APART = "10.99.1.20:8080", "10.99.1.20:9999"

#: What a filter's Envoy says in a mesh with mutual TLS when it asks the router.
AT_THE_ROUTER = "address: 127.0.0.1, port_value: 8080 }"
CLUSTER = "  - name: devroute-router\n    connect_timeout: 2s\n"
MUTUAL = """\
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificates:
          - certificate_chain: { filename: FOLDER/pod.pem }
            private_key: { filename: FOLDER/pod.key }
          validation_context:
            trusted_ca: { filename: FOLDER/mesh.pem }
"""


class Mesh:
    """The namespace, who is in it, and how to ask."""

    def __init__(self, started, folder, *, router_is_captured=False, registry_only=False):
        self.started, self.folder = started, str(folder)
        exempt = "" if router_is_captured else NOT_THE_ROUTER
        self.space = self._keep(namespace.Namespace(namespace.SETUP + SETUP + exempt + CAPTURE))
        edits = {"FOLDER": self.folder}
        if registry_only:
            edits["cluster: PassthroughCluster"] = "cluster: BlackHoleCluster"
        self.start(lambda: envoys.Envoy(CONFIG, {}, edits=edits, group=ENVOY))
        self.baseline = self.serve("10.99.0.10:8080", "the mesh's baseline")
        self.laptops = {at: self.serve(at, "the laptop") for at in (LAPTOP, LAPTOP_APART)}
        self.router = self.devroute("router", listen="127.0.0.1:8282", group=ROUTER)

    def _keep(self, process):
        self.started.append(process)
        return process

    def start(self, make):
        return self._keep(self.space.run(make))

    def serve(self, at, says):
        host, port = at.split(":")
        sock = self.space.run(lambda: socket.create_server((host, int(port))))
        return self._keep(Server(answering(says), sock))

    def devroute(self, *flags, **options):
        return self.start(lambda: Devroute(*flags, **options))

    def service(self, kind, via=None, **options):
        """Something that stands for the service, and hands reroutes to a router if it is told to."""
        if kind == "embedded":
            return self.start(lambda: Embedded(*([via] if via else [])))
        own = self.serve("127.0.0.1:0", "the pod's own")
        if kind == "sidecar":
            flags = [f"--service={SERVICE}", f"--upstream=http://127.0.0.1:{own.port}"]
            return self.devroute("sidecar", *flags, *([f"--via={via}"] if via else []), **options)
        host, port = via.split(":")
        edits = {AT_THE_ROUTER: f"address: {host}, port_value: {port} }}", CLUSTER: CLUSTER + MUTUAL}
        edits["FOLDER"] = self.folder
        ports = {envoys.BASELINE_PORT: own.port}
        return self.start(lambda: envoys.Envoy(envoys.FILTER, ports, edits=edits, group=ENVOY))

    def ask(self, service, target):
        """Who answered, and who is said to have."""

        def inside():
            with connect(service.port) as client:
                contract = json.dumps({SERVICE: target})
                client.send(f"GET / HTTP/1.1\r\nhost: {SERVICE}\r\nx-devroute: {contract}\r\n\r\n")
                return client.answer()

        head, body = self.space.run(inside)
        mark = head.get("x-devroute-routed").removeprefix(f"{SERVICE}=")
        return head.status, body.decode().partition(" GET")[0], mark


@pytest.fixture
def mesh(envoy, started, tool, tmp_path):
    """Builds a mesh of the test's own."""
    del envoy  # it skips the test where there is none
    reason = namespace.why_not()
    if reason:
        pytest.skip(f"{reason}: a captured pod is not tested")
    if not shutil.which("iptables"):
        pytest.skip("iptables is not installed: a captured pod is not tested")
    authority = Authority(tool("openssl", "mutual TLS"), tmp_path, "mesh")
    authority.issue("pod", "URI:spiffe://cluster.local/ns/devroute/sa/router")
    return lambda **options: Mesh(started, tmp_path, **options)


# What goes wrong.


@pytest.mark.parametrize("kind", ["embedded", "sidecar"])
def test_a_captured_pod_that_dials_itself_reaches_the_baseline_by_host_and_says_the_laptop(mesh, kind):
    """This is what `--via` is for. By a port that no service has it happens to work."""
    mesh = mesh()
    service = mesh.service(kind)
    assert mesh.ask(service, LAPTOP) == (200, "the mesh's baseline", LAPTOP)
    assert not mesh.laptops[LAPTOP].connections
    assert mesh.ask(service, LAPTOP_APART) == (200, "the laptop", LAPTOP_APART)


@pytest.mark.parametrize("kind", ["embedded", "sidecar", "filter"])
def test_a_captured_router_does_the_same(mesh, kind):
    mesh = mesh(router_is_captured=True)
    via = "10.99.0.31:8181" if kind == "filter" else VIA
    service = mesh.service(kind, via)
    assert mesh.ask(service, LAPTOP) == (200, "the mesh's baseline", LAPTOP)
    assert not mesh.laptops[LAPTOP].connections


@pytest.mark.parametrize("kind", ["embedded", "sidecar"])
def test_a_router_whose_port_is_not_opaque_is_never_asked_and_the_answer_says_so(mesh, kind):
    mesh = mesh()
    service = mesh.service(kind, VIA_HTTP)
    said = (200, "the mesh's baseline", "none; reason=router_unreachable")
    assert mesh.ask(service, LAPTOP) == said
    assert not mesh.laptops[LAPTOP].connections


# What is right: rule 19, a router without capture, and its port opaque.


@pytest.mark.parametrize("registry_only", [False, True], ids=["allow-any", "registry-only"])
@pytest.mark.parametrize("kind", ["embedded", "sidecar", "filter"])
def test_rule_19_by_a_router_that_is_not_captured_the_target_is_hit(mesh, kind, registry_only):
    """All of it by mutual TLS, which the Envoys do."""
    mesh = mesh(registry_only=registry_only)
    service = mesh.service(kind, "10.99.0.31:8181" if kind == "filter" else VIA)
    for target in (LAPTOP, LAPTOP_APART):
        assert mesh.ask(service, target) == (200, "the laptop", target)
    assert not mesh.baseline.connections


@pytest.mark.parametrize("kind", ["embedded", "sidecar"])
def test_registry_only_closes_what_a_pod_dials_itself(mesh, kind):
    mesh = mesh(registry_only=True)
    status, _, mark = mesh.ask(mesh.service(kind), LAPTOP_APART)
    assert (status, mark) == (502, "none; reason=connection_closed")
    assert not mesh.laptops[LAPTOP_APART].connections


def test_strict_mutual_tls_refuses_who_is_not_captured(mesh):
    """What skips its own Envoy speaks plain text to the router's."""
    mesh = mesh()
    service = mesh.service("sidecar", "10.99.0.31:8181", group=ROUTER)
    status, _, mark = mesh.ask(service, LAPTOP)
    assert (status, mark) == (502, "none; reason=connection_closed")
    assert not mesh.space.run(lambda: [mesh.router.decisions()])[0]
