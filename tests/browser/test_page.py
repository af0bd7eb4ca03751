"""The page in a real browser, as a visitor meets it."""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app import home
from app.presets import Preset, for_family
from app.share import from_hash, to_hash
from engines import DATASETS, Experiment, families
from tests.browser.conftest import Server, Shared, open_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PIXELS = """() => {
  let hash = 0, ink = 0;
  for (const c of document.querySelectorAll('.gp-view canvas')) {
    if (!c.width || !c.height || !c.offsetParent) continue;
    if (c.closest('.js-plotly-plot')) continue;  // a landscape's, drawn by WebGL
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    for (let i = 0; i < d.length; i += 41) { hash = (hash * 31 + d[i]) | 0; ink += d[i] > 0; }
  }
  return [hash, ink];
}"""


def button(page: Page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def tab(page: Page, name: str):
    return page.get_by_role("tab", name=name, exact=True)


def step(page: Page) -> int:
    return page.evaluate("window.playground.step")


def wait_step(page: Page, condition: str) -> None:
    page.wait_for_function(f"(s => {condition})(window.playground.step)", timeout=60_000)


def address(page: Page) -> Experiment:
    return from_hash(page.evaluate("location.hash"))


def settled(page: Page) -> None:
    """Wait until the page has been pausing for a moment."""
    expect(button(page, "Play")).to_be_visible(timeout=15_000)
    last = -1
    for _ in range(40):
        page.wait_for_timeout(250)
        now = page.evaluate("window.playground.drawn")
        if now == last:
            return
        last = now
    raise AssertionError("the page goes on moving while it is paused")


def test_the_page_shows_data_and_an_untrained_model_before_anything_is_pressed(page):
    assert step(page) == 0
    _, ink = page.evaluate(PIXELS)
    assert ink > 500
    for name in families():
        expect(tab(page, name)).to_be_visible()
    for name in DATASETS:
        expect(page.get_by_role("radio", name=name, exact=True)).to_have_count(1)


def test_play_moves_pixels_and_the_loss_grows_and_pause_freezes(page):
    before = page.evaluate(PIXELS)
    button(page, "Play").click()
    wait_step(page, "s > 20")
    expect(page.locator(".gp-machine")).to_contain_text("splines")  # compiled, or why not
    first = page.evaluate(PIXELS)
    assert first[0] != before[0]
    line = ".gp-view .scatterlayer path.js-line"
    page.wait_for_selector(line, state="attached", timeout=20_000)
    path = page.locator(line).first.get_attribute("d")
    page.wait_for_function(
        "([line, d]) => document.querySelector(line).getAttribute('d').length > d.length + 20",
        arg=[line, path],
        timeout=20_000,
    )
    for _ in range(40):  # however slow the machine: the picture goes on
        later = page.evaluate(PIXELS)
        if later[0] != first[0]:
            break
        page.wait_for_timeout(250)
    assert later[0] != first[0] and later[1] > 500
    button(page, "Pause").click()
    settled(page)
    frozen, pixels = step(page), page.evaluate(PIXELS)
    page.wait_for_timeout(600)
    assert step(page) == frozen and page.evaluate(PIXELS) == pixels


def test_step_adds_exactly_one_ten_or_a_hundred(page):
    for name, more in (("Step", 1), ("+10", 10), ("+100", 100), ("Step", 1)):
        before = step(page)
        button(page, name).click()
        wait_step(page, f"s === {before + more}")
        settled(page)
        assert step(page) == before + more
    button(page, "Reset").click()
    wait_step(page, "s === 0")


def test_the_keyboard_plays_steps_and_resets(page):
    page.locator("body").press(" ")
    wait_step(page, "s > 5")
    page.locator("body").press(" ")
    settled(page)
    before = step(page)
    page.locator("body").press("ArrowRight")
    wait_step(page, f"s === {before + 1}")
    settled(page)
    page.locator("body").press("r")
    wait_step(page, "s === 0")


def test_zoom_survives_streaming(page):
    graph = "[...document.querySelectorAll('.gp-view .js-plotly-plot')].find(g => g._fullLayout.xaxis && g.offsetParent)"
    page.evaluate(f"Plotly.relayout({graph}, {{'xaxis.range': [0, 2], 'yaxis.range': [0, 2]}})")
    button(page, "Play").click()
    wait_step(page, "s > 30")
    low, high = page.evaluate(f"{graph}._fullLayout.xaxis.range")
    assert -1.5 < low < 0.6 and 1.4 < high < 3.6
    button(page, "Pause").click()


def test_a_live_knob_arrives_while_it_runs(page):
    button(page, "Play").click()
    wait_step(page, "s > 5")
    slider = page.get_by_role("slider", name=re.compile("learning rate", re.I)).first
    before, here = address(page).knobs["lr"], page.evaluate("location.hash")
    at = step(page)
    slider.focus()
    for _ in range(5):
        slider.press("PageUp")
    page.wait_for_function("h => location.hash !== h", arg=here, timeout=10_000)
    wait_step(page, f"s > {at}")
    page.wait_for_timeout(600)
    assert address(page).knobs["lr"] > before
    assert step(page) > at, "a live knob does not restart the run"
    button(page, "Pause").click()


def test_what_a_knob_leaves_without_meaning_is_hidden_and_the_equation_follows(server, browser):
    start = Experiment("ring8", "gan", knobs={"loss": "hinge", "r1": 0.0, "r2": 0.0})
    page = open_page(browser, f"{server.url}#{to_hash(start)}")
    try:
        fade, equation = page.locator("[data-knob=fade]"), page.locator(".gp-equation")
        expect(page.locator("[data-knob=r2]")).to_be_visible(timeout=15_000)
        expect(equation).to_contain_text("max(0, 1 − f(x))")
        expect(fade).to_be_hidden()
        box = page.locator("[data-knob=r2] input.value")
        box.fill("0.5")
        box.press("Enter")
        expect(fade).to_be_visible()
        expect(equation).to_contain_text("|∇f|")
        page.locator("[data-knob=loss] label", has_text="Wasserstein").click()
        expect(page.locator("[data-knob=clip]")).to_be_visible()
        expect(equation).not_to_contain_text("max(0, 1 − f(x))")
        assert page.faults == []
    finally:
        page.context.close()


def test_a_restarting_knob_restarts_and_undo_brings_the_run_back(page):
    button(page, "+10").click()
    wait_step(page, "s === 10")
    settled(page)
    box = page.locator("[data-knob=bins] input.value")
    box.fill("8")
    box.press("Enter")
    wait_step(page, "s === 0")
    assert address(page).knobs["bins"] == 8
    button(page, "Undo").click()
    wait_step(page, "s === 10")
    expect(box).to_have_value("20")


def test_the_address_opens_the_same_experiment_on_another_machine(page, server, browser):
    tab(page, "Mixture").click()
    page.wait_for_function("document.querySelector('[data-knob=n_components]') !== null")
    page.get_by_role("radio", name="moons", exact=True).check()
    box = page.locator("[data-knob=n_components] input.value")
    box.fill("5")
    box.press("Enter")
    page.wait_for_timeout(1500)
    here = address(page)
    assert (here.dataset, here.engine, here.knobs["n_components"]) == ("moons", "mixture", 5)
    other = open_page(browser, page.url)
    try:
        expect(tab(other, "Mixture")).to_have_attribute("aria-selected", "true")
        expect(other.get_by_role("radio", name="moons", exact=True)).to_be_checked()
        expect(other.locator("[data-knob=n_components] input.value")).to_have_value("5")
        assert address(other) == here
    finally:
        other.context.close()


def test_another_tab_keeps_data_and_seed_and_parks_the_run(page):
    page.get_by_role("radio", name="pinwheel", exact=True).check()
    button(page, "New seed").click()
    button(page, "+10").click()
    wait_step(page, "s === 10")
    tab(page, "GAN").click()
    wait_step(page, "s === 0")
    page.wait_for_timeout(500)
    here = address(page)
    assert (here.dataset, here.engine, here.seed) == ("pinwheel", "gan", 1)
    tab(page, "Flow").click()
    wait_step(page, "s === 10")


@pytest.fixture
def toured(request, shared, server, browser) -> Iterator[Page]:
    """A page on which other tabs have been played already, as a visitor's are."""
    with shared.lend(request, lambda: open_page(browser, server.url)) as page:
        yield page


@pytest.mark.parametrize("name", list(families()))
def test_every_tab_plays(toured, name):
    page = toured
    tab(page, name).click()
    expect(tab(page, name)).to_have_attribute("aria-selected", "true")
    wait_step(page, "s === 0")  # another tab's run went further
    page.wait_for_timeout(400)
    before = page.evaluate(PIXELS)
    button(page, "Play").click()
    wait_step(page, "s > 10")
    # not every frame brings every picture
    end = time.monotonic() + 10
    while page.evaluate(PIXELS)[0] == before[0] and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert page.evaluate(PIXELS)[0] != before[0]
    button(page, "Pause").click()
    settled(page)


def test_digits_are_shown_as_sheets(page):
    page.get_by_role("radio", name="digits", exact=True).check()
    button(page, "Play").click()
    wait_step(page, "s > 5")
    button(page, "Pause").click()
    settled(page)
    assert page.evaluate(PIXELS)[1] > 500


def test_two_visitors_at_once(page, server, browser):
    other = open_page(browser, server.url)
    try:
        tab(other, "Mixture").click()
        button(page, "Play").click()
        wait_step(page, "s > 10")
        assert step(other) == 0
        button(other, "Play").click()
        wait_step(other, "s > 10")
        seen = step(page)
        wait_step(page, f"s > {seen + 10}")
        button(page, "Pause").click()
        settled(page)
        seen = step(other)
        wait_step(other, f"s > {seen + 10}")
        assert address(page).engine == "flow" and address(other).engine == "mixture"
    finally:
        other.context.close()


@pytest.mark.parametrize(
    "hostile",
    [
        "#e=AAAA", "#e=%3Cscript%3Ealert(1)%3C/script%3E",
        "#" + to_hash(Experiment("ring8", "gan"))[:-9],
    ],
)  # fmt: skip
def test_a_hostile_address_is_refused_with_a_clear_sentence(server, browser, hostile):
    page = open_page(browser, server.url + hostile)
    try:
        note = page.locator("[data-slot=note]")
        expect(note).to_contain_text("address", timeout=15_000)
        assert note.inner_text().count("\n") == 0
        assert page.locator("[data-slot=note] script").count() == 0
        button(page, "Play").click()
        wait_step(page, "s > 3")
        assert page.faults == []
    finally:
        page.context.close()


def test_a_changed_address_opens_in_the_same_page(page):
    wanted = Experiment("rings", "gan", seed=3)
    page.evaluate(f"location.hash = '#{to_hash(wanted)}'")
    page.wait_for_function(
        "document.querySelector('[role=tab][aria-selected=true]').innerText.includes('GAN')"
    )
    page.wait_for_timeout(500)
    assert address(page) == wanted


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_leaving_stops_the_run(page, server, browser):
    """A visitor who closes the page while it plays leaves the machine to the others."""

    def busy(seconds: float) -> float:
        """Share of one core that the server uses, with the processes that it began."""

        def ticks() -> int:
            found = {}  # by process: its parent, and what it has used
            for path in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):
                    fields = path.read_text().rpartition(")")[2].split()
                    found[int(path.parent.name)] = (
                        int(fields[1]),
                        int(fields[11]) + int(fields[12]),
                    )
            ours, size = {server.process.pid}, 0
            while len(ours) > size:
                size = len(ours)
                ours |= {pid for pid, (parent, _) in found.items() if parent in ours}
            return sum(found[pid][1] for pid in ours)

        before = ticks()
        time.sleep(seconds)
        return (ticks() - before) / 100 / seconds

    other = open_page(browser, server.url)
    button(other, "Play").click()
    wait_step(other, "s > 5")
    playing = busy(2.0)  # beside other work it gets less than a core
    assert playing > 0.2, "it trains"
    other.context.close()
    time.sleep(2.0)
    assert busy(2.0) < playing / 2, "it has stopped"


def test_dragging_a_handle_moves_its_path(page):
    handle = page.locator(".gp-handle").first
    handle.scroll_into_view_if_needed()
    before = page.evaluate(PIXELS)
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y - 40, steps=5)
    page.mouse.up()
    page.wait_for_timeout(800)
    assert page.evaluate(PIXELS)[0] != before[0]
    assert page.locator("[data-slot=note]").inner_text().strip() == ""
    assert step(page) == 0


def test_space_presses_the_switch_that_has_the_focus(page):
    page.locator(".fold summary", has_text="Picture").click()
    switch = page.locator("[data-knob=averaged] input")
    switch.focus()
    switch.press(" ")
    expect(switch).not_to_be_checked()
    page.wait_for_timeout(500)
    assert step(page) == 0


def test_a_server_that_was_restarted_opens_what_the_page_shows(server, browser, tmp_path):
    """A session that the server doesn't know begins with the experiment in the address."""
    own = Server(tmp_path / "log.txt")
    page = open_page(browser, own.url)
    try:
        tab(page, "Mixture").click()
        page.wait_for_function(
            "location.hash && document.querySelector('[data-knob=n_components]')"
        )
        for _ in range(40):  # the address follows a moment after the knobs
            if address(page).engine == "mixture":
                break
            page.wait_for_timeout(250)
        assert address(page).engine == "mixture"
        own.restart()
        page.wait_for_timeout(1500)
        button(page, "Play").click()
        page.wait_for_timeout(4000)
        assert address(page).engine == "mixture"
    finally:
        page.context.close()
        own.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080), (390, 844)])
def test_nothing_overflows_sideways(server, browser, scheme, width, height):
    page = open_page(browser, f"{server.url}?__theme={scheme}", width, height)
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
        expect(button(page, "Play")).to_be_visible()
        box = button(page, "Play").bounding_box()
        assert box["y"] + box["height"] <= height, "Play is on the first screen"
    finally:
        page.context.close()


MANY = """() => {
  const [bar, first] = ['#gp-tabs .tab-container', '#gp-tabs [role=tab]']
    .map(s => document.querySelector(s));
  for (const name of ['Energy', 'Autoregressive', 'Score matching', 'Flow matching',
                      'Language models', 'Diffusion', 'Noise contrast', 'Autoencoders']) {
    const tab = first.cloneNode();
    tab.textContent = name;
    bar.insertBefore(tab, bar.querySelector('[role=tab]:nth-of-type(3)'));
  }
}"""
BAR = """() => {
  const bar = document.querySelector('#gp-tabs .tab-container');
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom]; };
  const tabs = [...bar.querySelectorAll('[role=tab]')];
  return { bar: box(bar), tabs: tabs.map(box), corner: box(document.querySelector('#gp-corner')),
           chosen: box(tabs.find(t => t.ariaSelected === 'true')), left: bar.scrollLeft,
           most: bar.scrollWidth - bar.clientWidth, edges: bar.className.match(/more-[a-z]+/g) || [] };
}"""


def test_many_families_take_two_rows_and_stay_clear_of_the_buttons(page):
    page.evaluate(MANY)
    page.set_viewport_size({"width": 1281, "height": 800})
    page.wait_for_timeout(200)
    seen = page.evaluate(BAR)
    assert seen["most"] <= 1
    assert len({top for _, _, top, _ in seen["tabs"]}) == 2
    assert all(right < seen["corner"][0] for _, right, _, _ in seen["tabs"])
    assert all(top >= 0 for _, _, top, _ in seen["tabs"])
    assert max(bottom for *_, bottom in seen["tabs"]) < 75, "they take no room from the pictures"
    page.keyboard.press("l")  # a lecture's type is larger: one row that scrolls
    page.wait_for_timeout(400)
    seen = page.evaluate(BAR)
    assert len({top for _, _, top, _ in seen["tabs"]}) == 1
    assert seen["most"] > 100
    assert seen["bar"][0] <= seen["chosen"][0] < seen["chosen"][1] < seen["bar"][1] + 1
    assert seen["bar"][1] < seen["corner"][0]


def test_on_a_phone_the_bar_scrolls_and_shows_that_it_does(server, browser):
    page = open_page(browser, server.url, 390, 844)
    try:
        page.evaluate(MANY)
        page.set_viewport_size({"width": 389, "height": 844})
        page.wait_for_timeout(200)
        seen = page.evaluate(BAR)
        assert len({top for _, _, top, _ in seen["tabs"]}) == 1
        assert 0 <= seen["chosen"][0] < seen["chosen"][1] <= 390, "the chosen tab is in view"
        assert seen["edges"] == ["more-left"] or seen["left"] < seen["most"] - 4
        bar = "document.querySelector('#gp-tabs .tab-container')"
        page.evaluate(f"{bar}.scrollTo({{ left: 200, behavior: 'instant' }})")
        page.wait_for_function(f"{bar}.classList.contains('gp-more-left')")
        assert set(page.evaluate(BAR)["edges"]) == {"more-left", "more-right"}
        page.evaluate(f"{bar}.scrollTo({{ left: 9999, behavior: 'instant' }})")
        page.wait_for_function(f"!{bar}.classList.contains('gp-more-right')")
        page.evaluate(f"{bar}.scrollTo({{ left: 0, behavior: 'instant' }})")
        page.wait_for_function(f"!{bar}.classList.contains('gp-more-left')")
        assert all(bottom - top >= 40 for *_, top, bottom in page.evaluate(BAR)["tabs"])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    finally:
        page.context.close()


def test_arrow_keys_walk_the_tabs_and_open_the_one_on_which_they_rest(page):
    names = [home.TAB, *families()]
    focus = "document.activeElement.textContent.trim()"
    at = "document.querySelector('#gp-tabs [aria-selected=true]').textContent.trim()"
    stops = (
        "[...document.querySelectorAll('#gp-tabs [role=tab]')].filter(t => t.tabIndex === 0).length"
    )
    begin = names.index(page.evaluate(at))
    assert page.evaluate(stops) == 1, "one stop for the Tab key"
    page.evaluate("document.querySelector('#gp-tabs [aria-selected=true]').focus()")
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    assert page.evaluate(focus) == names[begin - 2]
    page.wait_for_function(f"{at} === '{names[begin - 2]}'")
    assert page.evaluate(stops) == 1
    expect(page.locator(".gp-head h2")).not_to_have_text("Normalizing flow", timeout=15_000)
    page.keyboard.press("End")
    assert page.evaluate(focus) == names[-1]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focus) == names[0]
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{at} === '{names[1]}'")
    assert page.evaluate("playground.step") == 0, "no step was made on the way"


BELOW = """() => {
  const edge = document.querySelector('#gp-transport').getBoundingClientRect();
  const large = [...document.querySelectorAll('.gp-panel')]
    .filter(p => p.querySelector('.gp-plot').panel.what.size === 'large')
    .map(p => p.getBoundingClientRect());
  return {count: large.length, lowest: Math.max(...large.map(r => r.bottom)),
          highest: Math.min(...large.map(r => r.top)), top: edge.top, bottom: edge.bottom,
          scroll: window.scrollY};
}"""


PROJECTOR, LAPTOP = (1920, 1080), (1280, 800)


def different(family: str) -> list[str]:
    """Names of a family's presets: of those with the same pictures the one with the most to read."""
    found: dict[tuple, Preset] = {}
    for preset in for_family(family):
        known = preset.experiment
        kind = (known.engine, known.data_kind, len(known.beside))
        if kind not in found or len(preset.look_for) > len(found[kind].look_for):
            found[kind] = preset
    return [preset.name for preset in found.values()]


@pytest.fixture(scope="module")
def lectures() -> Iterator[dict[tuple[int, int], Shared]]:
    pages = {PROJECTOR: Shared(), LAPTOP: Shared()}
    yield pages
    for one in pages.values():
        one.close()


@pytest.mark.parametrize(
    ("family", "screen"), [*((name, PROJECTOR) for name in families()), ("GAN", LAPTOP)]
)
def test_a_lecture_shows_the_main_pictures_and_the_transport_without_scrolling(
    request, lectures, server, browser, family, screen
):
    """On a projector, under presets of every layout, also where settings stand side by side."""
    opened = functools.partial(open_page, browser, server.url, *screen)
    with lectures[screen].lend(request, opened) as page:
        tab(page, family).click()
        page.wait_for_selector(f"[role=tab][aria-selected=true]:has-text('{family}')")
        # the tab is chosen at once, and what is on it comes from the server
        page.wait_for_selector(f"[data-preset='{for_family(family)[0].name}']")
        page.keyboard.press("l")
        for name in different(family):
            before = page.evaluate("location.hash")
            page.evaluate(f"document.querySelector('[data-preset=\"{name}\"]').click()")
            page.wait_for_function("hash => location.hash !== hash", arg=before)
            page.wait_for_selector(".gp-banner")
            for _ in range(20):  # what is new takes its place once its first frame is there
                page.wait_for_timeout(350)
                seen = page.evaluate(BELOW)
                if seen["lowest"] <= seen["top"] + 1:
                    break
            name = page.inner_text(".gp-banner b")
            assert seen["count"] > 0 and seen["scroll"] == 0, name
            if screen == LAPTOP and seen["count"] > 6:
                continue  # three rows do not fit there: one scrolls
            assert seen["highest"] > 0 and seen["lowest"] <= seen["top"] + 1, (name, seen)
            assert seen["bottom"] <= screen[1], (name, seen)
        size = "s => parseFloat(getComputedStyle(document.querySelector(s)).fontSize)"
        for what in (".gp-banner", ".gp-head h2", ".gp-metrics", "#gp-progress b", "figcaption"):
            assert page.evaluate(size, what) >= (20 if screen == PROJECTOR else 15), what
        page.keyboard.press("l")  # the next family's begins where this one did


def test_the_page_of_the_api_names_every_call(server, browser):
    page = open_page(browser, f"{server.url}?view=api")
    try:
        docs = page.locator(".api-docs")
        for name in ("/start", "/train", "/act", "/sample"):
            expect(docs).to_contain_text(name, timeout=15_000)
        expect(docs).to_contain_text("a number for each name that the action takes")
    finally:
        page.context.close()


def test_a_tab_of_several_engines_lets_one_choose(page):
    tab(page, "Mixture").click()
    heading = page.locator(".gp-head h2")
    expect(heading).to_have_text("Gaussian mixture", timeout=15_000)
    page.locator("label[for=engine-deep_mixture]").click()
    expect(heading).to_have_text("Deep Gaussian mixture", timeout=15_000)
    expect(page.locator("#engine-deep_mixture")).to_be_checked()
    expect(page.locator("[data-knob=k1]")).to_be_visible()
    assert address(page).engine == "deep_mixture"
