"""Numbers that say how close a model is, and what each of them can and cannot see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engines.marks import Metric

if TYPE_CHECKING:
    from engines.base import Engine


@dataclass
class Probe:
    """A measurement that Run makes from time to time: at most `hz` times a second."""

    name: str
    names: tuple[str, ...]  # of the metrics it returns, in the order of the page
    compute: Callable[[], list[Metric]]
    hz: float = 2.0


def nearest(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to, and index of, the nearest of `rows` for each x: ((N,), (N,))."""
    best = torch.cdist(x.float(), rows.float()).min(1)
    return best.values, best.indices


def probes(engine: Engine) -> list[Probe]:
    """The measurements that make sense for this model on this data."""
    pool = engine.pool
    dataset = pool.dataset
    out = []
    if dataset.kind == "plane" and dataset.has_density and engine.has_density:

        def forward() -> list[Metric]:
            gap = dataset.log_prob(pool.test) - engine.log_prob(pool.test)
            se = gap.std() / len(gap) ** 0.5
            return [Metric("kl_pq", float(gap.mean()), "nats", "exact", se=float(se), floor=0.0,
                           label="KL(p‖q)")]  # fmt: skip

        out.append(Probe("kl_pq", ("kl_pq",), forward))
    return out
