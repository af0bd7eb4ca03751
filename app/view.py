"""The component that paints packed frames: assets/live/ within Gradio."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import gradio as gr
import plotly

ASSETS = Path(__file__).resolve().parent.parent / "assets"
PLOTLY_JS = Path(plotly.__file__).resolve().parent / "package_data" / "plotly.min.js"

# The scripts of the renderer, in the order in which they are loaded: each of them takes what
# those before it have put into PlaygroundLive. An exported page carries the same ones.
LIVE_JS = [
    ASSETS / "live" / f"{name}.js"
    for name in (
        "base", "blocks", "theme",
        "project", "fields", "points", "lines", "charts",
        "panel", "graphs", "surface", "pointer", "slider", "keep",
        "layout", "metrics", "view", "stage",
    )
]  # fmt: skip

# The events that assets/live/view.js triggers. Gradio offers view.ack, view.view, view.act …
# because their names stand here in quotes.
_ON_LOAD = """
const EVENTS = ['ack', 'view', 'act', 'branch'];
const root = element.querySelector('.gp-view');
if (window.PlaygroundView) {
  const view = root.playgroundView = window.PlaygroundView(root, {
    trigger: (name, data) => { if (EVENTS.includes(name)) trigger(name, data); },
  });
  const slot = () => {
    const place = document.querySelector('[data-slot="timeline"]');
    if (place) window.PlaygroundTimeline(view, place); else setTimeout(slot, 100);
  };
  slot();
  const show = () => { if (props.value) view.show(props.value); };
  watch('value', show);
  show();
} else {
  root.textContent = 'The live view could not be loaded. Reload the page to try again.';
}
"""


@functools.cache
def served(path: Path) -> str:
    """The address of a file; it changes with the content, so that no stale copy is used."""
    gr.set_static_paths([path])
    digest = hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()
    # relative, so that it also works behind a proxy that adds a prefix
    return f"gradio_api/file={path.as_posix()}?v={digest}"


def head() -> str:
    """The scripts and styles that a page with a LiveView needs."""
    scripts = [ASSETS / "timeline.js", *LIVE_JS, ASSETS / "export.js"]
    links = (
        f'<link rel="stylesheet" href="{served(ASSETS / "live.css")}">'
        # only fetched: assets/live/base.js has it read once the first picture is there
        f'<link rel="prefetch" as="script" id="gp-plotly" href="{served(PLOTLY_JS)}">'
    )
    return links + "".join(f'<script src="{served(path)}"></script>' for path in scripts)


class LiveView(gr.HTML):
    """Paints packed frames. Its value is one string from `pack`, and it never remounts.

    Events, each with a handler such as `view.ack(fn, queue=False)` whose `gr.EventData`
    carries the fields named here:

        ack   seq of a frame that was *painted*; hidden=True when nobody can see the view;
                missing=True when a frame was lost: call `Known.clear()` and send another one;
              owed=True when it said that more comes later: send what `Worker.redraw("owed")` gives.
        view  hidden: ids of the panels that the visitor has put away.
        branch  step: go on from the kept moment nearest to it.
        act   name and args of an action: {x, y, index} when a handle is dragged.
    """

    def __init__(self, value: str | None = None, **kwargs: Any) -> None:
        super().__init__(
            value,
            # no ${value}: the page builds its elements once and only paints afterwards
            html_template='<div class="gp-view"></div>',
            js_on_load=_ON_LOAD,
            head=head(),
            apply_default_css=False,
            **kwargs,
        )

    def api_info(self) -> dict[str, Any]:
        return {"type": "string", "description": "a packed frame, base64"}

    def example_payload(self) -> str:
        return ""

    def example_value(self) -> str:
        return ""
