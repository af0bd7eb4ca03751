"""Pictures of a diffusion model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.marks import Panel

if TYPE_CHECKING:
    from engines.diffusion.engine import Diffusion


def panels(engine: Diffusion) -> list[Panel]:
    return []
