"""Generative adversarial network: a generator and a discriminator play against each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from engines.base import Engine
from engines.data.base import Dataset, Pool
from engines.kde import kde, through_kernel
from engines.knobs import action, knob
from engines.marks import (
    Arrows,
    Bars,
    Heat,
    Images,
    Mark,
    Mesh,
    Metric,
    Panel,
    Paths,
    Points,
    Slider,
)
from engines.metrics import COVERED, REACH, mode_report
from engines.nets import adam, mlp, set_lr
from engines.pictures import centres, data_points, exact_field, numpy
from engines.probes import reference

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

GRID = 64  # cells a side of the two fields of probabilities
ARROWS = 150
FOR_KERNEL = 4000  # samples that the generator's density is estimated from
MESH = 25
KEYS = np.array([0.0, 1.0], dtype=np.float32)  # of the slider from noise to data


class GAN(Engine):
    """Generator G: N(0, I) → data, and discriminator D = σ(logit), both SiLU networks.

    The model shown, sampled and measured is G with its weights averaged over the last
    `averaging` updates; the game itself is played with the newest weights. Where the data
    are integers with uniform noise, samples get the same noise: D must not win by its
    absence, and G cannot make 64 numbers of noise out of two.

    References: Goodfellow et al. 2014 (the game); Mescheder, Geiger & Nowozin 2018 (R1);
    Yazıcı et al. 2019 (averaged generators).
    """

    name: ClassVar[str] = "gan"
    family: ClassVar[str] = "GAN"
    place: ClassVar[float] = 8.0
    title = "Generative adversarial network"
    tagline = (
        "A generator turns noise into samples; a discriminator learns to tell them from data, "
        "and its slope shows the generator where to go."
    )
    objective = "min_{G} max_{D} V = E_{x∼p}[log D(x)] + E_{z∼N(0,I)}[log(1 − D(G(z)))]"
    look_for = (
        "D turns flat, for two reasons: the samples come close to the data, and the R1 penalty "
        "holds its slope down. Set R1 to 0 to see it sharpen, the modes get lost, and the samples "
        "chase each other."
    )
    paper = "Goodfellow et al., 2014: Generative Adversarial Nets"
    density_kind = "implicit"
    principle = "adversarial"
    clip_steps = 3000
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Minimax loss": {"loss": "minimax"},
        "Without the R1 penalty": {"r1": 0.0},
        "Newest weights only": {"averaging": 1},
    }
    loss_label = "loss, nats"
    if_diverged = "Try smaller step sizes, or a larger R1 penalty."

    loss: Literal["non-saturating", "minimax"] = knob(
        "non-saturating",
        live=True,
        help="What the generator minimises: −log D(G(z)), or log(1 − D(G(z))), whose slope "
        "vanishes where D is sure that a sample is fake.",
    )
    latent: int = knob(2, 1, 64, help="Dimensions of the noise that the generator is fed with.")
    width: int = knob(128, 16, 256, log=True,
                      help="Units in each of the three hidden layers of both networks.")  # fmt: skip
    d_lr: float = knob(1e-3, 1e-5, 1e-1, log=True, live=True, label="D step size",
                       help="Adam's step size for the discriminator; it falls as 1/√(1 + t/200).")  # fmt: skip
    g_lr: float = knob(2e-3, 1e-5, 1e-1, log=True, live=True, label="G step size",
                       help="Adam's step size for the generator; it falls as 1/√(1 + t/200).")  # fmt: skip
    d_steps: int = knob(1, 1, 10, live=True, label="D steps per G step",
                        help="Discriminator updates before each generator update.")  # fmt: skip
    batch: int = knob(256, 16, 1024, log=True, live=True,
                      help="Data points, and as many samples, in each update.")  # fmt: skip
    r1: float = knob(2.0, 0.0, 10.0, live=True, label="R1 penalty",
                     help="Adds R1/2 · |slope of D's logit|² on the data to D's loss: the game "
                     "then settles instead of circling. 0 is the game of 2014.")  # fmt: skip
    averaging: int = knob(50, 1, 10_000, log=True, live=True,
                          help="The samples shown and measured are the generator's with its weights "
                          "averaged over about so many updates; 1 shows the newest weights.")  # fmt: skip
    bandwidth: float = knob(0.08, 0.02, 0.5, log=True, view=True,
                            help="Width of the kernel in the estimate of the best D, in standard "
                            "deviations of the data.")  # fmt: skip
    blur_data: bool = knob(True, view=True, label="Blur p like q̂",
                           help="See p through q̂'s kernel, so that equal densities give ½. Off: the "
                           "exact p, against which q̂ is too wide wherever p is sharp.")  # fmt: skip

    BETAS = (0.0, 0.99)  # momentum makes two players circle each other
    SETTLING = 200  # step sizes fall as 1/√(1 + t/SETTLING)

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "sequence":
            return "The GAN here makes points and pictures, not sequences of steps or tokens."
        return None

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        hidden = [self.width] * 3
        shape = [self.latent, *hidden, self.dim]
        # a gain of √3 gives weights of variance 1/n: the signal keeps its size through SiLUs
        self.generator = mlp(shape, self.rng, gain=math.sqrt(3))
        self.discriminator = mlp([self.dim, *hidden, 1], self.rng, gain=math.sqrt(3))
        spare = torch.Generator(self.device).manual_seed(0)  # its weights are overwritten
        self.averaged = mlp(shape, spare).requires_grad_(False)
        self.averaged.load_state_dict(self.generator.state_dict())
        self.g_adam = adam(self.generator.parameters(), self.g_lr, self.BETAS)
        self.d_adam = adam(self.discriminator.parameters(), self.d_lr, self.BETAS)
        self.g_updates = 0
        self._blurred: dict[Any, Tensor] = {}

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        self.g_updates = 0  # the average forgets the generator of the old data

    def refresh(self) -> None:
        self._blurred = {}

    def step(self) -> dict[str, Tensor]:
        """`d_steps` updates of D, then one of G. Returns both losses, without the penalty."""
        for _ in range(self.d_steps):
            discriminator = self.update_discriminator()
        return {"discriminator": discriminator, "generator": self.update_generator()}

    @action("Step D only", trains=True)
    def step_discriminator(self) -> None:
        """One update of the discriminator; the generator stands still."""
        self.update_discriminator()

    @action("Step G only", trains=True)
    def step_generator(self) -> None:
        """One update of the generator, down the slope of a discriminator that stands still."""
        self.update_generator()

    def update_discriminator(self) -> Tensor:
        real = self.standardise(self.pool.batch(self.batch, self.rng))
        with torch.no_grad():
            fake = self.generate(self.generator, self.batch, self.rng)
        both = torch.cat([real, fake]).requires_grad_(self.r1 > 0)
        logits = self.logits(both)
        on_real, on_fake = logits.split(self.batch)
        loss = LOSSES[self.loss].discriminator(on_real, on_fake)
        total = loss
        if self.r1 > 0:
            total = loss + self.r1 / 2 * squared_slope(on_real, both)[: self.batch].mean()
        self._descend(self.d_adam, self.discriminator, total, self.d_lr)
        return loss.detach()

    def update_generator(self) -> Tensor:
        fake = self.generate(self.generator, self.batch, self.rng)
        loss = LOSSES[self.loss].generator(self.logits(fake))
        self._descend(self.g_adam, self.generator, loss, self.g_lr)
        self._average()
        return loss.detach()

    def _descend(
        self, optimiser: torch.optim.Optimizer, player: nn.Module, loss: Tensor, lr: float
    ) -> None:
        """One Adam step of one player; the other one's parameters get no gradient at all."""
        parameters = list(player.parameters())
        for p, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = slope
        set_lr(optimiser, lr / math.sqrt(1 + self.age / self.SETTLING))
        optimiser.step()

    @torch.no_grad()
    def _average(self) -> None:
        """θ̄ ← θ̄ + s (θ − θ̄) with s from 1 down to 1/averaging, so that early weights fade."""
        s = 1 / self.averaging
        s += (1 - s) * 10 / (10 + self.g_updates)
        self.g_updates += 1
        mine, newest = self.averaged.parameters(), self.generator.parameters()
        torch._foreach_lerp_(list(mine), [p.detach() for p in newest], s)

    # ------------------------------------------------------------ the two players

    def logits(self, z: Tensor) -> Tensor:
        """D's logit at standardised rows, (N, dim) → (N,)."""
        return self.discriminator(z).squeeze(1)

    def generate(self, network: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """n standardised samples (n, dim) of a generator network."""
        z = network(self.randn(n, self.latent, generator=generator))
        if self.pool.dequantise:
            noise = torch.rand(z.shape, generator=generator, device=self.device) - 0.5
            z = z + noise / self._std
        return z

    def decode(self, noise: Tensor) -> Tensor:
        """The averaged generator: noise (N, latent) → (N, dim) in data units."""
        with torch.no_grad():
            return self.unstandardise(self.averaged(noise))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n samples (n, dim) of the averaged generator, in data units."""
        with torch.no_grad():
            z = self.generate(self.averaged, n, generator or self.view_rng)
        return self.unstandardise(z)

    def probability(self, x: Tensor) -> Tensor:
        """D(x): how sure the discriminator is that x is data, (N, dim) in data units → (N,)."""
        with torch.no_grad():
            return torch.sigmoid(self.logits(self.standardise(x)))

    def push(self, x: Tensor) -> Tensor:
        """−∂/∂x of the generator's loss at each sample, (N, dim) per data unit.

        Where D would have each sample go. Parameters and their gradients are not touched.
        """
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            loss = LOSSES[self.loss].generator(self.logits(self.standardise(leaf)))
            # the loss is a mean over samples: n times its slope is that of each one's own
            (slope,) = torch.autograd.grad(len(x) * loss, leaf)
        return -slope

    # ------------------------------------------------------------ numbers

    def metrics(self) -> list[Metric]:
        with self.still(stream=2), torch.no_grad():
            fake = self.logits(self.standardise(self.sample(1000)))
            real = self.logits(self.standardise(self.pool.test[:1000]))
        return [
            Metric("d_real", float(real.sigmoid().mean()), floor=0.5, label="D on data",
                   help="Mean D(x) over held-out data; ½ when D cannot tell."),
            Metric("d_fake", float(fake.sigmoid().mean()), floor=0.5, label="D on samples",
                   help="Mean D(x) over samples of the model; ½ when D cannot tell."),
            Metric("game", float(value(real, fake)), "nats", floor=-math.log(4), label="V(D, G)",
                   help="E log D on held-out data + E log(1 − D) on samples. (V + log 4)/2 is a lower "
                   "bound of the Jensen–Shannon divergence, and tight for the best D."),
        ]  # fmt: skip

    # ------------------------------------------------------------ pictures

    def panels(self) -> list[Panel]:
        kind = self.pool.dataset.kind
        if kind == "plane":
            return self._plane_panels()
        return self._image_panels() if kind == "images" else []

    def _plane_panels(self) -> list[Panel]:
        box = self.pool.dataset.extent
        exact = self.pool.dataset.exact
        p = "p" if exact else "p̂"
        estimated = "q̂: kernel estimate" if exact else "p̂, q̂: kernel estimates"
        sliced = f"a slice: 2 of {self.latent} noise dimensions" if self.latent > 2 else ""
        panels = [
            Panel("discriminator", "Discriminator D(x)", self._discriminator,
                  "above ½: data; below: a sample", box, "small", hz=8,
                  help="D's probability that a point is data, with held-out data and samples. A "
                  "large R1 penalty flattens it to ½ even where samples and data still differ."),
            Panel("optimal", f"What D should be: {p}/({p} + q̂)", self._optimal,
                  f"{estimated}, h = {self._kernel:.2g}", box, "small", estimate=True, hz=4,
                  help="The best D for the present generator. The generator has no density, so q̂ is a "
                  f"Gaussian kernel estimate from {FOR_KERNEL:,} samples; blank where fewer than "
                  "four of them would decide."),
            Panel("warp", "Noise, warped by G", self._warp, sliced or "cells of equal probability",
                  box, "small",
                  Slider("from noise to data", 0.0, 1.0, 1.0, ("noise", "data"))
                  if self.latent > 1 else None, hz=8,
                  help="A grid over the noise and where G takes it (in between, straight lines). G is "
                  "continuous: between modes it stretches cells thin, but cannot cut them. Noise is "
                  "drawn at the data's scale."),
            Panel("gradients", "Where D pushes each sample", self._gradients,
                  "longest tenth of arrows = 10 % of the box", box, "small", hz=8,
                  help=f"Minus the slope of the generator's loss at each of {ARROWS} samples. One scale "
                  "for all arrows of a frame: the 90th percentile is a tenth of the box, and longer "
                  "ones are cut there."),
        ]  # fmt: skip
        if self.pool.dataset.modes is not None:
            panels += [
                Panel("modes", "Modes covered and lost", self._modes,
                      "covered: ≥ 20 % of its share within 3σ", box, "small", hz=8,
                      help="Every mode's centre: covered, or lost when under a fifth of the samples "
                      "that it should get lie within 3σ of it."),
                Panel("shares", "Share of samples per mode", self._shares,
                      "samples nearest to each centre, beside the true weight", None, "small", hz=4,
                      help="A model may cover all modes and still give them the wrong weights."),
            ]  # fmt: skip
        return panels

    def _image_panels(self) -> list[Panel]:
        return [
            Panel("scores", "Samples, sorted by D", self._scores, "D(x) below each", None, "large",
                  hz=4, help="From what fools the discriminator most to what fools it least."),
            Panel("interpolation", "Between two noises", self._interpolation,
                  "each row turns one noise into another", None, "large", hz=4,
                  help="z = a cos t + b sin t has the noise's own distribution all the way."),
        ]  # fmt: skip

    @property
    def _kernel(self) -> float:
        """The kernel's standard deviation in data units."""
        return self.bandwidth * float(self.pool.std.square().mean().sqrt())

    def _discriminator(self) -> list[Mark]:
        box = self.pool.dataset.extent
        field = self.probability(centres(box, GRID, self.device)).reshape(GRID, GRID)
        return [
            Heat(numpy(field) - 0.5, box, "discriminator", "diverging", hi=0.5, gamma=1.0,
                 label="D(x) − ½"),
            data_points(self, 400, 0.35),
            Points(numpy(self.sample(400)), "model", label="samples of the model"),
        ]  # fmt: skip

    def _optimal(self) -> list[Mark]:
        box, h = self.pool.dataset.extent, self._kernel
        p, q = self._data_field(), kde(self.sample(FOR_KERNEL), box, GRID, h)
        # a kernel averages over 4πh²: of so many samples q̂ is made, where p = q
        support = 4 * math.pi * h * h * FOR_KERNEL * (p + q) / 2
        ratio = torch.where(support < 4, math.nan, p / (p + q) - 0.5)
        return [Heat(numpy(ratio), box, "discriminator", "diverging", hi=0.5, gamma=1.0,
                     label="estimate of the best D − ½")]  # fmt: skip

    def _data_field(self) -> Tensor:
        """p in the cells of the grid, (GRID, GRID): exact where there is a density."""
        dataset, h = self.pool.dataset, self._kernel
        exact = exact_field(dataset)
        blur = h if self.blur_data or exact is None else 0.0
        if blur not in self._blurred:
            if exact is None:
                p = kde(self.pool.train[:10_000], dataset.extent, GRID, h)
            else:
                p = through_kernel(torch.from_numpy(exact), dataset.extent, GRID, blur)
            self._blurred = {blur: p.to(self.device)}
        return self._blurred[blur]

    def _warp(self) -> list[Mark]:
        if self.latent == 1:
            line = torch.special.ndtri(torch.linspace(0.005, 0.995, 200, device=self.device))
            return [Paths(numpy(self.decode(line[:, None]))[None], "noise", 1.5,
                          label="the noise's line")]  # fmt: skip
        edge = torch.special.ndtri(torch.linspace(0.01, 0.99, MESH, device=self.device))
        noise = torch.zeros(MESH * MESH, self.latent, device=self.device)
        noise[:, :2] = torch.cartesian_prod(edge, edge)
        return [Mesh(self._journey(noise).reshape(2, MESH, MESH, 2), "noise", keys=KEYS)]

    def _journey(self, noise: Tensor) -> np.ndarray:
        """(2, N, 2): the noise's first two dimensions at the data's scale, and G of it."""
        return numpy(torch.stack([self.unstandardise(noise[:, :2]), self.decode(noise)]))

    def _gradients(self) -> list[Mark]:
        box = self.pool.dataset.extent
        x = self.sample(ARROWS)
        push = self.push(x)
        length = push.norm(dim=1)
        longest = length.quantile(0.9).clamp_min(1e-12)
        arrow = push / torch.maximum(length, longest)[:, None] * (0.1 * (box[1] - box[0]))
        return [
            data_points(self, 300, 0.25),
            Arrows(numpy(x), numpy(arrow), "generator", label="−∇ of G's loss"),
        ]

    def _modes(self) -> list[Mark]:
        modes, x = reference(self.pool).modes, self.sample(2000)
        # counted in float64 like the metric: at the threshold itself the two must agree
        y, centre, sigma, weight = (
            part.to(x.device, torch.float64)
            for part in (x, modes.centres, modes.sigma, modes.weights)
        )
        close = (torch.cdist(y, centre) <= REACH * sigma).sum(0)
        found = numpy(close >= (COVERED * weight * len(x)).clamp_min(1))
        centre = numpy(modes.centres)
        return [
            Points(numpy(x[:500]), "model", opacity=0.4, label="samples of the model"),
            Points(centre[found], "truth", 5.0, opacity=1.0, label="covered"),
            Points(centre[~found], "lost", 7.0, opacity=1.0, label="lost"),
        ]

    def _shares(self) -> list[Mark]:
        ref = reference(self.pool)
        share = mode_report(self.sample(2000), ref.modes).shares
        names = [str(k + 1) for k in range(len(share))]
        return [Bars(names, share, ref.ideal.shares, "model", y_label="share of samples")]

    # ------------------------------------------------------------ pictures of images

    def _sheet(self, x: Tensor, columns: int, label: str, tags: list[str] | None = None) -> Images:
        dataset = self.pool.dataset
        pixels = np.clip(numpy(x).reshape(-1, *dataset.shape) / dataset.levels, 0, 1)
        return Images(pixels.astype(np.float32), columns, tags, label)

    def _scores(self) -> list[Mark]:
        x = self.sample(50)
        score, order = self.probability(x).sort(descending=True)
        tags = [f"{s:.2f}" for s in score.tolist()]
        return [self._sheet(x[order], 10, "samples, most convincing first", tags)]

    def _interpolation(self) -> list[Mark]:
        ends = self.randn(2, 6, 1, self.latent)
        turn = torch.linspace(0, math.pi / 2, 10, device=self.device)[:, None]
        noise = ends[0] * turn.cos() + ends[1] * turn.sin()
        return [self._sheet(self.decode(noise.reshape(-1, self.latent)), 10, "from noise to noise")]
