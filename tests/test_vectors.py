"""Data of many dimensions, and a mixture against a flow on more and more of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.mixture import GaussianMixture

from engines import ENGINES, BadInput, Experiment
from engines.data.base import Dataset
from engines.data.vectors import CENTRE, SIGMA, Corners
from engines.dimensions import Dimensions, StepwiseMixture, rungs
from engines.mixture.gaussians import Gaussians, em_update, log_density

pytestmark = pytest.mark.slow  # dear: `make test` runs them, `make check` does not


def draw(d: int, n: int = 4000, seed: int = 0) -> torch.Tensor:
    return Corners(dimensions=d).sample(n, torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the data


def by_all_modes(x: np.ndarray, half: float = 1.0) -> np.ndarray:
    """Log-density as the sum over all 2^(d/2) modes by SciPy; `half` scales the centres."""
    d = x.shape[1]
    planes = (d + 1) // 2
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * planes, indexing="ij"), -1).reshape(-1, planes)
    centres = (half * signs[:, :, None] * np.array(CENTRE)).reshape(len(signs), -1)[:, :d]
    parts = [stats.multivariate_normal(c, SIGMA**2).pdf(x) for c in centres]
    return np.log(np.mean(parts, 0))


@pytest.mark.parametrize("d", [2, 3, 4, 7, 10])
def test_the_density_is_the_mean_over_all_modes(d):
    x = draw(d, 200)
    ours = Corners(dimensions=d).log_prob(x.double()).numpy()
    np.testing.assert_allclose(ours, by_all_modes(x.double().numpy()), atol=1e-9)
    assert np.abs(ours - by_all_modes(x.double().numpy(), 0.95)).max() > 0.01  # wrong centres


def test_fewer_coordinates_have_the_marginal_density():
    data = Corners(dimensions=10)
    x = draw(10, 100)
    for k in (1, 2, 5, 8):
        expected = Corners(dimensions=max(k, 2)).log_prob(x[:, :k])
        torch.testing.assert_close(data.log_prob(x[:, :k]), expected)
    one = integrate.quad(
        lambda u: math.exp(float(data.log_prob(torch.tensor([[0.7, u]], dtype=torch.float64)))),
        -5, 5, points=[-0.6, 0.6],
    )[0]  # fmt: skip
    alone = float(data.log_prob(torch.tensor([[0.7]], dtype=torch.float64)).exp())
    assert one == pytest.approx(alone, rel=1e-8)
    assert one != pytest.approx(alone / 2, rel=1e-3)
    with pytest.raises(ValueError, match="coordinates"):
        data.log_prob(torch.zeros(3, 11))


def test_entropy_is_exact():
    grid = np.linspace(-4, 4, 401)
    cells = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    log_p = by_all_modes(cells)
    mass = np.exp(log_p) * (grid[1] - grid[0]) ** 2
    alone = -float((mass * log_p).sum())
    assert Corners(dimensions=2).entropy == pytest.approx(alone, abs=1e-6)
    assert Corners(dimensions=64).entropy == pytest.approx(32 * alone, abs=1e-4)
    for d in (5, 16):
        data = Corners(dimensions=d)
        log_p = data.log_prob(draw(d, 100_000)).double()
        se = float(log_p.std()) / math.sqrt(len(log_p))
        assert abs(float(log_p.mean()) + data.entropy) < 4 * se
        assert abs(float(log_p.mean()) + data.entropy + math.log(2)) > 4 * se  # a bit too much


def test_samples_are_of_that_density():
    x = draw(5, 20_000).double().numpy()
    assert x.shape == (20_000, 5)
    for column, c in enumerate((CENTRE * 3)[:5]):
        cdf = lambda v, c=c: sum(stats.norm.cdf(v, s * c, SIGMA) for s in (-1, 1)) / 2  # noqa: E731
        assert stats.kstest(x[:, column], cdf).pvalue > 1e-4
        wide = lambda v, c=c: sum(stats.norm.cdf(v, s * c, 1.3 * SIGMA) for s in (-1, 1)) / 2  # noqa: E731
        assert stats.kstest(x[:, column], wide).pvalue < 1e-4
    # the two of a plane go together, and planes do not
    assert (
        np.corrcoef(x[:, 0], x[:, 1])[0, 1] > 0.5 > 0.05 > abs(np.corrcoef(x[:, 0], x[:, 2])[0, 1])
    )


def test_options():
    assert Corners().dim == 16
    for bad in (1, 65, 3.5, "8", True):
        with pytest.raises(BadInput):
            Corners(dimensions=bad)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_takes_vectors_or_says_why_not(engine):
    data = Corners(dimensions=6)
    if reason := ENGINES[engine].accepts(data):
        assert reason.endswith(".")
        return
    run = Experiment("corners", engine, options={"dimensions": 6}).start("cpu").train(steps=2)
    assert run.sample(5).shape == (5, 6)
    frame = run.frame()
    shown = {p.id: p for p in frame.panels}
    assert all(mark.xy.shape[1] == 2 for mark in shown["model"].marks)
    assert shown["truth"].marks[0].xy.shape[1] == 2
    names = {m.name for m in frame.metrics}
    assert "sliced_w2" in names
    if run.engine.has_density:
        with torch.no_grad():  # of the rows, and by the draws, that live numbers are made of
            x = run.pool.test[: run.engine.probe_rows]
            log_q = run.engine.probe_log_prob(x)
        gap = float((run.dataset.log_prob(x) - log_q).double().mean())
        found = next(m for m in frame.metrics if m.name == "kl_pq")
        assert found.value == pytest.approx(gap, abs=1e-4)
    assert run.restore(run.checkpoint()).step == 2


# ---------------------------------------------------------------- stepwise EM


def stepwise(x: torch.Tensor, k: int = 4) -> StepwiseMixture:
    return StepwiseMixture(x, k, 1e-3, torch.Generator().manual_seed(0))


def test_a_batch_of_all_the_data_is_an_iteration_of_em():
    x = draw(4).double()
    model = stepwise(x)
    before = Gaussians(*(part.clone() for part in model.gaussians()))
    log_q = model.update(x, 0, 1e-3)
    expected, old = em_update(before, x, "full", 1e-3)
    assert float(log_q) == pytest.approx(float(old), abs=1e-10)
    for a, b in zip(model.gaussians(), expected):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    late = stepwise(x)
    late.moments.copy_(model.moments)
    late.update(x[:500], 20, 1e-3)  # later, a batch moves it by a part of the way only
    step = float((late.mean - expected.mean).abs().max())
    whole = em_update(expected, x[:500], "full", 1e-3)[0]
    assert 0 < step < float((before.mean - whole.mean).abs().max())


def test_stepwise_em_ends_where_em_does():
    """In two planes four Gaussians are the truth: both reach its entropy."""
    x = draw(4, 20_000).double()
    model, rng = stepwise(x[:2000]), torch.Generator().manual_seed(1)
    for i in range(150):
        model.update(x[torch.randint(len(x), (500,), generator=rng)], i, 1e-3)
    reference = GaussianMixture(4, random_state=0, n_init=2).fit(x.numpy()[:5000])
    held = draw(4, 5000, seed=9).double()
    ours = float(log_density(model.gaussians(), held).mean())
    assert ours == pytest.approx(reference.score(held.numpy()), abs=0.02)
    assert ours == pytest.approx(-Corners(dimensions=4).entropy, abs=0.05)
    forgetful = stepwise(x[:2000])  # the wrong twin: each batch forgets all before it
    for _ in range(150):
        forgetful.update(x[torch.randint(len(x), (100,), generator=rng)], 0, 1e-3)
    assert float(log_density(forgetful.gaussians(), held).mean()) < ours - 0.1


# ---------------------------------------------------------------- the engine


def run_of(d: int = 8, **knobs):
    return Experiment("corners", "dimensions", options={"dimensions": d}, knobs=knobs).start("cpu")


def test_rungs():
    assert [rungs(d) for d in (2, 3, 8, 50, 64)] == [
        [2], [2, 3], [2, 4, 8], [2, 4, 8, 16, 32, 50], [2, 4, 8, 16, 32, 64],
    ]  # fmt: skip


@pytest.mark.parametrize("which", ["mixture", "flow"])
def test_log_q_on_every_rung(which):
    """The mixture by SciPy; the flow by the Jacobian of its layers, from autograd."""
    engine = run_of(5).train(steps=9).engine
    x = engine.pool.test[:6]
    for rung, k in enumerate(engine.rungs):
        mean, std = engine._mean[:k].double(), engine._std[:k].double()
        if which == "mixture":
            weight, centre, cov = engine.mixtures[rung].gaussians()
            centre, cov = centre * std + mean, cov * std[:, None] * std
            parts = [
                w * stats.multivariate_normal(m.numpy(), c.numpy()).pdf(x[:, :k].double().numpy())
                for w, m, c in zip(weight.exp().numpy(), centre, cov)
            ]
            expected = np.log(np.sum(parts, 0))
        else:

            def forward(row, rung=rung, k=k):
                z = ((row - engine._mean[:k]) / engine._std[:k])[None]
                for layer in engine.flows[rung].layers():
                    z = layer.forward(z)[0]
                return z[0]

            expected = []
            for row in x[:, :k]:
                jacobian = torch.autograd.functional.jacobian(forward, row).double()
                z = forward(row).detach().double()
                base = -0.5 * float(z.square().sum()) - 0.5 * k * math.log(2 * math.pi)
                expected.append(base + float(torch.linalg.slogdet(jacobian)[1]))
        ours = engine.log_q(which, rung, x).detach().numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-4)
        scale = float(engine._std[:k].log().sum())  # the wrong twin: its Jacobian forgotten
        assert np.abs(ours + scale - expected).max() > 0.01


@pytest.mark.slow
def test_gaps_are_kl_a_dimension_and_a_perfect_model_has_none():
    engine = run_of(4, n_components=4).train(steps=300).engine
    with torch.no_grad():
        gaps = engine.gaps()
    x = engine.pool.test[:2000]
    data = Corners(dimensions=4)
    for i, which in enumerate(("mixture", "flow")):
        engine.show = which
        whole = (data.log_prob(x) - engine.log_prob(x)).double().mean() / 4
        assert gaps[i, -1] == pytest.approx(float(whole.detach()), abs=1e-5)
        plane = Corners(dimensions=2).log_prob(x[:, :2]) - engine.log_q(which, 0, x)
        assert gaps[i, 0] == pytest.approx(float(plane.detach().double().mean()) / 2, abs=1e-5)
    assert abs(gaps[0]).max() < 0.01  # four Gaussians are the truth here
    shown = {m.name: m.value for m in engine.metrics()}
    assert shown["gap_mixture"] == pytest.approx(gaps[0, -1], abs=0.03)


def test_both_models_samples_follow_their_density():
    engine = run_of(3).train(steps=60).engine
    for which in ("mixture", "flow"):
        engine.show = which
        x = engine.sample(6000)
        log_q = engine.log_q(which, len(engine.rungs) - 1, x).detach().double()
        # E_q[log q] against importance weights of the data's samples, which cover q
        y = Corners(dimensions=3).sample(60_000, torch.Generator().manual_seed(1))
        wide = y + 0.8 * torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
        c, s2 = torch.tensor((CENTRE * 2)[:3]), SIGMA**2 + 0.64

        def modes(v, c=c, s2=s2):
            signs = torch.tensor([[a, a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
            parts = -(v[:, None] - signs * c).square().sum(2) / (2 * s2)
            return torch.logsumexp(parts, 1) - math.log(4) - 1.5 * math.log(2 * math.pi * s2)

        log_here = engine.log_q(which, len(engine.rungs) - 1, wide).detach()
        ratio = (log_here - modes(wide)).double().exp()
        assert float(ratio.mean()) == pytest.approx(1, abs=0.05)  # it integrates to one
        expected = float((ratio * log_here).mean())
        assert float(log_q.mean()) == pytest.approx(expected, abs=0.15)
        shifted = engine.log_q(which, len(engine.rungs) - 1, x + 0.7).detach().double()
        assert float(shifted.mean()) != pytest.approx(expected, abs=0.3)


@pytest.mark.slow
def test_the_mixture_falls_behind_as_dimensions_are_added_and_the_flow_does_not():
    engine = run_of(16).train(steps=300).engine
    with torch.no_grad():
        mixture, flow = engine.gaps()
    assert (np.diff(mixture)[1:] > 0.03).all()
    assert mixture[0] < 0.01 < 0.15 < mixture[-1]
    assert (flow < 0.06).all()
    more = run_of(4).train(steps=300).engine
    with torch.no_grad():
        assert more.gaps()[0].max() < 0.01  # the wrong twin: as many clouds as modes


def test_panels_and_what_is_not_taken():
    run = run_of(8).train(steps=3)
    shown = {p.id: p.drawn() for p in run.engine.panels()}
    curves = shown["gap"].marks[0]
    assert [list(line.x) for line in curves.lines] == [[2, 4, 8]] * 2
    assert "mixture" in shown["other"].title
    assert shown["other"].marks[1].xy.shape == (1000, 2)
    run.set("show", "mixture")
    assert "flow" in {p.id: p for p in run.engine.panels()}["other"].title

    class Words(Dataset):
        kind = "sequence"

    class Huge(Dataset):
        kind, shape = "images", (28, 28)

    class Line(Dataset):
        kind, shape = "line", (1,)

    for other in (Words(), Huge(), Line()):
        assert Dimensions.accepts(other).endswith(".")
    points = Experiment.from_points(draw(2, 200).numpy(), "dimensions").start("cpu").train(steps=3)
    panel = next(p for p in points.engine.panels() if p.id == "gap")
    assert "Cross-entropy" in panel.title  # behind points no density is known
