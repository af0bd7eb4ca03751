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
