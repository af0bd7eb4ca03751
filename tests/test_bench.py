"""The benchmarks' own helpers."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from bench import games, labelled, picture, quality
from engines import ENGINES, Experiment


def test_a_curve_on_images_is_bits_of_held_out_images():
    knobs = {"kind": "RealNVP", "layers": 2, "width": 16, "batch": 64}
    torch.set_num_threads(1)
    (seconds, steps, bits), = quality.curve("flow", "digits", knobs, 0, 0.05)  # fmt: skip
    run = Experiment("digits", "flow", 0, knobs).start("cpu").train(steps=steps)
    with torch.no_grad():
        log_q = run.log_prob(run.pool.test)
    want = -float(log_q.double().mean()) / 64 / math.log(2)
    assert seconds == 0.05 and bits == pytest.approx(want, abs=1e-5)
    # a wrong twin: in nats, or of the rows that are learnt from
    assert bits != pytest.approx(want * math.log(2), rel=1e-3)
    assert bits != pytest.approx(-float(run.log_prob(run.pool.val).mean()) / 64 / math.log(2))


@pytest.mark.parametrize("engine", labelled.ENGINES)
def test_labelled_digits_have_two_numbers(engine):
    knobs = {"width": 16, "batch": 32}
    ((seconds, steps, accuracy, ratio),) = labelled.curve(engine, knobs, 0, 0.05)
    assert seconds == 0.05 and steps > 0
    assert 0 <= accuracy < 0.6 and ratio > 1.2, "so few steps make neither digits nor copies"


def test_rows_name_knobs_that_there_are():
    for engine, knobs in quality.ROWS.values():
        if engine in quality.ENGINES:
            quality.ENGINES[engine].complete(knobs)
    assert set(quality.ON_IMAGES) <= set(quality.ROWS)


def test_what_is_measured_is_kept_and_images_apart(tmp_path, monkeypatch, capsys):
    found = [{"dataset": "moons", "seed": 0, "curve": [[1, 5, 0.1]], "kernel_estimate": None}]
    monkeypatch.setattr(quality, "OUT", tmp_path)
    monkeypatch.setattr(quality, "table", lambda *_: found)
    for data in ("moons", "digits"):
        quality.measure("Flow, spline", "flow", [data], {}, [0], 1.0, True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["quality-flow-spline-images.json", "quality-flow-spline.json"]
    assert json.loads((tmp_path / names[1]).read_text()) == {"label": "Flow, spline", "runs": found}


def test_names_are_moved_apart_and_keep_their_order():
    heights = [0.5, 0.52, 0.9, 0.51, 0.0]
    found = picture.spread(heights, 0.1, 0.0, 1.0)
    order = sorted(range(5), key=lambda i: heights[i])
    placed = [found[i] for i in order]
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(placed))
    assert min(found) >= 0 and max(found) <= 1
    assert found[2] == pytest.approx(0.9) and found[4] == pytest.approx(0.0)
    assert found[3] == pytest.approx(0.51), "the middle of three stays"
    # at the edge the block is pushed back inside, still apart
    edge = picture.spread([0.98, 0.99, 1.0], 0.1, 0.0, 1.0)
    assert edge == pytest.approx([0.8, 0.9, 1.0])


def test_the_picture_names_every_curve_in_its_plot():
    kept = []
    for i, label in enumerate(quality.ROWS):
        runs = [
            {"dataset": d, "seed": s, "kernel_estimate": 0.02 if d in quality.PLANES else None,
             "curve": [[1, 1, 0.5 + i / 10 + s / 50], [30, 9, 0.01 * (1 + i / 20)]]}
            for d in (*quality.PLANES, *quality.IMAGES) for s in range(3)
        ]  # fmt: skip
        kept.append({"label": label, "runs": runs})
    fig = picture.figure(kept, dark=True)
    texts = [a.text for a in fig.layout.annotations]
    assert texts.count("VAE") == 5 and texts.count("kernel estimate") == 4
    assert {"<b>digits</b>", "<b>spirals</b>"} <= set(texts)


# ---------------------------------------------------------------- the games of the GAN


def test_games_name_knobs_that_there_are():
    assert len(
        {json.dumps(ENGINES["gan"].complete(knobs)) for knobs in games.GAMES.values()}
    ) == len(games.GAMES)


def test_a_game_is_measured_by_its_samples(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(games, "OUT", tmp_path)
    arguments = [
        "gan",
        "--knobs",
        '{"width": 16, "batch": 32}',
        "--seeds",
        "0",
        "--seconds",
        "0.05",
    ]
    quality.main([*arguments, "--save"])
    (path,) = tmp_path.iterdir()
    (run,) = json.loads(path.read_text())["runs"]
    (seconds, steps, seen), = run["curve"]  # fmt: skip
    said = capsys.readouterr().out
    assert seconds == 0.05 and f"{steps} steps" in said and f"TV {seen['share_tv']:.3f}" in said
    trained = Experiment("ring8", "gan", 0, {"width": 16, "batch": 32}).start("cpu").train(steps)
    assert games.look(trained) == seen
    perfect = games.look(fake_run(trained))
    assert perfect["found"] == 8 and perfect["share_tv"] < 0.03
    assert perfect["inside"] == pytest.approx(0.989, abs=0.005)
    assert perfect["spread"] == pytest.approx(1, abs=0.03)


def fake_run(run):
    """The same run with a generator that draws from the data."""
    rows = run.pool.train
    run.engine.sample = lambda n, generator=None: rows[:n]
    return run


def test_the_picture_of_the_games_has_a_row_for_each():
    seen = {"found": 8, "modes": 1.0, "inside": 0.9, "share_tv": 0.1, "spread": 1.2}
    kept = [
        {"label": label, "runs": [
            {"dataset": "ring8", "seed": s, "curve": [[1, 9, seen], [30, 99, seen]]}
            for s in range(3)
        ]}
        for label in games.GAMES
    ]  # fmt: skip
    fig = games.figure(kept, "ring8", dark=False)
    texts = [a.text for a in fig.layout.annotations]
    assert all(f"<b>{label}</b>" in texts for label in games.GAMES)
    lines = [t for t in fig.data if t.mode == "lines+markers"]
    assert len(lines) == 3 * 4 * len(games.GAMES)
    assert len(games.table(kept).splitlines()) == 2 + len(games.GAMES)
