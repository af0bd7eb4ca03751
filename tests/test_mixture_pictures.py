"""What a mixture shows: clouds in the data's own units, whose points they are, and digits."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.datasets import load_digits

from engines import Experiment
from engines.data.base import Dataset, Pool
from engines.marks import Bars, Ellipses, Images, Points
from engines.mixture import Mixture
from tests.mixtures import panels


def test_pictures_of_ring8():
    run = Experiment("ring8", "mixture").start("cpu").train(steps=20)
    points, ellipses = panels(run.engine)["responsibilities"].marks
    assert isinstance(points, Points)
    assert isinstance(ellipses, Ellipses)
    # in data units: the modes are at radius 2 and have σ = 0.02
    np.testing.assert_allclose(np.linalg.norm(ellipses.mean, axis=1), 2, atol=0.01)
    np.testing.assert_allclose(
        ellipses.cov, np.broadcast_to(4e-4 * np.eye(2), (8, 2, 2)), atol=1e-4
    )
    away = np.linalg.norm(points.xy[:, None] - ellipses.mean, axis=2)
    assert np.array_equal(points.group, away.argmin(1))
    assert points.alpha.min() > 0.99  # nobody doubts here
    bars = panels(run.engine)["weights"].marks[0]
    assert isinstance(bars, Bars)
    np.testing.assert_allclose(bars.truth, 1 / 8, atol=1e-6)
    assert abs(bars.values.sum() - 1) < 1e-9
    assert (np.diff(bars.values) <= 0).all()
    run.set("n_components", 5)
    assert panels(run.engine)["weights"].marks[0].truth is None  # 5 bars against 8 modes: no


def test_view_knobs_change_the_picture():
    engine = Experiment("ring8", "mixture").start("cpu").engine
    points = lambda: panels(engine)["responsibilities"].marks[0]  # noqa: E731
    assert points().group is not None
    assert points().alpha is not None
    engine.fade_unsure = False
    assert points().alpha is None
    engine.colour_by_component = False
    assert points().group is None


def test_digits():
    class Digits(Dataset):
        kind, shape, levels = "images", (8, 8), 17

    rows = torch.tensor(load_digits().data, dtype=torch.float32)
    std = (rows + 0.5).var(0).add(1 / 12).sqrt()
    pool = Pool(Digits(), rows[:1000], rows[1000:1200], rows[1200:], dequantise=True, std=std)
    engine = Mixture({"n_components": 10, "floor": 0.1}, seed=0)
    engine.start(pool)
    losses = [float(engine.step()["loss"]) for _ in range(15)]
    bits = losses[-1] / (64 * math.log(2))
    assert losses[-1] < losses[0]
    assert 2.0 < bits < 3.0
    test = pool.test + torch.rand(pool.test.shape, generator=torch.Generator().manual_seed(0))
    assert bits < -float(engine.log_prob(test).mean()) / (64 * math.log(2)) < 3.2
    shown = panels(engine)
    sheet = shown["means"].marks[0]
    assert isinstance(sheet, Images)
    assert sheet.pixels.shape == (10, 8, 8)
    assert len(sheet.tags) == 10
    weight, mean, cov = engine.components()
    heaviest = mean[weight.argmax()].numpy().reshape(8, 8) / 17
    np.testing.assert_allclose(sheet.pixels[0], heaviest.clip(0, 1), atol=1e-6)
    # the projection of a Gaussian is the Gaussian of the projected rows
    points, ellipses = shown["responsibilities"].marks
    origin, axes = engine._plane()
    draws = torch.randn(40_000, 64, generator=torch.Generator().manual_seed(0)).double()
    draws = (mean[0] + draws @ torch.linalg.cholesky(cov[0]).T - origin) @ axes
    np.testing.assert_allclose(draws.mean(0), ellipses.mean[0], atol=0.2)
    np.testing.assert_allclose(draws.T.cov(), ellipses.cov[0], rtol=0.05, atol=1.0)
    assert len(points.xy) == 1000
