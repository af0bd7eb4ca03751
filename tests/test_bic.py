"""How many clouds: the criterion against scikit-learn's, and the models that it chooses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from engines import Experiment
from engines.marks import Curves
from engines.mixture.gaussians import aic, bic, e_step, free_parameters, log_density
from engines.mixture.ladder import Ladder, Selection
from tests.mixtures import KINDS, blob_run, blobs, panels, standardised, theirs


@pytest.mark.parametrize("covariance", KINDS)
def test_bic_is_scikit_learns(covariance):
    run = blob_run(covariance=covariance, floor=1e-3)
    engine = run.engine
    start, x = engine.gaussians(), engine._z
    run.train(steps=9)
    model, _ = theirs(x, start, covariance, 1e-3, 9)
    n, p = len(x), free_parameters(3, 2, covariance)
    assert p == model._n_parameters()
    # data units: each of n log-densities is smaller by Σ log σ
    units = 2 * n * float(engine._std.double().log().sum())
    shown = {m.name: m for m in engine.metrics()}
    assert shown["bic"].value == pytest.approx(model.bic(x.numpy()) + units, rel=1e-9)
    nll = -model.score(x.numpy())
    assert bic(nll, n, p) == pytest.approx(model.bic(x.numpy()), rel=1e-12)
    assert aic(nll, n, p) == pytest.approx(model.aic(x.numpy()), rel=1e-12)
    assert bic(nll, n, p + 1) != pytest.approx(model.bic(x.numpy()), rel=1e-9)  # K weights, not K−1
    share = model.weights_
    effective = math.exp(-(share * np.log(share)).sum())
    assert shown["effective_components"].value == pytest.approx(effective, rel=1e-9)


def test_selection_finds_three_and_repeats():
    x = standardised(blobs())

    def fit() -> Selection:
        chosen = Selection(x, 0.0, "full", 1e-6, seed=0)
        while chosen.settled(6) < 6:
            chosen.advance(6)
        return chosen

    first, scores = fit(), fit().scores(6)
    assert first.scores(6) == scores
    assert min(scores, key=lambda k: scores[k][0]) == 3
    # more components always fit better: without its penalty the criterion would say so
    assert scores[6][0] - 6 * 6 * math.log(len(x)) < scores[3][0] - 3 * 6 * math.log(len(x))
    g, nll, _, _ = first.fits[3]
    assert nll == pytest.approx(-float(e_step(g, x)[0].mean()), rel=1e-12)


def by_bic(**knobs):
    return Experiment("ring8", "mixture", knobs={
        "choose": "by BIC", "n_components": 12, "n_points": 4000, **knobs}).start("cpu")  # fmt: skip


def test_the_rung_with_the_lowest_bic_is_the_model():
    run = by_bic().train(steps=40)
    engine, x = run.engine, run.engine._z
    assert isinstance(engine.ladder, Ladder)
    scores = {}
    for k in range(1, 13):  # scikit-learn's criterion for each rung
        weight, mean, cov = (part.numpy() for part in engine.ladder.rung(k))
        model = GaussianMixture(k, covariance_type="full")
        model.weights_, model.means_, model.covariances_ = np.exp(weight), mean, cov
        model.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(cov))
        scores[k] = model.bic(x.numpy()), -2 * len(x) * model.score(x.numpy())
    # numbers of before the last iteration; by now they move little
    ours = engine.ladder.criteria(len(x), "full", torch.zeros(()))[0].tolist()
    assert ours == pytest.approx([scores[k][0] for k in scores], abs=3.0)
    chosen = min(scores, key=lambda k: scores[k][0])
    assert len(engine.components()[0]) == chosen == 8
    assert min(scores, key=lambda k: scores[k][1]) > 8  # the wrong twin: no penalty
    held = run.pool.test[:500]
    np.testing.assert_allclose(
        run.log_prob(held),
        log_density(engine.ladder.rung(8), engine._whiten(held)) - engine._log_std,
        atol=1e-4,
    )
    shown = {m.name: m for m in engine.metrics()}
    assert (shown["components"].value, shown["components"].of) == (8, 12)
    assert "K = 8" in panels(engine)["bic"].subtitle
    assert len(panels(engine)["weights"].marks[0].names) == 8
    assert len(panels(engine)["responsibilities"].marks[1].mean) == 8
    assert run.sample(200).isfinite().all()


@pytest.mark.slow
def test_a_run_whose_k_bic_chooses_is_saved_and_follows_other_data():
    whole = by_bic().train(steps=12)
    half = by_bic().train(steps=6)
    other = by_bic().restore(half.checkpoint()).train(steps=6)
    for a, b in zip(whole.engine.state()[0].values(), other.engine.state()[0].values()):
        assert torch.equal(a, b)
    whole.feed(whole.experiment.but(dataset="two_gaussians")).train(steps=60)
    x = whole.pool.test
    assert float((whole.dataset.log_prob(x) - whole.log_prob(x)).mean()) < 0.02


def test_bic_panel_settles_on_eight():
    engine = Experiment("ring8", "mixture").start("cpu").engine
    engine.bic_max = 9
    for _ in range(60):
        engine.step_count += 1  # it goes on with the run
        picture = panels(engine)["bic"]
        assert panels(engine)["bic"].subtitle == picture.subtitle  # and stands still with it
    curves = picture.marks[0]
    assert isinstance(curves, Curves)
    assert list(curves.lines[0].x) == list(range(1, 10))
    assert curves.lines[0].x[curves.lines[0].y.argmin()] == 8
    assert picture.subtitle == "BIC is lowest at K = 8"
