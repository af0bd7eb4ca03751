"""Energies, chains and both phases against closed forms: each check rejects a wrong twin."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from engines import Experiment
from engines.cells import centres
from engines.energy import langevin
from engines.energy.langevin import Moves
from engines.energy.network import Energy
from engines.energy.pictures import phases
from engines.quadrature import Quadrature

FAR_OFF = torch.tensor([1e6, 1e6])
WIDE = Moves(-FAR_OFF, FAR_OFF)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(dataset: str = "moons", seed: int = 0, **knobs):
    return Experiment(dataset, "energy", seed, knobs).start("cpu")


# ---------------------------------------------------------------- the slope by hand


@pytest.mark.parametrize(("dim", "depth", "waves"), [(2, 3, 16), (2, 1, 0), (5, 2, 8)])
def test_the_force_is_autograds(dim, depth, waves):
    net = Energy(dim, 32, depth, waves, 2.0, rng()).double()
    z = torch.randn(40, dim, generator=rng(1), dtype=torch.float64, requires_grad=True)
    energy = net(z)
    (slope,) = torch.autograd.grad(energy.sum(), z)
    by_hand, force = net.force(z)

    def agrees(f: torch.Tensor) -> bool:
        return torch.allclose(f, -slope, atol=1e-12, rtol=1e-9)

    assert torch.allclose(by_hand, energy, atol=1e-12)
    assert agrees(force) and not agrees(-force), "the wrong twin: uphill"


# ---------------------------------------------------------------- chains


def gaussian(s: float):
    """The energy of N(0, s² I) as a force; its temperature is 1."""

    def force(z):
        return z.square().sum(1) / (2 * s * s), -z / s**2

    return force


def variance_of(z: torch.Tensor, expected: float) -> bool:
    """Whether mean squares of independent normals agree with a variance, to 4.5 of its errors."""
    n = z.numel()
    return abs(float(z.double().square().mean()) / expected - 1) < 4.5 * math.sqrt(2 / n)


S, EPSILON = 0.8, 0.9


def chain(moves: Moves, force=None, count: int = 40, n: int = 20_000) -> torch.Tensor:
    begin = S * torch.randn(n, 2, generator=rng(3))  # exactly N(0, S²)
    return langevin.run(force or gaussian(S), begin, moves, rng(4), count)[0]


def test_the_plain_move_inflates_a_gaussian_as_it_must():
    """z' = (1 − ε²/2s²) z + ε ξ is stationary at the variance s²/(1 − ε²/4s²)."""
    moves = replace(WIDE, step=EPSILON, metropolis=False)
    inflated = S**2 / (1 - EPSILON**2 / (4 * S**2))
    z = chain(moves)
    assert variance_of(z, inflated) and not variance_of(z, S**2)
    # wrong twins: a drift of ε² instead of ε²/2 (noise without its √2), and noise halved
    twice = chain(moves, lambda z: (z[:, 0], -2 * z / S**2))
    assert not variance_of(twice, inflated)
    assert not variance_of(chain(replace(moves, noise=0.5)), inflated)
    half = inflated / 4  # the recursion is linear in its noise
    assert variance_of(chain(replace(moves, noise=0.5)), half)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_metropolis_leaves_a_gaussian_as_it_is(temperature):
    moves = replace(WIDE, step=EPSILON * math.sqrt(temperature), temperature=temperature)

    def fits(z: torch.Tensor) -> bool:
        spread = S * math.sqrt(temperature)
        ks = [kstest(z[:, i].numpy() / spread, "norm").pvalue for i in range(2)]
        return min(ks) > 1e-3 and variance_of(z, spread**2)

    begin = math.sqrt(temperature) * S * torch.randn(20_000, 2, generator=rng(3))
    z, _, trace = langevin.run(gaussian(S), begin, moves, rng(4), 40)
    assert fits(z) and 0.5 < float(trace.accepted.float().mean()) < 0.97
    # wrong twins: no refusals; and an acceptance that forgets which way was likelier proposed
    plain, _, _ = langevin.run(gaussian(S), begin, replace(moves, metropolis=False), rng(4), 40)
    assert not fits(plain)
    assert not fits(forgetful(begin, moves))


def forgetful(z: torch.Tensor, moves: Moves) -> torch.Tensor:
    """Accepts by energies alone, as if Langevin proposals were symmetric."""
    force, g = gaussian(S), rng(4)
    for _ in range(40):
        energy, slope = force(z)
        new = z + moves.drift(slope, moves.step) + moves.step * torch.randn(z.shape, generator=g)
        yes = torch.rand(len(z), generator=g).log() < (energy - force(new)[0]) / moves.temperature
        z = torch.where(yes[:, None], new, z)
    return z


def test_moves_that_shrink_and_a_cut_drift_still_leave_it_as_it_is():
    """Far too steep for its step, so that nearly every drift is cut."""
    moves = replace(WIDE, step=3.0, fall=0.02, steps=5)
    narrow = 0.05
    begin = narrow * torch.randn(20_000, 2, generator=rng(5))
    assert float(moves.drift(-begin / narrow**2, 3.0).norm(dim=1).max()) < 1.5 * 2**0.5 * 3.01
    z, energy, _ = langevin.run(gaussian(narrow), begin, moves, rng(6), 25)
    assert variance_of(z, narrow**2) and not torch.equal(z, begin)
    assert torch.allclose(energy, gaussian(narrow)(z)[0])


def test_leaps_carry_the_right_mass_between_modes():
    """Two boxes apart, of mass 3 : 1, from all chains in the smaller one."""
    low, high = torch.tensor([0.0, 0.0]), torch.tensor([4.0, 1.0])
    moves = replace(WIDE, low=low, high=high)

    def energy(z):
        left, right = z[:, 0] < 1, z[:, 0] >= 3
        return torch.where(left, -math.log(3.0), torch.where(right, 0.0, 50.0))

    def share(count: int, sign: float = 1.0) -> float:
        z = torch.tensor([3.5, 0.5]).expand(4000, 2)
        g = rng(7)
        for _ in range(count):
            e = sign * energy(z)
            z, e = langevin.leap(
                lambda x: sign * energy(x), z, e, moves.anywhere(4000, g), moves, g
            )
            pair = torch.randint(4000, (2, 4000), generator=g)
            far = z + z[pair[0]] - z[pair[1]]
            z, _ = langevin.leap(lambda x: sign * energy(x), z, e, far, moves, g)
        assert moves.inside(z).all()
        return float((z[:, 0] < 1).float().mean())

    def right(found: float) -> bool:
        return abs(found - 0.75) < 4.5 * math.sqrt(0.75 * 0.25 / 4000)

    assert right(share(60))
    assert not right(share(60, sign=-1.0)), "the wrong twin: leaps uphill"
    assert not right(share(1)), "and one leap is too few to tell"


def test_no_chain_leaves_the_domain():
    moves = replace(WIDE, low=torch.tensor([-1.0, 0.0]), high=torch.tensor([1.0, 0.5]), step=0.8)
    flat = lambda z: (torch.zeros(len(z)), torch.zeros_like(z))  # noqa: E731
    begin = moves.anywhere(5000, rng())
    for metropolis in (True, False):
        z, _, _ = langevin.run(flat, begin, replace(moves, metropolis=metropolis), rng(1), 20)
        assert moves.inside(z).all()
        for i, (a, b) in enumerate([(-1.0, 1.0), (0.0, 0.5)]):  # flat stays flat, to the walls
            assert kstest(z[:, i].numpy(), "uniform", (a, b - a)).pvalue > 1e-3
    assert torch.allclose(
        moves.reflected(torch.tensor([[1.3, -0.1], [-1.5, 0.6], [5.2, 0.2]])),
        torch.tensor([[0.7, 0.1], [-0.5, 0.4], [0.8, 0.2]]), atol=1e-6,
    )  # fmt: skip


# ---------------------------------------------------------------- the slope of the likelihood


class Quadratic(torch.nn.Module):
    """E(z) = ½ (z − μ)ᵀ A (z − μ): N(μ, A⁻¹), with everything in closed form."""

    def __init__(self):
        super().__init__()
        self.mu = torch.nn.Parameter(torch.tensor([0.4, -0.3], dtype=torch.float64))
        a = torch.tensor([[1.5, 0.4], [0.4, 0.8]], dtype=torch.float64)
        self.a = torch.nn.Parameter(a)

    def forward(self, z):
        d = z - self.mu
        return 0.5 * ((d @ self.a) * d).sum(1)

    def force(self, z):
        return self(z).detach(), -((z - self.mu) @ (self.a + self.a.T) / 2).detach()

    def log_likelihood(self, z):
        """Mean log-density with Z = 2π/√det A."""
        return -self(z).mean() - math.log(2 * math.pi) + 0.5 * torch.logdet((self.a + self.a.T) / 2)


def slopes(loss, net):
    return [g.clone() for g in torch.autograd.grad(loss, list(net.parameters()))]


def test_both_phases_are_the_slope_of_the_likelihood():
    """∇ log q = −E_p[∇E] + E_q[∇E], with the chains' own draws for q."""
    net = Quadratic()
    data = torch.randn(4000, 2, generator=rng(1), dtype=torch.float64) * 1.3 + 0.5
    exact = slopes(net.log_likelihood(data), net)
    moves = Moves(-FAR_OFF.double(), FAR_OFF.double(), step=0.8)
    begin = torch.randn(60_000, 2, generator=rng(2), dtype=torch.float64)
    g, chains = rng(3), begin
    force = lambda z: tuple(part.double() for part in net.force(z))  # noqa: E731
    chains, _, _ = langevin.run(force, begin, moves, g, 60)

    def right(guess: list[torch.Tensor]) -> bool:
        return all(torch.allclose(a, b, atol=0.02) for a, b in zip(guess, exact, strict=True))

    both = slopes(-(net(data).mean() - net(chains).mean()), net)
    assert right(both)
    assert not right([-g for g in both]), "the wrong twin: flipped phases"
    assert not right(slopes(-net(data).mean(), net)), "and the data's phase alone"
    unadjusted, _, _ = langevin.run(force, begin, replace(moves, metropolis=False), g, 60)
    assert not right(slopes(-(net(data).mean() - net(unadjusted).mean()), net))


def test_the_density_of_a_quadratic_energy_is_a_gaussian():
    """log_prob through standardisation, temperature and quadrature, against the closed form."""
    run = start("two_gaussians", temperature=2.0)
    engine = run.engine
    net = Quadratic().float()
    engine.average.module, engine.net = net, net
    with torch.no_grad():
        net.a.mul_(16)  # narrow against the domain, so that nothing is cut off
    x = run.pool.test[:500]
    with torch.no_grad():
        covariance = (
            2.0 * torch.diag(engine._std) @ torch.linalg.inv(net.a) @ torch.diag(engine._std)
        )
        mean = engine.unstandardise(net.mu)
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
    found = run.log_prob(x)
    near = exact > -30

    def agrees(log_q: torch.Tensor) -> bool:
        return torch.allclose(log_q[near], exact[near], atol=2e-3)

    assert agrees(found)
    log_z = next(m for m in run.measure() if m.name == "log_z")
    closed = 0.5 * torch.logdet(2 * math.pi * covariance)
    assert log_z.value == pytest.approx(float(closed), abs=1e-3) and log_z.kind == "exact"
    assert not agrees(found - engine.log_std), "the wrong twin: a Jacobian too many"
    run.set("temperature", 1.0)
    assert not agrees(run.log_prob(x)), "the temperature is part of the density"
    draws = engine.draws(20_000)
    spread = torch.cov(draws.T)
    assert torch.allclose(spread, covariance / 2, rtol=0.05, atol=0.02)


def test_a_step_follows_the_two_phases():
    """One plain descent along the engine's own loss is data's phase minus the chains'."""
    engine = start(lr=1e-4, width=16, hidden=1).engine
    before = {name: p.detach().clone() for name, p in engine.net.named_parameters()}
    state = engine.rng.get_state()
    z = engine.standardise(engine.pool.batch(engine.batch, engine.rng))
    chains = engine.chains.clone()
    engine.rng.set_state(state)
    engine.step()
    moved = engine.chains[: engine.batch]
    assert not torch.equal(moved, chains[: engine.batch]), "the buffer keeps where chains are"
    assert torch.equal(engine.chains[engine.batch :], chains[engine.batch :])
    with torch.no_grad():
        for name, p in engine.net.named_parameters():
            now = p.clone()
            p.copy_(before[name])
            before[name] = now  # now: after the step
    loss = engine.net(z).mean() - engine.net(moved).mean()
    expected = torch.autograd.grad(
        loss, [p for n, p in engine.net.named_parameters()], allow_unused=True
    )
    for (name, p), g in zip(engine.net.named_parameters(), expected, strict=True):
        step = before[name] - p
        some = g.abs() > 1e-3
        assert (torch.sign(step[some]) == -torch.sign(g[some])).all(), name  # Adam's first step


def test_short_run_and_contrastive_chains_begin_where_they_say():
    moves = {"k": 1, "langevin": 0.01, "metropolis": False, "noise": 0.0}
    near = start(method="contrastive divergence", **moves).engine
    z = near.standardise(near.pool.batch(64, rng()))
    assert float((near.negatives(z) - z).abs().max()) < 0.05
    far = start(method="short-run", **moves).engine
    out = far.negatives(z)
    for i in range(2):
        low, side = float(far._low[i]), float(far._high[i] - far._low[i])
        assert kstest(out[:, i].numpy(), "uniform", (low, side)).pvalue > 1e-3
    assert kstest(z[:, 0].numpy(), "uniform", (float(far._low[0]), side)).pvalue < 1e-3


# ---------------------------------------------------------------- numbers and pictures


def test_mass_outside_the_data():
    """Of the data's own density it is 0.1 %, of a uniform one the share of the area."""
    engine = start("checkerboard").engine
    engine.quadrature()
    outside = engine.outside()
    area = (engine._box[1] - engine._box[0]) * (engine._box[3] - engine._box[2])
    dark = 32.0 / area
    # cells that an edge runs through count as theirs: half of a cell all along 64 of edge
    edges = 64 * 0.5 * 9.0 / 100 / area
    assert float(outside.float().mean()) == pytest.approx(1 - dark - edges, abs=0.01)
    exact = Quadrature(engine.pool.dataset.log_prob, engine._box)
    mass = float(exact.log_mass.exp()[outside].sum())
    assert mass < 0.005
    shifted = Quadrature(
        lambda x: engine.pool.dataset.log_prob(x - 2.0 * torch.tensor([1.0, 0.0])), engine._box
    )
    assert float(shifted.log_mass.exp()[outside].sum()) > 0.7, "the wrong twin: the light squares"


class Bumps(torch.nn.Module):
    """E(z) = Σ wⱼ φⱼ(z) with φⱼ a Gaussian bump at cⱼ: what an update does has a closed form."""

    def __init__(self):
        super().__init__()
        self.at = centres((-3.0, 3.0, -3.0, 3.0), 13)
        self.weight = torch.nn.Parameter(torch.randn(169, generator=rng(8)))

    def features(self, z):
        return torch.exp(-torch.cdist(z, self.at).square() / 2)

    def forward(self, z):
        return self.features(z) @ self.weight

    def force(self, z):
        way = self.at - z[:, None]  # −∇φⱼ = −φⱼ (cⱼ − z)
        return self(z), -torch.einsum("nj,njd,j->nd", self.features(z), way, self.weight)

    def pulled(self, at, data):
        """Up to a factor, the change of −∇E after w ← w − η E_data[φ]: η ∇ₓ Σ φⱼ(x) E_data[φⱼ]."""
        way = self.at - at[:, None]
        return torch.einsum("nj,njd,j->nd", self.features(at), way, self.features(data).mean(0))


def test_the_two_phases_as_arrows():
    net = Bumps()
    data = torch.randn(400, 2, generator=rng(1)) * 0.3 + torch.tensor([1.0, 0.0])
    chains = torch.randn(400, 2, generator=rng(2)) * 0.3 - torch.tensor([1.0, 0.0])
    at = torch.randn(200, 2, generator=rng(3)) * 0.7
    kept = net.weight.detach().clone()
    with torch.no_grad():
        pull, push = phases(SimpleNamespace(shown=net), at, data, chains)
        wanted, other = net.pulled(at, data), net.pulled(at, chains)
    assert torch.equal(kept, net.weight) and net.weight.grad is None, "only looked at"

    def along(arrows: torch.Tensor, exact: torch.Tensor) -> bool:
        """Equal but for one factor above 0, to a hundredth of the longest arrow."""
        factor = (arrows * exact).sum() / exact.square().sum()
        off = (arrows - factor * exact).norm(dim=1).max() / arrows.norm(dim=1).max()
        return bool(factor > 0) and float(off) < 0.01

    assert along(pull, wanted) and along(push, -other)
    assert not along(pull, -wanted) and not along(push, other), "the wrong twins: signs"
    assert not along(pull, other) and not along(push, -wanted), "and phases exchanged"
    ratio = pull.norm() / wanted.norm() / (push.norm() / other.norm())
    assert float(ratio) == pytest.approx(1.0, abs=0.02), "one scale for both"


def test_where_data_and_chains_are_the_same_nothing_is_left():
    engine = start("two_gaussians", width=32).train(steps=20).engine
    z = torch.randn(400, 2, generator=rng(1))
    kept = engine.state()[0]
    pull, push = phases(engine, z[:50], z, z)
    assert all(torch.equal(a, engine.state()[0][k]) for k, a in kept.items())
    longest = float(pull.norm(dim=1).max())
    assert longest > 0 and float((pull + push).norm(dim=1).max()) < 0.05 * longest


@pytest.mark.slow
def test_it_learns():
    run = start("moons").train(steps=60)
    kl = {m.name: m.value for m in run.measure()}
    assert math.isfinite(kl["kl_pq"])
    x, exact = run.sample(2000), run.engine.draws(2000)
    assert x.shape == exact.shape == (2000, 2)
    assert np.isfinite(run.log_prob(x).numpy()).all()


def test_digits_have_samples_and_no_density():
    run = start("digits", k=2, width=32, hidden=1).train(steps=5)
    assert not run.engine.has_density and not run.engine.has_draws
    with pytest.raises(NotImplementedError, match="density"):
        run.log_prob(run.pool.test[:3])
    moves = run.engine.moves()
    assert not moves.metropolis, "it would refuse nearly every move"
    assert moves.noise * 8 == pytest.approx(2**0.5), "as long as in the plane, over 64 pixels"
    x = run.sample(30)
    assert x.shape == (30, 64) and float(x.min()) >= 0 and float(x.max()) <= 17
    assert {"samples", "chains", "sorted"} <= {p.id for p in run.frame().panels}


def test_the_energy_pictures_are_there():
    run = start(k=2, width=16, hidden=1).train(steps=5)
    frame = run.frame()
    panels = {p.id: p for p in frame.panels}
    assert {"model", "truth", "error", "energy", "phases", "chains", "surface"} <= set(panels)
    field = panels["energy"].marks[0].values
    assert field.min() == 0 and field.max() <= panels["energy"].marks[0].hi
    e = run.engine.energy(centres(run.dataset.extent, len(field)))
    assert np.allclose(field.ravel(), (e - e.min()).clamp_max(12.0).numpy(), atol=1e-5)
    run.train(steps=1)
    course = next(p for p in run.frame().panels if p.id == "distance_log_z").marks[0].lines
    assert len(course[0].x) == 2
