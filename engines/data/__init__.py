"""Datasets. Importing the package registers all of them in DATASETS."""

from engines.data import images, line, mixtures, own, pinwheel, plane, point, vectors, walks
from engines.data.base import DATASETS, Dataset, Modes, PointsDataset, Pool
from engines.data.own import snap

_ordered = sorted(DATASETS.items(), key=lambda item: item[1].place)
DATASETS.clear()
DATASETS.update(_ordered)

__all__ = [
    "DATASETS",
    "Dataset",
    "Modes",
    "PointsDataset",
    "Pool",
    "images",
    "line",
    "mixtures",
    "own",
    "pinwheel",
    "plane",
    "point",
    "snap",
    "vectors",
    "walks",
]
