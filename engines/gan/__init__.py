"""Generative adversarial networks: a generator and a discriminator play against each other."""

from engines.gan.engine import GAN
from engines.gan.losses import LOSSES, Loss, minimax, non_saturating, squared_slope, value

__all__ = ["GAN", "LOSSES", "Loss", "minimax", "non_saturating", "squared_slope", "value"]
