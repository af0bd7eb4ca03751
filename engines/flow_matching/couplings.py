"""Which source row goes to which data row: by chance, or so that all ways together are short."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

PIECE = 128  # rows that are paired among each other: an exact assignment grows as their cube
EPSILON, SWEEPS = 0.05, 100  # of Sinkhorn's iteration: softness over the mean cost, and how many


def costs(x0: Tensor, x1: Tensor) -> Tensor:
    """|x₀ᵢ − x₁ⱼ|², (…, N, d) and (…, M, d) → (…, N, M)."""
    return torch.cdist(x0, x1).square()


def exact(x0: Tensor, x1: Tensor, piece: int = PIECE) -> Tensor:
    """x₁ (N, d) in the order in which Σ |x₀ᵢ − x₁ᵢ|² is least within each piece of rows.

    Minibatch optimal transport (Tong et al. 2023, Improving and generalizing flow-based generative
    models with minibatch optimal transport), by the exact assignment. On the CPU.
    """
    out = []
    for a, b in zip(x0.split(piece), x1.split(piece), strict=True):
        _, to = linear_sum_assignment(costs(a, b).numpy())
        out.append(b[torch.from_numpy(to)])
    return torch.cat(out)


def plan(x0: Tensor, x1: Tensor) -> Tensor:
    """Entropic plans (P, N, N) between P pairs of clouds (P, N, d); each row sums to 1/N.

    Sinkhorn's iteration on logarithms (Cuturi 2013, Sinkhorn distances), on any device.
    """
    cost = costs(x0, x1)
    kernel = -cost / (EPSILON * cost.mean((1, 2), keepdim=True))
    f = torch.zeros_like(kernel[:, :, :1])
    for _ in range(SWEEPS):
        g = -(kernel + f).logsumexp(1, keepdim=True)
        f = -(kernel + g).logsumexp(2, keepdim=True)
    return (kernel + f + g).exp() / cost.shape[1]


def entropic(x0: Tensor, x1: Tensor, rng: torch.Generator, piece: int = PIECE) -> Tensor:
    """A partner (N, d) for each row of x₀, drawn from the entropic plan within its piece.

    No number leaves the device, where an exact assignment would have to wait for all of them.
    """
    whole = len(x0) // piece * piece
    out = []
    for a, b, size in ((x0[:whole], x1[:whole], piece), (x0[whole:], x1[whole:], len(x0) - whole)):
        if len(a) == 0:
            continue
        a, b = a.reshape(-1, size, a.shape[1]), b.reshape(-1, size, b.shape[1])
        to = torch.multinomial(plan(a, b).reshape(-1, size), 1, generator=rng)
        out.append(b.gather(1, to.reshape(-1, size, 1).expand_as(b)).reshape(-1, b.shape[2]))
    return torch.cat(out)


def optimal(x0: Tensor, x1: Tensor, rng: torch.Generator) -> Tensor:
    """Data rows (N, d) paired with x₀: exactly on the CPU, by an entropic plan elsewhere."""
    return exact(x0, x1) if x0.device.type == "cpu" else entropic(x0, x1, rng)
