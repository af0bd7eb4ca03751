"""One visitor's life with a run, without a browser: how it plays, and who else is there."""

from __future__ import annotations

import gc
import itertools
import math
import time
import weakref

import pytest
import torch

from app import worker as worker_module
from app.pack import unpack
from app.share import to_hash
from app.visitors import Visitors
from engines import BadInput, Experiment, families
from tests import visits
from tests.visits import BLOCKS, Player, last_step, shown

session, browser_memory = visits.session, visits.browser_memory


def test_play_streams_frames_and_pause_freezes(session):
    player = Player(session)
    player.wait(lambda p: len(p.frames) > 8)
    frames = player.stop()
    steps = [f["step"] for f in frames]
    assert steps == sorted(steps)
    assert steps[-1] > steps[0] >= 1
    assert frames[0]["extra"]["playing"] and not frames[-1]["extra"]["playing"]
    assert session.worker.run.step == steps[-1]
    time.sleep(0.1)
    assert session.worker.run.step == steps[-1]


def test_play_begins_slowly(session):
    player = Player(session)
    player.wait(lambda p: len(p.frames) > 3)
    assert player.frames[0]["step"] <= 3
    player.stop()


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_step_takes_exactly_so_many(session, steps):
    player = Player(session, steps=steps)
    player.thread.join(30)
    assert player.error is None
    assert player.frames[-1]["step"] == steps == session.worker.run.step
    assert not player.frames[-1]["extra"]["playing"]


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "3", [1], 10**9])
def test_a_nonsense_number_of_steps_is_refused(session, steps):
    with pytest.raises(BadInput):
        list(session.step(steps))


@pytest.mark.slow
def test_a_hundred_steps_twice_are_two_hundred(session):
    session.open(Experiment("ring8soft", "flow"))
    players = [Player(session, steps=40)]
    players[0].wait(lambda p: session.worker.streaming)
    players.append(Player(session, steps=40))
    for player in players:
        player.thread.join(60)
    assert session.worker.run.step == 80


def test_a_malformed_action_does_not_stop_the_stream(session):
    session.open(Experiment("ring8soft", "gan"))
    player = Player(session)
    player.wait(lambda p: last_step(p) > 2)
    for arguments in ({"name": 1}, {"self": 1}, {"x": "y"}):
        session.worker.post(act=("step_generator", arguments))
    session.worker.post(act=(None, {}))
    session.worker.post(open="{")
    step = last_step(player)
    player.wait(lambda p: last_step(p) > step + 3)
    assert player.frames[-1]["note"]
    player.stop()


def test_a_failing_step_ends_with_a_sentence(session, monkeypatch):
    session.open(Experiment("ring8soft", "flow"))

    def broken() -> dict:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(session.worker.run.engine, "step", broken)
    player = Player(session)
    player.thread.join(10)
    assert player.error is None
    assert "went wrong" in player.frames[-1]["note"]
    assert not player.frames[-1]["extra"]["playing"]


@pytest.mark.slow
def test_steps_a_second_are_those_of_the_wall_clock(session):
    session.open(Experiment("ring8soft", "flow"))
    session.set_speed("single")
    player = Player(session)
    player.wait(lambda p: len(p.frames) > 30)
    frames = player.stop()
    assert frames[-3]["rate"] < 1.5 * session.worker.fps, "one step a frame"
    assert frames[-1]["seconds"] > 0.7 * 30 / session.worker.fps


@pytest.mark.slow
def test_changing_tab_parks_the_run_and_takes_data_and_seed_along(session):
    names = list(families())
    session.open(Experiment("moons", "mixture", seed=7, knobs={"n_components": 5}))
    list(session.step(12))
    other = next(f for f in names if f != session.family)
    session.choose_family(other)
    assert session.experiment.dataset == "moons" and session.experiment.seed == 7
    assert session.worker.run.step == 0
    back = shown(session.choose_family("Mixture"))
    assert back["step"] == 12 and session.experiment.knobs["n_components"] == 5
    session.choose_family(other)
    session.choose_dataset("rings")
    back = shown(session.choose_family("Mixture"))
    assert session.experiment.dataset == "rings", "the data chosen meanwhile comes along"
    assert back["step"] == 0 and session.experiment.knobs["n_components"] == 5


def test_a_tab_of_several_engines_offers_them_and_keeps_data_and_run(session):
    session.open(Experiment("moons", "mixture", seed=7))
    list(session.step(12))
    offered = session.controls()["engines"]
    names = [name for name, *_ in offered["offered"]]
    assert names == families()["Mixture"] and len(names) > 1 and offered["chosen"] == "mixture"
    session.choose_engine("deep_mixture")
    assert session.controls()["engines"]["chosen"] == session.experiment.engine == "deep_mixture"
    assert session.experiment.dataset == "moons" and session.experiment.seed == 7
    session.choose_family("Flow")
    assert session.controls()["engines"]["offered"] == [], "one engine is no choice"
    session.choose_family("Mixture")
    assert session.experiment.engine == "deep_mixture", "the tab remembers"
    assert shown(session.choose_engine("mixture"))["step"] == 12


def test_changing_tab_stops_a_playing_run(session):
    player = Player(session)
    player.wait(lambda p: last_step(p) > 3)
    session.choose_family("GAN")
    player.thread.join(20)
    assert not player.thread.is_alive() and not session.worker.streaming
    assert session.worker.run.experiment.engine == "gan"


def test_no_frame_while_the_browser_is_behind_but_training_goes_on(session):
    player = Player(session, ack=False)
    player.wait(lambda p: len(p.frames) >= worker_module.WINDOW)
    time.sleep(0.3)
    seen, step = len(player.frames), session.worker.run.step
    time.sleep(0.3)
    assert len(player.frames) == seen and session.worker.run.step > step
    session.worker.hear(player.frames[-1]["seq"])
    player.wait(lambda p: len(p.frames) > seen)
    player.stop()


def test_a_tab_in_the_background_trains_without_frames_and_then_pauses(session, monkeypatch):
    player = Player(session)
    player.wait(lambda p: last_step(p) > 2)
    session.worker.look(False)
    time.sleep(0.2)
    seen, step = len(player.frames), session.worker.run.step
    time.sleep(0.3)
    assert len(player.frames) == seen and session.worker.run.step > step
    session.worker.look(True)
    player.wait(lambda p: len(p.frames) > seen + 2)
    monkeypatch.setattr(worker_module, "AWAY", 0.2)
    session.worker.look(False)
    player.thread.join(10)
    assert not player.thread.is_alive(), "left alone for too long"


def test_speeds(session):
    session.open(Experiment("ring8soft", "flow"))
    session.set_speed("single")
    player = Player(session)
    player.wait(lambda p: len(p.frames) > 10)
    frames = player.stop()
    assert all(b["step"] - a["step"] <= 1 for a, b in itertools.pairwise(frames))


def test_a_lost_block_is_sent_again(session):
    text = session.worker.redraw()
    with pytest.raises(KeyError):
        unpack(text, {})
    session.worker.hear(shown(text)["seq"], missing=True)
    unpack(session.worker.redraw(), {})


def test_a_run_that_diverges_stops_by_itself(session):
    session.open(Experiment("ring8soft", "flow"))
    list(session.step(2))
    nets = [m for m in vars(session.worker.run.engine).values() if isinstance(m, torch.nn.Module)]
    with torch.no_grad():
        for p in nets[0].parameters():
            p.fill_(math.nan)
    player = Player(session)
    player.thread.join(20)
    assert not player.thread.is_alive() and player.error is None
    assert "learning rate" in player.frames[-1]["note"]
    frame = shown(session.reset())
    assert frame["step"] == 0 and not frame["note"]


@pytest.mark.slow
def test_two_visitors_do_not_notice_each_other():
    visitors = Visitors("cpu", fps=30)
    a, b = visitors.of("a"), visitors.of("b")
    assert a is not b and visitors.of("a") is a
    a.open(Experiment("moons", "flow", seed=1))
    b.open(Experiment("rings", "gan", seed=2))
    players = [Player(a), Player(b)]
    for player in players:
        player.wait(lambda p: last_step(p) > 30)
    for player in players:
        player.stop()
    for session in (a, b):
        alone = session.experiment.start("cpu").train(steps=session.worker.run.step)
        assert (alone.sample(5) == session.worker.run.sample(5)).all()


def test_a_visitor_who_leaves_stops_the_run_and_frees_its_memory():
    visitors = Visitors("cpu", fps=30)
    session = visitors.of("a")
    player = Player(session)
    player.wait(lambda p: last_step(p) > 3)
    run = weakref.ref(session.worker.run)
    visitors.leave("a")
    player.thread.join(20)
    assert not player.thread.is_alive() and len(visitors) == 0
    player.session = session = None
    gc.collect()
    assert run() is None
    visitors.leave("a")  # twice does no harm
    assert visitors.get("a") is None


def test_every_frame_carries_the_address_of_its_experiment(session):
    session.open(Experiment("moons", "gan", seed=4))
    assert shown(session.worker.redraw())["about"]["hash"] == to_hash(session.experiment)
    assert shown(session.set("batch", 64))["about"]["hash"] == to_hash(session.experiment)
    assert session.experiment.knobs["batch"] == 64


def test_a_message_that_was_overtaken_is_dropped(session):
    session.set("lr", 0.02, turn=7)
    assert session.set("lr", 0.5, turn=6) is None
    assert session.experiment.knobs["lr"] == 0.02
    assert session.controls()["heard"] == {"lr": 7}
    session.set("lr", 0.5, turn=8)
    assert session.experiment.knobs["lr"] == 0.5


def test_a_pause_that_overtakes_its_play_wins(session):
    session.pause(turn=2)
    frames = [unpack(text, BLOCKS) for text in session.play(turn=1)]
    assert [frame["extra"]["playing"] for frame in frames] == [False]
    assert frames[0]["step"] == 0
    player = Player(session, turn=3)
    player.wait(lambda p: last_step(p) > 0)
    session.pause(turn=2.5)  # late, meant for an earlier stream
    step = last_step(player)
    player.wait(lambda p: last_step(p) > step)
    player.stop()
