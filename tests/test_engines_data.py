"""The contract over every engine: other data under a run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from engines import ENGINES, BadInput, Experiment, Run
from tests.contract import elsewhere, equal, panel_bytes, start, taken, weights
from tests.each import EACH

pytestmark = pytest.mark.usefixtures("small")


def towards(run: Run, rows: torch.Tensor) -> float:
    """Sliced W₂ from the model's samples to rows, by the metrics' own function."""
    from engines.metrics import sliced_w2

    return sliced_w2(run.sample(2000).numpy(), rows[:2000].numpy())


@pytest.mark.slow
@pytest.mark.parametrize("engine", EACH)
def test_a_run_that_is_fed_other_data_goes_on_and_follows_them(engine):
    run = start(engine).train(steps=100)
    run.frame()
    other = elsewhere(run.experiment, "moons")
    old, wanted = run.pool.test, other.start("cpu").pool.test
    before, losses = weights(run), {k: len(t.steps) for k, t in run.lanes[0].tracks.items()}
    assert run.feed(other) is run
    assert run.step == 100 and run.experiment == other
    assert torch.equal(run.pool.test, wanted)
    after = weights(run)
    assert all(torch.equal(before[k], after[k]) for k in before), "feeding changes no weight"
    far, near = towards(run, wanted), towards(run, old)
    run.train(steps=250)
    assert run.step == 350
    for name, track in run.lanes[0].tracks.items():
        assert len(track.steps) == losses[name] + 250, "the loss curve goes on"
    assert towards(run, wanted) < 0.5 * far
    assert towards(run, old) > 1.5 * near, "the wrong twin: the data it no longer sees"


@pytest.mark.parametrize("engine", EACH)
def test_nothing_of_the_old_data_is_shown_after_a_feed(engine):
    """Pictures and numbers are those of a run that never saw anything but the new data."""
    run = start(engine).train(steps=30)
    run.frame()
    run.feed(elsewhere(run.experiment, "two_gaussians", {"distance": 5.0}))
    blank = run.frame(measure=False).metrics
    assert all(math.isnan(m.value) for m in blank), "no number of the old data"
    frame = run.frame()
    fresh = start(engine, "moons").restore(run.checkpoint())
    other = fresh.frame()
    assert {m.name: m.value for m in frame.metrics} == pytest.approx(
        {m.name: m.value for m in other.metrics}, nan_ok=True
    )
    for a, b in zip(frame.panels, other.panels, strict=True):
        assert a.id == b.id and a.subtitle == b.subtitle and a.box == b.box
        if not a.id.startswith("distance"):  # those curves have one more point by now
            assert panel_bytes(a) == panel_bytes(b), a.id


@pytest.mark.parametrize("engine", EACH)
def test_a_fed_run_is_saved_with_its_standardisation(engine):
    changes = next(iter(ENGINES[engine].compare.values()), None)
    run = start(engine, beside=[changes] if changes else []).train(steps=15)
    # points far away and much wider: the standardisation at the start is not theirs
    xy = np.random.default_rng(0).normal(size=(400, 2)) * [5.0, 2.0] + [9.0, 3.0]
    if taken(engine, "moons") == "moons":
        run.feed(run.experiment.but(dataset="points", points=xy)).train(steps=5)
    else:
        run.feed(elsewhere(run.experiment, "moons")).train(steps=5)
    saved = run.checkpoint()
    again = start(engine, "moons", seed=9).restore(saved)
    assert again.experiment == run.experiment and again.step == 20
    for lane, other in zip(run.lanes, again.lanes, strict=True):
        assert torch.equal(lane.engine._mean, other.engine._mean)
    run.train(steps=12)
    again.train(steps=12)
    assert equal(weights(run), weights(again))
    assert torch.equal(run.lanes[-1].engine.sample(9), again.lanes[-1].engine.sample(9))
    # the wrong twin: a standardisation worked out from the data at hand
    with torch.no_grad():
        again.engine._mean.copy_(again.pool.mean)
    again.engine.refresh()
    run.train(steps=3)
    again.train(steps=3)
    assert not equal(weights(run), weights(again))


@pytest.mark.parametrize("engine", EACH)
def test_what_a_model_was_not_built_for_is_not_fed_to_it(engine):
    run = start(engine).train(steps=3)
    before, kept = weights(run), run.experiment
    wrong = [
        lambda: Experiment("digits", engine),
        lambda: elsewhere(kept, "moons").but(seed=1),
        lambda: kept.but(dataset="moons", engine=next(e for e in ENGINES if e != engine), knobs={}),
    ]  # fmt: skip
    for make in wrong:
        with pytest.raises(BadInput) as refused:
            run.feed(make())
        assert str(refused.value).endswith(".")
        assert run.step == 3 and run.experiment == kept and equal(before, weights(run))
    run.train(steps=2)
    assert equal(weights(run), weights(start(engine).train(steps=5)))


def test_a_diverged_run_begins_again_with_the_data_it_is_fed():
    run = start("flow").train(steps=2)
    run.diverged = "The run diverged."
    run.feed(run.experiment.but(dataset="moons"))
    assert run.diverged is None and run.step == 0
    assert run.train(steps=2).experiment.dataset == "moons"


def test_a_component_that_old_data_killed_can_live_again():
    run = start("mixture", knobs={"n_components": 4}).train(steps=5)
    with torch.no_grad():
        run.engine.log_weight[0] = -math.inf
        run.engine.log_weight -= run.engine.log_weight.logsumexp(0)
    run.train(steps=1)
    assert run.engine.log_weight[0] < -600, "EM never gives it a point again"
    run.feed(run.experiment.but(dataset="moons")).train(steps=1)
    assert run.engine.log_weight[0] > -60
    assert float(run.engine.log_weight.exp().sum()) == pytest.approx(1.0)
