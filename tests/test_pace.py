"""What pictures and numbers may take beside training, and how they keep within it."""

import dataclasses
import itertools
import re
import time

import numpy as np
import pytest
import torch

from app.presets import Promise
from engines import ENGINES, Experiment, looking
from engines.density import ModelDensity
from engines.looking import LONGEST, Job
from engines.marks import Curves, Heat, Points
from engines.pace import SENDING, Budget, Ladder, finish, move, shares
from engines.probes import Survey, reference
from tests.contract import start, taken

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("flow_matching", "score")]
FIELDS = ["diffusion", *SLOW]
QUICK = {"width": 16, "hidden": 1, "batch": 32}  # of models of fields


def small(engine: str, dataset: str = "ring8soft"):
    return Experiment(dataset, engine, 0, QUICK).start("cpu").train(steps=3)


# ---------------------------------------------------------------- the rules


def test_a_ladder_goes_down_by_two_dear_times_and_up_by_four_with_room():
    ladder = Ladder()
    for dear in (True, False, True, False):  # one long wait may be the machine's
        ladder.judge(dear, roomy=False)
    assert ladder.effort == 1
    for _ in range(4):
        ladder.judge(dear=True, roomy=False)
    assert ladder.effort == 1 / 4
    for _ in range(100):
        ladder.judge(dear=True, roomy=True)
    assert ladder.effort == 1 / 8, "no further than the lowest rung"
    for step in range(1, 13):
        ladder.judge(dear=False, roomy=True)
        assert ladder.rung == 3 - step // Ladder.PATIENCE
    ladder.begin(excess=3.0)
    assert ladder.rung == 2
    ladder.begin(excess=0.5)
    assert ladder.rung == 2, "one quick frame at rest is no reason to go up"


def test_a_budget_closes_on_debt_and_opens_again_in_time():
    budget = Budget(0.1)
    assert budget.open(10.0)
    budget.spend(0.5)
    assert not budget.open(10.1)
    assert not budget.open(14.5) and budget.open(15.1)


@pytest.mark.parametrize("dear", [True, False])
def test_all_shares_leave_training_seven_tenths(dear):
    assert sum(shares(dear)) + SENDING <= (0.3 if dear else 0.2)


def test_work_in_pieces_is_the_whole_and_can_be_left():
    def counted():
        for _ in range(5):
            yield
        return "whole"

    assert finish(counted()) == "whole"
    pieces = counted()
    assert [move(pieces, 0.0) for _ in range(5)] == [(False, None)] * 5
    assert move(pieces, 0.0) == (True, "whole")
    assert move(counted(), 60.0) == (True, "whole")


# ---------------------------------------------------------------- snapshots and pieces


def looked(engine, n=300):
    """Samples, and the density at some held-out rows: what a visitor sees of a model."""
    with torch.no_grad(), engine.still():
        out = [engine.sample(n)]
        if engine.has_density:
            out.append(engine.field_log_prob(engine.pool.test[:50].float()))
    return out


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ENGINES))
def test_a_snapshot_stays_what_the_model_was(name):
    run = start(name, taken(name, "moons"))
    run.train(steps=2)
    before = looked(run.engine)
    kept = run.engine.snapshot()
    assert same(looked(kept), before)
    run.train(steps=30)
    assert same(looked(kept), before)
    # its wrong twin: a copy that shares the weights
    assert not same(looked(run.engine), before)


def leaving(pieces, run):
    """Pieces with a step of training between any two of them."""
    while True:
        done, found = move(pieces, 0.0)
        if done:
            return found
        with torch.enable_grad():
            run.advance()


@pytest.mark.parametrize("name", FIELDS)
def test_pieces_of_a_snapshot_are_of_one_model(name):
    run = small(name)
    x = run.pool.test[:40]
    made = {
        "sample": lambda e: e.sample_pieces(1100),
        "draws": lambda e: e.draw_pieces(40),
        "probe": lambda e: e.probe_pieces(x),
        "field": lambda e: e.field_pieces(x),
    }
    whole = {
        "sample": lambda e: e.sample(1100), "draws": lambda e: e.draws(40),
        "probe": lambda e: e.probe_log_prob(x), "field": lambda e: e.field_log_prob(x),
    }  # fmt: skip
    for what in made if run.engine.has_density else ("sample",):
        kept = run.engine.snapshot()
        with torch.no_grad(), run.engine.still():
            expected = whole[what](run.engine)
        with torch.no_grad(), kept.still():
            assert torch.equal(leaving(made[what](kept), run), expected), what
    # its wrong twin: pieces of the model that goes on
    with torch.no_grad(), run.engine.still():
        expected = run.engine.sample(1100)
    with torch.no_grad(), run.engine.still():
        assert not torch.equal(leaving(run.engine.sample_pieces(1100), run), expected)


def test_a_survey_measures_what_the_model_was():
    run = small("diffusion")
    lane = run.lanes[0]
    expected = {m.name: m.value for m in run.measure()}
    names = [probe.name for probe in lane.probes]
    survey, found = Survey(lane.engine, lane.model_key, names), {}
    while not survey.over:
        run.advance()
        with torch.no_grad():
            _, metrics = survey.advance(10.0)
        found.update({m.name: m.value for m in metrics})
    assert set(found) == {n for probe in lane.probes for n in probe.names}
    assert all(found[name] == expected[name] for name in found)
    assert survey.step == 3 and run.step > 3
    later = {m.name: m.value for m in run.measure()}
    assert later["kl_pq"] != expected["kl_pq"]


def values(panel):
    """All numbers of a picture, in one array."""
    out = []
    for mark in panel.marks:
        if isinstance(mark, Heat):
            out.append(mark.values)
        elif isinstance(mark, Points):
            out.append(mark.xy)
        elif isinstance(mark, Curves):
            out += [part for line in mark.lines for part in (line.x, line.y)]
    return np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in out])


def moved(job):
    with torch.no_grad():
        return job.advance(0.0)


def test_a_picture_in_pieces_is_the_one_at_once():
    run = small("diffusion")
    lane = run.lanes[0]
    for name in ("model", "denoising", "field_error"):
        whole = {p.id: p for p in run.frame().panels}
        for ladder in lane.ladders.values():
            ladder.rung = 0
        job = Job(lane, next(p for p in lane.panels.values() if p.id == name))
        while (made := moved(job)) is None:
            run.advance()
        assert [p.id for p in made] == [name]
        drop = 1 if name == "model" else 0  # its density has pieces of its own
        one, other = made[0].marks[drop:], whole[name].marks[drop:]
        assert [type(m) for m in one] == [type(m) for m in other]
        made[0].marks, whole[name].marks = one, other
        assert np.array_equal(values(made[0]), values(whole[name]), equal_nan=True)


# ---------------------------------------------------------------- a run that is looked at


class Clock:
    """Seconds that pass only when work is said to be done."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        for module in ("engines.looking", "engines.pace", "engines.density", "engines.probes"):
            monkeypatch.setattr(f"{module}.time.perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_pictures_keep_to_their_share_and_give_up_what_is_dear(clock, monkeypatch):
    """A picture whose cost grows with its effort: it is drawn with less, and then comes back."""
    run = Experiment("moons", "mixture", 0, {"n_components": 2}).start("cpu")
    price = {"now": 0.2}  # seconds for the whole of the model's picture
    lane, drawn = run.lanes[0], []
    real = looking.Panel.drawn

    def paid(panel):
        out = real(panel)
        if panel.id == "model":
            clock.now += price["now"] * lane.engine.effort
            drawn.append((clock.now, lane.engine.effort, price["now"] * lane.engine.effort))
        return out

    monkeypatch.setattr(looking.Panel, "drawn", paid)
    others = {p.id for p in run.frame().panels} - {"model"}
    assert drawn.pop()[1] == 1

    def stream(seconds):
        drawn.clear()
        end = clock.now + seconds
        while clock.now < end:
            clock.now += 1 / 15
            run.frame(fresh=False, hidden=others, measure=False)
        return drawn[len(drawn) // 2 :]

    late, begin = stream(12.0), clock.now - 12.0
    assert {effort for _, effort, _ in late} == {1 / 8}
    assert all(cost <= LONGEST for *_, cost in late)
    share = sum(cost for _, _, cost in drawn) / (clock.now - begin)
    assert share <= shares(False).panels + 0.01
    price["now"] = 0.004  # the machine is free again
    assert {effort for _, effort, _ in stream(12.0)} == {1.0}
    # a frame at rest has everything, whatever the ladder says
    price["now"] = 0.2
    stream(5.0)
    drawn.clear()
    run.frame()
    assert [effort for _, effort, _ in drawn] == [1]


def frames(run):
    return {p.id: p for p in run.frame().panels}


@pytest.mark.parametrize("name", FIELDS)
def test_at_rest_nothing_is_left_of_the_stream(name):
    """Frames with little effort, then one at rest: as if nobody had looked before."""
    looked_at, alone = small(name), small(name)
    lane = looked_at.lanes[0]
    looked_at.frame()
    for ladder in (lane.density.ladder, *lane.ladders.values()):
        ladder.rung = 3
    lane.density._cost = 0.0
    for _ in range(6):
        looked_at.advance()
        alone.advance()
        lane.density._asked = lane.density._begun = 0.0
        looked_at._looking._panels.left = looked_at._looking._numbers.left = 1.0
        lane.drawn_at = dict.fromkeys(lane.drawn_at, -1e9)
        looked_at.frame(fresh=False)
    for a, b in itertools.pairwise([looked_at.engine, alone.engine]):
        assert all(map(torch.equal, a.net.parameters(), b.net.parameters()))
    one, other = frames(looked_at), frames(alone)
    for panel_id in ("model", "error", "cloud", "denoising", "field_error", "velocity_error"):
        if panel_id in one:
            found, wanted = values(one[panel_id]), values(other[panel_id])
            assert np.array_equal(found, wanted, equal_nan=True), panel_id
            assert "cells" not in one[panel_id].subtitle


def test_a_coarse_density_says_so():
    run = small("diffusion")
    lane = run.lanes[0]
    density = ModelDensity(lane.engine)
    with torch.no_grad():
        full = density.get(lane.model_key, fresh=True)
        assert density.told == "" and full.shape == (100, 100)
        density.values, density.ladder.rung = None, 2
        coarse = density.get(lane.model_key, fresh=False)
    assert coarse.shape == (62, 62)
    said = r"step 3, off by (\S+) nats, 10 steps of its ODE, 62 × 62 cells"
    found = re.fullmatch(said, density.told)
    with torch.no_grad():
        x, engine = run.pool.test[:64], lane.engine
        apart = engine.log_density(10)(x) - engine.log_density(engine.STEPS_PROBE)(x)
    assert float(found[1]) == pytest.approx(float(apart.abs().mean()), rel=0.06)
    # both are densities of the same model: their masses agree, as those of two models do not
    side = run.dataset.extent[1] - run.dataset.extent[0]
    masses = [float(f.sum()) * (side / len(f)) ** 2 for f in (full, coarse)]
    assert abs(masses[0] - masses[1]) < 0.05


def test_a_new_density_is_seen_at_once_under_samples_that_come_later():
    run = small("diffusion")
    lane = run.lanes[0]
    before = {p.id: p for p in run.frame().panels}["model"]
    samples = before.marks[-1].xy.copy()
    run.train(steps=5)
    lane.density._asked = time.perf_counter()
    lane.density._moved, lane.density._begun = 1.0, -1e9  # it is long due, and samples are not
    for _ in range(200):
        lane.drawn_at["model"] = time.perf_counter() + 60
        after = {p.id: p for p in run.frame(fresh=False).panels}["model"]
        if lane.density.step == 8:
            break
    assert lane.density.step == 8 == run.step
    assert np.array_equal(after.marks[0].values, lane.density.values)
    assert "step 8" in after.subtitle and "step 8" not in before.subtitle
    assert np.array_equal(after.marks[-1].xy, samples)
    assert len(before.marks[0].values) == 100, "what was sent stays as it was"


def test_what_has_just_been_made_in_pieces_is_not_begun_again(monkeypatch):
    run = small("diffusion")
    lane, begun = run.lanes[0], []
    run.frame()
    init, twice = Job.__init__, []

    def noting(job, of, panel):
        begun.append(panel.id)
        twice.append(of.drawn_at[panel.id] == run._looking._at)  # done in this very frame
        init(job, of, panel)

    monkeypatch.setattr(Job, "__init__", noting)
    for _ in range(400):
        run.advance()
        run._looking._panels.left, run._looking._turn = 1.0, 0
        lane.drawn_at = dict.fromkeys(lane.drawn_at, -1e9)  # all are due
        lane.work_cost = dict.fromkeys(lane.panels, 1.0)  # and too dear to be made at once
        run.frame(fresh=False, measure=False)
        if len(begun) >= 6:
            break
    assert len(begun) >= 6 and not any(twice), begun


def test_dear_numbers_of_fewer_rows_say_so_and_have_a_floor_of_their_own():
    run = small("diffusion")
    lane = run.lanes[0]
    ref = reference(run.pool)
    survey = Survey(lane.engine, lane.model_key, ["kl_pq", "sliced_w2"], effort=0.25)
    found = {}
    while not survey.over:
        with torch.no_grad():
            _, metrics = survey.advance(10.0) or ("", [])
        found.update({m.name: m for m in metrics})
    assert found["kl_pq"].note == "of 256 points; more at rest"
    assert found["sliced_w2"].note == "of 2,500 samples; more at rest"
    floor = found["sliced_w2"].floor
    assert floor == pytest.approx(np.mean([ref.sliced_w2(ref.fresh(i)[:2500]) for i in range(4)]))
    assert floor > 1.2 * ref.sliced_w2_floor  # the wrong twin: that of all rows
    promise = Promise("kl_pq", "<", 1e9, 10)
    assert found["kl_pq"].rough and promise.kept(found.values()) is None, "too noisy to decide"
    full = [m for m in run.measure() if m.name in found]
    assert not any(m.rough for m in full) and promise.kept(full) is True


def test_a_picture_of_long_ago_says_which_step_it_is_of():
    run = small("inverse_diffusion")
    assert not run.frame(measure=False).late
    drawn = run.lanes[0].drawn_at

    def late(steps, waited):
        run.train(steps=steps)
        for name in drawn:
            drawn[name] = time.perf_counter() - (waited if name == "rivals" else 0)
        frame = run.frame(fresh=False, measure=False)
        return {frame.panels[place].id: step for place, step in frame.late.items()}

    assert late(20, waited=5) == {}, "twenty steps are not long ago"
    assert late(30, waited=1) == {}, "nor is a second"
    assert late(0, waited=5) == {"rivals": 3}
    # what never changes is not old, nor is a density, whose caption says its step
    run.lanes[0].panels["rivals"].marks = [
        dataclasses.replace(Points(np.zeros((1, 2))), static=True)
    ]
    assert late(0, waited=5) == {}
    assert not run.frame(measure=False).late
    assert late(0, waited=9) == {}, "drawn anew at rest"


def test_side_by_side_a_density_of_long_ago_says_its_step(monkeypatch):
    monkeypatch.setattr(ModelDensity, "advance", lambda *_: 0.0)  # no time for a new one

    def late(**beside):
        run = Experiment("ring8soft", "diffusion", 0, QUICK, **beside).start("cpu").train(steps=3)
        assert not run.frame(measure=False).late
        run.train(steps=50)
        frame = run.frame(fresh=False, measure=False)
        return {(frame.panels[i].id, frame.panels[i].lane): s for i, s in frame.late.items()}

    assert late() == {}, "one alone says it in its caption"
    wanted = {(name, lane): 3 for name in ("model", "error") for lane in (0, 1)}
    assert late(beside=[{"lr": 1e-3}]) == wanted
