"""How much samples tell of the codes that made them: a lower bound, from a network that reads."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from engines.data.base import Pool
from engines.metrics import Estimate

NARROWEST = math.log(0.05)  # of the reader's guesses at a continuous code, log σ
LOG_2PI = math.log(2 * math.pi)


class Codes(NamedTuple):
    """What the generator is given: categories (N,), codes in [−1, 1] (N, C), noise (N, latent)."""

    category: Tensor
    continuous: Tensor
    noise: Tensor


class Read(NamedTuple):
    """Q(c|x): logits (N, K) of the category; mean and log σ (N, C) of the continuous codes."""

    logits: Tensor
    mean: Tensor
    log_std: Tensor


def split(out: Tensor, categories: int) -> Read:
    """What a network's (N, K + 2C) numbers mean."""
    mean, log_std = out[:, categories:].chunk(2, 1)
    return Read(out[:, :categories], mean, log_std.clamp(NARROWEST, 2.0))


def category_terms(read: Read, c: Tensor) -> Tensor:
    """log Q(c|x) + H(c) for categories c (N,), each uniform among K: (N,) nats.

    Their mean L_I is at most I(c; x), since I(c; x) = H(c) + E[log p(c|x)] and the true p(c|x)
    is what makes E log Q(c|x) largest; and I(c; x) ≤ H(c) = log K (Chen et al. 2016, equation 5,
    after Barber & Agakov 2003). It is log K where the code can be read without a doubt.
    """
    mine = read.logits.log_softmax(1).gather(1, c[:, None])[:, 0]
    return mine + math.log(read.logits.shape[1])


def continuous_terms(read: Read, u: Tensor) -> Tensor:
    """log Q(u|x) + h(u) for codes u (N, C), each uniform on [−1, 1]: (N,) nats, summed over C.

    Q is Gaussian and h(u) = log 2 for each code. The mean is at most I(u; x) again; but what a
    continuous code tells has no ceiling, for u may be known to any number of digits.
    """
    z = (u - read.mean) * torch.exp(-read.log_std)
    log_q = -0.5 * z.square() - read.log_std - 0.5 * LOG_2PI
    return log_q.sum(1) + u.shape[1] * math.log(2)


def estimate(terms: Tensor) -> Estimate:
    """Their mean with its standard error."""
    terms = terms.double()
    return Estimate(float(terms.mean()), float(terms.std()) / math.sqrt(len(terms)))


def agreement(a: Tensor, b: Tensor) -> float:
    """Normalised mutual information I(a; b) / ½(H(a) + H(b)) of two labellings (N,), (N,).

    1 when each says the other, however they are numbered; near 0 when they are independent
    (Strehl & Ghosh 2002, with the arithmetic mean). 1 where both are constant.
    """
    rows, columns = int(a.max()) + 1, int(b.max()) + 1
    joint = torch.bincount(a * columns + b, minlength=rows * columns).double() / len(a)
    joint = joint.view(rows, columns)

    def entropy(p: Tensor) -> float:
        return float(torch.special.entr(p).sum())

    alone = entropy(joint.sum(1)) + entropy(joint.sum(0))
    return 2 * (alone - entropy(joint)) / alone if alone > 0 else 1.0


def known_classes(pool: Pool, n: int) -> tuple[Tensor, Tensor] | None:
    """Up to n held-out rows (n, dim) and the classes (n,) that the model is never told; or None."""
    rows = pool.test[:n]
    if pool.test_labels is not None:
        return rows, pool.test_labels[:n]
    found = pool.dataset.classify(rows) if pool.dataset.kind == "plane" else None
    return None if found is None else (rows, found)
