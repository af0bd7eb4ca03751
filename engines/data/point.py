"""All of the data at one point: what the smallest game of two players is played about."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from engines.data.base import Dataset, Pool, Split
from engines.knobs import knob

ROWS = 1000  # all the same


class Point(Dataset):
    """p = δ(x − x*), on the line: every row is x*.

    It has no density and no spread, so that engines which are not made for it refuse it.
    """

    name: ClassVar[str] = "point"
    about = "All data at a single point of the line: for the Dirac GAN."
    source = "Mescheder, Geiger & Nowozin 2018, section 2: the data of the Dirac GAN"
    place = 19.7
    kind = "point"
    shape = (1,)
    alone = (
        "All of these data are a single point, which has no density: only the Dirac GAN takes it."
    )

    at: float = knob(0.0, -2.0, 2.0, label="Place", help="Where on the line the point is.")

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.extent = (self.at - 3.0, self.at + 3.0, -3.0, 3.0)

    def sample(self, n: int, generator: torch.Generator, split: Split = "train") -> Tensor:
        return torch.full((n, 1), self.at, device=generator.device)

    def pool(self, seed: int, device: torch.device | str = "cpu") -> Pool:
        rows = torch.full((ROWS, 1), self.at, device=device)
        return Pool(self, rows, rows[:100], rows)
