"""The inspector's page in a real browser; what it does there is in browser/inspector.mjs."""

import http.client
import json
import os
import pathlib
import shutil
import subprocess
import urllib.parse

import pytest

from support.process import PATIENCE, Process, until
from support.tunnel import Hub, Laptop
from support.wire import answering

EXAMPLE = os.environ.get("DEVROUTE_INSPECTED", "target/debug/examples/inspected")
MODULES = pathlib.Path("target/e2e/services/browser").resolve()
DRIVER = pathlib.Path(__file__).parent / "browser" / "inspector.mjs"


@pytest.fixture
def drive():
    """Runs the story against a page and its application; pictures go where E2E_PICTURES says."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    missing = [
        name
        for name, there in [
            ("chromium", chromium),
            ("node", shutil.which("node")),
            ("playwright-core", (MODULES / "node_modules/playwright-core").is_dir()),
            ("axe-core", (MODULES / "node_modules/axe-core").is_dir()),
        ]
        if not there
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: the inspector's page is not tested")

    def drive(page, application, scheme):
        pictures = [os.environ["E2E_PICTURES"]] if "E2E_PICTURES" in os.environ else []
        command = ["node", DRIVER, MODULES, page, application, scheme, *pictures]
        environment = {"PATH": os.environ["PATH"], "HOME": "/tmp", "CHROMIUM": chromium}
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=150, check=False, env=environment
        )
        assert ran.returncode == 0, ran.stderr + ran.stdout

    return drive


@pytest.fixture
def inspected(started):
    """The example; where its page and its application are."""
    process = Process([EXAMPLE], read="stdout")
    started.append(process)
    page = process.lines.wait(lambda line: line.startswith("inspector "), "with the page")
    application = process.lines.wait(lambda line: line.startswith("shop "), "with the application")
    return page.split()[1], application.split()[1]


# axe-core looks at everything three times, which takes long where many tests run at once.
@pytest.mark.timeout(180)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page(drive, inspected, scheme):
    drive(*inspected, scheme)


@pytest.fixture
def connected(started):
    """`devroute connect` with an inspector; the hub, where its page is, and where the hub offers the application."""

    def connected(port):
        hub = Hub("--insecure-no-auth")
        started.append(hub)
        laptop = Laptop(hub, None, f"foo={port}", "--inspect")
        started.append(laptop)
        line = laptop.lines.wait(lambda it: '"event":"inspector"' in it, "with the page")
        return hub, json.loads(line)["url"], laptop.at("foo")

    return connected


@pytest.mark.timeout(180)
def test_the_page_of_connect(drive, inspected, connected):
    """The requests come by the hub, and the replay goes to the application."""
    _, application = inspected
    _, page, offered = connected(urllib.parse.urlsplit(application).port)
    drive(page, f"http://{offered}", "light")


class Page:
    """Asks what the page asks."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.address = parts.netloc
        origin = f"http://{parts.netloc}"
        self.fields = {"x-devroute-token": parts.fragment, "origin": origin}

    def open(self, method, path):
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        connection.request(method, path, headers=self.fields)
        return connection.getresponse()

    def ask(self, method, path):
        with self.open(method, path) as response:
            return response.status, json.loads(response.read())


def test_a_request_runs_again_without_the_cluster(serve, connected):
    application = serve(answering("laptop"))
    hub, url, offered = connected(application.port)
    page = Page(url)
    with page.open("GET", "/api/events") as events:
        assert events.readline() == b"event: all\n"
        caller = http.client.HTTPConnection(offered, timeout=PATIENCE)
        fields = {"authorization": "Bearer hunter2", "via": "1.1 devroute (bar)"}
        caller.request("POST", "/pay?x=1", body=b"7 euro", headers=fields)
        assert caller.getresponse().read() == b"laptop POST /pay?x=1 7 euro"
        caller.close()
        whole = until(lambda: ended(page, 1), "the exchange")
        assert whole["request"]["body"]["text"] == "7 euro"
        assert whole["summary"]["caller"] == "bar"
        assert "hunter2" not in json.dumps(whole)

        hub.child.kill()
        hub.wait()
        status, answer = page.ask("POST", "/api/exchanges/1/replay")
        assert (status, answer) == (202, {"id": 2})
        whole = until(lambda: ended(page, 2), "the replay")
        assert (whole["summary"]["status"], whole["summary"]["caller"]) == (200, None)
        assert whole["response"]["body"]["text"] == "laptop POST /pay?x=1 7 euro"


def ended(page, number):
    status, whole = page.ask("GET", f"/api/exchanges/{number}")
    return whole if status == 200 and whole["summary"]["end_ms"] is not None else None
