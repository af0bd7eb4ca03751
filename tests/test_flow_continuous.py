"""Continuous flow: closed forms, autograd's Jacobian, SciPy's adaptive solver and quadrature.

Each check is a function that a wrong twin (dropped Jacobian, flipped sign …) must fail.
"""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from engines import DATASETS, BadInput
from engines.cells import centres
from engines.flow import log_normal
from engines.flow.continuous import REACH, Continuous, Field, OneHidden, Segment, squash

pytestmark = pytest.mark.slow  # dear: `make test` runs them, `make check` does not


def shaken(hidden=1, layers=6, width=16, size=0.4, seed=0) -> Continuous:
    """A field far from its start."""
    rng = torch.Generator().manual_seed(seed)
    net = Continuous(2, layers, width, hidden, rng)
    with torch.no_grad():
        for p in net.parameters():
            p += size * torch.randn(p.shape, generator=rng)
    return net.requires_grad_(False)


def points(n: int, seed: int = 1, dtype=torch.float64) -> Tensor:
    return 1.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def through(net: Continuous, x: Tensor) -> tuple[Tensor, Tensor]:
    log_dets = []
    for segment in net.layers():
        x, log_det = segment.forward(x)
        log_dets.append(log_det)
    return x, torch.stack(log_dets).sum(0)


# ---------------------------------------------------------------- the field


def test_squash_is_its_formula_and_its_slope():
    u = points(50).flatten().requires_grad_()
    a, d = squash(u)
    assert torch.allclose(a, u / (1 + u**2).sqrt(), atol=1e-14)
    (slope,) = torch.autograd.grad(a.sum(), u)
    assert torch.allclose(d, slope, atol=1e-14)


def jacobians(f, x: Tensor) -> Tensor:
    """autograd's ∂f_j/∂x_i as (N, i, j)."""
    return torch.stack(
        [torch.autograd.functional.jacobian(lambda r: f(r[None])[0], row).T for row in x]
    )


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_jacobian_and_trace_of_the_field_are_autograds(hidden):
    field, x = shaken(hidden).double().layers()[2].field, points(20)
    exact = jacobians(field, x)
    v, j = field.with_jacobian(x)
    assert torch.allclose(v, field(x), atol=1e-12)
    assert torch.allclose(j, exact, atol=1e-12)
    trace = exact[:, 0, 0] + exact[:, 1, 1]
    assert torch.allclose(field.trace(x), trace, atol=1e-12)
    assert not torch.allclose(-field.trace(x), trace, atol=0.1), "flipped sign"
    assert not torch.allclose(j.transpose(1, 2), exact, atol=0.1), "transposed"
    flat = Field([(w, b) for w, b in field.network])
    flat.pairs = None if field.pairs is None else torch.ones_like(field.pairs)
    if hidden == 1:  # two ways to the same Jacobian; and one that forgot the weights
        assert not torch.allclose(flat.trace(x), trace, atol=0.1)
        flat.pairs = None
        assert torch.allclose(flat.trace(x), trace, atol=1e-12)


def test_the_backward_pass_by_hand_is_that_of_finite_differences():
    rng = torch.Generator().manual_seed(0)
    shapes = [(5, 2), (2, 4), (4,), (4, 2), (2,), (4, 4)]
    inputs = [torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_() for s in shapes]
    assert torch.autograd.gradcheck(OneHidden.apply, inputs)

    class Forgetful(OneHidden):  # slopes taken for constants
        @staticmethod
        def backward(ctx, grad_v, grad_j):
            return OneHidden.backward(ctx, grad_v, torch.zeros_like(grad_j))

    assert not torch.autograd.gradcheck(Forgetful.apply, inputs, raise_exception=False)


# ---------------------------------------------------------------- log-determinant


def jacobian_gap(forward, x: Tensor) -> float:
    """Largest |log|det J| of autograd − what `forward` says| over the rows of x."""
    exact = torch.linalg.slogdet(jacobians(lambda r: forward(r)[0], x))[1]
    return float((exact - forward(x)[1]).abs().max())


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_log_determinant_is_that_of_autograds_jacobian(hidden):
    """Of the discrete map itself, so there is no error of the solver to allow for."""
    net, x = shaken(hidden).double(), points(12)

    def forward(x):
        return through(net, x)

    assert jacobian_gap(forward, x) < 1e-10
    assert forward(x)[1].abs().max() > 0.3

    def integrated(x):  # the trace where each step begins
        z, total = x, 0
        for segment in net.layers():
            total = total + segment.h * segment.field.trace(z)
            z, _ = segment.forward(z)
        return z, total

    assert jacobian_gap(integrated, x) > 0.02, "the trace by Euler"
    assert jacobian_gap(lambda x: (forward(x)[0], -forward(x)[1]), x) > 0.1, "flipped sign"
    assert jacobian_gap(lambda x: (forward(x)[0], 0 * forward(x)[1]), x) > 0.1, "dropped"


class Linear:
    """v = x A: z = x e^A and log|det| = tr A."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __call__(self, x):
        return x @ self.matrix

    def with_jacobian(self, x):
        return x @ self.matrix, self.matrix.expand(len(x), 2, 2)


def test_a_linear_field_has_a_closed_form():
    """‖A‖ ≈ 1 in 8 steps: 8·(1/8)⁵/120 = 2e-6 at most."""
    matrix = torch.tensor([[0.5, -0.7], [0.6, 0.2]], dtype=torch.float64)
    x = points(30)

    def gap(sign: float, back: float) -> float:
        z, total = x, 0
        for _ in range(8):
            z, log_det = Segment(Linear(back * matrix), 1 / 8).forward(z)
            total = total + sign * log_det
        exact = x @ torch.linalg.matrix_exp(matrix)
        return float(max((z - exact).abs().max() / 4, (total - matrix.trace()).abs().max()))

    assert gap(1, 1) < 2e-6
    assert gap(-1, 1) > 0.1, "flipped sign"
    assert gap(1, -1) > 0.1, "t reversed"


def adaptive(net: Continuous, x: np.ndarray, sign: float = 1.0) -> np.ndarray:
    """(z, log|det|) by SciPy's DOP853 on d/dt (x, l) = (v, sign · tr ∂v/∂x), rows of x."""
    rows = []
    for row in x:
        state = np.append(row, 0.0)
        for segment in net.layers():

            def slope(t, s, f=segment.field):
                at = torch.as_tensor(s[None, :2])
                return np.append(f(at)[0].numpy(), sign * float(f.trace(at)))

            state = solve_ivp(
                slope, (0, segment.h), state, method="DOP853", rtol=1e-9, atol=1e-9
            ).y[:, -1]
        rows.append(state)
    return np.array(rows)


def refined(net: Continuous, x: Tensor, pieces: int) -> np.ndarray:
    """Each segment's step replaced by `pieces` shorter ones."""
    total = torch.zeros(len(x), dtype=x.dtype)
    for s in net.layers():
        for _ in range(pieces):
            x, log_det = Segment(s.field, s.h / pieces).forward(x)
            total = total + log_det
    return torch.cat([x, total[:, None]], 1).numpy()


def test_steps_tend_to_the_integral_of_the_trace():
    """Liouville: log|det| of the steps → ∫ tr ∂v/∂x dt, with an error of O(h⁴)."""
    net, x = shaken(1, layers=3, size=0.6).double(), points(4)
    exact = adaptive(net, x.numpy())
    errors = [np.abs(refined(net, x, k) - exact).max() for k in (2, 4, 8)]
    assert errors[-1] < 1e-5
    for coarse, fine in itertools.pairwise(errors):
        assert 0.6 * 2**4 < coarse / fine < 1.8 * 2**4
    wrong = adaptive(net, x.numpy(), sign=-1.0)
    assert np.abs(refined(net, x, 8) - wrong).max() > 0.1, "flipped sign"


# ---------------------------------------------------------------- inverse


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_inverse_undoes_the_flow(hidden):
    net, x = shaken(hidden, size=1.0), points(300, dtype=torch.float32)

    def round_trip(undo) -> float:
        z = through(net, x)[0]
        for segment in reversed(net.layers()):
            z = undo(segment, z)
        return float((z - x).abs().max())

    assert round_trip(Segment.inverse) < 1e-5
    assert round_trip(lambda s, z: s.move(z, s.h)) > 0.1, "t not reversed"
    if hidden == 1:
        assert round_trip(lambda s, z: s.move(z, -s.h)) > 1e-4, "the solver's error left in"


def test_states_run_from_the_noise_to_the_data():
    net, x = shaken(layers=8), points(50, dtype=torch.float32)
    z = through(net, x)[0]
    states = net.states(z)
    assert states.shape == (9, 50, 2)
    assert torch.equal(states[0], z)
    assert torch.allclose(states[-1], x, atol=1e-5)
    assert torch.allclose(states[-2], net.layers()[0].forward(x)[0], atol=1e-5)
    assert not torch.allclose(states.flip(0)[-2], states[-2], atol=0.01), "t reversed"


# ---------------------------------------------------------------- density


def mass(log_prob, half: float = 9.0, n: int = 250) -> float:
    x = centres((-half, half, -half, half), n)
    total = sum(log_prob(part).double().exp().sum() for part in x.split(2048))
    return float(total) * (2 * half / n) ** 2


@pytest.mark.parametrize("hidden", [1, 2])
def test_density_integrates_to_one_whatever_the_weights(hidden):
    net = shaken(hidden, layers=4, size=1.0)

    def log_q(x, of=lambda log_det: log_det):
        z, log_det = through(net, x)
        return log_normal(z) + of(log_det)

    assert abs(mass(log_q) - 1) < 1e-3
    for wrong in (torch.neg, torch.zeros_like):
        assert abs(mass(lambda x, of=wrong: log_q(x, of)) - 1) > 0.02


@pytest.mark.slow
def test_a_trained_density_integrates_to_one():
    """Training looks for mass that is not there; the trace summed at each step's start has some."""
    rng = torch.Generator().manual_seed(0)
    pool = DATASETS["spirals"]().pool(0)
    net = Continuous(2, 8, 64, 1, rng)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3, (0.9, 0.99), fused=True)
    for _ in range(400):
        z, log_det = through(net, (pool.batch(256, rng) - pool.mean) / pool.std)
        optimiser.zero_grad()
        (-log_normal(z) - log_det).mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimiser.step()
    net.requires_grad_(False)

    def log_q(x, of=lambda log_det: log_det):
        z, log_det = through(net, x)
        return log_normal(z) + of(log_det)

    def by_trace(x):
        z, total = x, 0
        for segment in net.layers():
            total = total + segment.field.trace(z)
            z, _ = segment.forward(z)
        return log_normal(z) + total

    assert abs(mass(log_q, 6.0, 300) - 1) < 2e-3
    assert abs(mass(by_trace, 6.0, 300) - 1) > 0.02
    assert abs(mass(lambda x: log_q(x, torch.neg), 6.0, 300) - 1) > 0.1


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_no_step_folds_the_plane_even_with_huge_weights(hidden):
    """det ∂z/∂x > 0 everywhere: a map without folds that is the identity far away is one-to-one."""
    net = shaken(hidden, layers=4, width=32, size=1.5)
    x = centres((-5.0, 5.0, -5.0, 5.0), 100)
    net.weights[-1].mul_(20)
    steep = net.steepness()
    for k, segment in enumerate(net.layers()):
        j = segment.field.with_jacobian(x)[1]
        assert torch.linalg.matrix_norm(j).max() < 2 * REACH, "between the lattice's points"
        assert torch.linalg.matrix_norm(j).max() > 0.5 * REACH, "the limit is not idle"
        assert segment.forward(x)[1].min() > math.log(0.02)
        raw = Field([(w[k], b[k]) for w, b in zip(net.weights, net.biases)])
        on_lattice = torch.linalg.matrix_norm(raw.with_jacobian(net.lattice)[1]).max()
        assert torch.allclose(on_lattice, steep[k], rtol=1e-4)
        unbounded = Segment(raw, 1.0).forward(x)[1].min()
        assert unbounded < math.log(1e-6), "without the limit it folds"


# ---------------------------------------------------------------- the module


def test_it_begins_near_the_identity_from_its_own_generator():
    before = torch.random.get_rng_state()
    a, b, c = (Continuous(2, 8, 32, 2, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert not torch.equal(a.weights[0], c.weights[0])
    x = points(100, dtype=torch.float32)
    z, log_det = through(copy.deepcopy(a), x)
    assert 0 < (z - x).abs().max() < 0.3 and log_det.abs().max() < 0.3


def test_only_the_plane_is_accepted():
    with pytest.raises(BadInput, match="plane"):
        Continuous(3, 4, 16, 1, torch.Generator())


@pytest.mark.slow
def test_learns_a_tilted_gaussian():
    """By maximum likelihood: KL(p‖q) falls towards 0, and the flipped sign runs away from it."""
    rng = torch.Generator().manual_seed(0)
    p = torch.distributions.MultivariateNormal(
        torch.tensor([0.5, -0.3]), torch.tensor([[1.0, 0.7], [0.7, 0.8]])
    )
    root = p.scale_tril.T

    def fit(sign: float, steps: int) -> float:
        net = Continuous(2, 3, 16, 1, rng)
        optimiser = torch.optim.Adam(net.parameters(), 0.01, fused=True)
        for step in range(steps):
            if step == steps // 2:  # without smaller steps the weights only wander
                optimiser.param_groups[0]["lr"] = 0.001
            x = p.loc + torch.randn(256, 2, generator=rng) @ root
            z, log_det = through(net, x)
            optimiser.zero_grad()
            (-log_normal(z) - sign * log_det).mean().backward()
            optimiser.step()
        x = p.loc + torch.randn(4_000, 2, generator=rng) @ root
        with torch.no_grad():
            z, log_det = through(net, x)
            return float((p.log_prob(x) - log_normal(z) - log_det).mean())

    assert abs(fit(1.0, 500)) < 0.02
    assert not abs(fit(-1.0, 100)) < 0.02
