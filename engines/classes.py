"""Classes of rows: the labels that come with pictures, or the parts that points of a plane lie in.

Every plane has classes, for they are places: the class of a point is a function of the point. So
it is known of a model's samples too, and p(x|y) is exactly p(x) on the part of y, over its mass.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from engines.data.base import Pool

MOST = 25  # classes that a network has a place for
QUARTERS = 4


class Classes:
    """The classes of one pool's rows.

    Attributes:
        count: K.
        words: what the classes are, for a subtitle.
        labels: (N,) int64 of the training rows. shares: (K,) of them.
    """

    def __init__(self, pool: Pool, middle: Tensor) -> None:
        """middle: (dim,) where quarters meet on a plane that has no parts of its own."""
        dataset = pool.dataset
        self._of: Callable[[Tensor], Tensor] | None
        if pool.labels is not None:
            self._of, labels, self.words = None, pool.labels, "the labels of the data"
        elif (labels := dataset.classify(pool.train)) is not None:
            self._of, self.words = dataset.classify, dataset.parts
        else:
            self._of, self.words = lambda x: quarter(x, middle), "quarters round the middle"
            labels = self._of(pool.train)
        self.labels = labels
        found = int(labels.max()) + 1
        self.count = max(found, dataset.classes)
        self.shares = torch.bincount(labels, minlength=self.count).float() / len(labels)

    @property
    def places(self) -> bool:
        """Whether the class of any point is known, not of the labelled rows alone."""
        return self._of is not None

    def of(self, x: Tensor) -> Tensor:
        """Class (N,) of each row (N, dim) in data units; raises ValueError without `places`."""
        if self._of is None:
            raise ValueError("The class of a row is known by its label alone.")
        return self._of(x)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n classes (n,) in the shares of the training rows."""
        return torch.multinomial(self.shares, n, True, generator=generator)


def quarter(x: Tensor, middle: Tensor) -> Tensor:
    """0 … 3, counterclockwise from the upper right: (N, dim ≥ 2) → (N,) by the first two."""
    right, up = (x[:, :2] >= middle[:2].to(x.device)).unbind(1)
    turn = torch.atan2(up.float() - 0.5, right.float() - 0.5) % (2 * math.pi)
    return (turn / (math.pi / 2)).floor().long().clamp(0, QUARTERS - 1)
