"""The engine: a classifier of data against noise, and the density that its logit implies."""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from engines import nets
from engines.base import Engine
from engines.capture import Capture
from engines.data.base import Dataset, Pool
from engines.knobs import knob
from engines.marks import Metric, Panel
from engines.nce import pictures
from engines.nce.grid import Grid, Implied
from engines.nce.noises import NOISES, Noise
from engines.pace import Pieces, finish
from engines.quadrature import domain

TILE = 4096  # rows at a time, so that activations stay in the cache


def contrast(on_data: Tensor, on_noise: Tensor, ratio: float) -> Tensor:
    """The classifier's cross-entropy for one data point and ν noise points, in nats, 0-d.

    −E_p[log σ(l)] − ν E_n[log(1 − σ(l))] with the logit l = h − log ν, for there are ν times
    as many noise points (Gutmann & Hyvärinen 2012, eq. 8). Its minimum over all functions is
    at h = log p − log n.

    Args:
        on_data, on_noise: h = log q̃ − log n at draws of p and of n, (N,) and (M,).
        ratio: ν, noise points for each data point.
    """
    prior = math.log(ratio)
    return softplus(prior - on_data).mean() + ratio * softplus(on_noise - prior).mean()


class Ratio(nn.Module):
    """h(x) = f(x) + c on standardised rows, (N, 2) → (N,): the learned log of q̃/n.

    f is an MLP on x and sines of it, and 0 at first; c is a number by itself, which learns
    minus the log of what n·exp(f) integrates to.
    """

    def __init__(
        self, dim: int, width: int, hidden: int, waves: int, pitch: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.waves = nets.Waves(dim, waves, pitch, rng)
        sizes = [self.waves.size, *[width] * hidden, 1]
        self.net = nets.mlp(sizes, rng, gain=math.sqrt(3), last_gain=0.0)
        self.net[-1].register_parameter("bias", None)
        self.c = nn.Parameter(torch.zeros((), device=rng.device))

    def forward(self, z: Tensor) -> Tensor:
        return self.net(self.waves(z)).squeeze(1) + self.c


class NCE(Engine):
    """log q̃(x) = log n(x) + h(x), learnt by telling data from noise of known density n.

    Nothing is integrated in training: that q̃ has mass 1 is learnt along with its shape. What
    is shown and measured is q̃ divided by its integral over the domain.
    """

    name = "nce"
    family = "NCE"
    place = 7
    title = "Noise-contrastive estimation"
    tagline = (
        "A classifier learns to tell data from noise of a known density; what it had to learn "
        "for that is the density of the data."
    )
    objective = "max_{h} E_{x∼p}[log σ(h(x) − log ν)] + ν E_{x∼n}[log(1 − σ(h(x) − log ν))]"
    look_for = (
        "Noise like the data makes the classifier work everywhere. Noise that lies elsewhere is "
        "told apart at a glance, and then there is nothing left to learn from: few noise points "
        "carry all of the weight."
    )
    paper = (
        "Gutmann & Hyvärinen 2010, 2012, Noise-contrastive estimation of unnormalized "
        "statistical models"
    )
    compare = {
        "wide noise": {"noise": "wide"},
        "narrow noise": {"noise": "narrow"},
        "shifted noise": {"noise": "shifted"},
        "uniform noise": {"noise": "uniform"},
        "noise in one cloud": {"clouds": 1},
        "more noise": {"ratio": 8},
    }
    density = "exact"
    density_kind = "approximate"
    principle = "noise contrast"
    clip_steps, clip_knobs = 1500, {"noise": "wide"}
    loss_label = "cross-entropy a data point, nats"
    if_diverged = "Try a smaller learning rate."

    noise: Literal["fitted mixture", "wide", "narrow", "shifted", "uniform"] = knob(
        "fitted mixture",
        help="What data are told from: Gaussians fitted to the data; one Gaussian twice as wide, a "
        "third as wide, or to the side; or anything in the box alike.",
    )  # fmt: skip
    clouds: int = knob(
        48, 1, 64, log=True, label="Clouds in the noise", when={"noise": "fitted mixture"},
        help="Gaussians of the fitted mixture; fewer where there are few points.",
    )  # fmt: skip
    ratio: int = knob(
        2, 1, 16, live=True, label="Noise ratio (ν)", help="Noise points for each data point."
    )
    width: int = knob(128, 8, 256, log=True, help="Units in each hidden layer.")
    hidden: int = knob(2, 1, 4, label="Hidden layers", help="Depth of the network.")
    waves: int = knob(
        64, 0, 256, label="Sine features",
        help="Sines of the place that the network sees beside the place itself: sharp edges need "
        "them.",
    )  # fmt: skip
    pitch: float = knob(
        5.0, 0.5, 30.0, log=True, label="Pitch of the sines",
        help="Spread of their frequencies, in radians per standard deviation of the data.",
    )  # fmt: skip
    lr: float = knob(
        7e-3, 1e-5, 1e-1, log=True, live=True, label="Learning rate",
        help="Adam's step size, which falls after the first few hundred steps.",
    )  # fmt: skip
    batch: int = knob(512, 16, 4096, log=True, live=True, help="Data points a step.")
    proposals: int = knob(
        16, 1, 64, log=True, view=True, label="Proposals a sample",
        help="Noise points that each sample is chosen from, by their weights; 1 shows the noise.",
    )  # fmt: skip
    averaged: bool = knob(
        True, view=True, label="Averaged weights",
        help="Show the model with weights averaged over recent steps, or the weights themselves.",
    )  # fmt: skip

    capture = Capture(dials=("lr",))
    WARM = 100  # steps
    AVERAGE = 0.9997
    BETAS = (0.9, 0.99)
    BEGIN, POWER = 400, 0.7  # the step size falls as (BEGIN/(age + 1))^POWER

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "images":
            return (
                "Among images, Gaussian noise is told from data at the first glance, and the "
                "classifier would learn no more: choose data in the plane."
            )
        if dataset.kind != "plane":
            return "Noise-contrastive estimation here is for data in the plane."
        return None

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self.law = self._make_noise(self.rng)
        self.law_at = 0  # when the noise was made: the step at which the data then came
        self.net = Ratio(self.dim, self.width, self.hidden, self.waves, self.pitch, self.rng)
        self.average = nets.Average(self.net, copy.deepcopy(self.net), self.AVERAGE)
        self.optimiser = nets.adam(self.net.parameters(), self.lr, self.BETAS)
        self.refresh()

    def _make_noise(self, rng: torch.Generator) -> Noise:
        return NOISES[self.noise](self.pool, domain(self.pool), self.clouds, rng)

    def refresh(self) -> None:
        self.law.prepare()
        self._grid = Grid(self.pool, self.law, domain(self.pool))
        self._implied: tuple[object, Implied] | None = None

    def _renew(self) -> None:
        """Noise for other data. Only now that training goes on, for until then the model is
        what it was: it is the noise times what was learnt of it."""
        self.law.load_state_dict(self._make_noise(self.first_rng()).state_dict())
        self.law_at = self.fed_at
        self.refresh()

    def live_numbers(self) -> dict[str, float]:
        t = self.step_count + 1
        decay = (self.BEGIN / (self.age + 1)) ** self.POWER
        rate = self.lr * min(t / self.WARM, decay, 1)
        more = {"rate": rate, "fade": self.average.weight(self.age + 1)}
        return {**super().live_numbers(), **more}

    def occasion(self, step: int) -> str | None:
        return "" if self.law_at == self.fed_at else None  # it makes new noise

    def step(self) -> dict[str, Tensor]:
        if self.law_at != self.fed_at:
            self._renew()
        nets.set_lr(self.optimiser, self.number("rate"))
        data = self.pool.batch(self.batch, self.rng)
        noise = self.law.sample(self.ratio * self.batch, self.rng)
        h = self.net(self.standardise(torch.cat([data, noise])))
        loss = contrast(h[: self.batch], h[self.batch :], self.ratio)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.average.lean(self.net, self.number("fade"))
        return {"contrast": loss.detach()}

    # ------------------------------------------------------------ the model

    @property
    def shown(self) -> Ratio:
        """The network that is looked at, sampled and measured: averaged or as it is."""
        return self.average.module if self.averaged else self.net

    @torch.no_grad()
    def log_ratio(self, x: Tensor) -> Tensor:
        """h(x) = log q̃(x) − log n(x), (N, 2) in data units → (N,)."""
        return torch.cat([self.shown(self.standardise(part)) for part in x.split(TILE)])

    def implied(self) -> Implied:
        """q̃ on the grid, with its integral; worked out once for each state of the weights."""
        finish(self.prepared())
        return self._implied[1]

    def prepared(self) -> Pieces[None]:
        # versions count changes in place, but not those by fused Adam, of which steps tell
        key = self.step_count, *((id(p), p._version) for p in self.shown.parameters())
        if self._implied is None or self._implied[0] != key:
            self._implied = (key, (yield from Implied.made(self._grid, self.log_ratio)))

    def log_prob(self, x: Tensor) -> Tensor:
        """log n(x) + h(x) − log ∫ n exp(h) in nats, (N, 2) → (N,); −∞ outside the domain."""
        return self.implied().log_prob(x)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n times one of `proposals` noise points, by the weights exp(h).

        The largest h + g of them with independent Gumbel numbers g has just these odds; the
        same noise and g in every frame, so a sample stays until another one outweighs it.
        """
        return self.resample(n, generator)[0]

    def resample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Samples (n, 2), and the noise points that each was chosen from, (n, proposals, 2)."""
        rng = generator or self.view_rng
        x = self.law.sample(n * self.proposals, rng)
        gumbel = -torch.empty(len(x), device=self.device).exponential_(generator=rng).log()
        chosen = (self.log_ratio(x) + gumbel).view(n, -1).argmax(1)
        x = x.view(n, -1, 2)
        return x[torch.arange(n, device=self.device), chosen], x

    def draws(self, n: int) -> Tensor:
        return self.implied().sample(n, self.view_rng)

    # ------------------------------------------------------------ numbers and pictures

    def metrics(self) -> list[Metric]:
        return pictures.metrics(self)

    def panels(self) -> list[Panel]:
        return pictures.panels(self)
