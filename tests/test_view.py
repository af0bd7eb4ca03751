"""The live view: its component, its scripts, and colours that all eyes can tell apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from app.view import ASSETS, LIVE_JS, LiveView, head
from engines.marks import MetricKind


def test_the_component_offers_its_events_and_never_remounts() -> None:
    view = LiveView()
    for event in ("ack", "view", "act"):
        assert callable(getattr(view, event))
    with pytest.raises(AttributeError):
        view.remount  # noqa: B018
    assert "${value}" not in view.html_template
    assert view.css_template == ""  # it would be evaluated again at every frame


def test_the_page_serves_its_own_scripts() -> None:
    text = head()
    assert "://" not in text  # nothing from a network
    for name in ("plotly.min.js", "timeline.js", "export.js", "live.css"):
        assert f"{name}?v=" in text
    at = [text.index(f"assets/live/{path.name}?v=") for path in LIVE_JS]
    assert at == sorted(at)


def test_every_script_of_the_renderer_is_loaded() -> None:
    assert sorted(LIVE_JS) == sorted((ASSETS / "live").iterdir())
    for path in LIVE_JS:
        assert len(path.read_text().splitlines()) <= 450, f"{path.name} is long: divide it"


def untold(paths: list[Path]) -> list[str]:
    """What a script takes from PlaygroundLive that none before it has put there."""
    told, missing = set(), []
    names = lambda text: set(re.findall(r"\w+", text))  # noqa: E731
    for path in paths:
        text = path.read_text()
        for wanted in re.findall(r"const \{([^}]*)\} = PlaygroundLive;", text):
            missing += [f"{path.name}: {name}" for name in sorted(names(wanted) - told)]
        for offered in re.findall(r"PlaygroundLive(?:,| =) \{([^}]*)\}", text):
            told |= names(offered)
    assert len(told) > 30
    return missing


def test_scripts_take_what_those_before_them_give() -> None:
    assert untold(LIVE_JS) == []
    assert untold(LIVE_JS[::-1]), "wrong twin: the other order"


def test_the_page_has_a_sign_for_every_kind_of_metric() -> None:
    """Of an upper bound the truth is this or less, of a lower bound this or more."""
    signs = {"exact": None, "estimate": "≈", "upper bound": "≤", "lower bound": "≥"}
    assert set(signs) == set(get_args(MetricKind))
    script = (ASSETS / "live/metrics.js").read_text(encoding="utf-8")
    written = re.search(r"const SIGNS = \{(.*?)\}", script)[1]
    found = re.findall(r'"?([\w ]+?)"?: "(.) "', written)
    assert {name.strip(): sign for name, sign in found} == {k: s for k, s in signs.items() if s}


# ---------------------------------------------------------------- colours

# Machado, Oliveira & Fernandes 2009, table of full protan, deutan and tritan vision
EYES = {
    "full": np.eye(3),
    "protan": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deutan": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritan": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
ROLES = [
    "data",
    "model",
    "density",
    "generator",
    "discriminator",
    "score",
    "noise",
    "lost",
    "truth",
]


def linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """Linear sRGB → CIE L*a*b* under D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(light, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def closest(colours: list[str], eye: str) -> float:
    """The smallest difference of any two colours, to these eyes."""
    seen = [lab(EYES[eye] @ linear(c)) for c in colours]
    return min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[i + 1 :])


def palettes() -> dict[str, dict[str, str]]:
    light, dark = (ASSETS / "live.css").read_text().split("body.dark,")
    find = lambda text: dict(re.findall(r"--gp-([a-z]+):\s*([^;]+);", text))  # noqa: E731
    return {"light": find(light), "dark": find(dark)}


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_differ_for_all_eyes(mode: str, eye: str) -> None:
    palette = palettes()[mode]
    assert closest([palette[role] for role in ROLES], eye) > 14
    assert closest(palette["groups"].split()[:8], eye) > 19


def test_red_and_green_alone_would_be_refused() -> None:
    """Wrong twin: a pair that is plain to most is one colour to deutan eyes."""
    assert closest(["#b2182b", "#5a7a1a"], "full") > 60
    assert closest(["#a66a2b", "#7f7a1a"], "deutan") < 14


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_texts_stand_out_from_their_ground(mode: str) -> None:
    """WCAG 2: contrast of at least 4.5 for text and 3 for marks."""
    palette = palettes()[mode]
    luminance = lambda c: float(linear(c) @ [0.2126, 0.7152, 0.0722])  # noqa: E731

    def contrast(a: str, b: str) -> float:
        high, low = sorted((luminance(palette[a]), luminance(palette[b])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for ground in ("card", "bg", "soft"):
        assert contrast("ink", ground) >= 7
    for text in ("mute", "accent"):
        assert contrast(text, "card") >= 4.5
    for role in ROLES:
        assert contrast(role, "card") >= 3, role
