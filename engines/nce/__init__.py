"""Noise-contrastive estimation: a density learnt by telling data from noise that one knows."""

from engines.nce.engine import NCE, Ratio, contrast
from engines.nce.noises import NOISES, Noise

__all__ = ["NCE", "NOISES", "Noise", "Ratio", "contrast"]
