"""How good labelled pictures are: a classifier that has seen nothing but them is set a real test.

No single number is honest about pictures. A copy of the training rows has a perfect accuracy, and
gives itself away by its distance to them (`engines.metrics.nearest_ratio`); noise is far from
everything, and teaches nothing.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from engines.metrics import Array, Estimate, as_array

SAMPLES = 2_000


def taught(x: Array, y: Array, real: Array, labels: Array) -> Estimate:
    """Share of real rows that a classifier taught by samples alone puts into their class.

    The "classification accuracy score" of Ravuri & Vinyals 2019, with a support vector machine
    of Gaussian kernel (C = 10, γ = 1 / (d · Var x), scikit-learn's own): trained on 2,000 draws
    from the 1,097 real digits it reaches .984 on the held-out ones, so that there is room above.

    Args:
        x, y: (N, d) samples and the classes (N,) that they were asked to be.
        real, labels: (M, d) held-out rows in the same units, and their classes (M,).

    The standard error is that of a share of M rows. With a single class among the samples, their
    class is all that there is to learn. NaN, with a note, when a sample is not finite.
    """
    from sklearn.svm import SVC  # takes as long to load as all else at the start of the page

    x, real = as_array(x), as_array(real)
    y, labels = (np.asarray(as_array(part), dtype=np.int64) for part in (y, labels))
    if not np.isfinite(x).all():
        return Estimate(math.nan, None, "some samples are not finite numbers")
    # in units of the samples' own spread, which may be nil before training
    scale = max(float(x.std()), 1e-9)
    if len(np.unique(y)) == 1:
        said = np.full(len(real), y[0])
    else:
        said = SVC(C=10.0).fit(x / scale, y).predict(real / scale)
    share = float((said == labels).mean())
    return Estimate(share, math.sqrt(share * (1 - share) / len(labels)))


def obeyed(asked: Tensor, found: Tensor) -> Estimate:
    """Share of samples that lie in the part of the class that they were asked for, (N,), (N,)."""
    share = float((asked == found).double().mean())
    return Estimate(share, math.sqrt(share * (1 - share) / len(asked)))
