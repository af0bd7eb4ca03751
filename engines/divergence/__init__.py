"""Divergences: fit a simple q to a known p, and see why the choice of divergence matters."""

from engines.divergence.engine import Divergence

__all__ = ["Divergence"]
