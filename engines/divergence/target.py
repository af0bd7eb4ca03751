"""The known p on its grid: the declared domain, and p ∗ N(0, σ²) where p itself won't do."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.data.base import Dataset
from engines.divergence.maths import masses
from engines.marks import Box

CELLS = {1: 2_000, 2: 120}  # along each axis
ENLARGE = 1.5  # the domain's side over the extent's
WIDEST_CELL = 1.0  # in σ of the blur: the quadrature of a Gaussian then errs below 1e-8
ROUGH, LOST = 0.1, 2e-3  # when p has detail that cells cannot show
SUB = 3  # finer cells, along an axis, that a density is convolved on


@dataclass
class Target:
    """p on the domain's cells.

    Attributes:
        axes: D tensors of the cells' centres, x first, float64, in data units.
        cell: D widths. log_cell: log of a cell's length or area.
        log_p: (N,) log-density of what is fitted at the centres, row by row, x fastest.
        sigma: 0, or σ of the Gaussian that p was convolved with, in data units.
        why: "", "asked for", "p is 0 in places" or "finer than a cell".
        total: Σ p·cell: 1 but for the quadrature's error and what lies beyond the domain.
    """

    box: Box
    axes: list[Tensor]
    cell: list[float]
    log_cell: float
    log_p: Tensor
    sigma: float
    why: str
    total: float

    @property
    def masses(self) -> Tensor:
        """Log masses (N + 1,), see `maths.masses`.

        Where next to nothing of p lies beyond the grid, the outermost cells' mass stands for
        it. A rest of 1e-12 would make it cheaper for q to leave the grid than to lie in p's
        tails, where p is smaller by far.
        """
        out = masses(self.log_p, self.log_cell)
        field = out[:-1].reshape([len(axis) for axis in reversed(self.axes)])
        rim = [field.select(d, end).reshape(-1) for d in range(field.dim()) for end in (0, -1)]
        if float(out[-1]) < math.log(1e-6):
            out[-1] = torch.minimum(out[-1], torch.logsumexp(torch.cat(rim), 0))
        return out

    @property
    def name(self) -> str:
        """'p', or 'p ∗ N(0, 0.1²)'."""
        return f"p ∗ N(0, {self.sigma:.2g}²)" if self.sigma else "p"


def grid(axes: list[Tensor]) -> Tensor:
    """(N, D) points, the first axis fastest: rows of a picture from the bottom up."""
    return torch.cartesian_prod(*reversed(axes)).reshape(-1, len(axes)).flip(1)


def domain(dataset: Dataset) -> tuple[Box, list[Tensor], list[float]]:
    """The extent, enlarged about its middle, cut into cells: box, centres, widths."""
    d = dataset.dim
    x0, x1, y0, y1 = dataset.extent
    axes, cell, ends = [], [], []
    for low, high in [(x0, x1), (y0, y1)][:d]:
        half, middle = ENLARGE * (high - low) / 2, (low + high) / 2
        width = 2 * half / CELLS[d]
        axes.append(middle - half + (torch.arange(CELLS[d], dtype=torch.float64) + 0.5) * width)
        cell.append(width)
        ends += [middle - half, middle + half]
    return tuple(ends if d == 2 else [*ends, y0, y1]), axes, cell


_targets: OrderedDict[tuple[str, float], Target] = OrderedDict()  # read-only, for all visitors
_lock = threading.Lock()
KEPT = 24


def target(dataset: Dataset, blur: float) -> Target:
    """p, or p ∗ N(0, σ²) with σ = `blur` (data units) or as much as p needs, on the grid. Kept.

    p needs it where it is 0, for KL(q‖p) would be infinite for every q, and where it has
    detail that cells of this size cannot show: then σ is one cell at the least.
    """
    key = (dataset.key, blur)
    with _lock:
        if key in _targets:
            _targets.move_to_end(key)
            return _targets[key]
    made = _target(dataset, blur)
    with _lock:
        _targets[key] = made
        while len(_targets) > KEPT:
            _targets.popitem(last=False)
    return made


def _target(dataset: Dataset, blur: float) -> Target:
    box, axes, cell = domain(dataset)
    log_cell = float(torch.tensor(cell, dtype=torch.float64).log().sum())
    log_p = dataset.log_prob(grid(axes)).double()
    needed = _needed(log_p, log_cell, len(axes))
    sigma = max(blur, WIDEST_CELL * max(cell) if needed else 0.0)
    if sigma:
        log_p = convolved(dataset, axes, cell, sigma)
        needed = needed or "asked for"
    total = float(torch.logsumexp(log_p, 0).add(log_cell).exp())
    return Target(box, axes, cell, log_cell, log_p, sigma, needed, total)


def _needed(log_p: Tensor, log_cell: float, d: int) -> str:
    """Why p cannot be fitted as it is, or ''.

    Second differences/24 are how much a cell's average differs from the density at its
    centre; summed over cells they measure what the grid does not see.
    """
    if not bool(torch.isfinite(log_p).all()):
        return "p is 0 in places"
    p = (log_p + log_cell).exp()
    field = p.reshape([CELLS[d]] * d)
    rough = sum(field.diff(n=2, dim=axis).abs().sum() for axis in range(d)) / 24
    if float(rough) > ROUGH or abs(float(p.sum()) - 1) > LOST:
        return "finer than a cell"
    return ""


def convolved(dataset: Dataset, axes: list[Tensor], cell: list[float], sigma: float) -> Tensor:
    """log (p ∗ N(0, σ²I)) at the cells' centres, (N,).

    Exact where the dataset knows it (`noised`); else a sum over cells a third as wide,
    in logarithms, so that it is above 0 however far from p.
    """
    try:
        log_p = dataset.noised(1.0, sigma).log_prob(grid(axes)).double()
        if bool(torch.isfinite(log_p).all()):
            return log_p
    except NotImplementedError:
        pass
    fine, n = [], []
    for x, width in zip(axes, cell, strict=True):
        parts = (torch.arange(SUB, dtype=torch.float64) + 0.5) / SUB - 0.5
        fine.append((x[:, None] + parts * width).reshape(-1))
        n.append(len(fine[-1]))
    points = grid(fine)
    log_p = torch.cat([dataset.log_prob(part).double() for part in points.split(2**17)])
    log_p = log_p.reshape(n[::-1])
    log_p = log_p - torch.logsumexp(log_p.reshape(-1), 0)  # masses: the sum over cells is 1
    for x, y in zip(axes, fine, strict=True):  # x is the last axis, and becomes the first
        kernel = -0.5 * ((x[:, None] - y) / sigma) ** 2 - 0.5 * torch.log(
            torch.tensor(2 * torch.pi, dtype=torch.float64) * sigma**2
        )
        rows = log_p.reshape(-1, len(y))
        smeared = [torch.logsumexp(part[:, None] + kernel, 2) for part in rows.split(16)]
        log_p = torch.cat(smeared).reshape(*log_p.shape[:-1], len(x)).movedim(-1, 0)
    # two turns have brought (y, x) round to (y, x) again; one leaves (x,)
    return log_p.reshape(-1)
