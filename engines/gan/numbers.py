"""What D says of data and of samples, as numbers on the page."""

from __future__ import annotations

import math

from torch import Tensor

from engines.gan.losses import Loss, value
from engines.marks import Metric


def numbers(game: Loss, real: Tensor, fake: Tensor, pack: int) -> list[Metric]:
    """What D says of held-out data and of samples, in the terms of the game that is played."""
    if game.probability is None:
        gap = float(real.mean() - fake.mean())
        return [Metric("gap", gap, floor=0.0, label="Critic's gap",
                       help="Mean of the critic over held-out data, minus that over samples; 0 when "
                       "it cannot tell. Where its slope is at most 1, a lower bound of the "
                       "Wasserstein-1 distance in standard deviations.")]  # fmt: skip
    d, a = game.probability, "x" if pack == 1 else f"{pack} points together"
    out = [
        Metric("d_real", float(d(real).mean()), floor=0.5, label="D on data",
               help=f"Mean D({a}) over held-out data; ½ when D cannot tell."),
        Metric("d_fake", float(d(fake).mean()), floor=0.5, label="D on samples",
               help=f"Mean D({a}) over samples of the model; ½ when D cannot tell."),
    ]  # fmt: skip
    if game.plays_value:
        of = "" if pack == 1 else f" of packs of {pack}"
        out.append(Metric("game", float(value(real, fake)), "nats", floor=-math.log(4),
                          label="V(D, G)",
                          help="E log D on held-out data + E log(1 − D) on samples. (V + log 4)/2 is "
                          f"a lower bound of the Jensen–Shannon divergence{of}, and tight for the "
                          "best D."))  # fmt: skip
    return out
