"""A deep Gaussian mixture: layers of linear-Gaussian mixtures, one on top of the other.

    x = η_i + Λ_i z⁽¹⁾ + u_i,   z⁽¹⁾ = η_j + Λ_j z⁽²⁾ + u_j,   …,   z⁽ʰ⁾ ~ N(0, I)

Each layer draws its own component, so a path i, j, … through h layers makes one Gaussian, and
there are as many of them as there are paths, out of far fewer numbers (Viroli & McLachlan 2019,
"Deep Gaussian mixture models"). The density is their sum, exactly.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn

from engines.arrays import marked, numpy
from engines.capture import Capture
from engines.data.base import Dataset, Pool
from engines.knobs import knob
from engines.marks import Bars, Ellipses, Images, Mark, Metric, Panel, Points
from engines.mixture.gaussians import (
    Gaussians,
    coefficients,
    features,
    free_parameters,
    log_density,
    plus_plus,
)
from engines.mixture.rows import OnRows
from engines.nets import adam, set_lr

GUESSED_FROM = 10_000  # rows


class Layers(nn.Module):
    """The parameters of h layers; layer l has k_l components and maps R^{d_l} → R^{d_{l−1}}.

    logits[l] (k,), shift[l] η (k, d_{l−1}), load[l] Λ (k, d_{l−1}, d_l), log_noise[l]
    (k, d_{l−1}): the logarithm of the standard deviations of u, whose covariance is diagonal.
    """

    def __init__(self, parts: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
        super().__init__()

        def make(i: int) -> nn.ParameterList:
            # in plain order: an optimiser's moments come back from a checkpoint that way
            return nn.ParameterList([nn.Parameter(p[i].contiguous().clone()) for p in parts])

        self.logits, self.shift, self.load, self.log_noise = (make(i) for i in range(4))

    def paths(self, floor: float) -> Gaussians:
        """The Gaussian of every path, (S = k_1 ··· k_h): the first layer's component varies
        slowest.

        From the top down: a Gaussian N(m, C) of z⁽ˡ⁾ becomes N(η + Λm, ΛCΛᵀ + Ψ) of z⁽ˡ⁻¹⁾.
        The floor is added to the variance of every direction of the data.
        """
        d = self.load[-1].shape[2]
        like = self.load[-1]
        mean, cov = like.new_zeros(1, d), torch.eye(d, dtype=like.dtype, device=like.device)[None]
        log_weight = like.new_zeros(1)
        for logits, shift, load, log_noise in zip(
            *(reversed(part) for part in (self.logits, self.shift, self.load, self.log_noise)),
            strict=True,
        ):
            noise = torch.diag_embed((2 * log_noise).exp())
            mean = (shift[:, None] + torch.einsum("kab,sb->ksa", load, mean)).flatten(0, 1)
            cov = load[:, None] @ cov @ load.mT[:, None] + noise[:, None]
            cov = cov.flatten(0, 1)
            log_weight = (logits.log_softmax(0)[:, None] + log_weight).flatten()
        eye = torch.eye(cov.shape[1], dtype=cov.dtype, device=cov.device)
        return Gaussians(log_weight, mean, cov + floor * eye)


def numbers_in(counts: list[int], dims: list[int]) -> int:
    """Free numbers of a deep mixture of `counts` components; dims: d_0 of the data, d_1, … d_h.

    K − 1 weights, and a shift, a load and a noise for each component. The last layer's
    ΛΛᵀ + Ψ counts for no more than the covariance that it is: rotations of z⁽ʰ⁾ change nothing.
    """
    total = 0
    for layer, (k, (d, q)) in enumerate(zip(counts, itertools.pairwise(dims), strict=True), 1):
        shape = d * q + d
        if layer == len(counts):
            shape = min(shape - q * (q - 1) // 2, d * (d + 1) // 2)
        total += k - 1 + k * (d + shape)
    return total


def hierarchical(
    x: Tensor, counts: list[int], dims: list[int], rng: torch.Generator
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """First layers, from the bottom up, as the paper starts: k-means++ centres of the rows, then
    of what is left of the rows when each has lost its centre, and so on.

    What is left, divided by its root mean square s, is the next layer's data: so Λ = s·(an
    orthonormal frame that all components share), and the noise takes a tenth of it.
    """
    parts = []
    for count, dim in zip(counts, dims, strict=True):
        n, d = x.shape
        centres = plus_plus(x, count, rng)
        for _ in range(5):  # Lloyd's iterations
            own = torch.cdist(x, centres).argmin(1)
            share = torch.nn.functional.one_hot(own, count).to(x.dtype)
            total = share.sum(0)[:, None]
            centres = torch.where(total > 0, (share.T @ x) / total.clamp_min(1), centres)
        own = torch.cdist(x, centres).argmin(1)
        rest = x - centres[own]
        size = rest.square().mean().sqrt().clamp_min(1e-3)
        frame = torch.linalg.eigh(rest.T @ rest / n).eigenvectors.flip(1)[:, :dim]
        # more numbers than the rows have: the others begin as nothing but jitter
        frame = torch.nn.functional.pad(frame, (0, dim - frame.shape[1]))
        jitter = torch.randn(count, d, dim, generator=rng, device=x.device, dtype=x.dtype)
        load = size * (frame + 0.05 * jitter)
        log_noise = (0.3 * size).log() + x.new_zeros(count, d)
        parts.append((x.new_zeros(count), centres, load, log_noise))
        x = rest @ frame / size
    return parts


class DeepMixture(OnRows):
    """Deep Gaussian mixture: few clouds, composed, make many."""

    name = "deep_mixture"
    family = "Mixture"
    place = 2.1
    title = "Deep Gaussian mixture"
    tagline = "Layers of a few clouds each: every path through them is a cloud of its own."
    objective = (
        "max Σ_{n} log Σ_{paths s} π_{s} N(x_{n}; μ_{s}, Σ_{s}),  μ, Σ by composing the layers"
    )
    look_for = (
        "Clouds of one colour share their first layer: each colour is the same small pattern, "
        "moved and stretched. Data that repeats itself needs few numbers that way."
    )
    paper = "Viroli & McLachlan 2019, Deep Gaussian mixture models"
    compare = {
        "one layer": {"layers": 1},
        "two layers": {"layers": 2},
        "three layers": {"layers": 3},
        "one number between layers": {"latent": 1},
    }
    density = "exact"
    density_kind = "tractable"
    capture = Capture(
        "Each step inverts covariances with a library call that brings an error code to the CPU."
    )
    principle = "maximum likelihood"
    clip_steps = 600
    loss_is_nll = True
    loss_label = "−log q(x), nats"
    if_diverged = "Try a smaller learning rate, or a larger covariance floor."

    layers: int = knob(2, 1, 3, help="One is a flat mixture; a path runs through all of them.")
    k1: int = knob(
        5, 1, 40, label="Clouds, layer 1", help="Components of the layer that makes the data."
    )
    k2: int = knob(
        5, 1, 8, label="Clouds, layer 2", when={"layers": (2, 3)},
        help="Components of the second layer.",
    )  # fmt: skip
    k3: int = knob(
        2, 1, 5, label="Clouds, layer 3", when={"layers": 3},
        help="Components of the third layer.",
    )  # fmt: skip
    latent: int = knob(
        2, 1, 8, label="Numbers between layers",
        help="The dimension of what each layer hands to the next.",
    )  # fmt: skip
    n_points: int = knob(
        50_000, 100, 100_000, log=True, label="Training points", help="How many points are fitted."
    )
    floor: float = knob(
        1e-6, 1e-8, 1.0, log=True, live=True, label="Covariance floor",
        help="Added to every variance (of standardised data), so that no cloud shrinks to a point.",
    )  # fmt: skip
    lr: float = knob(
        0.03, 1e-4, 0.5, log=True, live=True, label="Learning rate",
        help="Adam's step size, which then falls as 1/√(1 + step/200).",
    )  # fmt: skip
    batch: int = knob(1024, 16, 16_384, log=True, live=True, help="Points in each gradient step.")
    group_by_layer: int = knob(
        1, 1, 3, view=True, label="Colour by layer",
        help="Paths through the same component of this layer share a colour.",
    )  # fmt: skip

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "sequence":
            return "A deep Gaussian mixture takes rows of numbers without an order, not sequences."
        if dataset.dim > 64:
            return f"A deep mixture takes rows of at most 64 numbers here, not {dataset.dim}."
        return None

    @property
    def counts(self) -> list[int]:
        """Components of each layer, from the data up."""
        return [self.k1, self.k2, self.k3][: self.layers]

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self._choose(self.rng)
        self.dims = self.latent
        some = self._z[:GUESSED_FROM]
        self.net = Layers(hierarchical(some, self.counts, [self.dims] * self.layers, self.rng))
        self.optimiser = adam(self.net.parameters(), self.lr)

    def refresh(self) -> None:
        self._choose(self.first_rng())

    def step(self) -> dict[str, Tensor]:
        index = torch.randint(len(self._z), (self.batch,), generator=self.rng, device=self.device)
        f = features(self._z[index], cross=True)
        set_lr(self.optimiser, self.lr / math.sqrt(1 + self.age / 200))
        joint = f @ coefficients(self.net.paths(self.floor), cross=True).T
        loss = -torch.logsumexp(joint, 1).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"loss": loss.detach() + self._log_std}

    # ------------------------------------------------------------ the model

    def gaussians(self) -> Gaussians:
        """One Gaussian for every path, in standardised units."""
        return Gaussians(*(part.detach() for part in self.net.paths(self.floor)))

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (S,), means (S, D) and covariances (S, D, D) of all paths in data units."""
        g, std = self.gaussians(), self._std.double()
        return g.log_weight.exp(), g.mean * std + self._mean, g.cov * std[:, None] * std

    def log_prob(self, x: Tensor) -> Tensor:
        return (log_density(self.gaussians(), self._whiten(x)) - self._log_std).float()

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """From the top down, layer by layer: a component, then a linear map with noise."""
        z = self.randn(n, self.dims, generator=generator).double()
        for layer in reversed(range(self.layers)):
            load, shift = self.net.load[layer], self.net.shift[layer]
            edges = self.net.logits[layer].softmax(0).cumsum(0)
            u = torch.rand(n, generator=generator or self.view_rng, device=self.device).double()
            which = torch.searchsorted(edges, u * edges[-1]).clamp_max(len(edges) - 1)
            noise = self.randn(n, shift.shape[1], generator=generator).double()
            noise = noise * self.net.log_noise[layer].exp()[which]
            z = shift[which] + torch.einsum("nab,nb->na", load[which], z) + noise
        z = z + math.sqrt(self.floor) * self.randn(n, self.dim, generator=generator).double()
        return self._unwhiten(z)

    # ------------------------------------------------------------ numbers and pictures

    def sizes(self) -> tuple[int, int]:
        """Free numbers of this model, and of a flat mixture of as many Gaussians."""
        mine = numbers_in(self.counts, [self.dim, *[self.dims] * self.layers])
        return mine, free_parameters(math.prod(self.counts), self.dim, "full")

    def metrics(self) -> list[Metric]:
        g = self.gaussians()
        entropy = torch.special.entr(g.log_weight.exp()).sum()
        smallest = torch.linalg.eigvalsh(g.cov).min().clamp_min(0).sqrt()
        effective, smallest = torch.stack([entropy.exp(), smallest]).tolist()
        mine, flat = self.sizes()
        return [
            Metric("numbers", mine, "", "exact", label="Numbers in the model",
                   help=f"Free parameters. A flat mixture of {len(g.mean):,} full Gaussians, one "
                        f"for each path, has {flat:,}."),
            Metric("effective_components", effective, "", "exact", of=len(g.mean),
                   label="Effective paths",
                   help="exp of the entropy of the paths' weights: all of them when they weigh "
                        "the same."),
            Metric("smallest_sigma", smallest, "σ", "exact", label="Smallest cloud",
                   help="The smallest standard deviation of any path's Gaussian in any direction, "
                        "in units of the data's."),
        ]  # fmt: skip

    def panels(self) -> list[Panel]:
        mine = self.sizes()[0]
        many = math.prod(self.counts)
        panels = [
            Panel("layers", "Weights of the layers", self._draw_weights,
                  "layer.cloud, largest first in each layer", hz=8,
                  help="The share of each component of each layer; a path weighs their product."),
            Panel("numbers", "How many numbers?", self._draw_numbers,
                  f"{many:,} Gaussians out of {mine:,} numbers", hz=1,
                  help="Free parameters of this model, and of a flat mixture with as many "
                       "Gaussians as there are paths."),
        ]  # fmt: skip
        if self.dim == 2:
            layer = min(self.group_by_layer, self.layers)
            picture = Panel(
                "paths", "Every path is a cloud", self._draw_paths,
                f"one colour for each cloud of layer {layer}", self.pool.dataset.extent, "large",
                hz=15, help="The Gaussian of every path through the layers, at 1 and 2 standard "
                "deviations; training points in the colour of the most responsible component.",
            )  # fmt: skip
            return [picture, *panels]
        if self.pool.dataset.kind == "images":
            return [Panel("means", "Means of the paths", self._draw_means, "heaviest first", None,
                          "large", hz=8, help="The mean picture of the heaviest paths."),
                    *panels]  # fmt: skip
        return panels

    def groups(self, layer: int) -> Tensor:
        """Which component of a layer, counted from 1, each path goes through: (S,)."""
        place = torch.arange(math.prod(self.counts), device=self.device)
        for count in reversed(self.counts[layer:]):
            place = place // count
        return place % self.counts[layer - 1]

    def _draw_paths(self) -> list[Mark]:
        layer = min(self.group_by_layer, self.layers)
        weight, mean, cov = self.components()
        group = self.groups(layer)
        z = self._z[:1500]
        joint = features(z, cross=True) @ coefficients(self.gaussians(), cross=True).T
        share = torch.zeros(len(z), self.counts[layer - 1], dtype=z.dtype, device=z.device)
        share.index_add_(1, group, joint.softmax(1))
        place = numpy(z * self._std + self._mean).astype(np.float32)
        return [
            Points(place, "data", 2.2, numpy(share.argmax(1)), label="training points"),
            Ellipses(numpy(mean), numpy(cov), numpy(weight), grouped=True, group=marked(group),
                     label="paths"),
        ]  # fmt: skip

    def _draw_weights(self) -> list[Mark]:
        names, values = [], []
        for layer, logits in enumerate(self.net.logits, 1):
            weight, order = logits.softmax(0).sort(descending=True, stable=True)
            names += [f"{layer}.{k + 1}" for k in order.tolist()]
            values += weight.tolist()
        return [Bars(names, np.array(values), y_label="weight π")]

    def _draw_numbers(self) -> list[Mark]:
        mine, flat = self.sizes()
        many = math.prod(self.counts)
        return [Bars(["this model", f"flat, {many:,} clouds"], np.array([mine, flat], float),
                     y_label="free numbers")]  # fmt: skip

    def _draw_means(self) -> list[Mark]:
        dataset = self.pool.dataset
        weight, mean, _ = self.components()
        weight, order = weight.sort(descending=True, stable=True)
        pixels = numpy(mean[order[:36]]).reshape(-1, *dataset.shape[-2:]) / dataset.levels
        tags = [f"{100 * w:.0f} %" if w >= 0.01 else "< 1 %" for w in weight[:36].tolist()]
        columns = max(1, math.ceil(math.sqrt(len(tags))))
        return [Images(np.clip(pixels, 0, 1).astype(np.float32), columns, tags, "path means")]
