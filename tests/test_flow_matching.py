"""Flow matching against closed forms: paths, velocities, couplings, leaps, reflow, densities."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from app.session import Session
from app.share import read_hash, to_hash
from engines import DATASETS, BadInput, Experiment
from engines.data.base import Pool
from engines.fields import ode
from engines.fields.engine import log_normal
from engines.flow_matching import FlowMatching, couplings, leaps, numbers
from engines.flow_matching.paths import At, Path, Scales, exact_velocity
from engines.metrics import knn_kl

KINDS = ("straight", "variance-preserving", "stochastic")
ONE = {"distance": 0.0, "width_left": 0.5, "width_right": 0.5}  # a single Gaussian


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def start(dataset="moons", source=None, options=None, source_options=None, **knobs):
    return Experiment(
        dataset, "flow_matching", knobs=knobs, source=source, options=options or {},
        source_options=source_options or {},
    ).start("cpu")  # fmt: skip


def stirred(engine):
    """The engine with a network whose last layer is not 0, shown as it is."""
    with torch.no_grad():
        for net in (engine.net, engine.average.module):
            net.out.weight.normal_(0, 0.3, generator=rng(1))
            net.out.bias.normal_(0, 0.3, generator=rng(2))
    return engine


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_joins_its_ends_and_knows_its_pace(kind):
    path, x0, x1, noise = Path(kind, 0.7), *normal(3, 6, 2)
    first, last = (path.at(torch.full((6,), t).double()).place(x0, x1, noise) for t in (0.0, 1.0))
    assert torch.allclose(first, x0, atol=1e-12) and torch.allclose(last, x1, atol=1e-12)
    t, h = torch.linspace(0.1, 0.9, 6).double(), 1e-5
    later, before = (path.at(t + s).place(x0, x1, noise) for s in (h, -h))
    wanted = (later - before) / (2 * h)
    assert torch.allclose(path.at(t).pace(x0, x1, noise), wanted, atol=1e-8)
    # its wrong twin: the ends exchanged
    assert not torch.allclose(path.at(t).pace(x1, x0, noise), wanted, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_scales_are_the_best_linear_guess(kind):
    # regression of dz/dt on z over pairs of independent Gaussians, which no formula of ours made
    path, variance = Path(kind, 0.7), 2.5
    x0, x1, noise = normal(3, 400_000, 1)
    x0 = x0 * variance**0.5
    for time in (0.15, 0.5, 0.8):
        at = path.at(torch.tensor(time).double())
        z, pace = at.place(x0, x1, noise)[:, 0], at.pace(x0, x1, noise)[:, 0]
        slope = float((z * pace).mean() / z.square().mean())
        left = float((pace - slope * z).square().mean().sqrt())
        scales = Scales.of(at, variance)
        assert float(scales.r) == pytest.approx(float(z.square().mean().sqrt()), rel=5e-3)
        assert float(scales.c) == pytest.approx(slope, abs=0.02)
        assert float(scales.k) == pytest.approx(left, rel=5e-3)
        wrong = Scales.of(At(at.alpha, at.sigma, at.gamma, at.alpha_dot, -at.sigma_dot,
                             at.gamma_dot), variance)  # fmt: skip
        assert float(wrong.c) != pytest.approx(slope, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_velocity_is_the_mean_of_all_lines_through_a_place(kind):
    run = start("moons", interpolant=kind, bump=0.6)
    engine, n = run.engine, 400_000
    rows = engine.standardise(run.dataset.sample(n, rng(5))).double()
    x0 = normal(n, 2, seed=6)
    z = engine.standardise(run.pool.test[:4]).double() * 0.5
    for t in (0.3, 0.6):
        at = engine._path.at(torch.tensor(t).double())
        exact = engine.exact_velocity(z, t)
        for i in range(len(z)):
            if kind == "stochastic":
                # joint draws of both ends; what noise would have led to z
                noise = (z[i] - at.place(x0, rows)) / at.gamma
                weight, pace = (-0.5 * noise.square().sum(1)).softmax(0), at.pace(x0, rows, noise)
            else:  # the start that a line to each row would have come from
                begun = (z[i] - at.alpha * rows) / at.sigma
                weight, pace = log_normal(begun).softmax(0), at.pace(begun, rows)
            mean = (weight[:, None] * pace).sum(0)
            se = (weight[:, None] * (pace - mean)).square().sum(0).sqrt()
            assert ((exact[i] - mean).abs() < 5 * se + 0.01).all()
            score = engine.exact.score(z[i : i + 1], float(at.alpha), float(Scales.of(at, 1.0).s))
            wrong = exact_velocity(z[i : i + 1], at, -score)[0]
            assert ((wrong - mean).abs() > 5 * se + 0.01).any()


def affine(m, spread, t):
    """Slope and value at 0 of the velocity from N(0, I) to N(m, spread²) on straight lines."""
    slope = (t * spread**2 - (1 - t)) / (t**2 * spread**2 + (1 - t) ** 2)
    return slope, m - slope * t * m


def test_what_is_taught_has_the_marginal_velocity_for_its_mean():
    # a Gaussian's is affine: least squares on the very places and targets of training
    engine = start("two_gaussians", options=ONE).engine
    engine._std = torch.full((2,), 0.25)  # the data as the engine sees them: N(m, 2²)
    engine._mean = torch.tensor([-0.2, 0.1])
    z1 = engine.standardise(engine.pool.dataset.sample(100_000, rng(3)))
    z0, z1 = engine.paired(z1, rng(4))
    m = engine.standardise(torch.zeros(1, 2))[0].double()
    for t in (0.25, 0.7):
        place, wanted = (
            x.double() for x in engine.drawn(z0, z1, torch.full((len(z0),), t), rng(5))
        )
        design = torch.cat([place, torch.ones(len(place), 1).double()], 1)
        slope, offset = affine(m, 2.0, t)
        true = torch.cat([torch.eye(2).double() * slope, offset[None]])
        found = torch.linalg.lstsq(design, wanted).solution
        assert torch.allclose(found, true, atol=0.03)
        wrong = torch.linalg.lstsq(design, (z0 - z1).double()).solution  # its wrong twin
        assert not torch.allclose(wrong, true, atol=0.03)


def test_a_network_that_is_taught_one_point_learns_the_known_velocity():
    engine = FlowMatching({"batch": 256, "width": 32, "hidden": 2, "waves": 0, "lr": 2e-2})
    point = torch.tensor([0.7, -0.4])
    rows = point.repeat(500, 1)
    pool = Pool(DATASETS["moons"](), rows, rows, rows, std=torch.ones(2))
    pool.mean = torch.zeros(2)
    engine.start(pool)
    # early times are rarely drawn, and shall be learnt too
    engine.WARM, engine.BEGIN, engine.POWER = 20, 600, 0.5
    for engine.step_count in range(1600):
        engine.step()
    with torch.no_grad():
        for t in (0.2, 0.5, 0.8):
            z = t * point + (1 - t) * torch.randn(500, 2, generator=rng(3))
            learned, known = engine.drift(z, t), (point - z) / (1 - t)
            size = known.square().mean()
            assert (learned - known).square().mean() < 0.01 * size
            for wrong in (point - z, -known):
                assert (learned - wrong).square().mean() > 0.02 * size


def test_the_exact_velocity_carries_noise_to_the_data():
    run = start("ring8soft")
    engine = run.engine
    z = torch.randn(2000, 2, generator=rng(3))
    held, true = run.pool.test[:4000], run.dataset.sample(2000, rng(9))
    with torch.no_grad():
        times = engine.times(40)[::-1]
        there = ode.end(engine.exact_velocity, z, times)
        back = ode.end(lambda z, t: engine.exact_velocity(z, 1 - t), z, times)  # its wrong twin
    floor = knn_kl(held, true).value
    assert abs(knn_kl(held, engine.unstandardise(there)).value - floor) < 0.06
    assert knn_kl(held, engine.unstandardise(back)).value - floor > 0.5


# ---------------------------------------------------------------- couplings


def test_an_exact_pairing_costs_what_pot_says():
    import ot

    a, b = normal(256, 2), normal(256, 2, seed=1) * 2 + 1
    found = couplings.exact(a, b, 128)
    cost = float((a - found).square().sum(1).mean())
    uniform = np.full(128, 1 / 128)
    each = [
        ot.emd2(uniform, uniform, ot.dist(x.numpy(), y.numpy()))
        for x, y in zip(a.split(128), b.split(128), strict=True)
    ]
    assert cost == pytest.approx(float(np.mean(each)), rel=1e-9)
    assert cost < 0.7 * float((a - b).square().sum(1).mean())
    # the same rows, each once, within their piece
    for x, y in zip(found.split(128), b.split(128), strict=True):
        assert torch.equal(x[x[:, 0].argsort()], y[y[:, 0].argsort()])
    _, to = couplings.linear_sum_assignment(couplings.costs(a[:128], b[:128]).T.numpy())
    wrong = b[:128][torch.from_numpy(to)]  # the inverse assignment
    assert float((a[:128] - wrong).square().sum(1).mean()) > 1.01 * each[0]


def test_an_entropic_plan_is_pots_and_its_draws_are_short():
    import ot

    a, b = normal(2, 64, 2), normal(2, 64, 2, seed=1) * 1.5 + 0.5
    found = couplings.plan(a, b)
    uniform = np.full(64, 1 / 64)
    for x, y, mine in zip(a, b, found, strict=True):
        cost = ot.dist(x.numpy(), y.numpy())
        theirs = ot.sinkhorn(uniform, uniform, cost, couplings.EPSILON * cost.mean(),
                             method="sinkhorn_log", numItermax=20_000, stopThr=1e-9)  # fmt: skip
        assert (mine * torch.from_numpy(cost)).sum() == pytest.approx(
            (theirs * cost).sum(), rel=0.02
        )
        assert np.abs(mine.numpy() - theirs).sum() < 0.1
        assert np.abs(mine.numpy().T - theirs).sum() > 0.5
    a, b = normal(1300, 2), normal(1300, 2, seed=1) * 2 + 1  # the last piece is a short one
    drawn = couplings.entropic(a, b, rng(3))
    cost = lambda y: float((a - y).square().sum(1).mean())  # noqa: E731
    assert cost(couplings.exact(a, b)) < cost(drawn) < 1.15 * cost(couplings.exact(a, b))
    assert cost(drawn) < 0.7 * cost(b)
    assert torch.allclose(drawn.mean(0), b.mean(0), atol=0.1), "the data stay what they are"


# ---------------------------------------------------------------- density


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", [None, "two_gaussians"])
def test_the_jacobian_of_the_drift_is_autograds(kind, source):
    for more in ({}, {"distil": "shortcut"}, {"coupling": "optimal transport"}):
        engine = stirred(start("moons", source, interpolant=kind, **more).engine)
        z = torch.randn(6, 2, generator=rng(3))
        for t in (0.0, 0.4, 1.0):
            value, slope = engine.drift_jacobian(z, t)
            assert torch.allclose(value, engine.drift(z, t), atol=1e-5)
            each = torch.autograd.functional.jacobian(lambda z, t=t: engine.drift(z, t), z)  # noqa: B023
            wanted = torch.stack([each[i, :, i] for i in range(6)])
            assert torch.allclose(slope, wanted, atol=1e-3, rtol=1e-4)
            assert not torch.allclose(slope.transpose(1, 2), wanted, atol=1e-2, rtol=1e-3)


def taught_by_hand(engine, velocity):
    """The engine with a known velocity (z, t) → value, slope (d, d) in place of its network."""
    engine.drift = lambda z, t: velocity(z, t)[0]

    def drift_jacobian(z, t):
        value, slope = velocity(z, t)
        return value, slope.to(z).expand(len(z), 2, 2)

    engine.drift_jacobian = drift_jacobian
    return engine


def test_a_gaussians_density_by_the_ode():
    run = start("two_gaussians", options=ONE)
    engine, eye = run.engine, torch.eye(2)
    engine._std = torch.full((2,), 0.25)
    m = engine.standardise(torch.zeros(1, 2))[0]

    def velocity(z, t):
        slope, offset = affine(m, 2.0, t)
        return slope * z + offset, slope * eye

    x = run.pool.test[:300]
    exact = run.dataset.log_prob(x)
    assert torch.allclose(taught_by_hand(engine, velocity).log_prob(x), exact, atol=3e-3)
    flipped = lambda z, t: (velocity(z, t)[0], -velocity(z, t)[1])  # noqa: E731
    assert not torch.allclose(taught_by_hand(engine, flipped).log_prob(x), exact, atol=0.5)


def test_a_density_from_another_dataset_is_that_datasets_carried_along():
    # a translation by b takes the source's density with it
    run = start("ring8soft", "moons")
    engine, b = run.engine, torch.tensor([0.5, -1.0])
    still = lambda z, t: ((b / engine._std).expand_as(z), torch.zeros(2, 2))  # noqa: E731
    taught_by_hand(engine, still)
    source = run.pool.source
    x = source.test[:200] + b
    assert engine.has_density
    assert torch.allclose(engine.log_prob(x), source.dataset.log_prob(x - b), atol=1e-3)
    assert not torch.allclose(engine.log_prob(x), source.dataset.log_prob(x), atol=0.1)
    # what is drawn from such a model is the source, moved
    with torch.no_grad():
        floor = knn_kl(source.test[:4000], source.train[:2000]).value
        assert abs(knn_kl(source.test[:4000], run.sample(2000) - b).value - floor) < 0.06


# ---------------------------------------------------------------- straightness


def test_the_bend_of_paths_is_zero_for_a_translation_and_known_for_a_turn():
    engine, z = start().engine, torch.randn(200, 2, generator=rng(3), dtype=torch.float64)
    taught_by_hand(engine, lambda z, t: (torch.ones_like(z), torch.zeros(2, 2)))
    assert numbers.bend(engine, z) < 1e-12
    # a turn by an angle: |v|² less the squared chord, averaged
    angle = 1.3
    turn = torch.tensor([[0.0, -angle], [angle, 0.0]], dtype=torch.float64)
    taught_by_hand(engine, lambda z, t: (z @ turn.T, turn))
    radius = float(z.square().sum(1).mean())
    known = radius * (angle**2 - (2 * math.sin(angle / 2)) ** 2)
    assert numbers.bend(engine, z) == pytest.approx(known, rel=1e-4)
    assert radius * angle**2 != pytest.approx(known, rel=0.5)  # its wrong twin forgets the chord


def test_lines_that_are_paired_well_cross_less():
    by_chance, short = (
        start("moons", coupling=how, batch=128, width=64).train(steps=120).engine
        for how in ("independent", "optimal transport")
    )
    with torch.no_grad():
        found = [{m.name: m.value for m in e.metrics()} for e in (by_chance, short)]
    assert found[1]["crossing"] < 0.5 * found[0]["crossing"]
    assert found[1]["straightness"] < 0.7 * found[0]["straightness"]


# ---------------------------------------------------------------- leaps and reflow


def mean_velocity(a):
    """Of dz/dt = a z over [t, t + d]: (e^{ad} − 1)/d z, and a z for d = 0."""

    def mean(z, t, d):
        rate = torch.where(d > 0, torch.expm1(a * d) / d.clamp_min(1e-9), torch.tensor(a).double())
        return rate[:, None] * z if d.dim() else rate * z

    return mean


def test_two_half_leaps_are_one():
    mean, z, nil = mean_velocity(0.8), normal(40, 2), torch.zeros(40).double()
    d = 2.0 ** -(torch.arange(40) % (leaps.LENGTHS - 1)).double()
    target, whole = leaps.target(mean, z, nil, d), mean(z, nil, d)
    assert torch.allclose(target, whole, atol=1e-12)
    # its wrong twin makes both halves from the same place
    assert not torch.allclose(mean(z, nil, d / 2), whole, atol=1e-2)
    # the shortest halves are steps along the velocity: right to first order in their length
    shortest = torch.full((40,), 2.0 ** (1 - leaps.LENGTHS)).double()
    assert torch.allclose(leaps.target(mean, z, nil, shortest), mean(z, nil, shortest), atol=0.02)
    # and from leap to leap to the end
    for n in (1, 4):
        *_, end = leaps.way(mean, z, [i / n for i in range(n + 1)])
        assert torch.allclose(end, math.exp(0.8) * z, atol=1e-5)


def test_leaps_are_drawn_where_they_fit():
    t, d = leaps.drawn(4000, rng())
    assert set((1 / d).tolist()) == {2.0**j for j in range(leaps.LENGTHS)}
    assert (t >= 0).all() and (t + d <= 1).all() and ((t / d) % 1 == 0).all()
    assert (t[d == 1] == 0).all() and len(t[d == 0.25].unique()) == 4


def test_shortcuts_learn_to_leap_and_plain_steps_do_not():
    run = start("two_gaussians", distil="shortcut", batch=128, width=64).train(steps=400)
    with torch.no_grad():
        found = numbers.few(run.engine)
    assert found["leaps"][0] < 0.4 * found["Euler"][0]
    plain = start("two_gaussians").engine
    assert list(numbers.few(plain)) == ["Euler"]


def test_a_reflow_joins_the_ends_of_the_models_own_paths():
    run = start("ring8soft")
    engine = run.engine

    def exact(net, z, t, d=None):
        return engine.exact_velocity(z, float(t)), torch.ones(())

    engine.velocity, engine.PAIRS = exact, 2000
    z0, z1 = engine.pairs
    # both ends are distributed as they should be
    floor = knn_kl(run.pool.test[:4000], run.dataset.sample(2000, rng(9))).value
    assert abs(knn_kl(run.pool.test[:4000], engine.unstandardise(z1)).value - floor) < 0.08
    assert float(z0.mean()) == pytest.approx(0, abs=0.06)
    assert float(z0.std()) == pytest.approx(1, abs=0.05)
    # and belong together: a fine solver leads from each to the other
    with torch.no_grad():
        times = torch.linspace(0, 1, 200).tolist()
        there = ode.end(lambda z, t: engine.exact_velocity(z, t), z0[:200], times)
    off = (there - z1[:200]).norm(dim=1)
    assert float(off.median()) < 0.05
    assert float((there - z1[200:400]).norm(dim=1).median()) > 0.5


def test_reflow_comes_when_it_is_told_to_and_is_saved(monkeypatch):
    monkeypatch.setattr(FlowMatching, "PAIRS", 500)
    run = start(reflow_every=15).train(steps=14)
    assert run.engine.reflows == 0
    run.train(steps=3)
    assert run.engine.reflows == 1
    before = run.engine.pairs
    again = start().restore(run.checkpoint())
    assert again.engine.reflows == 1
    assert all(torch.equal(a, b) for a, b in zip(before, again.engine.pairs, strict=True))
    z0, z1 = again.engine.paired(torch.zeros(50, 2), rng(3))
    there = {tuple(row) for row in torch.cat(before, 1).tolist()}
    assert {tuple(row) for row in torch.cat([z0, z1], 1).tolist()} <= there
    assert again.engine.exact is None, "the velocity of other pairs is another one"
    run.act("reflow")
    assert run.engine.reflows == 2
    assert not torch.equal(before[1], run.engine.pairs[1]), "by the network as it is now"
    with torch.no_grad():
        assert {m.name: m.value for m in run.engine.metrics()}["reflows"] == 2
    run.feed(run.experiment.but(dataset="rings"))
    assert run.engine.reflows == 0, "pairs of other data say nothing"


# ---------------------------------------------------------------- samples


def test_samples_are_made_by_the_solver_and_the_steps_that_are_told():
    run = start("moons").train(steps=30)
    engine = run.engine
    z = torch.randn(50, 2, generator=rng(3))
    with torch.no_grad():
        for solver, steps in itertools.product(ode.STEPS, (1, 5)):
            run.set("solver", solver)
            run.set("steps", steps)
            states = list(engine.way(z))
            assert len(states) == steps + 1
            times = [i / steps for i in range(steps + 1)]
            assert torch.equal(states[-1], ode.end(engine.drift, z, times, ode.STEPS[solver]))
        run.set("solver", "Euler")
        run.set("steps", 1)
        assert torch.allclose(list(engine.way(z))[-1], z + engine.drift(z, 0.0))


def test_many_steps_lead_where_the_density_is():
    engine = start("moons", width=64, batch=128).train(steps=150).engine
    with torch.no_grad():
        x = engine.draws(2000)
        z = engine.starts(2000, rng(3))
        fine = ode.end(engine.drift, z, [i / 50 for i in range(51)])
        floor = knn_kl(x, engine.draws(2000)).value
        assert abs(knn_kl(x, engine.unstandardise(fine)).value - floor) < 0.06
        one = engine.unstandardise(z + engine.drift(z, 0.0))
        assert knn_kl(x, one).value > 1


# ---------------------------------------------------------------- from data to data


def test_noise_is_a_source_by_name():
    plain = Experiment("moons", "flow_matching")
    named = Experiment("moons", "flow_matching", source="noise")
    assert plain == named and named.source is None and "source" not in named.to_dict()
    other = Experiment("spirals", "flow_matching", source="two_gaussians", source_options=ONE)
    assert Experiment.from_json(other.to_json()) == other == read_hash(to_hash(other))[0]
    for wrong in (
        {"source": "digits"}, {"source": "nowhere"}, {"source": "points"}, {"source": 7},
        {"dataset": "digits", "source": "moons"}, {"engine": "cyclegan", "source": "noise"},
        {"engine": "gan", "source": "noise"}, {"source_options": ONE},
        {"source": "noise", "source_options": ONE},
    ):  # fmt: skip
        with pytest.raises(BadInput) as refused:
            Experiment(**{"dataset": "spirals", "engine": "flow_matching", **wrong})
        assert str(refused.value).endswith(".") and len(str(refused.value)) < 300


@pytest.mark.slow
def test_the_page_offers_noise_and_every_dataset_of_the_same_shape():
    session = Session("cpu")
    session.open(Experiment("ring8soft", "flow_matching"))
    control = session.data_controls()["knobs"][0]
    assert control["name"] == "source" and control["value"] == "noise"
    assert control["choices"][0] == "noise" and "rings" in control["choices"]
    assert "digits" not in control["choices"]
    session.set_option("source", "rings")
    assert session.experiment.source == "rings"
    with pytest.raises(BadInput):
        session.choose_dataset("digits")
    assert session.experiment.source == "rings", "nothing is lost"
    session.set_option("source", "noise")
    assert session.experiment.source is None
    session.choose_dataset("digits")
    assert session.sources() == [], "there is nothing to choose from"


def test_a_model_from_data_to_data_starts_on_the_source():
    run = start("ring8soft", "moons").train(steps=20)
    engine, source = run.engine, run.pool.source
    z0 = engine.unstandardise(engine.starts(2000, engine.view_rng, held=True))
    assert torch.cdist(z0.double(), source.test.double()).min(1).values.max() < 1e-4
    assert engine.exact is None and engine.has_density
    # a scale and a place of the source of its own
    assert torch.allclose(engine.unstandardise(engine._source_mean), source.mean, atol=1e-5)
    pictures = {p.id for p in engine.panels()}
    assert "cloud" in pictures and "velocity_error" not in pictures
    again = start().restore(run.checkpoint())
    assert torch.equal(again.sample(9), run.sample(9))


def test_a_source_far_away_is_carried_to_data_by_their_means_before_any_training():
    # with its last layer at 0 the network adds nothing: Gaussians are carried to Gaussians
    wide = {"distance": 0.0, "width_left": 1.5, "width_right": 1.5}
    engine = start("two_gaussians", "two_gaussians", ONE, wide).engine
    assert engine._source_scale == pytest.approx(3, rel=0.02)
    with torch.no_grad():
        x = engine.draws(10_000)
    assert float(x.std()) == pytest.approx(0.5, rel=0.03)
    assert float(x.std()) != pytest.approx(1.5, rel=0.1)
