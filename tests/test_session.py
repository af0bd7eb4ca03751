"""One visitor's life with a run, without a browser."""

from __future__ import annotations

import gc
import itertools
import math
import threading
import time
import weakref

import pytest
import torch

from app import worker as worker_module
from app.pack import pack, unpack
from app.session import Session
from app.share import to_hash
from app.visitors import Visitors
from engines import ENGINES, BadInput, Experiment, families

BLOCKS: dict = {}  # named by their content, so all tests may share what was ever sent


@pytest.fixture(autouse=True)
def browser_memory(monkeypatch):
    """Hold every block that any frame carried, as a browser that never loses one."""

    def pack_and_keep(*args, **kwargs):
        text = pack(*args, **kwargs)
        unpack(text, BLOCKS)
        return text

    monkeypatch.setattr(worker_module, "pack", pack_and_keep)


@pytest.fixture
def session() -> Session:
    visitor = Session("cpu", fps=30)
    visitor.open(Experiment("ring8soft", "mixture"))
    return visitor


class Player:
    """Plays a session in a thread of its own, as Gradio does, and acknowledges frames."""

    def __init__(
        self,
        session: Session,
        steps: int | None = None,
        ack: bool = True,
        turn: float | None = None,
    ) -> None:
        self.session, self.frames, self.error = session, [], None
        self.ack, self.steps, self.turn = ack, steps, turn
        self.thread = threading.Thread(target=self._play, daemon=True)
        self.thread.start()

    def _play(self) -> None:
        try:
            play, step = self.session.play, self.session.step
            stream = play(self.turn) if self.steps is None else step(self.steps, self.turn)
            for text in stream:
                frame = unpack(text, BLOCKS)
                self.frames.append(frame)
                if self.ack:
                    self.session.worker.hear(frame["seq"])
        except Exception as error:  # a test reads it
            self.error = error

    def wait(self, condition, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < end, "waited in vain"
            assert self.error is None, self.error
            time.sleep(0.005)

    def stop(self) -> list[dict]:
        self.session.pause()
        self.thread.join(20)
        assert not self.thread.is_alive()
        assert self.error is None, self.error
        return self.frames


def last_step(player: Player) -> int:
    return player.frames[-1]["step"] if player.frames else 0


def shown(text: str) -> dict:
    return unpack(text, BLOCKS)


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


@pytest.mark.slow
def test_a_hundred_steps_twice_are_two_hundred(session):
    session.open(Experiment("ring8soft", "flow"))
    players = [Player(session, steps=40)]
    players[0].wait(lambda p: session.worker.streaming)
    players.append(Player(session, steps=40))
    for player in players:
        player.thread.join(60)
    assert session.worker.run.step == 80


def test_a_handle_sends_its_number_too(session):
    session.open(Experiment("ring8soft", "flow"))
    kind = ENGINES["flow"]
    name = next(n for n, a in kind.actions.items() if set(a.takes) == {"x", "y"})
    assert not shown(session.act(name, {"x": 0.5, "y": 0.5, "index": 0}))["note"]


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


def test_steps_a_second_are_those_of_the_wall_clock(session):
    session.open(Experiment("ring8soft", "flow"))
    session.set_speed("single")
    player = Player(session)
    player.wait(lambda p: len(p.frames) > 30)
    frames = player.stop()
    assert frames[-3]["rate"] < 1.5 * session.worker.fps, "one step a frame"
    assert frames[-1]["seconds"] > 0.7 * 30 / session.worker.fps


@pytest.mark.parametrize(
    "engine", [pytest.param(e, marks=[] if e == "mixture" else pytest.mark.slow) for e in ENGINES]
)
def test_view_knobs_redraw_while_paused_and_take_no_step(session, engine):
    for name, entry in ENGINES[engine].knobs.items():
        if entry.view:
            session.open(Experiment(ENGINES[engine].opens_on, engine))
            list(session.step(2))
            value = entry.high if entry.kind in ("int", "float") else (
                not entry.default if entry.kind == "bool" else entry.choices[-1])  # fmt: skip
            text = session.set(name, value)
            if value != entry.default:
                assert shown(text)["step"] == 2


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


def test_a_knob_that_needs_images_is_offered_on_images_only(session):
    def offered():
        return {entry["name"] for entry in session.controls()["knobs"]}

    session.open(Experiment("moons", "flow"))
    plane, key = offered(), session.controls()["key"]
    session.open(Experiment("digits", "flow"))
    assert offered() - plane == {"best"} and plane < offered()
    assert session.controls()["key"] != key, "the card is built anew"


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
def test_nonsense_is_refused_and_the_run_goes_on(session, wrong):
    list(session.step(3))
    kept = session.experiment
    with pytest.raises(BadInput) as refused:
        wrong(session)
    frame = shown(session.refuse(str(refused.value)))
    assert frame["note"] == str(refused.value) and frame["step"] == 3
    assert session.experiment == kept == session.worker.run.experiment
    list(session.step(1))
    assert session.worker.run.step == 4


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


def test_many_streams_share_the_cores():
    crowd = worker_module.Crowd(cores=2)
    assert crowd.share == 1.0
    with crowd.member():
        assert crowd.share == 1.0
        with crowd.member(), crowd.member(), crowd.member():
            assert crowd.share == pytest.approx(0.4)
    assert crowd.share == 1.0


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
