"""Normalizing flow: autograd's Jacobian, quadrature and closed forms as oracles.

Each check is a function that a wrong twin (dropped Jacobian, flipped sign …) must fail.
"""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

from engines import DATASETS, BadInput, Experiment
from engines.data.base import Dataset, Pool
from engines.flow import Coupling, Flow, Logit, RealNVP, Standardise, log_normal
from engines.marks import Handles, Heat, Images, Mesh, Paths, Points
from engines.pictures import centres


def perturbed(dim: int, mixing: str = "linear", seed: int = 0, **knobs) -> Flow:
    """A flow with weights far from its start, on data with a mean and an uneven scale."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(500, dim, generator=rng) * torch.linspace(0.3, 2.5, dim) + 5
    dataset = Dataset()
    dataset.shape, dataset.kind = (dim,), "line"
    engine = Flow({"layers": 5, "width": 16, "mixing": mixing, **knobs}, seed)
    engine.start(Pool(dataset, rows, rows, rows))
    shake(engine.average.module, rng, 0.4 if dim == 2 else 0.05)
    return engine


def shake(net: RealNVP, rng: torch.Generator, size: float) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p += size * torch.randn(p.shape, generator=rng)


def rows_near(engine: Flow, n: int) -> Tensor:
    return engine.pool.train[:n]


# ---------------------------------------------------------------- log-determinant


def jacobian_gap(forward, x: Tensor) -> float:
    """Largest |log|det J| of autograd − what `forward` says| over the rows of x, in float64."""
    x = x.double()
    _, claimed = forward(x)
    gaps = []
    for row, log_det in zip(x, claimed):
        jacobian = torch.autograd.functional.jacobian(lambda r: forward(r[None])[0][0], row)
        gaps.append((torch.linalg.slogdet(jacobian)[1] - log_det).abs())
    return float(torch.stack(gaps).max())


def doubled(engine: Flow) -> Flow:
    """The same flow in float64."""
    engine.average.module.double()
    before = engine._before
    engine._before = [
        Standardise(b.mean.double(), b.std.double()) if isinstance(b, Standardise) else b
        for b in before
    ]
    return engine


@pytest.mark.parametrize(("dim", "n"), [(2, 20), (3, 10), (64, 4)])
@pytest.mark.parametrize("mixing", ["linear", "swap"])
def test_log_determinant_is_that_of_autograds_jacobian(dim, n, mixing):
    engine = doubled(perturbed(dim, mixing))
    x = rows_near(engine, n)
    assert jacobian_gap(engine.forward, x) < 1e-8

    def twin(change):
        def wrong(x):
            z, log_det = engine.forward(x)
            return z, change(log_det)

        return wrong

    assert jacobian_gap(twin(torch.zeros_like), x) > 0.1, "dropped Jacobian"
    assert jacobian_gap(twin(torch.neg), x) > 0.1, "flipped sign"
    log_std = float(engine.log_std)
    assert jacobian_gap(twin(lambda d: d + log_std), x) > 0.1, "forgotten standardisation"


def test_the_mixings_determinant_counts():
    engine = doubled(perturbed(2))
    net = engine.average.module
    with torch.no_grad():
        net.log_diagonal += 0.2
    sign, log_det = torch.linalg.slogdet(net.matrices())
    assert torch.allclose(log_det, net.log_diagonal.sum(1), atol=1e-10)
    assert (sign.abs() == 1).all()
    assert not torch.allclose(log_det, net.upper.diagonal(dim1=1, dim2=2).sum(1), atol=1e-2)

    def forgetful(x):
        z, log_det = engine.forward(x)
        return z, log_det - net.log_diagonal.sum()

    assert jacobian_gap(forgetful, rows_near(engine, 5)) > 0.1


def test_fixed_layers():
    x = torch.rand(6, 5, dtype=torch.float64) * 17
    logit = Logit(17)
    assert jacobian_gap(logit.forward, x) < 1e-8
    assert torch.allclose(logit.inverse(logit.forward(x)[0]), x, atol=1e-9)
    assert jacobian_gap(lambda x: (logit.forward(x)[0], -logit.forward(x)[1]), x) > 0.1
    assert logit.forward(torch.full((1, 5), 18.0))[1] == -math.inf, "no mass outside the pixels"
    scale = Standardise(x.mean(0), x.std(0))
    assert jacobian_gap(scale.forward, x) < 1e-8
    assert torch.allclose(scale.inverse(scale.forward(x)[0]), x)


# ---------------------------------------------------------------- inverse


def round_trip(engine: Flow, decode, x: Tensor) -> float:
    return float(((decode(engine.encode(x)) - x) / engine._std).abs().max())


@pytest.mark.parametrize("dim", [2, 3, 64])
@pytest.mark.parametrize("mixing", ["linear", "swap"])
def test_inverse_undoes_the_flow(dim, mixing):
    engine = perturbed(dim, mixing)
    x = rows_near(engine, 300)
    with torch.no_grad():
        assert round_trip(engine, engine.decode, x) < 1e-4
        (metric,) = engine.metrics()
        assert metric.kind == "exact" and metric.value < 1e-4

        class Backwards(Coupling):  # forgets that s multiplies: adds t after scaling back
            def inverse(self, z: Tensor) -> Tensor:
                u, v = z.split(self.parts, 1)
                s, t = self._scale_shift(u)
                mixed = torch.cat([u, v * (-s).exp() - t], 1)
                return (mixed - self.shift) @ torch.linalg.inv(self.matrix)

        def wrong(z: Tensor) -> Tensor:
            for layer in engine.chain()[::-1]:
                z = Backwards.inverse(layer, z) if isinstance(layer, Coupling) else layer.inverse(z)
            return z

        assert round_trip(engine, wrong, x) > 0.01


# ---------------------------------------------------------------- density


def mass(log_prob, box, n: int = 400) -> float:
    """∫ q over a box by the midpoint rule."""
    x0, x1, y0, y1 = box
    with torch.no_grad():
        total = log_prob(centres(box, n)).double().exp().sum()
    return float(total) * (x1 - x0) * (y1 - y0) / n**2


def sampled_and_quadrature(engine: Flow, log_prob, n: int = 20_000) -> float:
    """|E_q[log q] by the flow's samples − ∫ q log q| in units of the standard error."""
    box = (-12.0, 12.0, -12.0, 12.0)
    with torch.no_grad():
        drawn = log_prob(engine.sample(n)).double()
        lp = log_prob(centres(box, 300)).double()
    integral = (lp.exp() * lp.clamp_min(-1e4)).sum() * (24 / 300) ** 2
    return float((drawn.mean() - integral).abs() / (drawn.std() / n**0.5 + 2e-3))


@pytest.fixture(scope="module")
def trained() -> Flow:
    return Experiment("ring8soft", "flow").start("cpu").train(steps=250).engine


def twins(engine: Flow) -> dict:
    """log_prob done wrong."""

    def log_q(x, of):
        z, log_det = engine.forward(x)
        return log_normal(z) + of(log_det)

    log_std = float(engine.log_std)
    return {
        "dropped Jacobian": lambda x: log_q(x, torch.zeros_like),
        "flipped sign": lambda x: log_q(x, torch.neg),
        "forgotten standardisation": lambda x: log_q(x, lambda d: d + log_std),
    }


@pytest.mark.slow
@pytest.mark.parametrize("averaged", [True, False])
def test_density_integrates_to_one(trained, averaged):
    box = (-12.0, 12.0, -12.0, 12.0)
    trained.averaged = averaged
    try:
        assert abs(mass(trained.log_prob, box, 300) - 1) < 3e-3
        for name, wrong in twins(trained).items():
            assert abs(mass(wrong, box, 300) - 1) > 0.05, name
    finally:
        trained.averaged = True


def test_samples_follow_the_density(trained):
    assert sampled_and_quadrature(trained, trained.log_prob) < 4
    for name, wrong in twins(trained).items():
        assert sampled_and_quadrature(trained, wrong) > 10, name


def test_averaged_and_raw_weights_are_two_models(trained):
    x = trained.pool.test[:50]
    with torch.no_grad():
        averaged = trained.log_prob(x)
        trained.averaged = False
        try:
            raw = trained.log_prob(x)
            z, log_det = trained.forward(x, trained.net)
        finally:
            trained.averaged = True
    assert torch.allclose(raw, log_normal(z) + log_det)
    assert not torch.allclose(raw, averaged)


def test_with_idle_networks_the_flow_is_one_linear_map():
    """Conditioners at zero: q is the Gaussian N(m, Σ) with Σ = (S⁻¹ΠA)⁻ᵀ(S⁻¹ΠA)⁻¹."""
    engine = perturbed(2)
    net = engine.average.module
    with torch.no_grad():
        net.weights[-1].zero_()
        net.biases[-1].zero_()
    matrix, shift = torch.eye(2), torch.zeros(2)
    for a, c in zip(net.matrices(), net.shift):
        matrix, shift = matrix @ a, shift @ a + c
    matrix = torch.diag(1 / engine._std) @ matrix  # z = (x − mean)·matrix + shift
    undo = torch.linalg.inv(matrix)
    cov = undo.T @ undo
    exact = torch.distributions.MultivariateNormal(engine._mean - shift @ undo, cov)
    x = rows_near(engine, 200)
    with torch.no_grad():
        assert torch.allclose(engine.log_prob(x), exact.log_prob(x), atol=2e-3, rtol=1e-4)
        for name, wrong in twins(engine).items():
            assert not torch.allclose(wrong(x), exact.log_prob(x), atol=0.1), name


class Tilted(Dataset):
    """A correlated Gaussian; nameless, so that it does not register."""

    exact = torch.distributions.MultivariateNormal(
        torch.tensor([3.0, -1.0]), torch.tensor([[4.0, 1.1], [1.1, 0.4]])
    )
    extent = (-6.0, 12.0, -4.0, 2.0)

    def sample(self, n, generator, split="train"):
        return self.exact.loc + torch.randn(n, 2, generator=generator) @ self.exact.scale_tril.T

    def log_prob(self, x):
        return self.exact.log_prob(x)


def test_learns_a_correlated_gaussian():
    engine = Flow({"layers": 4, "width": 16}, seed=0)
    pool = Tilted().pool(0)
    engine.start(pool)
    for _ in range(500):
        engine.step()
        engine.step_count += 1
    with torch.no_grad():
        kl = float((Tilted.exact.log_prob(pool.test) - engine.log_prob(pool.test)).mean())
        assert abs(kl) < 0.01
        for name, wrong in twins(engine).items():
            assert abs(float((Tilted.exact.log_prob(pool.test) - wrong(pool.test)).mean())) > 0.1, (
                name
            )


# ---------------------------------------------------------------- pictures


def panel(run, name):
    return next(p for p in run.frame().panels if p.id == name)


def mark(run, name, kind):
    return next(m for m in panel(run, name).marks if isinstance(m, kind))


def test_the_grid_runs_from_the_noise_to_the_data():
    run = Experiment("moons", "flow", knobs={"grid_extent": 2.0}).start("cpu").train(steps=60)
    engine = run.engine
    grid = mark(run, "grid", Mesh)
    slider = panel(run, "grid").slider
    assert (slider.low, slider.high, slider.value) == (0, 12, 12)
    assert len(grid.keys) == len(grid.xy) <= 9
    assert grid.keys[0] == 0 and grid.keys[-1] == 12
    line = torch.linspace(-2, 2, engine.grid_lines)
    z = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    assert torch.allclose(torch.from_numpy(grid.xy[0]), z, atol=1e-4), "first key is the noise"
    with torch.no_grad():
        x = engine.decode(z.reshape(-1, 2)).reshape(z.shape)
    assert torch.allclose(torch.from_numpy(grid.xy[-1]), x, atol=1e-3), "last key is the data"
    assert not torch.allclose(torch.from_numpy(grid.xy[0]), x, atol=0.1)


def test_the_dragged_point_lands_where_f_says_and_touches_nothing():
    plain = Experiment("moons", "flow").start("cpu").train(steps=6)
    run = Experiment("moons", "flow").start("cpu").train(steps=3)
    run.act("follow", x=0.5, y=-0.25)
    path = mark(run, "journey", Paths).xy[0]
    with torch.no_grad():
        z = run.engine.encode(torch.tensor([[0.5, -0.25]]))[0]
    assert path.shape == (13, 2)
    assert torch.allclose(torch.from_numpy(path[0]), z, atol=1e-4)
    assert path[-1] == pytest.approx((0.5, -0.25), abs=1e-4)
    assert mark(run, "journey", Handles).action in Flow.actions
    run.train(steps=3)
    for a, b in zip(plain.engine.net.parameters(), run.engine.net.parameters()):
        assert torch.equal(a, b)
    run.act("follow", x=1e8, y=0.0)  # out of the picture: stays at its edge
    assert run.engine.probe_x == DATASETS["moons"].extent[1]
    with pytest.raises(BadInput):
        run.act("follow", x=0.0)


def test_samples_and_stretch_are_those_of_the_flow():
    run = Experiment("moons", "flow").start("cpu").train(steps=5)
    dots = mark(run, "journey", Points)
    with torch.no_grad():
        x = run.engine.decode(torch.from_numpy(dots.xy[0]))
        box = DATASETS["moons"].extent
        field = mark(run, "logdet", Heat).values
        _, log_det = run.engine.forward(centres(box, len(field)))
    assert torch.allclose(torch.from_numpy(dots.xy[-1]), x, atol=1e-3)
    assert set(dots.group) == set(range(8))
    assert torch.allclose(torch.from_numpy(field).reshape(-1), log_det, atol=1e-4)


def test_digits():
    run = Experiment("digits", "flow").start("cpu").train(steps=12)
    engine = run.engine
    sheet = mark(run, "interpolation", Images).pixels.reshape(6, 10, 8, 8)
    real = engine.pool.test[:12].reshape(12, 8, 8).numpy() / 17
    assert abs(sheet[:, 0] - real[:6]).max() < 1e-3
    assert abs(sheet[:, -1] - real[6:]).max() < 1e-3
    with torch.no_grad():
        assert torch.isfinite(engine.log_prob(engine.pool.test)).all()
        x = engine.sample(500)
    assert x.min() > -0.01 and x.max() < 17.01


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("dim", [2, 64])
def test_the_cost_is_the_likelihood_wherever_noise_lies(dim):
    z = torch.randn(
        200_000 if dim == 2 else 20_000, dim, generator=torch.Generator().manual_seed(0)
    )
    assert torch.allclose(Flow.cost(z), -log_normal(z), rtol=1e-4)
    for size in (0.5, 2.0, 30.0, 1e4):  # no point pulls harder than one at the radius
        far = (size * torch.ones(1, dim)).requires_grad_()
        Flow.cost(far).sum().backward()
        pull = float(far.grad.norm())
        assert pull == pytest.approx(min(size * dim**0.5, dim**0.5 + Flow.FAR), rel=1e-4)
    assert not torch.allclose(Flow.cost(3 * z), -log_normal(3 * z), rtol=1e-4)


def test_the_loss_shown_is_the_true_likelihood():
    engine = Flow({"layers": 2}, seed=0)
    pool = DATASETS["ring8"]().pool(0)
    pool.train = pool.train * 50  # the standardisation stays, so all points lie far out
    engine.start(pool)
    rng = torch.Generator()
    rng.set_state(engine.rng.get_state())
    with torch.no_grad():
        z, log_det = engine.forward(pool.batch(engine.batch, rng), engine.net)
        true = -(log_normal(z) + log_det).mean()
    assert torch.allclose(engine.step()["nll"], true)
    assert float((engine.cost(z) - log_det).mean()) < 0.5 * float(true)


def test_one_coordinate_is_refused():
    class Line(Dataset):
        shape = (1,)

    assert "two" in Flow.accepts(Line())
    assert Flow.accepts(DATASETS["moons"]()) is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sharp_modes_do_not_make_it_diverge(seed):
    run = Experiment("ring8", "flow", seed=seed).start("cpu").train(steps=80)
    assert run.diverged is None and torch.isfinite(run.log_prob(run.pool.test)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "target"), [("moons", 0.02), ("pinwheel", 0.06), ("spirals", 0.3)]
)
def test_reaches_its_target_in_thirty_cpu_seconds(dataset, target):
    run = Experiment(dataset, "flow").start("cpu")
    begin = time.process_time()
    while time.process_time() - begin < 30:
        run.train(steps=20)
    x = run.pool.test
    assert float((run.dataset.log_prob(x) - run.log_prob(x)).mean()) <= target
