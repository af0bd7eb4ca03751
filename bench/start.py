"""From `python app.py` to an answering page, and from opening the page to its first picture."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import FLAGS, Server
from tests.browser.find import find

ROUNDS = 5


def first_picture(browser, url: str) -> float:
    """Seconds from asking for the address until a picture is painted, in a context of its own."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    begin = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_function(
        "window.playground && window.playground.drawn >= 1", timeout=60_000, polling=20
    )
    took = time.perf_counter() - begin
    page.context.close()
    return took


def main() -> None:
    answers, pictures, first = [], [], []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        for i in range(ROUNDS):
            server = Server(Path(folder) / f"log{i}.txt")
            answers.append(server.answered_after)
            first.append(first_picture(browser, server.url))
            pictures.append(first_picture(browser, server.url))
            server.close()
        browser.close()
    for what, found in (
        ("page answers after python app.py", answers),
        ("first picture, to the server's first visitor", first),
        ("first picture, to the second visitor", pictures),
    ):
        print(f"{what}: {statistics.median(found):.1f} s ({min(found):.1f} … {max(found):.1f})")
