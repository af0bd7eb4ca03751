"""The address of an experiment, and everything hostile that may stand in its place."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.share import KEY, from_hash, to_hash, to_python
from engines import DATASETS, ENGINES, BadInput, Experiment


def packed(text: bytes) -> str:
    return KEY + base64.urlsafe_b64encode(zlib.compress(text)).decode().rstrip("=")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dataset", DATASETS)
def test_an_address_opens_the_same_experiment(engine, dataset):
    experiment = Experiment(dataset, engine, seed=12345)
    text = to_hash(experiment)
    assert from_hash("#" + text) == experiment == from_hash(text)
    assert len(text) < 1500 and text.isascii()


def test_points_fit_into_an_address():
    xy = np.random.default_rng(0).normal(size=(500, 2)).round(3)
    experiment = Experiment.from_points(xy, "mixture")
    assert from_hash(to_hash(experiment)) == experiment


@pytest.mark.parametrize("text", ["", "#", "#top", None, "?x=1"])
def test_an_address_without_an_experiment_is_none(text):
    assert from_hash(text) is None


@pytest.mark.parametrize(
    "text",
    [
        KEY, KEY + "!!!!", KEY + "AAAA", KEY + "<script>alert(1)</script>",
        packed(b"{}"), packed(b"null"), packed(b"\xff\xfe"), packed(b"[" * 50_000),
        packed(json.dumps({"version": 99, "dataset": "ring8", "engine": "gan"}).encode()),
        packed(json.dumps({"version": 1, "dataset": "<b>", "engine": "gan"}).encode()),
        packed(b" " * 20_000_000),  # a few kB that unpack to far too much
        KEY + "A" * 300_000,
        packed(json.dumps({"version": 1, "dataset": "ring8", "engine": "gan"}).encode())[:-12],
    ],
)  # fmt: skip
def test_a_hostile_address_is_one_clear_sentence(text):
    with pytest.raises(BadInput) as refused:
        from_hash("#" + text)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text_at_all(text):
    for candidate in (text, KEY + text, packed(text.encode("utf-8", "ignore"))):
        try:
            found = from_hash(candidate)
        except BadInput:
            continue
        assert found is None or isinstance(found, Experiment)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "version": st.just(1) | values,
            "dataset": st.sampled_from([*DATASETS, "points"]) | values,
            "engine": st.sampled_from(list(ENGINES)) | values,
            "seed": st.integers(0, 9) | values,
            "knobs": st.dictionaries(st.sampled_from(["lr", "batch", "width"]), values) | values,
            "options": values,
            "points": values,
            "source": values,
            "beside": values,
        },
    )
)
def test_any_json_at_all(candidate):
    try:
        found = Experiment.from_dict(candidate)
    except BadInput as error:
        assert "\n" not in str(error)
        return
    assert Experiment.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    "experiment",
    [
        Experiment("ring8", "flow", seed=3, knobs={"lr": 5e-3}),
        Experiment("two_gaussians", "mixture", options={"distance": 3.0}, beside=[{"fit": "EM"}]),
        Experiment.from_points([[i % 7, (i * i) % 11 + 0.25] for i in range(40)], "gan"),
    ],
)
def test_the_python_that_is_copied_runs_the_same_experiment(experiment, capsys):
    code = to_python(experiment).replace("1_000", "2").replace("10_000", "30")
    names: dict = {}
    exec(code, names)
    assert names["run"].experiment == experiment
    assert names["run"].step == 2 and names["x"].shape == (30, 2)
    assert "sliced_w2" in capsys.readouterr().out
