"""The Dirac GAN as a vector field in the plane of its two parameters, in closed form.

The data are a point at 0 and the generator's samples a point at θ; the discriminator is a line
through 0 with slope ψ, whose value D(x) = ψx is the logit of "x is data". Everything that can
happen is a curve (θ, ψ). Lengths are counted from the data: θ = 0 is where they are.

All functions take NumPy arrays or torch tensors of one shape and return the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Array = Any  # np.ndarray, np.float64 or torch.Tensor, of float64

# ∫ N(ε; 0, 1) f(ε) dε ≈ Σ w f(e): even steps, which for a smooth f are as good as any rule and
# for hinge's jump far better than Gauss and Hermite's
_NODES = np.linspace(-7, 7, 281)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()

CURES = ("none", "R1", "WGAN-GP", "instance noise", "clipping", "consensus")


def sigmoid(x: Array) -> Array:
    return (_of(x).tanh(x / 2) + 1) / 2


def _of(x: Array):
    """The library that x belongs to."""
    return torch if isinstance(x, torch.Tensor) else np


def _one(x: Array) -> Array:
    return 0 * x + 1


def _none(x: Array) -> Array:
    return 0 * x


def _bell(x: Array) -> Array:
    """σ(x) σ(−x), the slope of the sigmoid."""
    return (1 - _of(x).tanh(x / 2) ** 2) / 4


@dataclass(frozen=True)
class Loss:
    """Slopes and curvatures of both players' losses in D's value, on data and on samples.

    D makes E_p[real(D)] + E_q[fake(D)] small, and G makes E_q[game(D)] small. Each field is the
    derivative of its function, the ones that end with 2 the second derivative.
    """

    real: Callable[[Array], Array]
    real2: Callable[[Array], Array]
    fake: Callable[[Array], Array]
    fake2: Callable[[Array], Array]
    game: Callable[[Array], Array]
    game2: Callable[[Array], Array]


_cross_entropy = {
    "real": lambda r: -sigmoid(-r), "real2": _bell, "fake": sigmoid, "fake2": _bell,
}  # fmt: skip

LOSSES: dict[str, Loss] = {
    # −log σ(D) on data, −log σ(−D) on samples; G: −log σ(D), or log σ(−D)
    "non-saturating": Loss(**_cross_entropy, game=lambda v: -sigmoid(-v), game2=_bell),
    "minimax": Loss(**_cross_entropy, game=lambda v: -sigmoid(v), game2=lambda v: -_bell(v)),
    # −D on data, D on samples; G: −D
    "Wasserstein": Loss(
        real=lambda r: -_one(r), real2=_none, fake=_one, fake2=_none,
        game=lambda v: -_one(v), game2=_none,
    ),
    # ½(D − 1)² on data, ½(D + 1)² on samples; G: ½(D − 1)²
    "least squares": Loss(
        real=lambda r: r - 1, real2=_one, fake=lambda v: v + 1, fake2=_one,
        game=lambda v: v - 1, game2=_one,
    ),
    # max(0, 1 − D) on data, max(0, 1 + D) on samples; G: −D
    "hinge": Loss(
        real=lambda r: -_one(r) * (r < 1), real2=_none, fake=lambda v: _one(v) * (v > -1),
        fake2=_none, game=lambda v: -_one(v), game2=_none,
    ),
}  # fmt: skip


def values(loss: str, real: Array, fake: Array) -> tuple[Array, Array]:
    """D's and G's losses at D's values on one data point and one sample."""
    xp = _of(fake)

    def softplus(x: Array) -> Array:
        return xp.logaddexp(x, 0 * x)

    if loss in ("non-saturating", "minimax"):
        game = softplus(-fake) if loss == "non-saturating" else -softplus(fake)
        return softplus(-real) + softplus(fake), game
    if loss == "least squares":
        return ((real - 1) ** 2 + (fake + 1) ** 2) / 2, (fake - 1) ** 2 / 2
    if loss == "hinge":
        above = lambda x: (xp.abs(x) + x) / 2  # noqa: E731
        return above(1 - real) + above(1 + fake), -fake
    return fake - real, -fake


_TELL = "−log σ(D(x*)) − log σ(−D(θ))"
# both players' losses as equations, with the noise-free data x* and sample θ
WRITTEN = {
    "non-saturating": (_TELL, "−log σ(D(θ))"),
    "minimax": (_TELL, "log σ(−D(θ))"),
    "Wasserstein": ("D(θ) − D(x*)", "−D(θ)"),
    "least squares": ("½(D(x*) − 1)^{2} + ½(D(θ) + 1)^{2}", "½(D(θ) − 1)^{2}"),
    "hinge": ("max(0, 1 − D(x*)) + max(0, 1 + D(θ))", "−D(θ)"),
}


def equation(loss: str, cure: str) -> str:
    """What both players minimise, and what the cure does to it."""
    of_d, of_g = WRITTEN[loss]
    more = {
        "R1": " + ½γψ^{2}", "WGAN-GP": " + ½γ(|ψ| − 1)^{2}", "consensus": " + ½γ|v|^{2}",
    }.get(cure, "")  # fmt: skip
    also = {
        "instance noise": ",  mean over noise on x* and θ",
        "clipping": ",  |ψ| ≤ c",
        "consensus": ",  v: both slopes",
    }.get(cure, "")
    shared = more if cure == "consensus" else ""
    return f"L_{{D}} = {of_d}{more},  L_{{G}} = {of_g}{shared},  D(x) = ψ·(x − x*){also}"


@dataclass(frozen=True)
class Game:
    """One setting of the game: its losses, what cures it, and how steps are taken.

    Args:
        loss: a name in LOSSES.
        cure: a name in CURES. With R1 (for D's slope is ψ everywhere, the same as R2), D's loss
            gets γ/2 · ψ²; with WGAN-GP γ/2 · (|ψ| − 1)²; with instance noise data and samples
            are N(0, σ²) and N(θ, σ²); clipping keeps ψ within ±clip after each step; consensus
            adds γ/2 · |v|² to both losses, v being the field without it.
        step: h, both players' step size.
        alternating: G answers to the newest D, instead of both moving at once.
        d_steps: D's steps before each of G's; 1 where both move at once.
    """

    loss: str = "non-saturating"
    cure: str = "none"
    gamma: float = 0.5
    noise: float = 1.0
    clip: float = 1.0
    step: float = 0.1
    alternating: bool = True
    d_steps: int = 1

    # ------------------------------------------------------------ the field

    def field(self, theta: Array, psi: Array) -> tuple[Array, Array]:
        """v = (dθ/dt, dψ/dt): each player goes down the slope of its own loss."""
        if self.cure == "instance noise":
            return self._noised(theta, psi)
        part, value = LOSSES[self.loss], theta * psi
        down_g, down_d = -part.game(value) * psi, -part.fake(value) * theta
        if self.cure == "R1":
            down_d = down_d - self.gamma * psi
        elif self.cure == "WGAN-GP":
            down_d = down_d - self.gamma * (psi - _of(psi).sign(psi))
        elif self.cure == "consensus":
            # ∇ ½|v|² = Jᵀv, with J the Jacobian of v
            g2, f2 = part.game2(value), part.fake2(value)
            turn = part.game(value) + g2 * value, part.fake(value) + f2 * value
            of_g, of_d = down_g, down_d
            down_g = of_g + self.gamma * (g2 * psi**2 * of_g + turn[1] * of_d)
            down_d = of_d + self.gamma * (turn[0] * of_g + f2 * theta**2 * of_d)
        return down_g, down_d

    def _noised(self, theta: Array, psi: Array) -> tuple[Array, Array]:
        """E over ε of both fields, data and samples being ε and θ + ε with ε ~ N(0, σ²)."""
        part, like = LOSSES[self.loss], theta * 0 + psi * 0
        nodes, weights = self.noise * _NODES, _WEIGHTS
        if isinstance(like, torch.Tensor):
            nodes, weights = torch.as_tensor(nodes).to(like), torch.as_tensor(weights).to(like)
        theta, psi = (theta + like)[..., None], (psi + like)[..., None]
        x, e = theta + nodes, nodes + 0 * theta
        down_g = -(weights * part.game(psi * x)).sum(-1) * psi[..., 0]
        down_d = -(weights * (part.fake(psi * x) * x + part.real(psi * e) * e)).sum(-1)
        return down_g, down_d

    # ------------------------------------------------------------ steps

    def take(self, theta: Array, psi: Array) -> tuple[Array, Array]:
        """One step of the game: (θ, ψ) → (θ, ψ)."""
        if not self.alternating:
            down_g, down_d = self.field(theta, psi)
            return theta + self.step * down_g, self._clipped(psi + self.step * down_d)
        for _ in range(self.d_steps):
            psi = self._clipped(psi + self.step * self.field(theta, psi)[1])
        return theta + self.step * self.field(theta, psi)[0], psi

    def _clipped(self, psi: Array) -> Array:
        return _of(psi).clip(psi, -self.clip, self.clip) if self.cure == "clipping" else psi

    def orbit(self, theta: float, psi: float, steps: int) -> np.ndarray:
        """The start and `steps` steps from it, (steps + 1, 2)."""
        out = np.empty((steps + 1, 2))
        here = np.float64(theta), np.float64(psi)
        with np.errstate(all="ignore"):  # one that runs away ends as NaN
            for row in out:
                row[:] = here
                here = self.take(*here)
        return out

    # ------------------------------------------------------------ near the equilibrium

    @property
    def force(self) -> float:
        """a, the pull of each player on the other at the equilibrium: ½, or 1 without a sigmoid."""
        return float(LOSSES[self.loss].fake(np.float64(0.0)))

    @property
    def linear(self) -> bool:
        """Whether the field has a slope at (0, 0); WGAN-GP's has a kink there."""
        return self.cure != "WGAN-GP"

    def jacobian(self) -> np.ndarray:
        """J of the field at (0, 0) in closed form, (2, 2): [[−c, a], [−a, −s]].

        a is `force`. s is γ with R1; σ²(fake″ + real″) with instance noise; γa² with consensus,
        and so is c, which else is 0. Its eigenvalues are, where c is 0,

            λ = −s/2 ± √(s²/4 − a²)

        (Mescheder, Geiger & Nowozin 2018, sections 2 to 4), and with consensus −γa² ± i a. Raises ValueError where there is none, see `linear`.
        """
        if not self.linear:
            raise ValueError("the field has a kink at the equilibrium")
        a, part, zero = self.force, LOSSES[self.loss], np.float64(0.0)
        s = c = 0.0
        if self.cure == "R1":
            s = self.gamma
        elif self.cure == "instance noise":
            s = self.noise**2 * float(part.fake2(zero) + part.real2(zero))
        elif self.cure == "consensus":
            s = c = self.gamma * a * a
        return np.array([[-c, a], [-a, -s]])

    def update(self) -> np.ndarray:
        """M, one step near (0, 0): (θ, ψ) → M (θ, ψ), to first order.

        At once M = I + hJ. In turn M = G Dⁿ, where D and G are the rows of I + hJ put to work
        one after the other; with n = 1 and c = 0 its eigenvalues are

            μ = T/2 ± √(T²/4 − Δ),   T = 2 − hs − h²a²,   Δ = 1 − hs
        """
        whole = np.eye(2) + self.step * self.jacobian()
        if not self.alternating:
            return whole
        by_d, by_g = np.eye(2), np.eye(2)
        by_d[1], by_g[0] = whole[1], whole[0]
        return by_g @ np.linalg.matrix_power(by_d, self.d_steps)

    def multipliers(self) -> np.ndarray:
        """μ, the two eigenvalues of `update`: distances change by |μ| a step. Complex (2,)."""
        return np.linalg.eigvals(self.update()).astype(complex)

    def growth(self) -> float:
        """log max |μ| a step, in nats: below 0 the game settles. NaN where there is no slope."""
        if not self.linear:
            return math.nan
        # 1 exactly where theory says so: rounding must not tell a circle from a spiral
        rate = math.log(max(abs(self.multipliers()).max(), 1e-300))
        return 0.0 if abs(rate) < 1e-12 else rate

    def turn(self) -> float:
        """Radians that a small orbit turns in a step; 0 where it does not turn."""
        return float(abs(np.angle(self.multipliers())).max()) if self.linear else math.nan
