"""Normalizing flow: an invertible map f carries data to noise, so its density is exact.

    log q(x) = log N(f(x); 0, I) + log |det ∂f/∂x|

A flow is a list of layers. A layer is a small class with `forward(x)` → (z, log|det ∂z/∂x|)
and `inverse(z)` → x; the engine, its pictures and its checks use nothing else of it.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines import nets
from engines.base import Engine
from engines.data.base import Dataset, Pool
from engines.knobs import action, knob
from engines.marks import Handles, Heat, Images, Mark, Mesh, Metric, Panel, Paths, Points, Slider
from engines.pictures import centres, numpy

LOG_2PI = math.log(2 * math.pi)
EDGE = 1e-6  # what rounding may do to a share in [0, 1]
TILE = 2048  # rows at a time, so that a layer's activations stay in the cache
KEYFRAMES, JOURNEYS, FIELD = 9, 300, 60


# ---------------------------------------------------------------- layers


class Standardise:
    """z = (x − mean)/std per coordinate, log|det ∂z/∂x| = −Σ log std."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - self.mean) / self.std, -self.std.log().sum().expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z * self.std + self.mean


class Logit:
    """z = logit p with p = a + (1 − 2a)·x/levels: data in [0, levels] → the whole line.

    log|det ∂z/∂x| = Σ log (1 − 2a)/levels − log p(1 − p); a keeps the ends finite. Most
    pixels lie at an end, where a Gaussian would waste its tails (Dinh et al. 2017, § 4.1).
    """

    A = 1e-4

    def __init__(self, levels: float) -> None:
        self.levels = levels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.A + (1 - 2 * self.A) * x / self.levels
        inside = ((p > -EDGE) & (p < 1 + EDGE)).all(1)
        p = p.clamp(EDGE, 1 - EDGE)
        log_det = (math.log((1 - 2 * self.A) / self.levels) - p.log() - (1 - p).log()).sum(1)
        return torch.logit(p), torch.where(inside, log_det, -math.inf)

    def inverse(self, z: Tensor) -> Tensor:
        return (torch.sigmoid(z) - self.A) * (self.levels / (1 - 2 * self.A))


class Coupling:
    """Linear mixing, then an affine coupling (Dinh, Sohl-Dickstein & Bengio 2017, eq. 7–8).

        (u, v) = x A + c
        z = (u, v · exp s(u) + t(u)),    log|det ∂z/∂x| = log|det A| + Σ s(u)

    u passes unchanged, so s and t can be worked out again from z and undone; they come from
    one network of u. |s| < `REACH`, so that no single layer can blow up.

    Args:
        matrix, shift: A (d, d) and c (d,).
        log_det: log|det A|, 0-d.
        network: weights (n_in, n_out) and biases (n_out,) of the layers of s and t.
    """

    REACH = 2.0

    def __init__(
        self, matrix: Tensor, shift: Tensor, log_det: Tensor, network: list[tuple[Tensor, Tensor]]
    ) -> None:
        self.matrix, self.shift, self.log_det, self.network = matrix, shift, log_det, network
        dim = len(shift)
        self.parts = (dim // 2, dim - dim // 2)  # numbers in u and in v

    def _scale_shift(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """s(u) and t(u), each (N, d₂)."""
        *hidden, (weight, bias) = self.network
        for w, b in hidden:
            u = F.leaky_relu_(torch.addmm(b, u, w))
        s, t = torch.addmm(bias, u, weight).split(self.parts[1], 1)
        return self.REACH * torch.tanh(s / self.REACH), t

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) → (N, d) and log|det| (N,)."""
        u, v = torch.addmm(self.shift, x, self.matrix).split(self.parts, 1)
        s, t = self._scale_shift(u)
        return torch.cat([u, torch.addcmul(t, v, s.exp())], 1), s.sum(1) + self.log_det

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, d) → (N, d)."""
        u, v = z.split(self.parts, 1)
        s, t = self._scale_shift(u)
        mixed = torch.cat([u, (v - t) * (-s).exp()], 1)
        return (mixed - self.shift) @ torch.linalg.inv(self.matrix)


Layer = Standardise | Logit | Coupling


class RealNVP(nn.Module):
    """L couplings. Their weights are stacked along a leading axis of length L, so that the
    optimiser and the weight average see ten tensors instead of a hundred.

    A = P·(I + lower)·(upper + diag ±eᵃ) as in Glow (Kingma & Dhariwal 2018), so that
    log|det A| = Σ a and A cannot become singular; the permutation P and the signs are fixed.

    Args:
        mixing: "linear" learns A, "swap" keeps it exchanging the two halves (up to a sign).
    """

    def __init__(
        self, dim: int, layers: int, width: int, hidden: int, mixing: str, rng: torch.Generator
    ) -> None:
        super().__init__()
        dev = rng.device
        sizes = [dim // 2, *[width] * hidden, 2 * (dim - dim // 2)]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            # the last layer starts near zero, so that every coupling starts near the identity
            gain = (0.01 if i == hidden else 1.0) / math.sqrt(n_in)
            w = torch.empty(layers, n_in, n_out, device=dev).uniform_(-gain, gain, generator=rng)
            b = torch.empty(layers, n_out, device=dev).uniform_(-gain, gain, generator=rng)
            self.weights.append(nn.Parameter(w))
            self.biases.append(nn.Parameter(b))
        start = self._rotations(dim, layers, 0.25 if mixing == "swap" else None, rng)
        swap, lower, upper = torch.linalg.lu(start.double())
        diagonal = upper.diagonal(dim1=1, dim2=2)
        train = mixing == "linear"
        self.shift = nn.Parameter(torch.zeros(layers, dim, device=dev), train)
        self.lower = nn.Parameter(lower.tril(-1).float(), train)
        self.upper = nn.Parameter(upper.triu(1).float(), train)
        self.log_diagonal = nn.Parameter(diagonal.abs().log().float(), train)
        self.register_buffer("swap", swap.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.register_buffer("eye", torch.eye(dim, device=dev))

    @staticmethod
    def _rotations(dim: int, layers: int, turn: float | None, rng: torch.Generator) -> Tensor:
        """First mixing matrices (L, d, d): rotations of one half into the other.

        By about a sixth of a full turn each, and by whole turns in all: so the picture of
        the layers starts without a twist, and successive couplings act in three directions.
        """
        if turn is None:
            turn = max(1, round(layers / 6)) / layers if layers > 2 else 0.125
        half = dim // 2
        a = torch.eye(dim, device=rng.device)
        c, s = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
        i = torch.arange(half)
        a[i, i], a[i, i + dim - half] = c, s
        a[i + dim - half, i], a[i + dim - half, i + dim - half] = -s, c
        return a.repeat(layers, 1, 1)

    def matrices(self) -> Tensor:
        """A, (L, d, d)."""
        lower = self.lower.tril(-1) + self.eye
        upper = self.upper.triu(1) + torch.diag_embed(self.sign * self.log_diagonal.exp())
        return self.swap @ (lower @ upper)

    def layers(self) -> list[Coupling]:
        """The couplings in the order from data to noise."""
        networks = zip(*(zip(w.unbind(0), b.unbind(0)) for w, b in zip(self.weights, self.biases)))
        return [
            Coupling(a, c, d, list(network))
            for a, c, d, network in zip(
                self.matrices().unbind(0),
                self.shift.unbind(0),
                self.log_diagonal.sum(1).unbind(0),
                networks,
            )
        ]


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I), (N, d) → (N,)."""
    return -0.5 * (z * z).sum(1) - 0.5 * z.shape[1] * LOG_2PI


# ---------------------------------------------------------------- the engine


class Flow(Engine):
    """RealNVP on standardised data, trained by maximum likelihood with Adam."""

    name = "flow"
    family = "Flow"
    place = 9
    title = "Normalizing flow"
    tagline = (
        "A chain of invertible layers bends a Gaussian into the data; since every bend can be "
        "undone, the density is exact."
    )
    objective = "log q(x) = log p_{z}(f(x)) + log |det ∂f/∂x|"
    look_for = (
        "The noise grid folds but never tears: thin bridges of density stay between separate "
        "modes. Slide through the layers to see each coupling shift one direction only."
    )
    paper = "Dinh, Sohl-Dickstein & Bengio (2017), Density estimation using Real NVP"
    compare = {
        "4 layers": {"layers": 4},
        "Halves swapped, not mixed": {"mixing": "swap"},
        "One hidden layer of 16": {"hidden": 1, "width": 16},
    }
    density = "exact"
    density_kind = "tractable"
    principle = "maximum likelihood"
    loss_is_nll = True
    loss_label = "−log q(x), nats"

    layers: int = knob(12, 2, 24, help="Couplings between data and noise.")
    width: int = knob(
        64, 8, 256, log=True, help="Units in each hidden layer of a coupling's network."
    )
    hidden: int = knob(2, 1, 3, label="Hidden layers", help="Depth of each coupling's network.")
    mixing: Literal["linear", "swap"] = knob(
        "linear", help="Between couplings: a learnt linear map, or only exchanging the two halves."
    )
    lr: float = knob(
        2e-3, 1e-5, 1e-1, log=True, live=True, label="Learning rate",
        help="Adam's step size; it falls like 1/√step after the first few hundred.",
    )  # fmt: skip
    batch: int = knob(256, 16, 4096, log=True, live=True, help="Data points a step.")
    averaged: bool = knob(
        True, view=True, label="Averaged weights",
        help="Show the model with weights averaged over recent steps, or the weights themselves.",
    )  # fmt: skip
    grid_lines: int = knob(17, 5, 25, view=True, help="Lines each way of the warped noise grid.")
    grid_extent: float = knob(
        2.5, 1.0, 4.0, view=True, help="How far the noise grid reaches, in standard deviations."
    )

    WARM, DECAY_FROM = 100, 300  # steps
    AVERAGE = 0.999
    CLIP = 10.0
    FAR = 4.0
    BETAS = (0.9, 0.99)

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        return None if dataset.dim >= 2 else "A coupling needs at least two coordinates to split."

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        if pool.dequantise:
            logit = Logit(pool.dataset.levels)
            z, _ = logit.forward(pool.rows(torch.arange(len(pool.train)), self.rng))
            self.logit_mean, self.logit_std = z.mean(0), z.std(0)
            self._before = [logit, Standardise(self.logit_mean, self.logit_std)]
        else:
            self._before = [Standardise(self._mean, self._std)]
        make = (self.dim, self.layers, self.width, self.hidden, self.mixing)
        self.net = RealNVP(*make, self.rng)
        self.average = nets.Average(self.net, copy.deepcopy(self.net), self.AVERAGE)
        self._weights = [p for p in self.net.parameters() if p.requires_grad]
        self.optimiser = nets.adam(self._weights, self.lr, self.BETAS)
        # the point whose way is drawn; looking, not training
        self.probe_x, self.probe_y = pool.val[0, :2].tolist()

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        self.follow(self.probe_x, self.probe_y)  # back into the picture, if that has moved

    def step(self) -> dict[str, Tensor]:
        x = self.pool.batch(self.batch, self.rng)
        t = self.step_count + 1
        decay = (self.DECAY_FROM / (self.age + 1)) ** 0.5
        nets.set_lr(self.optimiser, self.lr * min(t / self.WARM, decay, 1))
        self.optimiser.zero_grad()
        z, log_det = self.forward(x, self.net)
        loss = (self.cost(z) - log_det).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights, self.CLIP)
        self.optimiser.step()
        self.average.update(self.net, self.age + 1)
        return {"nll": -(log_normal(z.detach()) + log_det.detach()).mean()}

    @classmethod
    def cost(cls, z: Tensor) -> Tensor:
        """−log N(z; 0, I) where noise lies, growing linearly beyond r = √d + FAR, (N, d) → (N,).

        Of normal noise less than one point in a million lies beyond r, so a good fit is judged
        by its likelihood. But while a fit is bad, one point at z = 1000 would outshout the
        whole batch, and the step that it asks for would spoil all the rest (Huber 1964).
        """
        d = z.shape[1]
        far = d**0.5 + cls.FAR
        r = (z * z).sum(1).clamp_min(1e-12).sqrt()
        near = r.clamp_max(far)
        return near * (r - 0.5 * near) + 0.5 * d * LOG_2PI

    # ------------------------------------------------------------ the model

    @property
    def shown(self) -> RealNVP:
        """The network that is looked at, sampled and measured: averaged or as it is."""
        return self.average.module if self.averaged else self.net

    def chain(self, net: RealNVP | None = None) -> list[Layer]:
        """All layers in the order from data to noise; those of `shown` unless told."""
        return [*self._before, *(net or self.shown).layers()]

    def forward(self, x: Tensor, net: RealNVP | None = None) -> tuple[Tensor, Tensor]:
        """Noise f(x) (N, d) and log|det ∂f/∂x| (N,), x (N, d) in data units."""
        z, log_dets = x, []
        for layer in self.chain(net):
            z, log_det = layer.forward(z)
            log_dets.append(log_det)
        return z, torch.stack(log_dets).sum(0)

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(f(x); 0, I) + log|det ∂f/∂x| in nats, (N, d) → (N,)."""
        parts = [self.forward(part) for part in x.split(TILE)]
        return torch.cat([log_normal(z) + log_det for z, log_det in parts])

    def encode(self, x: Tensor) -> Tensor:
        """Data (N, d) → noise f(x) (N, d)."""
        return self.forward(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Noise (N, d) → data f⁻¹(z) (N, d)."""
        layers, parts = self.chain()[::-1], []
        for part in z.split(TILE):
            for layer in layers:
                part = layer.inverse(part)
            parts.append(part)
        return torch.cat(parts)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.decode(self.randn(n, self.dim, generator=generator))

    def metrics(self) -> list[Metric]:
        x = self.pool.test[:128]
        back = self.decode(self.encode(x))
        error = ((back - x) / self._std).abs().max()
        return [
            Metric("round_trip", float(error), "data σ", "exact", floor=0.0,
                   label="Round trip |x − f⁻¹(f(x))|",
                   help="The largest error of undoing the flow over 128 held-out points: "
                        "rounding, or layers too steep to be undone.")
        ]  # fmt: skip

    # ------------------------------------------------------------ pictures

    @action("Follow a point", takes=("x", "y"))
    def follow(self, x: float, y: float) -> None:
        """Drag the point whose way to the noise is drawn."""
        if self.pool.dataset.kind == "plane":
            x0, x1, y0, y1 = self.pool.dataset.extent
            self.probe_x, self.probe_y = min(max(x, x0), x1), min(max(y, y0), y1)

    def panels(self) -> list[Panel]:
        kind = self.pool.dataset.kind
        return self._plane() if kind == "plane" else self._images() if kind == "images" else []

    def _frames(self) -> Tensor:
        """Affine maps (L+1, 3, 3) that place the state after k inverse layers in the picture.

        The linear mixings turn the plane from layer to layer, which would hide what the
        couplings do. So state k is seen through the mixings that are still to come, R_k:
        the couplings move points, and nothing else does. R_0⁻¹ is blended in towards k = 0,
        and the data's own scale towards k = L, so that both ends are exact: state 0 is the
        noise itself and state L the data.
        """
        layers = self.shown.layers()
        n = len(layers)
        rest = [torch.eye(3, device=self.device)]  # from the data side: R_L, R_{L−1}, …
        for layer in layers:
            mix = torch.eye(3, device=self.device)
            mix[:2, :2], mix[2, :2] = layer.matrix, layer.shift
            rest.append(torch.linalg.inv(mix) @ rest[-1])
        rest = torch.stack(rest[::-1])
        scale = torch.diag(torch.cat([self._std, torch.ones_like(self._std[:1])]))
        scale[2, :2] = self._mean
        k = torch.linspace(0, 1, n + 1, device=self.device)[:, None, None]
        eye = torch.eye(3, device=self.device)
        return rest @ torch.lerp(torch.linalg.inv(rest[0]), eye, k) @ torch.lerp(eye, scale, k)

    def _seen(self, states: list[Tensor], frames: Tensor) -> Tensor:
        """States (L+1) × (N, 2), from noise to data → their places in the picture."""
        y = torch.stack(states)
        return y @ frames[:, :2, :2] + frames[:, 2:, :2]

    def _from_noise(self, z: Tensor) -> Tensor:
        """Noise (N, 2) → (L+1, N, 2): its place after 0, 1, … L layers."""
        states = [z]
        for layer in reversed(self.shown.layers()):
            states.append(layer.inverse(states[-1]))
        return self._seen(states, self._frames())

    def _from_data(self, x: Tensor) -> Tensor:
        """Data (N, 2) → (L+1, N, 2), from its noise to itself."""
        states = [self.standardise(x)]
        for layer in self.shown.layers():
            states.append(layer.forward(states[-1])[0])
        return self._seen(states[::-1], self._frames())

    def _plane(self) -> list[Panel]:
        dataset = self.pool.dataset
        box = dataset.extent
        n = self.layers
        keys = np.unique(np.linspace(0, n, min(n + 1, KEYFRAMES)).round()).astype(int)

        def slider() -> Slider:
            return Slider("layer", 0, n, n, ("noise", "data"))

        def grid() -> list[Mark]:
            e, lines = self.grid_extent, self.grid_lines
            half = e * (1 + 1 / (lines - 1))  # cell centres of this box end at ±e
            z = centres((-half, half, -half, half), lines, self.device)
            xy = self._from_noise(z)[keys].reshape(len(keys), lines, lines, 2)
            return [Mesh(numpy(xy), "model", keys=keys.astype(float), label="noise grid")]

        def journey() -> list[Mark]:
            z = self.randn(JOURNEYS, 2)
            sector = ((torch.atan2(z[:, 1], z[:, 0]) / math.pi + 1) * 4).floor().clamp(0, 7)
            probe = torch.tensor([[self.probe_x, self.probe_y]], device=self.device)
            path = numpy(self._from_data(probe)[:, 0])
            return [
                Points(numpy(self._from_noise(z)[keys]), group=numpy(sector.int()),
                       keys=keys.astype(float), label="by direction in the noise"),
                Paths(path[None], "truth", 1.6, opacity=0.9, label="the point's way"),
                Points(path[:1], "noise", 4.0, label="where it lands in the noise"),
                Handles(path[-1:], "follow", ("drag me",)),
            ]  # fmt: skip

        def stretch() -> list[Mark]:
            _, log_det = self.forward(centres(box, FIELD, self.device))
            field = numpy(log_det.reshape(FIELD, FIELD))
            hi = float(np.ceil(np.quantile(np.abs(field), 0.98)))
            return [Heat(field, box, "plain", "diverging", hi=max(hi, 1.0), gamma=1.0,
                         label="log|det ∂f/∂x|", unit="nats")]  # fmt: skip

        return [
            Panel("grid", "Noise grid, warped", grid,
                  f"to ±{self.grid_extent:g} σ; seen without the turns between couplings", box,
                  "small", slider(), hz=3,
                  help="A square grid in the noise, carried to the data: it may bend and squeeze, "
                       "but never tear or cross itself."),
            Panel("journey", "From noise to data", journey, "colours: direction in the noise",
                  box, "small", slider(), hz=3,
                  help="The same samples at every layer. Drag the ring in the data to see where "
                       "that point lies in the noise."),
            Panel("logdet", "How f stretches space", stretch, "log|det ∂f/∂x|", box, "small", hz=4,
                  help="Red: f spreads a small area of data over much noise, so density is high "
                       "there. Blue: it squeezes."),
        ]  # fmt: skip

    def _images(self) -> list[Panel]:
        dataset, pool = self.pool.dataset, self.pool

        def between() -> list[Mark]:
            rows, columns = 6, 10
            a, b = self.encode(pool.test[: 2 * rows]).split(rows)
            t = torch.linspace(0, 1, columns, device=self.device)[None, :, None]
            # along the great circle: halfway on a straight line the noise would be too short
            angle = torch.acos(F.cosine_similarity(a, b).clamp(-0.999, 0.999))[:, None, None]
            way = (
                ((1 - t) * angle).sin() * a[:, None] + (t * angle).sin() * b[:, None]
            ) / angle.sin()
            pixels = numpy(self.decode(way.reshape(-1, self.dim))) / dataset.levels
            pixels = np.clip(pixels, 0, 1).reshape(-1, *dataset.shape).astype(np.float32)
            return [Images(pixels, columns, label="from one held-out image to another")]

        return [
            Panel("interpolation", "Between two held-out images", between,
                  "a great circle in the noise, decoded", None, "large", hz=2,
                  help="Left and right are real; a good map of the data has plausible images "
                       "all along the way."),
        ]  # fmt: skip
