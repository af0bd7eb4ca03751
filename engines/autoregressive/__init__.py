"""Autoregressive models: a joint density as a product of conditionals, one a coordinate.

    q(x) = q(x_1) q(x_2 | x_1) … q(x_d | x_1 … x_{d−1})

conditionals.py has what a conditional may be, made.py the network that tells them all at once;
the engine (engine.py) trains it by maximum likelihood, and pictures.py shows it.
"""

from engines.autoregressive.conditionals import Binned, Categorical, Mixture
from engines.autoregressive.engine import Autoregressive
from engines.autoregressive.made import Made

__all__ = ["Autoregressive", "Binned", "Categorical", "Made", "Mixture"]
