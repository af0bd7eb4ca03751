"""ZeroGPU: the real `spaces` package forks, schedules and relays; what lends the GPU is played.

Without a GPU the forked process trains on its CPU, which makes the strictest oracle there is: a
run that went out and came home has, bit for bit, the weights of one that took its steps at once.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from app import box
from app.mailbox import Mailbox
from app.session import Session
from app.worker import Worker
from engines import nets

ROOT = Path(__file__).parent.parent
SECOND = 15  # frames, at the pace that the visitor asks for


# ---------------------------------------------------------------- without a Space


def test_where_nothing_is_lent_there_is_a_plain_worker():
    assert not box.ON and box.lend is None and box.spaces is None
    session = Session("cpu")
    assert type(session.worker) is Worker
    session.choose_gpu()
    assert type(session.worker) is Worker


def test_a_mailbox_brings_every_message_once_and_in_order():
    box, rng = Mailbox(200), random.Random(0)
    sent, got = [], []
    for i in range(500):
        message = [i, "x" * rng.randrange(60)]
        if box.put(message):
            sent.append(message)
        if rng.random() < 0.6:
            got += box.take()
    got += box.take()
    assert got == sent
    assert 300 < len(sent) < 500, "some found no room, and left nothing behind"


def test_a_mailbox_that_is_full_can_still_be_stopped():
    box = Mailbox(64)
    while box.put("more"):
        pass
    assert not box.stopped
    box.stop(2)
    assert box.stopped == 2
    box.clear()
    assert not box.stopped and box.take() == [] and box.put("again")


def test_a_generator_goes_on_from_a_state_of_its_own_kind():
    rng = torch.Generator().manual_seed(3)
    torch.rand(7, generator=rng)
    state, wanted = rng.get_state(), torch.rand(5, generator=rng)
    other = torch.Generator()
    nets.revive(other, state)
    assert torch.equal(torch.rand(5, generator=other), wanted)


def test_a_generator_from_another_kind_of_device_gives_the_same_numbers_each_time():
    state = torch.arange(16, dtype=torch.uint8)  # a seed and an offset, as CUDA keeps them
    draws = []
    for change in (0, 0, 1):
        rng = torch.Generator()
        nets.revive(rng, state + change)
        draws.append(torch.rand(5, generator=rng))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]), "another state, other numbers"
    for size in (0, 15, 17, 5055):
        with pytest.raises(RuntimeError):
            nets.revive(torch.Generator(), torch.zeros(size, dtype=torch.uint8))


# ---------------------------------------------------------------- on a Space


def visit(*names: str) -> dict[str, Any]:
    """What happens on a Space that lends a GPU, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.zero_space", *names],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def is_exact(seen: dict[str, Any]) -> bool:
    """Whether it has the weights of a run that took as many steps at once, and not one less."""
    return seen["off_by"][0] == 0 < seen["off_by"][1]


def steps(seen: dict[str, Any], gpu: str = "on") -> list[int]:
    return [frame["step"] for frame in seen["frames"] if frame["gpu"] == gpu]


def notes(seen: dict[str, Any]) -> str:
    return " ".join(dict.fromkeys(frame["note"] for frame in seen["frames"]))


@pytest.fixture(scope="module")
def space() -> dict[str, Any]:
    return visit("stream", "knob", "killed", "quota", "page")


def test_frames_stream_out_of_a_forked_process(space):
    seen, api = space["stream"]["seen"], space["stream"]["api"]
    assert [what for what, _ in api] == ["schedule", "allow", "release"]
    assert int(api[1][1]["pid"]) != space["pid"]
    assert steps(seen) == sorted(steps(seen)) and len(set(steps(seen))) >= 12
    assert [frame["playing"] for frame in seen["frames"]][-3:] == [True, False, False]
    assert seen["device"] == "cpu", "the Space's own process sees a GPU that is not there"


def test_the_run_comes_home_as_it_was(space):
    seen = space["stream"]["seen"]
    assert seen["step"] == steps(seen)[-1]
    assert is_exact(seen)
    assert seen["curve"] == seen["step"], "with its curves"
    assert seen["timeline"][-1] == seen["step"] and seen["frames"][-1]["kept"] == seen["timeline"]


def test_a_knob_reaches_a_process_that_was_forked_before_its_visitor_came(space):
    seen, api = space["knob"]["seen"], space["knob"]["api"]
    assert [what for what, _ in api] == ["schedule", "release"], "nothing was forked anew"
    assert len(seen["frames"]) - seen["changed_at"] <= SECOND + 2
    assert seen["lr"] == seen["knob"] == 0.003
    assert seen["off_by"][0] > 0, "the whole run with that knob would have been another"


def test_a_killed_process_costs_what_is_newer_than_its_last_checkpoint(space):
    seen = space["killed"]["seen"]
    died = seen["died"]
    after = [frame["step"] for frame in seen["frames"][died["frame"] :] if frame["gpu"] == "on"]
    assert min(after) >= died["saved"], "nothing older was lost"
    assert after[-1] == seen["step"] and len(set(after)) > 3, "and it went on, on the next one"
    assert seen["lr"] == seen["knob"] == 0.002, "a knob that was set just before is not lost"
    assert "taken away" in notes(seen)
    assert [what for what, _ in space["killed"]["api"]].count("schedule") == 2


def test_when_the_quota_ends_the_cpu_goes_on(space):
    seen, api = space["quota"]["seen"], space["quota"]["api"]
    assert {asked["token"] for what, asked in api if what == "schedule"} == {"mine"}
    last = steps(seen)[-1]
    assert steps(seen, "off")[0] > last and is_exact(seen)
    assert not seen["wanted"]
    assert (
        "Your GPU quota on Hugging Face has ended; the run goes on on the CPU, "
        f"from step {last:,}. The GPU can be had again in 1:02:03." in notes(seen)
    )


def test_the_page_offers_a_gpu_only_where_one_is_lent(space):
    from app.page import build

    here = [b.elem_id for b in build().blocks.values() if b.get_block_name() == "button"]
    assert set(space["page"]["seen"]["buttons"]) - set(here) == {"gp-gpu"}


def test_every_mailbox_is_free_again(space):
    assert space["free"] == box.SLOTS


@pytest.mark.slow
def test_boxes_follow_each_other_and_nobody_notices():
    found = visit("boxes")["boxes"]
    assert [what for what, _ in found["api"]].count("schedule") == 3
    assert is_exact(found["seen"])
    playing = [frame["playing"] for frame in found["seen"]["frames"]]
    assert playing == sorted(playing, reverse=True), "it never seems to pause"


@pytest.mark.slow
def test_the_rest_of_a_visit():
    found = visit("question", "none_free", "hidden", "two")
    seen = found["question"]["seen"]
    assert torch.tensor(seen["answer"]).shape == (3, 2)
    assert is_exact(seen), "it came home to answer, and went on"
    seen = found["none_free"]["seen"]
    assert "No GPU could be had; the run goes on on the CPU, from step 0." in notes(seen)
    assert is_exact(seen) and seen["step"] > 0
    assert found["hidden"]["seen"]["asked"] == 0 and found["hidden"]["seen"]["step"] > 0
    one, other = found["two"]["seen"]
    assert is_exact(one) and is_exact(other)
    assert one["lr"] != other["lr"] and other["step"] > one["step"]
    api = found["two"]["api"]
    assert {asked["token"] for what, asked in api if what == "schedule"} == {"of 6", "of 16"}
    assert len({asked["pid"] for what, asked in api if what == "allow"}) == 2
    assert found["free"] == box.SLOTS
