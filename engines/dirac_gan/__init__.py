"""Dirac GAN: one parameter a player, so that the whole game fits into one picture."""

from engines.dirac_gan.engine import DiracGAN
from engines.dirac_gan.game import CURES, LOSSES, Game, Loss

__all__ = ["CURES", "LOSSES", "DiracGAN", "Game", "Loss"]
