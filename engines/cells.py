"""A density as a picture: its averages over the cells of a grid.

Two ways lead there: to ask for the density at places in a cell, or, where a model carries its
density to a known one, to carry the corners of the cells along.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.marks import Box
from engines.pace import Pieces, finish

ROWS = 16  # of cells whose masses are worked out at a time


def centres(box: Box, n: int, device: torch.device | str = "cpu") -> Tensor:
    """(n·n, 2) centres of the cells of an n × n grid over a box; row 0 is at the bottom."""
    x0, x1, y0, y1 = box
    x = x0 + (torch.arange(n, device=device) + 0.5) * ((x1 - x0) / n)
    y = y0 + (torch.arange(n, device=device) + 0.5) * ((y1 - y0) / n)
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([xx.reshape(-1), yy.reshape(-1)], 1)


def offsets(box: Box, n: int, sub: int, device: torch.device | str = "cpu") -> Tensor:
    """(sub², 2) centres of the sub-cells of one cell, relative to the cell's own centre."""
    x0, x1, y0, y1 = box
    cell = torch.tensor([(x1 - x0) / n, (y1 - y0) / n], device=device)
    return (centres((-0.5, 0.5, -0.5, 0.5), sub, device)) * cell


def cell_average(
    log_prob: Callable[[Tensor], Tensor],
    box: Box,
    n: int = 100,
    refine: int = 400,
    sub: int = 5,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Average density over each cell of an n × n grid, (n, n) float32.

    One evaluation a cell shows where the density varies; the `refine` cells that differ
    most from their neighbours are then averaged over sub × sub points, since a mode may be
    smaller than a cell and an edge may run through it.
    """

    def at_once(x: Tensor) -> Pieces[Tensor]:
        yield
        return log_prob(x)

    found = finish(cell_averages(at_once, box, n, refine, sub, device))
    return numpy(torch.as_tensor(found))


def cell_averages(
    log_prob: Callable[[Tensor], Pieces[Tensor]],
    box: Box,
    n: int,
    refine: int,
    sub: int,
    device: torch.device | str = "cpu",
) -> Pieces[np.ndarray | Tensor]:
    """`cell_average` in the pieces that `log_prob` has, (n, n) float32, as an array of a mark."""
    grid = centres(box, n, device)
    values = (yield from log_prob(grid)).exp().nan_to_num(0.0, 0.0, 0.0)
    rough = roughest(values.reshape(n, n), refine)
    fine = (grid[rough, None] + offsets(box, n, sub, device)[None]).reshape(-1, 2)
    found = (yield from log_prob(fine)).exp().nan_to_num(0.0, 0.0, 0.0)
    values[rough] = found.reshape(-1, sub * sub).mean(1)
    return marked(values.reshape(n, n).float())


def roughest(field: Tensor, count: int) -> Tensor:
    """The cells that differ most from their neighbours, indices (count,) into the flat field."""
    above = torch.nn.functional.max_pool2d(field[None, None], 3, 1, 1)
    below = -torch.nn.functional.max_pool2d(-field[None, None], 3, 1, 1)
    return (above - below).flatten().topk(min(count, field.numel())).indices


def carried_averages(
    carry: Callable[[Tensor], Pieces[Tensor]],
    log_base: Callable[[Tensor], Tensor],
    box: Box,
    n: int,
    refine: int,
    sub: int,
    device: torch.device | str = "cpu",
) -> Pieces[np.ndarray | Tensor]:
    """Average density over each cell of an n × n grid, (n, n) float32, of a model that carries its
    density to a known one.

    The roughest cells are cut into sub × sub smaller ones, as in `cell_average`.

    Args:
        carry: places (N, 2) to where they are carried, by an invertible map that keeps orientation.
        log_base: the log-density there, (N, 2) → (N,).
    """
    there = (yield from carry(corners(box, n, device))).reshape(n + 1, n + 1, 2)
    found = []
    for rows in range(0, n, ROWS):
        found.append(masses(there[rows : rows + ROWS + 1], log_base))
        yield
    found = torch.cat(found)
    rough = roughest(found, refine)
    width, height = (box[1] - box[0]) / n, (box[3] - box[2]) / n
    inner = corners((0.0, width, 0.0, height), sub, device)
    first = centres(box, n, device)[rough] - inner[-1] / 2
    fine = yield from carry((first[:, None] + inner).reshape(-1, 2))
    fine = masses(fine.reshape(-1, sub + 1, sub + 1, 2), log_base).sum((-2, -1))
    found.view(-1)[rough] = fine
    return marked((found / (width * height)).float())


def corners(box: Box, n: int, device: torch.device) -> Tensor:
    """Corners of n × n cells, ((n + 1)², 2), x the faster."""
    x0, x1, y0, y1 = box
    y, x = torch.meshgrid(
        torch.linspace(y0, y1, n + 1, device=device),
        torch.linspace(x0, x1, n + 1, device=device),
        indexing="ij",
    )
    return torch.stack([x, y], -1).reshape(-1, 2)


def masses(carried: Tensor, log_base: Callable[[Tensor], Tensor], points: int = 3) -> Tensor:
    """The mass of each cell once its corners are carried to where the density is known.

    A map φ that carries q to a base carries the mass of a cell along: ∫_C q dx = ∫_φ(C) base dz.
    φ(C) is taken for the bilinear patch z(u, v) between the four corners, and the integral over
    (u, v) by the midpoint rule on points × points places with det ∂z/∂(u, v). Neighbours share their
    edges, so that together they hold what the base has on the whole patch, however coarse they are.

    Args:
        carried: corners (…, rows + 1, columns + 1, 2), carried.
        log_base: (N, 2) → (N,).

    Returns:
        (…, rows, columns), none below 0.
    """
    step = (torch.arange(points, device=carried.device, dtype=carried.dtype) + 0.5) / points
    v, u = (w.flatten()[:, None] for w in torch.meshgrid(step, step, indexing="ij"))
    a, b = carried[..., :-1, :-1, :], carried[..., :-1, 1:, :]
    c, d = carried[..., 1:, :-1, :], carried[..., 1:, 1:, :]
    shape = a.shape[:-1]
    a, b, c, d = (corner.reshape(-1, 1, 2) for corner in (a, b, c, d))
    along = (1 - v) * (b - a) + v * (d - c)  # ∂z/∂u, (cells, points², 2)
    across = (1 - u) * (c - a) + u * (d - b)  # ∂z/∂v
    place = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)
    area = along[..., 0] * across[..., 1] - along[..., 1] * across[..., 0]
    held = log_base(place.reshape(-1, 2)).exp().reshape(area.shape)
    return (held * area).mean(1).nan_to_num(0.0, 0.0, 0.0).clamp_min(0.0).reshape(shape)
