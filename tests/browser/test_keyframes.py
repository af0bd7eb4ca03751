"""Marks with keyframes: what the slider of a panel makes of them, in the browser alone."""

from __future__ import annotations

import numpy as np
import pytest

from engines.marks import (
    Arrows,
    Frame,
    Heat,
    Images,
    Mark,
    Panel,
    Paths,
    Points,
    Slider,
)
from tests.browser.stage import BOX, Stage, readout

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize("time", [0.0, 0.25, 1.0])
def test_the_slider_runs_through_keyframes(stage: Stage, time: float) -> None:
    keys = np.array([0.0, 0.5, 1.0])
    xy = np.array([[[-2.0, 0.0]], [[0.0, 2.0]], [[2.0, 0.0]]])
    mark = Points(xy, "lost", size=8, opacity=1.0, keys=keys)
    stage.show(mark, slider=Slider("t", 0, 1, 1.0, ("noise", "data")))
    stage.move(time)
    expected = (-2 + 4 * time, {0.0: 0.0, 0.25: 1.0, 1.0: 0.0}[time])
    assert stage.spot("lost") == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(("time", "frame"), [(0.0, 0), (0.9, 0), (1.0, 1), (1.6, 1), (2.0, 2)])
def test_images_are_shown_as_they_were_drawn(stage: Stage, time: float, frame: int) -> None:
    """The last keyframe that was reached, and never a mixture of two."""
    pixels = np.full((3, 2, 4, 4), np.nan)
    pixels[1:, 0], pixels[2:, 1] = 1.0, 0.0  # the second image is white, once it is there
    mark = Images(pixels, 2, keys=np.arange(3.0))
    panel = Panel("p", "P", [mark], slider=Slider("pixels", 0, 2, 2.0))
    stage.send(Frame(1, 0.0, 0.0, [], [panel]))
    stage.page.wait_for_function("window.playground.ready")
    stage.move(time)
    seen = stage.page.evaluate(
        """() => [2, 7].map(x => {
          const canvas = document.querySelector('.gp-plot canvas');
          const { xaxis, yaxis } = document.querySelector('.gp-axes')._fullLayout;
          const ratio = canvas.width / canvas.clientWidth;
          const at = [xaxis.d2p(x) * ratio, yaxis.d2p(2) * ratio].map(Math.round);
          return canvas.getContext('2d').getImageData(...at, 1, 1).data[1];
        })"""
    )
    colour = {"nothing": range(215, 244), "ink": range(60), "paper": range(245, 256)}
    expected = [("nothing", "nothing"), ("ink", "nothing"), ("ink", "paper")]
    for green, name in zip(seen, expected[frame], strict=True):
        assert green in colour[name], (seen, name)
    # wrong twin: the keyframe before or after is another picture
    others = [e for k, e in enumerate(expected) if k != frame]
    assert all(any(g not in colour[n] for g, n in zip(seen, e, strict=True)) for e in others)


# ---------------------------------------------------------------- arrows

KEYS = np.array([0.0, 0.5, 1.0])
T = Slider("t", 0, 1, 0.0)
WAYS = np.array([[[1.0, 0.0]], [[3.0, 0.0]], [[0.0, 3.0]]])  # (T, 1, 2)


def mixed(time: float, values: np.ndarray) -> np.ndarray:
    """(T, …) at a time, each number interpolated."""
    return np.apply_along_axis(lambda v: np.interp(time, KEYS, v), 0, values)


def test_arrows_turn_and_grow_between_keyframes(stage: Stage) -> None:
    """Over feet that stay, and over feet that move with them."""
    tips = {0: (1, 0), 0.25: (2, 0), 0.5: (3, 0), 0.75: (1.5, 1.5), 1: (0, 3)}
    feet = np.array([[[-1.0, -2.0]], [[-3.0, -2.0]], [[-1.0, 0.0]]])

    def shows(foot: np.ndarray, time: float) -> bool:
        _, x1, _, y1 = stage.reach("lost")
        # the head is up to 0.1 wide
        return (x1, y1) == pytest.approx(tuple(foot + tips[time]), abs=0.15)

    for xy in (feet[0], feet):
        stage.show(Arrows(xy, WAYS, "lost", opacity=1.0, keys=KEYS), slider=T)
        for time in tips:
            stage.move(time)
            foot = mixed(time, feet)[0] if xy.ndim == 3 else xy[0]
            assert shows(foot, time)
            assert not any(shows(foot, other) for other in tips if other != time), "wrong twin"


def test_an_arrow_that_is_missing_in_a_frame_is_not_there_beside_it(stage: Stage) -> None:
    ways = np.broadcast_to([2.0, 0.0], (3, 2, 2)).copy()
    ways[1, 0] = np.nan
    feet = np.array([[0.0, 2.0], [0.0, -2.0]])
    stage.show(Arrows(feet, ways, "lost", opacity=1.0, keys=KEYS), slider=T)
    assert stage.reach("lost")[3] > 1.9
    for time in (0.25, 0.5, 0.75):
        stage.move(time)
        assert stage.reach("lost")[3] < -1.8
    stage.move(1.0)
    assert stage.reach("lost")[3] > 1.9, "wrong twin: gone for ever"


# ---------------------------------------------------------------- fields

TOPS = np.array([8.0, 2.0, 4.0])


def fields() -> np.ndarray:
    """(3, 4, 4): at the lower left three values that tell apart all ways to mix them."""
    values = np.random.default_rng(1).random((3, 4, 4))
    values[:, 0, 0] = [0.9, 0.1, 0.6]
    values[:, 3, 3] = 1.0
    return values * TOPS[:, None, None]


@pytest.mark.parametrize("hi", [None, TOPS], ids=["one scale", "each its own"])
@pytest.mark.parametrize("scale", ["sequential", "diverging"])
def test_a_field_between_keyframes_is_their_mixture(stage: Stage, scale: str, hi) -> None:
    """Its colours are those of a plain field of the mixed values; so is what hovering reads."""
    values, places = fields(), [(-3.0, -3.0), (-1.0, 1.0), (3.0, 1.0), (1.0, -3.0)]
    if scale == "diverging":
        values = values * np.where(np.arange(4) % 2, 1, -1)
    keyed = Heat(values, BOX, scale=scale, hi=hi, keys=KEYS, label="v", gamma=0.5)
    for time in (0.0, 0.3, 0.5, 0.85, 1.0):
        top = 8.0 if hi is None else float(np.interp(time, KEYS, hi))
        stage.show(keyed, slider=T)
        stage.move(time)
        read, colours = [], []
        for x, y in places:
            stage.point_at(x, y)
            read.append(float(readout(stage).split("v = ")[1].replace("\u2212", "-")))
            colours.append(stage.colour_at(x, y))
        cells = [(int((y + 4) // 2), int((x + 4) // 2)) for x, y in places]
        expected = [mixed(time, values)[cell] for cell in cells]
        # twice rounded to 254 steps, of the root where colours grow with the root
        slack = top * (0.008 if scale == "sequential" else 0.012)
        assert read == pytest.approx(expected, abs=slack)
        if time == 0.3 and scale == "sequential" and hi is None:
            wrong = 8 * mixed(time, (values / 8) ** 0.5) ** 2
            assert read != pytest.approx([wrong[cell] for cell in cells], abs=slack), (
                "wrong twin: colours mixed, not values"
            )
        assert stage.page.inner_text(".gp-scale").split()[-1] == f"{top:.2f}"
        stage.show(Heat(mixed(time, values), BOX, scale=scale, hi=top, gamma=0.5))
        plain = [stage.colour_at(x, y) for x, y in places]
        assert np.abs(np.subtract(colours, plain)).max() <= 6
    stage.show(Heat(mixed(0.5, values), BOX, scale=scale, hi=8.0, gamma=0.5))
    other = [stage.colour_at(x, y) for x, y in places]
    assert np.abs(np.subtract(colours, other)).max() > 12, "wrong twin: another frame"


def test_a_field_that_is_nothing_in_a_frame_is_nothing_beside_it(stage: Stage) -> None:
    values = fields()
    values[1, 0, 0] = np.nan
    stage.show(Heat(values, BOX, keys=KEYS, label="v"), slider=T)
    stage.point_at(-3.0, -3.0)
    seen = []
    for time in (0.0, 0.25, 0.5, 1.0):
        stage.move(time)
        seen.append("v =" in readout(stage))
    assert seen == [True, False, False, True]


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("falling", [False, True])
def test_a_path_is_drawn_as_far_as_the_slider(stage: Stage, falling: bool) -> None:
    """From (−3, 0) to the right, half of it before a tenth of the time is over."""
    xy = np.array([[-3.0, 0.0], [0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    keys = np.array([0.0, 0.1, 0.5, 1.0])
    for tail in (False, True):
        paths = Paths(xy[None], "lost", 3.0, tail, opacity=1.0, keys=1 - keys if falling else keys)
        stage.show(paths, slider=T)
        for time in (0.0, 0.05, 0.3, 0.5, 0.8, 1.0):
            stage.move(1 - time if falling else time)
            low, high, _, _ = stage.reach("lost")
            if time == 0.0 and not tail:
                assert low > high, "nothing is drawn yet"
                continue
            end = np.interp(time, keys, xy[:, 0])
            assert high == pytest.approx(end, abs=0.1)
            if time == 0.3:
                assert high != pytest.approx(-3 + 6 * time, abs=0.4), "wrong twin: evenly in time"


# ---------------------------------------------------------------- sliders


def panel(name: str, slider: Slider | None, lane: int = 0, rise: float = 1.0) -> Panel:
    xy = np.array([[[-3.0, 0.0]], [[3.0, 0.0]]])
    keys = np.array([0.0, rise])
    return Panel(name, name, [Points(xy, "lost", size=8, opacity=1.0, keys=keys)],
                 box=BOX, slider=slider, lane=lane)  # fmt: skip


def show(stage: Stage, *panels: Panel) -> None:
    stage.send(Frame(stage.seq, 0.0, 0.0, [], list(panels)))
    stage.page.wait_for_function("window.playground.ready && view.toMount.length === 0")
    stage.page.wait_for_timeout(100)


def values(stage: Stage) -> list[float]:
    return stage.page.evaluate(
        "[...document.querySelectorAll('.gp-slider input')].map(i => Number(i.value))"
    )


def middle(stage: Stage, index: int) -> float:
    x0, x1, _, _ = stage.reach("lost", index)
    return (x0 + x1) / 2


def linked(value: float = 0.0, low: float = 0.0, high: float = 1.0, name: str = "t") -> Slider:
    return Slider("t", low, high, value, linked=name)


def test_linked_sliders_move_together_and_others_stay(stage: Stage) -> None:
    a, b = panel("a", linked()), panel("b", linked(), lane=1)
    short = panel("short", linked(0.0, 0.0, 0.5))
    other, alone = panel("other", linked(name="layer")), panel("alone", Slider("t", 0, 1, 0.0))
    show(stage, a, b, short, other, alone)
    assert values(stage) == [0.0] * 5
    stage.move(0.75, 1)
    assert values(stage) == [0.75, 0.75, 0.5, 0.0, 0.0]
    assert [middle(stage, k) for k in range(5)] == pytest.approx([1.5, 1.5, 0, -3, -3], abs=0.1)
    texts = stage.page.evaluate(
        "[...document.querySelectorAll('.gp-slider output')].map(o => o.textContent)"
    )
    assert texts == ["0.75", "0.75", "0.50", "0.00", "0.00"]
    stage.move(0.25, 4)
    assert values(stage) == [0.75, 0.75, 0.5, 0.0, 0.25]
    # one that comes later stands where they stand
    show(stage, a, b, short, other, alone, panel("late", linked(1.0)))
    assert values(stage)[-1] == 0.75
    assert middle(stage, 5) == pytest.approx(1.5, abs=0.1)


def test_a_sweep_takes_linked_sliders_along_until_one_is_held(stage: Stage) -> None:
    show(stage, panel("a", linked()), panel("b", linked()), panel("c", Slider("t", 0, 1, 0.5)))
    sweeps = stage.page.locator(".gp-sweep")
    sweeps.nth(0).click()
    stage.page.wait_for_function("document.querySelectorAll('.gp-slider input')[1].value > 0.1")
    assert values(stage)[2] == 0.5
    stage.move(0.9, 1)  # the other's slider stops it
    stage.page.wait_for_timeout(200)
    assert values(stage) == [0.9, 0.9, 0.5]
    pressed = "[...document.querySelectorAll('.gp-sweep')].map(b => b.ariaPressed)"
    assert stage.page.evaluate(pressed) == ["false"] * 3
    sweeps.nth(1).click()
    assert stage.page.evaluate(pressed) == ["false", "true", "false"]
    sweeps.nth(0).click()  # any of their buttons stops it
    sweeps.nth(1).click()
    sweeps.nth(1).click()
    held = values(stage)
    stage.page.wait_for_timeout(200)
    assert values(stage) == held


def test_a_slider_that_nobody_moved_follows_its_range(stage: Stage) -> None:
    """Twelve layers and then sixteen: it stays at the end, unless it was put elsewhere."""
    show(stage, panel("a", linked(12, 0, 12), rise=12), panel("b", linked(12, 0, 12)))
    show(stage, panel("a", linked(16, 0, 16), rise=16), panel("b", linked(16, 0, 16)))
    assert values(stage) == [16, 16]
    stage.move(3.0)
    show(stage, panel("a", linked(2, 0, 2), rise=2), panel("b", linked(2, 0, 2)))
    assert values(stage) == [2, 2]
    show(stage, panel("a", linked(16, 0, 16), rise=16), panel("b", linked(16, 0, 16)))
    stage.move(3.0)
    show(stage, panel("a", linked(9, 0, 9), rise=9), panel("b", linked(9, 0, 9)))
    assert values(stage) == [3, 3], "wrong twin: put back"


def test_the_slider_works_on_what_is_past(stage: Stage) -> None:
    """All frames of a field are in the tape: rewound, the slider runs through the old ones."""
    heat = lambda scale: Heat(scale * fields(), BOX, keys=KEYS, label="v")  # noqa: E731
    marks: list[Mark] = [heat(1.0)]
    stage.show(*marks, slider=T)
    stage.show(heat(10.0), slider=T)
    stage.point_at(-3.0, -3.0)
    stage.move(0.25)
    read = lambda: float(readout(stage).split("v = ")[1])  # noqa: E731
    now = mixed(0.25, fields())[0, 0]
    assert read() == pytest.approx(10 * now, abs=0.5)
    stage.page.evaluate("view.rewind(view.tape.entries[0])")
    stage.page.wait_for_timeout(200)
    assert read() == pytest.approx(now, abs=0.06)
    stage.move(0.5)
    assert read() == pytest.approx(fields()[1, 0, 0], abs=0.06)
    assert read() != pytest.approx(now, abs=0.5)
