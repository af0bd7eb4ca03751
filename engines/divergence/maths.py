"""Divergences of two distributions over cells: every sum is a quadrature of an integral.

A density on a grid becomes masses P_i = p(x_i)·cell, and all that lies beyond the grid is one
more cell. So both sides are distributions, whatever leaves the grid is paid for, and what
holds of divergences between distributions (KL ≥ 0, JS ≤ log 2, 0 only for equals) holds of
the numbers on the screen. Everything is in nats and float64; masses travel as logarithms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

OBJECTIVES = ("forward KL", "reverse KL", "Jensen–Shannon", "α-divergence")
SYMBOLS = {
    "forward KL": "KL(p‖q)",
    "reverse KL": "KL(q‖p)",
    "Jensen–Shannon": "JS(p, q)",
    "α-divergence": "D_α(p‖q)",
}
# what the cell beyond the grid holds at the least: a mass that is 0 has no logarithm
OUTSIDE = 1e-12


def masses(log_density: Tensor, log_cell: float) -> Tensor:
    """Log masses of the cells and of all the rest, (…, N) → (…, N + 1).

    The rest is 1 − Σ p·cell, and OUTSIDE at the least. A sum above 1 can only be an error of
    the quadrature, and is divided out.
    """
    inside = log_density + log_cell
    total = torch.logsumexp(inside, -1, keepdim=True)
    inside = inside - total.clamp_min(0.0)
    rest = (-torch.expm1(total.clamp_max(0.0))).clamp_min(OUTSIDE)
    return torch.cat([inside, rest.log()], -1)


def terms(objective: str, log_p: Tensor, log_q: Tensor, alpha: float = 0.5) -> Tensor:
    """What each cell adds to a divergence, in nats: log masses (…, N) → (…, N).

    forward KL      P log P/Q
    reverse KL      Q log Q/P
    Jensen–Shannon  ½ P log P/M + ½ Q log Q/M with M = (P + Q)/2 (Lin 1991)
    α-divergence    [w P + (1−w) Q − P^α Q^{1−α}] / α(1−α), 0 ≤ α ≤ 1

    The last sums to D_α = (1 − Σ P^α Q^{1−α}) / α(1−α) (Amari 1985; Minka 2005, "Divergence
    measures and message passing") for any w. w = α²(3 − 2α) is taken, since with it each
    cell, and not only the sum, passes into that of KL(p‖q) for α → 1 and of KL(q‖p) for α → 0.
    """
    if objective == "forward KL" or (objective == "α-divergence" and alpha == 1):
        return log_p.exp() * (log_p - log_q)
    if objective == "reverse KL" or (objective == "α-divergence" and alpha == 0):
        return log_q.exp() * (log_q - log_p)
    if objective == "Jensen–Shannon":
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m))
    if objective != "α-divergence":
        raise ValueError(f"there is no divergence {objective!r}")
    if alpha < 0.5:  # D_α(p‖q) = D_{1−α}(q‖p), and so is each cell's part
        return _towards_one(log_q, log_p, 1 - alpha)
    return _towards_one(log_p, log_q, alpha)


def _towards_one(log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """The α-divergence's cells for α ≥ ½, without cancellation as β = 1 − α → 0.

    P − P^α Q^β = −P·expm1(β log Q/P), and 1 − w = β²(3 − 2β).
    """
    beta = 1 - alpha
    p, q = log_p.exp(), log_q.exp()
    x = beta * (log_q - log_p)
    # e^x may overflow where P underflows: there P^α Q^β is taken whole
    gain = torch.where(x > 1, (log_p + x).exp() - p, p * torch.expm1(x.clamp_max(1.0)))
    return (beta * (3 - 2 * beta) * (q - p) - gain / beta) / alpha


def divergence(objective: str, log_p: Tensor, log_q: Tensor, alpha: float = 0.5) -> Tensor:
    """The divergence of P and Q in nats: log masses (…, N) → (…,)."""
    return terms(objective, log_p, log_q, alpha).sum(-1)


def entropies(log_p: Tensor, log_q: Tensor, log_cell: float) -> tuple[Tensor, Tensor]:
    """Differential entropy H(p) = −∫ p log p and cross-entropy H(p, q) = −∫ p log q, nats.

    Log masses (…, N + 1) with the cell of all the rest last, which counts as one of the
    size of a cell.
    """
    p = log_p.exp()
    return -(p * (log_p - log_cell)).sum(-1), -(p * (log_q - log_cell)).sum(-1)
