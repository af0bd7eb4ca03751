"""Writes docs/knobs.md and docs/graphs.md from the declarations: `make docs`."""

from __future__ import annotations

from pathlib import Path

from engines import DATASETS, ENGINES
from engines.knobs import Knob

TARGET = Path(__file__).parent.parent / "docs" / "knobs.md"
GRAPHS = TARGET.with_name("graphs.md")


def row(entry: Knob) -> str:
    if entry.kind == "choice":
        values = ", ".join(entry.choices)
    elif entry.kind == "bool":
        values = "on, off"
    elif entry.kind == "payload":
        return f"| `{entry.name}` | JSON | its own | restarts the run | {entry.help} |"
    else:
        values = f"{entry.low:g} … {entry.high:g}" + (" (log)" if entry.log else "")
    acts = "at once" if entry.live else "on the picture" if entry.view else "restarts the run"
    if entry.kinds:
        acts += f", only on {' and '.join(entry.kinds)}"
    default = entry.default if not isinstance(entry.default, float) else f"{entry.default:g}"
    return f"| `{entry.name}` | {values} | {default} | {acts} | {entry.help} |"


def table(knobs: dict[str, Knob]) -> list[str]:
    head = ["| knob | values | default | acts | what it does |", "| --- | --- | --- | --- | --- |"]
    return [*head, *map(row, knobs.values()), ""]


def text() -> str:
    out = ["# Every knob", "", "Written by `make docs` from the code; don't edit it by hand.", ""]
    for name, kind in ENGINES.items():
        out += [
            f"## {kind.title} (`{name}`)",
            "",
            f"{kind.tagline}",
            "",
            f"    {kind.objective}",
            "",
        ]
        out += [f"{kind.paper}", "", *table(kind.knobs)]
        if kind.actions:
            out += [f"- *{a.label}*: {a.help}" for a in kind.actions.values()] + [""]
    out += ["# Every dataset", "", "| dataset | what it is | source |", "| --- | --- | --- |"]
    out += [f"| `{name}` | {kind.about} | {kind.source} |" for name, kind in DATASETS.items()]
    for name, kind in DATASETS.items():
        if kind.knobs:
            out += ["", f"Options of `{name}`:", "", *table(kind.knobs)]
    return "\n".join(out).rstrip() + "\n"


ABOUT_GRAPHS = """# Which engines train as CUDA graphs

Written by `make docs` from the code; don't edit it by hand.

On a GPU a live run captures its training step once and replays it, ten steps at a time: a small
network's step is a hundred kernels, and starting them one by one is what takes the time. The
graphs take the same steps as an eager run but for rounding; a run begins eagerly, and goes on
eagerly where a capture fails. `Experiment.start()` is eager unless `by_graphs()` is called, and on a
CPU nothing is captured.

A *dial* is a live knob that a graph reads from the device: moving it costs nothing. Any other live
knob, an action, other data and a loaded checkpoint leave the graphs behind, and they are captured
anew once there was no change for a fifth of a second. So does a dial the first time that it comes
to 0 or leaves it, for that may switch a term on or off.

| engine | captured | dials | captured anew after a move of |
| --- | --- | --- | --- |
"""


def graphs() -> str:
    """The table of what is captured, from each engine's `capture`."""
    out, names = [], lambda of: ", ".join(f"`{name}`" for name in of) or "none"
    for name, kind in ENGINES.items():
        said = kind.capture
        if said.no:
            out.append(f"| {kind.title} (`{name}`) | no | | |")
            continue
        others = [k for k, entry in kind.knobs.items() if entry.live and k not in said.dials]
        yes = "yes, but see below" if said.unless else "yes"
        out.append(f"| {kind.title} (`{name}`) | {yes} | {names(said.dials)} | {names(others)} |")
    out += ["", "## Why the others are not", ""]
    for name, kind in ENGINES.items():
        if kind.capture.no:
            out.append(f"- `{name}`: {kind.capture.no}")
        for when, why in kind.capture.unless:
            with_ = ", ".join(f"{key} = {value}" for key, value in when.items())
            out.append(f"- `{name}` with {with_}: {why}")
    return ABOUT_GRAPHS + "\n".join(out) + "\n"


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text())
    GRAPHS.write_text(graphs())
