"""Services that know nothing of devroute, run on real tracing SDKs."""

import dataclasses
import pathlib
import re
import shutil

import pytest

from .process import Process

SOURCES = pathlib.Path(__file__).parent.parent / "services"
INSTALLED = pathlib.Path(__file__).parent.parent.parent / "target" / "e2e" / "services"

FLASK = "flask"
FASTAPI = "fastapi"
EXPRESS = "express"
GO = "go"
DATADOG_FLASK = "datadog-flask"
DATADOG_EXPRESS = "datadog-express"

#: Python: Flask with requests and FastAPI with httpx, by `opentelemetry-instrument`. Node: express with
#: fetch, by `auto-instrumentations-node`. All have the SDK's own defaults, and not a line for it.
AUTOMATIC = [FLASK, FASTAPI, EXPRESS]
#: The same by Datadog's own libraries, which write W3C Baggage by default.
DATADOG = [DATADOG_FLASK, DATADOG_EXPRESS]
#: Go's has its propagators called by hand, in the version that Debian has.
ALL = [*AUTOMATIC, GO, *DATADOG]

#: Without an SDK; they hand on the fields that they are told to.
FORWARDING_FLASK = "forwarding-flask"
FORWARDING_EXPRESS = "forwarding-express"

#: How many layers of percent encoding are added to a member that has one; by the others none.
ADDED_LAYERS = {GO: 1}

PYTHON = {
    "PATH": str(INSTALLED / "python" / "bin"),
    "PYTHONDONTWRITEBYTECODE": "1",
}
NODE = {"NODE_PATH": str(INSTALLED / "node" / "node_modules")}

#: Spans are made and propagated, but not sampled, so that nothing is ever exported.
OPENTELEMETRY = {
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_TRACES_SAMPLER": "always_off",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    # The others ask the metadata services of clouds.
    "OTEL_NODE_RESOURCE_DETECTORS": "env",
}
#: There is no agent, and nothing else is asked.
WITHOUT_AGENT = {
    "DD_TRACE_AGENT_URL": "unix:///nonexistent/agent",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_CRASHTRACKING_ENABLED": "false",
    "DD_TRACE_STARTUP_LOGS": "false",
}

RUN_FLASK = ["flask", "--app", "flask_app", "run", "--port", "0"]
RUN_FASTAPI = ["uvicorn", "fastapi_app:app", "--port", "0"]
RUN_FORWARDING = ["flask", "--app", "forwarding_app", "run", "--port", "0"]
REGISTER = "@opentelemetry/auto-instrumentations-node/register"


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a service is started: by whose installation, with which command, and what is set."""

    language: str
    command: list[str]
    settings: dict[str, str]
    #: What it needs to be found.
    environment: dict[str, str]


KINDS = {
    FLASK: Kind("python", ["opentelemetry-instrument", *RUN_FLASK], OPENTELEMETRY, PYTHON),
    FASTAPI: Kind("python", ["opentelemetry-instrument", *RUN_FASTAPI], OPENTELEMETRY, PYTHON),
    EXPRESS: Kind("node", ["node", "--require", REGISTER, "app.js"], OPENTELEMETRY, NODE),
    GO: Kind("go", [str(INSTALLED / "go" / "service")], {}, {}),
    DATADOG_FLASK: Kind("python", ["ddtrace-run", *RUN_FLASK], WITHOUT_AGENT, PYTHON),
    FORWARDING_FLASK: Kind("python", RUN_FORWARDING, {}, PYTHON),
    FORWARDING_EXPRESS: Kind("node", ["node", "forwarding.js"], {}, NODE),
    DATADOG_EXPRESS: Kind(
        "node", ["node", "--require", "dd-trace/init", "app.js"], WITHOUT_AGENT, NODE
    ),
}


class Service(Process):
    """A service of a kind, which asks whom its query says; `settings` are what a deployment sets."""

    def __init__(self, kind, settings):
        how = KINDS[kind]
        if not (INSTALLED / how.language / "installed").exists():
            pytest.skip(f"the {how.language} services are not installed: {kind} is not tested")
        # The commands of an environment are found by its path, and not by ours.
        program = shutil.which(how.command[0], path=how.environment.get("PATH"))
        super().__init__(
            [program, *how.command[1:]],
            # Where each says that it listens.
            read="stderr" if how.language == "python" else "stdout",
            env={**how.environment, **settings},
            cwd=SOURCES / how.language,
        )
        self.kind = kind
        line = self.lines.wait(lambda it: "http://127.0.0.1:" in it, "that says where it listens")
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])

    def stop(self):
        # Node's SDK stays after a SIGTERM; none of them has anything to finish.
        self.child.kill()
        super().stop()
