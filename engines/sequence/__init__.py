"""Sequences continued by a model of the next step, and how its errors add up."""

from engines.sequence.copies import Copies
from engines.sequence.engine import WAYS, Sequence

__all__ = ["WAYS", "Copies", "Sequence"]
