"""The contract over every engine: each knob and each action does what it says, and no more."""

from __future__ import annotations

import functools
import json
import math

import pytest
import torch

from engines import ENGINES, BadInput, Diverged, Experiment
from engines.base import Engine
from tests.contract import KNOBS, another, equal, panel_bytes, start, taken, weights, where
from tests.each import EACH, context, quick

pytestmark = pytest.mark.usefixtures("narrow")


@functools.cache  # many a knob's end is its default, and so the same run
def trains_and_is_shown(engine: str, dataset: str, knobs: str) -> None:
    run = start(engine, dataset, knobs=json.loads(knobs))
    try:
        run.train(steps=2)
    except Diverged as error:
        assert "Try" in str(error)
    # every picture and the engine's own numbers; the shared ones do not depend on knobs
    assert run.frame(measure=False).panels
    with torch.no_grad():
        assert all(isinstance(metric.value, int | float) for metric in run.engine.metrics())


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "name"), KNOBS)
def test_every_knob_at_both_ends_and_one_past_each(engine, name):
    entry = ENGINES[engine].knobs[name]
    if entry.kind in ("choice", "bool"):
        good = entry.choices or (True, False)
        bad = ["no such choice", 3, None]
    else:
        good = (entry.low, entry.high)
        step = 1 if entry.kind == "int" else 0.1 * (entry.high - entry.low)
        bad = [
            entry.low - step,
            entry.high + step,
            math.nan,
            math.inf,
            "5",
            True,
            None,
            [1],
            10**400,
        ]
    for value in good:
        knobs = ENGINES[engine].complete({**context(engine, entry), name: value})
        trains_and_is_shown(engine, where(entry), json.dumps(knobs))
    for value in bad:
        with pytest.raises(BadInput) as refused:
            Experiment(taken(engine, "ring8soft"), engine, knobs={name: value})
        assert name in str(refused.value) and len(str(refused.value)) < 300


@functools.lru_cache(maxsize=8)  # what one knob is compared with is what the next one is, too
def learnt(engine: str, dataset: str, knobs: str, moved: str) -> tuple | None:
    """Weights, samples and losses of a run some of whose knobs were moved at its second step;
    None if it diverged. Knobs are JSON."""
    run = start(engine, dataset, knobs=json.loads(knobs))
    try:
        run.train(steps=2)
        for name, value in json.loads(moved).items():
            assert run.set(name, value) is False
        run.train(steps=20)
    except Diverged:
        return None
    return weights(run), run.sample(20), {k: t.values for k, t in run.lanes[0].tracks.items()}


def runs(kind, entry, beside: dict, value, other) -> list[tuple[dict, dict]]:
    """Knobs that two runs begin with and those that are moved in them: with a value and another."""
    same, moved = {entry.name: value}, {entry.name: other}
    if entry.live:  # moved while it runs
        # where an engine does something of its own when a knob is moved, it is moved in both
        return [(beside, {} if kind.changed is Engine.changed else same), (beside, moved)]
    return [(beside, {}), ({**beside, **moved}, {})]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "name"), [(e, k) for e, k in KNOBS if not ENGINES[e].knobs[k].view]
)
def test_every_training_knob_changes_training(engine, name):
    kind = ENGINES[engine]
    entry = kind.knobs[name]
    beside = context(engine, entry)
    value = kind.complete(beside)[name]
    # a number of steps shows soon only where it is small
    others = [
        another(entry, value),
        *([value + 1] if entry.kind == "int" and value < entry.high else []),
    ]
    same = True
    for other in others:
        a, b = (
            learnt(engine, where(entry), json.dumps(kind.complete(begin)), json.dumps(moved))
            for begin, moved in runs(kind, entry, beside, value, other)
        )
        same = a and b and equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2]
        if not same:
            break
    assert not same, f"{name} does nothing"


@pytest.mark.parametrize(
    ("engine", "name"), quick([(e, k) for e, k in KNOBS if ENGINES[e].knobs[k].view])
)
def test_every_view_knob_changes_the_frame_and_only_the_frame(engine, name):
    from app.pack import pack

    kind = ENGINES[engine]
    entry = kind.knobs[name]
    beside = context(engine, entry)
    run = start(engine, where(entry), knobs=beside).train(steps=5)

    def picture() -> list[str]:
        frame = run.frame(measure=False)  # numbers have panels of their own
        frame.metrics, frame.seconds, frame.rate = [], 0, 0
        return [panel_bytes(p) for p in frame.panels]

    before, trained = picture(), weights(run)
    assert picture() == before, "the same frame twice is the same picture"
    assert run.set(name, another(entry, run.experiment.knobs[name])) is False
    assert picture() != before, f"{name} shows no difference"
    assert equal(trained, weights(run)) and run.step == 5
    assert pack(run.frame(measure=False))


@pytest.mark.parametrize("engine", EACH)
def test_actions_act(engine):
    kind = ENGINES[engine]
    for name, entry in kind.actions.items():
        # data that can be dragged are those on the line
        run = start(engine, "line" if entry.data else "ring8soft").train(steps=3)
        before, trained = [panel_bytes(p) for p in run.frame().panels], weights(run)
        run.act(name, **dict.fromkeys(entry.takes, 0.7))
        assert entry.trains != equal(trained, weights(run))
        assert [panel_bytes(p) for p in run.frame().panels] != before
        for bad in ({"nonsense": 1.0}, dict.fromkeys(entry.takes, math.nan) or {"x": 1.0}):
            with pytest.raises(BadInput):
                run.act(name, **bad)
    with pytest.raises(BadInput):
        start(engine).act("no_such_action")
