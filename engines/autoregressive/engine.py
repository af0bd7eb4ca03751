"""The autoregressive engine: one conditional for each coordinate, maximum likelihood."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from engines import nets
from engines.autoregressive import pictures
from engines.autoregressive.conditionals import FAR, Binned, Categorical, Mixture
from engines.autoregressive.made import Made
from engines.base import Engine
from engines.capture import Capture
from engines.data.base import MOST_NOISE, Dataset, Pool
from engines.knobs import action, knob
from engines.marks import Metric, Panel
from engines.pace import Pieces, finish

TILE = 2048  # rows at a time, so that what is told of them stays in the cache


class Autoregressive(Engine):
    """q(x) = Π_i q(x_i | x_1 … x_{i−1}), trained by maximum likelihood with Adam."""

    name = "autoregressive"
    family = "Autoregressive"
    place = 5
    title = "Autoregressive model"
    tagline = (
        "One coordinate after the other: each is drawn from a distribution on the line that a "
        "network tells from those before it."
    )
    objective = "log q(x) = Σ_{i} log q(x_{i} | x_{1} … x_{i−1})"
    look_for = (
        "Drag the line through the density: the second coordinate's distribution bends as the "
        "first one says. What is hard to tell in one order may be easy in the other."
    )
    paper = (
        "MADE: Germain, Gregor, Murray & Larochelle (2015); mixture densities: Bishop (1994); "
        "discretised logistics: Salimans et al. (2017), PixelCNN++"
    )
    compare = {
        "The other order": {"order": "last to first"},
        "One component": {"components": 1},
        "Histograms": {"conditional": "binned softmax"},
    }
    density = "exact"
    density_kind = "tractable"
    principle = "maximum likelihood"
    loss_is_nll = True
    loss_label = "−log q(x), nats"

    conditional: Literal["mixture of Gaussians", "mixture of logistics", "binned softmax"] = knob(
        "mixture of Gaussians",
        help="What each coordinate's distribution is made of; pixels take whole numbers, and a "
             "mixture gives each of them what it has between two edges.",
    )  # fmt: skip
    components: int = knob(
        32, 1, 64, log=True,
        when={"conditional": ("mixture of Gaussians", "mixture of logistics")},
        help="Parts of each mixture; for a pixel at most four are used.",
    )  # fmt: skip
    bins: int = knob(
        64, 4, 256, log=True, when={"conditional": "binned softmax"},
        help="Equal steps of each histogram; for a pixel there is one for each of its values.",
    )  # fmt: skip
    order: Literal["first to last", "last to first"] = knob(
        "first to last", help="Which coordinate is drawn first; the others follow in their order."
    )
    width: int = knob(64, 8, 512, log=True, help="Units in each hidden layer of the network.")
    hidden: int = knob(2, 1, 4, label="Hidden layers", help="Depth of the network.")
    lr: float = knob(
        5e-3, 1e-5, 1e-1, log=True, live=True, label="Learning rate",
        help="Adam's step size; it falls after the first few hundred steps.",
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
    pixel: int = knob(
        28, 1, 64, view=True, label="Next pixel", kinds=("images",),
        help="The pixel whose distribution is shown, by its number in drawing order.",
    )  # fmt: skip

    WARM = 50  # steps
    BEGIN, POWER = 400, 1.0  # after so many steps the learning rate falls like step^−power
    AVERAGE = 0.9997
    BETAS = (0.9, 0.99)
    CLIP = 10.0
    WAVES, PITCH = 32, 2.0
    EVERY = 20  # steps between two looks at the validation rows
    capture = Capture(dials=("lr",))
    MOST = 4  # components for a pixel
    DROP = 0.25  # of the hidden units, on images
    STRAY = 1e-4

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "sequence":
            return "This one draws the numbers of a row; for sequences take Compounding error, on the same tab."
        if dataset.dim > 256:
            return f"An autoregressive model here takes rows of at most 256 numbers, not {dataset.dim}."
        return None

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self.refresh()
        self.net = Made(
            self._conditional.first(self._places()), self.width, self.hidden, self.rng,
            self.WAVES, self.PITCH, self.DROP if self.images else 0.0,
        )  # fmt: skip
        self.average = nets.Average(self.net, copy.deepcopy(self.net), self.AVERAGE)
        self._keep()
        self.optimiser = nets.adam(self.net.parameters(), self.lr, self.BETAS)
        # where the first coordinate is held for the picture of a conditional; looking, not training
        self.at = float(pool.val[:, self.first].median())

    @property
    def first(self) -> int:
        """The column that is drawn first."""
        return self.dim - 1 if self.order == "last to first" else 0

    def _keep(self) -> None:
        """From now on remember the weights that do best on validation rows, if rows are few."""
        if self.pool.finite:
            self.kept = nets.Best(copy.deepcopy(self.net))
            self.validation = torch.zeros((), device=self.device)

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        self._keep()
        self._hold(self.at)  # back into the picture, if that has moved

    @property
    def images(self) -> bool:
        """Whether rows are whole numbers with noise added, as pixels are."""
        return self.pool.dequantise

    def refresh(self) -> None:
        if self.conditional != "binned softmax":
            k = min(self.components, self.MOST) if self.images else self.components
            self._conditional = Mixture(k, self.conditional.split()[-1].removesuffix("s"))
        elif self.images:
            self._conditional = Categorical(self.pool.dataset.levels)
        else:
            z = self.ordered(self.standardise(self.pool.train))
            low, high = z.min(0).values, z.max(0).values
            margin = 0.02 * (high - low)
            self._conditional = Binned(self.bins, low - margin, high + margin)

    def _places(self) -> Tensor:
        """Where components begin, (d, K), sorted: evenly over the quantiles of every coordinate,
        or over the values that a pixel may take."""
        k = getattr(self._conditional, "components", 1)
        share = (torch.arange(k, device=self.device) + 0.5) / k
        if self.images:
            levels = share[:, None] * self.pool.dataset.levels
            return self.ordered(self.standardise(levels)).T.contiguous()
        rows = self.ordered(self.standardise(self.pool.train[:10_000]))
        return torch.quantile(rows, share, 0).T.contiguous()

    def live_numbers(self) -> dict[str, float]:
        t = self.step_count + 1
        decay = (self.BEGIN / (self.age + 1)) ** self.POWER
        rate = self.lr * min(t / self.WARM, decay, 1)
        more = {"rate": rate, "fade": self.average.weight(self.age + 1), "next": t}
        return {**super().live_numbers(), **more}

    def occasion(self, step: int) -> bool:
        return self.pool.finite and step % self.EVERY == 0

    def step(self) -> dict[str, Tensor]:
        x = self.pool.batch(self.batch, self.rng)
        nets.set_lr(self.optimiser, self.number("rate"))
        self.optimiser.zero_grad()
        loss = -self.terms(x, self.net, self.rng).sum(1).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.CLIP)
        self.optimiser.step()
        self.average.lean(self.net, self.number("fade"))
        losses = {"nll": loss.detach()}
        return {**losses, "validation": self.validate()} if self.pool.finite else losses

    @torch.no_grad()
    def validate(self) -> Tensor:
        """−log q of the validation rows under averaged weights, 0-d; the best of these are kept."""
        if self.step_count % self.EVERY == 0:
            net = self.average.module
            loss = -self.terms(self.pool.val[: nets.Best.ROWS], net).sum(1).mean()
            self.validation.copy_(loss)
            self.kept.offer(net, loss, self.number("next"))
        return self.validation.clone()

    # ------------------------------------------------------------ the model

    @property
    def shown(self) -> Made:
        """The network that is looked at, sampled and measured: averaged, at its best, or as it is."""
        if not self.averaged:
            return self.net
        if self.best and self.pool.finite and self.kept.found:
            return self.kept.module
        return self.average.module

    def ordered(self, x: Tensor) -> Tensor:
        """Columns (N, d) in the order in which they are drawn, and back again."""
        return x.flip(1) if self.order == "last to first" else x

    def terms(self, x: Tensor, net: Made, rng: torch.Generator | None = None) -> Tensor:
        """log q(x_i | those before it) in nats and data units, (N, d) → (N, d), in drawing order.

        With `rng` as in training: some hidden units are left out.
        """
        if self.images:
            return self._log_masses(x, net, rng)
        z = self.ordered(self.standardise(x))
        log_std = self.ordered(self._std[None].log())
        alone = self._of(slice(0, 1)).log_prob(net.alone(), z[:, :1])
        if self.dim == 1:
            return alone - log_std
        rest = self._of(slice(1, None)).log_prob(net.rest(z, rng), z[:, 1:])
        return torch.cat([alone, rest], 1) - log_std

    def _of(self, coordinates: slice):
        """The conditional of some of the coordinates, in drawing order."""
        given = self._conditional
        return given.at(coordinates) if isinstance(given, Binned) else given

    def _log_masses(self, x: Tensor, net: Made, rng: torch.Generator | None) -> Tensor:
        """log-probabilities of the integers below x, (N, d); −∞ where there is no such level.

        As a density of x + U[0, 1)^d they are the same numbers, for a cell's volume is 1. STRAY
        of every pixel's mass is spread over all levels, so that none is out of the question.
        """
        top = self.pool.dataset.levels - 1
        level = x.floor()
        known = level.clamp(0, top)
        z = self.ordered(self.standardise(known + 0.5))
        theta = torch.cat([net.alone().expand(len(x), 1, -1), net.rest(z, rng)], 1)
        level, known = self.ordered(level), self.ordered(known)
        if isinstance(self._conditional, Categorical):
            mass = self._conditional.mass(theta, known)
        else:
            half = self.ordered(0.5 / self._std[None])
            low = torch.where(known == 0, -FAR, z - half)
            high = torch.where(known == top, FAR, z + half)
            mass = self._conditional.mass(theta, low, high)
        mass = (1 - self.STRAY) * mass + self.STRAY / (top + 1)
        return mass.log().masked_fill(level != known, -torch.inf)

    def log_prob(self, x: Tensor) -> Tensor:
        """Σ_i log q(x_i | x_1 … x_{i−1}) in nats, (N, d) → (N,)."""
        return finish(self.probe_pieces(x))

    def probe_pieces(self, x: Tensor) -> Pieces[Tensor]:
        """`log_prob`, `TILE` rows at a time."""
        net, found = self.shown, []
        for part in x.split(TILE):
            yield
            found.append(self.terms(part, net).sum(1))
        return torch.cat(found)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return finish(self.sample_pieces(n, generator))

    def sample_pieces(self, n: int, generator: torch.Generator | None = None) -> Pieces[Tensor]:
        """`sample`, `TILE` rows at a time."""
        u = torch.rand(3, n, self.dim, generator=generator or self.view_rng, device=self.device)
        found = []
        for tile in zip(*(part.split(TILE) for part in u), strict=True):
            yield
            found.append(self.drawn(*tile))
        return torch.cat(found)

    @torch.no_grad()
    def drawn(self, u: Tensor, v: Tensor, noise: Tensor, given: Tensor | None = None) -> Tensor:
        """Rows (N, d) of data from uniform numbers (N, d), one coordinate after the other.

        given: (N, m) first coordinates in drawing order, in data units, that are kept.
        """
        z, out = torch.zeros_like(u), torch.zeros_like(u)
        mean, std = self.ordered(self._mean[None])[0], self.ordered(self._std[None])[0]
        kept = 0 if given is None else given.shape[1]
        for i in range(self.dim):
            if i < kept:
                x = given[:, i].floor() if self.images else given[:, i]
            else:
                x = self._next(z, i, u[:, i], v[:, i], mean[i], std[i])
            middle = x + 0.5 if self.images else x
            z[:, i], out[:, i] = (middle - mean[i]) / std[i], x
        if self.images:
            out = out + noise.clamp_max(MOST_NOISE)
        return self.ordered(out).contiguous()

    def _next(self, z: Tensor, i: int, u: Tensor, v: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Draws (N,) of coordinate i in data units, given those before it in z (N, d)."""
        part, theta = self._of(slice(i, i + 1)), self.shown.column(z, i)[:, None]
        draw = lambda u: part.draw(theta, u[:, None], v[:, None])[:, 0]  # noqa: E731
        if not self.images:
            return draw(u) * std + mean
        levels, stray = self.pool.dataset.levels, u < self.STRAY
        x = draw((u - self.STRAY).clamp_min(0) / (1 - self.STRAY))
        if not isinstance(part, Categorical):
            x = (x * std + mean).floor().clamp(0, levels - 1)
        return torch.where(stray, (u / self.STRAY * levels).floor().clamp_max(levels - 1), x)

    # ------------------------------------------------------------ one conditional

    def marginal(self, x: Tensor) -> Tensor:
        """The density (N,) of the first coordinate in drawing order at x (N,), in data units."""
        z, std = (x - self._mean[self.first]) / self._std[self.first], self._std[self.first]
        return self._of(slice(0, 1)).log_prob(self.shown.alone(), z[:, None])[:, 0].exp() / std

    def marginal_cdf(self, x: Tensor) -> Tensor:
        """Its distribution function, (N,) → (N,)."""
        z = (x - self._mean[self.first]) / self._std[self.first]
        return self._of(slice(0, 1)).cdf(self.shown.alone(), z[:, None])[:, 0]

    def _second(self, at: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In the plane: what is told at first coordinates (N,), (N, 1, P), the other's values
        (M,) standardised, and its σ."""
        z = (at - self._mean[self.first]) / self._std[self.first]
        theta = self.shown.rest(z[:, None].expand(-1, 2))
        other = 1 - self.first
        return theta, (x - self._mean[other]) / self._std[other], self._std[other]

    def conditional_density(self, at: Tensor, x: Tensor) -> Tensor:
        """q(x₂ | x₁) in the plane at first coordinates (N,) and second ones (M,), (N, M)."""
        theta, z, std = self._second(at, x)
        return self._of(slice(1, 2)).log_prob(theta, z.expand(len(at), -1)).exp() / std

    def conditional_cdf(self, at: Tensor, x: Tensor) -> Tensor:
        """Its distribution function, (N,) and (M,) → (N, M)."""
        theta, z, _ = self._second(at, x)
        return self._of(slice(1, 2)).cdf(theta, z.expand(len(at), -1))

    def pixel_masses(self, x: Tensor, i: int) -> Tensor:
        """Probabilities (N, L) of every level of pixel i in drawing order, given those before it
        in images x (N, d)."""
        levels = torch.arange(self.pool.dataset.levels, device=self.device)
        rows = self.ordered(x).repeat_interleave(len(levels), 0)
        rows[:, i] = levels.repeat(len(x)).to(rows.dtype)
        found = self.terms(self.ordered(rows), self.shown)[:, i]
        return found.exp().view(len(x), -1)

    @action("Hold the first coordinate", takes=("x", "y"))
    def slice(self, x: float, y: float) -> None:
        """Drag the line at which the other coordinate's distribution is shown."""
        if self.pool.dataset.kind == "plane":
            self._hold(y if self.first else x)

    def _hold(self, at: float) -> None:
        if self.pool.dataset.kind == "plane":
            low, high = self.pool.dataset.extent[2 * self.first : 2 * self.first + 2]
            self.at = min(max(at, low), high)

    def metrics(self) -> list[Metric]:
        return pictures.metrics(self) if self.pool.dataset.kind == "plane" else []

    def panels(self) -> list[Panel]:
        return pictures.panels(self)
