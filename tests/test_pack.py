"""Packed frames: what arrives in the browser is what the Frame said."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.pack import Known, MissingBlock, pack, unpack
from engines import Experiment
from engines.marks import (
    Arrows,
    Bars,
    Curve,
    Curves,
    Frame,
    Heat,
    Images,
    Mark,
    Metric,
    Panel,
    Points,
    Slider,
)
from engines.quantise import FAR
from tests.frames import BOX, HOSTILE, check, every_mark, frame_of, rng, through, unfit

# ---------------------------------------------------------------- round trips


def test_every_type_of_mark_is_tried() -> None:
    assert set(every_mark()) == {kind.__name__ for kind in Mark.__subclasses__()}


@pytest.mark.parametrize("kind", every_mark())
def test_round_trip(kind: str) -> None:
    mark = every_mark()[kind]
    check(mark, through(mark))


@pytest.mark.parametrize("kind", [k for k in every_mark() if k not in ("Bars", "Text", "Curves")])
def test_round_trip_rejects_a_flipped_picture(kind: str) -> None:
    """Wrong twin: rows upside down (or points in another order) are noticed."""
    mark = every_mark()[kind]
    name = next(f for f in ("values", "pixels", "mean", "xy") if hasattr(mark, f))
    flipped = dataclasses.replace(mark, **{name: getattr(mark, name)[::-1]})
    with pytest.raises(AssertionError):
        check(mark, through(flipped))


@pytest.mark.parametrize("kind", every_mark())
def test_empty_arrays(kind: str) -> None:
    """A mark of nothing is still a mark."""
    mark = every_mark()[kind]
    if kind in ("Curves", "Heat", "Surface"):
        mark = Curves([Curve("none", np.zeros(0), np.zeros(0))])
    else:
        cut = {f.name: v[:0] for f in dataclasses.fields(mark)
               if isinstance(v := getattr(mark, f.name), np.ndarray) and f.name != "keys"}  # fmt: skip
        mark = dataclasses.replace(mark, **cut)
    assert through(mark)["type"] == type(mark).__name__


def test_panel_and_header() -> None:
    panel = Panel("id", "Title", [], "sub", BOX, "wide", Slider("t", 0, 1, 0.5, ("a", "b"), "l"), True,
                  4.0, 2, "help")  # fmt: skip
    frame = Frame(1234, 5.25, 99.5, [], [panel], "a note", {"title": "from the frame"})
    got = unpack(
        pack(frame, seq=8, extra={"playing": True, "about": {"paper": "P 2020"}, "run": 3})
    )
    assert (got["seq"], got["step"], got["seconds"], got["rate"]) == (8, 1234, 5.25, 99.5)
    assert got["note"] == "a note"
    assert got["about"] == {"title": "from the frame", "paper": "P 2020"}
    assert got["extra"] == {"playing": True, "run": 3}
    assert abs(got["t"] / 1000 - time.time()) < 60
    (seen,) = got["panels"]
    assert seen == {"id": "id", "title": "Title", "subtitle": "sub", "box": list(BOX),
                    "size": "wide", "estimate": True, "lane": 2, "help": "help", "marks": [],
                    "equal": True,
                    "slider": {"label": "t", "low": 0, "high": 1, "value": 0.5,
                               "ends": ["a", "b"], "linked": "l"}}  # fmt: skip


def test_a_pixel_that_is_not_there_yet_is_not_a_white_one() -> None:
    got = through(Images(np.array([[[np.nan, 0.0], [1.0, 7.0]]])))["pixels"]
    assert np.array_equal(got, [[[np.nan, 0.0], [1.0, 1.0]]], equal_nan=True)


def test_a_density_that_was_renewed_is_what_the_browser_gets() -> None:
    """What a panel was packed into is kept with it, but not for the one that takes its place."""
    run = Experiment("moons", "diffusion", knobs={"width": 16, "hidden": 1}).start("cpu")
    lane, known, blocks = run.lanes[0], Known(), {}

    def seen() -> dict:
        frame = run.frame(fresh=False, measure=False)
        return {p["id"]: p for p in unpack(pack(frame, known), blocks)["panels"]}["model"]

    run.frame(measure=False)
    before = seen()
    lane.density.values, lane.density.step = np.full((8, 8), 0.5, np.float32), 7
    lane.density.told = "step 7"
    run._looking._renew(lane)
    after = seen()
    assert after["marks"][0]["values"].shape == (8, 8) != before["marks"][0]["values"].shape
    assert "step 7" in after["subtitle"] and "step 7" not in before["subtitle"]


def test_a_panel_that_was_not_drawn_is_drawn() -> None:
    frame = Frame(0, 0.0, 0.0, [], [Panel("p", "P", lambda: [every_mark()["Points"]])])
    assert unpack(pack(frame))["panels"][0]["marks"][0]["type"] == "Points"


# ---------------------------------------------------------------- quantisation


@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.0, 2.0])
def test_sequential_heat_error_is_bounded(gamma: float) -> None:
    lo, hi = 0.5, 9.0
    values = np.linspace(lo, hi, 5000).reshape(50, 100)
    got = through(Heat(values, BOX, lo=lo, hi=hi, gamma=gamma))["values"]
    warp = lambda v: ((v - lo) / (hi - lo)) ** gamma  # noqa: E731
    assert np.abs(warp(got) - warp(values)).max() <= 1 / 508 + 1e-9
    if gamma == 0.5:
        assert np.abs(got - values).max() <= 0.004 * (hi - lo)
    # wrong twin: the colour's inverse forgotten
    with pytest.raises(AssertionError):
        assert np.abs(warp(warp(got) + lo) - warp(values)).max() <= 1 / 508 + 1e-9


def test_diverging_heat_is_symmetric_and_keeps_zero() -> None:
    values = np.linspace(-3, 3, 601)[None]
    got = through(Heat(values, BOX, scale="diverging", hi=3.0))["values"]
    assert np.abs(got - values).max() <= 3 / 254 + 1e-9
    assert got[0, 300] == 0.0
    assert np.allclose(got, -got[:, ::-1])


def test_heat_takes_its_own_range_and_cuts_what_is_outside() -> None:
    got = through(Heat(np.array([[0.0, 1.0, 7.0]]), BOX))["values"]
    assert got[0, 2] == pytest.approx(7.0)
    cut = through(Heat(np.array([[-1.0, 0.5, 7.0]]), BOX, hi=1.0))["values"]
    assert cut[0, 0] == 0.0
    assert cut[0, 2] == 1.0
    flat = through(Heat(np.zeros((2, 2)), BOX))["values"]
    assert (flat == 0).all()


def test_heat_without_a_value_is_nothing() -> None:
    values = np.array([[np.nan, 1.0, np.inf, -np.inf]])
    got = through(Heat(values, BOX, hi=2.0))["values"]
    assert np.isnan(got[0, 0])
    assert got[0, 1] == pytest.approx(1.0, abs=0.02)
    assert (got[0, 2], got[0, 3]) == (2.0, 0.0)
    assert np.isnan(through(Heat(np.full((3, 3), np.nan), BOX))["values"]).all()


@pytest.mark.parametrize("scale", ["sequential", "diverging"])
def test_keyframes_of_a_heat_share_one_scale_or_bring_their_own(scale: str) -> None:
    """A flat field beside a sharp one: 400 times lower, so one scale leaves it few codes."""
    tops = np.array([0.01, 0.5, 4.0])
    values = tops[:, None, None] * np.linspace(0.0, 1.0, 48).reshape(6, 8)
    keys = np.array([0.0, 0.3, 1.0])
    heat = lambda **how: through(Heat(values, BOX, scale=scale, gamma=1.0, keys=keys, **how))  # noqa: E731
    within = lambda got, tops: (  # noqa: E731
        np.abs(got - values) <= np.reshape(tops, (-1, 1, 1)) / 253.9
    ).all()
    common, own = heat()["values"], heat(hi=tops)
    assert within(common, 4.0)
    assert not within(common, tops), "wrong twin: one scale for all"
    assert within(own["values"], tops)
    assert not within(own["values"][::-1], tops), "wrong twin: the frames the other way round"
    assert np.array_equal(own["keys"], keys.astype(np.float32))
    # a frame of nothing has a scale all the same
    assert np.isfinite(through(Heat(0 * values, BOX, hi=0 * tops, keys=keys))["values"]).all()


def test_keyframes_that_do_not_fit_are_told_from_those_that_do() -> None:
    """The contract of tests/test_engines.py asks every engine's panels."""
    slider = Slider("t", 0, 1, 0)
    keyed = {kind: mark for kind, mark in every_mark().items() if hasattr(mark, "keys")}
    for kind, mark in keyed.items():
        assert unfit([Panel("p", "P", [mark], slider=slider)]) == []
        wrong = [mark.keys[:-1], mark.keys + 0.5, mark.keys[[0, 2, 1, *range(3, len(mark.keys))]]]
        wrong += [] if kind == "Paths" else [None, mark.keys[::-1]]
        for keys in wrong:
            twin = dataclasses.replace(mark, keys=keys)
            assert unfit([Panel("p", "P", [twin], slider=slider)]), (kind, keys)
        assert unfit([Panel("p", "P", [mark])]), "no slider"
    assert unfit([Panel("p", "P", [Points(np.zeros((3, 2)))], slider=slider)]), "nothing to slide"
    heat = dataclasses.replace(keyed["Heat"], hi=np.ones(3))
    assert unfit([Panel("p", "P", [heat], slider=slider)]), "four frames, three scales"


def test_what_keyframes_cost() -> None:
    """As the docstring of app/pack.py says: H·W bytes of a field, 4 of an arrow, a third more."""
    keys, feet = np.linspace(0, 1, 8), rng().normal(size=(256, 2))
    still, moving = rng().normal(size=(2, 8, 256, 2))
    size = lambda mark: len(pack(frame_of(mark))) - len(pack(frame_of()))  # noqa: E731
    assert size(Heat(rng().random((8, 64, 64)), BOX, keys=keys)) < 8 * 64 * 64 * 4 / 3 + 1500
    assert size(Arrows(feet, still, keys=keys)) < 9 * 256 * 4 * 4 / 3 + 1500
    assert size(Arrows(moving, still, keys=keys)) > 16 * 256 * 4 * 4 / 3, (
        "wrong twin: its feet move"
    )


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 30), st.just(2)),
        elements=st.one_of(st.floats(-40, 40, width=32), st.sampled_from([math.nan, math.inf])),
    )
)
def test_points_are_within_half_a_step(xy: np.ndarray) -> None:
    got = through(Points(xy))["xy"]
    lost = ~np.isfinite(xy).all(1)
    assert np.isnan(got[lost]).all()
    # the range is that of each coordinate's finite values
    span = [
        np.ptp(column[np.isfinite(column)]) if np.isfinite(column).any() else 0.0 for column in xy.T
    ]
    error = np.abs(got - xy)[~lost]
    assert (error <= np.array(span) / 131068 * 1.001 + 1e-6).all()


def test_points_are_not_clipped_to_the_box_and_far_ones_take_no_resolution() -> None:
    xy = np.array([[5.0, 0.0], [1e9, 0.0], [0.0, -1e30], [np.inf, 0.0], [0.5, np.nan]])
    got = through(Points(xy))["xy"]
    width = BOX[1] - BOX[0]
    assert got[0, 0] == pytest.approx(5.0, abs=0.01)
    assert got[1, 0] == pytest.approx(BOX[1] + FAR * width, rel=1e-3)
    assert np.isnan(got[3:]).all()


# ---------------------------------------------------------------- blocks sent once


def test_known_blocks_are_not_sent_again() -> None:
    frame, known, held = frame_of(*every_mark().values()), Known(), {}
    first = pack(frame, known, seq=1)
    second = pack(frame, known, seq=2)
    a, b = unpack(first, held), unpack(second, held)
    assert len(second) < 0.05 * len(first)
    assert str(a["panels"]) == str(b["panels"])


def test_only_the_panel_that_changed_is_sent() -> None:
    still = Panel("still", "S", [Heat(rng().random((100, 100)), BOX)])
    moving = lambda i: Panel("m", "M", [Points(rng().normal(size=(10, 2)) + i)])  # noqa: E731
    known, held = Known(), {}
    sizes = []
    for i in range(5):
        text = pack(Frame(i, 0.0, 0.0, [], [still, moving(i * i)]), known)
        unpack(text, held)
        sizes.append(len(text))
    assert sizes[0] > 13_000
    assert max(sizes[1:]) < 2_000


def test_a_lost_frame_is_noticed_and_everything_sent_again() -> None:
    frame, known, held = frame_of(*every_mark().values()), Known(), {}
    first = pack(frame, known, seq=1)  # never arrives
    with pytest.raises(MissingBlock):
        unpack(pack(frame, known, seq=2), held)
    known.clear()
    again = pack(frame, known, seq=3)
    assert abs(len(again) - len(first)) < 8
    assert len(unpack(again, held)["panels"][0]["marks"]) == len(every_mark())


def test_about_is_sent_only_when_it_changes() -> None:
    known, held = Known(), {}
    sizes = {}
    for seq, tagline in enumerate(["a" * 3000, "a" * 3000, "b" * 3000]):
        text = pack(frame_of(), known, seq=seq, extra={"about": {"tagline": tagline}})
        assert unpack(text, held)["about"]["tagline"] == tagline
        sizes[seq] = len(text)
    assert sizes[1] < 1000 < sizes[0]
    assert sizes[2] > 4000


def test_known_forgets_the_least_recently_used() -> None:
    known = Known(limit=2)
    assert not known.touch("a")
    assert not known.touch("b")
    assert known.touch("a")
    assert not known.touch("c")  # b goes
    assert known.touch("a")
    assert not known.touch("b")


def test_a_browser_that_keeps_more_never_misses_a_block() -> None:
    """The browser's memory in assets/live/blocks.js, played here: twice as many, the same order."""
    from collections import OrderedDict

    known, held = Known(limit=12), OrderedDict()

    def touch(value) -> None:
        if isinstance(value, list):
            for one in value:
                touch(one)
        elif isinstance(value, dict) and "hash" in value:
            content = held[value["hash"]]
            held.move_to_end(value["hash"])
            if value["dtype"] == "json":
                touch(json.loads(content))
        elif isinstance(value, dict):
            for one in value.values():
                touch(one)

    for i in range(60):
        panels = [Panel(f"p{k}", "P", [Points(rng().normal(size=(5, 2)) + (i // (k + 1)))])
                  for k in range(4)]  # fmt: skip
        raw = base64.b64decode(pack(Frame(i, 0.0, 0.0, [], panels), known))
        (size,) = struct.unpack_from("<I", raw)
        header = json.loads(raw[4 : 4 + size])
        for name, offset, length in header["blocks"]:
            held[name] = raw[4 + size + offset : 4 + size + offset + length]
            held.move_to_end(name)
        for reference in (header["about"], header["metrics"]["what"], header["panels"]):
            touch(reference)  # raises KeyError on a block that is missing
        while len(held) > 24:
            held.popitem(last=False)


def test_packing_changes_nothing() -> None:
    marks = every_mark()
    before = {k: str(v) for k, v in marks.items()}
    a = pack(frame_of(*marks.values()))
    assert {k: str(v) for k, v in marks.items()} == before
    held = unpack(a)["panels"]
    assert str(held) == str(unpack(pack(frame_of(*marks.values())))["panels"])


def test_blocks_are_aligned_for_typed_arrays() -> None:
    raw = base64.b64decode(pack(frame_of(*every_mark().values())))
    (size,) = struct.unpack_from("<I", raw)
    assert size % 4 == 0
    assert all(offset % 4 == 0 for _, offset, _ in json.loads(raw[4 : 4 + size])["blocks"])


# ---------------------------------------------------------------- numbers and texts


def test_every_field_of_a_metric_arrives() -> None:
    metric = Metric("kl", 0.5, "nats", "lower bound", 0.01, 0.02, 30, "KL", "help", 8, "note", 1)
    (got,) = unpack(pack(frame_of(metrics=[metric])))["metrics"]
    assert got == dataclasses.asdict(metric)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_numbers_survive(value: float) -> None:
    metrics = [Metric("kl", value, note="3 % of q lies where p is 0", floor=value)]
    text = pack(frame_of(metrics=metrics))
    (got,) = unpack(text)["metrics"]
    assert (got["value"], got["floor"]) == (value, value)
    assert got["note"] == "3 % of q lies where p is 0"
    assert b"Infinity," not in base64.b64decode(text).replace(b'Infinity"', b"")


def test_not_a_number_is_null() -> None:
    frame = frame_of(metrics=[Metric("x", float("nan"))])
    frame.rate = float("nan")
    got = unpack(pack(frame))
    assert got["metrics"][0]["value"] is None
    assert got["rate"] is None
    curves = through(Curves([Curve("c", np.arange(3.0), np.array([1, np.nan, np.inf]))],
                            [("level", math.inf)]))  # fmt: skip
    assert np.isnan(curves["lines"][0]["y"][1])
    assert np.isposinf(curves["lines"][0]["y"][2])
    assert curves["levels"] == [["level", "Infinity"]]


def test_hostile_texts_stay_texts() -> None:
    panel = Panel("<b>", HOSTILE, [Bars([HOSTILE], np.ones(1))], HOSTILE, help=HOSTILE)
    frame = Frame(0, 0.0, 0.0, [Metric(HOSTILE, 1.0, note=HOSTILE)], [panel], HOSTILE)
    text = pack(frame, extra={"about": {"title": HOSTILE, "hash": "x", "n": np.float32(2)}})
    assert text.isascii()
    assert "<" not in text
    got = unpack(text)
    assert got["note"] == got["about"]["title"] == got["panels"][0]["title"] == HOSTILE
    assert got["panels"][0]["marks"][0]["names"] == [HOSTILE]
    assert got["metrics"][0]["name"] == got["metrics"][0]["note"] == HOSTILE


def test_a_metric_called_infinity_keeps_its_name() -> None:
    (got,) = unpack(pack(frame_of(metrics=[Metric("Infinity", 1.0, label="Infinity")])))["metrics"]
    assert (got["name"], got["label"], got["value"]) == ("Infinity", "Infinity", 1.0)


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    x = np.arange(12_345.0)
    line = through(Curves([Curve("c", x, x**2)]))["lines"][0]
    assert len(line["x"]) == 500
    assert (line["x"][0], line["x"][-1]) == (0.0, 12_344.0)
    assert np.allclose(line["y"], line["x"].astype(float) ** 2, rtol=1e-6)


# ---------------------------------------------------------------- sizes


def test_a_typical_frame_is_at_most_40_kb() -> None:
    """A density, its error, a thousand samples and a curve that all change in one frame."""
    known, held, sizes = Known(), {}, []
    data = Points(rng().normal(size=(1000, 2)), "data", static=True)
    exact = Panel("truth", "Exact", [Heat(rng().random((100, 100)), BOX, static=True), data])
    for i in range(8):
        r = np.random.default_rng(i)
        panels = [
            Panel("model", "Model", [Heat(r.random((100, 100)), BOX), data,
                                     Points(r.normal(size=(1000, 2)))], box=BOX, size="large"),
            Panel("error", "Error", [Heat(r.normal(size=(100, 100)), BOX, scale="diverging")]),
            exact,
            Panel("loss", "Loss", [Curves([Curve("loss", np.arange(50.0) + i, r.random(50))])]),
        ]  # fmt: skip
        metrics = [Metric(f"m{k}", float(r.random()), help="a long sentence " * 8, label="M")
                   for k in range(12)]  # fmt: skip
        text = pack(Frame(i, 0.0, 0.0, metrics, panels), known)
        sizes.append(len(text))
        assert len(unpack(text, held)["panels"]) == 4
    assert max(sizes[1:]) <= 40_000
    assert np.mean(sizes[1:]) <= 38_000


def test_a_real_frame_goes_through() -> None:
    run = Experiment("ring8", "mixture", seed=0).start("cpu")
    run.train(steps=3)
    frame = run.frame()
    got = unpack(pack(frame, extra={"about": {"title": "Mixture"}}))
    assert [p["id"] for p in got["panels"]] == [p.id for p in frame.panels]
    assert [m["name"] for m in got["metrics"]] == [m.name for m in frame.metrics]
    for panel, seen in zip(frame.panels, got["panels"], strict=True):
        assert [m["type"] for m in seen["marks"]] == [type(m).__name__ for m in panel.marks]
