"""How far a model's continuation lies from the true one, step by step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engines.marks import Metric

if TYPE_CHECKING:
    from engines.sequence.engine import Sequence

HELD = 300  # held-out walks
SHORT = ("teacher", "scheduled", "free")  # in the names of metrics


def true_walks(dataset: Any, start: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """x_{t+1} = f(x_t) + σ ε_t from start (N, 2) with noise ε (H, N, 2): (N, H, 2)."""
    out, x = [], start
    for step in noise:
        x = dataset.follow(x) + sigma * step
        out.append(x)
    return torch.stack(out, 1)


def rms_gap(a: Tensor, b: Tensor) -> Tensor:
    """√ E|a − b|² over the walks, (…, N, H, 2) → (…, H)."""
    return (a - b).square().sum(-1).mean(-2).sqrt()


class Horizon:
    """Continuations of held-out walks by the true process and by each of the models.

    After h steps the error is √ E|x̂_h − x_h|², where both go on from the same true points and
    are given the *same* noise: x_{t+1} = f(x_t) + σ ε_t and x̂_{t+1} = μ(x̂_t, …) + σ̂ ε_t. It is
    0 for the true model, without any noise, and bounds from above how far the distributions
    after h steps are apart, given the start: the 2-Wasserstein distance is the least over all
    ways to pair the two (Villani 2009, Optimal transport, definition 6.1).
    """

    def __init__(self, engine: Sequence) -> None:
        self.engine = engine
        self._kept: dict[str, tuple[Any, Any]] = {}
        with engine.still(stream=7):
            self.noise = engine.randn(2, engine.length, HELD, 2)

    def _once(self, name: str, key: Any, compute: Any) -> Any:
        """The value for this state of the model, worked out once."""
        if self._kept.get(name, (None,))[0] != key:
            self._kept[name] = (key, compute())
        return self._kept[name][1]

    def errors(self, luck: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """RMS gaps of the models (3, H), their squares' standard errors (3, H), and the RMS
        distance between two true continuations with noise of their own (H,)."""
        engine = self.engine
        return self._once(
            f"errors {luck == 1}",
            (engine.step_count, engine.prefix, luck),
            lambda: self._errors(luck),
        )

    def _errors(self, luck: float) -> tuple[Tensor, Tensor, Tensor]:
        engine, dataset = self.engine, self.engine.pool.dataset
        given = engine.pool.test[:HELD].view(HELD, -1, 2)[:, : engine.prefix]
        one, two = luck * self.noise[:, : engine.length - engine.prefix]
        true, other = (true_walks(dataset, given[:, -1], e, dataset.noise) for e in (one, two))
        square = (engine.carry_on(given, one) - true).square().sum(3)
        se = square.std(1) / math.sqrt(HELD)
        return square.mean(1).sqrt(), se, rms_gap(true, other)

    def divergences(self) -> tuple[Tensor, Tensor]:
        """E[log p(x_{t+1} | x_t) − log q(x_{t+1} | …)] a step, in nats, and its standard error."""
        engine = self.engine

        def compute() -> tuple[Tensor, Tensor]:
            x = engine.pool.test[:HELD].view(HELD, -1, 2)
            gap = engine.pool.dataset.log_step(x[:, :-1], x[:, 1:]) - engine.log_steps(x)
            gap = gap.mean(2).double()  # walks are independent, the steps of one are not
            return gap.mean(1), gap.std(1) / math.sqrt(HELD)

        return self._once("divergences", engine.step_count, compute)

    def metrics(self) -> list[Metric]:
        kl, se = (part.tolist() for part in self.divergences())
        gaps, spread, _ = self.errors()
        last = gaps.shape[1]
        far = gaps[:, -1].tolist()
        wide = (spread[:, -1] / (2 * gaps[:, -1]).clamp_min(1e-9)).tolist()
        out = [
            Metric(f"step_{short}", kl[i], "nats", "exact", se[i], 0.0, label=f"One step, {short}",
                   help="KL divergence of the next point given the true past, averaged over steps "
                   f"of {HELD} held-out walks: what teacher forcing is trained for.")
            for i, short in enumerate(SHORT)
        ]  # fmt: skip
        return out + [
            Metric(f"far_{short}", far[i], "", "exact", wide[i], 0.0, label=f"Last step, {short}",
                   help=f"RMS distance after {last} steps on its own from the true continuation of "
                   "the same start with the same noise, in the data's units.")
            for i, short in enumerate(SHORT)
        ]  # fmt: skip
