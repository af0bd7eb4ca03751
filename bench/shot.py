"""A figure as pictures, light and dark, drawn by a browser."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import plotly.graph_objects as go

PICTURES = Path(__file__).parent.parent / "assets" / "pictures"


def draw(figure: Callable[[bool], go.Figure], name: str, ready: str) -> None:
    """Write assets/pictures/{name}_{light,dark}.png of figure(dark).

    ready: selects what stands in the page once the figure is drawn.
    """
    from playwright.sync_api import sync_playwright

    from tests.browser.conftest import FLAGS
    from tests.browser.find import find

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        for theme in ("light", "dark"):
            fig = figure(theme == "dark")
            page = browser.new_page(
                viewport={"width": fig.layout.width, "height": fig.layout.height}
            )
            html = Path(folder) / f"{theme}.html"
            fig.write_html(html, config={"staticPlot": True})
            page.goto(html.as_uri())
            page.wait_for_selector(ready)
            page.locator(".plotly-graph-div").screenshot(path=PICTURES / f"{name}_{theme}.png")
        browser.close()
