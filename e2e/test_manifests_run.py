"""What the manifests start, as processes of this machine: the settings are theirs, and only where things listen is not."""

import json
import os
import re
import shutil
import urllib.request

import pytest

from support import manifests
from support.chains import as_field, ask
from support.manifests import DEPLOY
from support.process import BINARY, PATIENCE, Process, until
from support.tunnel import Laptop, make_key

EXAMPLE = DEPLOY / "kubernetes" / "example"


@pytest.fixture(autouse=True)
def tools():
    missing = manifests.why_not()
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="module")
def built():
    """The manifests of a cluster: the router's, the hub's, and those of `foo` with its sidecar."""
    return {
        it: manifests.documents(manifests.kustomize(EXAMPLE / it)) for it in ("router", "hub", "foo-devroute")
    }


def value_of(variable, annotations, config):
    """What the kubelet gives this variable; nothing where there is nothing, and it may be missing."""
    if "value" in variable:
        return variable["value"]
    source = variable["valueFrom"]
    if "fieldRef" in source:
        if source["fieldRef"]["fieldPath"] == "status.podIP":
            return "127.0.0.1"
        field = re.fullmatch(r"metadata\.annotations\['(.+)'\]", source["fieldRef"]["fieldPath"])
        return annotations.get(field[1], "")
    key = source["configMapKeyRef"]
    return config.get(key["key"]) if key.get("optional") else config[key["key"]]


def environment(container, annotations=None, config=None, **instead):
    """The variables of a container, in which `$(NAME)` stands for one that came before."""
    env = {}
    for variable in container["env"]:
        value = instead.get(variable["name"], value_of(variable, annotations or {}, config or {}))
        if value is not None:
            env[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: env[name[1]], value)
    return env


class Container(Process):
    """What a container runs; it says where it listens in its first line."""

    def __init__(self, container, env, listen="127.0.0.1:0"):
        anywhere = {"DEVROUTE_LISTEN": listen, "DEVROUTE_ADMIN": "127.0.0.1:0"}
        super().__init__([BINARY, *container["args"]], env={**env, **anywhere})
        self.first = json.loads(self.lines.first()) if self.lines.first().startswith("{") else {}
        if self.first:
            self.port, self.admin = (int(self.first[it].rpartition(":")[2]) for it in ("listen", "admin"))


def deployment(documents):
    (found,) = [it for it in documents if it["kind"] == "Deployment"]
    return found["spec"]["template"]


def test_a_request_goes_from_the_sidecar_by_the_router_to_the_laptop(built, started, serve_recorder):
    baseline, laptop = serve_recorder("baseline"), serve_recorder("laptop")
    (router,) = deployment(built["router"])["spec"]["containers"]
    # As if the laptops' network were this machine's.
    env = environment(router, config={"networks": "127.0.0.0/8"})
    assert "DEVROUTE_ALLOW_SUFFIX" not in env
    started.append(Container(router, env))
    running_router = started[-1]

    pod = deployment(built["foo-devroute"])
    (sidecar,) = pod["spec"]["initContainers"]
    annotations = {**pod["metadata"]["annotations"], "devroute/port": str(baseline.port)}
    # By name, as there: the port is the test's.
    name, _, port = environment(sidecar, annotations)["DEVROUTE_VIA"].rpartition(":")
    assert (name, port) == ("devroute-router.devroute.svc", "8080")
    via = f"localhost:{running_router.port}"
    started.append(Container(sidecar, environment(sidecar, annotations, DEVROUTE_VIA=via)))
    running_sidecar = started[-1]
    assert running_sidecar.first["service"] == "foo"

    url = f"http://127.0.0.1:{running_sidecar.port}/"
    assert ask(url) == (200, "baseline")
    assert ask(url, as_field({"foo": f"127.0.0.1:{laptop.port}"})) == (200, "laptop")
    assert ask(url, as_field({"bar": f"127.0.0.1:{laptop.port}"})) == (200, "baseline")
    # The router dialled it, and not the sidecar: its policy would not have let it.
    assert laptop.only().all("via") == [b"1.1 devroute", b"1.1 devroute"]

    for container, running in ((router, running_router), (sidecar, running_sidecar)):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            path = container[probe]["httpGet"]["path"]
            url = f"http://127.0.0.1:{running.admin}{path}"
            assert urllib.request.urlopen(url, timeout=PATIENCE).status == 200


class Mounted:
    """A ConfigMap as the kubelet mounts it: files are links into a folder that is replaced at once."""

    def __init__(self, folder):
        self.folder, self.version = folder, 0
        folder.mkdir()

    def put(self, **files):
        self.version += 1
        data = self.folder / f"..{self.version}"
        data.mkdir()
        for name, text in files.items():
            (data / name).write_text(text, encoding="utf-8")
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        (self.folder / "..new").symlink_to(data.name)
        os.replace(self.folder / "..new", self.folder / "..data")
        shutil.rmtree(self.folder / f"..{self.version - 1}", ignore_errors=True)


def test_a_laptop_dials_the_hub_and_the_router_reaches_it_there(built, started, serve_recorder, tool, tmp_path):
    tool("ssh-keygen", "a hub")
    application = serve_recorder("laptop")
    (key, line), (_, another) = make_key(tmp_path, "alice"), make_key(tmp_path, "bob")
    pod = deployment(built["hub"])
    (hub,) = pod["spec"]["containers"]
    (mount,) = hub["volumeMounts"]
    mounted = Mounted(tmp_path / "mounted")
    mounted.put(authorized_keys=line + another)
    env = environment(hub)
    assert env["DEVROUTE_ADDRESS"] == "127.0.0.1" and env["DEVROUTE_AUTHORIZED_KEYS"].startswith(mount["mountPath"])
    env["DEVROUTE_AUTHORIZED_KEYS"] = env["DEVROUTE_AUTHORIZED_KEYS"].replace(mount["mountPath"], str(mounted.folder))
    # At all addresses, as there: it is that which has to be allowed.
    started.append(Container(hub, env, listen="0.0.0.0:0"))
    running = started[-1]
    assert running.first["ports"] == "43000-43999" and running.first["authenticated"]

    started.append(Laptop(f"http://127.0.0.1:{running.port}", key, f"foo={application.port}"))
    laptop = started[-1]
    assert laptop.port("foo") in range(43000, 44000)

    (router,) = deployment(built["router"])["spec"]["containers"]
    started.append(Container(router, environment(router, config={"networks": "127.0.0.0/8"})))
    matched = ("x-devroute-matched", "foo")
    url = f"http://127.0.0.1:{started[-1].port}/"
    contract = as_field({"foo": laptop.at("foo")})
    assert ask(url, contract, matched) == (200, "laptop")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = hub[probe]["httpGet"]["path"]
        url = f"http://127.0.0.1:{running.admin}{path}"
        assert urllib.request.urlopen(url, timeout=PATIENCE).status == 200

    # A ConfigMap that changes needs no other hub: who is taken out is cut off.
    mounted.put(authorized_keys=another)
    until(lambda: laptop.events("lost") + laptop.events("failed"), "that Alice is cut off")
    assert running.child.poll() is None


def test_a_hub_without_its_keys_does_not_run(built, started):
    (hub,) = deployment(built["hub"])["spec"]["containers"]
    started.append(Container(hub, environment(hub)))
    assert started[-1].wait() == 64
    assert "/etc/devroute/authorized_keys" in " ".join(started[-1].lines.all())


@pytest.mark.parametrize(
    ("forgotten", "said"),
    [("devroute/service", "--service"), ("devroute/port", "DEVROUTE_UPSTREAM")],
)
def test_a_sidecar_without_its_annotations_says_what_it_needs(built, started, forgotten, said):
    pod = deployment(built["foo-devroute"])
    (sidecar,) = pod["spec"]["initContainers"]
    annotations = {key: value for key, value in pod["metadata"]["annotations"].items() if key != forgotten}
    started.append(Container(sidecar, environment(sidecar, annotations)))
    assert started[-1].wait() == 64
    assert said in " ".join(started[-1].lines.all())


def test_a_router_with_no_network_for_laptops_says_so(built, started):
    (router,) = deployment(built["router"])["spec"]["containers"]
    with pytest.raises(KeyError):
        environment(router, config={})
    started.append(Container(router, environment(router, config={"networks": "laptops"})))
    assert started[-1].wait() == 64
    assert "DEVROUTE_ALLOW" in " ".join(started[-1].lines.all())
