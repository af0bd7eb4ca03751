"""Diffusion that is told a class, and guided towards it more than it was told."""

from engines.guided.engine import Guided
from engines.guided.exact import ClassPath

__all__ = ["ClassPath", "Guided"]
