"""The home page: what a generative model is, a map of the engines, and what to try first.

The map is derived from the engines: a branch is there once an engine hangs on it.
assets/home.js draws its lines, plays the clips and opens the tabs.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from app.clips import experiment_of, path_of
from app.share import to_hash
from app.view import ASSETS, served
from engines import ENGINES, Engine, Experiment, families
from engines.base import DensityKind, Principle

TAB = "Home"
HASH = "#home"

LEAD = (
    "A generative model learns, from examples alone, to make new ones of the same kind.",
    "It supposes that the examples were drawn by chance from a distribution p, which nobody "
    "can look up, and it bends a distribution q of its own until drawing from q is as good as "
    "drawing from p.",
    "The families below differ in two things: what they can say about q, and what tells them "
    "which way to bend it.",
)

# the first fork, and within it the kinds: (label, what it means, kinds)
FORKS: tuple[tuple[str, str, tuple[DensityKind, ...]], ...] = (
    ("Explicit density", "the model puts a number q(x) on any x", ("tractable", "approximate")),
    ("Implicit density", "the model only draws samples from q", ("implicit",)),
)
KINDS: dict[DensityKind, tuple[str, str]] = {
    "tractable": ("Tractable", "q(x) in closed form, exact"),
    "approximate": ("Approximate", "q(x) as a bound or an estimate"),
    "implicit": ("", ""),  # its fork says it already
}
# principle → (what the model learns from, the colour of what teaches it)
PRINCIPLES: dict[Principle, tuple[str, str]] = {
    "maximum likelihood": ("make the data probable", "density"),
    "variational bound": ("raise a lower bound of it", "generator"),
    "adversarial": ("fool a critic that tells samples from data", "discriminator"),
    "noise contrast": ("tell data from noise of a known density", "noise"),
    "score matching": ("learn which way the data get denser", "score"),
    "velocity matching": ("learn the current that carries noise to data", "data"),
}
MOST_TO_TRY = 4


# ---------------------------------------------------------------- what there is


def kind_of(engine: type[Engine]) -> DensityKind:
    """The engine's branch: what it declares, or else what its density says."""
    if engine.density_kind:
        return engine.density_kind
    return {"exact": "tractable", "bound": "approximate", None: "implicit"}[engine.density]


class Try(NamedTuple):
    """One thing to try: an experiment, its title, and what to look for."""

    experiment: Experiment
    title: str
    look_for: str


def to_try() -> list[Try]:
    """The first preset of each family; without presets, each family's engine as it comes."""
    found = list(_from_presets()) if importlib.util.find_spec("app.presets") else []
    return (found or list(_from_engines()))[:MOST_TO_TRY]


def _from_presets() -> Iterable[Try]:
    from app import presets

    seen = set()
    for preset in presets.presets():
        family = ENGINES[preset.experiment.engine].family
        if family not in seen:
            seen.add(family)
            yield Try(preset.experiment, preset.title, preset.look_for)


def _from_engines() -> Iterable[Try]:
    first = [names[0] for names in families().values()]
    plain = [(name, shown) for name in first if (shown := experiment_of(name))]
    for name, experiment in plain:
        kind = ENGINES[name]
        yield Try(experiment, kind.title, _sentence(kind.look_for))
    for name, experiment in plain:
        for label, changes in list(ENGINES[name].compare.items())[:1]:
            yield Try(experiment.but(beside=[changes]), f"{ENGINES[name].title}, two at once",
                      f"The same data and seed twice: as it comes, and with “{label}”.")  # fmt: skip


def _sentence(text: str) -> str:
    """The first sentence of a text."""
    head, stop, _ = text.partition(". ")
    return head + "." if stop else head


# ---------------------------------------------------------------- the page


def html() -> str:
    """The whole home page. Texts are escaped; no visitor's text is among them."""
    lead = "".join(f"<p>{escape(sentence)}</p>" for sentence in LEAD)
    return (
        '<section class="home" aria-labelledby="home-title">'
        '<h2 id="home-title">What is a generative model?</h2>'
        f'<div class="home-lead">{lead}</div>{_map()}{_try_first()}</section>'
    )


def _try_first() -> str:
    items = "".join(
        f'<li><a href="#{escape(to_hash(entry.experiment))}" '
        f'data-tab="{escape(ENGINES[entry.experiment.engine].family)}">'
        f"<strong>{escape(entry.title)}</strong> <span>{escape(entry.look_for)}</span></a></li>"
        for entry in to_try()
    )
    return (
        '<nav class="home-try" aria-labelledby="home-try-title">'
        f'<h3 id="home-try-title">Try this first</h3><ol>{items}</ol></nav>'
    )


def _map() -> str:
    forks = [fork for fork in FORKS if any(kind_of(e) in fork[2] for e in ENGINES.values())]
    return (
        '<section class="home-map" aria-labelledby="home-map-title"><div class="home-map-head">'
        '<h3 id="home-map-title">A map of the families</h3>'
        "<p>Where one hangs says what it can tell about q; its colour, what it learns from.</p>"
        '<button type="button" class="home-motion">Pause the clips</button>'
        f'</div>{_legend()}<div class="home-tree">'
        '<svg class="home-lines" aria-hidden="true"></svg>'
        '<p class="home-node home-root" data-node>Generative models</p>'
        f'<ul class="home-forks" style="grid-template-columns:{_columns(f[2] for f in forks)}">'
        f"{''.join(_fork(*fork) for fork in forks)}</ul></div></section>"
    )


def _legend() -> str:
    used = {engine.principle for engine in ENGINES.values()}
    items = "".join(
        f"<li>{_tag(name)}<span>{escape(about)}</span></li>"
        for name, (about, _) in PRINCIPLES.items()
        if name in used
    )
    key = "".join(
        f'<li style="--hue:var(--gp-{role})">{escape(label)}</li>'
        for role, label in (("data", "data"), ("model", "samples"), ("density", "density"))
    )
    return (
        f'<div class="home-legend"><ul aria-label="What a model learns from">{items}</ul>'
        f'<ul class="home-key" aria-label="Colours in the clips">{key}</ul></div>'
    )


def _tag(principle: Principle | None) -> str:
    if principle is None:
        return ""
    _, role = PRINCIPLES.get(principle, ("", "plain"))
    return f'<b class="home-tag" style="--hue:var(--gp-{role})">{escape(principle)}</b>'


def _leaves(kind: DensityKind) -> list[type[Engine]]:
    return [engine for engine in ENGINES.values() if kind_of(engine) == kind]


def _columns(groups: Iterable[Iterable[DensityKind]]) -> str:
    """Grid columns as wide as there are leaves in each group of kinds."""
    counts = [sum(len(_leaves(kind)) for kind in group) for group in groups]
    return " ".join(f"minmax(230px,{count}fr)" for count in counts)


def _node(label: str, about: str, cls: str = "") -> str:
    return (
        f'<div class="home-node {cls}" data-node><strong>{escape(label)}</strong> '
        f"<span>{escape(about)}</span></div>"
    )


def _fork(label: str, about: str, kinds: tuple[DensityKind, ...]) -> str:
    kinds = tuple(kind for kind in kinds if _leaves(kind))
    branches = "".join(_kind(kind) for kind in kinds)
    columns = _columns((kind,) for kind in kinds)
    return (
        f'<li class="home-fork" data-parent>{_node(label, about)}'
        f'<ul class="home-kinds" style="grid-template-columns:{columns}">{branches}</ul></li>'
    )


def _kind(kind: DensityKind) -> str:
    label, about = KINDS[kind]
    node = _node(label, about) if label else ""
    leaves = "".join(_leaf(engine) for engine in _leaves(kind))
    return f'<li class="home-kind">{node}<ul class="home-leaves">{leaves}</ul></li>'


def _leaf(engine: type[Engine]) -> str:
    """A card whose title opens the engine: its tab, or for a family's second engine an address."""
    first = families()[engine.family][0] == engine.name
    title, family = escape(engine.title), escape(engine.family)
    shown = experiment_of(engine.name) or Experiment(engine.opens_on, engine.name)
    if first:
        way = f'<button type="button" data-tab="{family}">{title}</button>'
    else:
        way = f'<a href="#{escape(to_hash(shown))}" data-tab="{family}">{title}</a>'
    role = PRINCIPLES[engine.principle][1] if engine.principle in PRINCIPLES else "plain"
    return (
        f'<li class="home-leaf" data-node style="--hue:var(--gp-{role})">{_clip(engine)}'
        f'<div class="home-text"><h4>{way}</h4>{_tag(engine.principle)}'
        f"<p>{escape(engine.tagline)}</p></div></li>"
    )


def _clip(engine: type[Engine]) -> str:
    path = path_of(engine.name)
    if not path.exists():
        return '<div class="home-clip"><p class="home-quiet">No recording yet.</p></div>'
    about = provenance(path)
    return (
        f'<div class="home-clip" data-clip="{escape(served(path))}">'
        f'<canvas role="img" aria-label="{escape(about)}"></canvas>'
        f'<p class="home-step" title="{escape(about)}" aria-hidden="true"></p></div>'
    )


def provenance(path: Path) -> str:
    """One sentence: what a clip shows, and what it was recorded from."""
    clip: dict[str, Any] = json.loads(path.read_text())
    told = clip["experiment"]
    plain = ENGINES[told["engine"]].complete({})
    changed = "".join(f"{k} {v}, " for k, v in told["knobs"].items() if v != plain[k])
    seen = "its density as a field and its samples" if clip["fields"] else "its samples"
    return (
        f"A recording: {seen} in orange, moving onto the data in blue over "
        f"{clip['steps'][-1]:,} steps on {told['dataset']}, {changed}seed {told['seed']}, "
        f"torch {clip['torch']}."
    )


# ---------------------------------------------------------------- what the page loads


def head() -> str:
    """The style and the script of the home page, for the page's head."""
    # a file of its own: Gradio rewrites the selectors of `css`, and stumbles over these
    style = f'<link rel="stylesheet" href="{served(ASSETS / "home.css")}">'
    return f"{style}<script>{(ASSETS / 'home.js').read_text()}</script>"
