"""The address of an experiment, and everything hostile that may stand in its place."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.share import KEY, from_hash, read_hash, to_hash, to_python
from engines import DATASETS, ENGINES, BadInput, Experiment
from engines.data import snap


def packed(text: bytes) -> str:
    return KEY + base64.urlsafe_b64encode(zlib.compress(text)).decode().rstrip("=")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dataset", DATASETS)
def test_an_address_opens_the_same_experiment(engine, dataset):
    if refusal := ENGINES[engine].accepts(DATASETS[dataset]()):
        pytest.skip(refusal)
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


# ---------------------------------------------------------------- points in an address


def drawn(n: int) -> np.ndarray:
    """Points as a brush leaves them: sprayed along a curve over the whole plane."""
    rng = np.random.default_rng(0)
    t = rng.uniform(0, 6.3, n)
    return np.stack([3.5 * np.sin(t), 3.5 * np.cos(2 * t)], 1) + rng.normal(size=(n, 2)) * 0.3


def test_two_thousand_drawn_points_fit_into_a_link_and_come_out_as_they_were():
    experiment = Experiment.from_points(snap(drawn(2000)), "flow", seed=3)
    text = to_hash(experiment)
    assert len(text) < 12_000
    again, note = read_hash(text)
    assert again == experiment and not note
    assert np.array_equal(again.points, experiment.points) and again.points.dtype == np.float32
    assert np.abs(experiment.points - drawn(2000)).max() <= 0.5 / 1024
    # the wrong twin: points that are not on the grid are not put on it, and take more room
    loose = Experiment.from_points(drawn(2000), "flow", seed=3)
    assert from_hash(to_hash(loose)) == loose != experiment
    assert len(to_hash(loose)) > 12_000


@pytest.mark.parametrize("scale", [1.0, 1e-5, 900.0, 400_000.0])
@pytest.mark.parametrize("shift", [0.0, -5e5, 123.25])
def test_any_points_come_out_of_a_link_as_they_were(scale, shift):
    for points in (drawn(300) * scale + shift, snap(drawn(300) * scale) + shift):
        try:
            experiment = Experiment.from_points(points, "mixture")
        except BadInput:  # float32 makes one spot of what is small and far away
            continue
        assert from_hash(to_hash(experiment)) == experiment


def test_a_link_carries_a_sample_of_many_points_and_says_so():
    xy = snap(drawn(60_000))
    experiment = Experiment.from_points(xy, "mixture")
    text = to_hash(experiment)
    assert len(text) < 12_000 and text == to_hash(experiment)
    found, note = read_hash(text)
    assert note == "2,000 of 60,000 points: a link cannot carry all."
    assert len(found.points) == 2000
    assert {tuple(p) for p in found.points.tolist()} <= {tuple(p) for p in xy.tolist()}
    assert to_hash(found) != text and not read_hash(to_hash(found))[1], "it is all there is now"


def hostile(points) -> str:
    given = {"version": 1, "dataset": "points", "engine": "gan", "points": points}
    return packed(json.dumps(given).encode())


@pytest.mark.parametrize(
    "points",
    [
        {}, {"grid": ""}, {"grid": "AAAA"}, {"grid": 7, "low": [0, 0]}, {"float": "!!"},
        {"float": None}, {"grid": "AAAA" * 60, "low": [0]}, {"grid": "AAAA" * 60, "low": "ab"},
        {"grid": "AAAA" * 60, "low": [1e400, 0]}, {"grid": "AAAA" * 60, "low": [10**400, 0]},
        {"grid": "AAAA" * 60, "low": [0, 0]}, {"float": "////" * 60}, {"float": "AAA" * 40},
        {"float": "A" * 3_000_000}, {"grid": "é"}, {"grid": "AAAA" * 60, "low": {"a": 1, "b": 2}},
        {"grid": "AAAA" * 60, "low": [[0, 0], [0, 0]]},
    ],
)  # fmt: skip
def test_hostile_points_are_one_clear_sentence(points):
    with pytest.raises(BadInput) as refused:
        from_hash(hostile(points))
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


@pytest.mark.parametrize("of", [True, "many", -1, 10, None, 10**30, "<b>", [1]])
def test_a_nonsense_number_of_points_says_nothing(of):
    text = to_hash(Experiment.from_points(snap(drawn(50)), "gan"))[len(KEY) :]
    plain = zlib.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    given = json.loads(plain)
    given["points"]["of"] = of
    found, note = read_hash(packed(json.dumps(given).encode()))
    assert len(found.points) == 50 and not note
