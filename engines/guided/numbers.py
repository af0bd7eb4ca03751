"""Numbers of guidance: obedience, and what it costs in spread and in place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from engines.conditional.pictures import probes as judged
from engines.judge import obeyed
from engines.marks import Metric
from engines.pace import Pieces
from engines.probes import Probe

if TYPE_CHECKING:
    from engines.guided.engine import Guided

DRAWN = 2000  # samples, of all classes
ROWS = 20_000  # of the data


class Place(NamedTuple):
    """Where the rows of each of K classes lie: how many (K,), mean (K, d), mean square round it (K,)."""

    count: Tensor
    mean: Tensor
    square: Tensor


def places(x: Tensor, y: Tensor, count: int) -> Place:
    """The Place of rows (N, d) with classes (N,)."""
    x = x.double()
    n = torch.bincount(y, minlength=count).double()
    mean = torch.zeros(count, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, y, x)
    mean = mean / n.clamp_min(1)[:, None]
    square = torch.zeros(count, dtype=x.dtype, device=x.device)
    square.index_add_(0, y, (x - mean[y]).square().sum(1))
    # the mean is that of the rows themselves, which makes them look nearer to it
    return Place(n, mean, square / (n - 1).clamp_min(1))


def spread(found: Place, true: Place) -> float:
    """Root mean square distance to the mean of one's class ÷ that of the data; 1 is right."""
    weight = found.count * (true.count > 1)
    return math.sqrt(float((weight * found.square).sum() / (weight * true.square).sum()))


def shift(found: Place, true: Place) -> float:
    """Distance of the class's mean from where it should be, in root mean square radii, averaged."""
    known = (found.count > 0) & (true.count > 1)
    far = (found.mean - true.mean).norm(dim=1) / true.square.clamp_min(1e-30).sqrt()
    return float((found.count * far)[known].sum() / found.count[known].sum())


def truth(engine: Guided) -> Place:
    """Where the training rows of each class lie. Kept."""
    if engine._truth is None:
        pool = engine.pool
        x = pool.train[:ROWS].float() + (0.5 if pool.dequantise else 0.0)
        found = places(x, engine.classes.labels[:ROWS], engine.classes.count)
        # the noise that makes integers continuous belongs to the samples, too
        extra = pool.dim / 12 if pool.dequantise else 0.0
        engine._truth = found._replace(square=found.square + extra)
    return engine._truth


def probes(engine: Guided) -> list[Probe]:
    def told() -> Pieces[list[Metric]]:
        x, y = yield from engine.labelled_pieces(DRAWN)
        y = y.clamp_max(engine.classes.count - 1)
        true, out = truth(engine), []
        found = places(x, y, engine.classes.count)
        if engine.classes.places:
            share = obeyed(y, engine.classes.of(x))
            out.append(
                Metric("obeyed", share.value, se=share.se, floor=1.0, label="Does as told",
                       help=f"Share of {DRAWN:,} samples that lie in the part of the class that was "
                       "asked for. True samples: 1, for the class is a matter of place."))  # fmt: skip
        some = found.count > 0
        noise = float((found.count[some].sqrt()).sum() / found.count.sum())
        return [
            *out,
            Metric("class_spread", spread(found, true), "×", floor=1.0, label="Spread in a class",
                   help="Rms distance of samples to the mean of their class ÷ that of the data: "
                   "below 1 guidance has made them alike."),
            Metric("class_shift", shift(found, true), "×", floor=noise, label="Shift of a class",
                   help="How far the mean of a class's samples lies from that of its data, in the "
                   "data's own rms distance from it: strong guidance overshoots."),
        ]  # fmt: skip

    names = ("obeyed",) if engine.classes.places else ()
    return [Probe.of("told", (*names, "class_spread", "class_shift"), told, 1.0), *judged(engine)]


class Course(NamedTuple):
    """One class against w: spread, shift and share obeyed, a number for each w; None: not known."""

    spread: list[float]
    shift: list[float]
    obeyed: list[float] | None


def course(
    engine: Guided, k: int, weights: tuple[float, ...], n: int, exact: bool
) -> Pieces[Course]:
    """What n samples of class k do as w grows, from the same noise; by exact guidance if asked."""
    y = torch.full((n,), k, device=engine.device)
    true = Place(*(part[k : k + 1] for part in truth(engine)))
    out = Course([], [], [] if engine.classes.places else None)
    z = None if exact else engine.noise(n)
    for w in weights:
        yield
        x = engine.ideal(k, w, n) if exact else (yield from engine.pieces_of(y, z=z, w=w))
        found = places(x, torch.zeros_like(y), 1)
        out.spread.append(spread(found, true))
        out.shift.append(shift(found, true))
        if out.obeyed is not None:
            out.obeyed.append(obeyed(y, engine.classes.of(x)).value)
    return out
