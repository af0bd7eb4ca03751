"""Normalizing flow: an invertible map f carries data to noise, so its density is exact.

    log q(x) = log p_z(f(x)) + log |det ∂f/∂x|

A flow is a list of layers (layers.py) of one kind (kinds.py and a file for each family of
them) that ends in noise of one base distribution (bases.py). The engine (engine.py) trains it
by maximum likelihood; pictures.py shows it.
"""

from engines.flow.affine import Coupling, Glow, RealNVP
from engines.flow.autoregressive import IAF, MAF, SplineAutoregressive
from engines.flow.bases import Gaussian, GaussianMixture, Squash, Uniform, log_normal
from engines.flow.continuous import Continuous
from engines.flow.engine import Flow
from engines.flow.kinds import KINDS, Model
from engines.flow.layers import Logit, Standardise
from engines.flow.planar import Planar, Radial
from engines.flow.spline import SplineCoupling

__all__ = [
    "IAF", "KINDS", "MAF", "Continuous", "Coupling", "Flow", "Gaussian", "GaussianMixture", "Glow", "Logit", "Model",
    "Planar", "Radial", "RealNVP", "SplineAutoregressive", "SplineCoupling", "Squash", "Standardise", "Uniform", "log_normal",
]  # fmt: skip
