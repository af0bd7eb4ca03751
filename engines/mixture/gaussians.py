"""Weighted Gaussians: their density, their moments, EM, and starts. All of it in float64.

    q(x) = Σ_k π_k N(x; μ_k, Σ_k)

Dempster, Laird & Rubin 1977, "Maximum likelihood from incomplete data via the EM algorithm".
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Covariance = Literal["full", "diagonal", "spherical", "tied"]


class Gaussians(NamedTuple):
    """K weighted Gaussians: log_weight (K,), mean (K, D), cov (K, D, D)."""

    log_weight: Tensor
    mean: Tensor
    cov: Tensor


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


def sample(g: Gaussians, u: Tensor, noise: Tensor) -> Tensor:
    """Draws of the mixture, (N, D), from u (N,) ~ U[0, 1) and noise (N, D) ~ N(0, I).

    u picks the component by the inverse of the weights' cumulative sum, so that a small change
    of the weights moves few draws to another one; then x = μ_k + L_k ε with Σ_k = L_k L_kᵀ.
    """
    edges = g.log_weight.exp().cumsum(0)
    which = torch.searchsorted(edges, u.to(edges.dtype) * edges[-1]).clamp_max(len(edges) - 1)
    root = torch.linalg.cholesky_ex(g.cov)[0]
    noise = noise.to(root.dtype)
    x = torch.empty_like(noise)
    for k in range(len(edges)):  # root[which] would be (N, D, D)
        mine = which == k
        x[mine] = g.mean[k] + noise[mine] @ root[k].T
    return x


def e_step(g: Gaussians, x: Tensor) -> tuple[Tensor, Tensor]:
    """log q(x_n) (N,), and responsibilities r_kn = p(component k | x_n), (K, N)."""
    joint = log_joint(g, x)
    top = joint.amax(0)
    # numbers below e^-700 are denormal or zero, and those cost ten times the time
    share = joint.sub_(top).clamp_min_(-700).exp_()
    total = share.sum(0)
    return top + total.log(), share.div_(total)


def features(x: Tensor, cross: bool) -> Tensor:
    """The numbers of a row whose weighted sums EM needs: 1, x_i, and x_i·x_j for i ≤ j.

    x (N, D) → (N, 1 + D + D(D+1)/2), or (N, 1 + 2D) with squares alone where not `cross`.
    The log-density of a Gaussian is linear in them, too: so both steps of EM are one product
    of matrices each.
    """
    n, d = x.shape
    ones = x.new_ones(n, 1)
    if not cross:
        return torch.cat([ones, x, x.square()], 1)
    i, j = torch.triu_indices(d, d, device=x.device)
    return torch.cat([ones, x, x[:, i] * x[:, j]], 1)


def coefficients(g: Gaussians, cross: bool) -> Tensor:
    """(K, F) with log π_k + log N(x; μ_k, Σ_k) = Σ_f coefficient_kf · feature_f(x).

    With the precision P = Σ⁻¹ it is log π − ½ log |2πΣ| − ½ μᵀPμ + (Pμ)·x − ½ xᵀPx, exactly.
    Diagonal covariances need no `cross` features.
    """
    d = g.mean.shape[1]
    root = torch.linalg.cholesky_ex(g.cov)[0]
    precision = torch.cholesky_inverse(root)
    linear = (precision @ g.mean[:, :, None])[:, :, 0]
    constant = g.log_weight - root.diagonal(dim1=1, dim2=2).log().sum(1)
    constant = constant - 0.5 * (d * math.log(2 * math.pi) + (linear * g.mean).sum(1))
    if cross:
        i, j = torch.triu_indices(d, d, device=g.mean.device)
        quadratic = precision[:, i, j] * torch.where(i == j, -0.5, -1.0)
    else:
        quadratic = -0.5 * precision.diagonal(dim1=1, dim2=2)
    return torch.cat([constant[:, None], linear, quadratic], 1)


def from_moments(
    total: Tensor, shift: Tensor, covariance: Covariance, floor: float, old: Gaussians
) -> Gaussians:
    """The M-step from sums Σ_n r_kn · feature_f(x_n − shift), (K, F): see `m_step`."""
    d = old.mean.shape[1]
    count = total[:, 0]
    alive = count > 1e-12
    average = total[:, 1:] / count.clamp_min(1e-12)[:, None]
    mean, second = average[:, :d], average[:, d:]
    if covariance in ("full", "tied"):
        i, j = torch.triu_indices(d, d, device=total.device)
        cov = total.new_empty(len(total), d, d)
        cov[:, i, j] = second
        cov[:, j, i] = second
        cov = cov - mean[:, :, None] * mean[:, None]
        if covariance == "tied":
            cov = torch.tensordot(count / count.sum(), cov, 1).expand_as(cov)
    else:
        variance = second - mean.square()
        if covariance == "spherical":
            variance = variance.mean(1, keepdim=True).expand_as(variance)
        cov = torch.diag_embed(variance)
    cov = cov + floor * torch.eye(d, dtype=total.dtype, device=total.device)
    # the tied covariance belongs to the dead as well
    keep = alive[:, None, None] | (covariance == "tied")
    return Gaussians(
        (count / count.sum()).log(),
        torch.where(alive[:, None], mean + shift, old.mean),
        torch.where(keep, cov, old.cov),
    )


def m_step(x: Tensor, r: Tensor, covariance: Covariance, floor: float, old: Gaussians) -> Gaussians:
    """The Gaussians that maximise Σ_kn r_kn log π_k N(x_n; μ_k, Σ_k), plus floor · I.

    π_k = N_k/N, μ_k = Σ_n r_kn x_n / N_k, Σ_k = Σ_n r_kn (x_n−μ_k)(x_n−μ_k)ᵀ / N_k + floor·I,
    with N_k = Σ_n r_kn. Restricted covariances are averages of the full one: its diagonal,
    the mean of its diagonal, or (tied) the mean over components weighted by N_k.
    A component that no row belongs to (N_k ≈ 0) keeps its old place and shape.
    """
    shift = x.mean(0)  # second moments about a far origin would cancel
    total = r @ features(x - shift, covariance in ("full", "tied"))
    return from_moments(total, shift, covariance, floor, old)


def em_update(
    g: Gaussians, x: Tensor, covariance: Covariance, floor: float
) -> tuple[Gaussians, Tensor]:
    """One EM iteration: the new Gaussians, and the *old* ones' mean log q(x_n), 0-d.

    The same as `m_step` after `e_step`, block by block of rows that fit into the cache, so
    that responsibilities are never kept: 100 components on 50,000 rows take 0.03 s.
    """
    cross = covariance in ("full", "tied")
    shift = x.mean(0)
    linear = coefficients(g._replace(mean=g.mean - shift), cross).T
    total, log_q = torch.zeros_like(linear.T), x.new_zeros(())
    numbers = 2**17 if x.device.type == "cpu" else 2**25
    for rows in x.split(max(256, numbers // max(linear.shape))):
        f = features(rows - shift, cross)
        joint = f @ linear
        top = joint.amax(1, keepdim=True)
        share = joint.sub_(top).clamp_min_(-700).exp_()  # see e_step
        whole = share.sum(1, keepdim=True)
        log_q = log_q + (top + whole.log()).sum()
        total.addmm_(share.T, f / whole)
    return from_moments(total, shift, covariance, floor, g), log_q / len(x)


def log_density(g: Gaussians, x: Tensor) -> Tensor:
    """log Σ_k π_k N(x_n; μ_k, Σ_k), (N, D) → (N,), block by block as in `em_update`."""
    shift = g.log_weight.exp() @ g.mean
    linear = coefficients(g._replace(mean=g.mean - shift), cross=True).T
    numbers = 2**17 if x.device.type == "cpu" else 2**25
    blocks = x.split(max(256, numbers // max(linear.shape)))
    parts = [x.new_zeros(0)]
    for rows in blocks:
        joint = features(rows - shift, cross=True) @ linear
        top = joint.amax(1, keepdim=True)
        share = joint.sub_(top).clamp_min_(-700).exp_()  # see e_step
        parts.append(top[:, 0] + share.sum(1).log())
    return torch.cat(parts)


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
    log_q = log_density(g, z)
    size = z.double().var(0).mean().clamp_min(1e-6) / k ** (2 / dim)
    for i in starved.nonzero().flatten().tolist():
        mean[i] = z[log_q.argmin()]
        if covariance != "tied":  # which has one covariance for all
            cov[i] = torch.eye(dim, dtype=cov.dtype, device=cov.device) * size
        weight[i] = 1 / k
        one = Gaussians(weight[i : i + 1].log(), mean[i : i + 1], cov[i : i + 1])
        log_q = torch.logaddexp(log_q, log_density(one, z))
    return Gaussians((weight / weight.sum()).log(), mean, cov)
