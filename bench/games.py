"""Every game of the GAN: modes, shares and spread over training, and their picture.

    python -m bench.quality gan                         every game, three seeds, ring8
    python -m bench.quality gan --knobs '{}' --datasets ring8,grid25 --seconds 60
    python -m bench.games                               draw what `--save` kept

A generator of samples has no density, so that KL(p‖q) is out of reach. Instead: how many modes
hold a fifth of their share within 3σ, the share of samples within 3σ of any mode, the total
variation between the modes' shares and their weights, and the rms radius within modes over the
true one. Any one of them alone can be had by cheating: see engines/metrics.py.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from bench.shot import draw
from engines import Experiment
from engines.metrics import mode_report, total_variation
from engines.probes import reference
from engines.run import Diverged, Run

FREE = {"r1": 0.0, "r2": 0.0}  # neither penalty
GAMES: dict[str, dict] = {
    "the default": {},
    "minimax": {"loss": "minimax", **FREE},
    "non-saturating": {"loss": "non-saturating", **FREE},
    "least squares": {"loss": "least squares", **FREE},
    "hinge": {"loss": "hinge", **FREE},
    "relativistic": {"loss": "relativistic", **FREE},
    "Wasserstein, clipped": {"loss": "Wasserstein", "clip": 0.1, **FREE},
    "Wasserstein, gradient penalty": {"loss": "Wasserstein", "slope_one": 1.0, **FREE},
    "non-saturating, R1": {"loss": "non-saturating", "r1": 0.1, "r2": 0.0},
    "non-saturating, unrolled": {"loss": "non-saturating", "unroll": 3, **FREE},
    "non-saturating, packed": {"loss": "non-saturating", "pack": 3, **FREE},
}
MEASURES = {"modes": "modes covered", "inside": "share within 3σ",
            "share_tv": "shares off by", "spread": "spread, true = 1"}  # fmt: skip
OUT = Path(__file__).parent / "out"


def look(run: Run) -> dict[str, float]:
    """Modes found and their share of all, within 3σ, share-TV and spread, by 10,000 samples."""
    ref = reference(run.pool)
    with torch.no_grad(), run.engine.still(stream=1):
        seen = mode_report(run.engine.sample(10_000), ref.modes)
    return {"found": seen.found, "modes": seen.found / len(ref.modes.weights),
            "inside": seen.inside,
            "share_tv": total_variation(seen.shares, ref.ideal.shares),
            "spread": seen.spread / ref.ideal.spread}  # fmt: skip


def curve(dataset: str, knobs: dict, seed: int, seconds: float, engine: str = "gan") -> list:
    """(CPU seconds, step, `look`) at some marks up to `seconds`; it ends where it diverges."""
    from bench.quality import MARKS, train

    run, out, before = Experiment(dataset, engine, seed, knobs).start("cpu"), [], 0.0
    for mark in [*(m for m in MARKS if m < seconds), seconds]:
        try:
            train(run, mark - before)
        except Diverged:
            break
        out.append((mark, run.step, look(run)))
        before = mark
    return out


def words(seen: dict[str, float]) -> str:
    return (f"{seen['found']:2d} modes, {seen['inside']:.3f} inside, "
            f"TV {seen['share_tv']:.3f}, spread {seen['spread']:.2f}")  # fmt: skip


def measure(
    label: str, knobs: dict, datasets: list[str], seeds: list[int], seconds: float, save: bool,
    engine: str = "gan",
) -> None:  # fmt: skip
    """One game, printed and, if wanted, kept in bench/out for the picture."""
    print(f"\n{label}", flush=True)
    runs = []
    for dataset in datasets:
        for seed in seeds:
            points = curve(dataset, knobs, seed, seconds, engine)
            for mark, step, seen in points:
                print(f"{dataset:8s} seed {seed} {mark:4g} s {step:6d} steps  {words(seen)}",
                      flush=True)  # fmt: skip
            runs.append({"dataset": dataset, "seed": seed, "curve": points})
    if save:
        OUT.mkdir(exist_ok=True)
        name = "".join(c if c.isalnum() else "-" for c in label.lower())
        (OUT / f"games-{name}.json").write_text(json.dumps({"label": label, "runs": runs}))


def figure(kept: list[dict], dataset: str, dark: bool) -> go.Figure:
    """A row for each game and a column for each measure; a line for each seed."""
    order = list(GAMES)
    kept = sorted(kept, key=lambda k: order.index(k["label"]) if k["label"] in order else 99)
    fig = make_subplots(len(kept), len(MEASURES), shared_xaxes=True, vertical_spacing=0.012,
                        horizontal_spacing=0.035, column_titles=list(MEASURES.values()))  # fmt: skip
    ink, grid = ("#e8eaf0", "#2b303d") if dark else ("#1c2330", "#e5e5e0")
    line, level = ("#ff9a3c", "#5db8f5") if dark else ("#b35900", "#0c6fb0")
    ranges = {"modes": (-0.05, 1.08), "inside": (-0.05, 1.08), "share_tv": (-0.04, 0.9),
              "spread": (-1.2, 1.2)}  # fmt: skip
    truth = {"modes": 1.0, "inside": 0.989, "share_tv": 0.0, "spread": 0.0}
    for row, game in enumerate(kept, 1):
        runs = [run for run in game["runs"] if run["dataset"] == dataset and run["curve"]]
        for column, name in enumerate(MEASURES, 1):
            where = {"row": row, "col": column}
            for run in runs:
                x = [mark for mark, _, _ in run["curve"]]
                y = [seen[name] for _, _, seen in run["curve"]]
                if name == "spread":  # as a power of ten
                    y = [math.log10(v) if v and v > 0 else None for v in y]
                fig.add_scatter(x=x, y=y, mode="lines+markers", marker_size=4, opacity=0.9,
                                line={"color": line, "width": 1.8}, **where)  # fmt: skip
            ends = [run["curve"][-1][0] for run in runs] or [1]
            fig.add_scatter(x=[0.9, max(ends) * 1.1], y=[truth[name]] * 2, mode="lines",
                            line={"color": level, "width": 1.2, "dash": "dot"}, **where)  # fmt: skip
            fig.update_yaxes(range=ranges[name], nticks=4, **where)
            if name == "spread":
                fig.update_yaxes(tickvals=[-1, 0, 1], ticktext=["0.1", "1", "10"], **where)
        top = fig.get_subplot(row, 1).yaxis.domain[1]
        fig.add_annotation(text=f"<b>{game['label']}</b>", x=0, y=top, xref="paper", yref="paper",
                           xanchor="right", yanchor="top", xshift=-44, showarrow=False)  # fmt: skip
    fig.update_xaxes(type="log", gridcolor=grid, zeroline=False, tickvals=[1, 2, 4, 8, 15, 30, 60])
    fig.update_xaxes(title="CPU seconds", row=len(kept))
    fig.update_yaxes(gridcolor=grid, zeroline=False)
    fig.update_layout(
        showlegend=False, width=1280, height=90 + 88 * len(kept),
        font={"family": "Inter, DejaVu Sans, sans-serif", "color": ink, "size": 12},
        paper_bgcolor="#1a1d26" if dark else "#ffffff", plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 290, "r": 14, "t": 36, "b": 48},
    )  # fmt: skip
    return fig


def table(kept: list[dict]) -> str:
    """The medians of the seeds at the end, as Markdown."""
    out = ["| game | data | modes | within 3σ | share-TV | spread |",
           "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for game in kept:
        for dataset in dict.fromkeys(run["dataset"] for run in game["runs"]):
            ends = [run["curve"][-1][2] for run in game["runs"]
                    if run["dataset"] == dataset and run["curve"]]  # fmt: skip
            if ends:
                mid = {k: statistics.median(e[k] for e in ends) for k in ends[0]}
                out.append(f"| {game['label']} | {dataset} | {mid['found']:g} | {mid['inside']:.3f} | "
                           f"{mid['share_tv']:.3f} | {mid['spread']:.2f} |")  # fmt: skip
    return "\n".join(out)


def main() -> None:
    kept = [json.loads(path.read_text()) for path in sorted(OUT.glob("games-*.json"))]
    if not kept:
        raise SystemExit("Nothing to draw: run `python -m bench.quality gan --save` first.")
    print(table(kept))
    draw(lambda dark: figure(kept, "ring8", dark), "games", ".main-svg .annotation-text")


if __name__ == "__main__":
    main()
