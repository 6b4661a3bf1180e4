"""docs/kubernetes.md and docs/istio.md: their commands are run as far as that needs no cluster, and their files are there."""

import os
import pathlib
import re
import shlex

import pytest

from support import manifests
from support.manifests import DEPLOY, ROOT
from support.process import BINARY

GUIDES = ["kubernetes.md", "istio.md"]

#: What only a cluster, a daemon or a laptop can do.
ELSEWHERE = re.compile(
    r"docker build |python3 -m http\.server |kubectl (-n \S+ )?(label|create|run|exec|rollout|scale|patch|delete envoyfilter) "
)


def text_of(guide):
    return (ROOT / "docs" / guide).read_text(encoding="utf-8")


def commands(guide):
    blocks = re.findall(r"```console\n(.*?)```", text_of(guide), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


@pytest.fixture
def run(tmp_path):
    """Runs a command of a guide, at the root of the repository; what it prints."""
    (tmp_path / "devroute").symlink_to(pathlib.Path(BINARY).absolute())
    return lambda command: ran(command, f"{manifests.PYTHON}:{tmp_path}:{os.environ['PATH']}")


def ran(command, path):
    done = manifests.ran(["bash", "-c", command], cwd=ROOT, env={"PATH": path})
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("guide", GUIDES)
def test_the_commands_do_what_needs_no_cluster(guide, run):
    missing = manifests.why_not()
    if missing:
        pytest.skip(missing)
    said = []
    for command in commands(guide):
        words = shlex.split(command)
        if words[:2] in (["kubectl", "apply"], ["kubectl", "delete"]) and "-k" in words:
            (folder,) = words[words.index("-k") + 1 :]
            said.append(run(f"kubectl kustomize {folder}"))
        elif words[:2] == ["kubectl", "kustomize"]:
            said.append(run(command))
        elif words[0] == "devroute":
            text = run(command.partition(" | kubectl apply ")[0])
            said.append(text if words[1] == "manifests" else "")
        else:
            assert ELSEWHERE.match(command), f"nobody runs {command}"
    assert len(said) > 4
    assert all(manifests.documents(it) for it in said if it)


@pytest.mark.parametrize("guide", GUIDES)
def test_what_a_guide_shows_of_a_file_is_in_it(guide):
    shown = re.findall(r"```yaml\n(.*?)```", text_of(guide), re.DOTALL)
    files = [it.read_text(encoding="utf-8") for it in DEPLOY.rglob("kustomization.yaml")]
    for it in shown:
        assert any(it in file for file in files), it


@pytest.mark.parametrize("guide", GUIDES)
def test_every_folder_and_file_that_is_named_is_there(guide):
    text = text_of(guide)
    root = DEPLOY / guide.removesuffix(".md")
    listed = re.findall(r"^\| `([\w/-]+)` \|", text, re.MULTILINE)
    assert set(listed) >= {it.name for it in root.iterdir() if it.is_dir()} - {"lua"}
    for name in re.findall(r"`(example/[\w/.-]+|e2e/[\w.*/-]+|deploy/[\w./-]+)`", text):
        base = root if name.startswith("example") else ROOT
        assert list(base.glob(name)), name


def test_a_command_that_fails_is_noticed(run):
    with pytest.raises(AssertionError):
        run("devroute manifests --service foo --port 8000")
