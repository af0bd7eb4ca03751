"""The two players' losses, as functions of D's logits, and penalties on D's slope."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

# D(x) = σ(l) with the logit l, so log D = −softplus(−l) and log(1 − D) = −softplus(l):
# no logarithm of a probability that has rounded to zero.


def value(real: Tensor, fake: Tensor) -> Tensor:
    """V(D, G) = E_p[log D(x)] + E_q[log(1 − D(x))] in nats, from logits (N,) and (M,).

    At the best D for a given G it is −log 4 + 2 JSD(p, q); Goodfellow et al. 2014, eq. 1.
    """
    return -softplus(-real).mean() - softplus(fake).mean()


def cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: −V, the cross-entropy of telling data from samples."""
    return -value(real, fake)


def minimax(fake: Tensor) -> Tensor:
    """E_q[log(1 − D)]: what the generator minimises in the zero-sum game.

    Its slope in the logit is −σ(l): nothing where D is sure that a sample is fake.
    """
    return -softplus(fake).mean()


def non_saturating(fake: Tensor) -> Tensor:
    """−E_q[log D]: the same fixed point, with a slope −(1 − σ(l)) that is largest there."""
    return softplus(-fake).mean()


@dataclass(frozen=True)
class Loss:
    """The two players' losses as functions of logits; real (N,), fake (M,) → 0-d."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


LOSSES: dict[str, Loss] = {
    "non-saturating": Loss(cross_entropy, non_saturating),
    "minimax": Loss(cross_entropy, minimax),
}


def squared_slope(logits: Tensor, x: Tensor) -> Tensor:
    """|∇ₓ l(x)|² of each row, (N,), kept in the graph.

    R1 is r1/2 · E_p of it (Mescheder, Geiger & Nowozin 2018): a discriminator that is flat
    on the data lets the game settle where p = q, instead of circling round it.
    """
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slope.square().sum(1)
