"""The data editor: assets/editor.js within Gradio."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

ASSETS = Path(__file__).resolve().parent.parent / "assets"


class DataEditor(gr.HTML):
    """Its value is JSON from `own.state`. Its events are the names in `own.HANDLERS`.

    points {xy, begin, end, turn} · gaussians {components, begin, end, turn} · edit {kind} ·
    table {name, size, data} · columns {x, y} · picture {name, size, data} or {invert}.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(
            "",
            html_template='<div class="gp-own"></div>',
            js_on_load=(ASSETS / "editor.js").read_text(),
            apply_default_css=False,
            **kwargs,
        )


class PresetList(gr.HTML):
    """The presets of a tab. Its value is JSON: a list of `Preset.spec()`. Event: preset {name}."""

    def __init__(self, **kwargs) -> None:
        super().__init__(
            "",
            html_template='<div class="gp-presets"></div>',
            js_on_load=(ASSETS / "presets.js").read_text(),
            apply_default_css=False,
            **kwargs,
        )
