"""What the tests of packed frames share: one of every mark, and what may become of it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from app.pack import pack, unpack
from engines.marks import (
    Arrows,
    Bars,
    Curve,
    Curves,
    Ellipses,
    Frame,
    Handles,
    Heat,
    Images,
    Mark,
    Mesh,
    Panel,
    Paths,
    Points,
    Surface,
    Text,
)

BOX = (-4.0, 4.0, -3.0, 3.0)
HOSTILE = '<script>alert(1)</script> & "quotes" \u2028 \ud800 ${value} {{this}} </b>\x00'


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def every_mark() -> dict[str, Mark]:
    """One of each type in engines/marks.py, with all that it can hold."""
    r = rng()
    keys = np.linspace(0, 1, 4)
    cov = np.einsum("kij,klj->kil", a := r.normal(size=(3, 2, 2)), a)
    return {
        "Heat": Heat(r.random((4, 20, 30)), BOX, gamma=1.0, lo=0.0, hi=1.0, keys=keys),
        "Points": Points(r.normal(size=(4, 50, 2)), group=r.integers(0, 8, 50),
                         alpha=r.random(50), keys=keys, label="points"),
        "Paths": Paths(r.normal(size=(5, 7, 2)), tail=True, fill=True, keys=np.linspace(1, 0, 7)),
        "Arrows": Arrows(r.normal(size=(9, 2)), r.normal(size=(4, 9, 2)), keys=keys),
        "Mesh": Mesh(r.normal(size=(4, 6, 5, 2)), keys=keys),
        "Ellipses": Ellipses(r.normal(size=(3, 2)), cov, np.array([0.2, 0.3, 0.5]), grouped=True),
        "Surface": Surface(r.normal(size=(12, 10)), BOX, "energy", "nats"),
        "Images": Images(r.random((4, 6, 8, 8)), 3, tags=["a", "b", "c", "d", "e", HOSTILE],
                         keys=keys),
        "Curves": Curves([Curve("loss", np.arange(9.0), r.random(9)),
                          Curve("old", np.arange(9.0), r.random(9), ghost=True)],
                         [("entropy", 1.5)], y_label="nats"),
        "Bars": Bars(["x", HOSTILE], np.array([0.25, 0.75]), np.array([0.5, 0.5])),
        "Text": Text(["to", "be", HOSTILE], np.array([0.0, 0.5, 1.0])),
        "Handles": Handles(r.normal(size=(2, 2)), "follow", ["one", "two"]),
    }  # fmt: skip


def frame_of(*marks: Mark, **rest) -> Frame:
    return Frame(7, 1.5, 200.0, rest.pop("metrics", []), [Panel("p", "P", list(marks), box=BOX)],
                 **rest)  # fmt: skip


def through(mark: Mark, box=BOX) -> dict:
    """One mark, packed and unpacked."""
    panel = Panel("p", "P", [mark], box=box)
    return unpack(pack(Frame(0, 0.0, 0.0, [], [panel])))["panels"][0]["marks"][0]


def tolerance(mark: Mark, name: str, value: np.ndarray) -> float:
    """The error that app/pack.py promises for one array, in the array's own units."""
    if isinstance(mark, Surface):
        return np.ptp(value) / 131068 * 1.001
    if name in ("xy", "vectors"):
        return max(np.ptp(value[..., i]) for i in range(value.shape[-1])) / 131068 * 1.001 + 1e-8
    if name == "alpha" or name == "pixels":
        return 0.501 / 254
    if isinstance(mark, Heat):
        return 1.001 / 508  # gamma 1, from 0 to 1
    return 1e-6 * max(1.0, float(np.abs(value).max()))


def check(mark: Mark, seen: dict) -> None:
    """Every field of `mark` is in `seen`, arrays within their promised error."""
    assert seen["type"] == type(mark).__name__
    for field in dataclasses.fields(mark):
        value, got = getattr(mark, field.name), seen[field.name]
        if isinstance(value, np.ndarray):
            got = got[..., 0] if isinstance(mark, Surface) else got
            assert got.shape == value.shape, field.name
            assert np.abs(got - value).max() <= tolerance(mark, field.name, value), field.name
        elif field.name == "lines":
            for curve, line in zip(value, got, strict=True):
                check(curve, line)
        else:
            assert got == json.loads(json.dumps(value)), field.name


AXES = {"Heat": {"values": 2}, "Points": {"xy": 2}, "Mesh": {"xy": 3}, "Images": {"pixels": 3},
        "Arrows": {"xy": 2, "vectors": 2}}  # of one frame  # fmt: skip


def unfit(panels: list[Panel]) -> list[str]:
    """What is wrong with the keyframes of some drawn panels, a sentence each."""
    faults = []
    for panel in panels:
        keyed = [mark for mark in panel.marks if getattr(mark, "keys", None) is not None]
        if bool(keyed) != (panel.slider is not None):
            faults.append(f"{panel.id}: keyframes and a slider need each other")
        for mark in panel.marks:
            faults += [f"{panel.id}: {type(mark).__name__}: {why}" for why in _unfit(mark, panel)]
    return faults


def _unfit(mark: Mark, panel: Panel) -> list[str]:
    axes = {name: getattr(mark, name) for name in AXES.get(type(mark).__name__, {})}
    deep = [a for name, a in axes.items() if a.ndim == AXES[type(mark).__name__][name] + 1]
    keys = getattr(mark, "keys", None)
    if keys is None:
        return ["frames without keys"] if deep else []
    way = -1 if isinstance(mark, Paths) and keys[0] > keys[-1] else 1
    out = [] if (np.diff(way * keys) > 0).all() else ["its keys do not rise"]
    if panel.slider and not (panel.slider.low - 1e-6 <= keys.min() <= keys.max()
                             <= panel.slider.high + 1e-6):  # fmt: skip
        out.append("keys that the slider never reaches")
    lengths = [a.shape[0] for a in deep] or [mark.xy.shape[1] if isinstance(mark, Paths) else -1]
    if isinstance(getattr(mark, "hi", None), np.ndarray):
        lengths.append(mark.hi.size)
    return out if set(lengths) == {len(keys)} else [*out, "as many frames as keys, please"]
