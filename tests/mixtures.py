"""What the tests of mixtures share: three clouds, a run on them, and scikit-learn's own mixture."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.mixture import GaussianMixture

from engines import Experiment
from engines.base import Engine
from engines.mixture import Mixture
from engines.mixture.gaussians import Gaussians

KINDS = ("full", "diagonal", "spherical", "tied")
THEIRS = {"full": "full", "diagonal": "diag", "spherical": "spherical", "tied": "tied"}


def blobs(n: int = 600, seed: int = 0) -> np.ndarray:
    """Three long, tilted, separate clouds, far from the origin and of unequal scale, (n, 2)."""
    rng = np.random.default_rng(seed)
    centre = np.array([[0.0, 0.0], [6.0, 1.0], [2.0, 7.0]])
    root = np.array([[[1.0, 0.0], [0.6, 0.4]], [[0.3, 0.0], [-0.2, 0.9]], [[0.7, 0.0], [0.0, 0.7]]])
    which = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    z = rng.standard_normal((n, 2))
    return (centre[which] + np.einsum("nij,nj->ni", root[which], z)) * [3.0, 0.2] + [40.0, -5.0]


def standardised(rows: np.ndarray) -> torch.Tensor:
    return torch.tensor((rows - rows.mean(0)) / rows.std(0).clip(1e-3))


def blob_run(**knobs) -> Mixture:
    knobs = {"n_components": 3, **knobs}
    return Experiment.from_points(blobs(), "mixture", knobs=knobs).start("cpu")


def theirs(x: torch.Tensor, g: Gaussians, covariance: str, floor: float, steps: int):
    """scikit-learn's mixture after `steps` EM iterations from the very same start."""
    d = x.shape[1]
    precision = np.linalg.inv(g.cov.numpy())
    precision = {
        "full": lambda: precision,
        "tied": lambda: precision[0],
        "diagonal": lambda: precision.diagonal(axis1=1, axis2=2),
        "spherical": lambda: precision[:, 0, 0],
    }[covariance]()
    model = GaussianMixture(
        len(g.mean), covariance_type=THEIRS[covariance], tol=0.0, max_iter=steps, reg_covar=floor,
        init_params="random_from_data", random_state=0, weights_init=g.log_weight.exp().numpy(),
        means_init=g.mean.numpy(), precisions_init=precision,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it did not converge: that is the point
        model.fit(x.numpy())
    cov = {
        "full": lambda: model.covariances_,
        "tied": lambda: np.broadcast_to(model.covariances_, (len(g.mean), d, d)),
        "diagonal": lambda: np.stack([np.diag(v) for v in model.covariances_]),
        "spherical": lambda: model.covariances_[:, None, None] * np.eye(d),
    }[covariance]()
    return model, cov


def panels(engine: Engine) -> dict:
    return {panel.id: panel.drawn() for panel in engine.panels()}
