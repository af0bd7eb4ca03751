"""The home page: its map is the engines, its links open, its clips are what the engines do."""

from __future__ import annotations

import json
import typing
from html.parser import HTMLParser

import numpy as np
import pytest

from app import clips, home
from app.share import from_hash
from engines import ENGINES, Engine, Experiment, families
from engines.arrays import numpy
from engines.base import DensityKind, Principle
from tests.each import quick


class Page(HTMLParser):
    """Start tags with their attributes, the text, and whether every tag is closed."""

    VOID = {"br", "img", "path"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.inside: dict[int, tuple[str, ...]] = {}  # number of a tag → the tags around it
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside[len(self.tags) - 1] = tuple(self.open)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"

    def classed(self, name: str) -> list[dict]:
        return [a for _, a in self.tags if name in (a.get("class") or "").split()]


@pytest.fixture
def newcomer():
    """An engine that was registered just now, with a hostile title."""
    before = dict(ENGINES)

    class Newcomer(Engine):
        name, family, title = "newcomer", "Newcomer", "<script>alert(1)</script>"
        tagline, density_kind, principle = "t", "approximate", "score matching"

    yield Newcomer
    ENGINES.clear()
    ENGINES.update(before)


# ---------------------------------------------------------------- the map


def test_every_engine_is_a_leaf_and_opens_its_tab():
    page = Page(home.html())
    assert len(page.classed("home-leaf")) == len(ENGINES)
    opened = {a["data-tab"] for tag, a in page.tags if tag == "button" and "data-tab" in a}
    assert opened == set(families())
    for engine in ENGINES.values():
        assert page.text.count(engine.tagline) == 1


def test_branches_grow_with_the_engines_and_are_not_there_before(newcomer):
    page = Page(home.html())
    assert "Approximate" in page.text and "score matching" in page.text
    assert len(page.classed("home-leaf")) == len(ENGINES)
    assert "No recording yet." in page.text
    assert "<script" not in home.html(), "texts are escaped"
    del ENGINES["newcomer"]
    page = Page(home.html())
    used = {home.kind_of(engine) for engine in ENGINES.values()}
    for kind, (label, _) in home.KINDS.items():
        if label:
            assert (label in page.text) == (kind in used), kind
    for name in home.PRINCIPLES:
        assert (name in page.text) == (name in {e.principle for e in ENGINES.values()}), name


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_has_its_place(name):
    engine = ENGINES[name]
    kind = home.kind_of(engine)
    assert engine.principle in home.PRINCIPLES, "say what it learns from"
    assert kind != "tractable" or engine.density == "exact"
    assert kind != "implicit" or engine.density is None
    assert sum(kind in kinds for _, _, kinds in home.FORKS) == 1


def test_every_word_of_the_taxonomy_is_explained():
    assert set(home.KINDS) == set(typing.get_args(DensityKind))
    assert set(home.PRINCIPLES) == set(typing.get_args(Principle))


def test_a_density_says_the_branch_where_the_engine_does_not():
    for density, kind in (("exact", "tractable"), ("bound", "approximate"), (None, "implicit")):
        silent = type("Silent", (Engine,), {"density": density})
        assert home.kind_of(silent) == kind
    loud = type("Loud", (Engine,), {"density": "exact", "density_kind": "approximate"})
    assert home.kind_of(loud) == "approximate"


def test_what_to_try_opens_experiments_of_different_kinds():
    page = Page(home.html())
    # those on the map open the second engine of a family
    links = [a for i, (tag, a) in enumerate(page.tags) if tag == "a" and "ol" in page.inside[i]]
    assert 3 <= len(links) <= home.MOST_TO_TRY
    for link in links:
        experiment = from_hash(link["href"])
        assert ENGINES[experiment.engine].family == link["data-tab"]
    assert len({link["href"] for link in links}) == len(links)
    assert len({link["data-tab"] for link in links}) == min(len(families()), home.MOST_TO_TRY)
    for entry in home.to_try():
        assert entry.title and entry.look_for.endswith((".", "?", "”."))


# ---------------------------------------------------------------- clips


RECORDED = [name for name in ENGINES if clips.experiment_of(name)]


def load(name: str) -> dict:
    return json.loads(clips.path_of(name).read_text())


def points_of(text: str) -> np.ndarray:
    return clips.read(text, 2).reshape(-1, 2)


def agree(a: np.ndarray, b: np.ndarray) -> bool:
    """Within 0.2 % of the box, but for two in a hundred: rounding differs between machines."""
    far = np.abs(a - b).max(1) > 4
    return far.mean() <= 0.02


@pytest.mark.parametrize("name", quick(RECORDED))
def test_a_clip_is_small_whole_and_of_the_engine_as_it_is(name):
    clip = load(name)
    assert clips.path_of(name).stat().st_size < 60_000
    assert clip["version"] == clips.VERSION
    assert Experiment.from_dict(clip["experiment"]) == clips.experiment_of(name), "make clips"
    assert clip["steps"] == clips.moments(ENGINES[name].clip_steps), "make clips"
    assert clip["torch"]
    assert [len(text) for text in clip["points"]] == [4 * clips.SAMPLES] * clips.MOMENTS
    has = ENGINES[name].log_prob is not Engine.log_prob
    assert len(clip["fields"]) == (clips.MOMENTS // 2 + 1 if has else 0)
    assert {len(text) for text in clip["fields"]} <= {clips.CELLS**2}


@pytest.mark.slow
@pytest.mark.parametrize("name", quick(RECORDED))
def test_two_moments_recorded_again_are_the_same(name):
    clip = load(name)
    early, late = 2, max(k for k, step in enumerate(clip["steps"]) if step <= 120)
    experiment = Experiment.from_dict(clip["experiment"])
    seen = {}
    steps = [clip["steps"][early], clip["steps"][late]]
    for run, where in clips.watch(experiment, steps):
        seen[run.step] = where
        if run.step == steps[0] and clip["fields"]:
            density = clip["hi"] * (clips.read(clip["fields"][early // 2], 1) / 63) ** 2
            drawn = clips.field(run).reshape(-1).clip(0, clip["hi"])
            gap = np.abs(np.sqrt(density) - np.sqrt(drawn)).max()
            assert gap < 0.6 / 63 * np.sqrt(clip["hi"]), "half a shade"
    assert tuple(clip["box"]) == run.pool.dataset.extent
    data = clips.places(numpy(run.pool.test[: clips.SAMPLES]), clip["box"])
    assert agree(data, points_of(clip["data"]))
    for moment in (early, late):
        kept = points_of(clip["points"][moment])
        assert agree(kept, seen[clip["steps"][moment]])
    # wrong twins: another moment, another run, axes exchanged
    kept = points_of(clip["points"][late])
    assert not agree(kept, seen[steps[0]])
    assert not agree(kept[:, ::-1], seen[steps[1]])
    (_, other), *_ = clips.watch(experiment.but(seed=1), steps[:1])
    assert not agree(points_of(clip["points"][early]), other)


@pytest.mark.parametrize("name", quick(n for n in RECORDED if load(n)["fields"]))
def test_the_last_field_of_a_clip_holds_all_the_probability(name):
    clip = load(name)
    x0, x1, y0, y1 = clip["box"]
    cell = (x1 - x0) * (y1 - y0) / clip["cells"] ** 2
    shades = clips.read(clip["fields"][-1], 1) / 63
    assert abs((shades**2).sum() * clip["hi"] * cell - 1) < 0.04
    assert abs(shades.sum() * clip["hi"] * cell - 1) > 0.2, "without the square it is no density"


def test_numbers_survive_being_written():
    every = np.arange(4096)
    assert (clips.read(clips.write(every, 2), 2) == every).all()
    assert (clips.read(clips.write(every[:64], 1), 1) == every[:64]).all()
    box = (-2.0, 6.0, 1.0, 3.0)
    rng = np.random.default_rng(0)
    xy = rng.uniform([-6, 0], [10, 4], (500, 2))
    back = 2 * clips.places(xy, box) / 4095 - 0.5
    assert np.abs(back * [8, 2] + [-2, 1] - xy).max() <= 8 / 4095 * 1.0001, "half a place"
    lost = clips.places(np.array([[np.nan, np.inf], [-np.inf, 2.0]]), box)
    assert lost.min() >= 0 and lost.max() <= 4095


def test_moments_are_close_together_first():
    for last in (36, 200, 1500, 100_000):
        steps = clips.moments(last)
        gaps = np.diff(steps)
        assert (steps[0], steps[-1], len(steps)) == (0, last, clips.MOMENTS)
        assert gaps.min() >= 1 and (last == 36 or gaps[-1] > 5 * gaps[0])
    with pytest.raises(ValueError, match="36 steps"):
        clips.moments(35)


def test_a_clip_says_what_it_shows():
    for name in RECORDED:
        about = home.provenance(clips.path_of(name))
        clip = load(name)
        assert clip["experiment"]["dataset"] in about and clip["torch"] in about
        assert f"{clip['steps'][-1]:,} steps" in about
