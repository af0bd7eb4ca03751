"""The components that a script of ours fills: knobs, data editor, presets, Share menu."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gradio as gr

ASSETS = Path(__file__).resolve().parent.parent / "assets"


class Card(gr.HTML):
    """A box of the page whose value is JSON, drawn by assets/<script>.js into its `root`.

    Gradio offers as events whatever names the script hands to `trigger`.
    """

    script: ClassVar[str] = ""
    root: ClassVar[str] = ""

    def __init__(self, value: str | None = None, **kwargs: Any) -> None:
        super().__init__(
            value,
            html_template=f'<div class="{self.root}"></div>',
            js_on_load=(ASSETS / f"{self.script}.js").read_text(),
            apply_default_css=False,
            **kwargs,
        )

    def api_info(self) -> dict[str, Any]:
        return {"type": "string", "description": "JSON of a part of the page"}


class Controls(Card):
    """A card of knobs: {key, where, engines, knobs: [spec + value], actions, compare}.

    Events: set {where, name, value, turn} · engine {name, turn} · act {name} · beside {labels}.
    """

    script, root = "controls", "knobs"


class DataEditor(Card):
    """Data of one's own: what `own.state` says. Its events are the names in `own.HANDLERS`.

    points {xy, begin, end, turn} · gaussians {components, begin, end, turn} · edit {kind} ·
    table {name, size, data} · columns {x, y} · picture {name, size, data} or {invert}.
    """

    script, root = "editor", "gp-own"


class PresetList(Card):
    """The presets of a tab: a list of `Preset.spec()`. Event: preset {name, turn}."""

    script, root = "presets", "gp-presets"


class ShareMenu(Card):
    """The answer to what was asked, see `menu.answer`. Events: ask {what} · open {text}."""

    script, root = "share", "gp-share"
