"""The course of the game: which modes were covered when, and V beside the divergence.

What is kept here are looks at the training, taken while somebody watches: it takes no part in
the training, is not saved, and begins anew where a run is branched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.gan.losses import value
from engines.kde import kde, through_kernel
from engines.marks import Curve, Curves, Heat, Mark, Panel
from engines.metrics import mode_report
from engines.pictures import exact_field
from engines.probes import reference

if TYPE_CHECKING:
    from engines.gan.engine import GAN

COLUMNS = 125  # of the strip chart
GRID, FIELDS = 64, 4  # cells a side of the fields that densities are compared on; widths kept
FOR_STRIP, FOR_VALUE = 1000, 8000  # samples at each look
WIDTH = 0.05  # of the kernel under the divergence, in standard deviations of the data


@dataclass
class Course:
    """Rows (K,) of numbers at rising steps; at most `limit`, for then neighbours are averaged."""

    limit: int = 400
    steps: list[float] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)

    def add(self, step: int, row: np.ndarray) -> None:
        """The row at this step. What is known of it and of later ones was another course."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.rows.pop()
        if len(self.steps) >= self.limit:
            even = len(self.steps) // 2 * 2
            self.steps = [sum(self.steps[i : i + 2]) / 2 for i in range(0, even, 2)]
            self.rows = [sum(self.rows[i : i + 2]) / 2 for i in range(0, even, 2)]
        self.steps.append(step)
        self.rows.append(np.asarray(row, dtype=np.float64))

    def strip(self, columns: int) -> tuple[np.ndarray, float]:
        """(K, columns) over steps 0 to the returned end, a round number: NaN where nobody looked.

        A column is the mean of the rows within it. Between two looks it is the earlier one's,
        unless they are ten times as far apart as looks usually are.
        """
        steps = np.array(self.steps)
        end = round_up(steps[-1])
        out = np.full((len(self.rows[0]), columns), np.nan)
        at = np.minimum((steps / end * columns).astype(int), columns - 1)
        usual = max(np.median(np.diff(steps)), end / columns) if len(steps) > 1 else 0.0
        for i, (column, step) in enumerate(zip(at, steps, strict=True)):
            out[:, column] = np.mean([self.rows[j] for j in np.flatnonzero(at == column)], axis=0)
            if i + 1 < len(at) and steps[i + 1] - step <= 10 * usual:
                out[:, column + 1 : at[i + 1]] = out[:, [column]]
        return out, end


def round_up(step: float) -> float:
    """The smallest of 100, 200, 500, 1000, … that is not below: axes that seldom move."""
    power = 10.0 ** max(2, math.floor(math.log10(max(step, 1.0))))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step)


def panels(gan: GAN) -> list[Panel]:
    """Of the plane: the strip chart where modes are known, and the value where it is played."""
    out, exact = [], gan.pool.dataset.exact
    if gan.pool.dataset.modes is not None:
        # looked at here, for the axis belongs to the panel and grows with the strip
        end = round_up(gan.step_count)
        k = len(reference(gan.pool).modes.weights)
        out.append(
            Panel("strip", "Modes over time", partial(strip, gan),
                  "a row a mode; strong: crowded, blank: lost",
                  (0.0, end, 0.5, k + 0.5), "wide", hz=8, equal=False,
                  help="Share of samples nearest to each centre against its true weight: blank is "
                  "none, half-way is right, the strongest is twice as many or more. Collapse leaves a few "
                  "strong rows; when modes hop, colour jumps from row to row. It begins where you began "
                  "to look."))  # fmt: skip
    if gan.game.plays_value and gan.pack == 1:
        of = "q̂: kernel estimate" if exact else "p̂, q̂: kernel estimates"
        out.append(
            Panel("value", "V(D, G) below its ceiling", partial(values, gan),
                  f"nats; {of}", None, "wide", estimate=True, hz=2,
                  help="For the best D, V is −log 4 + 2·JSD(p, q): as far as V lies below, D lags "
                  "behind. The divergence is worked out from densities that are blurred alike, "
                  "which can only make it smaller, so V may come out a little above it."))  # fmt: skip
    return out


def strip(gan: GAN) -> list[Mark]:
    ref = reference(gan.pool)
    share = mode_report(gan.sample(FOR_STRIP), ref.modes).shares / ref.ideal.shares
    gan._courses["strip"].add(gan.step_count, share)
    cells, end = gan._courses["strip"].strip(COLUMNS)
    return [Heat(cells.astype(np.float32), (0.0, end, 0.5, len(cells) + 0.5), "model",
                 hi=2.0, gamma=1.0, label="samples ÷ true weight", crisp=True)]  # fmt: skip


def values(gan: GAN) -> list[Mark]:
    x = gan.sample(FOR_VALUE)
    with torch.no_grad():
        held = gan.pool.test[: FOR_VALUE // 2]
        real, fake = (gan.logits(gan.standardise(part)) for part in (held, x[: len(held)]))
        now = [float(value(real, fake)), -math.log(4) + 2 * divergence(gan, x)]
    course = gan._courses["value"]
    course.add(gan.step_count, np.array(now))
    steps, rows = np.array(course.steps), np.stack(course.rows)
    return [
        Curves([Curve("−log 4 + 2·JSD, estimate", steps, rows[:, 1], "truth", dash=True),
                Curve("V(D, G)", steps, rows[:, 0], "discriminator")],
               [("−log 4", -math.log(4))], y_label="nats"),
    ]  # fmt: skip


def scale(gan: GAN) -> float:
    """The data's standard deviation, root mean square over coordinates: the unit of kernels."""
    return float(gan.pool.std.square().mean().sqrt())


def data_field(gan: GAN, blur: float) -> Tensor:
    """p in the cells of the grid, (GRID, GRID), seen through a kernel of width `blur` (0: none).

    Of data without an exact density a kernel estimate of that width. Kept, as `_fields`, for the
    few widths that are looked at.
    """
    if blur not in gan._fields:
        dataset = gan.pool.dataset
        exact = exact_field(dataset)
        if exact is None:
            p = kde(gan.pool.train[:10_000], dataset.extent, GRID, blur)
        else:
            p = through_kernel(torch.from_numpy(exact), dataset.extent, GRID, blur)
        if len(gan._fields) >= FIELDS:  # a slider on its way leaves them behind
            gan._fields.clear()
        gan._fields[blur] = p.to(gan.device)
    return gan._fields[blur]


def divergence(gan: GAN, x: Tensor) -> float:
    """JSD(p, q) in nats from samples x (N, 2), both densities seen through one kernel on a grid."""
    box, h = gan.pool.dataset.extent, WIDTH * scale(gan)
    area = (box[1] - box[0]) * (box[3] - box[2]) / GRID**2
    finite = x[x.isfinite().all(1)]
    return jensen_shannon(data_field(gan, h) * area, kde(finite, box, GRID, h) * area)


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """½ KL(p‖m) + ½ KL(q‖m) in nats, m = (p + q)/2, of masses in cells.

    What is missing to 1 in either lies outside the grid; it counts as one more cell, so that
    merging can only make the divergence smaller.
    """
    p, q = (a.flatten().double().clamp_min(0) for a in (p, q))
    p, q = (torch.cat([a, (1 - a.sum()).clamp_min(0)[None]]) for a in (p, q))
    m = (p + q) / 2
    part = lambda a: (torch.special.xlogy(a, a) - torch.special.xlogy(a, m)).sum()  # noqa: E731
    return float((part(p) + part(q)) / 2)
