"""Every manifest of `deploy/` is what Kubernetes and Istio take, asks for no more rights than it needs, and holds together."""

import ipaddress
import re
import shutil

import pytest

from support import manifests
from support.manifests import DEPLOY
from support.process import BINARY

pytestmark = pytest.mark.timeout(300)

KUBERNETES = DEPLOY / "kubernetes"
#: A file of keys, as `devroute manifests` is given one.
KEYS = manifests.ROOT / "devroute-core" / "tests" / "vectors" / "alice.pub"


@pytest.fixture(autouse=True)
def tools():
    missing = manifests.why_not()
    if missing:
        pytest.skip(missing)


def printed(*flags):
    """What `devroute manifests` prints for the service that the examples have."""
    line = ["--service=foo", "--port=8000", "--namespace=shop", "--laptops=10.8.0.0/16", *flags]
    done = manifests.ran([BINARY, "manifests", *line])
    assert done.returncode == 0, done.stderr
    return done.stdout


def patched(tmp_path, patch):
    """The service `foo` of the examples with what is printed for it, by Kustomize."""
    folder = tmp_path / "patched"
    shutil.copytree(KUBERNETES / "example" / "foo", folder / "foo", dirs_exist_ok=True)
    (folder / "patch.yaml").write_text(patch, encoding="utf-8")
    (folder / "kustomization.yaml").write_text("resources: [foo]\npatches: [path: patch.yaml]\n", encoding="utf-8")
    return manifests.kustomize(folder)


def everything(tmp_path):
    """Whatever can be applied, by the name it has in a failure."""
    return {
        **{str(it.relative_to(DEPLOY)): manifests.kustomize(it) for it in manifests.kustomizations()},
        "printed/istio": printed("--mesh=istio", "--allow-suffix=.ts.net"),
        "printed/none/router": printed("--part=router", "--laptops=fd00:8::/32"),
        "printed/none/hub": printed("--part=hub", f"--authorized-keys={KEYS}"),
        "printed/none/foo": patched(tmp_path, printed("--part=service")),
    }


def only(documents, kind, name=None):
    """The one of this kind, and of this name."""
    (found,) = [it for it in documents if it["kind"] == kind and name in (None, it["metadata"]["name"])]
    return found


def test_every_manifest_is_what_the_schemas_say(tmp_path):
    built = everything(tmp_path)
    # One run for all; the boundaries come back by counting.
    checked = manifests.check("\n---\n".join(built.values()))
    assert len(checked) > 10
    wrong = [f"{it.name}: {problem}" for it in checked for problem in it.problems]
    assert not wrong, "\n".join(wrong)
    components = {it.parent.name for it in KUBERNETES.glob("*/kustomization.yaml")}
    used = " ".join(it.read_text(encoding="utf-8") for it in KUBERNETES.glob("example/*/kustomization.yaml"))
    assert all(f"/{it}" in used for it in components), "a component that nothing builds is not validated"


#: What somebody may mistype, and where.
TYPOS = [
    ("router", "automountServiceAccountToken: false", "autoMountServiceAccountToken: false"),
    ("router", "containerPort: 8080", 'containerPort: "8080"'),
    ("router", "readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true"),
    ("router", "kind: PodDisruptionBudget", "kind: PodDisruptionBudgets"),
    ("router", "apiVersion: policy/v1", "apiVersion: policy/v1beta1"),
    ("router", "policyTypes:", "policytypes:"),
    ("router", "appProtocol: tcp", "appProtocol: tcp\n    targetport: 8080"),
    ("router", "replicas: 2", "replicas: 2\n  replicas: 3"),
    ("hub", "endPort: 43999", "endport: 43999"),
    ("hub", "fieldPath: status.podIP", "fieldpath: status.podIP"),
    ("hub", "mountPath: /etc/devroute", "mountpath: /etc/devroute"),
    ("hub", "pathType: Exact", "pathTypes: Exact"),
    ("foo-devroute", "restartPolicy: Always", "restartPolicies: Always"),
    ("foo-devroute", "fieldRef:", "fieldref:"),
    ("istio/example/router", "useClientProtocol", "useclientProtocol"),
    ("istio/example/router", "mode: STRICT", "mode: STRICTLY"),
    ("istio/example/router", "principals:", "principal:"),
    ("istio/caller", "subFilter:", "subfilter:"),
    ("istio/service", "exact: foo", "exakt: foo"),
    ("istio/service", "retries:", "retry:"),
]


@pytest.mark.parametrize(("folder", "right", "wrong"), TYPOS)
def test_a_typo_does_not_pass(folder, right, wrong):
    text = manifests.kustomize(DEPLOY / folder if "/" in folder else KUBERNETES / "example" / folder)
    assert right in text
    try:
        checked = manifests.check(text.replace(right, wrong, 1))
    except AssertionError as error:
        # What is no YAML, or not unequivocal, is not even read.
        assert "there twice" in str(error)
    else:
        assert any(it.problems for it in checked)


#: What would take a safeguard away, in which example, and the rule that has to notice.
WEAKENED = [
    ("router", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "CKV_K8S_22"),
    ("router", "runAsUser: 65532", "runAsUser: 0", "CKV_K8S_40"),
    ("router", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "CKV_K8S_20"),
    ("router", "type: RuntimeDefault", "type: Unconfined", "CKV_K8S_31"),
    ("router", "  automountServiceAccountToken: false", "  automountServiceAccountToken: true", "CKV_K8S_38"),
    ("router", "drop:\n            - ALL", "add:\n            - NET_ADMIN", "CKV_K8S_37"),
    ("hub", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "CKV_K8S_22"),
    ("hub", "runAsUser: 65532", "runAsUser: 0", "CKV_K8S_40"),
    ("hub", "type: RuntimeDefault", "type: Unconfined", "CKV_K8S_31"),
    ("hub", "drop:\n            - ALL", "add:\n            - NET_ADMIN", "CKV_K8S_37"),
    ("foo-devroute", "limits:\n            memory: 192Mi", "requests: {}", "CKV_K8S_13"),
]


def test_what_runs_has_no_rights_that_it_does_not_need(tmp_path):
    written = {}
    (tmp_path / "checked").mkdir()
    for name, text in everything(tmp_path).items():
        written[name] = tmp_path / "checked" / f"{name.replace('/', '_')}.yaml"
        written[name].write_text(text, encoding="utf-8")
    for index, (folder, right, wrong, _) in enumerate(WEAKENED):
        text = manifests.kustomize(KUBERNETES / "example" / folder)
        assert right in text, right
        # The sidecar comes last, behind the application that it is added to.
        before, _, after = text.rpartition(right)
        (tmp_path / "checked" / f"weakened-{index}.yaml").write_text(before + wrong + after, encoding="utf-8")
    failed = manifests.policy([*sorted((tmp_path / "checked").iterdir()), DEPLOY / "image" / "Dockerfile"])
    for index, (_, _, wrong, rule) in enumerate(WEAKENED):
        assert (rule, f"weakened-{index}.yaml") in failed, wrong
    failed = {it for it in failed if not it[1].startswith("weakened-")}
    # The policy of the application's namespace is the application's.
    unasked = {(rule, file) for rule, file in failed if rule == "CKV2_K8S_6" and "foo" in file}
    assert failed == unasked


def test_without_the_networks_of_the_laptops_nothing_is_built(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("components: [../router]\n", encoding="utf-8")
    (tmp_path.parent / "router").symlink_to(KUBERNETES / "router")
    done = manifests.ran([manifests.PYTHON / "kubectl", "kustomize", tmp_path])
    assert done.returncode != 0 and not done.stdout
    assert "devroute-laptops" in done.stderr and "networks" in done.stderr

    # Who applies the file as it is gets no policy, for this is no network, and no router that runs without one.
    text = (KUBERNETES / "router" / "network-policy.yaml").read_text(encoding="utf-8")
    cidr = re.search(r"cidr: (\S+) ", text)[1]
    with pytest.raises(ValueError, match="does not appear to be"):
        ipaddress.ip_network(cidr)
    deployment = manifests.documents((KUBERNETES / "router" / "deployment.yaml").read_text(encoding="utf-8"))[0]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (allow,) = [it for it in container["env"] if it["name"] == "DEVROUTE_ALLOW"]
    assert not allow["valueFrom"]["configMapKeyRef"].get("optional")


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def test_the_router_holds_together():
    built = manifests.documents(manifests.kustomize(KUBERNETES / "example" / "router"))
    deployment = only(built, "Deployment")
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    env = {it["name"]: it.get("value") for it in container["env"]}

    service = only(built, "Service")
    budget = only(built, "PodDisruptionBudget")
    policy = only(built, "NetworkPolicy")
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
        policy["spec"]["podSelector"]["matchLabels"],
        *(it["labelSelector"]["matchLabels"] for it in pod["spec"]["topologySpreadConstraints"]),
    ):
        assert selector.items() <= labels
    assert pod["spec"]["serviceAccountName"] == only(built, "ServiceAccount")["metadata"]["name"]
    assert {it["metadata"]["namespace"] for it in built if it["kind"] != "Namespace"} == {"devroute"}

    # What the process listens at is what the service, the probes and the policy say.
    listen, admin = (int(env[it].rpartition(":")[2]) for it in ("DEVROUTE_LISTEN", "DEVROUTE_ADMIN"))
    assert {it["name"]: it["containerPort"] for it in container["ports"]} == {"http": listen, "admin": admin}
    assert [it["targetPort"] for it in service["spec"]["ports"]] == [listen]
    assert [it["ports"][0]["port"] for it in policy["spec"]["ingress"]] == [listen, admin]

    # Egress to the laptops and nowhere else, by the value that the router's own policy has too.
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["egress"] == [{"to": [{"ipBlock": {"cidr": "10.8.0.0/16"}}]}]
    assert only(built, "ConfigMap")["data"] == {"networks": "10.8.0.0/16"}

    # Draining ends before it is ended; 2 s is the grace of idle connections.
    draining = seconds(env["DEVROUTE_DRAIN_DELAY"]) + 2 + seconds(env["DEVROUTE_DRAIN_TIMEOUT"])
    assert pod["spec"]["terminationGracePeriodSeconds"] > draining


def test_in_istio_the_pods_reach_istiod_beside_what_they_reach_anyway():
    alone, in_mesh = (
        [it["spec"] for it in manifests.documents(manifests.kustomize(DEPLOY / folder)) if it["kind"] == "NetworkPolicy"]
        for folder in ("kubernetes/example/router", "istio/example/router")
    )
    (added,) = [it for it in in_mesh if it not in alone]
    assert [it for it in in_mesh if it in alone] == alone and added["policyTypes"] == ["Egress"]
    assert added["podSelector"]["matchLabels"].items() <= alone[0]["podSelector"]["matchLabels"].items()
    istiod, names = added["egress"]
    assert [it["port"] for it in istiod["ports"]] == [15012]
    assert {it["port"] for it in names["ports"]} == {53}
    assert all(to.keys() == {"namespaceSelector", "podSelector"} for it in added["egress"] for to in it["to"])


def test_the_hub_holds_together():
    built = manifests.documents(manifests.kustomize(KUBERNETES / "example" / "hub"))
    deployment = only(built, "Deployment")
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    env = {it["name"]: it.get("value") for it in container["env"]}

    service, policy = only(built, "Service"), only(built, "NetworkPolicy", "devroute-hub")["spec"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        only(built, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        policy["podSelector"]["matchLabels"],
        *(it["labelSelector"]["matchLabels"] for it in pod["spec"]["topologySpreadConstraints"]),
    ):
        assert selector.items() <= labels
    assert pod["spec"]["serviceAccountName"] == only(built, "ServiceAccount")["metadata"]["name"]
    assert {it["metadata"]["namespace"] for it in built} == {"devroute"}
    draining = seconds(env["DEVROUTE_DRAIN_DELAY"]) + 2 + seconds(env["DEVROUTE_DRAIN_TIMEOUT"])
    assert pod["spec"]["terminationGracePeriodSeconds"] > draining

    # What the process listens at is what the ingress, the service, the probes and the policies say.
    listen, admin = (int(env[it].rpartition(":")[2]) for it in ("DEVROUTE_LISTEN", "DEVROUTE_ADMIN"))
    first, last = map(int, env["DEVROUTE_PORTS"].split("-"))
    services = {"protocol": "TCP", "port": first, "endPort": last}
    assert {it["name"]: it["containerPort"] for it in container["ports"]} == {"http": listen, "admin": admin}
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == listen
    (path,) = only(built, "Ingress")["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
    annotations = pod["metadata"]["annotations"]
    assert annotations["traffic.sidecar.istio.io/includeInboundPorts"] == str(listen)
    assert annotations["config.linkerd.io/skip-inbound-ports"] == env["DEVROUTE_PORTS"]

    # The services of laptops are the router's alone, and the router may go there.
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    laptops, callers, metrics = policy["ingress"]
    assert [it["port"] for it in laptops["ports"] + metrics["ports"]] == [listen, admin]
    router = manifests.documents(manifests.kustomize(KUBERNETES / "example" / "router"))
    router = only(router, "NetworkPolicy")["spec"]["podSelector"]
    assert callers == {"from": [{"podSelector": router}], "ports": [services]}
    way = only(built, "NetworkPolicy", "devroute-router-hub")["spec"]
    assert (way["podSelector"], way["policyTypes"]) == (router, ["Egress"])
    assert way["egress"] == [{"to": [{"podSelector": policy["podSelector"]}], "ports": [services]}]

    # The keys are a folder that is mounted, since a file in it that is mounted by itself does not change.
    (mount,) = container["volumeMounts"]
    assert mount["readOnly"] and "subPath" not in mount
    folder, _, file = env["DEVROUTE_AUTHORIZED_KEYS"].rpartition("/")
    assert (folder, [*only(built, "ConfigMap")["data"]]) == (mount["mountPath"], [file])
    (volume,) = pod["spec"]["volumes"]
    assert volume == {"name": mount["name"], "configMap": {"name": "devroute-keys"}}
    assert only(built, "ConfigMap")["metadata"]["name"] == "devroute-keys", "not another one with each key"
    # Who applies the example as it is lets nobody in.
    assert not [line for line in only(built, "ConfigMap")["data"][file].splitlines() if not line.startswith("#")]


def test_hub_and_router_are_built_together_and_without_keys_there_is_no_hub(tmp_path):
    for name in ("hub", "router"):
        (tmp_path / name).symlink_to(KUBERNETES / name)
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "keys").write_bytes(KEYS.read_bytes())
    file = tmp_path / "both" / "kustomization.yaml"
    laptops = "- { name: devroute-laptops, namespace: devroute, literals: [networks=10.8.0.0/16] }\n"
    keys = "- { name: devroute-keys, namespace: devroute, files: [authorized_keys=keys] }\n"
    text = f"components: [../router, ../hub]\nconfigMapGenerator:\n{laptops}{keys}"
    file.write_text(text, encoding="utf-8")
    built = manifests.documents(manifests.kustomize(file.parent))
    assert {it["metadata"]["name"] for it in built if it["kind"] == "Deployment"} == {"devroute-router", "devroute-hub"}

    file.write_text(text.replace(keys, ""), encoding="utf-8")
    done = manifests.ran([manifests.PYTHON / "kubectl", "kustomize", file.parent])
    assert done.returncode != 0 and not done.stdout
    assert "devroute-keys" in done.stderr


def test_the_hub_that_is_printed_is_the_one_that_is_built(tmp_path):
    (tmp_path / "hub").symlink_to(KUBERNETES / "hub")
    (tmp_path / "example").mkdir()
    (tmp_path / "example" / "authorized_keys").write_bytes(KEYS.read_bytes())
    overlay = (KUBERNETES / "example" / "hub" / "kustomization.yaml").read_text(encoding="utf-8")
    overlay = overlay.replace("resources: [ingress.yaml]\n", "").replace("../../hub", "../hub")
    (tmp_path / "example" / "kustomization.yaml").write_text(overlay, encoding="utf-8")
    got = manifests.documents(printed("--part=hub", f"--authorized-keys={KEYS}"))
    expected = manifests.documents(manifests.kustomize(tmp_path / "example"))
    assert without_what_only_one_has(got) == without_what_only_one_has(expected)


def test_more_networks_and_names_open_no_more_than_they_say():
    built = manifests.documents(manifests.kustomize(KUBERNETES / "example" / "router-tailnet"))
    networks = only(built, "ConfigMap")["data"]["networks"].split(",")
    egress = only(built, "NetworkPolicy", "devroute-router")["spec"]["egress"]
    assert egress == [{"to": [{"ipBlock": {"cidr": network}} for network in networks]}]
    assert len(networks) == 2
    names = only(built, "NetworkPolicy", "devroute-router-names")["spec"]
    assert names["podSelector"] == only(built, "NetworkPolicy", "devroute-router")["spec"]["podSelector"]
    (rule,) = names["egress"]
    assert {it["port"] for it in rule["ports"]} == {53}
    assert rule["to"][0].keys() == {"namespaceSelector", "podSelector"}


def test_the_sidecar_takes_the_port_of_the_service_and_nothing_of_the_application():
    before = manifests.documents(manifests.kustomize(KUBERNETES / "example" / "foo"))
    after = manifests.documents(manifests.kustomize(KUBERNETES / "example" / "foo-devroute"))
    assert only(before, "Service")["spec"]["ports"][0]["targetPort"] == "http"
    (port,) = only(after, "Service")["spec"]["ports"]

    was, pod = (only(it, "Deployment")["spec"]["template"] for it in (before, after))
    assert pod["spec"]["containers"] == was["spec"]["containers"], "its ports and probes are as they were"
    (sidecar,) = pod["spec"]["initContainers"]
    ports = {it["name"]: it["containerPort"] for it in sidecar["ports"]}
    assert port == {"name": "http", "port": 8000, "targetPort": ports["devroute"]}
    # Probes by name look for it among the ports of their own container, and two names in a pod would be two meanings.
    assert not ports.keys() & {it["name"] for it in pod["spec"]["containers"][0]["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert sidecar[probe]["httpGet"]["port"] == "devroute-admin"
    drain = {it["name"]: it.get("value") for it in sidecar["env"]}["DEVROUTE_DRAIN_TIMEOUT"]
    assert seconds(drain) + 2 < 30, "the grace period of a pod that says nothing"


def without_what_only_one_has(documents):
    """Documents by kind and name, without the hash of a generated name and the namespace that is printed for the service."""
    found = {}
    for it in documents:
        metadata = it["metadata"]
        if metadata["name"].startswith("devroute-laptops"):
            metadata["name"] = "devroute-laptops"
        if it["kind"] == "NetworkPolicy":
            callers = it["spec"].get("ingress", [{"from": []}])[0]["from"]
            callees = it["spec"]["egress"][0]["to"]
            own = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}
            for peers in (callers, callees):
                peers[:] = [each for each in peers if each != own]
        if it["kind"] == "Deployment" and metadata["name"] == "devroute-router":
            for variable in it["spec"]["template"]["spec"]["containers"][0]["env"]:
                if reference := variable.get("valueFrom", {}).get("configMapKeyRef"):
                    reference["name"] = "devroute-laptops"
        # Those of the pod are what is read.
        metadata.pop("annotations", None)
        found[it["kind"], metadata["name"]] = it
    assert len(found) == len(documents)
    return found


@pytest.mark.parametrize(
    ("flags", "folders"),
    [
        (["--part=router"], ["kubernetes/example/router"]),
        (["--part=router", "--mesh=istio"], ["istio/example/router"]),
        (["--part=service", "--mesh=istio"], ["istio/caller", "istio/service"]),
        (["--mesh=istio"], ["istio/example/router", "istio/caller", "istio/service"]),
    ],
)
def test_what_is_printed_is_what_is_built(flags, folders):
    built = "\n---\n".join(manifests.kustomize(DEPLOY / it) for it in folders)
    got, expected = (without_what_only_one_has(manifests.documents(it)) for it in (printed(*flags), built))
    assert got == expected


def test_what_is_printed_for_a_service_makes_of_it_what_the_component_does(tmp_path):
    got = manifests.documents(patched(tmp_path, printed("--part=service")))
    expected = manifests.documents(manifests.kustomize(KUBERNETES / "example" / "foo-devroute"))
    assert without_what_only_one_has(got) == without_what_only_one_has(expected)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--service=foo", "--port=8000"], "--laptops"),
        (["--service=foo", "--port=8000", "--laptops="], "--laptops"),
        (["--service=foo", "--port=8000", "--laptops=10.8.0.1/16"], "--laptops: "),
        (["--service=Foo", "--port=8000", "--laptops=10.8.0.0/16"], "--service: "),
        (["--service=foo", "--port=http", "--laptops=10.8.0.0/16"], "--port: "),
        (["--service=foo", "--port=8000", "--laptops=10.8.0.0/16", "--mesh=linkerd"], "--mesh"),
        (["--service=foo", "--port=8000", "--laptops=10.8.0.0/16", "--part=hub"], "--authorized-keys"),
        (["--service=foo", "--port=8000", "--laptops=10.8.0.0/16", "--authorized-keys=none"], "--authorized-keys: none"),
    ],
)
def test_what_is_wrong_prints_nothing(flags, said):
    done = manifests.ran([BINARY, "manifests", *flags])
    assert (done.returncode, done.stdout) == (64, "")
    assert said in done.stderr


def test_what_wants_no_sidecar_gets_none(tmp_path):
    text = (KUBERNETES / "example" / "foo" / "foo.yaml").read_text(encoding="utf-8")
    left_alone = text.replace("labels: { app: foo }", 'labels: { app: foo, devroute/sidecar: "false" }')
    (tmp_path / "foo.yaml").write_text(left_alone, encoding="utf-8")
    (tmp_path.parent / "sidecar").symlink_to(KUBERNETES / "sidecar")
    overlay = "resources: [foo.yaml]\ncomponents: [../sidecar]\n"
    (tmp_path / "kustomization.yaml").write_text(overlay, encoding="utf-8")
    assert manifests.documents(manifests.kustomize(tmp_path)) != []
    assert "15080" not in manifests.kustomize(tmp_path)
