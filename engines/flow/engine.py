"""The flow engine: one kind of invertible map, one base, maximum likelihood."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engines import nets
from engines.base import Engine
from engines.capture import Capture
from engines.data.base import Dataset, Pool
from engines.flow import compiled, pictures
from engines.flow import layers as chains
from engines.flow.kinds import KINDS, Model
from engines.flow.layers import Layer, Logit, Standardise, centred
from engines.flow.training import Native
from engines.knobs import action, knob
from engines.marks import Metric, Panel

SPLINES = tuple(name for name, entry in KINDS.items() if entry.depth == "splines")
OTHERS = tuple(name for name in KINDS if name not in SPLINES)
NETWORKED = tuple(name for name, entry in KINDS.items() if entry.networked)
TILE = 2048  # rows at a time, so that a layer's activations stay in the cache


class Flow(Engine):
    """An invertible map on standardised data, trained by maximum likelihood with Adam."""

    name = "flow"
    family = "Flow"
    place = 9
    title = "Normalizing flow"
    tagline = (
        "A chain of invertible layers bends simple noise into the data; since every bend can be "
        "undone, the density is exact."
    )
    objective = "log q(x) = log p_{z}(f(x)) + log |det ∂f/∂x|"
    look_for = (
        "The noise grid folds but never tears: thin bridges of density stay between separate "
        "modes. Slide through the layers to see what each of them can move, and what not."
    )
    paper = (
        "Planar, radial: Rezende & Mohamed (2015); IAF: Kingma et al. (2016); RealNVP: Dinh, "
        "Sohl-Dickstein & Bengio (2017); MAF: Papamakarios, Pavlakou & Murray (2017); Glow: "
        "Kingma & Dhariwal (2018); continuous: Grathwohl et al. (2019); splines: Durkan et al. (2019)"
    )
    compare = {
        "RealNVP": {"kind": "RealNVP"},
        "Planar": {"kind": "planar"},
        "Noise in pieces": {"base": "mixture"},
    }
    density = "exact"
    density_kind = "tractable"
    principle = "maximum likelihood"
    loss_is_nll = True
    loss_label = "−log q(x), nats"
    if_diverged = "Try a smaller learning rate, or fewer layers."

    kind: Literal[
        "spline", "spline coupling", "RealNVP", "Glow", "MAF", "IAF", "continuous", "planar",
        "radial",
    ] = knob("spline", help="Which invertible layers the flow is made of.")  # fmt: skip
    splines: int = knob(
        1, 1, 8, label="Spline layers", when={"kind": SPLINES},
        help="Spline layers between data and noise; one of them can do what many others cannot.",
    )  # fmt: skip
    layers: int = knob(12, 2, 32, when={"kind": OTHERS}, help="Layers between data and noise.")
    width: int = knob(
        64, 8, 256, log=True, when={"kind": NETWORKED},
        help="Units in each hidden layer of a layer's network; the autoregressive spline has twice "
             "as many above eight coordinates.",
    )  # fmt: skip
    hidden: int = knob(
        2, 1, 3, label="Hidden layers", when={"kind": NETWORKED},
        help="Depth of each layer's network.",
    )  # fmt: skip
    bins: int = knob(
        20, 4, 64, when={"kind": SPLINES},
        help="Pieces of each spline; in the plane, the autoregressive one bends its first "
             "coordinate, which no other tells how, in twice as many, and above eight "
             "coordinates it takes two fifths of them.",
    )  # fmt: skip
    mixing: Literal["linear", "swap"] = knob(
        "linear", when={"kind": "RealNVP"},
        help="Between couplings: a learnt linear map, or only exchanging the two halves.",
    )  # fmt: skip
    base: Literal["Gaussian", "uniform", "mixture"] = knob(
        "Gaussian",
        help="What the noise is: one Gaussian, a box, or several Gaussians that learn their places.",
    )
    components: int = knob(
        8, 2, 32, when={"base": "mixture"}, label="Gaussians in the noise",
        help="Components of the noise; weights, means and scales are learnt.",
    )  # fmt: skip
    lr: float = knob(
        2e-3, 1e-5, 1e-1, log=True, live=True, label="Learning rate",
        help="Adam's step size, times a number that suits the kind and how many coordinates there "
             "are; it falls after the first few hundred steps.",
    )  # fmt: skip
    batch: int = knob(512, 16, 4096, log=True, live=True, help="Data points a step.")
    averaged: bool = knob(
        True, view=True, label="Averaged weights",
        help="Show the model with weights averaged over recent steps, or the weights themselves.",
    )  # fmt: skip
    best: bool = knob(
        True, view=True, label="Best weights", when={"averaged": True}, kinds=("images",),
        help="On images, and always on points of your own: show the averaged weights that did best on "
             "the validation rows, before the rows are learnt by heart.",
    )  # fmt: skip
    grid_lines: int = knob(17, 5, 25, view=True, help="Lines each way of the warped noise grid.")
    grid_extent: float = knob(
        2.5, 1.0, 4.0, view=True, help="How far the noise grid reaches, in standard deviations."
    )

    capture = Capture(dials=("lr",))
    WARM = 100  # steps
    AVERAGE = 0.999
    EVERY = 10  # steps between two looks at the validation rows: each costs a tenth of a step
    CLIP = 10.0
    BETAS = (0.9, 0.99)
    FAR = 6.0  # where the noise ends for whoever drags a point of it
    FIRST = 512  # rows from which first values are taken

    _native: Native | None = None  # takes whole steps, in a live run

    @classmethod
    def complete(cls, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        # an address from before there were kinds tells all its knobs: it means a RealNVP
        if isinstance(values, Mapping) and "mixing" in values and "kind" not in values:
            values = {**values, "kind": "RealNVP"}
        return super().complete(values)

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "sequence":
            return "The flow here takes points and pictures, not sequences."
        return None if dataset.dim >= 2 else "A flow here needs at least two coordinates."

    @classmethod
    def refuses(cls, dataset: Dataset, knobs: Mapping[str, Any]) -> str | None:
        kind = knobs["kind"]
        most = KINDS[kind].most
        if dataset.dim <= most:
            return None
        return (
            f"A flow of kind {kind} takes rows of at most {most} numbers, and these have "
            f"{dataset.dim}: choose another kind."
        )

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        box = KINDS[self.kind].box
        if pool.dequantise and box is not None:
            self._before = [centred(pool.dataset.levels, self.dim, box, self.device)]
        elif pool.dequantise:
            logit = Logit(pool.dataset.levels)
            z, _ = logit.forward(pool.rows(torch.arange(len(pool.train)), self.rng))
            self.logit_mean, self.logit_std = z.mean(0), z.std(0)
            self._before = [logit, Standardise(self.logit_mean, self.logit_std)]
        else:
            self._before = [Standardise(self._mean, self._std)]
        values = {name: getattr(self, name) for name in self.knobs}
        self.net = Model.make(self.dim, values, self.rng)
        with torch.no_grad():
            first, _ = chains.forward(self._before, pool.batch(self.FIRST, self.rng))
            self.net.prepare(first, self.rng)
        self.average = nets.Average(self.net, copy.deepcopy(self.net), self.AVERAGE)
        self._keep()
        self._weights = [p for p in self.net.parameters() if p.requires_grad]
        self.optimiser = nets.adam(self._weights, self.lr, self.BETAS)
        # the point whose way is drawn, and the end at which it is held; looking, not training
        self.probe_x, self.probe_y = pool.val[0, :2].tolist()
        self.probe_end = "data"

    def _keep(self) -> None:
        """From now on remember the weights that do best on validation rows, if rows are few."""
        if self.pool.finite:
            self.kept = nets.Best(copy.deepcopy(self.net))
            self.validation = torch.zeros((), device=self.device)

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        self._keep()
        if self.probe_end == "data":
            self.follow(self.probe_x, self.probe_y)  # back into the picture, if that has moved

    def quicken(self) -> str:
        if self.kind not in SPLINES or self.device.type != "cpu":
            return ""
        if compiled.ready() is not None and self.net.flow.bend != compiled.COMPILED:
            compiled.adopt(*(part for part in vars(self).values() if isinstance(part, nn.Module)))
            if Native.fits(self.net, self.optimiser):
                self._native = Native(self.net, self.optimiser, self.average, self.CLIP)
        return compiled.said()

    def live_numbers(self) -> dict[str, float]:
        t = self.step_count + 1
        entry = KINDS[self.kind]
        begin, power = entry.decay
        decay = (begin / (self.age + 1)) ** power
        rate = entry.rate(self.dim) * self.lr * min(t / self.WARM, decay, 1)
        more = {"rate": rate, "fade": self.average.weight(self.age + 1), "next": t}
        return {**super().live_numbers(), **more}

    def occasion(self, step: int) -> bool:
        return self.keeps and step % self.EVERY == 0

    def step(self) -> dict[str, Tensor]:
        x = self.pool.batch(self.batch, self.rng)
        nets.set_lr(self.optimiser, self.number("rate"))
        if self._native is not None:
            with torch.no_grad():
                losses = {"nll": self._native(*chains.forward(self._before, x), self.age + 1)}
                return {**losses, "validation": self.validate()} if self.keeps else losses
        self.optimiser.zero_grad()
        # where rows are few and soon known by heart: "nll" is then of the thinned network
        images = self.pool.dataset.kind == "images"
        thinned = self.net.dropout(self.rng) if images else contextlib.nullcontext()
        with thinned:
            z, log_det = self.forward(x, self.net)
        loss = (self.net.base.cost(z) - log_det).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights, self.CLIP)
        self.optimiser.step()
        self.average.lean(self.net, self.number("fade"))
        with torch.no_grad():
            losses = {"nll": -(self.net.base.log_prob(z) + log_det).mean()}
            return {**losses, "validation": self.validate()} if self.keeps else losses

    @property
    def keeps(self) -> bool:
        """Whether the weights that did best on validation rows are kept: where rows are few."""
        return self.pool.finite

    def validate(self) -> Tensor:
        """−log q of the validation rows under averaged weights, 0-d; the best of these are kept."""
        if self.step_count % self.EVERY == 0:
            net = self.average.module
            z, log_det = self.forward(self.pool.val[: nets.Best.ROWS], net)
            self.validation.copy_(-(net.base.log_prob(z) + log_det).mean())
            self.kept.offer(net, self.validation, self.number("next"))
        return self.validation.clone()

    # ------------------------------------------------------------ the model

    @property
    def shown(self) -> Model:
        """The network that is looked at, sampled and measured: averaged, at its best, or as it is."""
        if not self.averaged:
            return self.net
        if self.best and self.keeps and self.kept.found:
            return self.kept.module
        return self.average.module

    def chain(self, net: Model | None = None) -> list[Layer]:
        """All layers in the order from data to noise; those of `shown` unless told."""
        return [*self._before, *(net or self.shown).layers()]

    def forward(self, x: Tensor, net: Model | None = None) -> tuple[Tensor, Tensor]:
        """Noise f(x) (N, d) and log|det ∂f/∂x| (N,), x (N, d) in data units."""
        return chains.forward(self.chain(net), x)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p_z(f(x)) + log|det ∂f/∂x| in nats, (N, d) → (N,)."""
        chain, base = self.chain(), self.shown.base
        parts = [chains.forward(chain, part) for part in x.split(TILE)]
        return torch.cat([base.log_prob(z) + log_det for z, log_det in parts]).to(x.dtype)

    def encode(self, x: Tensor) -> Tensor:
        """Data (N, d) → noise f(x) (N, d)."""
        return self.forward(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Noise (N, d) → data f⁻¹(z) (N, d)."""
        chain = self.chain()
        return torch.cat([chains.inverse(chain, part) for part in z.split(TILE)])

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws (n, d) of the base."""
        return self.shown.base.sample(n, generator or self.view_rng)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.decode(self.noise(n, generator))

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
            self.probe_end = "data"

    @action("Follow a point of the noise", takes=("x", "y"))
    def follow_noise(self, x: float, y: float) -> None:
        """Drag the noise whose way to the data is drawn; there it stays while the flow learns."""
        if self.pool.dataset.kind == "plane":
            z = torch.tensor([[x, y]]).clamp(-self.FAR, self.FAR)
            self.probe_x, self.probe_y = self.shown.base.hold(z)[0].tolist()
            self.probe_end = "noise"

    def probe(self) -> Tensor:
        """The data point whose way is drawn, (1, 2)."""
        place = torch.tensor([[self.probe_x, self.probe_y]], device=self.device)
        return self.decode(place) if self.probe_end == "noise" else place

    def panels(self) -> list[Panel]:
        return pictures.panels(self)
