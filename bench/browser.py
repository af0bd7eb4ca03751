"""A real browser: frames drawn a second, their age, bytes a frame; how soon a click, a stroke
and a move of the timeline show; memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from app.share import from_hash
from engines import families
from tests.browser.conftest import FLAGS, Server, open_page
from tests.browser.find import find

SECONDS = 12.0


def click_to_frame(page: Page) -> float:
    """Seconds from the click on Play until a new frame is painted, measured in the page."""
    return page.evaluate(
        """() => new Promise(done => {
          const drawn = playground.drawn, begin = performance.now();
          document.getElementById('gp-play').click();
          const look = () => playground.drawn > drawn ? done((performance.now() - begin) / 1000)
                                                      : requestAnimationFrame(look);
          look();
        })"""
    )


def draw_to_frame(page: Page) -> list[float]:
    """Seconds from a touch of the brush to the first frame on the new data, several times.

    The frame that brings the new address was drawn after the data was taken up, so the data
    is there sooner than this.
    """
    page.get_by_role("button", name="Draw", exact=True).click()
    page.wait_for_selector(".gp-edit")
    page.wait_for_timeout(2000)
    box = page.locator(".gp-edit").first.bounding_box()
    found = []
    for i in range(8):
        page.mouse.move(box["x"] + 40 + 15 * i, box["y"] + 60)
        page.evaluate(
            """() => { const hash = location.hash, begin = performance.now(); window.took = null;
              const look = () => location.hash !== hash
                ? (window.took = (performance.now() - begin) / 1000) : setTimeout(look, 4);
              look(); }"""
        )
        page.mouse.down()
        page.wait_for_function("window.took !== null", timeout=20_000)
        page.mouse.up()
        found.append(page.evaluate("window.took"))
        page.wait_for_timeout(700)
    return found


def scrub_to_frame(page: Page) -> list[float]:
    """Milliseconds from a move of the timeline until the past frame is painted, 30 times."""
    return page.evaluate(
        """async () => {
          const view = document.querySelector('.gp-view').playgroundView, out = [];
          const input = document.querySelector('#gp-timeline input');
          for (let i = 0; i < 30; i++) {
            const at = Math.floor((view.tape.entries.length - 1) * ((0.618 * i) % 1));
            const begin = performance.now();
            const painted = new Promise(done => document.addEventListener(
              'playground:past', () => done(performance.now() - begin), {once: true}));
            input.value = at;
            input.dispatchEvent(new Event('input'));
            out.push(await painted);
            await new Promise(r => setTimeout(r, 60));
          }
          return out;
        }"""
    )


def heap(page: Page) -> float:
    client = page.context.new_cdp_session(page)
    client.send("HeapProfiler.collectGarbage")
    size = client.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    client.detach()
    return size


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(Path(folder) / "log.txt")
        print(f"the page answers after {server.answered_after:.1f} s")
        browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        print(
            "tab         click→frame s   drawn/s   age median ms   kB/frame"
            "   live steps/s ÷ bare steps/s"
        )
        for family in families():
            page = open_page(browser, server.url)
            page.get_by_role("tab", name=family, exact=True).click()
            page.wait_for_timeout(1500)
            sizes: list[int] = []
            client = page.context.new_cdp_session(page)
            client.send("Network.enable")
            client.on(
                "Network.dataReceived", lambda event, sizes=sizes: sizes.append(event["dataLength"])
            )
            first = click_to_frame(page)
            page.wait_for_timeout(2500)
            begin, got = time.perf_counter(), len(sizes)
            a, step = page.evaluate("[playground.drawn, playground.step]")
            page.wait_for_timeout(int(SECONDS * 1000))
            b, last = page.evaluate("[playground.drawn, playground.step]")
            wall = time.perf_counter() - begin
            ages = page.evaluate("playground.ages.slice(-150)")
            volume = sum(sizes[got:]) / max(1, b - a) / 1000
            print(
                f"{family:10s} {first:12.2f}  {(b - a) / wall:9.1f}  {statistics.median(ages):12.0f}"
                f"  {volume:11.1f}",
                end="",
                flush=True,
            )
            experiment = from_hash(page.evaluate("location.hash"))
            page.context.close()
            run = experiment.start("cpu").train(steps=20)
            run.train(seconds=SECONDS / 2)
            live, bare = (last - step) / wall, (run.step - 20) / (SECONDS / 2)
            print(f"   {live:9.0f} ÷ {bare:.0f} = {live / bare:.2f}", flush=True)
        for family in families():
            page = open_page(browser, server.url)
            page.get_by_role("tab", name=family, exact=True).click()
            page.wait_for_timeout(1500)
            page.get_by_role("button", name="Play", exact=True).click()
            page.wait_for_timeout(2500)
            took = draw_to_frame(page)
            print(
                f"{family}: brush → first frame on the new data, median "
                f"{statistics.median(took):.2f} s, slowest {max(took):.2f} s"
            )
            page.get_by_role("button", name="Pause", exact=True).click()
            page.wait_for_timeout(2000)
            took = scrub_to_frame(page)
            print(
                f"{family}: a move of the timeline → its frame, median "
                f"{statistics.median(took):.0f} ms, slowest {max(took):.0f} ms"
            )
            page.context.close()
        page = open_page(browser, server.url)
        page.get_by_role("button", name="Play", exact=True).click()
        sizes_at = {}
        for frames in (300, 3000):
            page.wait_for_function(f"playground.drawn >= {frames}", timeout=900_000)
            sizes_at[frames] = heap(page)
        print(
            f"browser heap: {sizes_at[300]:.1f} MB after 300 frames, {sizes_at[3000]:.1f} MB after "
            f"3,000: ratio {sizes_at[3000] / sizes_at[300]:.2f}"
        )
        browser.close()
        server.close()
