"""assets/live/ by itself, as an exported page uses it: what is packed is what is painted."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from engines.marks import (
    Frame,
    Panel,
    Surface,
)
from tests.browser.stage import BOX, Stage, corner, dot, readout

pytestmark = [pytest.mark.browser, pytest.mark.slow]


# ---------------------------------------------------------------- painting


@pytest.mark.parametrize("place", [(2.0, 1.0), (-3.0, -2.5)])
def test_a_point_is_painted_where_the_axes_say(stage: Stage, place: tuple[float, float]) -> None:
    stage.show(dot(*place))
    assert stage.spot("lost") == pytest.approx(place, abs=0.05)
    # wrong twin: x and y exchanged
    assert stage.spot("lost") != pytest.approx(place[::-1], abs=0.05)


def test_canvas_and_axes_agree_after_zooming_and_the_zoom_survives(stage: Stage) -> None:
    stage.show(dot(2, 1))
    stage.page.evaluate(
        "Plotly.relayout(document.querySelector('.gp-axes'), "
        "{'xaxis.range': [1, 4], 'yaxis.range': [0, 2.2]})"
    )
    stage.page.wait_for_timeout(200)
    assert stage.spot("lost") == pytest.approx((2, 1), abs=0.03)
    stage.show(dot(2.5, 1.5))
    assert stage.spot("lost") == pytest.approx((2.5, 1.5), abs=0.03)
    low, high = stage.page.evaluate("document.querySelector('.gp-axes')._fullLayout.xaxis.range")
    assert 2.9 < high - low < 5.5


def test_hover_reads_the_value_of_the_cell(stage: Stage) -> None:
    stage.show(corner())
    stage.point_at(3.5, -3.5)
    assert "v = 7.000 units" in readout(stage)
    stage.point_at(-3.5, 3.5)
    assert "v = 0.000 units" in readout(stage)


def test_rows_upside_down_would_be_noticed(stage: Stage) -> None:
    """Wrong twin of the test above."""
    stage.show(corner(flip=True))
    stage.point_at(3.5, -3.5)
    assert "v = 7.000 units" not in readout(stage)


def test_the_field_lies_where_the_readout_says(stage: Stage) -> None:
    stage.show(corner())
    colours = stage.page.evaluate(
        """() => [[3.5, -3.5], [3.5, 3.5]].map(([x, y]) => {
          const canvas = document.querySelector('.gp-plot canvas');
          const { xaxis, yaxis } = document.querySelector('.gp-axes')._fullLayout;
          const ratio = canvas.width / canvas.clientWidth;
          const at = [xaxis.d2p(x) * ratio, yaxis.d2p(y) * ratio].map(Math.round);
          return [...canvas.getContext('2d').getImageData(...at, 1, 1).data];
        })"""
    )
    assert sum(colours[0][:3]) < sum(colours[1][:3]) - 200  # much is dark, nothing is paper


def test_a_panel_that_did_not_change_is_not_painted_again(stage: Stage) -> None:
    stage.show(corner(), dot(0, 0))
    stage.page.evaluate(
        """() => { window.calls = 0; const draw = CanvasRenderingContext2D.prototype.drawImage;
        CanvasRenderingContext2D.prototype.drawImage = function (...a) {
          calls++; return draw.apply(this, a); }; }"""
    )
    drawn = stage.page.evaluate("playground.drawn")
    stage.show(corner(), dot(0, 0))
    assert stage.page.evaluate("playground.drawn") == drawn + 1
    assert stage.page.evaluate("calls") == 0
    stage.show(corner(), dot(1, 0))
    assert stage.page.evaluate("calls") > 0


def test_light_and_dark_change_places_at_once(stage: Stage) -> None:
    stage.show(dot(1, 1))
    stage.page.evaluate("document.body.classList.add('dark')")
    stage.page.wait_for_timeout(200)
    assert stage.spot("lost") == pytest.approx((1, 1), abs=0.05)


def test_the_picture_to_keep_holds_the_canvas(stage: Stage) -> None:
    stage.show(dot(0, 0))
    with stage.page.expect_download() as download:
        stage.page.evaluate("document.querySelector('[data-title^=Download]').click()")
    with open(download.value.path(), "rb") as file:
        pixels = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")).astype(int)
    red = (pixels[..., 0] > 140) & (pixels[..., 1] < 90) & (pixels[..., 2] < 60)
    assert red.sum() > 50


# ---------------------------------------------------------------- in three dimensions


CAMERA = "document.querySelector('.gp-axes')._fullLayout.scene._scene.getCamera().eye"


def hills(height: float, **rest) -> Panel:
    x, y = np.meshgrid(np.linspace(-4, 4, 30), np.linspace(-4, 4, 30))
    values = height * np.exp(-((x - 1) ** 2) - y**2)
    values[0, 0] = np.nan
    mark = Surface(values, BOX, "energy", "nats", **rest)
    return Panel("s", "S", [mark], box=BOX)


def raise_hills(stage: Stage, height: float, **rest) -> None:
    stage.send(Frame(stage.seq, 0.0, 0.0, [], [hills(height, **rest)]))


def test_a_surface_keeps_its_camera_while_it_changes(stage: Stage) -> None:
    top = "Math.max(...document.querySelector('.gp-axes')._fullData[0].z.flat())"
    raise_hills(stage, 1.0)
    stage.page.wait_for_function(f"{top} > 0.9")
    before = stage.page.evaluate(CAMERA)
    box = stage.page.locator(".gp-plot").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    stage.page.mouse.move(x, y)
    stage.page.mouse.down()
    stage.page.mouse.move(x + 60, y + 10, steps=5)
    stage.page.mouse.up()
    stage.page.wait_for_timeout(300)
    turned = stage.page.evaluate(CAMERA)
    assert abs(turned["x"] - before["x"]) > 0.1
    raise_hills(stage, 3.0)
    stage.page.wait_for_function(f"{top} > 2.7")
    assert stage.page.evaluate(CAMERA) == pytest.approx(turned, abs=1e-6)
    assert stage.page.evaluate(CAMERA) != pytest.approx(before, abs=0.05), "wrong twin: put back"
    stage.page.evaluate("document.body.classList.add('dark')")
    stage.page.wait_for_timeout(600)
    assert stage.page.evaluate(CAMERA) == pytest.approx(turned, abs=1e-6)
    scene, data = stage.page.evaluate(
        "(() => { const g = document.querySelector('.gp-axes');"
        "return [g._fullLayout.scene, g._fullData[0]].map(o => JSON.parse(JSON.stringify("
        "{ title: o.zaxis?.title.text, z: o.z, reversed: o.reversescale }))); })()"
    )
    assert scene["title"] == "energy"
    assert data["z"][0][0] is None
    z = np.array(data["z"], dtype=float)
    row, column = np.unravel_index(np.nanargmax(z), z.shape)
    assert (row, column) in [(14, 18), (15, 18), (14, 19), (15, 19)], "at x = 1, y = 0"
    assert data["reversed"] is False


def test_a_surface_is_renewed_at_most_four_times_a_second(stage: Stage) -> None:
    raise_hills(stage, 1.0, down=True)
    stage.page.wait_for_function("document.querySelector('.gp-axes')._fullData")
    assert stage.page.evaluate("document.querySelector('.gp-axes')._fullData[0].reversescale")
    stage.page.evaluate(
        "() => { window.drawn3d = []; document.querySelector('.gp-axes').on('plotly_afterplot', "
        "() => drawn3d.push(performance.now())); }"
    )
    for i in range(40):
        raise_hills(stage, 1 + i / 20, down=True)
    stage.page.wait_for_timeout(1200)
    moments = stage.page.evaluate("drawn3d")
    assert len(moments) >= 2
    assert min(b - a for a, b in itertools.pairwise(moments)) > 200


def test_a_finger_scrolls_past_a_surface_until_it_means_to_turn_it(browser: Browser) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    stage = Stage(page)
    page.evaluate(
        "document.head.insertAdjacentHTML('beforeend', "
        "'<meta name=viewport content=\"width=device-width\">');"
        "document.getElementById('v').style.width = '100%'; "
        "document.body.style.minHeight = '2000px'"
    )
    raise_hills(stage, 1.0)
    page.wait_for_function("document.querySelector('.gp-axes canvas')")
    fingers = context.new_cdp_session(page)

    def swipe() -> tuple[float, dict]:
        box = page.locator(".gp-plot").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        fingers.send("Input.dispatchTouchEvent",
                     {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})  # fmt: skip
        for k in range(1, 9):
            fingers.send("Input.dispatchTouchEvent",
                         {"type": "touchMove", "touchPoints": [{"x": x + 2 * k, "y": y - 8 * k}]})  # fmt: skip
            page.wait_for_timeout(16)
        fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(300)
        return page.evaluate("scrollY"), page.evaluate(CAMERA)

    before = page.evaluate(CAMERA)
    scrolled, camera = swipe()
    assert scrolled > 20
    assert camera == pytest.approx(before, abs=1e-6)
    page.evaluate("scrollTo(0, 0)")
    page.get_by_role("button", name="Turn it").tap()
    scrolled, camera = swipe()
    assert scrolled == 0
    assert camera != pytest.approx(before, abs=0.02)
    page.get_by_role("button", name="Done").tap()
    assert swipe()[0] > 20
    context.close()
