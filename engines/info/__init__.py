"""InfoGAN: codes that the samples must tell."""

from engines.info.engine import InfoGAN

__all__ = ["InfoGAN"]
