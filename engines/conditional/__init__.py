"""Conditional GAN: both players are told the class."""

from engines.conditional.engine import Conditional

__all__ = ["Conditional"]
