"""The Share menu: assets/share.js within Gradio."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import gradio as gr

from app.share import to_python
from engines import BadInput, Experiment

ASSETS = Path(__file__).resolve().parent.parent / "assets"
_numbers = itertools.count(1)  # so that the same answer twice is two answers


class ShareMenu(gr.HTML):
    """Its value is the answer to what was asked. Events: 'ask' {what}, 'open' {text}."""

    def __init__(self, **kwargs) -> None:
        super().__init__(
            "",
            html_template='<div class="gp-share"></div>',
            js_on_load=(ASSETS / "share.js").read_text(),
            apply_default_css=False,
            **kwargs,
        )


def answer(experiment: Experiment, what: object) -> str:
    """JSON for the menu: the experiment as Python or as a file."""
    if what == "python":
        found = {"text": to_python(experiment)}
    elif what == "json":
        name = f"{experiment.engine}-{experiment.dataset}.json"
        found = {"text": json.dumps(experiment.to_dict(), indent=1), "name": name}
    else:
        raise BadInput("An experiment can be had as Python or as JSON.")
    return json.dumps({"n": next(_numbers), "what": what, **found})
