"""Score matching: learn the slope of log p, and walk along it with noise."""

from engines.score.engine import ScoreMatching

__all__ = ["ScoreMatching"]
