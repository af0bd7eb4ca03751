"""A style-based GAN: noise is mapped to styles, and styles to every layer."""

from engines.style.engine import StyleGAN

__all__ = ["StyleGAN"]
