"""The clock on the wall: steps a second while playing, and how long that was."""

from __future__ import annotations

import time

import pytest

from app import clock
from app.worker import Worker
from engines import Experiment
from tests.visits import shown


class Time:
    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(clock.time, "perf_counter", lambda: self.now)


@pytest.fixture
def at(monkeypatch):
    return Time(monkeypatch)


def play(at, told, begin=0, steps=20, seconds=2.0, ticks=10):
    for i in range(ticks + 1):
        told.tick(begin + steps * i // ticks, True)
        at.now += seconds / ticks
    at.now -= seconds / ticks


def test_a_rate_is_steps_over_seconds_of_playing(at):
    told = clock.Clock()
    play(at, told, steps=40, seconds=2.0)
    assert told.rate == pytest.approx(20) and told.played == pytest.approx(2)


def test_a_rest_is_no_time_played_and_keeps_the_last_rate(at):
    told = clock.Clock()
    play(at, told, steps=40, seconds=2.0)
    told.tick(40, False)
    for _ in range(3):
        at.now += 30  # somebody looks, and pictures at rest are drawn
        told.tick(40, False)
        assert told.rate == pytest.approx(20) and told.played == pytest.approx(2)
    play(at, told, begin=40, steps=60, seconds=1.0)
    assert told.rate == pytest.approx(60) and told.played == pytest.approx(3)


def test_begun_again_it_has_not_played(at):
    told = clock.Clock()
    play(at, told)
    told.tick(0, False)
    assert told.rate == 0 and told.played == 0


def test_at_another_moment_it_has_played_as_long_as_was_kept(at):
    told = clock.Clock()
    play(at, told)
    told.jump(5, 0.5)
    assert told.rate == 0 and told.played == 0.5
    play(at, told, begin=5, steps=10, seconds=1.0)
    assert told.rate == pytest.approx(10) and told.played == pytest.approx(1.5)


def test_a_picture_at_rest_that_takes_long_slows_nothing_on_the_screen(monkeypatch):
    """The end of a stream: fresh pictures, then numbers, each long after the last step."""
    worker = Worker("cpu")
    worker.post(open=Experiment("moons", "mixture").to_json())
    shown(worker.redraw())  # later frames refer to its pictures
    drawn = worker.run.frame

    def slowly(fresh=True, *args):
        time.sleep(0.8 * fresh)
        return drawn(fresh, *args)

    monkeypatch.setattr(worker.run, "frame", slowly)
    frames = []
    for text, _ in worker.stream():
        if text is not None:
            frames.append(shown(text))
            worker.hear(worker._seq)
        if len(frames) > 15:
            worker.stop()
    moving = [frame for frame in frames if frame["extra"]["playing"]][-1]
    rest = frames[-1]
    assert not rest["extra"]["playing"] and rest["step"] >= moving["step"]
    assert rest["rate"] == pytest.approx(moving["rate"], rel=0.3)
    assert rest["seconds"] < moving["seconds"] + 0.5
