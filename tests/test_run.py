"""A run and what it is made from, whichever engine it has: refusals, divergence, lanes, curves."""

from __future__ import annotations

import math

import pytest
import torch

from engines import DATASETS, ENGINES, BadInput, Diverged, Experiment, Run
from engines.data.base import PointsDataset, Pool
from engines.knobs import Knobbed, knob
from engines.lanes import Track


def start(engine: str, dataset: str = "ring8soft", **rest) -> Run:
    return Experiment(dataset, engine, **rest).start("cpu")


@pytest.mark.parametrize("bad", [b"", b"abc", b"\x08" + bytes(40), b"x" * 5000, "text", None, 7])
def test_what_is_no_checkpoint_is_refused_and_the_run_goes_on(bad):
    run = start("mixture").train(steps=3)
    before = run.checkpoint()
    with pytest.raises(BadInput, match="not a checkpoint"):
        run.restore(bad)
    assert run.step == 3 and run.checkpoint() == before
    run.train(steps=1)


def test_a_damaged_checkpoint_is_refused():
    run = start("mixture").train(steps=3)
    saved = run.checkpoint()
    other = start("gan").train(steps=2)
    for damaged in (saved[: len(saved) // 2], saved[:-8], bytes(8) + saved[8:]):
        with pytest.raises(BadInput):
            other.restore(damaged)
    assert other.step == 2 and other.experiment.engine == "gan"


def test_a_run_that_diverges_says_which_knob_to_try():
    run = start("flow", "grid25", knobs={"lr": ENGINES["flow"].knobs["lr"].high})
    good = run.frame()
    with torch.no_grad():  # a weight gone wrong, as a far too large step leaves it
        for p in next(
            m for m in vars(run.engine).values() if isinstance(m, torch.nn.Module)
        ).parameters():
            p.fill_(math.nan)
    with pytest.raises(Diverged, match="learning rate"):
        run.train(steps=3)
    frame = run.frame()
    assert frame is good or frame.step == good.step, "the last good frame is kept"
    assert "learning rate" in frame.note
    run.restart()
    run.train(steps=2)
    assert run.diverged is None


def test_weights_that_are_lost_without_a_loss_are_never_drawn():
    run = start("flow").train(steps=2)
    good = run.frame()
    net = next(m for m in vars(run.engine).values() if isinstance(m, torch.nn.Module))
    with torch.no_grad():
        next(net.parameters()).fill_(math.nan)
    assert run.frame() is good
    assert "weight" in good.note


def test_an_action_that_trains_is_measured():
    run = start("gan").train(steps=20)
    before = {m.name: m.value for m in run.frame().metrics}
    for _ in range(20):
        run.act("step_generator")
    after = {m.name: m.value for m in run.frame().metrics}
    assert before["sliced_w2"] != after["sliced_w2"]


def test_lanes_are_named_by_what_tells_them_apart():
    run = start("gan", beside=[{"r1": 0.0}])
    assert run.lanes[1].label.endswith("0") and run.lanes[0].label != run.lanes[1].label
    run.set("r1", 5.0)
    assert run.lanes[0].label.endswith("5")


@pytest.mark.parametrize(
    "hostile",
    [
        "", "{", "[]", "null", "7", '"x"', "{}", '{"version": 1}',
        '{"version": 2, "dataset": "ring8", "engine": "gan"}',
        '{"version": true, "dataset": "ring8", "engine": "gan"}',
        '{"version": 1, "dataset": "nowhere", "engine": "gan"}',
        '{"version": 1, "dataset": "ring8", "engine": "__class__"}',
        '{"version": 1, "dataset": ["ring8"], "engine": "gan"}',
        '{"version": 1, "dataset": "ring8", "engine": "gan", "seed": -1}',
        '{"version": 1, "dataset": "ring8", "engine": "gan", "seed": 1e99}',
        '{"version": 1, "dataset": "ring8", "engine": "gan", "knobs": [1]}',
        '{"version": 1, "dataset": "ring8", "engine": "gan", "knobs": {"batch": 1e18}}',
        '{"version": 1, "dataset": "ring8", "engine": "gan", "knobs": {"__init__": 1}}',
        '{"version": 1, "dataset": "ring8", "engine": "gan", "beside": [{}, {}, {}, {}]}',
        '{"version": 1, "dataset": "ring8", "engine": "gan", "beside": "abc"}',
        '{"version": 1, "dataset": "ring8", "engine": "gan", "extra": 1}',
        '{"version": 1, "dataset": "points", "engine": "gan", "points": [[1, 2], [3]]}',
        '{"version": 1, "dataset": "points", "engine": "gan", "points": "abc"}',
        '{"version": 1, "dataset": "points", "engine": "gan", "points": [[NaN, 1]]}',
        '{"version": 1, "dataset": "ring8", "engine": "gan", "options": {"x": 1}}',
        '{"version": 1, "dataset": "ring8", "engine": "gan", "source": "nowhere"}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_hostile_json_is_refused_in_one_sentence(hostile):
    with pytest.raises(BadInput) as refused:
        Experiment.from_json(hostile)
    text = str(refused.value)
    assert text.endswith(".") and len(text) < 600 and "\n" not in text and "Traceback" not in text


def test_a_knob_must_be_declared_sensibly():
    with pytest.raises(TypeError, match="range"):

        class NoRange(Knobbed):
            a: float = knob(1.0, help="x")

    with pytest.raises(TypeError, match="help"):

        class NoHelp(Knobbed):
            a: float = knob(1.0, 0.0, 2.0)

    with pytest.raises(TypeError, match="annotate"):

        class NoType(Knobbed):
            a: list = knob(1.0, 0.0, 2.0, help="x")

    with pytest.raises(BadInput):

        class OutOfRange(Knobbed):
            a: float = knob(3.0, 0.0, 2.0, help="x")


def test_the_run_before_stays_as_a_ghost():
    run = start("flow").train(steps=30)
    run.frame()
    old = list(run.lanes[0].tracks["nll"].values)
    run.set("layers", 4)
    run.train(steps=5)
    curves = next(p for p in run.frame().panels if p.id == "loss").marks[0].lines
    ghost = [c for c in curves if c.ghost]
    assert len(ghost) == 1 and ghost[0].y.tolist() == old
    assert [len(c.y) for c in curves if not c.ghost] == [5]


def test_a_run_keeps_its_curves_small():
    track = Track(limit=100)
    for i in range(100_000):
        track.add(i, float(i))
    assert len(track.steps) <= 100
    assert track.values == pytest.approx(track.steps)
    assert Track.load(track.dump()).values == track.values


# ---------------------------------------------------------------- fresh rows


def test_a_distribution_gives_fresh_rows_and_a_set_of_points_does_not():
    pool = DATASETS["moons"]().pool(0)
    first, rng = pool.train.clone(), torch.Generator()
    known = {tuple(row) for row in first.tolist()}

    def old(pool: Pool) -> float:
        rows = pool.batch(500, rng.manual_seed(1)).tolist()
        return sum(tuple(row) in known for row in rows) / 500

    assert old(pool) == 1
    pool.turn(Pool.EVERY - 1)
    assert old(pool) == 1
    pool.turn(Pool.EVERY)
    assert old(pool) == 0 and torch.equal(pool.train, first)
    second = pool.batch(500, rng.manual_seed(2))
    pool.turn(2 * Pool.EVERY)
    assert not torch.equal(pool.batch(500, rng.manual_seed(2)), second)
    pool.turn(Pool.EVERY)  # a rewound run finds the same rows again
    assert torch.equal(pool.batch(500, rng.manual_seed(2)), second)
    pool.turn(0)
    assert old(pool) == 1
    other = DATASETS["moons"]().pool(1)
    other.turn(Pool.EVERY)
    assert not torch.equal(other.batch(500, rng.manual_seed(2)), second), "another seed"
    points = PointsDataset(first[:500]).pool(0)
    points.turn(5 * Pool.EVERY)
    assert old(points) == 1, "an estimate of a density is not the truth"


@pytest.mark.slow
def test_saved_across_a_change_of_rows_it_goes_on_bit_for_bit():
    def run() -> Run:
        return Experiment("moons", "flow", knobs={"layers": 2, "width": 16}).start("cpu")

    def weights(run: Run) -> list[float]:
        tensors, _ = run.engine.state()
        return [float(tensors[name].double().sum()) for name in sorted(tensors)]

    want = weights(run().train(steps=Pool.EVERY + 20))
    part = run().train(steps=Pool.EVERY + 10)
    saved = part.checkpoint()
    assert weights(run().restore(saved).train(steps=10)) == want
    part.train(steps=Pool.EVERY)  # also into a run that stands elsewhere
    with pytest.raises(BadInput):
        part.restore(b"no checkpoint")
    assert part.pool._block == 2
    assert weights(part.restore(saved).train(steps=10)) == want
    part.restart()
    assert weights(part.train(steps=Pool.EVERY + 20)) == want
    # the wrong twin: the rows of the start
    wrong = run().restore(saved)
    wrong.pool._rows, wrong.pool.fresh = None, lambda block: wrong.pool.train
    assert weights(wrong.train(steps=10)) != want


def test_live_numbers_are_worked_out_once_a_step(monkeypatch):
    a, b = (Experiment("ring8", "gan", 0).start("cpu") for _ in range(2))
    kind, asked = type(a.engine), []
    first = kind.live_numbers
    monkeypatch.setattr(
        kind, "live_numbers", lambda self: asked.append(self.step_count) or first(self)
    )
    a.train(steps=3)
    assert asked == [0, 1, 2]
    a.set("d_lr", 1e-3), b.set("d_lr", 1e-3)  # a dial counts from the next step on
    for run in (a, b):
        run.engine.number("d_lr")
        assert run.engine.number("d_lr") == 1e-3
    monkeypatch.undo()
    # the same as steps that ask anew each time
    monkeypatch.setattr(kind, "train_step", kind.step)
    b = Experiment("ring8", "gan", 0).start("cpu").train(steps=3)
    b.set("d_lr", 1e-3)
    b.train(steps=3)
    monkeypatch.undo()
    a.train(steps=3)
    mine, theirs = (run.engine.generator.state_dict() for run in (a, b))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_step_that_fails_leaves_its_numbers_to_the_next(monkeypatch):
    run = Experiment("ring8", "gan", 0).start("cpu").train(steps=1)

    def fails(self):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(type(run.engine), "step", fails)
        with pytest.raises(RuntimeError):
            run.engine.train_step()
    run.set("d_lr", 1e-3)
    assert run.engine.number("d_lr") == 1e-3
