"""Generative adversarial network: a generator and a discriminator play against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from engines.base import Engine
from engines.data.base import Dataset
from engines.kde import kde, through_kernel
from engines.knobs import action, knob
from engines.marks import Arrows, Bars, Heat, Images, Mark, Mesh, Metric, Panel, Points, Slider
from engines.nets import Average, adam, mlp, set_lr
from engines.pictures import centres, data_points, exact_field, numpy

# ---------------------------------------------------------------- losses

# D(x) = σ(l) with the logit l, so log D = −softplus(−l) and log(1 − D) = −softplus(l):
# no logarithm of a probability that has rounded to zero.


def value(real: Tensor, fake: Tensor) -> Tensor:
    """V(D, G) = E_p[log D(x)] + E_q[log(1 − D(x))] in nats, from logits (N,) and (M,).

    At the best D for a given G it is −log 4 + 2 JSD(p, q); Goodfellow et al. 2014, eq. 1.
    """
    return -softplus(-real).mean() - softplus(fake).mean()


def cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: −V, the cross-entropy of telling data from samples."""
    return -value(real, fake)


def minimax(fake: Tensor) -> Tensor:
    """E_q[log(1 − D)]: what the generator minimises in the zero-sum game.

    Its slope in the logit is −σ(l): nothing where D is sure that a sample is fake.
    """
    return -softplus(fake).mean()


def non_saturating(fake: Tensor) -> Tensor:
    """−E_q[log D]: the same fixed point, with a slope −(1 − σ(l)) that is largest there."""
    return softplus(-fake).mean()


@dataclass(frozen=True)
class Loss:
    """The two players' losses as functions of logits; real (N,), fake (M,) → 0-d."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


LOSSES: dict[str, Loss] = {
    "non-saturating": Loss(cross_entropy, non_saturating),
    "minimax": Loss(cross_entropy, minimax),
}


def squared_slope(logits: Tensor, x: Tensor) -> Tensor:
    """|∇ₓ l(x)|² of each row, (N,), kept in the graph.

    R1 is r1/2 · E_p of it (Mescheder, Geiger & Nowozin 2018): a discriminator that is flat
    on the data lets the game settle where p = q, instead of circling round it.
    """
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slope.square().sum(1)


# ---------------------------------------------------------------- the engine


class GAN(Engine):
    name: ClassVar[str] = "gan"
    family: ClassVar[str] = "GAN"
    place: ClassVar[float] = 8.0
    title = "Generative adversarial network"
    tagline = (
        "A generator turns noise into samples; a discriminator learns to tell them from data, "
        "and its slope tells the generator where to go."
    )
    objective = "min_{G} max_{D}  E_{x∼p}[log D(x)] + E_{z∼N(0,I)}[log(1 − D(G(z)))]"
    look_for = (
        "D flattens towards ½ as the samples reach the data. Raise D's step size, or set R1 to "
        "0, and watch modes get lost and the samples chase each other."
    )
    paper = "Goodfellow et al., 2014: Generative Adversarial Nets"
    density = None
    loss_label = "loss, nats"
    if_diverged = "Try smaller step sizes, or more R1."
    compare: ClassVar[dict[str, dict[str, Any]]] = {
        "Minimax loss": {"loss": "minimax"},
        "Without the R1 penalty": {"r1": 0.0},
    }

    loss: Literal["non-saturating", "minimax"] = knob(
        "non-saturating",
        live=True,
        help="The generator's loss. Minimax gives no slope where D is sure of itself.",
    )
    latent: int = knob(2, 1, 64, help="Dimensions of the noise that the generator is fed with.")
    width: int = knob(128, 16, 256, log=True, help="Units in each hidden layer of both networks.")
    d_lr: float = knob(1e-3, 1e-5, 1e-1, log=True, live=True, label="D step size",
                       help="Adam's step size for the discriminator.")  # fmt: skip
    g_lr: float = knob(1e-3, 1e-5, 1e-1, log=True, live=True, label="G step size",
                       help="Adam's step size for the generator.")  # fmt: skip
    d_steps: int = knob(1, 1, 10, live=True, label="D steps per G step",
                        help="Discriminator updates before each generator update.")  # fmt: skip
    batch: int = knob(256, 16, 1024, log=True, live=True, help="Data points, and samples, an update.")
    r1: float = knob(0.1, 0.0, 10.0, live=True, label="R1 penalty",
                     help="Weight of R1/2 · |slope of D's logit|² on the data; it calms the game.")
    averaging: float = knob(0.99, 0.0, 0.9999, live=True, help="…")

    # ------------------------------------------------------------ training

    def start(self, pool):
        super().start(pool)
        sizes = (self.latent, self.width, self.width, self.width, self.dim)
        self.generator = mlp(sizes, self.rng, nn.SiLU, gain=self.GAIN)
        self.discriminator = mlp((self.dim, *sizes[1:-1], 1), self.rng, nn.SiLU, gain=self.GAIN)
        self.averaged = Average(self.generator, mlp(sizes, torch.Generator(self.device), nn.SiLU))
        self.d_adam = adam(self.discriminator.parameters(), self.d_lr, self.BETAS)
        self.g_adam = adam(self.generator.parameters(), self.g_lr, self.BETAS)
        self.g_updates = 0

    GAIN = 1.7
    BETAS = (0.5, 0.99)
    HALF = 1e9

    def logits(self, z):
        return self.discriminator(z).squeeze(1)

    def update_d(self):
        real = self.standardise(self.pool.batch(self.batch, self.rng).float())
        with torch.no_grad():
            fake = self.generator(self.randn(self.batch, self.latent, generator=self.rng))
        both = torch.cat([real, fake]).requires_grad_(self.r1 > 0)
        l = self.logits(both)
        loss = LOSSES[self.loss].discriminator(l[:self.batch], l[self.batch:])
        total = loss
        if self.r1 > 0:
            total = loss + self.r1 / 2 * squared_slope(l[:self.batch], both).sum() / self.batch
        ps = list(self.discriminator.parameters())
        for p, g in zip(ps, torch.autograd.grad(total, ps)): p.grad = g
        set_lr(self.d_adam, self.d_lr * self.anneal())
        self.d_adam.step()
        return loss.detach()

    def anneal(self):
        return (1 + self.step_count / self.HALF) ** -0.5

    def update_g(self):
        z = self.randn(self.batch, self.latent, generator=self.rng)
        loss = LOSSES[self.loss].generator(self.logits(self.generator(z)))
        ps = list(self.generator.parameters())
        for p, g in zip(ps, torch.autograd.grad(loss, ps)): p.grad = g
        set_lr(self.g_adam, self.g_lr * self.anneal())
        self.g_adam.step()
        self.averaged.decay = self.averaging
        self.averaged.update(self.generator, self.g_updates)
        self.g_updates += 1
        return loss.detach()

    def step(self):
        for _ in range(self.d_steps):
            d = self.update_d()
        return {"discriminator": d, "generator": self.update_g()}

    def sample(self, n, generator=None):
        return self.unstandardise(self.averaged.module(self.randn(n, self.latent, generator=generator)))
