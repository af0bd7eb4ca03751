"""Numbers that say how close a model is, and what each of them can and cannot see.

Plain functions of samples or log-densities, in any dimension; lengths are in the units of the
samples. `engines/probes.py` says which of them are measured on one model, and how often.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import chdtr, chdtri, gammaln, xlog1py, xlogy
from torch import Tensor

from engines.data.base import Modes

Array = np.ndarray | Tensor


class Estimate(NamedTuple):
    """A value with its standard error, and a note where the number alone would mislead."""

    value: float
    se: float | None = None
    note: str = ""


def as_array(x: Array) -> np.ndarray:
    """A tensor of any device, or an array, as an array of double precision."""
    return (x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)).astype(np.float64)


def percent(share: float) -> str:
    """0.0312 as '3.12 %'."""
    return f"{100 * share:.3g} %"


# ---------------------------------------------------------------- densities


def kl(log_p: Array, log_q: Array, p: str = "p", q: str = "q") -> Estimate:
    """KL(p‖q) = E_p[log p(x) − log q(x)] in nats, with the standard error of the mean.

    Args:
        log_p, log_q: (N,) log-densities at the *same* points x ~ p. The difference is taken
            point by point, so that q = p gives 0 without any noise.
        p, q: what to call the two in the note.

    The value is +∞, with a note, when q is 0 at some of the points; NaN, with a note, when a
    log-density is not a number. Points where p itself is 0 can only be draws of p that were
    rounded over an edge of its support: up to 0.1 % of them are left out.
    """
    log_p, log_q = as_array(log_p), as_array(log_q)
    edge = np.isneginf(log_p)
    if edge.any() and edge.mean() <= 1e-3:
        log_p, log_q = log_p[~edge], log_q[~edge]
    bad = np.isnan(log_q) | np.isposinf(log_q) | ~np.isfinite(log_p)
    if bad.any():
        return Estimate(math.nan, None, f"no log-density at {percent(bad.mean())} of the points")
    lost = np.isneginf(log_q)
    if lost.any():
        return Estimate(math.inf, None, f"∞: {percent(lost.mean())} of {p} lies where {q} is 0")
    gap = log_p - log_q
    return Estimate(float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(len(gap))))


def bits_per_dim(log_prob: Array, dim: int) -> Estimate:
    """−log q(x) / (D ln 2), averaged, with its standard error.

    For integers that were made continuous by adding U[0, 1) this bounds from above the code
    length in bits per pixel of the discrete model (Theis, van den Oord & Bethge 2016).
    """
    bits = -as_array(log_prob) / (dim * math.log(2))
    if not np.isfinite(bits).all():
        share = percent(1 - np.isfinite(bits).mean())
        return Estimate(math.nan, None, f"no finite log-density at {share} of the rows")
    return Estimate(float(bits.mean()), float(bits.std(ddof=1) / math.sqrt(len(bits))))


# ---------------------------------------------------------------- two sets of samples


def directions(dim: int, n: int = 64) -> np.ndarray:
    """n fixed unit vectors, (n, dim).

    On the plane they divide the half circle evenly, which integrates over directions far
    better than random ones; in more dimensions they are uniform on the sphere.
    """
    if dim == 1:
        return np.ones((1, 1))
    if dim == 2:
        angle = (np.arange(n) + 0.5) * math.pi / n
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    v = np.random.default_rng(0).standard_normal((n, dim))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def project(x: Array, along: np.ndarray) -> np.ndarray:
    """Sorted projections of x (N, D) on each direction (L, D): (L, N)."""
    # single precision sorts three times faster; squares are summed in double below
    return np.sort(along.astype(np.float32) @ as_array(x).T.astype(np.float32), axis=1)


def sliced_w2(x: Array, y: Array, along: np.ndarray | None = None) -> float:
    """Sliced Wasserstein-2 distance between the empirical distributions of x and y.

    SW₂ = √( mean over directions θ of W₂²(θ·x, θ·y) ), and on the line
    W₂² = ∫₀¹ (F⁻¹(u) − G⁻¹(u))² du (Bonneel, Rabin, Peyré & Pfister 2015). x (N, D) and
    y (M, D) may differ in size. Returns a length in the units of x.
    """
    along = directions(x.shape[1]) if along is None else along
    return quantile_distance(project(x, along), project(y, along))


def quantile_distance(a: np.ndarray, b: np.ndarray) -> float:
    """√( mean over rows of ∫₀¹ (a⁻¹(u) − b⁻¹(u))² du ) for *sorted* rows (L, N), (L, M)."""
    n, m = a.shape[1], b.shape[1]
    if n == m:
        return math.sqrt(np.square(a - b, dtype=np.float64).mean())
    # both quantile functions are steps: cut [0, 1] wherever either jumps, in units of 1/nm
    cuts = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    middle = cuts[:-1]
    gap = a[:, middle // m].astype(np.float64) - b[:, middle // n]
    return math.sqrt((gap**2 * np.diff(cuts)).sum(1).mean() / (n * m))


def mean_distance(x: Array, y: Array) -> float:
    """Mean Euclidean distance over all pairs of a row of x (N, D) and a row of y (M, D)."""
    return float(cdist(as_array(x), as_array(y)).mean())


def energy_distance(x: Array, y: Array) -> float:
    """Energy distance 2 E|X−Y| − E|X−X′| − E|Y−Y′| of two empirical distributions.

    Székely & Rizzo (2013). It is a length, in the units of x, and never negative; its square
    root is a metric, and that root is what `scipy.stats.energy_distance` returns.
    """
    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def energy_noise(between: float, n: int, m: int) -> float:
    """Expected energy distance (1/n + 1/m) E|X−X′| of n and m rows of one distribution.

    between: E|X−X′|. The expectation is exact; single values scatter by more than half of it.
    """
    return (1 / n + 1 / m) * between


def own_neighbour(x: Array, k: int = 5) -> np.ndarray:
    """Distance from each row of x (N, D) to the k-th nearest of the others, (N,)."""
    x = as_array(x)
    return _tree(x).query(x, [k + 1])[0][:, 0]


def knn_kl(x: Array, y: Array, k: int = 5, own: np.ndarray | None = None) -> Estimate:
    """k-nearest-neighbour estimate of KL(p‖q) in nats from samples alone.

    D̂ = (d/n) Σᵢ log(νᵢ/ρᵢ) + log(m/(n−1)) for x (n, d) ~ p, y (m, d) ~ q, where ρᵢ and νᵢ
    are the distances from xᵢ to its k-th neighbour among the other x and among y (Wang,
    Kulkarni & Verdú 2009, "Divergence estimation for multidimensional densities via
    k-nearest-neighbor distances"). Its bias vanishes only slowly: read it against what two
    true sets give. The standard error takes the terms as independent.

    Rows that lie exactly on k others say nothing about a density and are left out; when
    they are more than half, the value is NaN. own: `own_neighbour(x, k)`, if it is known.
    """
    x, y = as_array(x), as_array(y)
    n, d = x.shape
    m = len(y)
    if n <= k or m < k:
        raise ValueError(f"k = {k} neighbours need more than {k} rows; got {n} and {m}")
    rho = own_neighbour(x, k) if own is None else own
    keep = rho > 0
    if keep.mean() < 0.5:
        return Estimate(math.nan, None, "most held-out rows are copies of each other")
    nu = _tree(y).query(x[keep], [k])[0][:, 0]
    terms = d * np.log(np.maximum(nu, 1e-12) / rho[keep])
    value = terms.mean() + math.log(m / (n - 1))
    return Estimate(float(value), float(terms.std(ddof=1) / math.sqrt(len(terms))))


def _tree(x: np.ndarray) -> cKDTree:
    # plain trees: balanced and compact ones are 5 times slower to ask when samples lie on
    # a curve, as an untrained generator's do
    return cKDTree(x, balanced_tree=False, compact_nodes=False)


def nearest(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to, and index of, the nearest of `rows` for each x: ((N,), (N,))."""
    best = torch.cdist(x.float(), rows.float()).min(1)
    return best.values, best.indices


def nearest_ratio(x: Tensor, train: Tensor, held: Tensor) -> Estimate:
    """Mean distance of x to its nearest row of `train`, over the same mean for `held`.

    1 when samples are as far from the training rows as unseen data are; towards 0 for
    copies of the training rows, above 1 for what looks like no row at all.
    """
    usual = nearest(held, train)[0].double().mean()
    ratio = nearest(x, train)[0].double() / usual
    return Estimate(float(ratio.mean()), float(ratio.std() / len(ratio) ** 0.5))


# ---------------------------------------------------------------- modes

COVERED = 0.2  # of its fair share of samples, within REACH standard deviations
REACH = 3.0


class ModeReport(NamedTuple):
    """found: modes covered; inside: share of samples within 3σ of a mode; shares (K,) of
    samples nearest to each centre; spread: rms radius within a mode ÷ the true one."""

    found: int
    inside: float
    shares: np.ndarray
    spread: float


def mode_report(x: Array, modes: Modes) -> ModeReport:
    """What samples x (N, D) make of K isotropic Gaussian modes.

    A mode is *covered* when at least 20 % of the share of samples that it should get, and at
    least one sample, lie within 3σ of its centre. (Counting a mode for a single sample, as
    Lin, Khetan, Fanti & Oh 2018 do, lets strays pass for coverage.) *inside* is their share
    of high-quality samples, 1 − e^{−9/2} on the plane for true samples.

    *spread* is √(mean r²) about each mode's own mean, over the samples nearest to its
    centre, in units of the true √D·σ; a collapsed mode gives 0 wherever it sits. Strays
    beyond 3 standard deviations, by the mode's own median radius, are left out, and the
    cut's effect on a Gaussian is divided out: true samples give 1, and shrinking every mode
    by a factor shrinks the number by that factor. NaN when no mode has 20 samples.
    """
    x = as_array(x)
    centres, sigma, weights = (
        as_array(part) for part in (modes.centres, modes.sigma, modes.weights)
    )
    n, d = x.shape
    distance = cdist(x, centres)
    own = distance.argmin(1)
    close = distance <= REACH * sigma
    wanted = np.maximum(COVERED * weights * n, 1)
    shares = np.bincount(own, minlength=len(centres)) / n
    total, count = 0.0, 0
    for k in np.flatnonzero(shares * n >= 20):
        y = x[own == k]
        radius = np.linalg.norm(y - np.median(y, axis=0), axis=1)
        y = y[radius <= REACH * np.median(radius) / math.sqrt(chdtri(d, 0.5))]
        cut = chdtr(d + 2, REACH**2) / chdtr(d, REACH**2)  # E[r² | r ≤ 3σ] / dσ²
        total += len(y) * y.var(axis=0, ddof=1).mean() / cut / sigma[k] ** 2
        count += len(y)
    return ModeReport(
        int((close.sum(0) >= wanted).sum()),
        float(close.any(1).mean()),
        shares,
        math.sqrt(total / count) if count else math.nan,
    )


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """½ Σ |a − b| of two discrete distributions (K,): the share of mass to be moved."""
    return float(np.abs(a - b).sum() / 2)


def share_noise(weights: np.ndarray, n: int) -> float:
    """Expected total variation between `weights` and the shares of n true samples.

    ½ Σ E|Bₖ/n − wₖ| with de Moivre's E|B − nw| = 2 m (1−w) P(B = m), m = ⌊nw⌋ + 1.
    """
    m = np.floor(n * weights) + 1
    k = np.minimum(m, n)  # a weight of 1 leaves nothing beyond n
    log_pmf = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    log_pmf += xlogy(k, weights) + xlog1py(n - k, -weights)
    return float((m * (1 - weights) * np.where(m <= n, np.exp(log_pmf), 0)).sum() / n)


def separated(modes: Modes) -> bool:
    """Whether no two modes reach each other: centres further apart than 3σᵢ + 3σⱼ."""
    centres, sigma = as_array(modes.centres), as_array(modes.sigma)
    gap = cdist(centres, centres) - REACH * (sigma[:, None] + sigma)
    return bool((gap[~np.eye(len(sigma), dtype=bool)] > 0).all())
