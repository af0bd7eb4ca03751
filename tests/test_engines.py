"""The contract, over everything registered: a new engine is tested by being there."""

from __future__ import annotations

import ast
import pathlib
import threading

import numpy as np
import pytest
import torch

from engines import DATASETS, ENGINES, BadInput, Experiment
from tests.contract import PLANES, another, equal, start, taken, weights
from tests.each import EACH
from tests.frames import unfit

pytestmark = pytest.mark.usefixtures("narrow")

ROOT = pathlib.Path(__file__).parent.parent


def test_the_registries_hold_what_is_promised():
    assert {"mixture", "flow", "gan"} <= set(ENGINES)
    assert {
        "ring8", "ring8soft", "grid25", "unbalanced", "checkerboard", "moons", "spirals",
        "rings", "pinwheel", "swissroll", "river", "two_gaussians", "digits",
    } <= set(DATASETS)  # fmt: skip
    assert {"Mixture", "Flow", "GAN"} <= {kind.family for kind in ENGINES.values()}


def test_engines_know_neither_gradio_nor_plotly():
    for path in (ROOT / "engines").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in ("gradio", "plotly", "app"), f"{path}: {name}"


@pytest.mark.parametrize("engine", EACH)
def test_every_engine_says_what_it_is(engine):
    kind = ENGINES[engine]
    for text in (kind.title, kind.tagline, kind.objective, kind.look_for, kind.paper, kind.family):
        assert text and not text.isspace()
    assert kind.__doc__
    assert (kind.density is not None) == (kind.log_prob is not Engine_log_prob())
    for changes in kind.compare.values():
        kind.complete(changes)


def Engine_log_prob():
    from engines.base import Engine

    return Engine.log_prob


@pytest.mark.slow
@pytest.mark.parametrize("engine", EACH)
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_engine_trains_on_every_dataset(engine, dataset):
    if refusal := ENGINES[engine].accepts(DATASETS[dataset]()):
        with pytest.raises(BadInput) as refused:
            Experiment(dataset, engine)
        assert str(refused.value) == refusal and refusal.endswith(".")
        return
    run = start(engine, dataset).train(steps=3)
    assert run.step == 3 and run.diverged is None
    x = run.sample(32)
    assert x.shape == (32, run.pool.dim) and x.dtype == torch.float32 and torch.isfinite(x).all()
    if run.engine.has_density:
        lp = run.log_prob(x)
        assert lp.shape == (32,) and torch.isfinite(lp).all()
    else:
        with pytest.raises(NotImplementedError, match="density"):
            run.log_prob(x)
    frame = run.frame()
    assert frame.step == 3 and frame.panels and frame.metrics
    assert len({(p.lane, p.id) for p in frame.panels}) == len(frame.panels)
    assert unfit(frame.panels) == []


@pytest.mark.parametrize("engine", EACH)
def test_points_of_ones_own(engine):
    xy = np.random.default_rng(0).normal(size=(500, 2)) * [3.0, 0.5] + 7
    if taken(engine, "moons") != "moons":
        with pytest.raises(BadInput):
            Experiment.from_points(xy, engine)
        return
    run = Experiment.from_points(xy, engine).start("cpu").train(steps=3)
    assert run.sample(10).shape == (10, 2)
    assert run.frame().panels
    again = Experiment.from_json(run.experiment.to_json())
    assert again == run.experiment and np.array_equal(again.points, run.experiment.points)


@pytest.mark.parametrize("engine", EACH)
def test_the_same_experiment_gives_the_same_numbers(engine):
    a, b = (start(engine, seed=3).train(steps=12) for _ in range(2))
    assert equal(weights(a), weights(b))
    assert torch.equal(a.sample(50), b.sample(50))
    assert not equal(weights(a), weights(start(engine, seed=4).train(steps=12)))


@pytest.mark.parametrize("engine", EACH)
def test_looking_never_changes_training(engine):
    plain = start(engine).train(steps=12)
    seen = start(engine)
    for i in range(12):
        seen.train(steps=1)
        seen.frame(fresh=i % 4 == 0)  # in between, what is due is shown again or made anew
        seen.sample(7)
    assert equal(weights(plain), weights(seen))


@pytest.mark.parametrize("engine", EACH)
def test_a_frame_can_be_looked_at_twice(engine):
    run = start(engine).train(steps=2)
    first, second = run.frame(), run.frame()
    assert [p.id for p in first.panels] == [p.id for p in second.panels]
    a, b = run.sample(5), run.sample(5)
    alone = len(a.unique(dim=0)) == 1  # a generator whose samples are one point
    assert alone or not torch.equal(a, b), "successive samples are fresh"


@pytest.mark.parametrize("engine", EACH)
@pytest.mark.parametrize("dataset", ["ring8soft", pytest.param("digits", marks=pytest.mark.slow)])
def test_twenty_steps_saved_and_twenty_more_are_forty(engine, dataset):
    if refusal := ENGINES[engine].accepts(DATASETS[dataset]()):
        pytest.skip(refusal)
    whole = start(engine, dataset).train(steps=20)
    half = weights(whole)
    saved = whole.checkpoint()
    assert isinstance(saved, bytes) and b"pickle" not in saved
    assert equal(half, weights(whole)), "to be saved changes nothing"
    whole.train(steps=20)  # what was saved is not what goes on
    other = start(engine, "moons", seed=9).restore(saved)
    assert other.step == 20 and other.experiment == whole.experiment
    assert equal(half, weights(other)) and not equal(half, weights(whole))
    other.train(steps=20)
    assert equal(weights(whole), weights(other))
    a, b = whole.measure(), other.frame().metrics
    assert [m.value for m in a] == pytest.approx([m.value for m in b], nan_ok=True)


@pytest.mark.slow
def test_engines_in_two_threads_do_not_disturb_each_other():
    alone = {e: weights(start(e, seed=1).train(steps=25)) for e in ENGINES}
    together: dict[str, dict] = {}

    def work(engine: str) -> None:
        run = start(engine, seed=1)
        for _ in range(5):
            run.train(steps=5)
            run.frame(fresh=False)
        together[engine] = weights(run)

    threads = [threading.Thread(target=work, args=(e,)) for e in ENGINES]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for engine in ENGINES:
        assert equal(alone[engine], together[engine]), engine


@pytest.mark.parametrize("engine", EACH)
def test_beside_runs_in_lockstep_on_the_same_data(engine):
    kind = ENGINES[engine]
    if not kind.compare:
        pytest.skip("nothing to compare with")
    changes = next(iter(kind.compare.values()))
    run = start(engine, beside=[changes]).train(steps=6)
    alone = start(engine).train(steps=6)
    assert len(run.lanes) == 2
    assert torch.equal(run.sample(9), alone.sample(9)), "the lane beside changes nothing"
    other = start(engine, knobs=changes).train(steps=6)
    assert torch.equal(run.sample(9, lane=1), other.sample(9))
    frame = run.frame()
    assert {p.lane for p in frame.panels} == {0, 1}
    assert Experiment.from_json(run.experiment.to_json()) == run.experiment
    run.restore(run.checkpoint())


@pytest.mark.parametrize("engine", EACH)
@pytest.mark.parametrize("dataset", PLANES[:3])
def test_an_experiment_survives_json(engine, dataset):
    kind = ENGINES[engine]
    knobs = {k: another(e, e.default) for k, e in kind.knobs.items()}
    experiment = Experiment(taken(engine, dataset), engine, seed=11, knobs=knobs)
    again = Experiment.from_json(experiment.to_json())
    assert again == experiment and hash(again) == hash(experiment)
    assert set(again.to_dict()["knobs"]) == set(kind.knobs), "all knobs: defaults may change"


@pytest.mark.gpu
@pytest.mark.parametrize("dataset", ["moons", "digits"])
@pytest.mark.parametrize("engine", EACH)
def test_every_engine_trains_on_a_gpu(engine, dataset):
    if refusal := ENGINES[engine].accepts(DATASETS[dataset]()):
        pytest.skip(refusal)
    run = Experiment(dataset, engine).start("cuda").train(steps=20)
    assert run.sample(10).device.type == "cuda"
    assert run.frame().panels
    half = Experiment(dataset, engine).start("cuda").train(steps=10)
    saved = half.checkpoint()
    again = Experiment(dataset, engine).start("cuda").restore(saved).train(steps=10)
    assert equal(weights(run), weights(again))


@pytest.mark.parametrize(
    ("engine", "kept"),
    [
        ("energy", "quadrature"),
        ("nce", "implied"),
        pytest.param("score", "course", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("averaged", [True, False])
def test_what_is_kept_of_the_weights_is_made_anew_after_a_step(engine, kept, averaged):
    """Fused Adam moves weights without counting their versions."""
    run = start(engine, knobs={"averaged": averaged}).train(steps=2)

    @torch.no_grad()
    def now() -> object:
        return getattr(run.engine, kept)()

    before = now()
    assert now() is before
    run.train(steps=1)
    assert now() is not before
