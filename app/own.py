"""A visitor's own data: strokes of the brush, Gaussians by hand, tables and pictures.

What assets/editor.js sends arrives here, is checked, and goes on to the Session: as data
under the running model where that is possible, else as a new experiment.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from app.session import Session
from engines import DATASETS, BadInput, Experiment
from engines.data.own import snap
from engines.data.upload import MAX_BYTES, Table, read_picture, read_table
from engines.knobs import shown

MOST_DRAWN = 2_000  # points: what a link can carry
BEGINNING = 500  # points of the present data that a drawing begins with


def state(session: Session) -> dict[str, Any]:
    """What the editor shows: which tool is in hand, and what it works on."""
    now = session.experiment
    out: dict[str, Any] = {"kind": now.dataset if now.dataset in HAND_MADE else "other"}
    if now.points is not None:
        out["kind"], out["count"] = "points", len(now.points)
        out["large"] = len(now.points) > MOST_DRAWN
        out["points"] = [] if out["large"] else np.asarray(now.points).ravel().tolist()
        if session.table is not None:
            table, name, x, y, points = session.table
        if session.table is not None and np.array_equal(points, now.points):
            out["name"] = name
            out["table"] = {"numeric": list(table.numeric), "chosen": {"x": x, "y": y}}
    elif now.dataset == "gaussians":
        out["components"] = now.options["components"]
    return out


def _put(session: Session, experiment: Experiment, begin: bool = True, end: bool = True):
    """Under the running model where data of this shape fits it, else from the beginning."""
    here = session.experiment.make_dataset()
    if experiment.make_dataset().shape == here.shape:
        return session.feed(experiment, undoable=begin, measure=end)
    return session.open(experiment)


def _flags(given: dict[str, Any]) -> tuple[bool, bool]:
    return given.get("begin") is not False, given.get("end") is not False


def draw(session: Session, given: dict[str, Any]) -> str | None:
    """Points of the brush: xy is a flat list x₀, y₀, x₁, y₁ …"""
    if session.stale("data", given.get("turn")):
        return None
    xy = given.get("xy")
    number = lambda v: isinstance(v, (int, float)) and not isinstance(v, bool)  # noqa: E731
    if not isinstance(xy, list) or len(xy) % 2 or not all(map(number, xy)):
        raise BadInput("A drawing is a list of numbers, two for each point.")
    if len(xy) > 2 * MOST_DRAWN:
        raise BadInput(f"At most {MOST_DRAWN:,} points can be drawn; got {len(xy) // 2:,}.")
    points = np.reshape(np.asarray(xy, dtype=np.float64), (-1, 2))
    experiment = session.experiment.but(dataset="points", options={}, points=points)
    return _put(session, experiment, *_flags(given))


def compose(session: Session, given: dict[str, Any]) -> str | None:
    """The mixture editor's Gaussians."""
    if session.stale("data", given.get("turn")):
        return None
    options = {"components": given.get("components")}
    experiment = session.experiment.but(dataset="gaussians", options=options, points=None)
    return _put(session, experiment, *_flags(given))


def edit(session: Session, given: dict[str, Any]) -> str | None:
    """Take up a tool. A drawing begins with points of the data that are there now."""
    kind = given.get("kind")
    if kind == "gaussians":
        default = {"components": DATASETS["gaussians"].complete()["components"]}
        return _put(
            session,
            session.experiment.but(dataset="gaussians", options=default, points=None),
        )
    if kind != "points":
        raise BadInput(f"There is no tool {shown(kind)}.")
    now = session.experiment
    if now.points is not None and len(now.points) <= MOST_DRAWN:
        return session.show()
    dataset = now.make_dataset()
    if dataset.shape != (2,):
        dataset = DATASETS[Session.START[0]]()
    rng = torch.Generator().manual_seed(now.seed)
    points = snap(dataset.sample(BEGINNING, rng).numpy())
    return _put(session, now.but(dataset="points", options={}, points=points))


def _bytes(given: dict[str, Any]) -> tuple[bytes, str]:
    name, data, size = given.get("name"), given.get("data"), given.get("size")
    if not isinstance(name, str) or not isinstance(data, str):
        raise BadInput("That is not a file.")
    if isinstance(size, int) and size > MAX_BYTES and not data:
        raise BadInput(f"A file may have 5 MB at most; this one has {size / 1e6:.1f} MB.")
    try:
        return base64.b64decode(data, validate=True), name[:120]
    except (ValueError, binascii.Error) as error:
        raise BadInput("That file did not arrive whole; please try again.") from error


def upload(session: Session, given: dict[str, Any]) -> str | None:
    """A table: its first two numeric columns become the data."""
    raw, name = _bytes(given)
    return _columns(session, read_table(raw, name), name, None, None)


def columns(session: Session, given: dict[str, Any]) -> str | None:
    """Other columns of the table that was uploaded."""
    if session.table is None:
        raise BadInput("Upload a table first.")
    table, name, *_ = session.table
    return _columns(session, table, name, given.get("x"), given.get("y"))


def _columns(session: Session, table: Table, name: str, x: Any, y: Any) -> str | None:
    x, y = table.chosen(x, y)
    points, note = comparable(table.points(x, y), x, y)
    experiment = session.experiment.but(dataset="points", options={}, points=points)
    session.table = (table, name, x, y, experiment.points)
    # its units may be others by thousands: the model begins again, standardised for these
    return session.open(experiment, " ".join(filter(None, [table.note(x, y), note])))


def comparable(points: np.ndarray, x: str, y: str) -> tuple[np.ndarray, str]:
    """Points that one square picture can show, and a sentence if they had to be scaled.

    Axes are equal here, so that a circle is a circle: columns whose spreads differ twentyfold,
    or that lie too far out for float32, are set to mean 0 and standard deviation 1.
    """
    spread = points.std(0)
    usual = np.abs(points).max() < 1e6 and (spread > 1e-4 * np.abs(points).max(0)).all()
    if not (spread > 0).all() or (
        usual and spread.max() < 20 * spread.min() and spread.min() > 1e-6
    ):
        return points, ""
    scaled = (points - points.mean(0)) / spread
    return scaled, (
        f"The columns {x[:40]} and {y[:40]} have very different scales: both were set to mean 0 "
        "and standard deviation 1."
    )


def picture(session: Session, given: dict[str, Any]) -> str | None:
    """An image as a density: dark is mass; `invert` turns that round."""
    if given.get("invert") is True:
        kept = session.experiment.options.get("pixels")
        if session.experiment.dataset != "picture" or kept is None:
            raise BadInput("There is no picture to invert.")
        raw = np.frombuffer(base64.b64decode(kept["data"]), np.uint8)
        if (raw == 255).all():
            raise BadInput("Inverted, this picture would be empty.")
        pixels = {"size": kept["size"], "data": base64.b64encode((255 - raw).tobytes()).decode()}
    else:
        pixels = read_picture(_bytes(given)[0])
    experiment = session.experiment.but(dataset="picture", options={"pixels": pixels}, points=None)
    return _put(session, experiment)


HAND_MADE = ("gaussians", "picture")
HANDLERS: dict[str, Callable[[Session, dict[str, Any]], str | None]] = {
    "points": draw, "gaussians": compose, "edit": edit, "table": upload, "columns": columns,
    "picture": picture,
}  # fmt: skip
