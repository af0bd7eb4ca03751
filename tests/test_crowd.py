"""Runs of one process that take turns, and what part of the machine each has."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from app.crowd import Crowd
from app.host import Everyone
from app.pack import unpack
from app.session import Session
from engines import Experiment
from tests.visits import Player
from tests.visits import browser_memory as browser_memory


def test_each_stream_has_its_share_of_the_process_and_its_part_of_the_machine():
    crowd = Crowd(cores=2)
    assert crowd.share == crowd.part == 1.0
    with crowd.member():
        assert crowd.share == crowd.part == 1.0
        with crowd.member():
            assert (crowd.share, crowd.part) == (0.5, 1.0)
            with crowd.member(), crowd.member():
                assert (crowd.share, crowd.part) == (0.25, 0.5)
    assert crowd.share == crowd.part == 1.0


def test_those_in_other_processes_count_for_the_machine_alone():
    crowd = Everyone(cores=2)
    crowd.count(8)
    with crowd.member(), crowd.member():
        assert (crowd.share, crowd.part) == (0.5, 0.25)
    crowd.count(0)
    with crowd.member(), crowd.member(), crowd.member():
        assert crowd.part == pytest.approx(2 / 3), "the room has not told yet"


def test_one_at_a_time_and_whoever_waited_longest_is_next():
    crowd, order, inside = Crowd(cores=2), [], []

    def come(name: int) -> None:
        with crowd.turn():
            order.append(name)
            inside.append(name)
            time.sleep(0.01)
            assert inside == [name], "somebody else came in between"
            inside.clear()

    threads = [threading.Thread(target=come, args=(i,)) for i in range(6)]
    with crowd.turn():
        for thread in threads:
            thread.start()
            time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert order == list(range(6))


def test_who_fails_in_its_turn_holds_nobody_up():
    crowd = Crowd()
    with pytest.raises(ZeroDivisionError), crowd.turn():
        _ = 1 / 0
    with crowd.turn():
        pass
    assert not crowd._queue


def test_where_many_play_a_coarse_picture_comes_first_then_one_in_full_then_numbers(small):
    def density(frame: dict) -> tuple[tuple[int, ...], str]:
        panel = next(p for p in frame["panels"] if p["id"] == "model")
        return next(m for m in panel["marks"] if m["type"] == "Heat")["values"].shape, panel[
            "subtitle"
        ]

    def pictures(others: int) -> list[dict]:
        crowd, blocks = Crowd(cores=1), {}
        session = Session("cpu", 30, crowd)
        session.patient = True  # it asks for the numbers once it has painted
        with contextlib.ExitStack() as stack:
            for _ in range(others):
                stack.enter_context(crowd.member())
            first = unpack(session.open(Experiment("moons", "flow_matching")), blocks)
            found = [first]
            while found[-1]["extra"]["owed"]:
                found.append(unpack(session.worker.redraw("owed"), blocks))
            # what stands in full is not made coarse for a sentence
            assert density(unpack(session.refuse("No."), blocks)) == density(found[-1])
            return found

    coarse, full, measured = pictures(others=4)
    alone, again = pictures(others=1)
    assert measured["metrics"] and again["metrics"] and not full["metrics"]
    assert density(alone) == density(again) == density(full) == density(measured)
    assert density(coarse)[0] < density(full)[0]
    assert "cells" in density(coarse)[1], "a coarse one says so"
    assert "cells" not in density(full)[1]


@pytest.mark.slow
def test_visitors_of_one_process_train_alike_and_see_fewer_frames():
    """Six on one core: each gets about a sixth, and fewer frames than one alone would."""
    crowd = Crowd(cores=1)
    visitors = [Session("cpu", 30, crowd) for _ in range(6)]
    for visitor in visitors:
        visitor.open(Experiment("ring8soft", "mixture"))
    players = [Player(visitor) for visitor in visitors]
    for player in players:
        player.wait(lambda p: len(p.frames) > 5)
    time.sleep(1.0)  # until all train at full speed
    begin = [(p.frames[-1]["step"], len(p.frames)) for p in players]
    time.sleep(3.0)
    steps = [p.frames[-1]["step"] - step for p, (step, _) in zip(players, begin, strict=True)]
    frames = [len(p.frames) - n for p, (_, n) in zip(players, begin, strict=True)]
    for player in players:
        player.stop()
    assert min(steps) > 0.7 * sum(steps) / 6, steps
    assert min(frames) > 6 and max(frames) < 1.2 * 3.0 * 30 / 6**0.5, frames
