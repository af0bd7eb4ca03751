"""Captured steps: the same as eager ones, with all of Python held fast between two replays.

Without a GPU by `tests/frozen.py`. The tests marked `gpu` capture in earnest; they need PyTorch,
NumPy and scikit-learn alone: `pytest -m gpu tests/test_graphs.py`.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from bench import gpu
from engines import DATASETS, ENGINES, Experiment, graphs, nets
from engines.base import Engine
from engines.capture import Capture
from engines.data.base import Pool
from engines.graphs import Ahead, Cuda, Graphs, Steps
from engines.lanes import Lane
from tests.contract import equal, weights
from tests.each import quick
from tests.frozen import Frozen, Watch

CAPTURED = [name for name, kind in ENGINES.items() if not kind.capture.no]
SMALL = {"width": 16, "batch": 32, "hidden": 1, "bins": 8}
# small and without a long start, by engine: knobs, dataset
CASES = {name: (ENGINES[name].opens_on, {}) for name in CAPTURED} | {
    "divergence": ("line", {"width": 0.5}),
    "nce": ("moons", {"noise": "wide"}),
    "conditional_gan": ("moons", {}),  # classes by places, which are numbers of Python's
    "guided_diffusion": ("rings", {}),
    "energy": ("moons", {"restarts": 0.1, "buffer": 100}),  # the turn comes round
    "gan": ("moons", {"slope_one": 1.0, "loss": "non-saturating"}),
    "flow": ("moons", {"base": "mixture"}),
}


def experiment(name: str, dataset: str = "", **knobs) -> Experiment:
    at, own = CASES[name]
    own = {k: v for k, v in {**SMALL, **own, **knobs}.items() if k in ENGINES[name].knobs}
    return Experiment(dataset or at, name, knobs=own)


def points(name: str, **knobs) -> Experiment:
    """On few points of one's own, which weights are kept for that do best on others."""
    xy = torch.randn(300, 2, generator=torch.Generator().manual_seed(1)).numpy() * [1, 0.3]
    own = {k: v for k, v in {**SMALL, **knobs}.items() if k in ENGINES[name].knobs}
    return Experiment.from_points(xy, name, knobs=own)


def trained(given: Experiment, steps: int, backend=None, moves=(), device: str = "cpu"):
    """A run of so many steps; moves: (step, knob, value)."""
    run = given.start(device)
    if backend is not None:
        run.by_graphs(backend)
    for at, name, value in moves:
        run.train(steps=at - run.step)
        run.set(name, value)
    return run.train(steps=steps - run.step)


def alike(a, b, most: float) -> None:
    """Weights and losses of two runs differ by no more than a share `most` of their size."""
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    for key, x in one.items():
        if x.dtype == torch.uint8:
            assert torch.equal(x, other[key]), key
        elif x.numel():
            off = (x.double() - other[key].double()).nan_to_num(posinf=0.0).abs().max()
            assert off <= most * x.double().nan_to_num(posinf=0.0).abs().max() + 1e-9, key
    for one, other in zip(a.lanes, b.lanes, strict=True):
        assert one.engine.state()[1] == other.engine.state()[1]
        for name, track in one.tracks.items():
            assert track.steps == other.tracks[name].steps
            size = max(map(abs, track.values))
            assert other.tracks[name].values == pytest.approx(track.values, abs=most * size), name


def off_a_little(kind: type[Engine], name: str, value: float) -> float:
    """A value of a knob so near that the same terms are on, and so far that it shows."""
    entry = kind.knobs[name]
    value = value * 0.7 if value else (entry.low + entry.high) / 2
    return round(value) if entry.kind == "int" else value


# ---------------------------------------------------------------- every engine


@pytest.mark.parametrize("name", quick(CAPTURED))
def test_a_step_is_static_and_learns_of_numbers_by_the_table(name):
    """Eager and repeated steps are the same steps, also after every dial has moved; and no dial
    costs a new capture."""
    given, kind = experiment(name), ENGINES[name]
    moves = [
        (23, dial, off_a_little(kind, dial, given.knobs[dial]))
        for dial in kind.capture.dials
        if given.knobs[dial] > 0
    ]
    backend = Frozen()
    eager, captured = trained(given, 34, moves=moves), trained(given, 34, backend, moves)
    assert captured.graphs.why_eager == ""
    assert backend.captures == 2 and backend.replays >= 3, "one for ten steps, and one for one"
    alike(eager, captured, 1e-5)


@pytest.mark.parametrize(
    ("name", "data"),
    quick([("flow", None), ("autoregressive", None), ("diffusion", None), ("flow_matching", None),
           ("vae", "digits"), ("energy", "digits"), ("infogan", "digits")]),
)  # fmt: skip
def test_steps_of_a_special_kind_have_graphs_of_their_own(name, data):
    """Where rows are few, some steps look at held-out ones; images have noise of their own."""
    given = points(name) if data is None else experiment(name, data)
    backend = Frozen()
    eager, captured = trained(given, 71), trained(given, 71, backend)
    assert captured.graphs.why_eager == "" and captured.graphs.ready
    alike(eager, captured, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "knobs"),
    [("gan", {"unroll": 2, "d_steps": 2}), ("gan", {"loss": "Wasserstein", "clip": 0.1}),
     ("flow_matching", {"distil": "shortcut"}), ("score", {"method": "sliced"}),
     ("diffusion", {"levels": "schedule", "process": "VP"}), ("flow", {"kind": "Glow"}),
     ("energy", {"method": "short-run", "metropolis": False}),
     ("vae", {"kind": "importance-weighted", "noise": "learnt"})],
)  # fmt: skip
def test_other_ways_to_train_are_static_too(name, knobs):
    given = experiment(name, **knobs)
    eager, captured = trained(given, 34), trained(given, 34, Frozen())
    assert captured.graphs.why_eager == "" and captured.graphs.ready
    alike(eager, captured, 1e-5)


def test_a_reflow_is_made_by_python_and_has_a_graph_of_its_own():
    given = experiment("flow_matching", reflow_every=20)
    backend = Frozen()
    engine_class = ENGINES["flow_matching"]
    before, engine_class.PAIRS = engine_class.PAIRS, 64
    try:
        eager, captured = trained(given, 55), trained(given, 55, backend)
    finally:
        engine_class.PAIRS = before
    assert captured.engine.reflows == 2 and backend.captures >= 2
    alike(eager, captured, 1e-5)


def test_every_engine_says_whether_it_is_captured():
    for name, kind in ENGINES.items():
        assert kind.capture is not Engine.capture, f"{name} says nothing"
        assert all(kind.knobs[dial].live for dial in kind.capture.dials), name
        for why in (kind.capture.no, *(why for _, why in kind.capture.unless)):
            assert not why or (why[0].isupper() and why.endswith(".")), why
        for when, _ in kind.capture.unless:
            assert set(when) <= set(kind.knobs)
    assert len(CAPTURED) >= 17


def test_knobs_that_python_must_decide_on_keep_a_run_eager():
    given = experiment("flow_matching", coupling="optimal transport")
    run = trained(given, 25, backend := Frozen())
    assert run.graphs.why_eager.startswith("Optimal transport") and not backend.captures
    assert equal(weights(run), weights(trained(given, 25)))
    assert Capture(unless=(({"a": 1}, "A."),)).refused({"a": 2}) == ""


def test_the_page_is_told_how_a_run_trains_on_a_gpu():
    eager = trained(experiment("flow_matching", coupling="optimal transport"), 25, Frozen())
    eager.quicken()
    assert eager.quickened == f"no CUDA graphs here: {eager.graphs.why_eager[:-1]}"
    young, old = trained(experiment("gan"), 1, Frozen()), trained(experiment("gan"), 34, Frozen())
    for run in (young, old):
        run.quicken()
    assert (young.quickened, old.quickened) == ("", "CUDA graphs")


# ---------------------------------------------------------------- one small engine


class Toy(Engine):
    """w ← w − rate · (w − batch mean), counted, with noise; and its wrong twins."""

    capture = Capture(dials=())
    wrong = ""

    def start(self, pool):
        super().start(pool)
        self.w = torch.zeros(2)
        self.updates, self.lr = 0, 0.1

    def live_numbers(self):
        return {"rate": self.lr / math.sqrt(1 + self.step_count), "updates": self.updates}

    def step(self):
        rate = self.number("rate")
        if self.wrong == "frozen":
            rate = self.lr / math.sqrt(1 + self.step_count)
        if self.wrong == "waits":
            rate = rate * float(self.w.sum() * 0 + 1)
        x = self.pool.batch(16, self.rng).mean(0)
        if self.wrong == "mask":
            x = x + self.w[self.w > 1e9].sum()
        new = self.w - rate * (self.w - x) + 1e-3 * self.number("updates")
        if self.wrong == "moves":
            self.w = new
        else:
            self.w.copy_(new)
        self.updates += 1
        if self.wrong == "doubles":
            self.updates = 2 * self.updates
        if self.wrong == "word":
            self.said = str(self.updates)
        return {"w": self.w.sum().clone(), "rate": torch.as_tensor(rate, dtype=torch.float32)}


def toy(wrong: str, steps: int, backend=None) -> tuple[Toy, Steps | None, list[float]]:
    rows = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) + 3
    engine = Toy()
    engine.wrong = wrong
    engine.start(Pool(DATASETS["moons"](), rows, rows, rows))
    if backend is None:
        losses = []
        for _ in range(steps):
            losses.append(float(engine.step()["w"]))
            engine.step_count += 1
        return engine, None, losses
    taker, losses = Steps(engine, backend), []
    while engine.step_count < steps:
        for _, row in taker.take(min(10, steps - engine.step_count)):
            losses += row["w"].reshape(-1).tolist()
    return engine, taker, losses


def test_a_small_engine_is_repeated_to_the_letter():
    eager, _, want = toy("", 50)
    engine, steps, got = toy("", 50, Frozen(watched=False))
    assert steps.why_eager == "" and len(steps.graphs) == 1
    assert engine.updates == eager.updates == 50 and engine.step_count == 50
    assert got == pytest.approx(want, rel=1e-6) and torch.equal(eager.w, engine.w)
    # where a step learns of its rate otherwise, the graph repeats the old one
    other, steps, wrong = toy("frozen", 50, Frozen(watched=False))
    assert steps.why_eager == "" and not torch.allclose(other.w, eager.w, rtol=1e-4)
    assert wrong[:20] == pytest.approx(want[:20], rel=1e-6) and wrong != pytest.approx(want)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("moves", "w is another one"), ("waits", "wait for"), ("mask", "by a mask"),
     ("doubles", "grows unevenly"), ("word", "said changes")],
)  # fmt: skip
def test_what_cannot_be_repeated_goes_on_eagerly_and_says_why(wrong, said):
    eager, _, want = toy(wrong, 50)
    engine, steps, got = toy(wrong, 50, Frozen(watched=wrong in ("waits", "mask")))
    assert steps.why_eager.startswith("Capturing its step failed: ") and not steps.graphs
    assert said in steps.why_eager
    assert got == want and torch.equal(engine.w, eager.w)
    assert torch.equal(engine.rng.get_state(), eager.rng.get_state())


def test_the_watch_sees_what_waits():
    with Watch():
        torch.zeros(3).add_(1).mean()
    for waits in (
        lambda x: float(x.sum()),
        lambda x: x[x > 0],
        lambda x: torch.tensor([1.0]) + x,
        lambda x: bool((x > 0).any()),
    ):
        x = torch.zeros(3)
        with pytest.raises(graphs.NotStatic), Watch():
            waits(x)


# ---------------------------------------------------------------- changes under way


def gan(**knobs) -> Experiment:
    # relativistic losses say nothing of D's last bias, which then goes where rounding leads it
    knobs = {"width": 16, "batch": 32, "loss": "non-saturating", **knobs}
    return Experiment("moons", "gan", knobs=knobs)


def test_another_batch_is_captured_anew_and_a_dial_that_comes_to_0_too():
    moves = [(20, "batch", 48), (40, "r1", 0.0), (60, "r1", 0.4)]
    backend = Frozen()
    eager, captured = trained(gan(), 70, moves=moves), trained(gan(), 70, backend, moves)
    assert backend.captures == 3, "for both batches, and without R1"
    assert len(captured.graphs.steps[0].graphs) >= 2, "with and without R1 they are kept"
    alike(eager, captured, 1e-5)


def test_all_lanes_are_captured_and_each_has_its_own_numbers():
    given = gan().but(beside=({"g_lr": 1e-3}, {"loss": "hinge"}))
    eager, captured = trained(given, 34), trained(given, 34, backend := Frozen())
    assert backend.captures == 6 and captured.step == 34
    alike(eager, captured, 1e-5)


def test_a_step_is_one_step_and_no_more_are_taken_than_asked_for():
    run = gan().start("cpu").by_graphs(Frozen())
    assert [run.advance() for _ in range(12)] == [1] * 12
    assert run.advance(5) == 1, "ten begin at a multiple of ten"
    run.train(steps=7)
    assert run.step == 20 and run.advance(None) == 10 and run.advance(9) == 1
    assert run.lanes[0].engine.step_count == run.step == 31
    eager = gan().start("cpu")
    assert [eager.advance(None), eager.step] == [1, 1]


def test_checkpoints_feeds_and_actions_leave_the_graphs_behind():
    def course(run):
        saved = run.train(steps=20).checkpoint()
        run.feed(run.experiment.but(dataset="rings"))
        run.train(steps=20).act("step_discriminator")
        run.train(steps=20)
        there = weights(run)
        run.restore(saved).train(steps=20)
        return there, run

    (there, eager), (too, captured) = (
        course(gan().start("cpu")),
        course(gan().start("cpu").by_graphs(backend := Frozen())),
    )
    assert backend.captures >= 4
    for key, x in there.items():
        assert torch.allclose(x.float(), too[key].float(), rtol=1e-4, atol=1e-6), key
    alike(eager, captured, 1e-5)


def test_graphs_wait_until_a_slider_rests():
    backend = Frozen()
    backend.rest = 1e9
    eager, run = trained(gan(), 35), trained(gan(), 35, backend)
    assert not backend.captures and run.graphs.why_eager == ""
    assert equal(weights(eager), weights(run)), "until then steps are plain eager ones"


def test_looking_at_a_captured_run_changes_nothing():
    plain, looked = trained(gan(), 31, Frozen()), gan().start("cpu").by_graphs(Frozen())
    for _ in range(3):
        looked.train(steps=10).frame(measure=False)
    assert equal(weights(plain), weights(looked.train(steps=1)))


# ---------------------------------------------------------------- parts


def test_fresh_rows_are_copied_to_one_place():
    free, held = (DATASETS["moons"]().pool(3) for _ in range(2))
    held.hold()
    place = held._rows.data_ptr()
    for step in (1, 200, 399, 400, 0, 200):
        free.turn(step)
        held.turn(step)
        want = free.train if free._rows is None else free._rows
        assert torch.equal(held._rows, want) and held._rows.data_ptr() == place
    assert not torch.equal(held._rows, held.train), "a copy of the first ones would be wrong"
    few = Pool(DATASETS["moons"](), *[torch.zeros(5, 2)] * 3)
    few.hold()
    assert few._rows is None, "rows that never change are where they are"


def test_blocks_are_drawn_ahead_in_any_order():
    asked = []
    ahead = Ahead(lambda block: asked.append(block) or torch.full((2,), float(block)))
    assert [float(ahead(block)[0]) for block in (1, 2, 3, 1, 7)] == [1, 2, 3, 1, 7]
    assert asked[:3] == [1, 2, 3], "each once, and before it was asked for"


def test_losses_of_several_steps_are_put_down_one_by_one():
    lane = Lane(0, gan().start("cpu").engine)
    lane.pending = [
        (1, {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}),
        (2, {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([5.0, 6.0])}),
        (4, {"a": torch.tensor(7.0), "b": torch.tensor(8.0)}),
    ]
    assert lane.flush() and not lane.pending
    assert lane.tracks["a"].steps == [1, 2, 3, 4] and lane.tracks["a"].values == [1, 3, 4, 7]
    assert lane.tracks["b"].values == [2, 5, 6, 8]
    lane.pending = [(5, {"a": torch.tensor([1.0, math.nan])})]
    assert not lane.flush()


def test_averages_by_a_number_on_the_device_are_the_same_to_rounding():
    rng = torch.Generator().manual_seed(0)
    new, one, other = (nets.mlp([2, 8, 1], rng) for _ in range(3))
    other.load_state_dict(one.state_dict())
    nets.lean(one, new, 0.3)
    with Watch():
        nets.lean(other, new, torch.zeros(()).add_(0.3))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    nets.lean(other, new, 0.3)
    assert not torch.allclose(*(next(net.parameters()) for net in (one, other)))


def test_without_a_gpu_nothing_is_captured():
    run = gan().start("cpu").by_graphs()
    assert run.graphs is None
    assert equal(weights(run.train(steps=15)), weights(trained(gan(), 15)))


def test_the_table_of_graphs_is_up_to_date():
    docs = pytest.importorskip("app.docs")
    assert docs.GRAPHS.read_text() == docs.graphs(), "run make docs"


def test_the_bench_says_where_there_is_no_gpu(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main()
    assert capsys.readouterr().out == "There is no GPU here, so nothing was measured.\n"
    assert set(gpu.WORKLOADS) >= {"flow", "GAN", "VAE", "diffusion"}


# ---------------------------------------------------------------- on a GPU

LOOSE = {"energy"}  # a move that is accepted in one and refused in the other by a rounding


@pytest.mark.gpu
@pytest.mark.parametrize("name", CAPTURED)
def test_captured_is_eager_on_the_same_noise(name):
    given, kind = experiment(name), ENGINES[name]
    moves = [(33, d, off_a_little(kind, d, given.knobs[d])) for d in kind.capture.dials
             if given.knobs[d] > 0]  # fmt: skip
    backend = Cuda()
    backend.rest = 0.0
    eager = trained(given, 64, moves=moves, device="cuda")
    captured = trained(given, 64, backend, moves, device="cuda")
    assert captured.graphs.why_eager == ""
    assert captured.graphs.steps[0].graphs
    if name not in LOOSE:
        alike(eager, captured, 2e-3)
    torch.testing.assert_close(eager.engine.rng.get_state(), captured.engine.rng.get_state())
    for track, other in ((eager.lanes[0].tracks[k], captured.lanes[0].tracks[k])
                         for k in eager.lanes[0].tracks):  # fmt: skip
        size = max(map(abs, track.values))
        assert other.values[:25] == pytest.approx(track.values[:25], abs=1e-3 * size)


@pytest.mark.gpu
def test_fresh_rows_come_at_their_step_on_a_gpu():
    given = experiment("flow")
    backend = Cuda()
    backend.rest = 0.0
    a, b = trained(given, 450, device="cuda"), trained(given, 450, backend, device="cuda")
    assert b.graphs.why_eager == "" and torch.equal(a.pool._rows, b.pool._rows)


@pytest.mark.gpu
def test_a_capture_that_fails_leaves_a_run_that_trains_on_a_gpu():
    class Waits(ENGINES["gan"]):
        name = ""

        def step(self):
            out = super().step()
            float(out["generator"])
            return out

    given = gan()
    eager = trained(given, 40, device="cuda")
    run = given.start("cuda")
    run.engine.__class__ = Waits
    backend = Cuda()
    backend.rest = 0.0
    run.by_graphs(backend).train(steps=40)
    assert run.graphs.why_eager.startswith("Capturing its step failed")
    alike(eager, run, 1e-4)


def test_a_capture_says_all_that_it_has():
    names = [field.name for field in dataclasses.fields(Capture)]
    assert names == ["no", "dials", "unless"] and isinstance(Graphs(Frozen()).why_eager, str)
