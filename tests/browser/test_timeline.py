"""Rewinding, branching, and what a visitor takes away: the page, the film, the lines of Python."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Frame, Page

from engines import Experiment
from tests.browser.conftest import Server, faultless, open_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

VIEW = "document.querySelector('.gp-view').playgroundView"
PIXELS = """() => [...document.querySelectorAll('.gp-panel')].filter(p => p.querySelector('canvas'))
    .map(p => [p.querySelector('figcaption b').textContent, p.querySelector('canvas')])
    .filter(([, c]) => c.width).map(([title, canvas]) => {
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      let sum = 0;
      for (let i = 0; i < data.length; i++) sum = (sum * 31 + data[i]) | 0;
      return [title, canvas.width, canvas.height, sum];
    })"""


def play(browser: Browser, url: str) -> Page:
    page = open_page(browser, url, 1280, 900)
    page.click("#gp-play")
    page.wait_for_function(f"{VIEW}.tape.entries.length > 40", timeout=60_000)
    pause(page)
    return page


def pause(page: Page) -> None:
    page.click("#gp-pause")
    page.wait_for_function("!document.body.classList.contains('gp-playing')")
    page.wait_for_timeout(1500)


@pytest.fixture
def played(server: Server, browser: Browser) -> Iterator[Page]:
    """A page that has trained for some seconds and is paused."""
    page = play(browser, server.url)
    try:
        yield page
        faultless(page)
    finally:
        page.context.close()


@pytest.fixture
def replayed(request, shared, server: Server, browser: Browser) -> Iterator[Page]:
    """The same, for tests that look at the past and leave the run as it is: paused, and in the
    present. Some of them have looked at it before."""
    with shared.lend(request, lambda: play(browser, server.url)) as page:
        if page.evaluate("document.body.classList.contains('gp-rewound')"):
            page.click(".gp-live")
            page.wait_for_function("!document.body.classList.contains('gp-rewound')")
        if page.evaluate("document.body.classList.contains('gp-playing')"):
            pause(page)
        yield page


def wind(page: Page, index: int) -> int:
    """Drag the timeline to an entry; returns its step."""
    page.locator("#gp-timeline input").evaluate(
        "(e, i) => { e.value = i; e.dispatchEvent(new Event('input')); }", index
    )
    step = page.evaluate(f"{VIEW}.tape.entries[{index}].step")
    page.wait_for_function(f"playground.step == {step}")
    page.wait_for_timeout(1200)  # charts are renewed more seldom
    return step


def test_the_past_shows_other_pictures_numbers_and_curves_and_the_present_comes_back(replayed):
    now = replayed.evaluate(PIXELS)
    numbers = replayed.inner_text(".gp-metrics")
    step = wind(replayed, 3)
    assert replayed.inner_text(".gp-where").startswith(f"step {step:,}")
    past = replayed.evaluate(PIXELS)
    assert past[0] != now[0]
    assert replayed.inner_text(".gp-metrics") != numbers
    replayed.keyboard.press("Escape")
    replayed.wait_for_timeout(1200)
    assert replayed.evaluate(PIXELS) == now
    assert replayed.inner_text(".gp-metrics") == numbers


def test_on_a_phone_the_way_back_is_within_reach(played):
    played.set_viewport_size({"width": 390, "height": 844})
    played.wait_for_timeout(500)
    wind(played, 3)
    for name in (".gp-where", ".gp-branch", ".gp-live"):
        box = played.locator(name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, name
        assert box["y"] + box["height"] <= 844, name
    assert played.evaluate("document.documentElement.scrollWidth") <= 390
    played.click(".gp-live")
    played.wait_for_function("!document.body.classList.contains('gp-rewound')")


def test_rewinding_while_it_trains_leaves_training_alone(replayed):
    wind(replayed, 2)
    replayed.keyboard.press(" ")
    replayed.wait_for_function("document.body.classList.contains('gp-playing')")
    step = replayed.evaluate("playground.step")
    last = f"{VIEW}.tape.entries.at(-1).step"
    before = replayed.evaluate(last)
    replayed.wait_for_function(f"{last} > {before} + 30")
    assert replayed.evaluate("playground.step") == step
    replayed.click(".gp-live")
    replayed.wait_for_function(f"playground.step > {before}")


def test_scrubbing_shows_the_right_frame_and_asks_the_server_for_nothing(replayed):
    """How soon it shows is measured in bench/browser.py."""
    wind(replayed, 1)  # what was under way has arrived
    asked: list[str] = []
    replayed.on("request", lambda request: asked.append(request.url))
    seen = replayed.evaluate(
        f"""async () => {{
          const view = {VIEW}, input = document.querySelector('#gp-timeline input'), out = [];
          for (let i = 0; i < 30; i++) {{
            const at = Math.floor((view.tape.entries.length - 1) * ((0.618 * i) % 1));
            input.value = at;
            input.dispatchEvent(new Event('input'));
            await new Promise(done => document.addEventListener('playground:past', done, {{once: true}}));
            out.push([view.tape.entries[at].step, playground.step]);
          }}
          return out;
        }}"""
    )
    assert len({wanted for wanted, _ in seen}) > 10
    assert all(shown == wanted for wanted, shown in seen), seen
    assert asked == []


def test_a_branch_goes_on_from_the_moment_that_is_shown(played):
    last = played.evaluate("playground.step")
    wind(played, 20)
    kept = played.evaluate(f"{VIEW}.timeline.keptNear({VIEW}.past.step)")
    assert f"{kept:,}" in played.inner_text(".gp-branch")
    played.click(".gp-branch")
    played.wait_for_function(f"playground.step == {kept}")
    assert kept < last
    assert played.locator(".gp-marks i").count() == 1
    assert "Branched" in played.inner_text("#gp-note")
    played.keyboard.press("ArrowRight")
    played.wait_for_function(f"playground.step == {kept + 1}")


def test_the_run_before_can_be_looked_at_and_undo_brings_it_back(played):
    last = played.evaluate("playground.step")
    steps = played.evaluate(f"{VIEW}.tape.entries.map(e => e.step)")
    pictures = played.evaluate(PIXELS)
    assert not played.locator(".gp-before").is_visible()
    played.keyboard.press("r")
    played.wait_for_function("playground.step == 0")
    played.click(".gp-before")
    played.wait_for_function(f"playground.step == {last}")
    assert played.inner_text(".gp-where").startswith(f"previous run · step {last:,}")
    assert not played.locator(".gp-branch").is_visible(), "it is for looking only"
    played.wait_for_timeout(1200)
    assert played.evaluate(PIXELS)[0] == pictures[0]
    kept = played.evaluate(f"{VIEW}.timeline.tape.entries.map(e => e.step)")
    assert 20 < len(kept) <= 80 and set(kept) <= set(steps)
    played.keyboard.press("Escape")
    played.wait_for_function("playground.step == 0")
    played.keyboard.press("Control+z")
    played.wait_for_function(f"playground.step == {last}")
    assert played.evaluate(f"{VIEW}.tape.entries.map(e => e.step)") == kept
    seconds = played.evaluate(f"{VIEW}.tape.entries.map(e => e.seconds)")
    assert seconds == sorted(seconds)
    assert wind(played, 3) == kept[3]


def test_the_tape_stays_small_however_long_the_run(replayed):
    sizes = replayed.evaluate(
        f"""() => {{
          const view = {VIEW}, frame = view.tape.entries[0].frame;
          const size = seconds => {{
            const tape = PlaygroundTape();
            for (let i = 0; i * .25 <= seconds; i++) {{
              tape.add({{...frame, step: i, seconds: i * .25}}, view.blocks);
            }}
            const at = tape.entries.map(e => e.seconds);
            return [tape.entries.length, at.filter(s => s <= 10).length, at.at(-1),
                    at.filter(s => s > 10 && s < 60).length];
          }};
          return [size(600), size(3600)];
        }}"""
    )
    (n10, dense10, last10, early10), (n60, dense60, last60, early60) = sizes
    assert n10 == n60 <= 320
    assert dense10 == dense60 == 41 and (last10, last60) == (600, 3600)
    assert early10 > early60 > 60


def test_the_exported_page_opens_offline_and_its_pixels_are_the_live_ones(
    replayed, browser, tmp_path
):
    with replayed.expect_download(timeout=60_000) as found:
        replayed.click("#gp-share")
        replayed.click('[data-name="Export as a web page"]')
    path = Path(tmp_path / "run.html")
    found.value.save_as(path)
    assert path.stat().st_size < 20e6
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    asked, faults = [], []
    page.on("request", lambda r: asked.append(r.url) if not r.url.startswith("data:") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_function("window.view && playground.ready")
    width = replayed.evaluate(f"{VIEW}.root.clientWidth")
    page.evaluate(f"document.getElementById('view').style.width = '{width}px'")
    for index in (2, 15, 30):
        step = wind(replayed, index)
        there = page.evaluate(f"view.tape.entries.findIndex(e => e.step === {step})")
        page.evaluate(f"timeline.wind({there})")
        page.wait_for_function(f"playground.step == {step}")
        page.wait_for_timeout(800)
        live, own = replayed.evaluate(PIXELS), page.evaluate(PIXELS)
        assert live == own
        assert len(live) >= 5
    slider = page.locator(".gp-slider input").first
    before = page.evaluate(PIXELS)
    slider.evaluate(
        "e => { e.value = (+e.min + +e.max) / 3; e.dispatchEvent(new Event('input')); }"
    )
    page.wait_for_timeout(300)
    assert page.evaluate(PIXELS) != before
    page.evaluate("timeline.wind(0)")
    page.keyboard.press(" ")
    page.wait_for_function("timeline.index() > 3")
    assert asked == [path.as_uri()]
    assert faults == []
    context.close()


def test_a_film_is_a_film(replayed, tmp_path):
    with replayed.expect_download(timeout=180_000) as found:
        replayed.click("#gp-share")
        replayed.click('[data-name="Record a film"]')
    path = Path(tmp_path / "run.webm")
    found.value.save_as(path)
    assert path.read_bytes()[:4] == bytes.fromhex("1a45dfa3")  # EBML
    replayed.evaluate(
        """async base64 => {
          const video = document.createElement('video');
          video.src = 'data:video/webm;base64,' + base64;
          video.muted = true;
          await video.play();
          await new Promise(r => setTimeout(r, 1200));
          window.filmed = [video.videoWidth, video.currentTime];
        }""",
        __import__("base64").b64encode(path.read_bytes()).decode(),
    )
    width, time = replayed.evaluate("window.filmed")
    assert width > 300 and time > 0.5


def test_python_a_file_and_back(played, tmp_path):
    address = played.evaluate("location.hash")
    played.click("#gp-share")
    played.click('[data-name="Copy as Python"]')
    code = played.locator(".gp-dialog textarea").input_value()
    assert code.startswith("from engines import Experiment")
    played.keyboard.press("Escape")
    with played.expect_download() as found:
        played.click("#gp-share")
        played.click('[data-name="Save experiment"]')
    path = Path(tmp_path / "experiment.json")
    found.value.save_as(path)
    saved = Experiment.from_json(path.read_text())
    assert repr(dict(saved.knobs)) in code
    played.keyboard.press("n")
    played.wait_for_function(f"location.hash != {json.dumps(address)}")
    played.set_input_files(".gp-share input[type=file]", path)
    played.wait_for_function(f"location.hash == {json.dumps(address)}")
    hostile = Path(tmp_path / "hostile.json")
    hostile.write_text('{"version": 1, "dataset": "<b>", "engine": "flow"}')
    played.set_input_files(".gp-share input[type=file]", hostile)
    played.wait_for_function("document.querySelector('#gp-note').innerText.includes('<b>')")
    assert played.evaluate("location.hash") == address


def test_the_link_is_copied(server, browser):
    page = open_page(browser, server.url)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#gp-share")
    page.click('[data-name="Copy link"]')
    page.wait_for_selector(".gp-toast.shown")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    assert "#e=" in page.url
    page.context.close()


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        """Nothing: what is asked for is no news."""


@pytest.fixture
def framed(server, browser, tmp_path) -> Iterator[tuple[Page, Frame]]:
    """The page within a frame of a page of another origin, as a Space shows it."""
    body = (
        "<!doctype html><title>a Space</title>"
        f'<iframe src="{server.url}?__theme=dark" style="width: 100%; height: 780px"></iframe>'
    )
    (tmp_path / "index.html").write_text(body)
    handler = functools.partial(Silent, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as parent:
        threading.Thread(target=parent.serve_forever, daemon=True).start()
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{parent.server_port}/", wait_until="domcontentloaded")
        frame = page.frame_locator("iframe").owner.element_handle().content_frame()
        frame.wait_for_function("window.playground && window.playground.ready", timeout=60_000)
        assert frame.evaluate("() => { try { parent.document; return 1 } catch { return 0 } }") == 0
        yield page, frame
        context.close()
        parent.shutdown()


def test_from_within_a_frame_the_link_is_the_apps_own(framed, server, browser):
    page, frame = framed
    frame.evaluate(
        "document.addEventListener('copy', () => { window.copied = String(getSelection())"
        " || document.activeElement.value; })"
    )
    frame.get_by_role("tab", name="Mixture", exact=True).click()
    frame.wait_for_function("document.querySelector('.gp-head h2').textContent.includes('mixture')")
    before = frame.evaluate("location.hash")
    frame.click("[data-preset=mixture-too-few]")
    frame.wait_for_function("hash => location.hash !== hash", arg=before)
    frame.click("#gp-share")
    frame.click('[data-name="Copy link"]')
    frame.wait_for_selector(".gp-toast.shown, .gp-dialog[open]")
    link = frame.evaluate(
        "document.querySelector('.gp-dialog[open] textarea')?.value || window.copied"
    )
    assert link == server.url + frame.evaluate("location.hash")
    assert "#" not in page.url, "nothing of it is in the parent's address"
    other = open_page(browser, link)
    try:
        assert other.inner_text(".gp-banner b") == frame.inner_text(".gp-banner b")
        assert other.evaluate("location.hash") == frame.evaluate("location.hash")
    finally:
        other.context.close()


def test_a_frame_without_a_clipboard_shows_the_link_selected(framed, server):
    _, frame = framed
    frame.evaluate(  # as a strict browser answers
        """() => {
          document.execCommand = () => false;
          navigator.clipboard.writeText = () => Promise.reject(new Error('no'));
        }"""
    )
    frame.click("#gp-share")
    frame.click('[data-name="Copy link"]')
    box = frame.locator(".gp-dialog[open] textarea")
    assert box.input_value() == server.url + frame.evaluate("location.hash")
    marked = box.evaluate(
        "e => document.activeElement === e && e.value.slice(e.selectionStart, e.selectionEnd)"
    )
    assert marked == box.input_value()


def test_a_double_click_fills_the_screen_and_escape_leaves_it(replayed):
    plot = replayed.locator(".gp-panel .gp-plot").first
    plot.dblclick()
    replayed.wait_for_selector(".gp-view.gp-filled")
    replayed.wait_for_timeout(300)
    box = plot.bounding_box()
    assert box["height"] > 700 and box["width"] > 1100
    sharp = """e => { const c = e.querySelector('canvas'), r = e.getBoundingClientRect();
        return Math.abs(c.width - r.width) < 2 && Math.abs(c.height - r.height) < 2; }"""
    replayed.wait_for_function(f"e => ({sharp})(e)", arg=plot.element_handle())
    drawn = replayed.evaluate("playground.drawn")
    replayed.keyboard.press(" ")  # it trains, and shows it
    replayed.wait_for_function(f"playground.drawn > {drawn} + 5")
    replayed.keyboard.press(" ")
    replayed.wait_for_function("!document.body.classList.contains('gp-playing')")
    replayed.keyboard.press("Escape")
    replayed.wait_for_selector(".gp-view:not(.gp-filled)")
    replayed.wait_for_timeout(300)
    assert plot.bounding_box()["height"] < 500


def test_lecture_mode_folds_the_controls(replayed):
    replayed.keyboard.press("l")
    assert not replayed.locator("#gp-left").is_visible()
    assert not replayed.locator("#gp-knob-card").is_visible()
    assert replayed.locator(".gp-metrics").is_visible()
    replayed.keyboard.press("l")
    assert replayed.locator("#gp-left").is_visible()
