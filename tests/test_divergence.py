"""Divergences by quadrature: closed forms, moment matching, and twins that must fail."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from app.session import Session
from app.share import from_hash, to_hash
from engines import BadInput, Experiment
from engines.cells import centres
from engines.data import DATASETS
from engines.divergence import fits, maths
from engines.divergence.target import convolved, domain, grid, target
from engines.marks import Bars, Ellipses, Handles, Heat, Paths

LOG2 = math.log(2)
FAR = {"components": [[-4.0, 0.5, 0.3], [4.0, 0.6, 0.7]]}
X = torch.linspace(-20, 20, 8001, dtype=torch.float64)
CELL = math.log(40 / 8000)


def gauss(m: float, s: float) -> torch.Tensor:
    """Log masses of N(m, s²)."""
    return maths.masses(-0.5 * ((X - m) / s) ** 2 - math.log(s * math.sqrt(2 * math.pi)), CELL)


def kl_gauss(m1, s1, m2, s2) -> float:
    return math.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5


def start(dataset="ring8soft", seed=0, options=None, **knobs):
    return Experiment(dataset, "divergence", seed, knobs, options or {}).start("cpu")


# ---------------------------------------------------------------- the divergences


P, Q = (0.5, 0.7), (-0.4, 1.3)


def test_both_kls_of_two_gaussians():
    p, q = gauss(*P), gauss(*Q)
    forward = float(maths.divergence("forward KL", p, q))
    assert forward == pytest.approx(kl_gauss(*P, *Q), abs=1e-8)
    assert float(maths.divergence("reverse KL", p, q)) == pytest.approx(kl_gauss(*Q, *P), abs=1e-8)
    assert abs(forward - kl_gauss(*Q, *P)) > 0.1, "the wrong twin: arguments swapped"


@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.5, 0.8, 0.99])
def test_the_alpha_divergence_of_two_gaussians(alpha):
    (m1, s1), (m2, s2) = P, Q
    wide = alpha * s2**2 + (1 - alpha) * s1**2
    overlap = s1 ** (1 - alpha) * s2**alpha / math.sqrt(wide)
    overlap *= math.exp(-0.5 * alpha * (1 - alpha) * (m1 - m2) ** 2 / wide)
    wanted = (1 - overlap) / (alpha * (1 - alpha))
    got = [float(maths.divergence("α-divergence", gauss(*a), gauss(*b), alpha))
           for a, b in ((P, Q), (Q, P))]  # fmt: skip
    assert got[0] == pytest.approx(wanted, abs=1e-8)
    assert alpha == 0.5 or abs(got[1] - wanted) > 1e-2, "the wrong twin: arguments swapped"


def test_it_passes_into_both_kls_without_cancellation():
    p, q = gauss(*P), gauss(*Q)
    for end, name in ((1, "forward KL"), (0, "reverse KL")):
        limit = maths.terms(name, p, q)
        for step in (1e-4, 1e-9, 1e-14):
            alpha = abs(end - step)
            here = maths.terms("α-divergence", p, q, alpha)
            assert float((here - limit).abs().max()) < 10 * step + 1e-12
            assert float(here.sum() - limit.sum()) == pytest.approx(0, abs=10 * step + 1e-9)
        assert torch.equal(maths.terms("α-divergence", p, q, float(end)), limit)
    # the wrong twin: the formula as it is written loses all digits
    alpha = 1 - 1e-14
    naive = (1 - (alpha * p + (1 - alpha) * q).exp().sum()) / (alpha * (1 - alpha))
    assert abs(float(naive) - kl_gauss(*P, *Q)) > 1e-3


def test_jensen_shannon_is_at_most_log_2():
    apart = float(maths.divergence("Jensen–Shannon", gauss(-9, 0.3), gauss(9, 0.3)))
    assert apart == pytest.approx(LOG2, abs=1e-10)
    for m in (0.0, 0.5, 2.0, 6.0):
        js = float(maths.divergence("Jensen–Shannon", gauss(m, 1.0), gauss(-m, 0.4)))
        assert 0 < js < LOG2
    p, q = gauss(-9, 0.3), gauss(9, 0.3)
    twin = p.exp() * (p - torch.logaddexp(p, q)) + q.exp() * (q - torch.logaddexp(p, q))
    assert abs(float(twin.sum()) - LOG2) > 0.5, "the wrong twin: a mixture that weighs 2"


def test_nothing_is_gained_by_leaving_the_grid():
    """All that is beyond counts as one more cell, so that masses always sum to 1."""
    p = gauss(0, 1)
    inside, outside = (maths.divergence("reverse KL", p, gauss(m, 1.0)) for m in (18, 40))
    assert float(gauss(40, 1.0).exp().sum()) == pytest.approx(1)
    assert float(inside) > 5 and float(outside) > 5
    q = gauss(40, 1.0)[:-1]
    assert float((q.exp() * (q - p[:-1])).sum()) < 0.01, "the wrong twin: KL on the grid alone"
    narrow = maths.masses(torch.where(X == 0, 9.0, -50.0), CELL)  # sums to 40: no density
    assert float(narrow.exp().sum()) == pytest.approx(1)


def test_cross_entropy_is_entropy_and_kl():
    p, q = gauss(*P), gauss(*Q)
    h, cross = maths.entropies(p, q, CELL)
    assert float(h) == pytest.approx(0.5 * math.log(2 * math.pi * math.e * P[1] ** 2), abs=1e-8)
    kl = maths.divergence("forward KL", p, q)
    assert float(cross - h) == pytest.approx(float(kl), abs=1e-10)
    assert abs(float(cross - h - maths.divergence("reverse KL", p, q))) > 0.1


# ---------------------------------------------------------------- q


def make(kind: str, d: int) -> torch.nn.Module:
    rng = torch.Generator().manual_seed(5)
    draw = lambda k, n: torch.randn(k, n, generator=rng)  # noqa: E731
    if kind == "flow":
        fit = fits.Flow(d, rng, draw, 1.0, 0.6)
    else:
        fit = fits.Gaussians(2, 3, d, kind == "full", draw, 1.0, 0.6)
    with torch.no_grad():
        for name, p in fit.named_parameters():
            p.add_(
                (0.05 if "net" in name else 0.3)
                * torch.randn(p.shape, generator=rng, dtype=p.dtype)
            )
    return fit


KINDS = [(kind, d) for kind in ("full", "diagonal", "flow") for d in (1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "d"), KINDS)
def test_every_q_is_a_density_and_its_samples_follow_it(kind, d):
    fit, floor = make(kind, d), torch.full((d,), 0.05, dtype=torch.float64)
    n, half = (20_000, 20.0) if d == 1 else (500, 14.0)
    axis = -half + (torch.arange(n, dtype=torch.float64) + 0.5) * (2 * half / n)
    axes, cell = [axis] * d, (2 * half / n) ** d
    z = grid(axes)
    with torch.no_grad():
        log_q = fit.log_prob(z, floor)
        assert torch.allclose(fit.on_grid(axes, z, floor), log_q, atol=1e-9)
        mass = log_q.exp().sum(1) * cell
        assert mass.numpy() == pytest.approx(1, abs=2e-3)
        assert abs(float((log_q + 0.02).exp().sum(1)[0] * cell) - 1) > 1e-2, "the wrong twin"
        rng = torch.Generator().manual_seed(1)
        u = torch.rand(40_000, generator=rng, dtype=torch.float64)
        x = fit.sample(torch.randn(40_000, d, generator=rng, dtype=torch.float64), u, floor)
    p = log_q[0].exp() * cell
    for axis in range(d):
        for power in (1, 2):
            wanted = float((p * z[:, axis] ** power).sum())
            got = x[:, axis] ** power
            error = 5 * float(got.std()) / 200
            assert abs(float(got.mean()) - wanted) < error + 2e-2
    if d == 2:
        wanted = float((p * z[:, 0] * z[:, 1]).sum())
        assert float((x[:, 0] * x[:, 1]).mean()) == pytest.approx(wanted, abs=0.15)


@pytest.mark.parametrize(("kind", "d"), KINDS)
@pytest.mark.parametrize("name", maths.OBJECTIVES)
def test_gradients_against_finite_differences(kind, d, name):
    fit, floor = make(kind, d), torch.full((d,), 0.05, dtype=torch.float64)
    n = 400 if d == 1 else 50
    axis = -6 + (torch.arange(n, dtype=torch.float64) + 0.5) * (12 / n)
    axes, cell = [axis] * d, d * math.log(12 / n)
    z = grid(axes)
    log_p = maths.masses(-0.5 * ((z - 0.3) ** 2).sum(1) - 0.5 * d * fits.LOG_2PI, cell)

    def value() -> torch.Tensor:
        log_q = maths.masses(fit.on_grid(axes, z, floor), cell)
        return maths.divergence(name, log_p, log_q, 0.3).sum()

    value().backward()
    rng = torch.Generator().manual_seed(2)
    way = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in fit.parameters()]
    slope = sum(float((p.grad * v).sum()) for p, v in zip(fit.parameters(), way, strict=True))
    ends, step = [], 1e-5
    with torch.no_grad():
        for side in (1, -2):
            for p, v in zip(fit.parameters(), way, strict=True):
                p.add_(side * step * v)
            ends.append(float(value()))
    wanted = (ends[0] - ends[1]) / (2 * step)
    assert slope == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    assert -slope != pytest.approx(wanted, rel=1e-5, abs=1e-7), "the wrong twin: uphill"


# ---------------------------------------------------------------- p on the grid


def test_p_is_blurred_only_where_it_must_be():
    fine = {n: target(DATASETS[n](), 0.0) for n in ("ring8soft", "moons", "line", "two_gaussians")}
    assert all(t.sigma == 0 and t.why == "" and t.name == "p" for t in fine.values())
    assert all(abs(t.total - 1) < 1e-4 for t in fine.values())
    for name, why in (("checkerboard", "p is 0 in places"), ("river", "p is 0 in places"),
                      ("ring8", "finer than a cell"), ("grid25", "finer than a cell")):  # fmt: skip
        t = target(DATASETS[name](), 0.0)
        assert t.why == why and t.sigma == pytest.approx(max(t.cell))
        assert f"p ∗ N(0, {t.sigma:.2g}²)" == t.name
        assert torch.isfinite(t.log_p).all() and abs(t.total - 1) < 1e-4
    asked = target(DATASETS["moons"](), 0.3)
    assert asked.sigma == 0.3 and asked.why == "asked for"
    assert target(DATASETS["checkerboard"](), 0.4).sigma == 0.4


@pytest.mark.parametrize("name", ["two_gaussians", "line"])
def test_what_is_convolved_on_the_grid_is_what_is_known_exactly(name, monkeypatch):
    dataset = DATASETS[name]()
    _, axes, cell = domain(dataset)
    exact = convolved(dataset, axes, cell, 0.4)
    assert torch.equal(exact, dataset.noised(1.0, 0.4).log_prob(grid(axes)))

    def refuse(*_):
        raise NotImplementedError

    monkeypatch.setattr(type(dataset), "noised", refuse)
    by_hand = convolved(dataset, axes, cell, 0.4)
    near = exact > exact.max() - 20
    assert float((by_hand - exact)[near].abs().max()) < 0.02
    assert torch.isfinite(by_hand).all()
    twin = convolved(dataset, axes, cell, 0.45)
    assert float((twin - exact)[near].abs().max()) > 0.2, "another σ is another density"


def test_q_that_starts_where_p_is_nothing_comes_to_p_and_does_not_leave_the_grid():
    """Beyond the grid p is what it is at its rim, not the least number that has a logarithm."""
    knobs = {"minimise": "reverse KL", "spread": 1.2, "width": 0.3}
    run = start("checkerboard", 2, **knobs)
    engine = run.engine
    assert float(engine._log_p[-1]) < -100
    run.train(steps=120)
    assert float(engine.seen()[0, -1].exp()) < 1e-3
    assert engine.numbers()["KL(q‖p)"] < 5
    twin = start("checkerboard", 2, **knobs)
    twin.engine._log_p[-1] = math.log(maths.OUTSIDE)
    assert twin.train(steps=120).engine.numbers()["KL(q‖p)"] > 5


# ---------------------------------------------------------------- what it learns


def test_forward_kl_matches_moments():
    rows = [[-1.4, 0.8, 0.62, 0.24, 0.6, 0.4], [1.5, 1.0, 0.42, 0.42, 0.0, 0.6]]

    def gap(**knobs) -> float:
        run = start("gaussians", options={"components": rows}, **knobs).train(steps=300)
        p = run.dataset.density if hasattr(run.dataset, "density") else run.dataset.noised(1.0, 0.0)
        mean = p.weights @ p.centres
        spread = p.centres - mean
        cov = torch.einsum("k,kij->ij", p.weights, p.cov + spread[:, :, None] * spread[:, None])
        _, m, c = (part[0, 0] for part in run.engine.gaussians())
        return float((m - mean).abs().max()) + float((c - cov).abs().max())

    assert gap() < 0.01
    assert gap(minimise="reverse KL") > 0.5, "the wrong twin: the other KL"


def test_reverse_kl_takes_one_far_mode_and_pays_minus_log_of_its_weight():
    for seed in (0, 1):
        run = start("line", seed, FAR, minimise="reverse KL").train(steps=200)
        _, mean, cov = (part.flatten() for part in run.engine.gaussians())
        k = int(float(mean[0]) > 0)
        x, sigma, weight = FAR["components"][k]
        assert float(mean[0]) == pytest.approx(x, abs=0.02)
        assert float(cov[0]) ** 0.5 == pytest.approx(sigma, rel=0.03)
        now = run.engine.numbers()
        assert now["KL(q‖p)"] == pytest.approx(-math.log(weight), abs=2e-3)
        assert abs(now["KL(q‖p)"] + math.log(1 - weight)) > 0.3, "the wrong twin: the other mode"


def test_numbers_are_those_of_the_shared_metrics():
    run = start(q="K Gaussians", n_components=4).train(steps=60)
    found = {m.name: m for m in run.measure()}
    now = run.engine.numbers()
    for name, key in (("kl_pq", "KL(p‖q)"), ("kl_qp", "KL(q‖p)")):
        assert abs(found[name].value - now[key]) < 5 * found[name].se
    assert now["H(p)"] == pytest.approx(run.dataset.entropy, abs=1e-4)
    assert now["H(p, q)"] == pytest.approx(now["H(p)"] + now["KL(p‖q)"], abs=1e-9)
    assert "kl_pq_blur" not in found


@pytest.mark.parametrize("dataset", ["line", "ring8soft", "checkerboard"])
@pytest.mark.parametrize("kind", maths.OBJECTIVES)
def test_the_integrand_integrates_to_the_number(dataset, kind):
    run = start(dataset, minimise=kind, alpha=0.7).train(steps=20)
    engine = run.engine
    beyond = float(maths.terms(kind, engine._log_p, engine.seen()[0], 0.7)[-1])
    from engines.divergence.pictures import _cells

    field = _cells(engine, kind)
    total = float(field.sum()) * math.prod(engine._target.cell) + beyond
    wanted = float(engine.value()[0])
    assert total == pytest.approx(wanted, abs=1e-9)
    assert total != pytest.approx(float(engine.value("reverse KL" if kind != "reverse KL" else
                                                     "forward KL")[0]), abs=1e-3)  # fmt: skip
    panel = next(p for p in run.frame().panels if p.id == "integrand")
    assert f"{wanted:.3f} nats" in panel.subtitle and maths.SYMBOLS[kind] in panel.title


def test_p_that_is_zero_somewhere_is_fitted_blurred_and_says_so():
    run = start("checkerboard", minimise="reverse KL").train(steps=20)
    found = {m.name: m for m in run.measure()}
    assert found["kl_qp"].value == math.inf and "p is 0" in found["kl_qp"].note
    assert 0 < found["kl_qp_blur"].value < 20
    title = next(p for p in run.frame().panels if p.id == "truth")
    assert "p ∗ N(0, 0.11²)" in title.title and "∞" in title.subtitle


def test_more_blur_acts_at_once_and_is_measured():
    run = start().train(steps=5)
    before = run.engine.numbers()["H(p)"]
    assert run.set("blur", 0.3) is False
    assert run.engine.numbers()["H(p)"] > before + 0.1
    assert "kl_pq_blur" in {m.name for m in run.measure()}


# ---------------------------------------------------------------- many starts


def test_a_start_is_the_same_however_many_follow():
    one, many = (start(minimise="reverse KL", starts=n).train(steps=30) for n in (1, 6))
    assert torch.allclose(one.engine.fit.mean[0], many.engine.fit.mean[0], atol=1e-10)
    assert torch.allclose(one.sample(20), many.sample(20), atol=1e-5)


def test_starts_find_every_mode_and_are_told_apart():
    run = start("line", minimise="reverse KL", starts=16, width=0.2, spread=1.2,
                options={"components": [[-5, 0.4, 0.2], [0, 0.4, 0.5], [5, 0.4, 0.3]]})  # fmt: skip
    run.train(steps=150)
    value, group = run.engine.optima()
    ended = run.engine.gaussians()[1].flatten().round(decimals=0).tolist()
    assert set(ended) == {-5.0, 0.0, 5.0} and max(group) == 2
    for g, (mode, weight) in enumerate([(0.0, 0.5), (5.0, 0.3), (-5.0, 0.2)]):  # best first
        mine = [s for s in range(16) if group[s] == g]
        assert {ended[s] for s in mine} == {mode}
        assert value[mine].numpy() == pytest.approx(-math.log(weight), abs=2e-3)
    frame = run.frame()
    found = {m.name: m for m in frame.metrics}
    assert found["optima"].value == 3 and found["optima"].of == 16
    assert found["best_start"].value == pytest.approx(LOG2, abs=2e-3)
    bars = next(p for p in frame.panels if p.id == "ranking").marks[0]
    assert isinstance(bars, Bars) and (np.diff(bars.values) >= 0).all() and len(bars.names) == 16


# ---------------------------------------------------------------- by hand


def test_q_is_dragged_and_every_number_follows_while_paused():
    run = start(minimise="reverse KL").train(steps=10)
    before = run.engine.numbers()
    run.act("move_q", x=2.8, y=0.0, index=0)
    _, mean, _ = run.engine.gaussians()
    assert mean[0, 0].tolist() == pytest.approx([2.8, 0.0])
    run.act("stretch_q", x=2.8, y=0.5, index=0)
    _, mean, cov = (part[0, 0] for part in run.engine.gaussians())
    assert float(cov[1, 1]) == pytest.approx(0.25, abs=0.02)
    assert all(run.engine.numbers()[k] != v for k, v in before.items() if k != "H(p)")
    frame = run.frame()
    ellipse = next(m for p in frame.panels if p.id == "truth" for m in p.marks
                   if isinstance(m, Ellipses))  # fmt: skip
    assert ellipse.mean[0] == pytest.approx([2.8, 0.0])
    run.train(steps=5)
    for bad in ({"x": 0.0, "y": 0.0, "index": 7}, {"x": 0.0, "y": 0.0, "index": -1}):
        with pytest.raises(BadInput):
            run.act("move_q", **bad)


def test_handles_of_axes_stand_where_they_were_dragged_to():
    run = start(minimise="reverse KL", width=1.0, spread=0.0)
    for x, y, index in ((1.5, 0.9, 1), (-0.3, 0.4, 0)):
        run.act("stretch_q", x=x, y=y, index=index)
        panel = next(p for p in run.frame().panels if p.id == "truth")
        ends = next(m for m in panel.marks if isinstance(m, Handles) and m.action == "stretch_q").xy
        mean = run.engine.gaussians()[1][0, 0].numpy()
        far = np.minimum(*(np.linalg.norm(ends - mean - sign * (np.array([x, y]) - mean), axis=1)
                           for sign in (1, -1)))  # fmt: skip
        assert far.min() < 0.02


def test_a_flow_is_dragged_as_a_whole():
    run = start("line", q="flow").train(steps=10)
    run.act("move_q", x=1.0, y=0.2, index=0)
    where = run.engine.centre() * run.engine._std + run.engine._mean
    assert float(where[0]) == pytest.approx(1.0, abs=0.02)
    with pytest.raises(BadInput, match="axes"):
        run.act("stretch_q", x=1.0, y=0.2, index=0)


def test_p_is_dragged_on_the_line_under_the_running_q():
    run = start("line").train(steps=10)
    weights, old = run.engine.state()[0], run.engine.numbers()
    run.act("move_p", x=-1.0, y=0.3, index=0)
    assert run.experiment.options["components"][0][0] == -1.0 and run.step == 10
    assert run.dataset.components[0][0] == -1.0
    after = run.engine.state()[0]
    assert all(torch.equal(weights[k], after[k]) for k in weights)
    assert run.engine.numbers()["KL(p‖q)"] != old["KL(p‖q)"]
    with pytest.raises(BadInput, match="line"):
        start().act("move_p", x=0.0, y=0.0, index=0)


def test_a_dragged_p_reaches_the_address_and_one_undo_takes_it_back():
    session = Session(device="cpu")
    session.open(Experiment("line", "divergence"))
    first = session.experiment
    for n, x in enumerate((-2.0, -1.5, -1.0)):
        session.act("move_p", {"x": x, "y": 0.3, "index": 0}, float(n), n == 0, n == 2)
    now = session.experiment
    assert now.options["components"][0][0] == -1.0
    assert session.worker.run.experiment == now and from_hash(to_hash(now)) == now
    session.act("move_p", {"x": 5.0, "y": 0.3, "index": 0}, 0.5)
    assert session.experiment == now, "a message that was overtaken"
    session.undo()
    assert session.experiment == first and session.worker.run.experiment == first


# ---------------------------------------------------------------- data and pictures


def test_what_has_no_density_is_refused_and_points_wear_a_hat():
    with pytest.raises(BadInput, match="plane or the line"):
        Experiment("digits", "divergence")
    xy = np.random.default_rng(0).normal(size=(300, 2)) * [1.0, 0.5]
    run = Experiment.from_points(xy, "divergence").start("cpu").train(steps=5)
    panel = next(p for p in run.frame().panels if p.id == "truth")
    assert panel.estimate and "p̂" in panel.subtitle


def test_pictures_stand_in_place_of_the_shared_ones():
    plane, line = (start(d).train(steps=2).frame().panels for d in ("ring8soft", "line"))
    for panels, mark, own in ((plane, Heat, "truth"), (line, Paths, "model")):
        ids = [p.id for p in panels]
        assert len(set(ids)) == len(ids)
        panel = next(p for p in panels if p.id == own)
        assert any(isinstance(m, mark) for m in panel.marks)
        assert any(isinstance(m, Handles) for m in panel.marks)
    bare = start("line", show_handles=False).frame()
    assert not any(isinstance(m, Handles) for p in bare.panels for m in p.marks)


def test_the_exact_density_of_the_plane_is_normalised():
    run = start("moons", q="flow").train(steps=30)
    box, n = (-12.0, 12.0, -12.0, 12.0), 600
    mass = run.log_prob(centres(box, n)).double().exp().sum() * (24 / n) ** 2
    assert float(mass) == pytest.approx(1, abs=5e-3)


def test_many_starts_come_first_and_a_choice_names_its_lane():
    knobs = {"minimise": "reverse KL", "starts": 4}
    beside = [{"minimise": "forward KL"}]
    run = Experiment("ring8soft", "divergence", knobs=knobs, beside=beside).start("cpu")
    assert [lane.label for lane in run.lanes] == ["reverse KL", "forward KL"]
    panels = [p for p in run.frame().panels if p.lane == 0]
    assert panels[0].id == "starts" and panels[0].title == "Where each start ended · reverse KL"
    run = Experiment("ring8soft", "divergence", beside=[{"starts": 2, "width": 0.25}]).start("cpu")
    assert run.lanes[1].label == "Starts = 2 · Start width = 0.25"
    assert run.frame().panels[0].id == "model", "one start has no picture of its own"


def test_what_all_lanes_share_names_none_of_them():
    run = Experiment("moons", "flow", beside=[{"width": 8}]).start("cpu")
    titles = {(p.id, p.lane): p.title for p in run.frame().panels}
    assert titles["truth", 0] == "Exact density" and ("truth", 1) not in titles
    assert titles["model", 1] == "Model density · Width = 8"
    assert titles["grid", 0] == "Noise grid, warped · Width = 64"
