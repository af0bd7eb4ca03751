"""Which moments are kept, and what goes on from one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from app.timeline import DENSE, Moment, Timeline
from engines import ENGINES, BadInput, Experiment
from tests.each import EACH


def after(seconds: float, every: float = 1.0, size: int = 1000) -> Timeline:
    timeline = Timeline()
    for i in range(int(seconds / every) + 1):
        timeline.add(Moment(10 * i, i * every, b"x" * size))
    return timeline


def test_the_beginning_is_dense_and_the_rest_thins_out_evenly_on_a_logarithmic_axis():
    timeline = after(3600)
    at = [m.seconds for m in timeline.moments]
    assert at[: int(DENSE) + 1] == list(range(int(DENSE) + 1))
    assert at[-1] == 3600
    gaps = np.diff([math.log(1 + s) for s in at if s >= DENSE])
    assert gaps.max() < 3 * np.median(gaps)  # none is a hole
    # keeping every n-th instead would leave hardly anything between 10 s and a minute
    assert sum(DENSE < s < 60 for s in at) >= 5
    even = np.diff([math.log(1 + s) for s in np.linspace(DENSE, 3600, len(gaps) + 1)])
    assert even.max() > 3 * np.median(even)


def test_an_hour_takes_no_more_room_than_ten_minutes():
    ten, hour = after(600), after(3600)
    assert hour.bytes <= 1.1 * ten.bytes
    assert len(hour.moments) == hour.count


def test_huge_checkpoints_stay_within_the_size():
    timeline = Timeline(size=5000)
    for i in range(100):
        timeline.add(Moment(i, 0.1 * i, b"x" * 1000))
    assert timeline.bytes <= 5000
    assert timeline.steps[0] == 0 and timeline.steps[-1] == 99


def test_nearest_and_cut():
    timeline = after(20)
    assert timeline.nearest(43).step == 40
    timeline.cut(45)
    assert timeline.steps[-1] == 40
    timeline.add(Moment(40, 4.0, b"new"))
    assert timeline.moments[-1].saved == b"new" and timeline.steps.count(40) == 1


@pytest.mark.parametrize("engine", EACH)
def test_a_branch_goes_on_as_the_run_did(engine):
    """Without a change of knobs the branch is the same run, bit for bit; with one it is not."""
    run = Experiment(ENGINES[engine].opens_on, engine, knobs={}).start("cpu").train(steps=20)
    saved = run.checkpoint()
    straight = weights(run.train(steps=10))
    run.branch(saved)
    assert run.step == 20
    assert equal(straight, weights(run.train(steps=10)))
    live = next(
        (
            k
            for k, e in run.engine.knobs.items()
            if e.live and "lr" in k and e.applies(run.experiment.knobs)
        ),
        None,
    )
    if live:
        run.set(live, run.engine.knobs[live].high)
        run.branch(saved)
        assert run.experiment.knobs[live] == run.engine.knobs[live].high
        assert run.lanes[0].ghosts
        assert not equal(straight, weights(run.train(steps=10)))


def weights(run) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.engine.state()[0].items() if k != "view_rng"}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("wrong", [b"", b"junk", None, 5])
def test_what_is_no_checkpoint_is_refused_and_the_run_goes_on(wrong):
    run = Experiment("ring8soft", "mixture").start("cpu").train(steps=3)
    with pytest.raises(BadInput):
        run.branch(wrong)
    other = Experiment("ring8soft", "flow").start("cpu").train(steps=1).checkpoint()
    with pytest.raises(BadInput):
        run.branch(other)
    assert run.step == 3
    assert run.train(steps=1).step == 4


def test_steps_are_unique_and_sorted():
    steps = after(500, every=0.5).steps
    assert all(a < b for a, b in itertools.pairwise(steps))
