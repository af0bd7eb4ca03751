"""Writes docs/knobs.md from the declarations: `make docs`."""

from __future__ import annotations

from pathlib import Path

from engines import DATASETS, ENGINES
from engines.knobs import Knob

TARGET = Path(__file__).parent.parent / "docs" / "knobs.md"


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


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text())
