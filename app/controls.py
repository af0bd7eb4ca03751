"""A card of knobs as one component: native inputs drawn from the knobs' declarations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

ASSETS = Path(__file__).parent.parent / "assets"


class Controls(gr.HTML):
    """Its value is JSON: {key, where, knobs: [spec + value], actions, compare}.

    Events: set {where, name, value} · act {name} · beside {labels}.
    """

    def __init__(self, value: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("html_template", '<div class="knobs"></div>')
        kwargs.setdefault("js_on_load", (ASSETS / "controls.js").read_text())
        kwargs.setdefault("apply_default_css", False)
        super().__init__(value=value, **kwargs)

    def api_info(self) -> dict[str, Any]:
        return {"type": "string", "description": "JSON of a card of controls"}
