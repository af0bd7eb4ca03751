"""Data of one's own in the page: brush, Gaussians, tables, pictures; and presets."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page

from app.share import from_hash
from engines import Experiment
from tests.browser.conftest import open_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

VIEW = "document.querySelector('.gp-view').playgroundView"


def experiment(page: Page) -> Experiment:
    return from_hash(page.evaluate("location.hash"))


def changed(page: Page, before: str) -> None:
    page.wait_for_function(f"location.hash != {json.dumps(before)}", timeout=20_000)


def until(page: Page, wanted: Callable[[Experiment], bool]) -> Experiment:
    """The experiment in the address, once it is what is wanted.

    A drag sends several messages, and a busy machine takes them up when it can: the first
    address that differs may be one of half the way.
    """
    for _ in range(80):
        found = experiment(page)
        if wanted(found):
            return found
        page.wait_for_timeout(250)
    raise AssertionError(f"it never came: {found}")


def tool(page: Page, name: str) -> None:
    before = page.evaluate("location.hash")
    page.get_by_role("button", name=name, exact=True).click()
    changed(page, before)
    page.wait_for_selector(".gp-edit")


def place(page: Page, x: float, y: float) -> tuple[float, float]:
    """Pixels of a point of the plane on the first picture."""
    return tuple(
        page.evaluate(
            f"""([x, y]) => {{
              const panel = [...{VIEW}.panels.values()].find(p => p.what.id === 'model');
              const a = panel.axes(), box = panel.plot.getBoundingClientRect();
              return [box.left + a.left + a.kx * (x - a.x0), box.top + a.top + a.ky * (a.y1 - y)];
            }}""",
            [x, y],
        )
    )


@pytest.fixture
def mixture(page: Page) -> Page:
    page.get_by_role("tab", name="Mixture", exact=True).click()
    page.wait_for_function("document.querySelector('.gp-head h2').textContent.includes('mixture')")
    return page


def test_a_stroke_becomes_the_data_at_once_and_training_goes_on(mixture):
    page = mixture
    page.click("#gp-play")
    tool(page, "Draw")
    assert len(experiment(page).points) == 500
    page.get_by_role("button", name="Clear", exact=True).click()
    assert "20 are needed" in page.inner_text(".gp-own .count")
    x, y = place(page, 2.5, 2.5)
    page.mouse.move(x, y)
    before = page.evaluate("location.hash")
    page.mouse.down()
    for i in range(12):
        page.mouse.move(x + i % 3, y + i % 2)
    changed(page, before)  # before the hand is lifted; bench/browser.py says how soon
    page.mouse.up()
    until(page, lambda now: np.abs(now.points.mean(0) - [2.5, 2.5]).max() < 0.3)
    # the model's samples have followed
    found = page.evaluate(f"{VIEW}.tape.entries.at(-1).step")
    page.wait_for_function(f"{VIEW}.tape.entries.at(-1).step > {found}")
    assert page.evaluate("document.body.classList.contains('gp-playing')")
    page.click("#gp-pause")


def test_erase_undo_and_a_link_that_carries_the_drawing(mixture, server, browser):
    page = mixture
    tool(page, "Draw")
    page.locator("label[for=gp-tool-erase]").click()
    n = len(experiment(page).points)
    x, y = place(page, 2.83, 0)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 4, y)
    page.mouse.up()
    until(page, lambda now: len(now.points) < n - 20)
    page.wait_for_timeout(500)
    drawn = experiment(page)
    other = open_page(browser, page.url)
    assert from_hash(other.evaluate("location.hash")) == drawn
    other.context.close()
    page.get_by_role("button", name="Undo stroke", exact=True).click()
    until(page, lambda now: len(now.points) == n)


def test_gaussians_are_dragged_stretched_added_weighed_and_removed(mixture):
    page = mixture
    tool(page, "Gaussians")
    components = lambda now: now.options["components"]  # noqa: E731
    near = lambda value, wanted: value == pytest.approx(wanted, abs=0.1)  # noqa: E731
    first = components(experiment(page))
    page.mouse.move(*place(page, *first[1][:2]))
    page.mouse.down()
    page.mouse.move(*place(page, 0.5, -0.5), steps=5)
    page.mouse.up()
    moved = components(until(page, lambda now: near(components(now)[1][:2], [0.5, -0.5])))
    assert [moved[0], moved[2]] == [first[0], first[2]]
    x, y, sx, _, angle, _ = moved[1]
    tip = x + 2 * sx * np.cos(angle), y + 2 * sx * np.sin(angle)
    page.mouse.move(*place(page, *tip))
    page.mouse.down()
    page.mouse.move(*place(page, x, y + 2.4), steps=5)
    page.mouse.up()
    until(page, lambda now: near(components(now)[1][2:5:2], [1.2, np.pi / 2]))
    page.mouse.dblclick(*place(page, -3, -3))
    until(page, lambda now: len(components(now)) == 4)
    weight = page.locator(".gaussians .row").nth(3).locator("input")
    weight.evaluate(
        "e => { e.value = 3; e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change')); }"
    )
    until(page, lambda now: components(now)[3][5] == 3)
    page.get_by_role("button", name="Remove Gaussian 4").click()
    until(page, lambda now: len(components(now)) == 3)
    assert "Exact density" in page.inner_text(".gp-grid")


def test_a_table_is_read_its_columns_chosen_and_what_is_wrong_is_named(mixture):
    page = mixture
    rng = np.random.default_rng(0)
    rows = rng.normal([100, 5, -3], [10, 1, 0.8], (300, 3))
    table = "height,age,dose\n" + "\n".join(",".join(f"{v:.3f}" for v in row) for row in rows)
    chooser = page.locator(".gp-own input[type=file]").first
    before = page.evaluate("location.hash")
    chooser.set_input_files({"name": "t.csv", "mimeType": "text/csv", "buffer": table.encode()})
    changed(page, before)
    assert experiment(page).points == pytest.approx(rows[:, :2], abs=1e-2)
    assert "kernel estimate" in page.inner_text(".gp-grid").lower()
    before = page.evaluate("location.hash")
    page.get_by_label("y column").select_option("dose")
    changed(page, before)
    assert experiment(page).points == pytest.approx(rows[:, [0, 2]], abs=1e-2)
    before = page.evaluate("location.hash")
    wrong = table.replace(f"{rows[40, 0]:.3f}", "tall", 1)
    chooser.set_input_files({"name": "t.csv", "mimeType": "text/csv", "buffer": wrong.encode()})
    page.wait_for_function("document.querySelector('#gp-note').innerText.includes('Row 42')")
    assert page.evaluate("location.hash") == before
    big = b"x,y\n" + b"1.0,2.0\n" * 800_000
    chooser.set_input_files({"name": "big.csv", "mimeType": "text/csv", "buffer": big})
    page.wait_for_function("document.querySelector('#gp-note').innerText.includes('5 MB')")


def test_an_image_becomes_a_density(mixture):
    page = mixture
    image = Image.new("L", (200, 120), 255)
    ImageDraw.Draw(image).ellipse((120, 20, 180, 80), fill=0)
    raw = io.BytesIO()
    image.save(raw, "PNG")
    before = page.evaluate("location.hash")
    page.locator(".gp-own input[type=file]").nth(1).set_input_files(
        {"name": "disc.png", "mimeType": "image/png", "buffer": raw.getvalue()}
    )
    changed(page, before)
    shown = experiment(page)
    assert shown.dataset == "picture"
    points = shown.make_dataset().sample(2000, __import__("torch").Generator().manual_seed(0))
    assert points.mean(0).tolist() == pytest.approx([2.0, 0.4], abs=0.1)  # of 8 across, y upwards
    before = page.evaluate("location.hash")
    page.get_by_role("button", name="Invert", exact=True).click()
    changed(page, before)


def test_the_sentence_of_a_preset_is_for_who_asked_for_it(mixture, server, browser):
    """The tab's defaults equal a preset: the list marks it, and nothing is pushed down."""
    page = mixture
    page.wait_for_selector("[data-preset=mixture-enough][aria-pressed=true]")
    assert page.locator(".gp-banner").count() == 0
    other = open_page(browser, page.url)  # who sends a link asks for what it names
    other.wait_for_selector(".gp-banner")
    other.context.close()
    page.click("[data-preset=mixture-enough]")
    page.wait_for_selector(".gp-banner")


def test_a_preset_opens_plays_and_is_ticked_and_its_other_half_is_a_click_away(mixture):
    page = mixture
    page.click("[data-preset=mixture-too-few]")
    page.wait_for_selector(".gp-banner")
    assert page.locator(".gp-banner .promise.open").count() == 1
    page.click("#gp-play")
    page.wait_for_selector(".gp-banner .promise.kept", timeout=30_000)
    assert page.locator("[data-preset=mixture-too-few] .promise.kept").count() == 1
    page.get_by_role("button", name="Mend it: One cloud for each mode").click()
    page.wait_for_function(
        "document.querySelector('.gp-banner b').textContent === 'One cloud for each mode'"
    )
    page.wait_for_selector(".gp-banner .promise.kept", timeout=30_000)
    page.click("#gp-pause")


def test_arrow_keys_walk_the_presets_in_a_lecture(mixture):
    page = mixture
    page.keyboard.press("l")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".gp-banner")
    first = page.inner_text(".gp-banner b")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        f"document.querySelector('.gp-banner b').textContent !== {json.dumps(first)}"
    )
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        f"document.querySelector('.gp-banner b').textContent === {json.dumps(first)}"
    )
    size = page.evaluate(
        "parseFloat(getComputedStyle(document.querySelector('.gp-banner')).fontSize)"
    )
    assert size >= 20
