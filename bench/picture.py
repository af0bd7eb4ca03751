"""Draw what `python -m bench.quality --save` measured: assets/pictures/quality_{light,dark}.png.

One plot for each dataset: KL(p‖q) against CPU seconds of training, the median of the seeds
as a line and their range as a band, and the kernel estimate as a level.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright
from plotly.subplots import make_subplots

from bench.quality import OUT, PLANES
from tests.browser.conftest import FLAGS
from tests.browser.find import find

PICTURES = Path(__file__).parent.parent / "assets" / "pictures"
# told apart by colour-blind eyes, and by their dashes
COLOURS = ("#e07415", "#5b4bd6", "#0c6fb0", "#00a0b2", "#93077a", "#00633f", "#c6862b", "#8f2900")
DASHES = ("solid", "solid", "dash", "dot", "dashdot", "longdash", "solid", "dash")


def medians(runs: list[dict]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Seconds, and the median, lowest and highest KL over seeds at each."""
    at = defaultdict(list)
    for run in runs:
        for seconds, _, gap in run["curve"]:
            at[seconds].append(gap)
    x = sorted(at)
    return x, *([f(at[s]) for s in x] for f in (statistics.median, min, max))


def figure(kept: list[dict], dark: bool) -> go.Figure:
    fig = make_subplots(
        1, len(PLANES), subplot_titles=PLANES, horizontal_spacing=0.02, shared_yaxes=True
    )
    ink, line = ("#e8eaf0", "#2b303d") if dark else ("#1c2330", "#e5e5e0")
    told: set[str] = set()  # labels that the legend has
    for column, plane in enumerate(PLANES, 1):
        level = None
        for i, row in enumerate(kept):
            runs = [run for run in row["runs"] if run["dataset"] == plane]
            if not runs:
                continue
            level = runs[0]["kernel_estimate"] or level
            x, middle, low, high = medians(runs)
            colour = COLOURS[i % len(COLOURS)]
            same = {"legendgroup": row["label"], "row": 1, "col": column}
            fig.add_scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", mode="lines", opacity=0.18,
                            fillcolor=colour, line_width=0, showlegend=False, **same)  # fmt: skip
            fig.add_scatter(x=x, y=middle, name=row["label"], mode="lines+markers",
                            line={"color": colour, "width": 2.5, "dash": DASHES[i % len(DASHES)]},
                            marker_size=5, showlegend=row["label"] not in told, **same)  # fmt: skip
            told.add(row["label"])
        if level is not None:
            fig.add_hline(level, line={"color": ink, "width": 1, "dash": "dot"}, row=1, col=column)
            fig.add_annotation(x=math.log10(30), y=math.log10(level), text="kernel estimate",
                               font_size=10, showarrow=False, xanchor="right", yanchor="bottom",
                               row=1, col=column)  # fmt: skip
    fig.update_xaxes(type="log", tickvals=[1, 2, 4, 8, 15, 30], gridcolor=line, title="CPU seconds")
    fig.update_yaxes(type="log", dtick=1, gridcolor=line, tickformat="~f")
    fig.update_yaxes(title="KL(p‖q), nats", col=1)
    fig.update_layout(
        showlegend=True, width=1280, height=430,
        font={"family": "Inter, DejaVu Sans, sans-serif", "color": ink},
        paper_bgcolor="#1a1d26" if dark else "#ffffff", plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": -0.24, "x": 0.5, "xanchor": "center"},
        margin={"l": 64, "r": 16, "t": 40, "b": 40},
    )  # fmt: skip
    return fig


def main() -> None:
    kept = [json.loads(path.read_text()) for path in sorted(OUT.glob("quality-*.json"))]
    if not kept:
        raise SystemExit("Nothing to draw: run `python -m bench.quality --save` first.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=FLAGS)
        for theme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1280, "height": 430})
            html = Path(folder) / f"{theme}.html"
            figure(kept, theme == "dark").write_html(html, config={"staticPlot": True})
            page.goto(html.as_uri())
            page.wait_for_selector(".main-svg .legend")
            page.locator(".plotly-graph-div").screenshot(path=PICTURES / f"quality_{theme}.png")
        browser.close()


if __name__ == "__main__":
    main()
