"""assets/live/ by itself: frames on their way, and what is around the pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

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
    Points,
)
from tests.browser.stage import BOX, Stage, corner, dot

pytestmark = [pytest.mark.browser, pytest.mark.slow]


HOSTILE = '<img src=x onerror="window.hurt=1"> & <b>bold</b>'


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


def test_a_picture_of_long_ago_says_its_step_in_its_caption(stage: Stage) -> None:
    def captions() -> list[str]:
        return stage.page.evaluate(
            "[...document.querySelectorAll('.gp-caption em')].map(e => e.textContent)"
        )

    points = [Points(np.zeros((1, 2)))]
    panels = [Panel(name, name, points, subtitle=name * 2, box=BOX) for name in "ab"]
    panels[1].subtitle = ""
    stage.send(Frame(2000, 0.0, 0.0, [], panels, late={0: 1000, 1: 0}))
    assert captions() == ["step 1,000; aa", "step 0"]
    stage.send(Frame(2001, 0.0, 0.0, [], panels, late={1: 0}))
    assert captions() == ["aa", "step 0"]
    # a new content with another caption keeps what is told of it
    panels = [dataclasses.replace(panel, subtitle="new") for panel in panels]
    stage.send(Frame(2002, 0.0, 0.0, [], panels, late={1: 5}))
    assert captions() == ["new", "step 5; new"]
    # side by side there is no room under a title but for which of them it is
    panels = [Panel(name, "P · " + name, points, "sub", BOX, lane=i) for i, name in enumerate("ab")]
    stage.send(Frame(2003, 0.0, 0.0, [], panels, late={1: 1500}))
    assert captions() == ["sub", "sub"]
    which = "[...document.querySelectorAll('.gp-caption i')].map(e => e.textContent)"
    assert stage.page.evaluate(which) == ["a", "step 1,500 · b"]
    stage.send(Frame(2004, 0.0, 0.0, [], panels))
    assert stage.page.evaluate(which) == ["a", "b"]


def test_marks_of_a_logarithmic_axis_are_plain_numbers_of_one_size(stage: Stage) -> None:
    marks = (
        "[...document.querySelectorAll('.xtick text')]"
        ".map(e => e.textContent.replaceAll('\\u200b', '')).join(' ')"
    )
    for x, wanted in (
        (np.geomspace(0.2, 5, 20), "0.3 1 3"),
        (np.geomspace(1, 10, 20), "1 2 5 10"),
        (np.geomspace(1e-5, 100, 20), "10−4 0.01 1 100"),
        (np.array([1.0, 20.0, 20000.0]), "1 20 20000"),
    ):
        stage.show(Curves([Curve("c", x, x)], log_x=True, x_label="σ"))
        stage.page.wait_for_function(f"{marks} === '{wanted}'", timeout=5000)
    # nor are there steps below 0 round a single point
    reach = "String(document.querySelector('.js-plotly-plot')._fullLayout.xaxis.range)"
    for at, wanted in ((0, "0,10"), (300, "0,600")):
        stage.show(Curves([Curve("c", np.full(1, at), np.ones(1))], x_label="step"))
        stage.page.wait_for_function(f"{reach} === '{wanted}'", timeout=5000)
    steps = np.arange(3.0)
    stage.show(Curves([Curve("c", steps, steps)], x_label="step"))
    stage.page.wait_for_function(f"{reach} === '0,2'", timeout=5000)
