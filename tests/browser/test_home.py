"""The home page in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from app.home import HASH, TAB, to_try
from app.share import to_hash
from engines import ENGINES, Experiment, families
from tests.browser.conftest import open_page
from tests.browser.test_page import address, button, settled, step, tab, wait_step

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SEEN = "playgroundHome.clips.map(c => c.painted)"
MOVING = "playgroundHome.clips.some(c => c.painted > 0)"


def open_home(browser, url: str, width: int = 1280, height: int = 800, **options) -> Page:
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(url + HASH, wait_until="domcontentloaded")
    expect(tab(page, TAB)).to_have_attribute("aria-selected", "true", timeout=60_000)
    expect(page.get_by_role("heading", name="What is a generative model?")).to_be_visible()
    return page


def show_clips(page: Page) -> None:
    page.locator(".home-clip").first.scroll_into_view_if_needed()
    page.wait_for_function(MOVING, timeout=30_000)


def arrives(page: Page, wanted: Callable[[Experiment], bool]) -> None:
    """Wait until the address names what is wanted: frames that were under way come first."""
    for _ in range(120):
        if page.evaluate("location.hash").startswith("#e=") and wanted(address(page)):
            return
        page.wait_for_timeout(250)
    raise AssertionError(page.evaluate("location.hash"))


def away(page: Page) -> None:
    """The home page is gone and the stage is back."""
    expect(page.locator("#gp-home")).to_be_hidden()
    expect(page.locator("#gp-stage")).to_be_visible()


def test_a_plain_address_opens_a_family_and_home_is_one_click_away(page):
    away(page)
    tab(page, TAB).click()
    expect(page.locator("#gp-home")).to_be_visible()
    for column in ("#gp-left", "#gp-stage", "#gp-right"):
        expect(page.locator(column)).to_be_hidden()
    assert page.evaluate("location.hash") == HASH
    page.locator("body").press("r")
    page.locator("body").press(" ")
    page.wait_for_timeout(500)
    assert not page.evaluate("document.body.classList.contains('gp-playing')"), "nothing to play"
    tab(page, "Flow").click()
    away(page)
    page.wait_for_function("location.hash.startsWith('#e=')")


def test_a_run_goes_on_unseen_and_is_found_again(page):
    button(page, "Play").click()
    wait_step(page, "s > 5")
    tab(page, TAB).click()
    expect(page.locator("#gp-home")).to_be_visible()
    page.wait_for_timeout(700)  # what was under way is painted
    drawn, left = page.evaluate("window.playground.drawn"), step(page)
    page.wait_for_timeout(1500)
    assert page.evaluate("window.playground.drawn") == drawn, "nothing is drawn that nobody sees"
    assert page.evaluate("document.body.classList.contains('gp-playing')")
    tab(page, "Flow").click()
    away(page)
    wait_step(page, f"s > {left}")
    button(page, "Pause").click()
    settled(page)
    arrives(page, lambda here: here.engine == "flow")


def test_the_address_of_home_opens_it_and_its_leaves_open_tabs_by_keyboard(server, browser):
    page = open_home(browser, server.url)
    try:
        for family, names in families().items():
            leaf = page.get_by_role("button", name=ENGINES[names[0]].title, exact=True)
            leaf.focus()
            leaf.press("Enter")
            expect(tab(page, family)).to_have_attribute("aria-selected", "true")
            away(page)
            arrives(page, lambda here, name=names[0]: here.engine == name)
            tab(page, TAB).click()
            expect(page.locator("#gp-home")).to_be_visible()
        assert page.faults == []
    finally:
        page.context.close()


def test_what_to_try_opens_and_opens_again(page):
    for entry in to_try()[:2]:
        for _ in range(2):
            tab(page, TAB).click()
            page.locator(".home-try a").filter(has_text=entry.look_for).first.click()
            away(page)
            family = ENGINES[entry.experiment.engine].family
            expect(tab(page, family)).to_have_attribute("aria-selected", "true")
            arrives(page, lambda here, wanted=entry.experiment: here == wanted)
            page.wait_for_timeout(500)
            assert address(page) == entry.experiment, "and it stays there"
            expect(page.locator(".gp-banner")).to_contain_text(entry.look_for)


def test_back_returns_to_home(page):
    tab(page, TAB).click()
    page.locator(".home-try a").first.click()
    away(page)
    page.wait_for_timeout(500)
    page.go_back()
    expect(page.locator("#gp-home")).to_be_visible(timeout=30_000)
    expect(tab(page, TAB)).to_have_attribute("aria-selected", "true")


def test_a_link_to_home_opens_home(page, server, browser):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab(page, TAB).click()
    expect(page.locator("#gp-home")).to_be_visible()
    page.click("#gp-share")
    page.click('[data-name="Copy link"]')
    expect(page.locator(".gp-toast")).to_contain_text("opens this page")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == server.url + HASH
    other = open_home(browser, link.removesuffix(HASH))
    other.context.close()


def test_clips_move_while_they_are_seen_and_can_be_paused(server, browser):
    page = open_home(browser, server.url)
    try:
        show_clips(page)
        first = page.evaluate(SEEN)
        page.wait_for_timeout(700)
        assert page.evaluate(SEEN) != first
        assert page.locator(".home-step").first.inner_text().startswith("recorded: step ")
        ink = """() => [...document.querySelectorAll('.home-clip canvas')].filter(c => {
            const box = c.getBoundingClientRect();
            return box.top >= 0 && box.bottom <= innerHeight;
        }).every(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0))"""
        page.wait_for_function(ink, timeout=30_000)
        button(page, "Pause the clips").click()
        page.wait_for_timeout(200)
        rest = page.evaluate(SEEN)
        page.wait_for_timeout(500)
        assert page.evaluate(SEEN) == rest
        button(page, "Play the clips").click()
        page.wait_for_function(f"s => JSON.stringify({SEEN}) !== s", arg=str(rest))
        tab(page, "Flow").click()
        away(page)
        rest = page.evaluate(SEEN)
        page.wait_for_timeout(500)
        assert page.evaluate(SEEN) == rest, "nothing is painted that nobody sees"
    finally:
        page.context.close()


def test_who_wants_less_motion_sees_the_end(server, browser):
    page = open_home(browser, server.url, reduced_motion="reduce")
    try:
        show_clips(page)
        page.wait_for_timeout(300)
        first = page.evaluate(SEEN)
        assert {at for at in first if at is not None} == {36}
        page.wait_for_timeout(500)
        assert page.evaluate(SEEN) == first
    finally:
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080), (390, 844)])
def test_home_fits(server, browser, scheme, width, height):
    page = open_home(browser, f"{server.url}?__theme={scheme}", width, height)
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = """() => [...document.querySelectorAll('#gp-home .home *')].filter(e =>
            e.children.length === 0 && e.textContent.trim() && e.offsetParent
            && parseFloat(getComputedStyle(e).fontSize) < 13).map(
                e => `${e.textContent} ${e.tagName} ${getComputedStyle(e).fontSize}`)"""
        for _ in range(20):  # style sheets may still be on their way
            if not (found := page.evaluate(small)):
                break
            page.wait_for_timeout(250)
        assert found == []
        lines = page.locator(".home-lines path").count()
        # leaves of a second row stand below the first, without lines of their own
        first = page.evaluate("""() => [...document.querySelectorAll('.home-leaves')].reduce(
            (sum, row) => sum + [...row.children].filter(
                leaf => leaf.offsetTop === row.children[0].offsetTop).length, 0)""")
        assert lines >= first >= 3, "the map has its lines"
        wanted = [TAB, *families()]
        assert page.locator("#gp-tabs button[role=tab]").all_inner_texts() == wanted
    finally:
        page.context.close()


def test_an_address_with_an_experiment_never_opens_home(server, browser):
    entry = to_try()[0]
    page = open_page(browser, f"{server.url}#{to_hash(entry.experiment)}")
    try:
        away(page)
        assert address(page) == entry.experiment
    finally:
        page.context.close()
