"""Energy-based models: any function is a density, once chains say where it must rise."""

from engines.energy.engine import EnergyBased

__all__ = ["EnergyBased"]
