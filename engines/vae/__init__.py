"""Variational autoencoder: a decoder of simple noise, and an encoder that guesses which noise.

    log p(x) ≥ E_{r(z|x)}[log p(x|z)] − KL(r(z|x)‖p(z))

bounds.py has the encoder's Gaussian and the bounds, decoders.py what the decoder says of x,
networks.py the two networks. The engine (engine.py) trains them; pictures.py shows them.
"""

from engines.vae.bounds import (
    Posterior,
    freed,
    importance_bound,
    log_prior,
    log_weights,
    parts,
    proposed,
)
from engines.vae.decoders import Gaussian, Levels
from engines.vae.engine import VAE
from engines.vae.networks import Net

__all__ = [
    "VAE", "Gaussian", "Levels", "Net", "Posterior", "freed", "importance_bound", "log_prior",
    "log_weights", "parts", "proposed",
]  # fmt: skip
