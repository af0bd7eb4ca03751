"""A server of our own and a real browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.find import find
from tests.browser.stage import Stage

ROOT = Path(__file__).parent.parent.parent
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip


class Server:
    """`python app.py` on a free port, with its log."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}/", log
        environment = {
            **os.environ, "GRADIO_SERVER_PORT": str(self.port), "GRADIO_ANALYTICS_ENABLED": "False",
        }  # fmt: skip
        self.environment = environment
        self.start()

    def start(self) -> None:
        begin = time.monotonic()
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "app.py"], cwd=ROOT, env=self.environment, stdout=out, stderr=out
            )
        while True:
            try:
                urllib.request.urlopen(self.url + "config", timeout=1)
                break
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() - begin < 90, "the page does not answer"
                time.sleep(0.1)
        self.answered_after = time.monotonic() - begin

    def restart(self) -> None:
        self.close()
        self.start()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(15)


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server") / "log.txt")
    yield running
    running.close()
    text = running.log.read_text()
    assert "Traceback" not in text, text[-4000:]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        yield running
        running.close()


def open_page(browser: Browser, url: str, width: int = 1280, height: int = 800) -> Page:
    """A page in a context of its own (another visitor), once it shows its first frame."""
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_function("window.playground && window.playground.ready", timeout=60_000)
    return page


@pytest.fixture
def page(server: Server, browser: Browser) -> Iterator[Page]:
    opened = open_page(browser, server.url)
    yield opened
    faults, error = opened.faults, opened.evaluate("window.playground.error")
    opened.context.close()
    assert faults == []
    assert error is None


@pytest.fixture
def stage(browser: Browser) -> Iterator[Stage]:
    page = browser.new_context(viewport={"width": 1000, "height": 800}).new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield Stage(page)
    page.context.close()
    assert faults == []
