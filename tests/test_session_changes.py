"""One visitor's life with a run, without a browser: what is changed, refused and undone."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
import torch

from app.pack import unpack
from app.session import Session
from app.share import to_hash
from app.worker import Worker
from engines import ENGINES, BadInput, Experiment, Run
from engines.looking import Looking
from engines.marks import Curves
from tests import visits
from tests.contract import another
from tests.visits import BLOCKS, Player, last_step, shown

session, browser_memory = visits.session, visits.browser_memory


@pytest.fixture(scope="module")
def patient() -> Session:
    """A session that one piece of nonsense after the other is said to."""
    visitor = Session("cpu", fps=30)
    visitor.open(Experiment("ring8soft", "mixture"))
    return visitor


def test_a_live_knob_bites_while_it_plays(session):
    session.open(Experiment("ring8soft", "flow"))
    player = Player(session)
    player.wait(lambda p: last_step(p) > 3)
    assert session.set("lr", 0.005) is None, "the stream shows it"
    player.wait(lambda p: session.worker.run.engine.lr == 0.005)
    step = last_step(player)
    player.wait(lambda p: last_step(p) > step)
    player.stop()
    assert session.experiment.knobs["lr"] == 0.005
    assert session.worker.run.experiment == session.experiment


def test_a_restarting_knob_begins_again_and_undo_brings_the_training_back(session):
    list(session.step(20))
    before = session.worker.run.engine.state()[0]
    frame = shown(session.set("n_components", 3))
    assert frame["step"] == 0 and session.worker.run.experiment.knobs["n_components"] == 3
    frame = shown(session.undo())
    assert frame["step"] == 20
    assert session.experiment.knobs["n_components"] == 8
    after = session.worker.run.engine.state()[0]
    assert all(torch.equal(before[k], after[k]) for k in before if k != "view_rng")
    assert "nothing to undo" in shown(session.undo() and session.undo())["note"]


def test_undo_of_a_change_made_while_playing(session):
    player = Player(session)
    player.wait(lambda p: last_step(p) > 10)
    session.set("n_components", 2)
    player.wait(lambda p: session.worker.run.experiment.knobs["n_components"] == 2)
    player.stop()
    assert shown(session.undo())["step"] > 10
    assert session.worker.run.experiment.knobs["n_components"] == 8


def test_two_changes_made_while_playing_are_undone_one_by_one(session):
    player = Player(session)
    player.wait(lambda p: last_step(p) > 10)
    session.set("n_components", 2)
    session.set("covariance", "diagonal")
    player.wait(lambda p: session.worker.run.experiment.knobs["covariance"] == "diagonal")
    player.stop()
    first = shown(session.undo())
    assert session.worker.run.experiment == session.experiment
    assert session.experiment.knobs["covariance"] == "full"
    second = shown(session.undo())
    assert session.worker.run.experiment == session.experiment
    assert session.experiment.knobs["n_components"] == 8
    assert second["step"] > 10 >= first["step"]


def test_a_change_made_during_the_last_frames_is_not_lost(session):
    for text in session.step(1):
        if not shown(text)["extra"]["playing"]:
            threading.Thread(target=session.reset, daemon=True).start()
            time.sleep(0.05)
    end = time.monotonic() + 10
    while session.worker.run.step and time.monotonic() < end:
        time.sleep(0.01)
    assert session.worker.run.step == 0


def test_data_fed_to_a_playing_run_reaches_it_without_a_restart(session):
    player = Player(session)
    player.wait(lambda p: last_step(p) > 10)
    assert session.feed(session.experiment.but(dataset="moons")) is None, "the stream shows it"
    player.wait(lambda p: session.worker.run.experiment.dataset == "moons")
    step = last_step(player)
    player.wait(lambda p: last_step(p) > step + 10)
    frames = player.stop()
    steps = [f["step"] for f in frames]
    assert steps == sorted(steps), "the step count never goes back"
    assert frames[-1]["about"]["hash"] == to_hash(session.experiment)
    assert frames[-1]["about"]["dataset"] == "moons"
    assert session.worker.run.experiment == session.experiment


def test_a_stroke_is_one_step_of_undo(session):
    list(session.step(10))
    before = session.worker.run.engine.state()[0]
    xy = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)).numpy()
    for steps, n in enumerate((100, 200, 300), 10):
        points = session.experiment.but(dataset="points", options={}, points=xy[:n])
        frame = shown(session.feed(points, undoable=n == 100, measure=n == 300))
        assert frame["step"] == steps and len(session.worker.run.experiment.points) == n
        list(session.step(1))
    assert shown(session.undo())["step"] == 10
    assert session.experiment.dataset == "ring8soft" == session.worker.run.experiment.dataset
    after = session.worker.run.engine.state()[0]
    assert all(torch.equal(before[k], after[k]) for k in before if k != "view_rng")


def test_an_address_is_opened_with_what_there_is_to_say(session):
    frame = shown(session.open(Experiment("moons", "gan"), "2,000 of 60,000 points."))
    assert frame["note"] == "2,000 of 60,000 points."
    assert not shown(session.open(Experiment("moons", "mixture")))["note"]


def test_structured_options_have_no_ready_made_control(session):
    session.choose_dataset("gaussians")
    assert session.data_controls()["knobs"] == []
    moved = [[0.5, 0.5, 1.0, 0.3, 0.2, 1.0]]
    session.set_option("components", moved)
    assert session.worker.run.dataset.components == moved
    with pytest.raises(BadInput, match="Gaussian 1"):
        session.set_option("components", [[0.5] * 5])
    assert session.experiment.options["components"] == moved


def test_feeding_takes_the_data_alone(session):
    stale = session.experiment.but(dataset="moons")
    session.set("floor", 1e-3)
    session.feed(stale)
    assert session.experiment.knobs["floor"] == 1e-3 and session.experiment.dataset == "moons"
    assert session.worker.run.experiment == session.experiment
    kept = session.experiment
    for wrong in (kept.but(dataset="digits"), kept.but(seed=3), Experiment("rings", "gan")):
        with pytest.raises(BadInput):
            session.feed(wrong)
    assert session.experiment == kept == session.worker.run.experiment


def test_a_handle_sends_its_number_too(session):
    session.open(Experiment("ring8soft", "flow"))
    kind = ENGINES["flow"]
    name = next(n for n, a in kind.actions.items() if set(a.takes) == {"x", "y"})
    assert not shown(session.act(name, {"x": 0.5, "y": 0.5, "index": 0}))["note"]


@pytest.mark.parametrize(
    "engine", [pytest.param(e, marks=[] if e == "mixture" else pytest.mark.slow) for e in ENGINES]
)
def test_view_knobs_redraw_while_paused_and_take_no_step(session, engine, small):
    session.open(Experiment(ENGINES[engine].opens_on, engine))
    list(session.step(2))
    views = [entry for entry in ENGINES[engine].knobs.items() if entry[1].view]
    for name, entry in views[:3]:  # tests/test_engines_knobs.py moves each of them
        text = session.set(name, another(entry, entry.default))
        assert shown(text)["step"] == session.worker.run.step == 2


def test_a_change_made_while_a_picture_is_drawn_is_shown_by_the_newest_who_asks(
    session, monkeypatch
):
    """A knob that is dragged at rest: what it came to last is seen, and those between are not
    waited for."""
    begun, go_on = threading.Event(), threading.Event()
    draw = type(session.worker.run).frame

    def slow(run, *args, **how):
        begun.set()
        go_on.wait(10)
        return draw(run, *args, **how)

    monkeypatch.setattr(type(session.worker.run), "frame", slow)
    frames: dict[float, str | None] = {}

    def drag(value: float) -> threading.Thread:
        def move():
            frames[value] = session.set("lr", value)

        thread = threading.Thread(target=move)
        thread.start()
        return thread

    first = drag(0.1)
    assert begun.wait(10)
    later = []
    for value in (0.2, 0.3):
        later.append(drag(value))
        time.sleep(0.2)
    go_on.set()
    for thread in (first, *later):
        thread.join(10)
    assert frames[0.2] is None, "overtaken"
    assert frames[0.3] is not None and session.worker.run.engine.lr == 0.3
    assert not session.worker._mail


def test_reset_returns_to_the_same_beginning(session):
    first = shown(session.worker.redraw())
    list(session.step(15))
    again = shown(session.reset())
    assert again["step"] == 0
    assert [m["value"] for m in again["metrics"]] == [m["value"] for m in first["metrics"]]
    assert shown(session.undo())["step"] == 15


def test_a_new_seed_is_another_run(session):
    session.set_seed(5)
    assert session.experiment.seed == 5 == session.worker.run.experiment.seed
    with pytest.raises(BadInput):
        session.set_seed(-1)


def test_a_knob_that_needs_images_is_offered_on_images_only(session):
    def offered():
        return {entry["name"] for entry in session.controls()["knobs"]}

    session.open(Experiment("moons", "flow"))
    plane, key = offered(), session.controls()["key"]
    session.open(Experiment("digits", "flow"))
    assert offered() - plane == {"best"} and plane < offered()
    assert session.controls()["key"] != key, "the card is built anew"


def test_a_dataset_chosen_while_playing_plays_on(session):
    player = Player(session)
    player.wait(lambda p: last_step(p) > 3)
    session.choose_dataset("moons")
    player.wait(lambda p: session.worker.run.experiment.dataset == "moons")
    player.wait(lambda p: p.frames[-1]["about"]["dataset"] == "moons" and last_step(p) > 2)
    player.stop()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s: s.set("no_knob", 1), lambda s: s.set("n_components", "many"),
        lambda s: s.set("n_components", 10**6), lambda s: s.set(None, None),
        lambda s: s.choose_dataset("nowhere"), lambda s: s.choose_dataset(["ring8"]),
        lambda s: s.choose_family("Alchemy"), lambda s: s.choose_family([1]),
        lambda s: s.set_option([1], 2), lambda s: s.choose_engine({}),
        lambda s: s.act("__init__", {}), lambda s: s.act("x", "y"), lambda s: s.set_beside("abc"),
        lambda s: s.set_beside(["nothing like it"]), lambda s: s.set_option("x", 1),
        lambda s: s.set_seed("one"), lambda s: s.set_speed("warp"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_the_run_goes_on(patient, wrong):
    session = patient
    before = session.worker.run.step
    list(session.step(3))
    kept = session.experiment
    with pytest.raises(BadInput) as refused:
        wrong(session)
    frame = shown(session.refuse(str(refused.value)))
    assert frame["note"] == str(refused.value) and frame["step"] == before + 3
    assert session.experiment == kept == session.worker.run.experiment
    list(session.step(1))
    assert session.worker.run.step == before + 4


def test_branching_goes_on_from_a_kept_moment_with_the_knobs_of_now(session):
    player = Player(session)
    player.wait(lambda p: len(session.worker.timeline.moments) >= 3)
    player.stop()
    last = session.worker.run.step
    kept = session.worker.timeline.steps
    session.set("lr", 0.02)
    target = kept[1]
    frame = unpack(session.branch(target + 1), BLOCKS)
    assert frame["step"] == target < last
    assert frame["extra"]["timeline"]["branches"] == [target]
    assert frame["extra"]["timeline"]["kept"] == kept[:2]
    assert "Branched" in frame["note"]
    assert session.worker.run.experiment.knobs["lr"] == 0.02
    tape = frame["extra"]["timeline"]["tape"]
    assert unpack(session.undo(), BLOCKS)["step"] == last
    assert unpack(session.reset(), BLOCKS)["extra"]["timeline"]["tape"] > tape


@pytest.mark.parametrize("wrong", [None, "5", True, math.nan, -1, [1]])
def test_a_branch_from_nowhere_is_refused(session, wrong):
    with pytest.raises(BadInput):
        session.branch(wrong)
    assert "press Play" in unpack(session.branch(5), BLOCKS)["note"]


# ---------------------------------------------------------------- pictures first, numbers after


def test_who_is_patient_sees_the_picture_before_its_numbers_are_there(session, monkeypatch):
    session.patient = True
    first = shown(session.reset())
    assert first["extra"]["owed"] and not first["metrics"] and first["panels"]
    drawn = []
    draw = Looking._draw
    monkeypatch.setattr(
        Looking, "_draw", lambda self, lane, panel, *rest: drawn.append(panel)
        or draw(self, lane, panel, *rest),
    )  # fmt: skip
    then = shown(session.worker.redraw())
    assert not then["extra"]["owed"] and then["metrics"]
    # the pictures stand: only what is a curve has a number more
    assert all(isinstance(mark, Curves) for panel in drawn for mark in panel.drawn().marks)


@pytest.mark.parametrize("change", ["knob", "step", "data"])
def test_numbers_that_were_owed_are_those_of_a_picture_that_is_there(session, change):
    """Between the picture and the question for its numbers, something else has changed."""
    session.patient = True
    before = shown(session.reset())
    if change == "knob":
        session.worker.post(set=("n_components", 3))
    elif change == "step":
        for _ in session.worker.stream(steps=3):
            pass
    else:
        session.worker.post(feed=session.experiment.but(dataset="moons").to_json())
    asked = shown(session.worker.redraw())
    wanted = {p["id"]: p for p in shown(session.worker.redraw("later"))["panels"]}
    again = {p["id"]: p for p in asked["panels"]}
    assert again.keys() == wanted.keys() and not asked["extra"]["owed"] and asked["metrics"]
    pair = (again["model"]["marks"], wanted["model"]["marks"])
    assert np.array_equal(*(m[0]["values"] for m in pair))
    old = {p["id"]: p for p in before["panels"]}["model"]["marks"][0]["values"]
    assert not np.array_equal(pair[0][0]["values"], old)


def test_what_a_hand_has_moved_meanwhile_is_drawn_with_its_numbers(session):
    session.open(Experiment("ring8soft", "divergence"))
    session.patient = True
    picture = lambda text: {p["id"]: p for p in shown(text)["panels"]}["model"]["marks"][0]  # noqa: E731
    before = picture(session.reset())["values"]
    session.worker.post(act=("move_q", {"x": 2.0, "y": 1.0, "index": 0}))
    asked = picture(session.worker.redraw())["values"]
    assert not np.array_equal(asked, before)
    assert np.array_equal(asked, picture(session.worker.redraw("later"))["values"])


def test_a_sentence_on_the_page_keeps_no_numbers_from_it(session):
    list(session.step(12))
    session.patient = True
    for change in (lambda: session.branch(5), lambda: session.refuse("No."), session.undo):
        frame = shown(change())
        assert frame["extra"]["owed"], frame["note"]
    assert shown(session.worker.redraw())["metrics"]


def test_a_stream_of_a_run_that_could_not_be_opened_ends(caplog):
    worker = Worker("cpu")
    worker.post(open="{}")
    assert list(worker.stream()) == [] and "a run failed" not in caplog.text


# ---------------------------------------------------------------- giving way


@pytest.mark.parametrize("how", ["briefly", "briefly, then for good", "for good"])
def test_a_stream_that_gives_way_ends_without_last_pictures(session, how):
    """For it goes on soon; a visitor's own Pause, also behind that, shows everything."""
    worker, frames, kept = session.worker, [], None
    for text, saved in worker.stream():
        kept = saved or kept
        if text is None:
            continue
        frames.append(shown(text))
        worker.hear(worker._seq)
        if len(frames) == 5:
            worker.stop(brief=how != "for good")
            if how == "briefly, then for good":
                worker.stop()
            worker.stop(brief=True)  # said again, it changes nothing
            kept = None
    assert frames[-1]["extra"]["playing"] == (how == "briefly")
    assert kept is not None
    assert Run(worker.run.experiment).restore(kept).step == worker.run.step
