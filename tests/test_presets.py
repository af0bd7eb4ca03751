"""Experiments that teach: every file is well made, and every promise is kept by training."""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
import time
from dataclasses import replace

import pytest
import torch

from app.presets import (
    FOLDER,
    LOSS,
    MAX_LOOK_FOR,
    MAX_TITLE,
    Preset,
    Promise,
    Watch,
    for_engine,
    for_family,
    load,
    matching,
    named,
    presets,
)
from app.share import from_hash, to_hash
from engines import ENGINES, BadInput, Diverged, Experiment, families
from engines.marks import Frame, Metric

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


# ---------------------------------------------------------------- the files


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_well_made(name):
    preset = named(name)
    assert 0 < len(preset.title) <= MAX_TITLE == 32
    assert preset.look_for.endswith(".") and len(preset.look_for) <= MAX_LOOK_FOR == 160
    assert not re.search(r"[.!?]\s|!", preset.look_for), "one sentence"
    assert from_hash(to_hash(preset.experiment)) == preset.experiment
    spec = preset.spec()
    assert json.loads(json.dumps(spec)) == spec
    assert from_hash(spec["hash"]) == preset.experiment
    assert spec["family"] == ENGINES[spec["engine"]].family
    assert f"{preset.promise.value:g}" in spec["promise"]
    lanes = 1 + len(preset.experiment.beside)
    assert preset.promise.within_steps * lanes <= 2000, "a promise is kept while one waits"


@pytest.mark.parametrize("engine", list(ENGINES))
def test_every_engine_has_three_and_a_pair(engine):
    found = for_engine(engine)
    assert len(found) >= 3, "an engine comes with its presets: see CONTRIBUTING.md"
    assert {"break", "mend"} <= {preset.role for preset in found}
    assert set(found) <= set(for_family(ENGINES[engine].family))


def test_some_run_side_by_side():
    beside = [preset for preset in presets() if preset.experiment.beside]
    assert len(beside) >= 2
    assert all(preset.lane_label in preset.words() != "" for preset in beside)
    assert any(preset.promise.lane for preset in beside)


def test_their_order():
    found = presets()
    assert found is presets(), "read once"
    assert [p.name for p in found] != NAMES and sorted(p.name for p in found) == NAMES
    tabs = list(dict.fromkeys(p.engine.family for p in found))
    assert tabs == [family for family in families() if family in tabs]
    for before, after in itertools.pairwise(found):
        if before.role == "break":
            assert (after.name, after.role, after.pair) == (before.pair, "mend", before.name)


def test_the_guides_preset_is_a_preset():
    text = (FOLDER.parent.parent / "CONTRIBUTING.md").read_text()
    shown = json.loads(re.search(r"`([\w-]+)\.json`:\n\n```json\n(.*?)```", text, re.S).group(2))
    assert shown == json.loads((FOLDER / "mixture-too-few.json").read_text())


def test_titles_tell_them_apart():
    assert len({preset.title for preset in presets()}) == len(NAMES)
    essences = [preset for preset in presets() if matching(preset.experiment) is not preset]
    assert not essences, "two presets are the same experiment"


def test_a_preset_is_known_again():
    preset = presets()[0]
    same = Experiment.from_json(preset.experiment.but(seed=5).to_json())
    assert matching(same) is preset
    view = next(k for k, v in preset.engine.knobs.items() if v.view and v.kind == "bool")
    looked = {**same.knobs, view: not same.knobs[view]}
    assert matching(same.but(knobs=looked)) is preset
    assert matching(same.but(dataset="checkerboard", options={})) is None
    trained = next(k for k, v in preset.engine.knobs.items() if not v.view and v.kind == "float")
    other = {**same.knobs, trained: preset.engine.knobs[trained].high}
    assert matching(same.but(knobs=other)) is None
    with pytest.raises(BadInput, match="no preset"):
        named("<b>")


# ---------------------------------------------------------------- what is wrong in a file


GOOD = {
    "title": "A title",
    "look_for": "One sentence.",
    "role": "show",
    "order": 1,
    "experiment": {"version": 1, "dataset": "ring8", "engine": next(iter(ENGINES)), "beside": [{}]},
    "promise": {"metric": "sliced_w2", "op": "<", "value": 0.5, "within_steps": 10},
}


def put(folder, name="a", change=(), value=None, given=GOOD):
    """Write a good file with one field changed (`value` None: taken out)."""
    given = copy.deepcopy(given)
    inner = given
    for key in change[:-1]:
        inner = inner[key]
    if change and value is None:
        del inner[change[-1]]
    elif change:
        inner[change[-1]] = value
    (folder / f"{name}.json").write_text(json.dumps(given))


def test_a_good_file_is_read(tmp_path):
    put(tmp_path)
    (preset,) = load(tmp_path)
    assert preset.name == "a" and preset.pair == "" and preset.promise.lane == 0
    assert preset.words().endswith("Sliced W₂ below 0.5 σ within 10 steps")


@pytest.mark.parametrize(
    ("change", "value", "said"),
    [
        (("title",), None, "title"),
        (("title",), "x" * 33, "title"),
        (("title",), 7, "title"),
        (("look_for",), "No full stop", "look_for"),
        (("look_for",), "Two. Sentences.", "look_for"),
        (("look_for",), "x" * 160 + ".", "look_for"),
        (("role",), "cure", "role"),
        (("role",), ["show"], "role"),
        (("role",), "break", "pair"),
        (("pair",), "b", "pair"),
        (("order",), "first", "order"),
        (("colour",), "red", "colour"),
        (("experiment",), None, "experiment"),
        (("experiment", "version"), 99, "experiment"),
        (("experiment", "engine"), "nothing", "experiment"),
        (("experiment", "knobs"), {"nothing": 1}, "experiment"),
        (("promise",), None, "promise"),
        (("promise",), [1], "promise"),
        (("promise", "metric"), "nothing", "promise: metric"),
        (("promise", "label"), "My name", "promise: label"),
        (("promise", "op"), "<=", "promise: op"),
        (("promise", "value"), "0.5", "promise: value"),
        (("promise", "value"), math.nan, "promise: value"),
        (("promise", "value"), True, "promise: value"),
        (("promise", "within_steps"), None, "promise: within_steps"),
        (("promise", "within_steps"), 0, "promise: within_steps"),
        (("promise", "within_steps"), 1.5, "promise: within_steps"),
        (("promise", "still"), "yes", "promise: still"),
        (("promise", "lane"), 2, "promise: lane"),
        (("promise", "seed"), 2, "promise: there is no field 'seed'"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, change, value, said):
    put(tmp_path, "broken", change, value)
    with pytest.raises(BadInput) as refused:
        load(tmp_path)
    sentence = str(refused.value)
    assert sentence.startswith("assets/presets/broken.json")
    assert said in sentence and sentence.endswith(".") and "\n" not in sentence


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "null", "\udcff"])
def test_what_is_not_json_is_one_sentence(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInput, match=r"^assets/presets/a\.json") as refused:
        load(tmp_path)
    assert str(refused.value).endswith(".")


def test_a_name_is_fit_for_a_file_and_a_page(tmp_path):
    put(tmp_path, "A b")
    with pytest.raises(BadInput, match="lower-case"):
        load(tmp_path)


def test_pairs_name_each_other(tmp_path):
    pair = lambda role, other: {**GOOD, "role": role, "pair": other}  # noqa: E731
    put(tmp_path, "a", given=pair("break", "b"))
    with pytest.raises(BadInput, match="names no preset: 'b'"):
        load(tmp_path)
    for wrong in (GOOD, pair("mend", "c"), pair("break", "a")):
        put(tmp_path, "b", given=wrong)
        with pytest.raises(BadInput, match=r"a\.json: pair: b must name a"):
            load(tmp_path)
    elsewhere = pair("mend", "a")
    elsewhere["experiment"] = {**GOOD["experiment"], "engine": list(ENGINES)[-1]}
    put(tmp_path, "b", given=elsewhere)
    with pytest.raises(BadInput, match="another engine"):
        load(tmp_path)
    # the cure goes behind its failure, and the pair where its first half would stand
    put(tmp_path, "b", given={**pair("mend", "a"), "order": 0})
    put(tmp_path, "c", given={**GOOD, "order": 0.5})
    assert [preset.name for preset in load(tmp_path)] == ["a", "b", "c"]


# ---------------------------------------------------------------- the rule of a promise


def story(promise: Promise, *measured: tuple[int, float]) -> bool | None:
    """What a watcher says at the end of these measurements."""
    for step, value in measured:
        if (kept := promise.check(step, {"m": value})) is not None:
            return kept
    return None


def test_the_rule():
    low = Promise("m", "<", 1.0, 100)
    assert story(low, (0, 5.0)) is None
    assert story(low, (0, 5.0), (50, 0.5), (100, 5.0)) is True, "once is enough"
    assert story(low, (0, 5.0), (99, 1.0)) is None, "equal is not below"
    assert story(low, (0, 5.0), (100, 1.0), (150, 0.5)) is False, "too late"
    assert story(low, (0, 5.0), (130, 0.5)) is True, "the first one past the end counts"
    assert story(low, (0, math.nan), (130, math.nan)) is False
    assert story(low, (0, math.inf)) is None and low.check(10, {"other": 0.0}) is None
    stays = Promise("m", ">", 1.0, 100, still=True)
    assert story(stays, (0, 5.0), (50, 0.5), (120, 5.0)) is True, "judged at the end"
    assert story(stays, (0, 5.0), (99, 5.0)) is None
    assert story(stays, (0, 5.0), (99, 5.0), (100, 0.5), (120, 5.0)) is False
    assert story(stays, (110, math.inf)) is True
    # the wrong twin: the other comparison
    assert story(Promise("m", ">", 1.0, 100), (50, 0.5), (130, 0.5)) is False


def test_a_frame_is_judged_by_the_step_of_its_measurement():
    promise = Promise("m", ">", 1.0, 100, still=True, lane=1)
    metrics = [Metric("m", 9.0, step=100), Metric("m", 9.0, step=80, lane=1)]
    frame = Frame(120, 1.0, 1.0, metrics, [])
    assert promise.kept(frame) is promise.kept(metrics) is None, "measured at 80 only"
    metrics[1] = Metric("m", 9.0, step=120, lane=1)
    assert promise.kept(frame) is True
    metrics[1] = Metric("m", 0.0, step=120, lane=1)
    assert promise.kept(frame) is False and promise.kept([]) is None


def watched(**promise) -> tuple[Preset, Watch]:
    engine = next(name for name in ENGINES if any(k.live for k in ENGINES[name].knobs.values()))
    preset = Preset("a", "A", "A.", "show", "", Experiment("moons", engine), Promise(**promise))
    return preset, Watch(preset)


def test_a_watch_remembers_until_the_run_begins_again():
    preset, watch = watched(metric="sliced_w2", op=">", value=0.0, within_steps=3)
    run = preset.experiment.start("cpu").train(steps=2)
    assert watch.see(run) is None, "nothing measured"
    run.lanes[0].metrics["sliced_w2"] = Metric("sliced_w2", 1.0, step=2)
    assert watch.see(run) is True
    run.lanes[0].metrics["sliced_w2"].value = -1.0
    assert watch.see(run) is True
    run.restart()
    run.lanes[0].metrics.clear()
    assert watch.see(run) is None


def test_a_watch_measures_at_the_end_and_only_then(monkeypatch):
    preset, watch = watched(metric="sliced_w2", op=">", value=0.0, within_steps=2, still=True)
    calls = []
    measured = Promise.measure
    monkeypatch.setattr(Promise, "measure", lambda *a: (calls.append(1), measured(*a))[1])
    run = preset.experiment.start("cpu").train(steps=1)
    run.lanes[0].metrics["sliced_w2"] = Metric("sliced_w2", 1.0, step=1)
    assert watch.see(run) is None and not calls
    before = run.checkpoint()
    run.train(steps=1)
    assert watch.see(run) is watch.see(run) is True and len(calls) == 1
    # looking never changes training
    seen = run.train(steps=1).sample(100)
    unseen = run.restore(before).train(steps=2).sample(100)
    assert torch.equal(seen, unseen)


def test_a_watch_leaves_changed_knobs_alone():
    preset, watch = watched(metric="sliced_w2", op=">", value=0.0, within_steps=1)
    run = preset.experiment.start("cpu")
    name, entry = next((k, v) for k, v in run.engine.knobs.items() if v.live and v.kind == "float")
    before = preset.experiment.knobs[name]
    run.set(name, entry.high)
    run.train(steps=1)
    assert watch.see(run) is None
    run.set(name, before)
    assert watch.see(run) is True


def test_a_promise_about_a_loss():
    engine = next(iter(ENGINES))
    run = Experiment("moons", engine).start("cpu")
    low = Promise(f"{LOSS}none", "<", 1e9, 10)
    assert low.see(run) is None
    run.train(steps=1)
    assert low.see(run) is None, "no such loss"
    low = Promise(LOSS + next(iter(run.lanes[0].tracks)), "<", 1e9, 10)
    assert low.see(run) is True and "loss below 1e+09 within 10 steps" in low.words()


def test_words():
    assert Promise("kl_pq", "<", 0.05, 400).words() == "KL(p‖q) below 0.05 nats within 400 steps"
    stays = Promise("modes", "<", 6, 3000, still=True)
    assert stays.words() == "Modes found still below 6 at step 3,000"
    own = Promise("x", ">", 0.5, 10, label="My number", unit="m")
    assert own.words() == "My number above 0.5 m within 10 steps"


# ---------------------------------------------------------------- every promise is kept


def judge(preset: Preset, promises: list[Promise]) -> list[bool | None]:
    """Train a preset; what becomes of each promise, measured four times on the way."""
    run = preset.experiment.start("cpu")
    most = max(promise.within_steps for promise in promises)
    stops = {promise.within_steps for promise in promises} | {most * i // 4 for i in (1, 2, 3)}
    kept: list[bool | None] = [None] * len(promises)
    for step in [0, *sorted(stops)]:
        try:
            run.train(steps=step - run.step)
        except Diverged as error:
            print(error)
        for i, promise in enumerate(promises):
            if kept[i] is None:
                # a loss is not there before the first step
                values = promise.measure(run)
                assert run.step == 0 or list(values) == [promise.metric]
                kept[i] = promise.check(run.step, values)
                print(f"  step {run.step:>6}  {promise.words()}: {values}  {kept[i]}")
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_promise_is_kept_and_its_twins_are_not(name):
    """Trained headless, the promise comes true, and would not by other knobs."""
    preset, begin = named(name), time.process_time()
    mine = preset.promise
    # its wrong twins: the other half's promise here, and this one in the lanes beside
    promises = [replace(mine, lane=i) for i in range(1 + len(preset.experiment.beside))]
    promises.insert(0, promises.pop(mine.lane))
    if preset.pair:
        promises.append(replace(named(preset.pair).promise, lane=mine.lane))
    kept = judge(preset, promises)
    print(f"{name}: {time.process_time() - begin:.1f} CPU seconds")
    assert kept[0] is True
    assert len(kept) >= 2 and all(twin is False for twin in kept[1:]), "it proves nothing"


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_label_is_the_metrics_own():
    told: dict[tuple[str, str], set] = {}
    for preset in presets():
        if preset.promise.label:
            mine = told.setdefault((preset.experiment.engine, preset.promise.metric), set())
            if not mine:  # the first that names a metric shows it, the others say the same
                run = preset.experiment.start("cpu").train(steps=1)
                run.frame()
                metric = run.lanes[preset.promise.lane].metrics[preset.promise.metric]
                mine.add((metric.label, metric.unit))
            mine.add((preset.promise.label, preset.promise.unit))
    assert told and all(len(names) == 1 for names in told.values()), told
