"""A room: whose turn it is, what is parked, and what survives the loss of a process.

The oracle is a run that was never interrupted: whatever happens to its process, and however often
it is parked, a run that took so many steps has, bit for bit, the weights of one that took them at
once.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import threading
import time

import pytest
import safetensors.torch
import torch

from app import nursery, rays
from app import room as rooms
from app.luggage import Weight
from app.pack import unpack
from app.room import Room
from app.seat import Saves
from app.session import Session
from app.timeline import Moment, Timeline
from app.visitors import Visitors
from bench.room import header, soak
from engines import BadInput, Experiment
from engines import rival as rivals

START = Experiment("ring8soft", "mixture", seed=3, knobs={"fit": "gradient", "n_points": 2000})


class Visitor:
    """A session in a room, and all that its browser was sent."""

    def __init__(self, room: Room, experiment: Experiment = START, fps: float = 30.0) -> None:
        self.session = Session(worker=room.worker(fps, True))
        self.blocks: dict = {}
        self.frames: list[dict] = []
        self.see(self.session.open(experiment))

    def see(self, text: str) -> dict:
        self.frames.append(unpack(text, self.blocks))  # raises where a block was never sent
        self.session.worker.hear(self.frames[-1]["seq"])
        return self.frames[-1]

    def watch(self, stream, until=lambda frame: False, seconds: float = 20.0) -> None:
        """See a stream to its end; `until` says at which frame to pause."""
        end = time.monotonic() + seconds
        for text in stream:
            if until(self.see(text)):
                self.session.pause()
            assert time.monotonic() < end, "waited in vain"

    @property
    def notes(self) -> list[str]:
        return [frame["note"] for frame in self.frames]


def weights(session: Session) -> dict[str, torch.Tensor]:
    tensors = safetensors.torch.load(session.ask("checkpoint"))
    return {name: value for name, value in tensors.items() if name != "meta"}


def like(session: Session, steps: int, experiment: Experiment = START) -> bool:
    """Whether it has what a run has that took these steps at once."""
    return same(weights(session), experiment.start("cpu").train(steps=steps).checkpoint())


def same(have: dict[str, torch.Tensor], saved: bytes) -> bool:
    true = safetensors.torch.load(saved)
    return all(torch.equal(true[name], value) for name, value in have.items())


@pytest.fixture
def room() -> Room:
    return Room("cpu", processes=0, places=4)


# ---------------------------------------------------------------- one visitor


def test_the_boundary_is_the_same(room):
    visitor = Visitor(room)
    session = visitor.session
    visitor.watch(session.step(12))
    assert like(session, 12) and not like(session, 11)
    assert visitor.frames[-1]["step"] == 12 and not visitor.frames[-1]["extra"]["playing"]
    visitor.watch(session.play(), lambda frame: frame["step"] > 14)
    step = visitor.frames[-1]["step"]
    assert like(session, step), "looking changed nothing"
    first = session.worker.timeline.steps[0]
    assert f"Branched from step {first:,}" in visitor.see(session.branch(first))["note"]
    assert session.ask("numbers")["step"] == first
    visitor.see(session.undo())
    assert session.ask("numbers")["step"] == step and like(session, step)
    assert len(session.ask("samples", n=7)) == 7
    with pytest.raises(BadInput, match="no action"):
        session.carry_out("fly", {})
    assert [found["step"] for found in session.train(6, 20.0)][-1] == step + 6
    assert visitor.see(session.set("n_components", 3))["step"] == 0
    with pytest.raises(BadInput, match="Between 1 and"):
        session.ask("samples", n=0)
    assert room.playing == room.waiting == 0


def test_a_branch_from_nothing_is_refused(room):
    visitor = Visitor(room)
    assert "press Play first" in visitor.see(visitor.session.branch(5))["note"]


def test_one_stream_takes_the_place_of_another(room):
    visitor = Visitor(room)
    first, second = visitor.session.play(), visitor.session.play()
    next(first)
    next(second)  # what it shows may rest on frames of the first that nobody has read yet
    assert [header(text)["extra"]["playing"] for text in first][-1] is False
    assert visitor.session.worker.streaming
    visitor.session.pause()
    list(second)
    assert not visitor.session.worker.streaming and room.playing == 0


def test_a_run_at_rest_is_parked_and_comes_back(room):
    visitor = Visitor(room)
    session, remote = visitor.session, visitor.session.worker
    visitor.see(session.reset())
    visitor.watch(session.step(9))
    session.set("lr", 0.1)
    [line] = room._lines
    assert remote.park() and not remote.seated and not line.seats and not line._host.guests
    assert not remote.park(), "it is parked already"
    frame = visitor.see(session.show())
    assert frame["step"] == 9 and not frame["note"] and remote.seated
    tape = frame["extra"]["timeline"]["tape"]
    assert tape == visitor.frames[-2]["extra"]["timeline"]["tape"], "the browser keeps its pictures"
    assert frame["extra"]["timeline"]["kept"] == remote.timeline.steps
    visitor.watch(session.step(4))
    run = START.start("cpu").train(steps=9)
    assert not run.set("lr", 0.1)
    assert same(weights(session), run.train(steps=4).checkpoint())


def test_what_is_parked_is_bitwise_what_went_on(room):
    one = Visitor(room)
    for _ in range(3):
        one.watch(one.session.step(5))
        assert one.session.worker.park()
    assert like(one.session, 15) and not like(one.session, 14)


def test_only_who_rests_for_long_is_parked(room, monkeypatch):
    one, other = Visitor(room), Visitor(room)
    stream = other.session.play()
    other.see(next(stream))
    room.sweep()
    assert one.session.worker.seated
    monkeypatch.setattr(rooms, "RESTED", 0.0)
    room.sweep()
    assert not one.session.worker.seated and other.session.worker.seated
    stream.close()


def test_who_leaves_is_let_go_of(room):
    visitors = Visitors("cpu", room=room)
    session = visitors.of("a")
    session.open(START)
    stream = session.play()
    next(stream)
    visitors.leave("a")
    list(stream)
    assert not session.worker.seated and room.playing == 0 and not room._lines[0]._host.guests
    assert session.show() is None
    with pytest.raises(BadInput, match="left"):
        session.ask("numbers")
    assert not room._lines[0].seats, "whoever is late takes no seat"


def test_what_one_process_has_found_out_is_told_to_the_next(room):
    one = Visitor(room)
    rivals._rivals.found["a"] = {"kl_pq": 0.5}
    one.watch(one.session.step(1))
    assert room.rivals["a"] == {"kl_pq": 0.5}
    del rivals._rivals.found["a"]
    Visitor(room).session.worker.park()
    assert rivals._rivals.found.pop("a") == {"kl_pq": 0.5}


def test_a_knob_that_is_dragged_leaves_one_message(room):
    session = Visitor(room).session
    session.worker.park()
    for i in range(50):
        session.worker.post(set=("batch", 64 + i))
        session.worker.post(extra={}, message="")
    kinds = [sorted(message) for _, message in session.worker._journal]
    assert kinds.count(["set"]) == 1 and len(kinds) <= 3
    assert session.worker._journal[-2][1]["set"] == ("batch", 113)


def test_a_checkpoint_under_way_is_waited_for():
    saves = Saves()
    saves.expect(1)
    assert saves.pop(2, "none") == "none", "nobody asked for that one"
    saves.arrive(1, b"x")
    assert saves.pop(1) == b"x" and saves.pop(1) is None
    saves.arrive(3, b"late")
    assert not saves, "what was given up meanwhile is not kept"


def test_a_timeline_shrinks_and_knows_the_size_of_what_is_elsewhere():
    timeline = Timeline(size=1000)
    for i in range(10):
        timeline.add(Moment(i, float(i), Weight(100)))
    assert timeline.bytes == 1000
    timeline.shrink(450)
    assert timeline.steps[0] == 0 and timeline.steps[-1] == 9 and timeline.bytes == 400


# ---------------------------------------------------------------- whose turn it is


def test_who_finds_the_room_full_waits_and_begins_by_themselves():
    room = Room("cpu", processes=0, places=1, turn=60.0)
    one, other, third = (Visitor(room) for _ in range(3))
    first, second, last = (v.session.play() for v in (one, other, third))
    one.see(next(first))
    assert other.see(next(second))["note"].count("number 1 in the queue")
    assert third.see(next(last))["note"].count("number 2 in the queue")
    waiting = other.frames[-1]
    assert waiting["extra"]["playing"] and waiting["step"] == 0 and waiting["extra"]["notice"]
    assert other.see(other.session.worker.redraw())["extra"]["playing"], "no Play button meanwhile"
    assert (room.playing, room.waiting) == (1, 2)
    other.session.pause()
    other.watch(second)
    assert not other.frames[-1]["extra"]["playing"] and not other.frames[-1]["note"]
    assert (room.playing, room.waiting) == (1, 1)
    assert third.see(next(last))["note"].count("number 1 in the queue"), "it moves up"
    first.close()
    third.watch(last, lambda frame: frame["step"] > 2)
    assert third.frames[-1]["step"] > 2 and not third.frames[-1]["note"]
    assert room.playing == room.waiting == 0


def test_a_program_is_told_its_place_too():
    room = Room("cpu", processes=0, places=1, turn=60.0)
    one, other = Visitor(room), Session(worker=room.worker(20.0, False))
    first = one.session.play()
    one.see(next(first))
    found = other.train(5, 20.0)
    told = next(found)
    assert "number 1 in the queue" in told["note"] and told["step"] == 0
    first.close()
    *_, last = found
    assert last["step"] == 5 and not last["note"]


def test_nobody_trains_longer_than_a_turn_while_others_wait():
    room = Room("cpu", processes=0, places=1, turn=0.3)
    one, other = Visitor(room), Visitor(room)

    def done() -> bool:
        # each has trained, has waited, and has trained again
        ways = [["in the queue" in note for note in v.notes[1:]] for v in (one, other)]
        turns = [sum(a and not b for a, b in itertools.pairwise(way)) for way in ways]
        return min(turns) >= 1 and max(turns) >= 2

    threads = [
        threading.Thread(target=v.watch, args=(v.session.play(), lambda frame: done()))
        for v in (one, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert done() and room.playing == room.waiting == 0
    for visitor in (one, other):
        playing = [frame["extra"]["playing"] for frame in visitor.frames[1:]]
        assert playing == sorted(playing, reverse=True), "it never seems to pause"
        steps = [frame["step"] for frame in visitor.frames]
        assert steps == sorted(steps)


def test_places_are_free_for_whoever_comes_first():
    room = Room("cpu", processes=0, places=2, turn=60.0)
    a, b, c, d = (room.worker(20.0, True) for _ in range(4))
    assert [room.come(remote) for remote in (a, b, c, d)] == [0, 0, 1, 2]
    room.leave(a)
    assert room.come(d) == 1, "one place is free, and is not d's"
    assert room.come(c) == 0 and room.come(d) == 1
    room.turn = 0.0
    room.come(d)
    assert room.asked_to_yield(b) and not room.asked_to_yield(c), "the longest, and only as many"
    room.give_way(b)
    assert room.come(d) == 0 and room.come(b) == 1


def test_the_environment_says_how_large_the_room_is(monkeypatch):
    monkeypatch.setenv("PLAYGROUND_ROOM", "3")
    monkeypatch.setenv("PLAYGROUND_PROCESSES", "0")
    assert Room("cpu").places == 3 and Room("cpu").processes == 0
    monkeypatch.setenv("PLAYGROUND_ROOM", "many")
    with pytest.raises(BadInput, match="PLAYGROUND_ROOM must be a whole number; got 'many'"):
        Room("cpu")
    with pytest.raises(SystemExit, match="PLAYGROUND_ROOM"):
        rooms.by_environment()
    monkeypatch.delenv("PLAYGROUND_ROOM")
    monkeypatch.setattr(rooms, "cores", lambda: 2)
    monkeypatch.setattr(rooms, "memory", lambda: None)
    assert Room("cpu").places == 16
    monkeypatch.setattr(rooms, "memory", lambda: 4 * rooms.A_RUN)
    assert Room("cpu").places == 4
    monkeypatch.setattr(rooms, "memory", lambda: 0)
    assert Room("cpu").places == 1, "there is always one"
    monkeypatch.setattr(rooms, "memory", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Room().places == rays.A_GPU and Room("cpu").places == 16
    assert Room("cpu").described == "16 runs at once"
    monkeypatch.setattr(rooms.nursery, "shared", lambda: None)
    for processes, where in ((1, "one process"), (2, "2 processes")):
        assert Room("cpu", processes).described == f"16 runs at once, in {where}"


# ---------------------------------------------------------------- processes


@pytest.fixture(scope="module")
def processes() -> Room:
    if not nursery.CAN:
        pytest.skip("processes are forked on Linux alone")
    return Room("cpu", processes=4, places=4)


def kill(visitor: Visitor) -> None:
    os.kill(visitor.session.worker._line.pid, signal.SIGKILL)


def test_a_killed_process_costs_what_is_newer_than_the_last_checkpoint(processes):
    visitor, other = Visitor(processes), Visitor(processes)
    session = visitor.session
    beside = other.session.play()
    other.see(next(beside))
    died: dict = {}

    def act(frame: dict) -> bool:
        if not died and frame["step"] > 10:
            session.set("batch", 64)
            died.update(saved=session.worker._about["step"], frame=len(visitor.frames))
            kill(visitor)
        return bool(died) and len(visitor.frames) > died["frame"] + 12

    visitor.watch(session.play(), act)
    after = [frame for frame in visitor.frames[died["frame"] :] if "was lost" in frame["note"]]
    assert after[0]["step"] >= died["saved"] > 0, "nothing older was lost"
    assert after[-1]["step"] > after[0]["step"], "and it went on"
    assert "at most two seconds back" in after[0]["note"]
    seqs = [frame["seq"] for frame in visitor.frames]
    assert seqs == sorted(set(seqs)), "for the browser it is one stream"
    tapes = {frame["extra"]["timeline"]["tape"] for frame in visitor.frames}
    assert len(tapes) == 1, "which keeps its timeline"
    other.see(next(beside))
    assert not any(other.notes), "nobody else noticed"
    saved = safetensors.torch.load(session.ask("checkpoint"))["meta"].numpy().tobytes()
    assert json.loads(saved)["experiment"]["knobs"]["batch"] == 64, "nor a knob set just before"
    visitor.see(session.branch(session.worker.timeline.steps[0]))
    assert session.worker.timeline.steps == [0], "what was kept before is still there"
    other.session.pause()
    other.watch(beside)
    for one in (visitor, other):
        one.session.close()


@pytest.mark.slow
def test_a_counted_run_that_loses_its_process_twice_is_exact(processes):
    visitor, left = Visitor(processes), [40, 15]

    def act(frame: dict) -> bool:
        if left and frame["step"] > left[-1]:
            left.pop()
            kill(visitor)
        return False

    visitor.watch(visitor.session.step(60), act)
    assert not left and visitor.frames[-1]["step"] == 60
    assert like(visitor.session, 60) and not like(visitor.session, 59)
    pid = visitor.session.worker._line.pid
    visitor.session.close()
    end = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}") and not processes.pids


@pytest.mark.slow
def test_a_run_at_rest_that_loses_its_process_is_found_again(processes):
    visitor = Visitor(processes)
    session = visitor.session
    visitor.watch(session.step(5))
    session.set("batch", 64)
    kill(visitor)
    frame = visitor.see(session.show())
    assert frame["step"] == 5 and "was lost" in frame["note"]
    visitor.watch(session.step(1))
    assert session.ask("numbers")["step"] == 6
    kill(visitor)
    assert [found["step"] for found in session.train(4, 20.0)][-1] == 10
    session.close()


@pytest.mark.slow
def test_a_run_that_ends_every_process_is_given_up(processes, monkeypatch):
    visitor = Visitor(processes)
    remote, line = visitor.session.worker, processes.line

    def doomed():
        found = line()
        os.kill(found.pid, signal.SIGKILL)
        return found

    monkeypatch.setattr(processes, "line", doomed)
    assert remote.park()
    assert list(visitor.session.play()) == [] and processes.playing == 0
    with pytest.raises(BadInput, match="busy"):
        visitor.session.ask("numbers")
    monkeypatch.setattr(processes, "line", line)
    assert "lost again and again" in visitor.see(visitor.session.show())["note"]
    visitor.session.close()


class Impatient:
    """A box whose reader takes it away, without a lock, as soon as something is put into it."""

    def __init__(self, among: dict, call: int) -> None:
        self.among, self.call, self.heard = among, call, []

    def put(self, item: object) -> None:
        self.among.pop(self.call, None)
        self.heard.append(item)


@pytest.mark.parametrize("how", ["kept", "lost", "leave"])
def test_who_takes_an_answer_away_keeps_it_from_nobody(room, how, monkeypatch):
    visitor = Visitor(room)
    remote = visitor.session.worker
    boxes = []
    for among in (remote._calls, remote._flows):
        for call in (-1, -2, -3):
            among[call] = box = Impatient(among, call)
            boxes.append(box)
    if how == "kept":
        monkeypatch.setattr(remote, "_keep", lambda *about: None)
        remote.heard(remote._line, "kept", b"", {"step": 0}, False)
        boxes = boxes[3:]
    elif how == "lost":
        remote.lost(remote._line)
    else:
        visitor.session.close()
    assert all(len(box.heard) == 1 for box in boxes)


@pytest.mark.slow
def test_the_process_that_forks_others_is_started_again(processes):
    before = nursery.pids()
    os.kill(before[0], signal.SIGKILL)
    visitor = Visitor(processes)
    visitor.watch(visitor.session.step(3))
    assert visitor.frames[-1]["step"] == 3 and nursery.pids() != before
    visitor.session.close()


@pytest.mark.slow
def test_thirty_two_visitors_on_eight_places():
    found = soak(10.0, visitors=32, places=8, turn=2.0, engines=("mixture",), most_seconds=150.0)
    assert not found["errors"] and found["served"] == 32
    assert found["waited"] >= 16 and found["trained"] > 8, "places went round"
    assert found["processes"] == 0 and found["ratio"] < 1.2


# ---------------------------------------------------------------- a cluster


def test_without_ray_one_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(BadInput, match="the package ray is not installed"):
        Room("cpu", cluster="auto")
    monkeypatch.setenv("PLAYGROUND_RAY", "auto")
    with pytest.raises(SystemExit, match="ray is not installed"):
        rooms.by_environment()


def test_places_of_a_cluster():
    cluster = object.__new__(rays.Cluster)
    cluster.cores, cluster.gpus = 4.0, 0.0
    assert cluster.places == 4 * rays.A_CORE
    cluster.gpus = 2.0
    assert cluster.places == 2 * rays.A_GPU, "a GPU is shared by so many"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_two_nodes_of_a_cluster(monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    # Ray gives its workers what others leave: beside other tests an actor would begin after minutes
    monkeypatch.setenv("RAY_worker_niceness", "0")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    try:
        room = Room("cpu", cluster=nodes.address)
        assert room.places == 2 * rays.A_CORE
        one, other = Visitor(room), Visitor(room)
        actors = [v.session.worker._line.actor for v in (one, other)]
        places = ray.get([actor.where.remote() for actor in actors])
        assert len({node for node, _ in places}) == 2, "one on each node"
        other.watch(other.session.step(7))
        assert like(other.session, 7)
        died: dict = {}

        def act(frame: dict) -> bool:
            if not died and frame["step"] > 10:
                died.update(saved=one.session.worker._about["step"])
                os.kill(places[0][1], signal.SIGKILL)
            return "was lost" in frame["note"] and frame["step"] > died["saved"] + 3

        one.watch(one.session.play(), act, seconds=40.0)
        assert "was lost" in one.frames[-1]["note"] and one.session.worker._line.actor != actors[0]
        for visitor in (one, other):
            visitor.session.close()
    finally:
        ray.shutdown()
        nodes.shutdown()
