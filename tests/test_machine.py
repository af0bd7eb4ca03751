"""What is set up for speed changes no number, and is only used where it is faster and as exact."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app.worker import Worker
from engines import Experiment, machine

ROOT = Path(__file__).parent.parent

# a short training in a process of its own, with the machine prepared or as it was found
TRAINING = """
import hashlib, os, sys, types
prepared = sys.argv[1] == "prepared"
if not prepared:
    stub = types.ModuleType("engines.machine")
    stub.prepare = lambda: None
    sys.modules["engines.machine"] = stub
from engines import Experiment
from app import thumbs
thumbs.css("#data")
# what takes a second to load, and is asked for only by digits and by references
late = [name for name in ("sklearn", "scipy.stats", "pandas") if name in sys.modules]
out = [",".join(late) or "-"]
for name in ("flow", "vae", "gan", "energy"):
    run = Experiment("moons", name).start("cpu").train(steps=3 + int(sys.argv[2]))
    arrays, _ = run.engine.state()
    text = b"".join(t.numpy().tobytes() for _, t in sorted(arrays.items()))
    out.append(hashlib.blake2b(text, digest_size=8).hexdigest())
print(os.environ.get("OMP_WAIT_POLICY"), *out)
"""


def trained(how: str, more: int = 0) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, how, str(more)],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env={"PATH": "", "HOME": str(Path.home())},
    )  # fmt: skip
    return done.stdout.split()


def test_a_prepared_machine_trains_the_same_bits():
    policy, late, *prepared = trained("prepared")
    assert policy == "PASSIVE" and late == "-", "nothing is loaded at start that is not needed"
    policy, _, *stock = trained("stock")
    assert policy == "None"
    assert prepared == stock and len(set(prepared)) == 4


@pytest.mark.slow
def test_and_the_comparison_would_notice():
    assert trained("prepared")[2:] != trained("prepared", more=1)[2:]


def test_what_is_already_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setattr(machine, "_glibc", lambda name: None)
    machine.prepare()
    assert machine.os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.fixture
def clock(monkeypatch):
    """Products take as long as the test says: {"highest": seconds, "medium": seconds}."""
    if torch.cuda.is_available():
        pytest.skip("where there is a GPU nothing is calibrated")
    took = {}
    monkeypatch.setattr(
        machine, "_there_and_back", lambda x, w: took[torch.get_float32_matmul_precision()]
    )
    monkeypatch.setattr(machine, "found", None)
    before = torch.get_float32_matmul_precision()
    yield took
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("medium", "wanted"), [(0.5, "medium"), (0.95, "highest"), (1.0, "highest"), (3.0, "highest")]
)
def test_the_faster_way_is_taken_only_where_it_is_clearly_faster(clock, medium, wanted):
    clock.update(highest=1.0, medium=medium)
    found = machine.calibrate(seconds=0)
    exact = found.error <= machine.TRUE
    assert found.precision == torch.get_float32_matmul_precision()
    if wanted == "highest" or exact:  # on a machine that rounds to bfloat16 it is never taken
        assert found.precision == wanted
    assert math.isclose(found.speedup, 1 / medium if found.precision == "medium" else 1.0)
    assert ("oneDNN (×2.0)" in machine.described()) == (found.precision == "medium")


def test_the_faster_way_is_left_where_it_rounds(clock, monkeypatch):
    clock.update(highest=1.0, medium=0.5)
    monkeypatch.setattr(machine, "TRUE", 0.0)  # no way is as exact as that
    assert machine.calibrate(seconds=0).precision == "highest"
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("few", [0.5, 2.0])
def test_small_networks_have_a_way_of_their_own(clock, monkeypatch, few):
    """oneDNN is twice as fast on the others, and on small ones so many times as slow."""
    now = torch.get_float32_matmul_precision

    def took(x, w):
        return (0.5 if len(x) == machine.ROWS else few) if now() == "medium" else 1.0

    monkeypatch.setattr(machine, "_there_and_back", took)
    monkeypatch.setattr(machine, "TRUE", math.inf)  # wherever it rounds as well
    found = machine.calibrate(seconds=0)
    small = "medium" if few < 1 else "highest"
    assert (found.precision, found.small, now()) == ("medium", small, "medium")
    assert machine.ways() == ("medium", small)
    run = Experiment("ring8soft", "gan").start("cpu").train(steps=1)
    assert now() == "medium", "programs stay as they are"
    run.quicken()
    assert now() == small, "256 rows of 64 units"
    Experiment("ring8soft", "nce").start("cpu").quicken()
    assert now() == "medium", "512 rows of 128 units"
    run.quicken(native=False)
    assert now() == "medium"
    run.quicken()
    worker = Worker("cpu", pictures=False)  # of a program, in a process with others
    worker.post(open=Experiment("ring8soft", "gan").to_json())
    assert list(worker.train(2, 10.0)) and now() == "medium", "whoever came before"
    machine.adopt("highest", "medium")  # as a process does that was told
    run.quicken()
    assert now() == "medium"
    machine.adopt("highest", "highest")
    run.quicken()
    assert now() == "highest" and machine.found is None


def test_the_true_calibration_is_as_exact(clock, monkeypatch):
    monkeypatch.undo()
    before = torch.get_float32_matmul_precision()
    try:
        found = machine.calibrate(seconds=0.02)
        x = torch.randn(256, 128, generator=torch.Generator().manual_seed(1))
        off = (x @ x.T - (x.double() @ x.double().T)).abs().max()
        assert off < 1e-4, "bfloat16 is off by more than .1"
        assert found.precision in ("highest", "medium") and found.error <= machine.TRUE
    finally:
        machine.exact()
        assert torch.get_float32_matmul_precision() == "highest"
        torch.set_float32_matmul_precision(before)
        machine.found = None


def test_memory_can_be_given_back_anywhere(monkeypatch):
    machine.give_back()
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    assert machine._glibc("malloc_trim") is None
    machine.give_back()


def test_the_page_says_what_trains_here():
    said = machine.described()
    assert "one thread a run" in said and ("core" in said)
    assert "for those who ask" in machine.described(lent=True)


def test_the_small_picture_of_digits_is_one_of_them():
    from engines.data.images import Digits, digits

    shown = Digits().example()
    rows = torch.cat([rows for rows, _ in digits().values()])
    assert shown.shape == (64,) and (rows == shown).all(1).sum() == 1


FORKED = """
import os, sys, threading, torch, types, engines.machine
if sys.argv[1] == "bare":
    engines.machine.sys = types.SimpleNamespace(modules={})  # torch is not found
torch.arange(8, dtype=torch.float64) * 2.0
bad = 0
for _ in range(200 if sys.argv[1] == "bare" else 20):
    if (pid := os.fork()) == 0:
        failed, gate = [], threading.Barrier(6)
        def meet():
            gate.wait()
            try:
                torch.arange(8, dtype=torch.float64) * 2.0
            except RuntimeError:
                failed.append(True)
        threads = [threading.Thread(target=meet) for _ in range(6)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        os._exit(bool(failed))
    bad += os.waitpid(pid, 0)[1] != 0
    if bad:
        break
print(bad)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="nothing is forked elsewhere")
def test_runs_that_begin_at_once_in_a_forked_process_all_begin():
    def failures(how: str) -> int:
        found = subprocess.run(
            [sys.executable, "-c", FORKED, how], cwd=ROOT, capture_output=True, text=True
        )
        return int(found.stdout)

    assert failures("prepared") == 0
    if not failures("bare"):  # threads have to meet, which a busy machine may keep them from
        pytest.skip("all began without it, too, in 200 forks: the comparison says nothing here")
