"""Inverse problems: a part of x is observed, and diffusion draws the rest."""

from engines.inverse.engine import Inverse

__all__ = ["Inverse"]
