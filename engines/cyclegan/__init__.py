"""CycleGAN: from one dataset to another and back, without any pairs."""

from engines.cyclegan.engine import CycleGAN
from engines.cyclegan.networks import Pair
from engines.cyclegan.symmetry import Symmetry, best_symmetry, symmetry_of

__all__ = ["CycleGAN", "Pair", "Symmetry", "best_symmetry", "symmetry_of"]
