"""Pictures of a copy: the same as of the engine itself, while training goes on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engines import ENGINES, Experiment, Run
from engines.onlook import Onlooker, Snapshot, tensors
from engines.quantise import Codes
from tests.contract import equal, panel_bytes, weights
from tests.each import quick
from tests.frozen import Frozen
from tests.test_graphs import SMALL, alike


def started(name: str, **knobs) -> Run:
    # relativistic losses say nothing of a GAN's last bias
    small = {
        **SMALL,
        "loss": "non-saturating",
        "batch": 64,
        "n_points": 500,
        "n_components": 3,
        **knobs,
    }
    if name == "divergence":  # there the width is of a Gaussian
        del small["width"]
    own = {k: v for k, v in small.items() if k in ENGINES[name].knobs}
    return Experiment(ENGINES[name].opens_on, name, knobs=own).start("cpu")


def looking(run: Run) -> Run:
    """With graphs and an onlooker, as on a GPU."""
    run.by_graphs(Frozen(watched=False))
    run.onlooker = Onlooker("cpu")
    return run


def numbers(value: object) -> np.ndarray | None:
    """An array of a mark, out of its codes if it left a device as such."""
    if not isinstance(value, Codes):
        return value if isinstance(value, np.ndarray) else None
    scale, offset = (
        np.array(value.how.get(name, no)) for name, no in [("scale", 1), ("offset", 0)]
    )
    return value.codes * scale / (1 if "scale" in value.how else 255) + offset


def pictures(frame) -> list[str]:
    return [panel_bytes(panel) for panel in frame.panels]


@pytest.mark.parametrize("name", quick(ENGINES))
def test_a_picture_of_the_copy_is_the_picture(name):
    """Twice: the second time the copy is brought up to date."""
    plain, looked = started(name), started(name)
    looked.onlooker = Onlooker("cpu")
    for steps in (3, 4):
        one, other = (run.train(steps=steps).frame(measure=False) for run in (plain, looked))
        assert pictures(one) == pictures(other) and one.step == other.step
    assert equal(weights(plain), weights(looked))


def test_training_goes_on_while_a_frame_is_drawn():
    plain, looked = started("gan"), looking(started("gan"))
    got = looked.train(steps=50).frame(measure=False, ahead=25)
    assert got.step == 50 and looked.step == 70, "whole replays, no more than asked for"
    assert looked.engine.step_count == 70
    # a look at the engine itself would be of later weights
    direct = started("gan").by_graphs(Frozen(watched=False)).train(steps=50)
    assert pictures(direct.frame(measure=False)) == pictures(got)
    direct.train(steps=20)
    assert pictures(direct.frame(measure=False)) != pictures(got)
    assert all(metric.step == 70 for metric in looked.measure())
    assert looked.lanes[0].tracks["generator"].steps == list(range(1, 71))
    alike(plain.train(steps=70), looked, 1e-5)


def test_nothing_is_queued_where_nothing_is_captured():
    run = looking(started("mixture")).train(steps=20)
    assert run.frame(measure=False, ahead=50).step == run.step == 20
    eager = started("gan")
    eager.frame(measure=False, ahead=50)
    assert eager.step == 0


def test_a_copy_shares_no_weights_and_is_made_anew_when_more_than_weights_change():
    run = started("flow").train(steps=3)
    lane = run.lanes[0]
    snapshot = Snapshot(lane)
    mine, theirs = tensors(snapshot.view), tensors(run.engine)
    assert len(mine) == len(theirs) > 4
    assert not {t.data_ptr() for t in mine} & {t.data_ptr() for t in theirs}
    run.train(steps=2)
    changed = [not torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)]
    assert any(changed) and snapshot.view.step_count == 3
    snapshot.take()
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert snapshot.view.step_count == 5 and snapshot.suits(lane)
    run.set("grid_lines", 9)
    assert not snapshot.suits(lane)
    fresh = Snapshot(lane)
    run.act("follow", x=0.5, y=0.5)
    assert not fresh.suits(lane)


def test_actions_and_new_data_are_seen_at_once():
    plain, looked = started("flow"), started("flow")
    looked.onlooker = Onlooker("cpu")
    for run in (plain, looked):
        run.train(steps=5).frame(measure=False)
        run.act("follow", x=0.7, y=-0.4)
        run.set("grid_lines", 9)
    assert pictures(plain.frame(measure=False)) == pictures(looked.frame(measure=False))
    for run in (plain, looked):
        run.feed(run.experiment.but(dataset="rings"))
    assert pictures(plain.frame(measure=False)) == pictures(looked.frame(measure=False))


def test_what_a_lane_keeps_looks_at_the_copy_too():
    run = looking(started("gan")).train(steps=3)
    run.lanes[0].helper = helper = SimpleNamespace(engine=run.engine)
    with run.onlooker.look(run):
        assert helper.engine is run.engine is not engine_of(run)
    assert helper.engine is run.engine is engine_of(run)


def engine_of(run: Run):
    """The engine that trains."""
    return run.graphs.steps[0].engine


def test_an_error_while_drawing_leaves_the_run_as_it_was(monkeypatch):
    run = looking(started("gan")).train(steps=50)
    engine, known = run.engine, run.lanes[0].probes
    monkeypatch.setattr(type(engine), "panels", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.frame(ahead=20)
    assert run.engine is engine and run.lanes[0].probes is known
    assert run.step == run.engine.step_count == 70 and not run.onlooker.looking
    monkeypatch.undo()
    assert run.frame(measure=False).step == 70


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gan", "flow", "diffusion", "vae"])
def test_a_frame_on_the_second_stream_is_the_frame(name):
    """Of the same weights: one drawn while replays go on, and one of a run that stands still."""
    experiment = Experiment(ENGINES[name].opens_on, name)
    runs = [experiment.start("cuda").by_graphs() for _ in range(2)]
    for run in runs:
        for steps in run.graphs.steps:
            steps.backend.rest = 0.0
        run.graphs.backend.rest = 0.0
        run.train(steps=60).frame(measure=False)
    still, moving = runs
    still.onlooker = None
    one, other = still.frame(measure=False), moving.frame(measure=False, ahead=100)
    assert one.step == other.step == 60 and moving.step == 160
    for a, b in zip(one.panels, other.panels, strict=True):
        for x, y in zip(a.marks, b.marks, strict=True):
            for key in vars(x):
                have, want = numbers(vars(y)[key]), numbers(vars(x)[key])
                if want is not None and want.dtype.kind == "f":
                    np.testing.assert_allclose(have, want, rtol=1e-2, atol=1e-2, equal_nan=True)
