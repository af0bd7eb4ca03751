"""Image data: rows of pixels, integers with uniform noise added for continuous densities."""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from engines.data.base import Dataset, Pool, Split, dequantised


def bits_per_dim(log_prob: Tensor, dim: int = 64) -> Tensor:
    """−log p / (dim · ln 2): bits a pixel of dequantised images, log p in nats.

    An upper bound of the code length of the integers themselves (Theis, van den Oord &
    Bethge 2016, A note on the evaluation of generative models).
    """
    return -log_prob / (dim * math.log(2))


class Digits(Dataset):
    """Handwritten digits of 8 × 8 pixels: integers 0…16, so values lie in [0, 17).

    1,797 images, always split alike: `train_test_split(test_size=500, random_state=0,
    stratify=y)` leaves 500 for the test, and of the other 1,297 the last 200 are for
    validation and 1,097 for training.
    """

    name: ClassVar[str] = "digits"
    about = "Real handwritten digits, 8 × 8 pixels: a thousand to learn from."
    source = "scikit-learn load_digits (Alpaydin & Kaynak 1998, UCI)"
    place = 20
    kind = "images"
    shape = (8, 8)
    classes = 10
    levels: ClassVar[int] = 17

    def sample(self, n: int, generator: torch.Generator, split: Split = "train") -> Tensor:
        """n rows of the split drawn with replacement, with fresh noise: (n, 64) in [0, 17)."""
        rows = digits()[split][0].to(generator.device)
        index = torch.randint(len(rows), (n,), generator=generator, device=generator.device)
        return dequantised(rows[index], generator)

    def example(self) -> Tensor:
        """The first image of the file; scikit-learn, which takes a second to load, is not asked."""
        package = importlib.util.find_spec("sklearn").origin
        path = Path(package).parent / "datasets" / "data" / "digits.csv.gz"
        if not path.exists():
            return super().example()
        row = np.loadtxt(path, delimiter=",", max_rows=1, dtype=np.float32)
        return torch.from_numpy(row[: self.dim])

    def pool(self, seed: int, device: torch.device | str = "cpu") -> Pool:
        """All rows of each split; validation and test get their noise once, from the seed."""
        rng = torch.Generator().manual_seed(1_000_003 * (seed + 1))
        train, labels = digits()["train"]
        val, test = (dequantised(digits()[split][0], rng) for split in ("val", "test"))
        # one scale for all pixels: some at the border are always 0 and have none of their own
        std = (train.var(0).mean() + 1 / 12).sqrt().expand(self.dim).clone()
        parts = [part.to(device) for part in (train, val, test, labels)]
        held = digits()["test"][1].to(device)
        return Pool(self, *parts, dequantise=True, std=std.to(device), test_labels=held)


@lru_cache(maxsize=1)
def digits() -> dict[Split, tuple[Tensor, Tensor]]:
    """Split → rows (N, 64) float32 of integers, and classes (N,) int64. Read-only: it is kept."""
    # imported here, since it takes as long as all else at the start of the page
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=500, random_state=0, stratify=y)
    parts = {"train": (x[:-200], y[:-200]), "val": (x[-200:], y[-200:]), "test": (x_test, y_test)}
    return {
        split: (torch.from_numpy(rows).float(), torch.from_numpy(classes).long())
        for split, (rows, classes) in parts.items()
    }
