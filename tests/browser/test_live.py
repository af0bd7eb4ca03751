"""assets/live/ by itself, as an exported page uses it: what is packed is what is painted."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from app.pack import pack
from engines.marks import (
    Curve,
    Curves,
    Frame,
    Handles,
    Heat,
    Images,
    Metric,
    Panel,
    Paths,
    Surface,
)
from tests.browser.stage import BOX, Stage, dot, readout

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = '<img src=x onerror="window.hurt=1"> & <b>bold</b>'


def corner(flip: bool = False) -> Heat:
    """7 in the cell at the bottom right, 0 elsewhere."""
    values = np.zeros((8, 8))
    values[0, 7] = 7.0
    return Heat(values[::-1] if flip else values, BOX, label="v", unit="units")


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


# ---------------------------------------------------------------- frames on their way


def test_a_lost_frame_is_reported_and_mended(stage: Stage) -> None:
    frame = lambda x: Frame(1, 0.0, 0.0, [], [Panel("p", "P", [dot(x, 0), corner()], box=BOX)])  # noqa: E731
    stage.send(frame(0), lose=True)
    stage.send(frame(0))
    assert stage.sent("ack") == [{"seq": 2, "missing": True}]
    assert stage.page.evaluate("playground.drawn") == 0
    stage.known.clear()
    stage.send(frame(0))
    stage.page.wait_for_function("playground.drawn == 1")
    assert stage.page.evaluate("playground.error") is None


def test_frames_are_acknowledged_once_painted(stage: Stage) -> None:
    for i in range(9):
        stage.send(Frame(i, 0.0, 0.0, [], [Panel("p", "P", [dot(i / 9, 0)], box=BOX)]))
    seqs = [ack["seq"] for ack in stage.sent("ack")]
    assert seqs == sorted(set(seqs))
    assert max(b - a for a, b in zip([0, *seqs], seqs, strict=False)) <= 5
    stage.send(Frame(10, 0.0, 0.0, [], []), playing=False)
    stage.send(Frame(11, 0.0, 0.0, [], []), playing=False)
    assert [ack["seq"] for ack in stage.sent("ack")][-2:] == [10, 11]


def test_the_last_of_a_burst_is_acknowledged_too(stage: Stage) -> None:
    # the server waits once its window is full: an unacknowledged last frame would be for ever
    for i in range(1, 4):
        stage.send(Frame(i, 0.0, 0.0, [], [Panel("p", "P", [dot(i / 9, 0)], box=BOX)]))
    stage.page.wait_for_timeout(500)
    assert stage.sent("ack")[-1]["seq"] == stage.seq


def test_only_the_newest_of_many_frames_is_painted(stage: Stage) -> None:
    texts = [
        pack(
            Frame(i, 0.0, 0.0, [], [Panel("p", "P", [dot(i / 9, 0)], box=BOX)]), stage.known, seq=i
        )
        for i in range(1, 10)
    ]
    stage.page.evaluate("texts => texts.forEach(text => view.show(text))", texts)
    stage.page.wait_for_function("playground.ready")
    assert stage.page.evaluate("[playground.drawn, playground.step]") == [1, 9]


def test_a_view_that_nobody_sees_paints_nothing(stage: Stage) -> None:
    stage.show(dot(0, 0))
    stage.page.evaluate("document.getElementById('v').style.display = 'none'")
    stage.page.wait_for_timeout(100)
    drawn = stage.page.evaluate("playground.drawn")
    for i in range(5):
        stage.send(Frame(20 + i, 0.0, 0.0, [], [Panel("p", "P", [dot(i, 0)], box=BOX)]))
    assert stage.page.evaluate("playground.drawn") == drawn
    assert [a for a in stage.sent("ack") if a.get("hidden")] == [{"seq": 2, "hidden": True}]
    assert {"visible": False} in stage.sent("view")
    stage.page.evaluate("document.getElementById('v').style.display = ''")
    stage.page.wait_for_function(f"playground.step == 24 && playground.drawn > {drawn}")
    assert stage.spot("lost") == pytest.approx((4, 0), abs=0.1)


# ---------------------------------------------------------------- around the pictures


def test_hostile_texts_stay_texts(stage: Stage) -> None:
    panels = [
        Panel("a", HOSTILE, [dot(0, 0), Handles(np.zeros((1, 2)), "x", [HOSTILE])], HOSTILE, BOX),
        Panel("b", "b", [Curves([Curve(HOSTILE, np.arange(3.0), np.arange(3.0)),
                                 Curve("c", np.arange(3.0), np.arange(3.0))],
                                [(HOSTILE, 1.0)], x_label=HOSTILE)]),
        Panel("c", "c", [Images(np.ones((1, 8, 8)), tags=[HOSTILE])]),
    ]  # fmt: skip
    metrics = [Metric("m", float("inf"), note=HOSTILE, label=HOSTILE, help=HOSTILE)]
    stage.send(Frame(1, 0.0, 0.0, metrics, panels, HOSTILE), title=HOSTILE, tagline=HOSTILE,
               objective=HOSTILE + " x_{<i>}", look_for=HOSTILE, paper=HOSTILE)  # fmt: skip
    stage.page.wait_for_function("playground.ready")
    stage.page.wait_for_timeout(300)
    assert stage.page.evaluate("window.hurt") is None
    assert stage.page.evaluate("playground.error") is None
    assert stage.page.evaluate("document.querySelectorAll('#v img, #v a[href*=x]').length") == 0
    assert stage.page.inner_text("#v h2") == HOSTILE
    assert stage.page.inner_text(".gp-equation sub") == "<i>"
    assert "∞" in stage.page.inner_text(".gp-metrics")


def test_panels_are_hidden_shown_and_enlarged(stage: Stage) -> None:
    panels = [Panel(i, i.upper(), [dot(0, 0)], box=BOX) for i in ("one", "two", "three")]
    stage.send(Frame(1, 0.0, 0.0, [], panels))
    page = stage.page
    page.get_by_role("button", name="Hide: TWO").click()
    assert page.locator("figure").count() == 2
    assert stage.sent("view")[-1]["hidden"] == ["two"]
    stage.send(Frame(2, 0.0, 0.0, [], panels))
    assert page.locator("figure").count() == 2
    page.get_by_role("button", name="Show: TWO").click()
    assert stage.sent("view")[-1]["hidden"] == []
    stage.send(Frame(3, 0.0, 0.0, [], panels))
    assert page.locator("figure").count() == 3
    small = page.locator("figure").nth(1).bounding_box()["width"]
    page.get_by_text("TWO", exact=True).dblclick()
    large = page.locator("figure", has_text="TWO").bounding_box()["width"]
    assert large > 2 * small
    page.keyboard.press("Escape")
    assert page.locator("figure", has_text="TWO").bounding_box()["width"] == small


def test_a_handle_moves_at_once_and_tells_the_server(stage: Stage) -> None:
    stage.show(Handles(np.array([[0.0, 0.0], [1.0, -1.0]]), "follow", ["a", "b"]))
    stage.point_at(1, -1)
    stage.page.mouse.down()
    for k in range(1, 21):
        stage.point_at(1 + k / 10, -1 + k / 10)
    stage.page.wait_for_timeout(120)
    stage.page.mouse.up()
    acts = stage.sent("act")
    assert acts[-1]["name"] == "follow"
    assert acts[-1]["args"] == pytest.approx({"x": 3.0, "y": 1.0, "index": 1}, abs=0.05)
    assert len(acts) < 20  # at most one each 50 ms
    assert [a["begin"] for a in acts] == [True] + [False] * (len(acts) - 1)
    assert [a["end"] for a in acts] == [False] * (len(acts) - 1) + [True]
    turns = [a["turn"] for a in acts]
    assert turns == sorted(turns)


def test_heights_over_a_line_fill_the_panel_and_its_shade_reaches_down_to_0(stage: Stage) -> None:
    ranges = """() => { const { xaxis, yaxis } =
        document.querySelector('.gp-axes')._fullLayout; return [xaxis.range, yaxis.range]; }"""
    step = np.array([[[-3.0, 0.0], [-3.0, 2.0], [3.0, 2.0], [3.0, 0.0]]])
    marks = dot(2, 3), Paths(step, "model", fill=True)
    stage.show(*marks, equal=False)
    (x0, x1), (y0, y1) = stage.page.evaluate(ranges)
    for low, high in ((x0, x1), (y0, y1)):
        assert -4.5 < low < -4 and 4 < high < 4.5
    assert stage.spot("lost") == pytest.approx((2.0, 3.0), abs=0.1)

    def pixel(x: float, y: float) -> list[int]:
        return stage.page.evaluate(
            """([x, y]) => {
              const canvas = document.querySelector('.gp-plot canvas');
              const { xaxis, yaxis } = document.querySelector('.gp-axes')._fullLayout;
              const k = canvas.width / canvas.clientWidth;
              return [...canvas.getContext('2d')
                .getImageData(k * xaxis.d2p(x), k * yaxis.d2p(y), 1, 1).data];
            }""", [x, y])  # fmt: skip

    assert pixel(0, 1) == pixel(-2, 0.3) != pixel(0, -1) == pixel(0, 3)
    stage.show(*marks)
    (x0, x1), (y0, y1) = stage.page.evaluate(ranges)
    assert (x1 - x0) - (y1 - y0) > 1, "the wrong twin: equal axes on a panel that is no square"


def test_a_chart_grows_with_its_curve(stage: Stage) -> None:
    longest = 0
    for n in (2, 40, 200):
        x = np.arange(float(n))
        stage.send(Frame(n, 0.0, 0.0, [], [Panel("c", "C", [Curves([Curve("l", x, np.sin(x))])])]))
        drawn = "(document.querySelector('path.js-line')?.getAttribute('d') || '').length"
        stage.page.wait_for_function(f"{drawn} > {longest}")
        longest = stage.page.evaluate(drawn)


def test_the_names_of_lines_stand_above_them(stage: Stage) -> None:
    x = np.arange(40.0)

    def room(*names: str) -> tuple[float, float]:
        """Where the names end and where the lines may begin, in pixels of the page."""
        lines = [Curve(name, x, 1 + x) for name in names]
        stage.send(Frame(1, 0.0, 0.0, [], [Panel("c", "C", [Curves(lines)])]))
        stage.page.wait_for_timeout(1200)
        return tuple(stage.page.evaluate(
            """() => ['.gp-legend', '.gp-axes .nsewdrag'].map((name, i) =>
              document.querySelector(name).getBoundingClientRect()[i ? 'top' : 'bottom'])"""))  # fmt: skip

    stage.page.evaluate("document.getElementById('v').style.width = '420px'")
    _, alone = room("one")
    names, lines = room(*(f"the continuation of walk number {i}" for i in range(4)))
    assert names <= lines
    assert lines > alone + 20, "the wrong twin: the same room for four names as for none"


@pytest.mark.parametrize(("role", "goes_on"), [("discriminator", True), ("density", False)])
def test_a_fields_edge_goes_on_to_the_panels(stage: Stage, role: str, goes_on: bool) -> None:
    values = np.full((20, 20), -0.5)
    values[8:12, 8:12] = 0.5
    stage.show(Heat(values, BOX, role, "diverging", hi=0.5, gamma=1.0), size="small")
    inside, beyond = stage.page.evaluate(
        """() => {
          const canvas = document.querySelector('.gp-plot canvas');
          const { xaxis } = document.querySelector('.gp-axes')._fullLayout;
          const ratio = canvas.width / canvas.clientWidth;
          const middle = Math.round(canvas.height / 2);
          return [xaxis.d2p(-3.8) * ratio, 3].map(x =>
            [...canvas.getContext('2d').getImageData(Math.round(x), middle, 1, 1).data]);
        }"""
    )
    assert bool(np.abs(np.subtract(inside, beyond)).max() < 8) is goes_on
    colour = "getComputedStyle(document.querySelector('.xtick text')).fill"
    usual = "getComputedStyle(document.querySelector('.gp-view')).getPropertyValue('--gp-mute')"
    usual = [int(stage.page.evaluate(usual).strip()[i : i + 2], 16) for i in (1, 3, 5)]
    seen = [int(v) for v in stage.page.evaluate(colour)[4:-1].split(",")]
    assert (seen == usual) is not goes_on, "on a dark ground the axes' numbers are bright"


@pytest.mark.parametrize("width", [390, 900, 1500])
def test_the_view_fits_its_width(stage: Stage, width: int) -> None:
    sizes = ["large", "large", "small", "small", "small", "wide", "wide"]
    panels = [Panel(f"p{i}", f"P{i}", [dot(0, 0)], box=BOX, size=s) for i, s in enumerate(sizes)]
    stage.page.set_viewport_size({"width": width, "height": 800})
    stage.page.evaluate("w => document.getElementById('v').style.width = (w - 20) + 'px'", width)
    stage.send(Frame(1, 0.0, 0.0, [], panels))
    boxes = [stage.page.locator("figure").nth(i).bounding_box() for i in range(len(sizes))]
    assert all(b["x"] >= 0 and b["x"] + b["width"] <= width + 1 for b in boxes)
    across = sum(abs(b["y"] - boxes[0]["y"]) < 1 for b in boxes)
    assert across == (1 if width == 390 else 2)
