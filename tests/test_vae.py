"""The VAE: probabilistic PCA knows its log p(x) exactly, and the bounds must lie below it."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from scipy import stats
from torch.autograd import gradcheck
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

from engines import Experiment
from engines.cells import centres
from engines.probes import probes
from engines.vae import (
    VAE,
    Gaussian,
    Levels,
    Posterior,
    freed,
    importance_bound,
    log_prior,
    log_weights,
    numbers,
    parts,
    pictures,
    proposed,
)

D, L, N = 3, 2, 40


def start(dataset: str = "moons", seed: int = 0, **knobs):
    return Experiment(dataset, "vae", seed, knobs).start("cpu")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_posterior(n: int = N, latents: int = L, seed: int = 0) -> Posterior:
    lower = noise(n, latents, latents, seed=seed + 2).tril(-1)
    return Posterior(
        noise(n, latents, seed=seed), 0.5 * noise(n, latents, seed=seed + 1) - 0.5, lower
    )


# ---------------------------------------------------------------- the encoder's Gaussian


def reference(r: Posterior) -> MultivariateNormal:
    return MultivariateNormal(r.mean, r.covariance())


def test_kl_to_the_prior_is_that_of_a_reference_library():
    r = some_posterior()
    prior = MultivariateNormal(torch.zeros(L).double(), torch.eye(L).double())
    exact = kl_divergence(reference(r), prior)
    each, together = r.kl()
    assert torch.allclose(each.sum(1) + together, exact, atol=1e-12)
    one = kl_divergence(Normal(r.mean, r.variance().sqrt()), Normal(0.0, 1.0))
    assert torch.allclose(each, one, atol=1e-12) and (together > 0).all()
    plain = Posterior(r.mean, r.log_scale, None)
    alone = kl_divergence(Normal(r.mean, r.log_scale.exp()), Normal(0.0, 1.0))
    assert torch.allclose(plain.kl()[0], alone, atol=1e-12) and not plain.kl()[1].any()
    # wrong twins: the other direction, and the latents as if they were independent
    assert not torch.allclose(kl_divergence(prior, reference(r)), exact, atol=0.1)
    assert not torch.allclose(each.sum(1), exact, atol=0.01)


def test_draws_have_the_density_that_they_say():
    r, e = some_posterior(), noise(N, 7, L, seed=9)
    z = r.draw(e)
    exact = reference(r).log_prob(z.transpose(0, 1)).T
    assert torch.allclose(r.log_prob(e), exact, atol=1e-10)
    assert torch.allclose(r.whiten(z), e, atol=1e-10)
    assert torch.allclose(r.variance(), r.covariance().diagonal(dim1=1, dim2=2))
    # the wrong twin: log r without its scales
    assert not torch.allclose(r.log_prob(e) + r.log_scale.sum(1)[:, None], exact, atol=0.1)


def test_what_is_proposed_has_the_density_of_the_mixture():
    r, k = some_posterior(), 40
    z, log_q = proposed(r, noise(N, k, L, seed=4))
    own, wide, free = parts(k)
    assert own + wide + free == k and torch.equal(
        z[:, own + wide :], noise(N, k, L, seed=4)[:, 30:]
    )
    cov = r.covariance()
    places = z.transpose(0, 1)
    inside = torch.stack([
        math.log(own / k) + MultivariateNormal(r.mean, cov).log_prob(places),
        math.log(wide / k) + MultivariateNormal(r.mean, 9 * cov).log_prob(places),
        math.log(free / k) + log_prior(places),
    ])  # fmt: skip
    exact = inside.logsumexp(0).T
    assert torch.allclose(log_q, exact, atol=1e-9)
    assert not torch.allclose(log_q, inside[0].T, atol=0.3), "r alone is the wrong twin"
    z, log_q = proposed(r, noise(N, 3, L))
    assert torch.allclose(log_q, r.log_prob(noise(N, 3, L))), "too few to be divided"


# ---------------------------------------------------------------- probabilistic PCA


class PPCA:
    """x = W z + b + σ ε: log p(x) and p(z|x) in closed form (Tipping & Bishop 1999, eq. 4–8)."""

    def __init__(self, dim: int = D, latents: int = L) -> None:
        self.w, self.b, self.sigma = noise(dim, latents, seed=11), noise(dim, seed=12), 0.6
        self.x = self.b + 1.5 * noise(N, dim, seed=13)
        eye = torch.eye
        cov = self.w @ self.w.T + self.sigma**2 * eye(dim).double()
        self.exact = MultivariateNormal(self.b, cov).log_prob(self.x)
        m = self.w.T @ self.w + self.sigma**2 * eye(latents).double()
        self.into = torch.linalg.solve(m, self.w.T)  # E[z|x] = into (x − b)
        self.root = torch.linalg.cholesky(self.sigma**2 * torch.linalg.inv(m))

    def posterior(self, wider: float = 1.0, off: float = 0.0) -> Posterior:
        scale = self.root.diagonal()
        lower = (self.root / scale[:, None]).tril(-1)
        mean = (self.x - self.b) @ self.into.T + off
        like = torch.ones(len(self.x), 1).double()
        return Posterior(mean, (scale * wider).log() * like, lower.expand(len(self.x), -1, -1))

    def log_lik(self, z: torch.Tensor) -> torch.Tensor:
        mean = z @ self.w.T + self.b
        return Normal(mean, self.sigma).log_prob(self.x[:, None]).sum(2)


def test_with_the_exact_posterior_every_bound_is_exact():
    pca = PPCA()
    r, e = pca.posterior(), noise(N, 16, L, seed=3)
    z = r.draw(e)
    log_w = log_weights(pca.log_lik(z), z, e, r)
    assert torch.allclose(log_w, pca.exact[:, None].expand_as(log_w), atol=1e-9), "no gap at all"
    assert torch.allclose(importance_bound(log_w), pca.exact, atol=1e-9)
    wrong = {
        "prior dropped": log_w - log_prior(z),
        "r dropped": log_w + r.log_prob(e),
        "KL flipped": pca.log_lik(z) - log_prior(z) + r.log_prob(e),
    }
    for name, twin in wrong.items():
        assert (importance_bound(twin) - pca.exact).abs().mean() > 0.3, name


def test_bounds_lie_below_log_p_and_rise_with_k():
    pca = PPCA()
    r = pca.posterior(wider=1.4, off=0.2)
    e = noise(N, 64 * 200, L, seed=5)
    z = r.draw(e)
    log_w = log_weights(pca.log_lik(z), z, e, r)
    found = [
        importance_bound(log_w.reshape(-1, k)).view(N, -1).mean(1).mean() for k in (1, 2, 4, 16, 64)
    ]
    exact = pca.exact.mean()
    assert all(a < b for a, b in itertools.pairwise(found)) and found[-1] < exact
    assert exact - found[-1] < 0.02
    # the gap of one draw is KL(r‖p(z|x)), and the ELBO its two terms
    gap = kl_divergence(reference(r), reference(pca.posterior())).mean()
    assert float(exact - found[0]) == pytest.approx(float(gap), abs=0.02)
    each, together = r.kl()
    split = pca.log_lik(z).mean() - (each.sum(1) + together).mean()
    assert float(split) == pytest.approx(float(found[0]), abs=0.02)
    # the wrong twin: log of the mean of densities of r, not divided by it
    assert importance_bound(log_w + r.log_prob(e)).mean() < exact - 1


def test_a_guess_that_misses_half_of_the_truth_is_made_up_for():
    """z ↦ |z|: two places explain each x. r knows one; what is proposed beside it, both."""
    x = torch.tensor([[0.8], [1.3]]).double()
    grid = torch.linspace(-9, 9, 200_001).double()
    log_lik = lambda z: Normal(z.abs(), 0.1).log_prob(x[:, :1])  # noqa: E731
    exact = (log_lik(grid[None]) + Normal(0.0, 1.0).log_prob(grid)).logsumexp(1)
    exact = exact + math.log(18 / 200_000)
    r = Posterior(x, torch.full((2, 1), math.log(0.1)).double(), None)
    e = noise(2, 4000, 1, seed=8)
    z, log_q = proposed(r, e)
    found = importance_bound(log_lik(z[:, :, 0]) + log_prior(z) - log_q)
    assert torch.allclose(found, exact, atol=0.1)
    z = r.draw(e)
    alone = importance_bound(log_weights(log_lik(z[:, :, 0]), z, e, r))
    assert ((exact - alone - math.log(2)).abs() < 0.05).all(), "r alone never sees the other half"


def linear_engine(knobs=None):
    """An engine on the plane whose networks are those of a PPCA, and its exact density."""
    run = start("two_gaussians", noise="learnt", best=False, **(knobs or {}))
    engine = run.engine
    engine._std.mul_(2.0)  # so that a Jacobian which is left out is seen
    pca, net = PPCA(2, 2), engine.net
    with torch.no_grad():
        for p in [*net.encoder.parameters(), *net.decoder.parameters()]:
            p.zero_()
        r = pca.posterior()
        net.out.copy_(pca.w.T)
        net.bias.copy_(pca.b)
        net.head.log_sigma.fill_(math.log(pca.sigma))
        net.into.copy_(pca.into.T)
        told = net.encoder[-1].bias
        told[:2] = -(pca.b @ pca.into.T)
        told[2:4] = r.log_scale[0]
        told[4] = r.lower[0, 1, 0]
    cov = pca.w @ pca.w.T + pca.sigma**2 * torch.eye(2).double()
    std, mean = engine._std.double(), engine._mean.double()
    exact = MultivariateNormal(mean + std * pca.b, std[:, None] * cov * std)
    return engine, exact


def test_the_engine_with_linear_networks_is_probabilistic_pca():
    engine, exact = linear_engine()
    x = engine.pool.test[:50]
    truth = exact.log_prob(x.double()).float()
    assert torch.allclose(engine.bound(x, 1), truth, atol=1e-3), "the ELBO is tight"
    assert (engine.log_prob(x) - truth).abs().max() < 0.15
    assert float((engine.log_prob(x) - truth).mean()) == pytest.approx(0.0, abs=0.01)
    assert (engine.log_prob(x) + engine.log_std - truth).abs().mean() > 0.2, "the Jacobian"
    found = {m.name: m.value for m in engine.metrics()}
    assert abs(found["gap"]) < 0.03
    assert torch.equal(engine.log_prob(x), engine.log_prob(x)), "the same number each time"
    y = engine.sample(20_000).double()
    assert torch.allclose(y.mean(0), exact.mean, atol=0.1)
    assert torch.allclose(y.T.cov(), exact.covariance_matrix, rtol=0.1, atol=0.1)


def holds(kind: str, value: float, truth: float) -> bool:
    return {"upper bound": truth < value, "lower bound": truth > value}[kind]


def test_every_bound_says_on_which_side_the_truth_lies(monkeypatch):
    """Against probabilistic PCA, with a guess that is off and so few draws that it shows."""
    monkeypatch.setattr(VAE, "live_draws", 2)
    engine, exact = linear_engine()
    dataset, x = engine.pool.dataset, engine.pool.test[: engine.probe_rows]
    pca, told = PPCA(2, 2), engine.net.encoder[-1].bias
    with torch.no_grad():
        told[:2] += 0.3
        told[2:4] += math.log(1.3)
    with engine.still(stream=1), torch.no_grad():
        found = {m.name: m for m in engine.metrics()}
        for probe in probes(engine):
            if probe.name in ("kl_pq", "kl_qp"):
                found.update({m.name: m for m in probe.compute()})
    y = engine._drawn[0][: engine.probe_rows]  # what KL(q‖p) was measured on
    rows = engine.pool.test[:100]
    log_q = exact.log_prob(rows.double()).mean()
    truth = {
        "kl_pq": (dataset.log_prob(x) - exact.log_prob(x.double())).mean(),
        "kl_qp": (exact.log_prob(y.double()) - dataset.log_prob(y)).mean(),
        "elbo": log_q,
        "log_p": log_q,
        "gap": kl_divergence(
            reference(pca.posterior(wider=1.3, off=0.3)), reference(pca.posterior())
        ).mean(),
    }
    bounds = {name: m for name, m in found.items() if m.kind.endswith("bound")}
    assert bounds.keys() == truth.keys(), "none without its truth"
    flipped = {"upper bound": "lower bound", "lower bound": "upper bound"}
    for name, metric in bounds.items():
        assert holds(metric.kind, metric.value, float(truth[name])), name
        assert not holds(flipped[metric.kind], metric.value, float(truth[name])), name
    assert found["kl_pq"].kind == "upper bound" and found["kl_qp"].kind == "lower bound"


def test_a_bound_integrates_to_less_than_one():
    engine = start("moons").train(steps=60).engine
    n, box = 40, (-5.0, 5.0, -5.0, 5.0)
    mass = float(engine.bound(centres(box, n), 100).exp().sum() * (10 / n) ** 2)
    assert 0.9 < mass < 1.02


# ---------------------------------------------------------------- the decoder's noise


@pytest.mark.parametrize("kind", ["of z", "learnt", "fixed"])
def test_the_gaussian_decoder_is_that_of_a_reference_library(kind):
    head = Gaussian(D, kind, -1.0, torch.device("cpu"))
    told, x = noise(N, head.size, seed=1).float(), noise(N, D, seed=2).float()
    sigma = head.log_scale(told).exp().detach()
    exact = Normal(told[:, :D], sigma.expand(N, D)).log_prob(x).sum(1)
    assert torch.allclose(head.log_prob(told, x), exact, atol=1e-4)
    assert not torch.allclose(head.log_prob(told, x) + sigma.log().sum(-1), exact, atol=0.1)
    assert head.log_sigma.requires_grad == (kind != "fixed")
    if kind != "of z":
        assert float(sigma) == pytest.approx(math.exp(-1.0))


@pytest.mark.parametrize("kind", ["of z", "learnt", "fixed"])
def test_rounded_logistics_sum_to_one_and_are_scipys(kind):
    head = Levels(5, 17, 6.0, kind, -1.0, torch.device("cpu"))
    told = 1.5 * noise(N, head.size, seed=1).float()
    table = head.probabilities(told)
    assert table.shape == (N, 5, 17) and torch.allclose(table.sum(2), torch.ones(N, 5), atol=1e-5)
    centre = head.centre(told).double().detach().numpy()
    scale = head.scale(told).expand(N, 5).double().detach().numpy()
    for v in range(17):
        low = 0.0 if v == 0 else stats.logistic.cdf(v - 0.5, centre, scale)
        high = 1.0 if v == 16 else stats.logistic.cdf(v + 0.5, centre, scale)
        exact = torch.from_numpy(high - low).float()
        assert torch.allclose(table[:, :, v], exact, atol=1e-5)
        rows = torch.full((N, 5), float(v))
        found = head.log_prob(told, rows)
        assert torch.allclose(found.exp(), exact.prod(1), atol=1e-5)
    # the wrong twin: tails that belong to no level
    density = stats.logistic.pdf(
        torch.arange(17.0)[None, None], centre[..., None], scale[..., None]
    )
    assert abs(density.sum(2) - 1).max() > 0.1
    draws = head.sample(told[:1].expand(20_000, -1), torch.Generator().manual_seed(0))
    assert torch.allclose(draws.mean(0), head.mean(told[:1])[0], atol=0.15)
    assert draws.min() >= 0 and draws.max() <= 16 and torch.equal(draws, draws.round())


@pytest.mark.parametrize("kind", ["of z", "learnt"])
def test_the_slope_of_rounded_logistics_is_that_of_their_values(kind):
    head = Levels(5, 17, 6.0, kind, -0.5, torch.device("cpu")).double()
    told = (0.8 * noise(N, head.size, seed=1)).requires_grad_()
    rows = noise(N, 5, seed=2).mul(6).add(8).round().clamp(0, 16)
    assert {0.0, 16.0} < set(rows.unique().tolist())
    sigma = head.log_sigma
    assert gradcheck(lambda told, _: head.log_prob(told, rows), (told, sigma), atol=1e-8)

    def plain(told, mask_ends=True):
        wide = 1 / head.scale(told)
        off = (rows - head.centre(told)) * wide
        first, last = (rows <= 0) & mask_ends, (rows >= 16) & mask_ends
        up = F.logsigmoid(off + wide / 2).masked_fill(last, 0.0)
        down = F.logsigmoid(wide / 2 - off).masked_fill(first, 0.0)
        return (up + down + torch.log(-torch.expm1(-wide)).masked_fill(first | last, 0.0)).sum(1)

    def slopes(of):
        return torch.autograd.grad(of(told).sum(), (told, sigma))

    mine, true, wrong = slopes(lambda t: head.log_prob(t, rows)), slopes(plain), slopes(
        lambda t: plain(t, False)
    )  # fmt: skip
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(mine, true, strict=True))
    assert not torch.allclose(mine[0], wrong[0], atol=1e-3)


@pytest.mark.parametrize("far", [1.0, 1e3])
def test_rounded_logistics_stay_finite_far_out_and_in_float32(far):
    head = Levels(3, 17, 6.0, "of z", 0.0, torch.device("cpu"))
    told = torch.tensor([[-far, 0.0, far, -9.0, 0.0, 5.0]]).repeat(17, 1).requires_grad_()
    rows = torch.arange(17.0)[:, None].expand(17, 3).contiguous()
    value = head.log_prob(told, rows)
    (slope,) = torch.autograd.grad(value.sum(), told)
    assert value.isfinite().all() and slope.isfinite().all()
    exact = copy.deepcopy(head).double().log_prob(told.double(), rows.double())
    assert torch.allclose(value.double(), exact, rtol=1e-5)


# ---------------------------------------------------------------- training


def test_one_guess_is_the_vae():
    a = start(kind="importance-weighted", k=1).train(steps=8).engine.state()[0]
    b = start(kind="VAE").train(steps=8).engine.state()[0]
    assert all(torch.equal(a[k], b[k]) for k in a)
    c = start(kind="importance-weighted", k=2).train(steps=8).engine.state()[0]
    assert not torch.equal(a["net.bias"], c["net.bias"])


def test_the_losses_are_the_bound_and_its_two_terms():
    run = start().train(steps=5)
    lost = {k: t.values[-1] for k, t in run.lanes[0].tracks.items()}
    assert lost["−bound"] == pytest.approx(lost["reconstruction"] + lost["KL"], abs=1e-4)
    engine = run.engine
    x = engine.pool.test[:2000]
    engine.best = False
    elbo = -float(engine.bound(x, 1).mean())
    lost = engine.loss(*engine.prepare(x))[1]
    assert float(lost["−bound"]) == pytest.approx(elbo, abs=0.1), "one draw by both ways"


def test_free_bits():
    each = torch.tensor([[0.1, 2.0], [0.3, 4.0]])
    assert float(freed(each, 0.0)) == pytest.approx(3.2)
    assert float(freed(each, 0.5)) == pytest.approx(3.5)
    assert float(freed(each, 5.0)) == pytest.approx(10.0)
    # the wrong twin: row by row, as it is not meant
    assert float(each.clamp_min(3.0).mean(0).sum()) != pytest.approx(float(freed(each, 3.0)))


def test_the_warm_up_is_of_the_run_and_not_of_the_data():
    run = start(beta=2.0, warm_up=8)
    engine, seen = run.engine, []
    for _ in range(10):
        seen.append(engine.beta_now)
        run.train(steps=1)
    assert seen == pytest.approx([0.25 * k for k in range(1, 9)] + [2.0, 2.0])
    engine.feed(engine.pool)
    assert engine.age == 0 and engine.beta_now == 2.0, "its code speaks already"
    # the loss is weighed by it: twice the KL of the ELBO's own
    engine.step_count = engine.fed_at = 3
    x = engine.prepare(engine.pool.test[:50])
    state = engine.rng.get_state()
    loss, told = engine.loss(*x)
    engine.rng.set_state(state)
    engine.beta = 0.0
    free, _ = engine.loss(*x)
    assert float((loss - free).detach()) == pytest.approx(1.0 * float(told["KL"]), rel=1e-4)


def test_a_fixed_noise_stays_and_follows_its_knob():
    run = start(noise="fixed", sigma=0.2).train(steps=5)
    sigma = lambda: float(run.engine.shown.head.log_sigma.exp())  # noqa: E731
    assert sigma() == pytest.approx(0.2)
    assert run.set("sigma", 0.5) is False and sigma() == pytest.approx(0.5)
    run.train(steps=2)
    assert sigma() == pytest.approx(0.5)


# ---------------------------------------------------------------- the plain autoencoder


def test_a_plain_autoencoder_has_no_density_and_says_so():
    run = start(kind="autoencoder").train(steps=5)
    engine = run.engine
    assert not engine.has_density and not engine.loss_is_nll
    with pytest.raises(NotImplementedError, match="no density"):
        run.log_prob(engine.pool.test[:2])
    frame = run.frame()
    names = {m.name for m in frame.metrics}
    assert "kl_pq" not in names and "elbo" not in names and "astray" in names
    assert next(p.title for p in frame.panels if p.id == "model") == "Samples of the model"
    with engine.still():
        z = engine.randn(5, 2)
    with engine.still():
        assert torch.equal(engine.sample(5), engine.decode(z)), "decoded noise, and nothing more"
    # it learns to give back what it is given
    x = engine.pool.test[:500]
    assert float((engine.decode(engine.encode(x).mean) - x).abs().mean()) < 0.2


def test_where_the_data_end_is_worked_out_once(monkeypatch):
    engine = start().engine
    dataset, asked = engine.pool.dataset, []
    exact = dataset.log_prob
    edge = exact(engine.pool.test).quantile(0.001)
    monkeypatch.setattr(dataset, "log_prob", lambda x: asked.append(len(x)) or exact(x))
    with engine.still():
        found = [numbers.astray(engine) for _ in range(2)]
    with engine.still():
        x = engine.decode(engine.randn(2000, 2))
        second = engine.decode(engine.randn(2000, 2))
    truth = [float((exact(rows) < edge).float().mean()) for rows in (x, second)]
    assert found == truth
    assert asked.count(len(engine.pool.test)) <= 1, "not with every measurement"


# ---------------------------------------------------------------- images


@pytest.fixture(scope="module")
def digits():
    return start("digits").train(steps=101)


@pytest.mark.slow
def test_the_bound_on_images_is_of_whole_levels(digits):
    engine = digits.engine
    x = engine.pool.test[:20]
    assert torch.equal(engine.bound(x, 8), engine.bound(x.floor() + 0.25, 8))
    assert not torch.equal(engine.bound(x, 8), engine.bound((x.floor() + 1).clamp_max(16), 8))
    y = digits.sample(50)
    assert y.min() >= 0 and y.max() < 17 and len(torch.unique(y)) > 1000
    bits = {m.name: m for m in digits.measure() if m.name.startswith("bits")}
    assert bits["bits_val"].kind == "upper bound" and 1 < bits["bits_val"].value < 4


def test_images_show_the_weights_that_did_best(digits):
    engine = digits.engine
    assert engine.shown is engine.kept.module
    # offered after steps 1, 51 and 101
    assert float(engine.kept.step) in (1, 51, 101)
    track = digits.lanes[0].tracks["validation"].values
    assert min(track) == pytest.approx(float(engine.kept.loss))
    before = engine.bound(engine.pool.val, 8).mean()
    spoilt = copy.deepcopy(engine.average.module.state_dict())
    with torch.no_grad():
        for p in engine.average.module.parameters():
            p.add_(1.0)
    engine.validate()
    assert torch.equal(before, engine.bound(engine.pool.val, 8).mean()), "worse ones are not kept"
    engine.average.module.load_state_dict(spoilt)


def test_another_pair_is_another_pair(digits):
    def strip():
        return next(p for p in digits.frame().panels if p.id == "between").marks[0].pixels

    first = strip()
    assert first.shape == (100, 8, 8) and first.min() >= 0 and first.max() <= 1
    digits.act("another_pair")
    assert (strip() != first).any()
    assert (strip() == strip()).all()


def test_the_plane_that_is_shown_is_the_one_that_decoding_moves_in(digits):
    """A linear decoder x = A z moves the data's two principal axes U along the rows of UᵀA."""
    engine = digits.lanes[0].engine
    n = engine.shown.latents
    a = noise(engine.dim, n).float()
    engine.decode = lambda z: engine.unstandardise(z @ a.T)
    try:
        found = pictures.directions(engine)
        rows = engine.standardise(engine.pool.test).double()
        vectors = torch.linalg.eigh(rows.T.cov()).eigenvectors
        exact = (a.T.double() @ vectors[:, -2:]).float()

        def right(plane: torch.Tensor) -> bool:
            left = exact - plane @ (plane.T @ exact)
            return bool(left.norm() < 1e-3 * exact.norm())

        assert right(found)
        assert not right(torch.eye(n)[:, :2])  # the latents by themselves
        # so the prior stays N(0, I) there, also where nothing is decoded at all
        assert torch.allclose(found.T @ found, torch.eye(2), atol=1e-5)
        z, at = pictures.grid(engine, 5)
        assert torch.allclose(z @ found, at, atol=1e-5)
        assert at[1, 0] > at[0, 0] and at[1, 1] == at[0, 1], "the first direction runs across"
        engine.decode = lambda z: engine.unstandardise(0 * z @ a.T)
        silent = pictures.directions(engine)
        assert torch.allclose(silent.T @ silent, torch.eye(2), atol=1e-5)
    finally:
        del engine.decode
