"""The contract, over everything registered: a new engine is tested by being there."""

from __future__ import annotations

import ast
import math
import pathlib
import threading

import numpy as np
import pytest
import torch

from engines import DATASETS, ENGINES, BadInput, Diverged, Experiment, Run
from engines.knobs import Knob
from engines.pictures import centres
from tests.each import EACH, quick
from tests.frames import unfit

ROOT = pathlib.Path(__file__).parent.parent
KNOBS = [
    (e, k) for e, kind in ENGINES.items() for k, entry in kind.knobs.items()
    if entry.kind != "payload"
]  # fmt: skip
PLANES = [name for name, kind in DATASETS.items() if kind.kind == "plane"]


def start(engine: str, dataset: str = "ring8soft", **rest) -> Run:
    return Experiment(taken(engine, dataset), engine, **rest).start("cpu")


def taken(engine: str, dataset: str) -> str:
    """The dataset, or the one that the engine opens on where it takes no such data."""
    kind = ENGINES[engine]
    return kind.opens_on if kind.accepts(DATASETS[dataset]()) else dataset


def elsewhere(experiment: Experiment, dataset: str, options: dict | None = None) -> Experiment:
    """The experiment on other data of the same shape; on other options where there are none."""
    if taken(experiment.engine, dataset) == dataset:
        return experiment.but(dataset=dataset, options=options or {})
    other = {"sequence": {"turn": 0.15}, "point": {"at": 1.0}}[experiment.data_kind]
    return experiment.but(options={**experiment.options, **other})


def where(entry: Knob) -> str:
    """A dataset on which the knob does anything."""
    return "ring8soft" if entry.suits("plane") else "digits"


def weights(run: Run) -> dict[str, torch.Tensor]:
    """All that training depends on, but for the viewing generator."""
    return {
        f"{lane.index}:{k}": v
        for lane in run.lanes
        for k, v in lane.engine.state()[0].items()
        if k != "view_rng"
    }


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


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
        seen.frame(fresh=i % 2 == 0)
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
    whole = start(engine, dataset).train(steps=40)
    half = start(engine, dataset).train(steps=20)
    saved = half.checkpoint()
    assert isinstance(saved, bytes) and b"pickle" not in saved
    half.train(steps=7)  # what was saved is not what goes on
    other = start(engine, "moons", seed=9).restore(saved)
    assert other.step == 20 and other.experiment == half.experiment
    other.train(steps=20)
    assert equal(weights(whole), weights(other))
    a, b = whole.frame(), other.frame()
    assert [m.value for m in a.metrics] == pytest.approx([m.value for m in b.metrics], nan_ok=True)


# ---------------------------------------------------------------- other data under a run


def towards(run: Run, rows: torch.Tensor) -> float:
    """Sliced W₂ from the model's samples to rows, by the metrics' own function."""
    from engines.metrics import sliced_w2

    return sliced_w2(run.sample(2000).numpy(), rows[:2000].numpy())


@pytest.mark.slow
@pytest.mark.parametrize("engine", EACH)
def test_a_run_that_is_fed_other_data_goes_on_and_follows_them(engine):
    run = start(engine).train(steps=100)
    run.frame()
    other = elsewhere(run.experiment, "moons")
    old, wanted = run.pool.test, other.start("cpu").pool.test
    before, losses = weights(run), {k: len(t.steps) for k, t in run.lanes[0].tracks.items()}
    assert run.feed(other) is run
    assert run.step == 100 and run.experiment == other
    assert torch.equal(run.pool.test, wanted)
    after = weights(run)
    assert all(torch.equal(before[k], after[k]) for k in before), "feeding changes no weight"
    far, near = towards(run, wanted), towards(run, old)
    run.train(steps=250)
    assert run.step == 350
    for name, track in run.lanes[0].tracks.items():
        assert len(track.steps) == losses[name] + 250, "the loss curve goes on"
    assert towards(run, wanted) < 0.5 * far
    assert towards(run, old) > 1.5 * near, "the wrong twin: the data it no longer sees"


@pytest.mark.parametrize("engine", EACH)
def test_nothing_of_the_old_data_is_shown_after_a_feed(engine):
    """Pictures and numbers are those of a run that never saw anything but the new data."""
    run = start(engine).train(steps=30)
    run.frame()
    run.feed(elsewhere(run.experiment, "two_gaussians", {"distance": 5.0}))
    blank = run.frame(measure=False).metrics
    assert all(math.isnan(m.value) for m in blank), "no number of the old data"
    frame = run.frame()
    fresh = start(engine, "moons").restore(run.checkpoint())
    other = fresh.frame()
    assert {m.name: m.value for m in frame.metrics} == pytest.approx(
        {m.name: m.value for m in other.metrics}, nan_ok=True
    )
    for a, b in zip(frame.panels, other.panels, strict=True):
        assert a.id == b.id and a.subtitle == b.subtitle and a.box == b.box
        if not a.id.startswith("distance"):  # those curves have one more point by now
            assert panel_bytes(a) == panel_bytes(b), a.id


@pytest.mark.parametrize("engine", EACH)
def test_a_fed_run_is_saved_with_its_standardisation(engine):
    changes = next(iter(ENGINES[engine].compare.values()), None)
    run = start(engine, beside=[changes] if changes else []).train(steps=15)
    # points far away and much wider: the standardisation at the start is not theirs
    xy = np.random.default_rng(0).normal(size=(400, 2)) * [5.0, 2.0] + [9.0, 3.0]
    if taken(engine, "moons") == "moons":
        run.feed(run.experiment.but(dataset="points", points=xy)).train(steps=5)
    else:
        run.feed(elsewhere(run.experiment, "moons")).train(steps=5)
    saved = run.checkpoint()
    again = start(engine, "moons", seed=9).restore(saved)
    assert again.experiment == run.experiment and again.step == 20
    for lane, other in zip(run.lanes, again.lanes, strict=True):
        assert torch.equal(lane.engine._mean, other.engine._mean)
    run.train(steps=12)
    again.train(steps=12)
    assert equal(weights(run), weights(again))
    assert torch.equal(run.lanes[-1].engine.sample(9), again.lanes[-1].engine.sample(9))
    # the wrong twin: a standardisation worked out from the data at hand
    with torch.no_grad():
        again.engine._mean.copy_(again.pool.mean)
    again.engine.refresh()
    run.train(steps=3)
    again.train(steps=3)
    assert not equal(weights(run), weights(again))


@pytest.mark.parametrize("engine", EACH)
def test_what_a_model_was_not_built_for_is_not_fed_to_it(engine):
    run = start(engine).train(steps=3)
    before, kept = weights(run), run.experiment
    wrong = [
        lambda: Experiment("digits", engine),
        lambda: elsewhere(kept, "moons").but(seed=1),
        lambda: kept.but(dataset="moons", engine=next(e for e in ENGINES if e != engine), knobs={}),
    ]  # fmt: skip
    for make in wrong:
        with pytest.raises(BadInput) as refused:
            run.feed(make())
        assert str(refused.value).endswith(".")
        assert run.step == 3 and run.experiment == kept and equal(before, weights(run))
    run.train(steps=2)
    assert equal(weights(run), weights(start(engine).train(steps=5)))


def test_a_diverged_run_begins_again_with_the_data_it_is_fed():
    run = start("flow").train(steps=2)
    run.diverged = "The run diverged."
    run.feed(run.experiment.but(dataset="moons"))
    assert run.diverged is None and run.step == 0
    assert run.train(steps=2).experiment.dataset == "moons"


def test_a_component_that_old_data_killed_can_live_again():
    run = start("mixture", knobs={"n_components": 4}).train(steps=5)
    with torch.no_grad():
        run.engine.log_weight[0] = -math.inf
        run.engine.log_weight -= run.engine.log_weight.logsumexp(0)
    run.train(steps=1)
    assert run.engine.log_weight[0] < -600, "EM never gives it a point again"
    run.feed(run.experiment.but(dataset="moons")).train(steps=1)
    assert run.engine.log_weight[0] > -60
    assert float(run.engine.log_weight.exp().sum()) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "name"), KNOBS)
def test_every_knob_at_both_ends_and_one_past_each(engine, name):
    entry = ENGINES[engine].knobs[name]
    if entry.kind in ("choice", "bool"):
        good = entry.choices or (True, False)
        bad = ["no such choice", 3, None]
    else:
        good = (entry.low, entry.high)
        step = 1 if entry.kind == "int" else 0.1 * (entry.high - entry.low)
        bad = [
            entry.low - step,
            entry.high + step,
            math.nan,
            math.inf,
            "5",
            True,
            None,
            [1],
            10**400,
        ]
    for value in good:
        context = {
            k: (v if isinstance(v, str | bool | int) else v[0]) for k, v in entry.when.items()
        }
        run = start(engine, where(entry), knobs={**context, name: value})
        try:
            run.train(steps=2)
        except Diverged as error:
            assert "Try" in str(error)
        # every picture and the engine's own numbers; the shared ones do not depend on knobs
        assert run.frame(measure=False).panels
        with torch.no_grad():
            assert all(isinstance(metric.value, int | float) for metric in run.engine.metrics())
    for value in bad:
        with pytest.raises(BadInput) as refused:
            Experiment(taken(engine, "ring8soft"), engine, knobs={name: value})
        assert name in str(refused.value) and len(str(refused.value)) < 300


def another(entry: Knob, value):
    """A value well away from `value`."""
    if entry.kind == "choice":
        return next(c for c in entry.choices if c != value)
    if entry.kind == "bool":
        return not value
    if entry.log:
        middle = math.sqrt(entry.low * entry.high)
    else:
        middle = (entry.low + entry.high) / 2
    far = entry.high if value < middle else entry.low
    out = math.sqrt(far * value) if entry.log and value > 0 and far > 0 else (far + value) / 2
    if entry.kind == "int":
        return round(out) if round(out) != value else far
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "name"), [(e, k) for e, k in KNOBS if not ENGINES[e].knobs[k].view]
)
def test_every_training_knob_changes_training(engine, name):
    kind = ENGINES[engine]
    entry = kind.knobs[name]
    context = {k: (v if isinstance(v, str | bool | int) else v[0]) for k, v in entry.when.items()}
    value = kind.complete(context)[name]
    outcomes = []
    for v in (value, another(entry, value)):
        if entry.live:  # moved while it runs
            run = start(engine, where(entry), knobs=context)
            run.train(steps=2)
            assert run.set(name, v) is False
        else:
            run = start(engine, where(entry), knobs={**context, name: v})
        try:
            run.train(steps=20)
        except Diverged:
            outcomes.append(None)
            continue
        outcomes.append(
            (weights(run), run.sample(20), {k: t.values for k, t in run.lanes[0].tracks.items()})
        )
    a, b = outcomes
    same = a and b and equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2]
    assert not same, f"{name} does nothing"


@pytest.mark.parametrize(
    ("engine", "name"), quick([(e, k) for e, k in KNOBS if ENGINES[e].knobs[k].view])
)
def test_every_view_knob_changes_the_frame_and_only_the_frame(engine, name):
    from app.pack import pack

    kind = ENGINES[engine]
    entry = kind.knobs[name]
    context = {k: (v if isinstance(v, str | bool | int) else v[0]) for k, v in entry.when.items()}
    run = start(engine, where(entry), knobs=context).train(steps=5)

    def picture() -> list[str]:
        frame = run.frame()
        frame.metrics, frame.seconds, frame.rate = [], 0, 0
        return [panel_bytes(p) for p in frame.panels]

    before, trained = picture(), weights(run)
    assert picture() == before, "the same frame twice is the same picture"
    assert run.set(name, another(entry, run.experiment.knobs[name])) is False
    assert picture() != before, f"{name} shows no difference"
    assert equal(trained, weights(run)) and run.step == 5
    assert pack(run.frame())


def panel_bytes(panel) -> str:
    """Everything a panel shows, as text that can be compared."""

    def flat(value):
        if isinstance(value, np.ndarray):
            return (value.shape, value.tobytes())
        if hasattr(value, "__dict__"):
            return (type(value).__name__, [(k, flat(v)) for k, v in vars(value).items()])
        if isinstance(value, list | tuple):
            return [flat(v) for v in value]
        return value

    return repr(flat(panel))


@pytest.mark.parametrize("engine", EACH)
def test_actions_act(engine):
    kind = ENGINES[engine]
    for name, entry in kind.actions.items():
        # data that can be dragged are those on the line
        run = start(engine, "line" if entry.data else "ring8soft").train(steps=3)
        before, trained = [panel_bytes(p) for p in run.frame().panels], weights(run)
        run.act(name, **dict.fromkeys(entry.takes, 0.7))
        assert entry.trains != equal(trained, weights(run))
        assert [panel_bytes(p) for p in run.frame().panels] != before
        for bad in ({"nonsense": 1.0}, dict.fromkeys(entry.takes, math.nan) or {"x": 1.0}):
            with pytest.raises(BadInput):
                run.act(name, **bad)
    with pytest.raises(BadInput):
        start(engine).act("no_such_action")


@pytest.mark.slow
@pytest.mark.parametrize("engine", [e for e, kind in ENGINES.items() if kind.density == "exact"])
def test_densities_integrate_to_one(engine):
    if taken(engine, "moons") != "moons":
        pytest.skip("its data are not points of the plane")
    run = start(engine, "moons").train(steps=30)
    box, n = (-12.0, 12.0, -12.0, 12.0), 800
    mass = run.log_prob(centres(box, n)).double().exp().sum() * ((box[1] - box[0]) / n) ** 2
    assert float(mass) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [e for e, kind in ENGINES.items() if kind.density == "exact"])
def test_samples_agree_with_the_density(engine):
    """E_q[log q] over samples equals −entropy by quadrature; a shifted density would not."""
    if taken(engine, "moons") != "moons":
        pytest.skip("its data are not points of the plane")
    run = start(engine, "two_gaussians").train(steps=200)
    box, n = (-12.0, 12.0, -12.0, 12.0), 800
    grid_log = run.log_prob(centres(box, n)).double()
    cell = ((box[1] - box[0]) / n) ** 2
    # entr(0) = 0: a model may have a domain, and no density beyond it
    entropy = float(torch.special.entr(grid_log.exp()).sum() * cell)
    with torch.no_grad():  # those of `sample`, unless a model says that they are approximate
        x = run.engine.draws(20_000)

    def agrees(log_q: torch.Tensor) -> bool:
        se = float(log_q.std()) / len(log_q) ** 0.5
        return abs(float(log_q.mean()) + entropy) < 5 * se + 5e-3

    assert agrees(run.log_prob(x).double())
    assert not agrees(run.log_prob(x + 0.6).double()), "the wrong twin must fail"


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
