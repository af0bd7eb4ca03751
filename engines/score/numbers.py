"""How far the learned score is from the exact one, and how many moves Metropolis' rule accepts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from engines.marks import Metric
from engines.probes import Probe

if TYPE_CHECKING:
    from engines.score.engine import ScoreMatching

ROWS, LEVELS = 500, 9


@dataclass
class Gap:
    """Means over held-out rows in noise σ, each number one a level of `sigma`.

    Attributes:
        sigma: 0 is no noise.
        loss: E|σ s + ε|²/d of the learned score, NaN without noise.
        floor: the same of the exact one; lost: E|s − s*|²/d, times σ² where there is noise;
            share: E|s − s*|²/E|s*|². NaN where the exact score is not known.
    """

    sigma: np.ndarray
    loss: np.ndarray
    floor: np.ndarray
    lost: np.ndarray
    share: np.ndarray


def known(engine: ScoreMatching, sigmas: list[float]) -> bool:
    """Whether there is an exact score in all this noise: uniform squares have none without any."""
    if engine.exact is None or min(sigmas) > 0:
        return engine.exact is not None
    try:
        score = engine.exact.score(engine.standardise(engine.pool.test[:16].float()), 1.0, 0.0)
    except ValueError:
        return False
    return bool(torch.isfinite(score).all() and score.any())


@torch.no_grad()
def gap(engine: ScoreMatching, rows: int = ROWS, levels: int = LEVELS) -> Gap:
    """The learned score against the exact one, on noise that is the same every time."""
    z = engine.standardise(engine.pool.test[:rows].float())
    rng = torch.Generator(engine.device).manual_seed(6_000_011)
    eps = torch.randn(z.shape, generator=rng, device=engine.device)
    sigmas = engine.seen(levels)
    out = torch.full((4, len(sigmas)), math.nan, device=engine.device, dtype=torch.float64)
    key = (tuple(sigmas), len(z))
    if engine._rows_key != key:
        # the exact scores at these places never change, and some of them are integrals
        exact = engine.exact if known(engine, sigmas) else None
        engine._rows_exact = [exact and exact.score(z + s * eps, 1.0, s) for s in sigmas]
        engine._rows_key = key
    for i, (sigma, truth) in enumerate(zip(sigmas, engine._rows_exact, strict=True)):
        s = engine.learned(z + sigma * eps, sigma)
        if sigma:
            out[0, i] = (sigma * s + eps).square().mean()
        if truth is not None and torch.isfinite(truth).all() and truth.any():
            out[2, i] = (s - truth).square().mean() * (sigma**2 or 1.0)
            out[3, i] = (s - truth).square().sum() / truth.square().sum()
            if sigma:
                out[1, i] = (sigma * truth + eps).square().mean()
    return Gap(np.array(sigmas), *out.cpu().numpy())


def metrics(engine: ScoreMatching) -> list[Metric]:
    if not engine.metropolis:
        return []
    trace = engine.course()
    return [
        Metric("accepted", 100 * float(trace.accepted.float().mean()), "%", "estimate",
               label="Moves accepted",
               help="Share of the chains' moves that Metropolis' rule let pass; a chain does best "
               "at about 57 %, and below a tenth it hardly moves."),
    ]  # fmt: skip


def probes(engine: ScoreMatching) -> list[Probe]:
    def compute() -> list[Metric]:
        found = gap(engine)
        value = float(100 * found.share.mean())
        at = {1: f"at σ = {found.sigma[0]:g}" if found.sigma[0] else "without noise"}
        where = at.get(len(found.sigma), f"mean over {len(found.sigma)} levels of noise")
        return [
            Metric("score_error", value, "%", "estimate", floor=0.0, label="Score error", note=where,
                   help="E|s − s*|²/E|s*|² on held-out data in noise, against the exact score: 0 is "
                   "exact, 100 as bad as no score at all. Between the data it says nothing."),
        ]  # fmt: skip

    if not known(engine, engine.seen(2)):
        return []
    return [Probe("score_error", ("score_error",), compute, 0.7)]
