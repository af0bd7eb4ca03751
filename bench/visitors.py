"""Many visitors at once: what they train together; and four browsers for two minutes, which get
frames all the time, with no error in any log."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from bench import room
from engines import families
from tests.browser.conftest import FLAGS, Server, open_page
from tests.browser.find import find

VISITORS, SECONDS, SLICE = 4, 120, 5


def main() -> None:
    room.throughput()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(Path(folder) / "log.txt")
        browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        pages = [open_page(browser, server.url) for _ in range(VISITORS)]
        tabs = list(families())
        for i, page in enumerate(pages):
            page.get_by_role("tab", name=tabs[i % len(tabs)], exact=True).click()
            page.wait_for_timeout(800)
            page.get_by_role("button", name="Play", exact=True).click()
        pages[0].wait_for_timeout(3000)
        counts = [[page.evaluate("playground.drawn") for page in pages]]
        for _ in range(SECONDS // SLICE):
            pages[0].wait_for_timeout(SLICE * 1000)
            counts.append([page.evaluate("playground.drawn") for page in pages])
        for i, page in enumerate(pages):
            per = [(b[i] - a[i]) / SLICE for a, b in itertools.pairwise(counts)]
            errors = page.faults + [e for e in [page.evaluate("playground.error")] if e]
            print(
                f"visitor {i + 1} ({tabs[i % len(tabs)]}): {sum(per) / len(per):.1f} frames/s, "
                f"slowest {SLICE} s {min(per):.1f}; errors: {errors or 'none'}"
            )
        log = server.log.read_text()
        print("server log:", "a Traceback!" if "Traceback" in log else "no error")
        browser.close()
        server.close()
