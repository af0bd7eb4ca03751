"""Normalizing flow: autograd's Jacobian, quadrature and closed forms as oracles.

Each check is a function that a wrong twin (dropped Jacobian, flipped sign …) must fail.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from app.session import Session
from engines import DATASETS, BadInput, Experiment
from engines.cells import centres
from engines.data.base import Dataset
from engines.flow import KINDS, Flow, Gaussian, log_normal
from engines.marks import Handles, Heat, Images, Mesh, Paths, Points
from tests.flows import mass, sampled_and_quadrature, twins

NVP = {"kind": "RealNVP", "layers": 12, "width": 32}

# ---------------------------------------------------------------- density


@pytest.fixture(scope="module")
def trained() -> Flow:
    knobs = {"kind": "RealNVP"}
    return Experiment("ring8soft", "flow", knobs=knobs).start("cpu").train(steps=150).engine


@pytest.mark.slow
@pytest.mark.parametrize("averaged", [True, False])
def test_density_integrates_to_one(trained, averaged):
    trained.averaged = averaged
    try:
        assert abs(mass(trained.log_prob) - 1) < 3e-3
        for name, wrong in twins(trained).items():
            assert abs(mass(wrong) - 1) > 0.05, name
    finally:
        trained.averaged = True


@pytest.mark.slow
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


@pytest.mark.slow
def test_learns_a_correlated_gaussian():
    engine = Flow({"kind": "RealNVP", "layers": 4, "width": 16}, seed=0)
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
    run = (
        Experiment("moons", "flow", knobs={**NVP, "grid_extent": 2.0}).start("cpu").train(steps=60)
    )
    engine = run.engine
    grid = mark(run, "grid", Mesh)
    slider = panel(run, "grid").slider
    assert (slider.low, slider.high, slider.value) == (0, 12, 12)
    assert len(grid.keys) == len(grid.xy) <= 9
    assert grid.keys[0] == 0 and grid.keys[-1] == 12
    line = torch.linspace(-2, 2, engine.grid_lines)
    z = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    xy = grid.xy[:, :: grid.every, :: grid.every]  # where its lines cross
    assert torch.allclose(torch.from_numpy(xy[0]), z, atol=1e-4), "first key is the noise"
    with torch.no_grad():
        x = engine.decode(z.reshape(-1, 2)).reshape(z.shape)
    assert torch.allclose(torch.from_numpy(xy[-1]), x, atol=1e-3), "last key is the data"
    assert not torch.allclose(torch.from_numpy(xy[0]), x, atol=0.1)


def test_halfway_through_an_autoregressive_layer_one_coordinate_has_moved():
    run = Experiment("moons", "flow", knobs={"kind": "spline", "splines": 1}).start("cpu")
    engine = run.train(steps=60).engine
    grid = mark(run, "grid", Mesh)
    assert list(grid.keys) == [0, 0.5, 1]
    assert panel(run, "grid").slider.high == 1
    z = torch.from_numpy(grid.xy[0]).reshape(-1, 2)
    with torch.no_grad():
        x = engine.standardise(engine.decode(z))
    # the data's own scale is blended in, half of it by now
    std, mean = engine._std, engine._mean
    half = torch.stack([x[:, 0], z[:, 1]], 1) * (1 + std) / 2 + mean / 2
    seen = torch.from_numpy(grid.xy[1]).reshape(-1, 2)
    assert torch.allclose(seen, half, atol=1e-3)
    straight = (z + x) / 2 * (1 + std) / 2 + mean / 2
    assert not torch.allclose(seen, straight, atol=0.1), "not the mean of both ends"
    for t in np.linspace(0, 1, 9):  # what the browser draws in between never folds over
        a, b, mix = (grid.xy[0], grid.xy[1], 2 * t) if t < 0.5 else (*grid.xy[1:], 2 * t - 1)
        at = (1 - mix) * a + mix * b
        right, up = np.diff(at, axis=1)[:-1], np.diff(at, axis=0)[:, :-1]
        assert (right[..., 0] * up[..., 1] - right[..., 1] * up[..., 0] > 0).mean() > 0.999


def test_the_dragged_point_lands_where_f_says_and_touches_nothing():
    plain = Experiment("moons", "flow", knobs=NVP).start("cpu").train(steps=6)
    run = Experiment("moons", "flow", knobs=NVP).start("cpu").train(steps=3)
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


@pytest.mark.slow
def test_the_point_is_held_at_the_end_that_was_dragged():
    run = Experiment("moons", "flow", knobs=NVP).start("cpu").train(steps=3)
    run.act("follow_noise", x=0.5, y=-0.25)
    path = mark(run, "journey", Paths).xy[0]
    with torch.no_grad():
        x = run.engine.decode(torch.tensor([[0.5, -0.25]]))[0]
    assert path[0] == pytest.approx((0.5, -0.25), abs=1e-3)
    assert torch.allclose(torch.from_numpy(path[-1]), x, atol=1e-4)
    actions = [m.action for m in panel(run, "journey").marks if isinstance(m, Handles)]
    assert sorted(actions) == ["follow", "follow_noise"]
    run.train(steps=20)  # the noise stays where it is, and the data it becomes moves
    moved = mark(run, "journey", Paths).xy[0]
    assert moved[0] == pytest.approx((0.5, -0.25), abs=1e-3)
    assert abs(moved[-1] - path[-1]).max() > 1e-3
    again = Experiment("moons", "flow", knobs=NVP).start("cpu").restore(run.checkpoint())
    assert again.engine.probe_end == "noise"
    run.act("follow_noise", x=1e8, y=0.0)
    assert run.engine.probe_x == Flow.FAR
    run.act("follow", x=float(path[-1][0]), y=float(path[-1][1]))
    here = mark(run, "journey", Paths).xy[0]
    run.train(steps=20)
    there = mark(run, "journey", Paths).xy[0]
    assert there[-1] == pytest.approx(path[-1], abs=1e-3)
    assert abs(there[0] - here[0]).max() > 1e-3


def test_samples_and_stretch_are_those_of_the_flow():
    run = Experiment("moons", "flow", knobs=NVP).start("cpu").train(steps=5)
    dots = mark(run, "journey", Points)
    with torch.no_grad():
        x = run.engine.decode(torch.from_numpy(dots.xy[0]))
        box = DATASETS["moons"].extent
        field = mark(run, "logdet", Heat).values
        _, log_det = run.engine.forward(centres(box, len(field)))
        z, _ = run.engine.forward(at := centres(box, len(field)))
        exact = run.engine.log_prob(at) - run.engine.shown.base.log_prob(z)
    assert torch.allclose(torch.from_numpy(dots.xy[-1]), x, atol=1e-3)
    assert set(dots.group) == set(range(8))
    # a density in data units has the Jacobian of the scaling, too, and the picture leaves it out
    stretch = torch.from_numpy(field).reshape(-1)
    assert torch.allclose(stretch - run.engine.log_std, exact, atol=1e-3)
    assert not torch.allclose(stretch, log_det, atol=0.1), "wrong twin: the scaling left in"


@pytest.mark.parametrize("knobs", [{}, NVP], ids=["spline", "RealNVP"])
def test_how_f_stretches_space_is_seen_in_more_than_one_colour(knobs):
    run = Experiment("ring8soft", "flow", knobs=knobs).start("cpu").train(steps=60)
    heat = mark(run, "logdet", Heat)

    def told(values, hi):
        """Shares of the field in the two halves, and of it that is beyond the scale."""
        return (values > hi / 8).mean(), (values < -hi / 8).mean(), (abs(values) > hi).mean()

    spread, squeezed, cut = told(heat.values, heat.hi)
    assert spread > 0.15 and squeezed > 0.03 and cut < 0.35
    if not knobs:  # wrong twin: the data's own scale left in, and the extremes setting the scale
        values = heat.values - float(run.engine.log_std)
        spread, squeezed, _ = told(values, abs(values).max())
        assert spread < 0.15 or squeezed < 0.03


@pytest.mark.slow
def test_digits():
    knobs = {"splines": 2, "width": 32}
    run = Experiment("digits", "flow", knobs=knobs).start("cpu").train(steps=12)
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
    assert torch.allclose(Gaussian(2).cost(z), -log_normal(z), rtol=1e-4)
    for size in (0.5, 2.0, 30.0, 1e4):  # no point pulls harder than one at the radius
        far = (size * torch.ones(1, dim)).requires_grad_()
        Gaussian(2).cost(far).sum().backward()
        pull = float(far.grad.norm())
        assert pull == pytest.approx(min(size * dim**0.5, dim**0.5 + Gaussian.FAR), rel=1e-4)
    assert not torch.allclose(Gaussian(2).cost(3 * z), -log_normal(3 * z), rtol=1e-4)


def test_the_loss_shown_is_the_true_likelihood():
    engine = Flow({"kind": "RealNVP", "layers": 2}, seed=0)
    pool = DATASETS["ring8"]().pool(0)
    pool.train = pool.train * 50  # the standardisation stays, so all points lie far out
    engine.start(pool)
    rng = torch.Generator()
    rng.set_state(engine.rng.get_state())
    with torch.no_grad():
        z, log_det = engine.forward(pool.batch(engine.batch, rng), engine.net)
        true = -(log_normal(z) + log_det).mean()
    assert torch.allclose(engine.step()["nll"], true)
    assert float((engine.net.base.cost(z) - log_det).mean()) < 0.5 * float(true)


def test_one_coordinate_is_refused():
    class Line(Dataset):
        shape = (1,)

    assert "two" in Flow.accepts(Line())
    assert Flow.accepts(DATASETS["moons"]()) is None


def test_an_address_from_before_there_were_kinds_means_a_real_nvp():
    old = {"layers": 8, "width": 64, "hidden": 2, "mixing": "linear", "lr": 0.002, "batch": 256}
    assert Experiment("moons", "flow", knobs=old).knobs["kind"] == "RealNVP"
    now = {**old, "kind": "MAF"}
    assert Experiment("moons", "flow", knobs=now).knobs["kind"] == "MAF"
    assert Experiment("moons", "flow").knobs["kind"] == Flow.knobs["kind"].default
    assert set(Flow.knobs["kind"].choices) == set(KINDS)


@pytest.mark.slow
def test_what_a_kind_refuses_leaves_the_visitors_run_as_it_was():
    session = Session("cpu")
    session.open(Experiment("moons", "flow", knobs={"kind": "continuous"}))
    run, kept = session.worker.run, session.experiment
    with pytest.raises(BadInput, match="continuous"):
        session.choose_dataset("digits")
    assert session.experiment == kept and session.worker.run is run
    session.open(Experiment("digits", "flow", knobs={"kind": "MAF", "layers": 2, "width": 16}))
    run, kept = session.worker.run, session.experiment
    for refused in ("continuous", "IAF"):
        with pytest.raises(BadInput, match="choose another kind"):
            session.set("kind", refused)
        with pytest.raises(BadInput, match=refused):  # whoever talks to the run itself
            run.set("kind", refused)
    assert session.experiment == kept and session.worker.run is run
    assert run.train(steps=1).step == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sharp_modes_do_not_make_it_diverge(seed):
    run = Experiment("ring8", "flow", seed, {"kind": "RealNVP"}).start("cpu").train(steps=80)
    assert run.diverged is None and torch.isfinite(run.log_prob(run.pool.test)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dataset", "steps", "target"),
    [
        ("spline", "moons", 400, 0.02),
        ("spline", "spirals", 800, 0.08),
        ("RealNVP", "moons", 800, 0.04),
        ("continuous", "moons", 120, 0.25),
    ],
)
def test_it_comes_near_within_so_many_steps(kind, dataset, steps, target):
    run = Experiment(dataset, "flow", knobs={"kind": kind}).start("cpu").train(steps=steps)
    x = run.pool.test
    assert float((run.dataset.log_prob(x) - run.log_prob(x)).mean()) <= target
