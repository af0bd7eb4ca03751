"""Digits: how they are split, dequantised, scaled, and measured in bits a pixel."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from engines.data import DATASETS
from engines.data.base import dequantised
from engines.data.images import bits_per_dim, digits

SIZES = {"train": 1097, "val": 200, "test": 500}


@pytest.fixture(scope="module")
def pool():
    return DATASETS["digits"]().pool(3)


def test_split_sizes_and_no_overlap():
    parts = digits()
    assert {split: len(rows) for split, (rows, _) in parts.items()} == SIZES
    # 1,797 images, all different, each in exactly one part
    rows = torch.cat([rows for rows, _ in parts.values()]).numpy()
    whole = load_digits().data
    assert sorted(map(bytes, rows.astype(np.uint8))) == sorted(map(bytes, whole.astype(np.uint8)))
    assert len(np.unique(whole, axis=0)) == len(whole) == sum(SIZES.values())


def test_labels_belong_to_their_rows(pool):
    known = {
        bytes(row): label
        for row, label in zip(load_digits().data.astype(np.uint8), load_digits().target)
    }
    rows = pool.train.numpy().astype(np.uint8)
    assert [known[bytes(row)] for row in rows] == pool.labels.tolist()
    # stratified: each class has a tenth of the test rows
    share = torch.bincount(digits()["test"][1], minlength=10) / 500
    assert (share - 0.1).abs().max() < 0.01


def test_pool_is_deterministic_and_in_range(pool):
    again, other = DATASETS["digits"]().pool(3), DATASETS["digits"]().pool(4)
    for split in ("train", "val", "test"):
        rows = getattr(pool, split)
        assert rows.shape == (SIZES[split], 64)
        assert rows.dtype == torch.float32
        assert torch.equal(rows, getattr(again, split))
        assert rows.min() >= 0
        assert rows.max() < 17
    assert torch.equal(pool.train, other.train)
    assert not torch.equal(pool.test, other.test)  # the noise is the seed's
    assert torch.equal(pool.test.floor(), other.test.floor())  # the images are not
    assert torch.equal(pool.train, pool.train.floor())


def test_batches_get_fresh_noise_and_standardise(pool):
    rng = torch.Generator().manual_seed(0)
    index = torch.zeros(4000, dtype=torch.int64)
    noise = pool.rows(index, rng) - pool.train[0]
    assert noise.min() >= 0
    assert noise.max() <= 1
    assert (noise.mean(0) - 0.5).abs().max() < 5 * (1 / 12 / 4000) ** 0.5
    assert len(noise[:, 0].unique()) > 3900
    z = (pool.batch(20_000, rng) - pool.mean) / pool.std
    assert z.mean(0).abs().max() < 0.04
    assert z.var(0).mean() == pytest.approx(1, abs=0.01)
    assert len(pool.std.unique()) == 1


def test_noise_never_reaches_the_next_integer():
    class Largest:
        """Stands in for a generator that draws the largest float32 below 1."""

    x = torch.full((3,), 16.0)
    largest = torch.tensor(1 - 2.0**-24)
    assert x[0] + largest == 17  # without care float32 rounds up
    drawn = torch.rand
    try:
        torch.rand = lambda shape, **_: largest.expand(shape)
        assert (dequantised(x, Largest()) < 17).all()
    finally:
        torch.rand = drawn


@pytest.mark.parametrize("split", SIZES)
def test_samples_are_rows_of_their_split(split):
    rng = torch.Generator().manual_seed(1)
    x = DATASETS["digits"]().sample(2000, rng, split)
    assert x.shape == (2000, 64)
    assert x.dtype == torch.float32
    own = {bytes(row) for row in digits()[split][0].numpy().astype(np.uint8)}
    drawn = [bytes(row) for row in x.floor().numpy().astype(np.uint8)]
    assert set(drawn) <= own
    assert len(set(drawn)) > 0.8 * min(len(own), 2000 * 0.6)


def test_bits_per_dim_of_the_uniform_density():
    # uniform on [0, 17)^64: log2 17 bits a pixel
    log_prob = torch.full((5,), -64 * math.log(17), dtype=torch.float64)
    assert torch.allclose(bits_per_dim(log_prob), torch.tensor(math.log2(17)).double())
    # a wrong twin in nats, or without the 64, is far off
    assert abs(float(-log_prob[0] / 64) - math.log2(17)) > 1
    # one independent histogram of 17 bins a pixel is a code: it must beat the uniform one
    train, test = (digits()[split][0].long() for split in ("train", "test"))
    counts = torch.nn.functional.one_hot(train, 17).sum(0) + 1.0
    log_p = (counts / counts.sum(1, keepdim=True)).log()
    total = log_p[torch.arange(64), test].sum(1)
    assert 1.5 < bits_per_dim(total).mean() < math.log2(17)


@pytest.mark.slow
def test_the_digits_are_not_loaded_before_they_are_needed():
    code = "import sys, engines.data; sys.exit('sklearn.datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
