"""Diffusion models: one denoiser for all levels of noise, and many ways of walking with it."""

from engines.diffusion.engine import Diffusion
from engines.diffusion.samplers import SAMPLERS
from engines.diffusion.schedules import Schedule, make_schedule

__all__ = ["SAMPLERS", "Diffusion", "Schedule", "make_schedule"]
