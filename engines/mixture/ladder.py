"""How many components? BIC and AIC of mixtures with 1, 2, 3 … of them, each fitted by itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engines.mixture.gaussians import (
    Covariance,
    Gaussians,
    aic,
    bic,
    em_update,
    first_guess,
    free_parameters,
    log_density,
    revive,
)


class Selection:
    """BIC and AIC over K: a mixture fitted for each K by EM of its own, a little at a time.

    It has its own generators, one for each K, and never touches the model in training.
    `fits[k]` is (Gaussians, mean nll in nats and data units, iterations, settled).
    """

    MOST_ITERATIONS = 150

    def __init__(
        self, x: Tensor, log_std: float, covariance: Covariance, floor: float, seed: int
    ) -> None:
        self.x, self.log_std, self.seed = x, log_std, seed
        self.covariance, self.floor = covariance, floor
        self.fits: dict[int, tuple[Gaussians, float, int, bool]] = {}
        self._turn = 0

    def advance(self, most: int, work: float = 1.5e6) -> None:
        """EM iterations in turn over K = 1 … most, until about `work` numbers were handled.

        Work is counted, not timed, so that the same calls give the same fits anywhere.
        """
        n, d = self.x.shape
        for _ in range(most):
            k = self._turn % most + 1
            self._turn += 1
            if k in self.fits and self.fits[k][3]:
                continue
            self._iterate(k)
            work -= k * n * d * max(1.0, d / 4) + 20_000
            if work <= 0:
                break

    def _iterate(self, k: int) -> None:
        if k not in self.fits:
            rng = torch.Generator(self.x.device).manual_seed(5_000_011 * (self.seed + 1) + k)
            guess = first_guess(self.x, k, "k-means++", self.floor, rng)
            self.fits[k] = (guess, math.inf, 0, False)
        g, before, done, _ = self.fits[k]
        new, log_q = em_update(g, self.x, self.covariance, self.floor)
        nll = self.log_std - float(log_q)
        settled = before - nll < 1e-5 or done >= self.MOST_ITERATIONS
        # the number belongs to the old Gaussians, so those are what a settled fit keeps
        self.fits[k] = (g if settled else new, nll, done + 1, settled)

    def scores(self, most: int) -> dict[int, tuple[float, float]]:
        """K → (BIC, AIC), for those that have begun, in order of K."""
        n, d = self.x.shape
        out = {}
        for k in sorted(k for k in self.fits if k <= most):
            p = free_parameters(k, d, self.covariance)
            out[k] = (bic(self.fits[k][1], n, p), aic(self.fits[k][1], n, p))
        return out

    def settled(self, most: int) -> int:
        """How many of K = 1 … most are done."""
        return sum(self.fits[k][3] for k in self.fits if k <= most)


class Ladder(nn.Module):
    """Mixtures of K = 1 … most Gaussians in training side by side, of which BIC takes one.

    Unlike a `Selection`, which only looks on, this is a model: its buffers go into checkpoints.
    Each rung K is kept in `most` places, of which those beyond K weigh nothing (log π = −∞).
    `nll` (most,) are the rungs' mean −log q in nats before their last iteration.
    """

    def __init__(self, x: Tensor, most: int, floor: float, rng: torch.Generator) -> None:
        super().__init__()
        d = x.shape[1]
        eye = torch.eye(d, dtype=x.dtype, device=x.device)
        self.register_buffer("log_weight", x.new_full((most, most), -math.inf))
        self.register_buffer("mean", x.new_zeros(most, most, d))
        self.register_buffer("cov", eye.expand(most, most, d, d).clone())
        self.register_buffer("nll", x.new_zeros(most))
        for k in range(1, most + 1):
            guess = first_guess(x, k, "k-means++", floor, rng)
            self._put(k, guess)
            self.nll[k - 1] = -log_density(guess, x).mean()

    def rung(self, k: int) -> Gaussians:
        """The mixture of k Gaussians."""
        return Gaussians(*(part[k - 1, :k] for part in (self.log_weight, self.mean, self.cov)))

    def _put(self, k: int, g: Gaussians) -> None:
        self.log_weight[k - 1, :k], self.mean[k - 1, :k], self.cov[k - 1, :k] = g

    def iterate(self, x: Tensor, covariance: Covariance, floor: float) -> None:
        """One EM iteration of every rung on all rows x (N, D)."""
        for k in range(1, len(self.nll) + 1):
            new, log_q = em_update(self.rung(k), x, covariance, floor)
            self._put(k, new)
            self.nll[k - 1] = -log_q

    def revive(self, x: Tensor, covariance: Covariance) -> None:
        """After other data came: see `gaussians.revive`."""
        for k in range(1, len(self.nll) + 1):
            self._put(k, revive(self.rung(k), x, covariance))

    def criteria(self, n: int, covariance: Covariance, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """BIC and AIC (most,) of each rung on n rows, in data units."""
        most, d = len(self.nll), self.mean.shape[2]
        free = [free_parameters(k, d, covariance) for k in range(1, most + 1)]
        p = torch.tensor(free, dtype=self.nll.dtype).to(self.nll.device, non_blocking=True)
        fit = 2 * n * (self.nll + log_std)
        return fit + p * math.log(n), fit + 2 * p

    def chosen(self, n: int, covariance: Covariance) -> tuple[Gaussians, Tensor]:
        """The Gaussians of the rung with the lowest BIC, in `most` places, and its nll (0-d).

        The device decides by itself: nothing is brought to the CPU.
        """
        best = self.criteria(n, covariance, self.nll.new_zeros(()))[0].argmin()[None]
        parts = (part.index_select(0, best)[0] for part in (self.log_weight, self.mean, self.cov))
        return Gaussians(*parts), self.nll.index_select(0, best)[0]
