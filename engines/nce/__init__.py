"""Noise-contrastive estimation: a density learnt by telling data from noise that one knows."""

from engines.nce.engine import NCE, Ratio, contrast
from engines.nce.noises import NOISES, Box2, Fitted, Gaussian, Noise

__all__ = ["NCE", "NOISES", "Box2", "Fitted", "Gaussian", "Noise", "Ratio", "contrast"]
