"""Why mixtures break down: a Gaussian mixture and a spline flow as dimensions are added.

Both are trained on the first 2, 4, 8 … coordinates of the same data, each pair of models a rung
of a ladder. Of independent parts every one may be in one of two states: the states of d/2 of them
are 2^(d/2) modes, and K Gaussians stand for K of them.

The mixture learns by stepwise EM (Cappé & Moulines 2009, "On-line expectation-maximization
algorithm for latent data models"), the flow by Adam, on the same batches.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from engines.arrays import numpy
from engines.base import Engine
from engines.capture import Capture
from engines.data.base import Dataset, Pool
from engines.flow import compiled
from engines.flow.spline import SplineCoupling
from engines.knobs import knob
from engines.marks import Curve, Curves, Mark, Metric, Panel, Points
from engines.mixture.gaussians import (
    Gaussians,
    coefficients,
    features,
    first_guess,
    from_moments,
    log_density,
    sample,
)
from engines.nets import adam, set_lr
from engines.pictures import data_points

GUESSED_FROM = 5_000  # rows
HELD = 2_000  # points of the curve
MOST = 64


def rungs(dim: int) -> list[int]:
    """2, 4, 8 … below dim, and dim itself."""
    return [k for k in (2, 4, 8, 16, 32) if k < dim] + [dim]


def forgetting(step: int) -> float:
    """How much of a new batch enters the moments at step 0, 1, 2 …: (step/2 + 1)^−0.7.

    The sum diverges and that of squares does not, as stochastic approximation wants it.
    """
    return (0.5 * step + 1) ** -0.7


class StepwiseMixture(nn.Module):
    """K full Gaussians, and the running averages of the moments that they are made of."""

    def __init__(self, x: Tensor, k: int, floor: float, rng: torch.Generator) -> None:
        super().__init__()
        guess = first_guess(x, k, "k-means++", floor, rng)
        for name, part in zip(Gaussians._fields, guess, strict=True):
            self.register_buffer(name, part)
        self.register_buffer("moments", torch.zeros_like(coefficients(guess, cross=True)))

    def gaussians(self) -> Gaussians:
        return Gaussians(self.log_weight, self.mean, self.cov)

    def update(self, x: Tensor, step: int, floor: float) -> Tensor:
        """One batch x (N, D) at a step from 0 on; the mean log q of it *before*, 0-d.

        With one batch of all the data at step 0 it is an iteration of EM.
        """
        f = features(x, cross=True)
        joint = f @ coefficients(self.gaussians(), cross=True).T
        log_q = torch.logsumexp(joint, 1)
        share = (joint - log_q[:, None]).clamp_min(-700).exp()
        self.moments.lerp_(share.T @ f / len(x), forgetting(step))
        new = from_moments(self.moments, x.new_zeros(()), "full", floor, self.gaussians())
        for name, part in zip(Gaussians._fields, new, strict=True):
            getattr(self, name).copy_(part)
        return log_q.mean()


class Dimensions(Engine):
    """A mixture and a flow beside each other on more and more dimensions of the same data."""

    name = "dimensions"
    family = "Mixture"
    place = 2.2
    title = "Mixture against dimensions"
    tagline = "The same data in 2, 4, 8 … dimensions: how far behind are a mixture and a flow?"
    objective = "KL(p‖q)/d = E_{p}[log p(x_{1…d}) − log q(x_{1…d})]/d, d = 2, 4, 8 …"
    look_for = (
        "While there are no more modes than clouds the mixture is at home. The curve over "
        "dimensions says where it falls behind the flow, and by how much per dimension."
    )
    paper = "Cappé & Moulines 2009, On-line expectation-maximization; Durkan et al. 2019, Neural spline flows"
    compare = {
        "twice the clouds": {"n_components": 16},
        "four times the clouds": {"n_components": 32},
    }
    density = "exact"
    density_kind = "tractable"
    principle = "maximum likelihood"
    capture = Capture(
        "The mixture's half of each step inverts covariances with a library call that brings an "
        "error code to the CPU."
    )
    clip_steps = 600
    loss_label = "log p − log q per dimension, nats"
    if_diverged = "Try a smaller learning rate, or a larger covariance floor."

    n_components: int = knob(
        8, 1, 32, label="Components (K)", help="Gaussians of the mixture on every rung."
    )
    layers: int = knob(4, 1, 8, label="Layers of the flow", help="Spline couplings on every rung.")
    width: int = knob(64, 8, 128, log=True, label="Width of the flow",
                      help="Hidden units of the networks that bend the splines.")  # fmt: skip
    floor: float = knob(
        1e-4, 1e-8, 1.0, log=True, live=True, label="Covariance floor",
        help="Added to every variance of the mixture (of standardised data).",
    )  # fmt: skip
    lr: float = knob(
        3e-3, 1e-5, 3e-2, log=True, live=True, label="Learning rate",
        help="The flow's Adam step size, which then falls as 1/√(1 + its steps/200).",
    )  # fmt: skip
    batch: int = knob(512, 64, 4096, log=True, live=True, help="Points in each step.")
    show: Literal["flow", "mixture"] = knob(
        "flow", view=True, label="Model shown",
        help="Which of the two the samples, the density and How close are about, on all "
        "coordinates.",
    )  # fmt: skip

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "sequence":
            return "A mixture and a flow are compared on rows without an order, not on sequences."
        if not 2 <= dataset.dim <= MOST:
            return f"Rows of 2 to {MOST} numbers can be compared here, not {dataset.dim}."
        return None

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self.rungs = rungs(self.dim)
        some = torch.randperm(len(pool.train), generator=self.rng, device=self.device)
        z = self.standardise(pool.rows(some[:GUESSED_FROM], self.rng)).double()
        self.mixtures = nn.ModuleList(
            StepwiseMixture(z[:, :k], self.n_components, self.floor, self.rng) for k in self.rungs
        )
        self.flows = nn.ModuleList(
            SplineCoupling(k, self.layers, self.width, 2, self.rng, bins=8) for k in self.rungs
        )
        # an optimiser each: Adam's moments shall not fade while other rungs have their turn
        for i, flow in enumerate(self.flows):
            setattr(self, f"optimiser{i}", adam(flow.parameters(), self.lr))
        self.recent = torch.zeros(2, device=self.device)  # what is lost on batches of all d

    @property
    def compares(self) -> bool:
        """Whether the density is known on every rung, so that a gap can be told."""
        dataset = self.pool.dataset
        return dataset.exact and (dataset.kind == "vectors" or self.rungs == [self.dim])

    def quicken(self) -> str:
        if self.device.type != "cpu":
            return ""
        if compiled.ready() is not None:
            compiled.adopt(self.flows)
        return compiled.said()

    def step(self) -> dict[str, Tensor]:
        # the whole first: there is a loss to show from the first step on
        visit, turn = divmod(self.age, len(self.rungs))
        turn = len(self.rungs) - 1 - turn
        k = self.rungs[turn]
        rows = self.pool.batch(self.batch, self.rng)[:, :k]
        x = ((rows - self._mean[:k]) / self._std[:k]).contiguous()
        with torch.no_grad():
            mixture = self.mixtures[turn].update(x.double(), visit, self.floor)
        optimiser = getattr(self, f"optimiser{turn}")
        set_lr(optimiser, self.lr / math.sqrt(1 + visit / 200))
        loss = -self._log_flow(turn, x).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if k == self.dim:
            lost = torch.stack([-mixture.float(), loss.detach()]) + self.log_std
            if self.compares:
                lost = lost + self.pool.dataset.log_prob(rows).mean()
            # half of one batch's noise is another's
            self.recent = lost / k if self.age == 0 else torch.lerp(self.recent, lost / k, 0.2)
        return {"flow": self.recent[1].clone(), "mixture": self.recent[0].clone()}

    # ------------------------------------------------------------ the models

    def _log_flow(self, rung: int, x: Tensor) -> Tensor:
        """log q of standardised rows x (N, k) by the flow of a rung, (N,)."""
        total = x.new_zeros(len(x))
        for layer in self.flows[rung].layers():
            x, log_det = layer.forward(x)
            total = total + log_det
        return total - 0.5 * x.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)

    def log_q(self, which: str, rung: int, x: Tensor) -> Tensor:
        """Log-density (N,) in data units of one model of a rung, at the first k columns of x."""
        k = self.rungs[rung]
        z = (x[:, :k] - self._mean[:k]) / self._std[:k]
        if which == "mixture":
            log_q = log_density(self.mixtures[rung].gaussians(), z.double()).float()
        else:
            log_q = torch.cat([self._log_flow(rung, part.contiguous()) for part in z.split(2048)])
        return log_q - self._std[:k].log().sum()

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_q(self.show, len(self.rungs) - 1, x)

    def draw(self, which: str, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n samples (n, d) of the whole in data units, of one of the two models."""
        noise = self.randn(n, self.dim, generator=generator)
        if which == "flow":
            for layer in reversed(self.flows[-1].layers()):
                noise = layer.inverse(noise)
            return self.unstandardise(noise)
        u = torch.rand(n, generator=generator or self.view_rng, device=self.device)
        z = sample(self.mixtures[-1].gaussians(), u, noise)
        return self.unstandardise(z.float())

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.draw(self.show, n, generator)

    # ------------------------------------------------------------ numbers and pictures

    def gaps(self) -> np.ndarray:
        """KL(p‖q)/k of mixture and flow on held-out points, (2, rungs), in nats per dimension.

        Where the density of the first k coordinates is not known: the cross-entropy a dimension.
        """
        x = self.pool.test[:HELD].float()
        out = []
        for which in ("mixture", "flow"):
            for rung, k in enumerate(self.rungs):
                lost = -self.log_q(which, rung, x)
                if self.compares:
                    lost = lost + self.pool.dataset.log_prob(x[:, :k])
                out.append(lost.double().mean() / k)
        return numpy(torch.stack(out)).reshape(2, -1)

    def metrics(self) -> list[Metric]:
        mixture, flow = self.recent.tolist() if self.step_count else (math.nan, math.nan)
        what = "Gap" if self.compares else "Cross-entropy"
        about = f"{what} on all {self.dim} coordinates, per dimension, on recent training batches."
        return [
            Metric("gap_mixture", mixture, "nats/dim", "estimate", label=f"{what}, mixture",
                   help=about),
            Metric("gap_flow", flow, "nats/dim", "estimate", label=f"{what}, flow", help=about),
        ]  # fmt: skip

    def panels(self) -> list[Panel]:
        what = "Gap" if self.compares else "Cross-entropy"
        more = "to the truth" if self.compares else ""
        more = more if len(self.rungs) > 1 else "choose data with more dimensions for a curve"
        panels = [
            Panel("gap", f"{what} per dimension", self._draw_gaps, more, None, "large", hz=1,
                  first=len(self.rungs) > 1,
                  help="Mixture and flow, each trained by itself on the first 2, 4, 8 … "
                       f"coordinates; on {HELD:,} held-out points."),
        ]  # fmt: skip
        other = "mixture" if self.show == "flow" else "flow"
        if self.pool.dataset.kind in ("plane", "vectors"):
            panels.append(
                Panel("other", f"Samples of the {other}", lambda: self._draw_other(other),
                      "the first two coordinates", self.pool.dataset.extent, "large", hz=10,
                      help="The same as the samples of the model, for the other of the two."),
            )  # fmt: skip
        return panels

    def _draw_gaps(self) -> list[Mark]:
        k, (mixture, flow) = np.array(self.rungs, float), self.gaps()
        # in the colours of their samples
        roles = ("model", "generator") if self.show == "flow" else ("generator", "model")
        lines = [
            Curve("spline flow", k, flow, roles[0]),
            Curve(f"mixture, K = {self.n_components}", k, mixture, roles[1]),
        ]
        name = "KL(p‖q)/d" if self.compares else "−E log q / d"
        levels = [("the truth", 0.0)] if self.compares else []
        return [Curves(lines, levels, "dimensions d", f"{name}, nats", log_x=True)]

    def _draw_other(self, other: str) -> list[Mark]:
        data = data_points(self, 600, 0.35)
        data.xy = data.xy[:, :2]
        xy = np.ascontiguousarray(numpy(self.draw(other, 1000))[:, :2])
        return [data, Points(xy, "generator", label=f"samples of the {other}")]
