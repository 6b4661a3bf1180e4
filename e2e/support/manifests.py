"""The manifests of `deploy/`: built as a reader builds them, and held to what Kubernetes and Istio publish of themselves."""

import dataclasses
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
CHECKS = ROOT / "e2e" / "manifests"
TOOLS = ROOT / "target" / "e2e" / "manifests"
PYTHON = TOOLS / "python" / "bin"
NODE = TOOLS / "node"

#: Loading all schemas, or all of TypeScript's library, on a busy machine.
PATIENCE = 120


def why_not():
    """Why manifests cannot be validated here, or None."""
    for what in (PYTHON.parent, NODE):
        if not (what / "installed").exists():
            return f"{what.relative_to(ROOT)} is not installed: no manifest is validated"
    return None


def ran(command, **options):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE, check=False, **options
    )


def kustomize(folder):
    """What `kubectl kustomize` makes of a folder."""
    done = ran([PYTHON / "kubectl", "kustomize", folder])
    assert done.returncode == 0, done.stderr
    return done.stdout


def kustomizations():
    """Every folder of `deploy/` that builds by itself; components are part of those."""
    found = sorted(DEPLOY.rglob("kustomization.yaml"))
    return [it.parent for it in found if "kind: Component" not in it.read_text(encoding="utf-8")]


@dataclasses.dataclass
class Checked:
    """One manifest, read, and what is wrong with it."""

    document: dict
    problems: list[str]

    @property
    def name(self):
        return f"{self.document['kind']} {self.document['metadata']['name']}"


def read(text):
    """Reads manifests, and holds those that are Kubernetes' own to its schemas."""
    done = ran([PYTHON / "python", CHECKS / "schemas.py"], input=text)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return [Checked(*it) for it in zip(found["documents"], found["problems"], strict=True)]


def check(text):
    """Reads manifests, and holds each to the schema of its kind."""
    checked = read(text)
    istios = [it for it in checked if it.document["apiVersion"].partition("/")[0].endswith(".istio.io")]
    if istios:
        resources = json.dumps([it.document for it in istios])
        validated = ran(["node", CHECKS / "istio.mjs", NODE], input=resources)
        assert validated.returncode == 0, validated.stderr
        for it, problems in zip(istios, json.loads(validated.stdout), strict=True):
            it.problems += problems
    return checked


def documents(text):
    """Reads manifests."""
    return [it.document for it in read(text)]


def policy(files):
    """What checkov finds in `files`: (check, name of the file) for each that failed."""
    # It asks for its newest rules where nothing says that it must not.
    env = {"PATH": os.environ["PATH"], "LOG_LEVEL": "ERROR", "HOME": str(TOOLS)}
    command = [PYTHON / "checkov", "--config-file", CHECKS / "checkov.yaml", "--output", "json", "--soft-fail"]
    done = ran([*command, *(part for file in files for part in ("--file", file))], env=env)
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout)
    reports = reports if isinstance(reports, list) else [reports]
    failed = set()
    for report in reports:
        assert report["summary"]["parsing_errors"] == 0, report
        for it in report["results"]["failed_checks"]:
            failed.add((it["check_id"], pathlib.Path(it["file_path"]).name))
    return failed
