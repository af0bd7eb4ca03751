"""Draw what `python -m bench.quality --save` measured: assets/pictures/quality_{light,dark}.png.

One plot for each dataset: KL(p‖q), or bits/dim of images, against CPU seconds of training, the
median of the seeds as a line and their range as a band, and the kernel estimate as a level.
Every line has its name at its end.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bench.quality import IMAGES, OUT, PLANES, ROWS, unit
from bench.shot import draw

WIDTH, HEIGHT, COLUMNS = 1280, 820, 3
PLOT = 300  # pixels of a plot's height, about
GAP = 14 / PLOT  # between two names, as a share of it
ROOM = 6.5  # the axis goes on to so many times the last second: place for names
NAMES = {"Gaussian mixture, K = 100": "mixture, K = 100", "Energy, persistent CD": "energy"}
# told apart by colour-blind eyes, also by their dashes; light enough for dark paper, and dark
# enough for white
LIGHT = (
    "#b35900",
    "#5b4bd6",
    "#0c6fb0",
    "#007d8c",
    "#93077a",
    "#00633f",
    "#8a6100",
    "#8f2900",
    "#444c5c",
)
DARK = (
    "#ff9a3c",
    "#a79bff",
    "#5db8f5",
    "#35d0e0",
    "#f07ad8",
    "#4fd39b",
    "#e2b04a",
    "#ff8a66",
    "#c3c9d6",
)
DASHES = ("solid", "solid", "dash", "dot", "dashdot", "longdash", "dash", "dashdot", "dot")


def merged(kept: list[dict]) -> dict[str, list[dict]]:
    """Label → its runs, in the order of ROWS; what is not in there comes last."""
    runs = defaultdict(list)
    for row in kept:
        runs[row["label"]] += row["runs"]
    order = list(ROWS)
    return dict(
        sorted(runs.items(), key=lambda item: order.index(item[0]) if item[0] in order else 99)
    )


def medians(runs: list[dict]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Seconds, and the median, lowest and highest value over seeds at each."""
    at = defaultdict(list)
    for run in runs:
        for seconds, _, value in run["curve"]:
            if value is not None and math.isfinite(value):
                at[seconds].append(value)
    x = sorted(at)
    return x, *([f(at[s]) for s in x] for f in (statistics.median, min, max))


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights moved as little as it takes to be `gap` apart, in the same order, within a range.

    Neighbours that are too close are one block, as in isotonic regression, which stands where
    its members' mean wants it.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[tuple[float, int]] = []  # sum of (height − place in all·gap), members
    for place, i in enumerate(order):
        total, n = heights[i] - place * gap, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / n:
            total, n = total + blocks[-1][0], n + blocks[-1][1]
            blocks.pop()
        blocks.append((total, n))
    starts = [total / n for total, n in blocks for _ in range(n)]
    top = high - (len(order) - 1) * gap
    out = [0.0] * len(order)
    for place, (i, start) in enumerate(zip(order, starts)):
        out[i] = min(max(start, low), max(top, low)) + place * gap
    return out


def limits(values: Sequence[float], log: bool) -> tuple[float, float]:
    """The axis that holds them with a margin, in powers of ten if it is logarithmic."""
    ends = [math.log10(max(v, 1e-4)) if log else v for v in (min(values), max(values))]
    margin = 0.06 * (ends[1] - ends[0] or 1.0)
    return ends[0] - margin, ends[1] + margin


def figure(kept: list[dict], dark: bool) -> go.Figure:
    rows = merged(kept)
    names = [d for d in (*PLANES, *IMAGES) if any(r["dataset"] == d for runs in rows.values() for r in runs)]  # fmt: skip
    n_rows = math.ceil(len(names) / COLUMNS)
    columns = min(COLUMNS, len(names))
    fig = make_subplots(n_rows, columns, subplot_titles=[f"<b>{name}</b>" for name in names],
                        horizontal_spacing=0.045, vertical_spacing=0.14)  # fmt: skip
    ink, grid = ("#e8eaf0", "#2b303d") if dark else ("#1c2330", "#e5e5e0")
    for i, name in enumerate(names):
        _plot(fig, rows, name, (i // columns + 1, i % columns + 1), ink, dark)
    if len(names) % columns:  # a free cell in the last row
        told = "<b>Lower is better.</b><br>Lines: the median of the seeds.<br>Bands: from the best to the worst of them."
        fig.add_annotation(text=told, x=1, y=0.02, xref="paper", yref="paper", xanchor="right",
                           yanchor="bottom", align="left", showarrow=False)  # fmt: skip
    fig.update_xaxes(type="log", gridcolor=grid, zeroline=False, title_standoff=4)
    fig.update_yaxes(gridcolor=grid, zeroline=False, title_standoff=4)
    fig.update_layout(
        showlegend=False, width=WIDTH, height=HEIGHT * n_rows // 2 + (40 if n_rows == 1 else 0),
        font={"family": "Inter, DejaVu Sans, sans-serif", "color": ink, "size": 12},
        paper_bgcolor="#1a1d26" if dark else "#ffffff", plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 12, "t": 36, "b": 48},
    )  # fmt: skip
    return fig


def _plot(fig: go.Figure, rows: dict, name: str, cell: tuple[int, int], ink: str, dark: bool):
    """One dataset's curves with their names."""
    log = unit(name) != "bits/dim"
    where = dict(zip(("row", "col"), cell))
    to_axis = (lambda v: math.log10(max(v, 1e-4))) if log else (lambda v: v)
    ends, level, values = [], None, []
    for i, (label, runs) in enumerate(rows.items()):
        runs = [run for run in runs if run["dataset"] == name]
        x, middle, low, high = medians(runs)
        if not x:
            continue
        level = runs[0]["kernel_estimate"] or level
        colour = (DARK if dark else LIGHT)[i % len(LIGHT)]
        fig.add_scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", mode="lines",
                        opacity=0.15, fillcolor=colour, line_width=0, **where)  # fmt: skip
        fig.add_scatter(x=x, y=middle, mode="lines+markers", marker_size=5,
                        line={"color": colour, "width": 2.2, "dash": DASHES[i % len(DASHES)]},
                        **where)  # fmt: skip
        ends.append((x[-1], middle[-1], NAMES.get(label, label), colour))
        values += [v for v in middle if v > 0 or not log]
    if level is not None:
        last = max(end[0] for end in ends)
        # as far as the curves go: it shall not strike names through
        fig.add_scatter(x=[0.5, last], y=[level, level], mode="lines",
                        line={"color": ink, "width": 1, "dash": "dot"}, **where)  # fmt: skip
        ends.append((last, level, "kernel estimate", ink))
        values.append(level)
    low, high = limits(values, log)
    last = max(end[0] for end in ends)
    half = 0.5 * GAP * (high - low)
    placed = spread([to_axis(end[1]) for end in ends], GAP * (high - low), low + half, high - half)
    for (x, y, label, colour), height in zip(ends, placed):
        fig.add_scatter(x=[x, 1.25 * last], y=[y, 10**height if log else height], mode="lines",
                        line={"color": colour, "width": 0.8}, opacity=0.7, **where)  # fmt: skip
        fig.add_annotation(x=math.log10(1.3 * last), y=height, text=label, showarrow=False,
                           xanchor="left", font={"size": 11, "color": colour}, **where)  # fmt: skip
    ticks = [t for t in (1, 2, 4, 8, 15, 30, 60) if t <= last]
    fig.update_xaxes(tickvals=ticks, range=[math.log10(0.85), math.log10(ROOM * last)],
                     title="CPU seconds", **where)  # fmt: skip
    if log:
        ticks = [m * 10.0**k for k in range(-4, 2) for m in (1, 3)]
        fig.update_yaxes(type="log", tickvals=ticks, tickformat="~f", **where)
    fig.update_yaxes(range=[low, high], title=unit(name), **where)


def main() -> None:
    kept = [json.loads(path.read_text()) for path in sorted(OUT.glob("quality-*.json"))]
    if not kept:
        raise SystemExit("Nothing to draw: run `python -m bench.quality --save` first.")
    draw(lambda dark: figure(kept, dark), "quality", ".main-svg .xtitle")


if __name__ == "__main__":
    main()
