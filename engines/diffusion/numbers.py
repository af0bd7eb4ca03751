"""Numbers that are special to diffusion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.marks import Metric
from engines.probes import Probe

if TYPE_CHECKING:
    from engines.diffusion.engine import Diffusion


def metrics(engine: Diffusion) -> list[Metric]:
    return []


def probes(engine: Diffusion) -> list[Probe]:
    return []
