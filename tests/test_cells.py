"""Averages of a density over the cells of a picture, where the corners of the cells are carried."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engines import Experiment
from engines.cells import carried_averages, cell_average, corners, masses
from engines.fields.engine import log_normal
from engines.pace import finish

BOX, N = (-3.0, 4.0, -2.5, 3.5), 40


def cdf(z):
    return torch.special.ndtr(torch.as_tensor(z, dtype=torch.float64))


def edges(n=N):
    x0, x1, y0, y1 = BOX
    return torch.linspace(x0, x1, n + 1).double(), torch.linspace(y0, y1, n + 1).double()


def averages(carry, n=N, refine=0, sub=1, log_base=log_normal):
    def pieces(x):
        yield
        return carry(x)

    return finish(carried_averages(pieces, log_base, BOX, n, refine, sub))


def exact(a, b):
    """Averages over the cells of N(0, I) carried back by x ↦ a(x), y ↦ b(y)."""
    x, y = edges()
    found = torch.outer(cdf(b(y)).diff(), cdf(a(x)).diff()) / (x.diff()[0] * y.diff()[0])
    return found.numpy()


def test_corners_stand_row_by_row_from_the_bottom():
    x, y = edges()
    at = corners(BOX, N, "cpu").reshape(N + 1, N + 1, 2)
    assert torch.allclose(at[3, :, 0].double(), x) and torch.allclose(at[:, 5, 1].double(), y)


def test_a_gaussian_carried_by_a_straight_map_has_its_exact_averages():
    found = averages(lambda x: (x - torch.tensor([0.3, -0.2])) / torch.tensor([0.8, 0.5]))
    want = exact(lambda x: (x - 0.3) / 0.8, lambda y: (y + 0.2) / 0.5)
    assert np.abs(found - want).max() < 0.01 * want.max()


def test_and_by_a_bent_one():
    bent = lambda w: w + 0.4 * torch.sin(2 * w)  # noqa: E731 - rises everywhere
    found = averages(lambda x: bent(x))
    assert np.abs(found - exact(bent, bent)).max() < 0.02 * found.max()
    # its wrong twin, as if nothing were stretched: off by as much as there is
    there = bent(corners(BOX, N, "cpu"))
    plain = log_normal(there).exp().reshape(N + 1, N + 1)[:-1, :-1].numpy()
    assert np.abs(plain - exact(bent, bent)).max() > 0.2 * found.max()


def test_cells_hold_what_the_base_has_however_coarse_they_are():
    def turned(x):  # the more, the farther out; areas stay
        angle = x.square().sum(1) / 4
        c, s = angle.cos(), angle.sin()
        return torch.stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]], 1)

    for n in (16, 32, 64):
        area = (BOX[1] - BOX[0]) * (BOX[3] - BOX[2]) / n**2
        mass = averages(turned, n).sum() * area
        held = averages(lambda x: x, n).sum() * area
        assert mass == pytest.approx(held, rel=0.03 if n == 16 else 0.01), n


def test_a_mode_smaller_than_a_cell_is_found_where_the_roughest_are_cut():
    small = 0.015  # a tenth of a cell
    carry = lambda x: (x - torch.tensor([0.52, 0.47])) / small  # noqa: E731
    area = (BOX[1] - BOX[0]) * (BOX[3] - BOX[2]) / N**2
    want = exact(lambda x: (x - 0.52) / small, lambda y: (y - 0.47) / small)
    coarse, fine = averages(carry), averages(carry, refine=20, sub=8)
    assert np.abs(fine - want).max() < 0.05 * want.max() < np.abs(coarse - want).max()
    assert fine.sum() * area == pytest.approx(1.0, abs=0.03)


def test_a_crooked_cell_has_the_area_of_its_corners():
    quad = torch.tensor([[[0.0, 0.0], [2.0, 0.3]], [[0.4, 1.0], [1.5, 3.0]]])
    x, y = quad[[0, 0, 1, 1], [0, 1, 1, 0]].T  # around it
    want = 0.5 * float((x * y.roll(-1) - y * x.roll(-1)).sum())
    flat = lambda z: torch.zeros(len(z))  # noqa: E731 - as much everywhere
    assert float(masses(quad, flat)) == pytest.approx(want, rel=1e-5)


def test_what_is_folded_or_not_finite_counts_for_nothing():
    there = corners(BOX, 4, "cpu").reshape(5, 5, 2).clone()
    there[..., 0] *= -1  # turned over: every determinant is below 0
    assert float(masses(there, log_normal).abs().max()) == 0
    there[2, 2] = torch.nan
    assert bool(masses(there.flip(1), log_normal).isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["diffusion", "flow_matching"])
def test_the_picture_of_a_model_is_that_of_its_log_prob(engine):
    model = Experiment("moons", engine).start("cpu").train(steps=400).engine
    with torch.no_grad():
        found = finish(model.cells_pieces())
        n = len(found)
        want = cell_average(model.log_prob, model.pool.dataset.extent, n, 1000, 3)
        with model.easy(1 / 8):
            few = finish(model.cells_pieces())
    assert np.abs(found - want).mean() < 0.06 * want.mean()
    assert len(few) == n // 2
    side = few.repeat(2, 0).repeat(2, 1)
    assert 0.06 * want.mean() < np.abs(side - want).mean() < 0.5 * want.mean()
