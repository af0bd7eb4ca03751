"""The contract over every engine whose density is exact: it is one, and it is that of its samples."""

from __future__ import annotations

import pytest
import torch

from engines import ENGINES
from engines.cells import centres
from tests.contract import another, start, taken


def lattice(engine: str) -> tuple[tuple[float, ...], int]:
    """A box and how many cells a side integrate over it: a density by an ODE is dear, and smooth."""
    return (-12.0, 12.0, -12.0, 12.0), 80 if ENGINES[engine].dear else 400


@pytest.mark.slow
@pytest.mark.parametrize("engine", [e for e, kind in ENGINES.items() if kind.density == "exact"])
def test_densities_integrate_to_one_and_are_those_of_the_samples(engine):
    """E_q[log q] over samples equals −entropy by quadrature; a shifted density would not."""
    if taken(engine, "moons") != "moons":
        pytest.skip("its data are not points of the plane")
    run = start(engine, "two_gaussians").train(steps=200)
    box, n = lattice(engine)
    grid_log = run.log_prob(centres(box, n)).double()
    cell = ((box[1] - box[0]) / n) ** 2
    assert float(grid_log.exp().sum() * cell) == pytest.approx(1.0, abs=2e-3)
    # entr(0) = 0: a model may have a domain, and no density beyond it
    entropy = float(torch.special.entr(grid_log.exp()).sum() * cell)
    with torch.no_grad():  # those of `sample`, unless a model says that they are approximate
        x = run.engine.draws(2_000 if ENGINES[engine].dear else 20_000)

    def agrees(log_q: torch.Tensor) -> bool:
        se = float(log_q.std()) / len(log_q) ** 0.5
        return abs(float(log_q.mean()) + entropy) < 5 * se + 5e-3

    assert agrees(run.log_prob(x).double())
    assert not agrees(run.log_prob(x + 0.6).double()), "the wrong twin must fail"


@pytest.mark.parametrize("engine", [e for e, kind in ENGINES.items() if kind.field_views])
def test_a_density_depends_on_the_view_knobs_that_are_named_and_on_no_other(engine):
    """A picture of it is not made anew when one of the others moves."""
    run, kind = start(engine).train(steps=5), ENGINES[engine]
    x = run.pool.test[:50]
    if not run.engine.has_density:
        pytest.skip("it has none")
    before, key = run.engine.field_log_prob(x), run.lanes[0].density_key
    for name, entry in kind.knobs.items():
        if entry.view and entry.suits("plane"):
            run.set(name, another(entry, entry.default))
            named = name in kind.field_views
            assert torch.equal(before, run.engine.field_log_prob(x)) is not named, name
            assert (run.lanes[0].density_key == key) is not named, name
            run.set(name, entry.default)
