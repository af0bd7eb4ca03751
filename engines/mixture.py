"""Gaussian mixture, fitted by expectation maximisation or by gradient on the likelihood.

    q(x) = Σ_k π_k N(x; μ_k, Σ_k)

Dempster, Laird & Rubin 1977, "Maximum likelihood from incomplete data via the EM
algorithm". All mathematics is in float64 on standardised rows, so that the covariance
floor means the same on any data; what leaves the engine is in data units.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engines.base import Engine
from engines.data.base import Dataset, Pool
from engines.knobs import knob
from engines.marks import Bars, Curve, Curves, Ellipses, Images, Mark, Metric, Panel, Points
from engines.nets import adam, set_lr
from engines.pictures import numpy

Covariance = Literal["full", "diagonal", "spherical", "tied"]


class Gaussians(NamedTuple):
    """K weighted Gaussians: log_weight (K,), mean (K, D), cov (K, D, D)."""

    log_weight: Tensor
    mean: Tensor
    cov: Tensor


# ---------------------------------------------------------------- the mathematics


def log_joint(g: Gaussians, x: Tensor) -> Tensor:
    """log π_k + log N(x_n; μ_k, Σ_k) for every component and row: x (N, D) → (K, N), nats.

    With Σ = L Lᵀ the quadratic form is ‖L⁻¹(x − μ)‖² and log |Σ| = 2 Σ log diag L.
    """
    k, d = g.mean.shape
    # the _ex variant neither raises nor waits for a GPU: what is not a covariance gives NaN
    root = torch.linalg.cholesky_ex(g.cov)[0]
    eye = torch.eye(d, dtype=x.dtype, device=x.device).expand(k, d, d)
    whiten = torch.linalg.solve_triangular(root, eye, upper=False)
    shift = (whiten @ g.mean[:, :, None]).reshape(k * d, 1)
    white = torch.addmm(shift, whiten.reshape(k * d, d), x.T, beta=-1).reshape(k, d, -1)
    log_root = root.diagonal(dim1=1, dim2=2).log().sum(1)
    constant = g.log_weight - log_root - 0.5 * d * math.log(2 * math.pi)
    return constant[:, None] - 0.5 * white.square().sum(1)


def e_step(g: Gaussians, x: Tensor) -> tuple[Tensor, Tensor]:
    """log q(x_n) (N,), and responsibilities r_kn = p(component k | x_n), (K, N)."""
    joint = log_joint(g, x)
    top = joint.amax(0)
    # numbers below e^-700 are denormal or zero, and those cost ten times the time
    share = joint.sub_(top).clamp_min_(-700).exp_()
    total = share.sum(0)
    return top + total.log(), share.div_(total)


def m_step(x: Tensor, r: Tensor, covariance: Covariance, floor: float, old: Gaussians) -> Gaussians:
    """The Gaussians that maximise Σ_kn r_kn log π_k N(x_n; μ_k, Σ_k), plus floor · I.

    π_k = N_k/N, μ_k = Σ_n r_kn x_n / N_k, Σ_k = Σ_n r_kn (x_n−μ_k)(x_n−μ_k)ᵀ / N_k + floor·I,
    with N_k = Σ_n r_kn. Restricted covariances are averages of the full one: its diagonal,
    the mean of its diagonal, or (tied) the mean over components weighted by N_k.
    A component that no row belongs to (N_k ≈ 0) keeps its old place and shape.
    """
    d = x.shape[1]
    count = r.sum(1)
    alive = count > 1e-12
    share = (r / count.clamp_min(1e-12)[:, None])[:, :, None]
    mean = share[:, :, 0] @ x
    centred = x - mean[:, None]
    if covariance in ("full", "tied"):
        cov = (share * centred).mT @ centred
        if covariance == "tied":
            cov = torch.tensordot(count / count.sum(), cov, 1).expand_as(cov)
    else:
        variance = (share * centred.square_()).sum(1)
        if covariance == "spherical":
            variance = variance.mean(1, keepdim=True).expand_as(variance)
        cov = torch.diag_embed(variance)
    cov = cov + floor * torch.eye(d, dtype=x.dtype, device=x.device)
    # the tied covariance belongs to the dead as well
    keep = alive[:, None, None] | (covariance == "tied")
    return Gaussians(
        (count / count.sum()).log(),
        torch.where(alive[:, None], mean, old.mean),
        torch.where(keep, cov, old.cov),
    )


def em_update(
    g: Gaussians, x: Tensor, covariance: Covariance, floor: float
) -> tuple[Gaussians, Tensor]:
    """One EM iteration: the new Gaussians, and the *old* ones' mean log q(x_n), 0-d."""
    log_q, r = e_step(g, x)
    return m_step(x, r, covariance, floor, g), log_q.mean()


def free_parameters(k: int, d: int, covariance: Covariance) -> int:
    """Numbers that are free: K−1 weights, K·D means, and those of the covariances."""
    shape = {
        "full": k * d * (d + 1) // 2,
        "tied": d * (d + 1) // 2,
        "diagonal": k * d,
        "spherical": k,
    }[covariance]
    return k - 1 + k * d + shape


def bic(nll: float, n: int, parameters: int) -> float:
    """Bayesian information criterion 2·N·nll + p·ln N (Schwarz 1978); lower is better.

    nll is the mean negative log-likelihood of the n training rows, in nats.
    """
    return 2 * n * nll + parameters * math.log(n)


def aic(nll: float, n: int, parameters: int) -> float:
    """Akaike information criterion 2·N·nll + 2·p (Akaike 1974); lower is better."""
    return 2 * n * nll + 2 * parameters


def plus_plus(x: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """k rows of x that lie far apart, (k, D): greedy k-means++ (Arthur & Vassilvitskii 2007).

    Each next centre is drawn with probability ∝ D², the squared distance to the nearest
    centre so far; of a few draws the one that lowers Σ D² most is taken.
    """
    tries = 2 + int(math.log(k))
    first = torch.randint(len(x), (1,), generator=rng, device=x.device)
    centres = [x[first]]
    nearest = (x - centres[0]).square().sum(1)
    for _ in range(k - 1):
        # + tiny: rows may all be copies of the centres
        trial = torch.multinomial(nearest + 1e-12, tries, replacement=True, generator=rng)
        square = (x[trial][:, None] - x).square().sum(2)
        after = torch.minimum(nearest, square)
        best = after.sum(1).argmin()
        centres.append(x[trial[best]][None])
        nearest = after[best]
    return torch.cat(centres)


def first_guess(x: Tensor, k: int, init: str, floor: float, rng: torch.Generator) -> Gaussians:
    """Equal weights, means by `init`, and round Gaussians that together fill the data's volume.

    Standardised rows have unit variance, and K balls of variance K^(−2/D) have the volume
    of one of variance 1: wide enough that one sees them shrink onto what they find.
    """
    n, d = x.shape
    if init == "k-means++":
        mean = plus_plus(x, k, rng)
    else:
        order = torch.randperm(n, generator=rng, device=x.device)
        mean = x[order[torch.arange(k, device=x.device) % n]]
        if init == "one spot":
            # not quite one spot: components that are truly equal stay equal for ever
            noise = torch.randn(k, d, generator=rng, device=x.device, dtype=x.dtype)
            mean = mean[:1] + 0.02 * noise
    eye = torch.eye(d, dtype=x.dtype, device=x.device)
    cov = (k ** (-2 / d) + floor) * eye.expand(k, d, d)
    log_weight = torch.full((k,), -math.log(k), dtype=x.dtype, device=x.device)
    return Gaussians(log_weight, mean.clone(), cov.clone())


class Unconstrained(nn.Module):
    """Gaussians from parameters that may take any value, for gradient descent.

    π = softmax(logits); Σ_k = A_k A_kᵀ + floor·I with A_k lower triangular, exp on its diagonal
    (K of them, or one when tied); restricted covariances keep only standard deviations.
    """

    def __init__(self, g: Gaussians, covariance: Covariance, floor: float) -> None:
        super().__init__()
        k, d = g.mean.shape
        self.covariance = covariance
        self.logits = nn.Parameter(g.log_weight.clone())
        self.mean = nn.Parameter(g.mean.clone())
        shape = {"full": (k, d, d), "tied": (1, d, d), "diagonal": (k, d), "spherical": (k, 1)}
        # first guesses are round, and contain the floor
        log_sigma = 0.5 * (g.cov.diagonal(dim1=1, dim2=2) - floor).log()
        if covariance in ("full", "tied"):
            self.scale = nn.Parameter(torch.diag_embed(log_sigma)[: shape[covariance][0]].clone())
        else:
            self.scale = nn.Parameter(log_sigma[:, : shape[covariance][1]].clone())

    def forward(self, floor: float) -> Gaussians:
        k, d = self.mean.shape
        if self.covariance in ("full", "tied"):
            diagonal = self.scale.diagonal(dim1=1, dim2=2).exp()
            root = self.scale.tril(-1) + torch.diag_embed(diagonal)
            cov = root @ root.mT
        else:
            cov = torch.diag_embed((2 * self.scale).exp().expand(k, d))
        eye = torch.eye(d, dtype=cov.dtype, device=cov.device)
        cov = (cov + floor * eye).expand(k, d, d)
        return Gaussians(self.logits.log_softmax(0), self.mean, cov)


class Selection:
    """BIC and AIC over K: a mixture fitted for each K by EM of its own, a little at a time.

    It has its own generators, one for each K, and never touches the model in training.
    `fits[k]` is (Gaussians, mean nll in nats and data units, iterations, settled).
    """

    MOST_ITERATIONS = 150

    def __init__(
        self, x: Tensor, log_std: float, covariance: Covariance, floor: float, seed: int
    ) -> None:
        self.x, self.log_std, self.seed = x, log_std, seed
        self.covariance, self.floor = covariance, floor
        self.fits: dict[int, tuple[Gaussians, float, int, bool]] = {}
        self._turn = 0

    def advance(self, most: int, work: float = 1.5e6) -> None:
        """EM iterations in turn over K = 1 … most, until about `work` numbers were handled.

        Work is counted, not timed, so that the same calls give the same fits anywhere.
        """
        n, d = self.x.shape
        for _ in range(most):
            k = self._turn % most + 1
            self._turn += 1
            if k in self.fits and self.fits[k][3]:
                continue
            self._iterate(k)
            work -= k * n * d * max(1.0, d / 4) + 20_000
            if work <= 0:
                break

    def _iterate(self, k: int) -> None:
        if k not in self.fits:
            rng = torch.Generator(self.x.device).manual_seed(5_000_011 * (self.seed + 1) + k)
            guess = first_guess(self.x, k, "k-means++", self.floor, rng)
            self.fits[k] = (guess, math.inf, 0, False)
        g, before, done, _ = self.fits[k]
        new, log_q = em_update(g, self.x, self.covariance, self.floor)
        nll = self.log_std - float(log_q)
        settled = before - nll < 1e-5 or done >= self.MOST_ITERATIONS
        # the number belongs to the old Gaussians, so those are what a settled fit keeps
        self.fits[k] = (g if settled else new, nll, done + 1, settled)

    def scores(self, most: int) -> dict[int, tuple[float, float]]:
        """K → (BIC, AIC), for those that have begun, in order of K."""
        n, d = self.x.shape
        out = {}
        for k in sorted(k for k in self.fits if k <= most):
            p = free_parameters(k, d, self.covariance)
            out[k] = (bic(self.fits[k][1], n, p), aic(self.fits[k][1], n, p))
        return out

    def settled(self, most: int) -> int:
        """How many of K = 1 … most are done."""
        return sum(self.fits[k][3] for k in self.fits if k <= most)


# ---------------------------------------------------------------- the engine


def revive(g: Gaussians, z: Tensor, covariance: str) -> Gaussians:
    """Begin again with components that have next to no data left: only when data changed.

    EM never gives such a component a point again. One by one they are put on the row of z
    (N, D) that the others explain worst, with the share and size of one of K.
    """
    k, dim = g.mean.shape
    starved = g.log_weight.exp() < 0.05 / k
    if not starved.any():
        return g
    weight, mean, cov = g.log_weight.exp(), g.mean.clone(), g.cov.clone()
    log_q = torch.logsumexp(log_joint(g, z), 0)
    size = z.double().var(0).mean().clamp_min(1e-6) / k ** (2 / dim)
    for i in starved.nonzero().flatten().tolist():
        mean[i] = z[log_q.argmin()]
        if covariance != "tied":  # which has one covariance for all
            cov[i] = torch.eye(dim, dtype=cov.dtype, device=cov.device) * size
        weight[i] = 1 / k
        one = Gaussians(weight[i : i + 1].log(), mean[i : i + 1], cov[i : i + 1])
        log_q = torch.logaddexp(log_q, log_joint(one, z)[0])
    return Gaussians((weight / weight.sum()).log(), mean, cov)


class Mixture(Engine):
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
    }
    density = "exact"
    density_kind = "tractable"
    principle = "maximum likelihood"
    clip_steps, clip_knobs = 120, {"init": "one spot"}  # well begun, EM is done in four steps
    loss_is_nll = True
    loss_label = "−log q(x), nats"
    if_diverged = "Try a smaller learning rate, or a larger covariance floor."

    fit: Literal["EM", "gradient"] = knob(
        "EM", help="One EM iteration a step, or one Adam step on −log q of a batch."
    )
    n_components: int = knob(8, 1, 40, label="Components (K)", help="How many Gaussians.")
    covariance: Literal["full", "diagonal", "spherical", "tied"] = knob(
        "full", help="Shapes allowed: any, axis-aligned, round, or one shape shared by all."
    )
    init: Literal["k-means++", "random points", "one spot"] = knob(
        "k-means++",
        label="Start",
        help="Where the means begin: spread out, at random points, or all nearly in one spot.",
    )
    n_points: int = knob(
        10_000, 100, 50_000, log=True, label="Training points", help="How many points are fitted."
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
        12, 2, 20, view=True, label="BIC up to K", help="Mixtures of 1 to this many are compared."
    )

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "sequence":
            return "A Gaussian mixture needs numbers, not symbols."
        if dataset.dim > 256:
            return f"A Gaussian mixture takes rows of at most 256 numbers here, not {dataset.dim}."
        return None

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self._choose(self.rng)
        guess = first_guess(self._z, self.n_components, self.init, self.floor, self.rng)
        if self.fit == "EM":
            self.log_weight, self.mean, self.cov = guess
        else:
            self.free = Unconstrained(guess, self.covariance, self.floor)
            self.optimiser = adam(self.free.parameters(), self.lr)

    def _choose(self, rng: torch.Generator) -> None:
        """The rows that are fitted, standardised, and the standardisation's log-Jacobian."""
        rows = len(self.pool.train)
        order = torch.randperm(rows, generator=rng, device=self.device)[: self.n_points]
        # one draw of dequantisation noise: EM climbs the likelihood of points that stay put
        self._z = self._whiten(self.pool.rows(order, rng))
        self._log_std = self._std.double().log().sum()

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        if self.fit == "EM":
            revived = revive(self.gaussians(), self._z, self.covariance)
            self.log_weight, self.mean, self.cov = revived

    def refresh(self) -> None:
        self._choose(self.first_rng())
        self._metric_key = self._selection_key = self._chosen_at = self._advanced_at = None
        self._plane_of_view = None

    def step(self) -> dict[str, Tensor]:
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
        if self.fit == "EM":
            return Gaussians(self.log_weight, self.mean, self.cov)
        return Gaussians(*(part.detach() for part in self.free(self.floor)))

    def components(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (K,), means (K, D) and covariances (K, D, D) in data units, float64."""
        g, std = self.gaussians(), self._std.double()
        return g.log_weight.exp(), g.mean * std + self._mean, g.cov * std[:, None] * std

    def log_prob(self, x: Tensor) -> Tensor:
        g, z = self.gaussians(), self._whiten(x)
        rows = max(1, 2**22 // g.mean.numel())  # keeps (K, D, N) within 32 MB
        log_q = [torch.logsumexp(log_joint(g, part), 0) for part in z.split(rows)]
        return (torch.cat(log_q) - self._log_std).float()

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(component k | x_n) at x (N, D) in data units, (N, K)."""
        return e_step(self.gaussians(), self._whiten(x))[1].T

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        g = self.gaussians()
        # inverse CDF: a small change of the weights moves few samples to another component
        u = torch.rand(n, generator=generator or self.view_rng, device=self.device).double()
        edges = g.log_weight.exp().cumsum(0)
        which = torch.searchsorted(edges, u * edges[-1]).clamp_max(len(edges) - 1)
        noise = self.randn(n, self.dim, generator=generator).double()
        root = torch.linalg.cholesky_ex(g.cov)[0]
        # by component: root[which] would be (n, D, D)
        z = torch.empty_like(noise)
        for k in range(len(edges)):
            mine = which == k
            z[mine] = g.mean[k] + noise[mine] @ root[k].T
        return (z * self._std + self._mean).float()

    def _whiten(self, x: Tensor) -> Tensor:
        return (x.double() - self._mean) / self._std

    # ------------------------------------------------------------ numbers and pictures

    def metrics(self) -> list[Metric]:
        key = (self.step_count, self.floor)
        if getattr(self, "_metric_key", None) != key:
            g, n = self.gaussians(), len(self._z)
            log_q = torch.logsumexp(log_joint(g, self._z), 0).mean()
            entropy = torch.special.entr(g.log_weight.exp()).sum()
            nll, effective = torch.stack([self._log_std - log_q, entropy.exp()]).tolist()
            p = free_parameters(self.n_components, self.dim, self.covariance)
            self._metric_key, self._metrics = key, (bic(nll, n, p), effective)
        score, effective = self._metrics
        return [
            Metric("bic", score, "nats", "exact", label="BIC",
                   help="2·N·(mean −log q) + (free parameters)·ln N on the training points; "
                        "lower is better."),
            Metric("effective_components", effective, "", "exact", of=self.n_components,
                   label="Effective components",
                   help="exp of the entropy of the weights: K when all weigh the same."),
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
                  help="BIC and AIC of mixtures fitted by themselves with 1, 2, 3 … components on "
                       "up to 2,000 of the training points: the lowest is the criterion's choice."),
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
        even = 1 / self.n_components  # the least that the largest of K shares can be
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
        if modes is None or len(modes.weights) != self.n_components:
            return None
        return numpy(modes.weights.sort(descending=True).values)

    def _draw_weights(self) -> list[Mark]:
        weight, order = self._heaviest_first()
        names = [str(k + 1) for k in order.tolist()]
        return [Bars(names, numpy(weight), self._true_shares(), y_label="weight π")]

    def _draw_means(self) -> list[Mark]:
        dataset = self.pool.dataset
        weight, order = self._heaviest_first()
        mean = self.components()[1][order]
        pixels = numpy(mean).reshape(-1, *dataset.shape[-2:]) / dataset.levels
        tags = [f"{100 * w:.0f} %" if w >= 0.01 else "< 1 %" for w in weight.tolist()]
        columns = max(1, math.ceil(math.sqrt(len(tags))))
        sheet = np.clip(pixels, 0, 1).astype(np.float32)
        return [Images(sheet, columns, tags, "component means")]

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
        if getattr(self, "_chosen_at", None) != self._moment():
            self._chosen_at = self._moment()
            ladder = self._selection()
            scores, done = ladder.scores(self.bic_max), ladder.settled(self.bic_max)
            self._chosen_text = f"being fitted: {done} of {self.bic_max} done"
            if done == self.bic_max:
                best = min(scores, key=lambda k: scores[k][0])
                self._chosen_text = f"BIC is lowest at K = {best}"
        return self._chosen_text

    def _draw_bic(self) -> list[Mark]:
        ladder = self._selection()
        if getattr(self, "_advanced_at", None) != self._moment():
            self._advanced_at = self._moment()
            ladder.advance(self.bic_max)
        scores = ladder.scores(self.bic_max)
        k = np.array(list(scores))
        table = np.array(list(scores.values()))
        best = int(k[table[:, 0].argmin()])
        low, high = float(table[:, 0].min()), float(table[:, 0].max())
        lines = [
            Curve("BIC", k, table[:, 0], "model"),
            Curve("AIC", k, table[:, 1], "density"),
            Curve(f"lowest BIC: K = {best}", np.full(2, best), np.array([low, high]), "truth",
                  dash=True),
        ]  # fmt: skip
        return [Curves(lines, x_label="components K", y_label="criterion, nats")]
