"""The inspector's page in a real browser; what it does there is in browser/inspector.mjs."""

import os
import pathlib
import shutil
import subprocess

import pytest

from support.process import Process

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
