"""Fit a simple q to a p that is known, by whichever divergence is chosen.

Nothing is sampled: every divergence is a sum over the cells of a grid and is differentiated
as such, so there is no Monte Carlo noise, and the numbers are exact up to the quadrature,
whose error is shown. Minka 2005, "Divergence measures and message passing".
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from engines.base import Engine
from engines.capture import Capture
from engines.data.base import Dataset, Pool
from engines.divergence import maths, pictures
from engines.divergence.fits import Flow, Gaussians
from engines.divergence.target import Target, grid, target
from engines.knobs import BadInput, action, knob
from engines.marks import Metric, Panel
from engines.nets import adam, set_lr

GAUSSIAN = ("full Gaussian", "diagonal Gaussian", "K Gaussians")
NARROWEST = 0.75  # of a cell: no Gaussian is narrower
APART = 0.25  # total variation from which on two starts have ended at different optima


class Divergence(Engine):
    """q* = argmin_q D(p, q) over a simple family, by Adam on a quadrature of D."""

    name = "divergence"
    family = "Divergences"
    place = 1
    title = "Divergences"
    tagline = "A simple q is pulled towards a known p, and the divergence decides what it gives up."
    objective = "min_{q} D(p, q),  D = ∫ p log p/q,  ∫ q log q/p,  or between the two"
    look_for = (
        "Forward KL covers all of p, and whatever lies between; reverse KL picks one mode and "
        "forgets the rest. Drag q, and see which divergence minds."
    )
    paper = "Minka 2005, Divergence measures and message passing"
    compare = {
        "reverse KL": {"minimise": "reverse KL"},
        "forward KL": {"minimise": "forward KL"},
        "Jensen–Shannon": {"minimise": "Jensen–Shannon"},
        "α = ½": {"minimise": "α-divergence", "alpha": 0.5},
        "three Gaussians": {"q": "K Gaussians", "n_components": 3},
        "a flow": {"q": "flow"},
    }
    density = "exact"
    density_kind = "tractable"
    capture = Capture(dials=("lr",))
    principle = "maximum likelihood"
    clip_steps, clip_knobs = 400, {"q": "K Gaussians", "n_components": 5, "spread": 0.3}
    loss_label = "divergence, nats"
    if_diverged = "Try a smaller learning rate."

    minimise: Literal["forward KL", "reverse KL", "Jensen–Shannon", "α-divergence"] = knob(
        "forward KL", live=True,
        help="Forward: KL(p‖q), what q misses of p. Reverse: KL(q‖p), what q puts where p is not.",
    )  # fmt: skip
    alpha: float = knob(
        0.5, 0.0, 1.0, live=True, label="α", when={"minimise": "α-divergence"},
        help="1 is forward KL, 0 is reverse KL, and every divergence between them lies between.",
    )  # fmt: skip
    q: Literal["full Gaussian", "diagonal Gaussian", "K Gaussians", "flow"] = knob(
        "full Gaussian", label="q",
        help="What is fitted: one Gaussian, with turned axes or not; several; or a small flow.",
    )  # fmt: skip
    n_components: int = knob(
        3, 1, 12, label="Components (K)", when={"q": "K Gaussians"}, help="How many Gaussians."
    )
    starts: int = knob(
        1, 1, 64, log=True, when={"q": GAUSSIAN},
        help="So many q are fitted at once from different places; the first one is q elsewhere.",
    )  # fmt: skip
    spread: float = knob(
        1.0, 0.0, 3.0, label="Start spread",
        help="How far from the middle the means begin, in standard deviations of the data.",
    )  # fmt: skip
    width: float = knob(
        0.5, 0.05, 3.0, log=True, label="Start width",
        help="How wide q begins, in standard deviations of the data.",
    )  # fmt: skip
    lr: float = knob(
        0.05, 1e-3, 0.5, log=True, live=True, label="Learning rate",
        help="Adam's step size, which then falls as 1/√(1 + step/100).",
    )  # fmt: skip
    blur: float = knob(
        0.0, 0.0, 0.5, live=True, label="Blur p (σ)",
        help="Fit p ∗ N(0, σ²), in standard deviations of the data. Where p is 0, or finer than "
             "the grid, it is blurred by one cell at the least.",
    )  # fmt: skip
    integrand: Literal["what is minimised", "reverse KL", "forward KL", "Jensen–Shannon"] = knob(
        "what is minimised", view=True, label="Show where",
        help="Which divergence the picture of its sources takes apart.",
    )  # fmt: skip
    show_handles: bool = knob(
        True, view=True, label="Handles", help="Show what q, and p on the line, can be dragged by."
    )

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind not in ("plane", "line"):
            return "Divergences are summed over a grid here: choose data on the plane or the line."
        if not dataset.has_density:
            return "Divergences are between densities: choose data whose density is known."
        return None

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self.refresh()

        def draw(k: int, d: int) -> Tensor:
            return torch.randn(k, d, generator=self.rng, device=self.device)

        begin = (draw, self.spread, self.width)
        if self.q == "flow":
            self.fit: Gaussians | Flow = Flow(self.dim, self.rng, *begin)
        else:
            k = self.n_components if self.q == "K Gaussians" else 1
            full = self.q != "diagonal Gaussian"
            self.fit = Gaussians(self.starts, k, self.dim, full, *begin)
        self.optimiser = adam(self.fit.parameters(), self.lr)

    def refresh(self) -> None:
        """The grid, p on it, and both as the fit sees them: standardised."""
        self._target: Target = target(self.pool.dataset, self.blur * float(self._std.mean()))
        mean, std = self._mean.double(), self._std.double()
        axes = [axis.to(self.device) for axis in self._target.axes]
        self._axes = [(x - m) / s for x, m, s in zip(axes, mean, std, strict=True)]
        self._z = grid(self._axes)
        cell = torch.tensor(self._target.cell, dtype=torch.float64, device=self.device)
        self._floor = NARROWEST * cell / std
        # log-densities of standardised data carry the Jacobian into the cell
        self._log_cell = self._target.log_cell - float(std.log().sum())
        self._log_p = self._target.masses.to(self.device)
        self._seen_key = None

    def changed(self, name: str) -> None:
        if name == "blur":
            self.refresh()

    def masses(self) -> Tensor:
        """Log masses of all q's on the cells and beyond them, (S, N + 1)."""
        log_q = self.fit.on_grid(self._axes, self._z, self._floor)
        return maths.masses(log_q, self._log_cell)

    def live_numbers(self) -> dict[str, float]:
        rate = self.fit.pace * self.lr / math.sqrt(1 + self.age / 100)
        return {**super().live_numbers(), "rate": rate}

    def step(self) -> dict[str, Tensor]:
        set_lr(self.optimiser, self.number("rate"))
        value = maths.divergence(self.minimise, self._log_p, self.masses(), self.alpha)
        self.optimiser.zero_grad()
        value.sum().backward()  # starts share no weight, so each descends by itself
        self.optimiser.step()
        return {"divergence": value[0].detach()}

    # ------------------------------------------------------------ the model

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x.double() - self._mean) / self._std
        log_q = [self.fit.log_prob(part, self._floor)[0] for part in z.split(2**15)]
        return (torch.cat(log_q) - self._std.double().log().sum()).float()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(n, generator=generator or self.view_rng, device=self.device).double()
        noise = self.randn(n, self.dim, generator=generator).double()
        z = self.fit.sample(noise, u, self._floor)
        return (z * self._std + self._mean).float()

    @torch.no_grad()
    def gaussians(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of Gaussian q's: weights (S, K), means (S, K, D), covariances, in data units."""
        std = self._std.double()
        mean = self.fit.mean * std + self._mean
        return self.fit.weights(), mean, self.fit.cov(self._floor) * std[:, None] * std

    # ------------------------------------------------------------ by hand

    @action("Drag q", takes=("x", "y", "index"), trains=True)
    @torch.no_grad()
    def move_q(self, x: float, y: float, index: float) -> None:
        """Put a Gaussian of q, or all of a flow, somewhere else; on the line y is its height."""
        k = self._index(index, self.fit.k)
        place = [x, y][: self.dim]
        to = (torch.tensor(place, dtype=torch.float64, device=self.device) - self._mean) / self._std
        if isinstance(self.fit, Flow):
            to = self.fit.mean + to - self.centre()
        self.fit.put(k, to)
        if self.dim == 1 and isinstance(self.fit, Gaussians):
            weight = float(self.fit.weights()[0, k])
            x0, x1, _, top = self.pool.dataset.extent
            sigma = weight / (max(y, 0.01 * top * weight) * math.sqrt(2 * math.pi))
            sigma = min(sigma, x1 - x0) / self._std.double()
            self.fit.reshape(k, torch.diag(sigma**2), self._floor)
        self._forget_momentum()

    @action("Stretch q", takes=("x", "y", "index"), trains=True)
    @torch.no_grad()
    def stretch_q(self, x: float, y: float, index: float) -> None:
        """Drag the end of an axis of a Gaussian; it ends one standard deviation from the mean."""
        if isinstance(self.fit, Flow):
            raise BadInput("A flow has no axes to stretch; drag it as a whole.")
        i = self._index(index, self.fit.k * self.dim)
        k, axis = divmod(i, self.dim)
        _, mean, cov = self.gaussians()
        place = torch.tensor([x, y][: self.dim], dtype=torch.float64, device=self.device)
        new = pictures.stretched(cov[0, k], axis, place - mean[0, k], self.q == "diagonal Gaussian")
        std = self._std.double()
        self.fit.reshape(k, new / std[:, None] / std, self._floor)
        self._forget_momentum()

    @action("Drag p", takes=("x", "y", "index"), data=True)
    def move_p(dataset: Dataset, x: float, y: float, index: float) -> dict[str, Any]:
        """Put a mode of p, on the line, somewhere else; its height is its weight."""
        return _line(dataset).moved(int(index), x, y)

    @action("Widen p", takes=("x", "y", "index"), data=True)
    def widen_p(dataset: Dataset, x: float, y: float, index: float) -> dict[str, Any]:
        """Drag the side of a mode of p, one σ from its mean."""
        return _line(dataset).widened(int(index), x)

    @staticmethod
    def _index(index: float, most: int) -> int:
        if not 0 <= index < most:
            raise BadInput(f"There are {most} of them to drag; got number {int(index) + 1}.")
        return int(index)

    def _forget_momentum(self) -> None:
        # what Adam remembers of the way here would pull q out of the hand
        self.optimiser.state.clear()
        self._seen_key = None

    # ------------------------------------------------------------ what is seen

    def centre(self) -> Tensor:
        """Mean (D,) of the first q on the grid, standardised."""
        p = self.seen()[0, :-1].exp()
        return (p[:, None] * self._z).sum(0) / p.sum()

    @torch.no_grad()
    def seen(self) -> Tensor:
        """`masses`, worked out once for all pictures and numbers of one state."""
        key = (self.step_count, *(p._version for p in self.fit.parameters()), id(self._target))
        if self._seen_key != key:
            self._seen, self._seen_key = self.masses(), key
            self._optima = None
        return self._seen

    def value(self, kind: str = "") -> Tensor:
        """A divergence of all q's, (S,); by default the one that is minimised."""
        return maths.divergence(kind or self.minimise, self._log_p, self.seen(), self.alpha)

    def numbers(self) -> dict[str, float]:
        """Of the first q: H(p), H(p, q) and all four divergences, nats."""
        log_q = self.seen()[0]
        both = maths.entropies(self._log_p, log_q, self._target.log_cell)
        rest = [maths.divergence(k, self._log_p, log_q, self.alpha) for k in maths.SYMBOLS]
        found = torch.stack([*both, *rest]).tolist()
        return dict(zip(["H(p)", "H(p, q)", *maths.SYMBOLS.values()], found, strict=True))

    def optima(self) -> tuple[Tensor, list[int]]:
        """Divergences (S,), and to which optimum each start has come: 0 is the best one's.

        From the best on, a start founds an optimum of its own when it is further than a
        total variation of ¼ from all founders before it.
        """
        value = self.value()
        if self._optima is None:
            q = self.seen()[:, :-1].exp().float()
            n = [len(axis) for axis in self._axes]
            if self.dim == 2:  # cells in threes: a total variation of a fifth needs no more
                q = q.reshape(-1, n[1] // 3, 3, n[0] // 3, 3).sum((2, 4)).flatten(1)
            far = (torch.cdist(q, q, p=1) / 2).tolist()
            founders: list[int] = []
            group = [0] * len(q)
            for s in value.argsort().tolist():
                near = [g for g, f in enumerate(founders) if far[s][f] < APART]
                if not near:
                    founders.append(s)
                group[s] = near[0] if near else len(founders) - 1
            self._optima = group
        return value, self._optima

    def metrics(self) -> list[Metric]:
        now, t = self.numbers(), self._target
        outside = 100 * float(self.seen()[0, -1].exp())
        out = [
            Metric("js", now["JS(p, q)"], "nats", "exact", floor=0.0, label="JS(p, q)",
                   help="Jensen–Shannon divergence: at most log 2 = 0.693, for p and q apart."),
            Metric("d_alpha", now["D_α(p‖q)"], "nats", "exact", floor=0.0, label="D_α(p‖q)",
                   note=f"α = {self.alpha:g}",
                   help="(1 − ∫ p^α q^{1−α}) / α(1−α): KL(p‖q) at α = 1, KL(q‖p) at α = 0."),
            Metric("outside", outside, "%", "exact", floor=0.0, label="q beyond the grid",
                   help="Mass of q outside of the declared domain, which counts as one more cell."),
            Metric("grid_error", abs(t.total - 1), "", "exact", floor=0.0,
                   label="Grid error", help="|Σ p·cell − 1|: how well the grid sums p."),
        ]  # fmt: skip
        # shown beside p itself when something else is fitted, and for as long as it was
        self._blurred = getattr(self, "_blurred", False) or t.sigma > 0
        if self._blurred:
            note = "" if t.sigma else "p is fitted as it is"
            for name, label, key in (("kl_pq_blur", "KL(p ∗ N‖q)", "KL(p‖q)"),
                                     ("kl_qp_blur", "KL(q‖p ∗ N)", "KL(q‖p)")):  # fmt: skip
                value = now[key] if t.sigma else math.nan
                out.append(Metric(name, value, "nats", "exact", floor=0.0, label=label, note=note,
                                  help=f"To what is fitted, {t.name}, by quadrature."))  # fmt: skip
        if self.fit.starts > 1:
            value, group = self.optima()
            out += [
                Metric("optima", float(max(group) + 1), "", "exact", of=self.fit.starts,
                       label="Different optima",
                       help="Starts that have ended apart: total variation above ¼."),
                Metric("best_start", float(value.min()), "nats", "exact", floor=0.0,
                       label="Best of the starts", help="The least of what is minimised."),
            ]  # fmt: skip
        return out

    def panels(self) -> list[Panel]:
        return pictures.panels(self)


def _line(dataset: Dataset) -> Any:
    """The dataset, if its modes can be dragged."""
    if not hasattr(dataset, "moved"):
        raise BadInput("Only the modes of p on the line can be dragged; choose the dataset line.")
    return dataset
