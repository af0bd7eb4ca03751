"""Gaussian mixture, fitted by expectation maximisation or by gradient on the likelihood.

    q(x) = Σ_k π_k N(x; μ_k, Σ_k)

Dempster, Laird & Rubin 1977, "Maximum likelihood from incomplete data via the EM
algorithm". All mathematics is in float64 on standardised rows, so that the covariance
floor means the same on any data; what leaves the engine is in data units.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from engines.arrays import numpy
from engines.capture import Capture
from engines.data.base import Dataset, Pool
from engines.knobs import knob
from engines.marks import Bars, Curve, Curves, Ellipses, Mark, Metric, Panel, Points
from engines.mixture.gaussians import (
    Gaussians,
    Unconstrained,
    bic,
    e_step,
    em_update,
    first_guess,
    free_parameters,
    log_density,
    log_joint,
    revive,
    sample,
)
from engines.mixture.ladder import Ladder, Selection
from engines.mixture.rows import OnRows
from engines.nets import adam, set_lr
from engines.pictures import sheet

MOST_RUNGS = 20  # that train side by side when BIC chooses
GUESSED_FROM = 10_000  # rows


class Mixture(OnRows):
    """Gaussian mixture: the model that says which of K clouds each point came from."""

    name = "mixture"
    family = "Mixture"
    place = 2
    title = "Gaussian mixture"
    tagline = "K Gaussian clouds share the points among themselves, then move to fit their share."
    objective = "max_{π, μ, Σ} Σ_{n} log Σ_{k} π_{k} N(x_{n}; μ_{k}, Σ_{k})"
    look_for = (
        "The first few EM steps do nearly everything, with no step size to choose. Start from "
        "random points: two clouds quarrel over one mode while a third straddles two, for ever."
    )
    paper = (
        "Dempster, Laird & Rubin 1977, Maximum likelihood from incomplete data via the EM algorithm"
    )
    compare = {
        "gradient ascent": {"fit": "gradient"},
        "EM": {"fit": "EM"},
        "started at random points": {"init": "random points"},
        "started in one spot": {"init": "one spot"},
        "round clouds": {"covariance": "spherical"},
        "one shape for all": {"covariance": "tied"},
        "a higher floor": {"floor": 0.01},
        "K chosen by BIC": {"choose": "by BIC"},
    }
    density = "exact"
    density_kind = "tractable"
    capture = Capture(
        "Each step solves for covariances with library calls that bring an error code to the CPU, "
        "and EM hands its Gaussians on as new tensors."
    )
    principle = "maximum likelihood"
    clip_steps, clip_knobs = 120, {"init": "one spot"}  # well begun, EM is done in four steps
    loss_is_nll = True
    loss_label = "−log q(x), nats"
    if_diverged = "Try a smaller learning rate, or a larger covariance floor."

    fit: Literal["EM", "gradient"] = knob(
        "EM", help="One EM iteration a step, or one Adam step on −log q of a batch."
    )
    n_components: int = knob(
        8, 1, 128, label="Components (K)",
        help="How many Gaussians; when BIC chooses, the most of them, up to 20.",
    )  # fmt: skip
    choose: Literal["by hand", "by BIC"] = knob(
        "by hand", when={"fit": "EM"}, label="K is chosen",
        help="By hand, or by BIC: mixtures of 1, 2, 3 … train side by side, and the one with the "
        "lowest BIC is the model.",
    )  # fmt: skip
    covariance: Literal["full", "diagonal", "spherical", "tied"] = knob(
        "full", help="Shapes allowed: any, axis-aligned, round, or one shape shared by all."
    )
    init: Literal["k-means++", "random points", "one spot"] = knob(
        "k-means++",
        label="Start",
        help="Where the means begin: spread out, at random points, or all nearly in one spot.",
    )
    n_points: int = knob(
        50_000, 100, 100_000, log=True, label="Training points", help="How many points are fitted."
    )
    floor: float = knob(
        1e-6, 1e-8, 1.0, log=True, live=True, label="Covariance floor",
        help="Added to every variance (of standardised data), so that no cloud shrinks to a point.",
    )  # fmt: skip
    lr: float = knob(
        0.02, 1e-4, 0.5, log=True, live=True, when={"fit": "gradient"}, label="Learning rate",
        help="Adam's step size, which then falls as 1/√(1 + step/100).",
    )  # fmt: skip
    batch: int = knob(
        1024, 16, 50_000, log=True, live=True, when={"fit": "gradient"},
        help="Points in each gradient step; all of them when it is no less than there are.",
    )  # fmt: skip
    colour_by_component: bool = knob(
        True, view=True, help="Colour each point by the component most responsible for it."
    )
    fade_unsure: bool = knob(
        True, view=True, when={"colour_by_component": True},
        help="Let points fade that several components share.",
    )  # fmt: skip
    bic_max: int = knob(
        12, 2, 20, view=True, label="BIC up to K", when={"choose": "by hand"},
        help="Mixtures of 1 to this many are compared.",
    )  # fmt: skip

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "sequence":
            return "A Gaussian mixture takes rows of numbers without an order, not sequences."
        if dataset.dim > 256:
            return f"A Gaussian mixture takes rows of at most 256 numbers here, not {dataset.dim}."
        return None

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self._choose(self.rng)
        some = self._z[:GUESSED_FROM]
        guess = first_guess(some, self.n_components, self.init, self.floor, self.rng)
        if self.by_bic:
            most = min(self.n_components, MOST_RUNGS)
            self.ladder = Ladder(some, most, self.floor, self.rng)
            guess = Gaussians(*(part.clone() for part in self.ladder.rung(most)))
        if self.fit == "EM":
            self.log_weight, self.mean, self.cov = guess
        else:
            self.free = Unconstrained(guess, self.covariance, self.floor)
            self.optimiser = adam(self.free.parameters(), self.lr)

    @property
    def by_bic(self) -> bool:
        """Whether the number of components is BIC's to choose."""
        return self.fit == "EM" and self.choose == "by BIC"

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        if self.by_bic:
            self.ladder.revive(self._z, self.covariance)
        elif self.fit == "EM":
            revived = revive(self.gaussians(), self._z, self.covariance)
            self.log_weight, self.mean, self.cov = revived

    def refresh(self) -> None:
        self._choose(self.first_rng())
        self._metric_key = self._selection_key = self._chosen_at = self._advanced_at = None
        self._plane_of_view = None

    def step(self) -> dict[str, Tensor]:
        if self.by_bic:
            with torch.no_grad():
                self.ladder.iterate(self._z, self.covariance, self.floor)
                new, nll = self.ladder.chosen(len(self._z), self.covariance)
            self.log_weight, self.mean, self.cov = new
            return {"loss": self._log_std + nll}
        if self.fit == "EM":
            with torch.no_grad():
                new, log_q = em_update(self.gaussians(), self._z, self.covariance, self.floor)
            self.log_weight, self.mean, self.cov = new
            return {"loss": self._log_std - log_q}
        x = self._z
        if self.batch < len(x):
            index = torch.randint(len(x), (self.batch,), generator=self.rng, device=self.device)
            x = x[index]
        set_lr(self.optimiser, self.lr / math.sqrt(1 + self.age / 100))
        loss = -torch.logsumexp(log_joint(self.free(self.floor), x), 0).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"loss": loss.detach() + self._log_std}

    # ------------------------------------------------------------ the model

    def gaussians(self) -> Gaussians:
        """The K Gaussians as they are now, in standardised units."""
        if self.by_bic:  # those that are there: K is no longer n_components
            here = self.log_weight > -math.inf
            return Gaussians(self.log_weight[here], self.mean[here], self.cov[here])
        if self.fit == "EM":
            return Gaussians(self.log_weight, self.mean, self.cov)
        return Gaussians(*(part.detach() for part in self.free(self.floor)))

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (K,), means (K, D) and covariances (K, D, D) in data units, float64."""
        g, std = self.gaussians(), self._std.double()
        return g.log_weight.exp(), g.mean * std + self._mean, g.cov * std[:, None] * std

    def log_prob(self, x: Tensor) -> Tensor:
        return (log_density(self.gaussians(), self._whiten(x)) - self._log_std).float()

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(component k | x_n) at x (N, D) in data units, (N, K)."""
        return e_step(self.gaussians(), self._whiten(x))[1].T

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(n, generator=generator or self.view_rng, device=self.device)
        noise = self.randn(n, self.dim, generator=generator)
        return self._unwhiten(sample(self.gaussians(), u, noise))

    # ------------------------------------------------------------ numbers and pictures

    def metrics(self) -> list[Metric]:
        key = (self.step_count, self.floor)
        if getattr(self, "_metric_key", None) != key:
            g, n = self.gaussians(), len(self._z)
            k, d = g.mean.shape
            held = self._log_std - log_density(g, self._whiten(self.pool.val.float()))
            log_q = log_density(g, self._z).mean()
            entropy = torch.special.entr(g.log_weight.exp()).sum()
            smallest = torch.linalg.eigvalsh(g.cov).min().clamp_min(0).sqrt()
            numbers = [self._log_std - log_q, entropy.exp(), smallest, held.mean(), held.std()]
            nll, effective, smallest, unseen, spread = torch.stack(numbers).tolist()
            p = free_parameters(k, d, self.covariance)
            self._metric_key = key
            self._metrics = (k, bic(nll, n, p), effective, smallest, unseen - nll,
                             spread / math.sqrt(len(held)))  # fmt: skip
        k, score, effective, smallest, unseen, se = self._metrics
        chosen = Metric("components", k, "", "exact", of=self.n_components, label="K, by BIC",
                        help="The number of components that has the lowest BIC now.")  # fmt: skip
        return [
            *([chosen] if self.by_bic else []),
            Metric("bic", score, "nats", "exact", label="BIC",
                   help="2·N·(mean −log q) + (free parameters)·ln N on the training points; "
                        "lower is better."),
            Metric("effective_components", effective, "", "exact", of=k,
                   label="Effective components",
                   help="exp of the entropy of the weights: K when all weigh the same."),
            Metric("smallest_sigma", smallest, "σ", "exact", label="Smallest cloud",
                   help="The smallest standard deviation of any component in any direction, in "
                        "units of the data's: towards 0, a cloud is collapsing onto a point."),
            Metric("unseen", unseen, "nats", "estimate", se, label="Unseen − training NLL",
                   help="How much better the model describes its training points than validation "
                        "points, which it has not seen: large, it has learned them by heart."),
        ]  # fmt: skip

    def panels(self) -> list[Panel]:
        images = self.pool.dataset.kind == "images"
        box = self.pool.dataset.extent if self.dim == 2 else None
        chosen = self._chosen()
        panels = [
            Panel("responsibilities", "Who is responsible", self._draw_responsibilities,
                  "training points" if box else "training points, on their two widest directions",
                  box, "large" if box else "small", hz=15,
                  help="Each point in the colour of its most responsible component; ellipses at 1 "
                       "and 2 standard deviations."),
            Panel("weights", "Weights", self._draw_weights,
                  "largest first" + (", true shares marked" if self._true_shares() is not None else ""),
                  hz=8, help="The share π of each component."),
            Panel("bic", "How many components?", self._draw_bic, chosen, hz=6,
                  help="BIC and AIC of mixtures with 1, 2, 3 … components, fitted by themselves on up "
                       "to 2,000 of the training points (on all of them when BIC chooses the K of "
                       "the model): the lowest is the criterion's choice."),
        ]  # fmt: skip
        if images:
            panels.insert(
                0,
                Panel("means", "Component means", self._draw_means, "heaviest first", None,
                      "large", hz=8, help="The mean picture of each component and its weight."),
            )  # fmt: skip
        return panels

    def _plane(self) -> tuple[Tensor, Tensor]:
        """An origin (D,) and a projection (D, 2) from data units onto the picture's plane."""
        if getattr(self, "_plane_of_view", None) is None:
            if self.dim == 2:
                eye = torch.eye(2, dtype=torch.float64, device=self.device)
                self._plane_of_view = (torch.zeros_like(eye[0]), eye)
            else:
                x = self._z * self._std
                axes = torch.linalg.eigh(torch.atleast_2d(x.T.cov())).eigenvectors.flip(1)[:, :2]
                if axes.shape[1] == 1:
                    axes = torch.cat([axes, torch.zeros_like(axes)], 1)
                # an eigenvector's sign is arbitrary: fix it, so that pictures repeat
                sign = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
                self._plane_of_view = (self._mean.double(), axes * torch.where(sign < 0, -1, 1))
        return self._plane_of_view

    def _draw_responsibilities(self) -> list[Mark]:
        origin, axes = self._plane()
        weight, mean, cov = self.components()
        z = self._z[:1500]
        place = numpy(((z * self._std + self._mean) - origin) @ axes).astype(np.float32)
        ellipses = Ellipses(
            numpy((mean - origin) @ axes), numpy(axes.T @ cov @ axes), numpy(weight),
            grouped=self.colour_by_component, label="components",
        )  # fmt: skip
        if not self.colour_by_component:
            return [Points(place, "data", label="training points"), ellipses]
        sure, group = e_step(self.gaussians(), z)[1].max(0)
        even = 1 / len(weight)  # the least that the largest of K shares can be
        alpha = None
        if self.fade_unsure:
            alpha = numpy(0.15 + 0.85 * (sure - even) / max(1 - even, 1e-9)).clip(0.15, 1.0)
            alpha = alpha.astype(np.float32)
        label = "training points, by component"
        points = Points(place, "data", 2.2, numpy(group), alpha, label=label)
        return [points, ellipses]

    def _heaviest_first(self) -> tuple[Tensor, Tensor]:
        return self.gaussians().log_weight.exp().sort(descending=True, stable=True)

    def _true_shares(self) -> np.ndarray | None:
        """The true modes' weights, largest first, where they can be set against ours."""
        modes = getattr(self.pool.dataset, "modes", None)
        if modes is None or len(modes.weights) != len(self.gaussians().mean):
            return None
        return numpy(modes.weights.sort(descending=True).values)

    def _draw_weights(self) -> list[Mark]:
        weight, order = self._heaviest_first()
        names = [str(k + 1) for k in order.tolist()]
        return [Bars(names, numpy(weight), self._true_shares(), y_label="weight π")]

    def _draw_means(self) -> list[Mark]:
        weight, order = self._heaviest_first()
        mean = self.components()[1][order]
        tags = [f"{100 * w:.0f} %" if w >= 0.01 else "< 1 %" for w in weight.tolist()]
        columns = max(1, math.ceil(math.sqrt(len(tags))))
        return [sheet(self, mean, columns, "component means", tags)]

    def _selection(self) -> Selection:
        key = (self.covariance, self.floor)
        if getattr(self, "_selection_key", None) != key:
            self._selection_key = key
            rows = self._z[:2000]
            self._ladder = Selection(rows, float(self._log_std), *key, self.seed)
        return self._ladder

    def _moment(self) -> tuple:
        """The picture of BIC goes on when this does: it stands still while the run does."""
        return (self.step_count, self.bic_max, self.covariance, self.floor)

    def _chosen(self) -> str:
        if self.by_bic:
            return f"K = {len(self.gaussians().mean)} is taken now"
        if getattr(self, "_chosen_at", None) != self._moment():
            self._chosen_at = self._moment()
            ladder = self._selection()
            scores, done = ladder.scores(self.bic_max), ladder.settled(self.bic_max)
            self._chosen_text = f"being fitted: {done} of {self.bic_max} done"
            if done == self.bic_max:
                best = min(scores, key=lambda k: scores[k][0])
                self._chosen_text = f"BIC is lowest at K = {best}"
        return self._chosen_text

    def _criteria(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of components, and the (BIC, AIC) of each: (R,) and (R, 2)."""
        if self.by_bic:
            scores = self.ladder.criteria(len(self._z), self.covariance, self._log_std)
            table = numpy(torch.stack(scores, 1))
            return np.arange(1, len(table) + 1), table
        ladder = self._selection()
        if getattr(self, "_advanced_at", None) != self._moment():
            self._advanced_at = self._moment()
            ladder.advance(self.bic_max)
        scores = ladder.scores(self.bic_max)
        return np.array(list(scores)), np.array(list(scores.values()))

    def _draw_bic(self) -> list[Mark]:
        k, table = self._criteria()
        best = int(k[table[:, 0].argmin()])
        low, high = float(table[:, 0].min()), float(table[:, 0].max())
        lines = [
            Curve("BIC", k, table[:, 0], "model"),
            Curve("AIC", k, table[:, 1], "density"),
            Curve(f"lowest BIC: K = {best}", np.full(2, best), np.array([low, high]), "truth",
                  dash=True),
        ]  # fmt: skip
        return [Curves(lines, x_label="components K", y_label="criterion, nats")]
