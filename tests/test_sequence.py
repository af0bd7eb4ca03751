"""Compounding error: the chain's density, the three ways of training, error against horizon."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from engines import DATASETS, BadInput, Experiment
from engines.marks import Curves, Handles, Paths
from engines.sequence import WAYS, Copies, Sequence
from engines.sequence.horizon import rms_gap, true_walks


def run_of(steps: int = 0, seed: int = 0, options=None, **knobs):
    run = Experiment("walk", "sequence", seed, knobs, options or {}).start("cpu")
    return run.train(steps=steps) if steps else run


@pytest.fixture(scope="module")
def trained():
    return run_of(60).engine


# ---------------------------------------------------------------- copies


def test_copies_are_plain_networks_that_do_not_see_each_other():
    rng = torch.Generator().manual_seed(0)
    net = Copies(3, [4, 5, 2], rng)
    with torch.no_grad():
        net.weights[-1].copy_(torch.randn(3, 5, 2, generator=rng))
    x = torch.randn(3, 7, 4, generator=rng)
    out = net(x)
    for c in range(3):
        hidden = x[c] @ net.weights[0][c] + net.biases[0][c]
        plain = (hidden * torch.sigmoid(hidden)) @ net.weights[1][c] + net.biases[1][c]
        torch.testing.assert_close(out[c], plain)
    out[1].square().sum().backward()
    grads = [p.grad for p in net.parameters()]
    assert all(g[0].abs().max() == 0 == g[2].abs().max() for g in grads)
    before = [g[1].clone() for g in grads]
    length = math.sqrt(sum(float(g.square().sum()) for g in before))
    net.clip(length / 2)
    for g, b in zip(grads, before, strict=True):
        torch.testing.assert_close(g[1], b / 2)


# ---------------------------------------------------------------- density


@pytest.mark.parametrize("memory", [1, 3])
def test_log_prob_is_scipys_chain(memory):
    """Step by step with SciPy's normal; the wrong twin is shown the point it has to tell."""
    engine = run_of(30, options={"length": 16}, memory=memory, shown="scheduled sampling").engine
    rows = engine.pool.test[:5]
    x = rows.view(5, 16, 2)

    def log_q(ahead: int = 0) -> np.ndarray:
        first = engine.pool.train[: engine.walks, :2].double().numpy()
        cov = np.cov(first.T, bias=True) + 1e-6 * np.eye(2)
        out = stats.multivariate_normal(first.mean(0), cov).logpdf(rows[:, :2].double().numpy())
        for t in range(1, 16):
            past = [x[:, max(0, t - k + ahead)] for k in range(memory, 0, -1)]
            past = torch.stack(past, 1).expand(3, -1, -1, -1)
            mean = engine.next_mean(engine.average.module, past)[1].detach().numpy()
            out = out + stats.norm(mean, float(engine.sigma[1])).logpdf(x[:, t].numpy()).sum(1)
        return out

    with torch.no_grad():
        ours = engine.log_prob(rows).double().numpy()
    assert ours == pytest.approx(log_q(), abs=5e-3)
    assert np.abs(ours - log_q(ahead=1)).max() > 0.5, "it must not see what it has to tell"


def test_samples_follow_the_density(trained):
    """E_q[log q] over samples is minus the entropy, which a Gaussian chain has in closed form."""
    for way, name in enumerate(WAYS[:2]):
        trained.shown = name
        with torch.no_grad():
            x = trained.sample(4000, torch.Generator().manual_seed(1))
            log_q = trained.log_prob(x).double()
        one = math.log(2 * math.pi * math.e)
        steps = trained.length - 1
        entropy = one + float(trained._root.diagonal().log().sum())
        entropy += steps * (one + 2 * math.log(float(trained.sigma[way])))
        se = float(log_q.std()) / len(x) ** 0.5
        assert abs(float(log_q.mean()) + entropy) < 5 * se
        # the wrong twin: noise without σ would be taken for noise of 1
        assert abs(float(log_q.mean()) + steps * one) > 100 * se
    trained.shown = WAYS[0]


# ---------------------------------------------------------------- the three ways


def same(a: Copies, i: int, j: int) -> bool:
    return all(torch.equal(p[i], p[j]) for p in a.parameters())


def test_scheduled_sampling_lies_between_the_two_others():
    """With ε = 1 it is teacher forcing to the last bit, with ε = 0 free running."""
    ends = {}
    for least in (1.0, 0.0, 0.5):
        net = run_of(12, schedule="constant", least=least, fed="samples").engine.net
        ends[least] = (same(net, 0, 1), same(net, 1, 2))
    assert ends == {1.0: (True, False), 0.0: (False, True), 0.5: (False, False)}


def test_teacher_forcing_in_the_roll_is_what_is_told_of_true_pasts():
    engine = run_of(5, memory=2).engine
    x = engine.pool.train[:6].view(6, -1, 2)
    with torch.no_grad():
        means, told = engine.roll(x, 0.5), engine.told(engine.net, x)
    torch.testing.assert_close(means[0], told[0], atol=1e-5, rtol=1e-5)
    assert (means[2] - told[2]).abs().max() > 0.01, "free running is told something else"


def test_free_running_repeats_its_own_means():
    """The roll of the third copy is the model iterated by hand from the first point."""
    engine = run_of(8).engine
    x = engine.pool.train[:4].view(4, -1, 2)
    with torch.no_grad():
        means = engine.roll(x, 1.0)
        point = x[:, 0]
        for t in range(engine.length - 1):
            past = point[:, None].expand(3, -1, -1, -1)
            point = engine.next_mean(engine.net, past)[2]
            torch.testing.assert_close(means[2, :, t], point, atol=1e-5, rtol=1e-5)


def test_the_gradient_stops_at_own_points_only_where_asked():
    grads = {}
    for through in (True, False):
        engine = run_of(5, through=through).engine
        x = engine.pool.train[:6].view(6, -1, 2)
        for p in engine.net.parameters():
            p.grad = None
        engine.roll(x, 0.0)[:, :, -1].square().sum((1, 2)).sum().backward()
        grads[through] = engine.net.weights[0].grad.clone()
    torch.testing.assert_close(grads[True][0], grads[False][0])  # nothing of its own to pass
    assert not torch.allclose(grads[True][2], grads[False][2])


@pytest.mark.parametrize("schedule", ["inverse sigmoid", "linear", "exponential"])
def test_the_share_of_true_points_falls_from_one_through_halfway_to_its_least(schedule):
    engine = run_of(schedule=schedule, pace=100.0, least=0.2).engine
    shares = []
    for age in (0, 50, 100, 5000):
        engine.step_count = age
        shares.append(engine.truth_share())
    assert shares[0] == pytest.approx(1, abs=0.04) and shares[2] == pytest.approx(0.6, abs=1e-6)
    assert sorted(shares, reverse=True) == shares and shares[-1] == pytest.approx(0.2, abs=1e-6)


def test_noise_is_what_is_missed_on_true_pasts():
    engine = run_of(20).engine
    x = engine.pool.train[: engine.walks].view(-1, engine.length, 2)
    for part in x.split(16) * 4:  # the model rests, and batches go by
        engine._fit_noise(part)
    with torch.no_grad():
        gap = x[:, 1:] - engine.told(engine.average.module, x)
    expected = gap.square().mean((1, 2, 3)).sqrt()
    assert (engine.sigma / expected).tolist() == pytest.approx([1, 1, 1], abs=0.05)


# ---------------------------------------------------------------- error against horizon


def plug_in(engine: Sequence, follow, sigma: float) -> None:
    """Let all three copies be one given process."""
    engine.next_mean = lambda net, past: follow(past[:, :, -1])
    engine.variance.fill_((sigma / float(engine._std[0])) ** 2)


def test_the_true_process_as_a_model_has_no_error_at_any_horizon():
    engine = run_of().engine
    data = engine.pool.dataset
    plug_in(engine, data.follow, data.noise)
    errors, _, apart = engine.horizon.errors()
    kl, _ = engine.horizon.divergences()
    assert errors.max() < 1e-5 and apart.min() > 0.05
    assert kl.abs().max() < 1e-4
    with torch.no_grad():
        engine.prefix = 2  # another state, so that it is worked out anew
        plug_in(engine, data.follow, 2 * data.noise)  # the wrong twin: noise of another size
        assert engine.horizon.errors()[0].min() > 0.05


def test_the_error_of_a_linear_model_has_a_closed_form():
    """x' = a·Qx + σε against x̂' = b·Qx̂ + σε: the gap grows as (b^h − a^h) of the start, and
    with the noise as Σ (b^j − a^j)²; Q is a rotation and changes no length."""
    a, b, sigma, steps, n = 0.98, 1.01, 0.1, 20, 40_000
    rng = torch.Generator().manual_seed(0)
    q = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    start, noise = torch.full((n, 2), 0.7), torch.randn(steps, n, 2, generator=rng)

    class Linear:
        def __init__(self, rate):
            self.rate = rate

        def follow(self, x):
            return self.rate * x @ q.T

    found = rms_gap(*(true_walks(Linear(rate), start, noise, sigma) for rate in (a, b)))
    h = np.arange(1, steps + 1)

    def closed(with_noise: bool = True) -> np.ndarray:
        out = (b**h - a**h) ** 2 * 2 * 0.7**2
        kicks = np.cumsum((b ** (h - 1) - a ** (h - 1)) ** 2)  # Σ_{j<h}, Q^j keeps lengths
        return np.sqrt(out + with_noise * 2 * sigma**2 * kicks)

    assert found.numpy() == pytest.approx(closed(), rel=0.01)
    assert np.abs(found.numpy() / closed(False) - 1).max() > 0.03, "the wrong twin has no noise"
    spread = true_walks(Linear(a), start, noise, sigma).var(0).sum(1)
    assert spread.numpy() == pytest.approx(2 * sigma**2 * (1 - a ** (2 * h)) / (1 - a**2), rel=0.03)


def test_one_step_divergence_is_the_closed_form_of_two_gaussians():
    """log(σ̂/σ) + (σ² + |Δμ|²/2)/σ̂² − 1, twice half a coordinate: the mean over true pasts."""
    engine = run_of().engine
    data = engine.pool.dataset
    shift, wide = 0.02, 0.08
    plug_in(engine, lambda x: data.follow(x) + shift, wide)
    kl, se = engine.horizon.divergences()
    exact = 2 * (math.log(wide / data.noise) + (data.noise**2 + shift**2) / (2 * wide**2) - 0.5)
    assert kl[0].item() == pytest.approx(exact, abs=4 * float(se[0]))
    other = 2 * (math.log(data.noise / wide) + (wide**2 + shift**2) / (2 * data.noise**2) - 0.5)
    assert abs(kl[0].item() - other) > 10 * float(se[0]), "KL the other way round is another number"


def test_what_is_carried_on_begins_with_what_is_given(trained):
    noise = torch.zeros(5, 2, 2)
    given = trained.pool.test[:2].view(2, -1, 2)[:, :4]
    with torch.no_grad():
        path = trained.carry_on(given, noise)
        first = trained.told(trained.average.module, torch.cat([given, given[:, -1:]], 1))[:, :, -1]
    torch.testing.assert_close(path[:, :, 0], first)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_step_is_not_the_best_walk(seed):
    engine = run_of(350, seed).engine
    with torch.no_grad():
        found = {m.name: m.value for m in engine.metrics()}
    assert found["step_teacher"] < found["step_scheduled"] - 0.03
    assert found["far_scheduled"] < 0.9 * found["far_teacher"]
    assert found["far_free"] > 2 * found["far_teacher"]


# ---------------------------------------------------------------- pictures, and what is refused


def test_pictures_share_their_start_and_their_truth(trained):
    with torch.no_grad():
        shown = {}
        for panel in trained.panels():
            with trained.still():  # as a run draws them
                shown[panel.id] = panel.drawn()
    truth = []
    for name in ("teacher", "scheduled", "free"):
        paths = [m for m in shown[name].marks if isinstance(m, Paths)]
        handle = next(m for m in shown[name].marks if isinstance(m, Handles))
        assert (paths[0].xy[:, 0] == handle.xy[0]).all() and (
            paths[1].xy[:, 0] == handle.xy[0]
        ).all()
        truth.append(paths[0].xy)
    assert np.array_equal(truth[0], truth[1]) and np.array_equal(truth[0], truth[2])
    curves = next(m for m in shown["horizon"].marks if isinstance(m, Curves))
    assert [line.name for line in curves.lines][:3] == list(WAYS)
    assert len(curves.lines[0].x) == trained.length - trained.prefix


def test_a_dragged_start_stays_in_the_picture():
    run = run_of(2)
    before = run.engine.state()[0]
    run.act("drag", x=1e8, y=-1.0)
    panel = next(p for p in run.frame().panels if p.id == "teacher")
    handle = panel.marks[-1].xy[0]
    assert handle.tolist() == pytest.approx([3.6, -1.0], abs=1e-5)
    after = run.engine.state()[0]
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_other_data_is_refused_in_one_sentence():
    for name in ("moons", "digits", "line", "corners"):
        assert Sequence.accepts(DATASETS[name]()).endswith(".")
        with pytest.raises(BadInput):
            Experiment(name, "sequence")
    run = run_of(1)
    with pytest.raises(BadInput, match="built for"):
        run.feed(run.experiment.but(options={"length": 20}))
