"""When a knob means anything, and how what arrives is quoted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from app.session import Session
from engines import ENGINES, Experiment
from engines.knobs import Above, Knobbed, knob, printable, shown
from tests.each import context


class Some(Knobbed):
    a: float = knob(1.0, 0.0, 2.0, help="a number")
    b: int = knob(0, 0, 5, help="a whole number")
    on: bool = knob(True, help="a switch")
    one: float = knob(1.0, 0.0, 1.0, when={"a": Above(0)}, help="needs a")
    either: float = knob(1.0, 0.0, 1.0, when={"a or b": Above(0.5)}, help="needs a or b")
    both: float = knob(1.0, 0.0, 1.0, when={"a": Above(0), "on": True}, help="needs two")


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({}, {"one", "either", "both"}),
        ({"a": 0.0}, set()),
        ({"a": 0.5}, {"one", "both"}),
        ({"a": 0.0, "b": 1}, {"either"}),
        ({"on": False}, {"one", "either"}),
    ],
)
def test_a_knob_applies_above_a_number_of_one_or_another(values, meant):
    values = Some.complete(values)
    assert {k for k in ("one", "either", "both") if Some.knobs[k].applies(values)} == meant


def test_a_knob_that_does_not_suit_the_data_asks_nothing():
    """Of digits Metropolis refuses nearly all, so its switch is not there; the noise is."""
    noise = ENGINES["energy"].knobs["noise"]
    assert not noise.applies({"metropolis": True}) and noise.applies({})
    session = Session("cpu")
    session.open(Experiment("digits", "energy"))
    controls = session.controls()
    offered = {entry["name"]: entry for entry in controls["knobs"]}
    assert "noise" in offered and "metropolis" not in offered and "waves" not in offered
    assert "Without Metropolis" not in controls["compare"]["offered"]
    session.open(Experiment("moons", "energy"))
    controls = session.controls()
    assert {"metropolis", "waves", "noise"} <= {entry["name"] for entry in controls["knobs"]}
    assert "Without Metropolis" in controls["compare"]["offered"]
    session.close()


def test_the_page_gets_conditions_as_plain_json():
    spec = Some.knobs["either"].spec()
    assert json.loads(json.dumps(spec))["when"] == {"a or b": {"above": 0.5}}
    assert Some.knobs["both"].spec()["when"] == {"a": {"above": 0}, "on": [True]}


def test_a_condition_on_what_is_not_there_is_refused():
    with pytest.raises(TypeError, match="no knob 'c'"):

        class Wrong(Knobbed):
            a: float = knob(1.0, 0.0, 2.0, help="a number")
            one: float = knob(1.0, 0.0, 1.0, when={"a or c": Above(0)}, help="needs c")


@pytest.mark.parametrize(
    ("engine", "name"), [(e, k) for e, kind in ENGINES.items() for k in kind.knobs]
)
def test_each_condition_can_be_met(engine, name):
    kind, entry = ENGINES[engine], ENGINES[engine].knobs[name]
    assert entry.applies(kind.complete(context(engine, entry)))


def test_the_gans_penalties_fade_only_if_there_are_any():
    fade = ENGINES["gan"].knobs["fade"]
    for r1, r2, meant in ((0.0, 0.0, False), (0.1, 0.0, True), (0.0, 0.1, True)):
        assert fade.applies(ENGINES["gan"].complete({"r1": r1, "r2": r2})) is meant


def test_what_is_quoted_stays_in_its_line():
    for text in ("a\nb", "a\r\nb", "a\x85b", "a\u2028b", "a\x00b", "\u202eab", "\ud800"):
        assert printable(text).isprintable() and shown(text).isprintable()
    assert printable("größe 2,5") == "größe 2,5"
    assert len(printable("\n" * 100)) <= 40 and len(shown(["x"] * 100, 80)) <= 80
    assert "\n" not in shown(np.zeros((2, 2)))


def test_no_knob_is_taken_for_a_file():
    with pytest.raises(TypeError, match="stands for files"):

        class Wrong(Knobbed):
            path: float = knob(0.5, 0.0, 1.0, help="How far.")
