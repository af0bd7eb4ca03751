"""What may arrive from hostile and half-right hands: values, experiments, texts, addresses."""

from __future__ import annotations

import base64
import copy
import functools
import json
import zlib
from typing import Any

from hypothesis import strategies as st

from app.share import KEY, to_hash
from engines import DATASETS, ENGINES, BadInput, Experiment

TEXTS = ["", " ", "\0", "\n", "é", "𝒳", "\u202e", "<b>", "'; --", "NaN", "Infinity", "None", "true",
         "../..", "{}", "%s%n", "\ud800", "__class__", "-1", "1e9", "x" * 5000]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 10, 255, 1000, 2**31 - 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**70), 10**400,
           0.0, -0.0, 0.5, 1e-300, 5e-324, 1e308, -1e308, 1.0000001, float("nan"), float("inf"),
           -float("inf")]  # fmt: skip


def nested(depth: int, kind: type) -> Any:
    out: Any = 1
    for _ in range(depth):
        out = [out] if kind is list else {"a": out}
    return out


plain = (
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.integers() | st.floats()
    | st.sampled_from(TEXTS) | st.text(max_size=12)
    | st.sampled_from([*ENGINES, *DATASETS, "points"])
)  # fmt: skip
anything = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=6) | st.sampled_from(["path", "meta", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
) | st.builds(nested, st.sampled_from([1, 30, 900, 3000]), st.sampled_from([list, dict]))


def inside(entry: Any) -> st.SearchStrategy:
    """Values that fit a knob, and its two ends."""
    # kept: to build a strategy takes longer than to draw from it, and knobs cannot be hashed
    if id(entry) not in KEPT:
        KEPT[id(entry)] = entry, fitting(entry)
    return KEPT[id(entry)][1]


KEPT: dict[int, tuple[Any, st.SearchStrategy]] = {}


def fitting(entry: Any) -> st.SearchStrategy:
    if entry.kind == "bool":
        return st.booleans()
    if entry.kind == "choice":
        return st.sampled_from(entry.choices)
    ends = st.sampled_from([entry.low, entry.high, entry.default])
    if entry.kind == "int":
        return ends.map(int) | st.integers(int(entry.low), int(entry.high))
    return ends | st.floats(entry.low, entry.high)


@functools.cache
def takes(engine: str) -> list[str]:
    """Names of the datasets that an engine takes."""
    return [name for name, kind in DATASETS.items() if ENGINES[engine].accepts(kind()) is None]


engines, seeds = st.sampled_from(list(ENGINES)), st.integers(0, 2**31 - 1)
names = {e: st.sampled_from(list(kind.knobs)) for e, kind in ENGINES.items()}
some = {e: st.lists(name, max_size=3, unique=True) for e, name in names.items()}
sixth, tenth, sizes = st.integers(0, 5), st.integers(0, 9), st.sampled_from([19, 20, 25, 200])


@st.composite
def whole(draw: Any) -> dict[str, Any]:
    """An experiment that fits, as JSON."""
    engine = draw(engines)
    knobs, accepted = ENGINES[engine].knobs, takes(engine)
    out: dict[str, Any] = {
        "version": 1, "engine": engine, "seed": draw(seeds),
        "knobs": {name: draw(inside(knobs[name])) for name in draw(some[engine])}, "beside": [],
    }  # fmt: skip
    if "moons" in accepted and draw(tenth) == 0:
        n = draw(sizes)
        out["dataset"] = "points"
        out["points"] = [[(i * 37 % 101) / 10, (i * 61 % 97) / 10] for i in range(n)]
    else:
        out["dataset"] = draw(st.sampled_from(accepted))
        options = DATASETS[out["dataset"]].knobs
        out["options"] = {name: draw(inside(entry)) for name, entry in options.items()}
    if draw(sixth) == 0:
        name = draw(names[engine])
        out["beside"] = [{name: draw(inside(knobs[name]))}]
    return out


def spots(value: Any, path: tuple = ()) -> list[tuple]:
    """The places within a JSON value, at most five of a list and six deep."""
    out = [path]
    if len(path) >= 6:
        return out
    if isinstance(value, dict):
        for key in value:
            out += spots(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(5, len(value))):
            out += spots(value[index], (*path, index))
    return out


fits, wrongs = whole(), st.integers(0, 3)
fields = st.sampled_from(
    ["source", "source_options", "extra", "points", "version", ""]
) | st.text(max_size=5)  # fmt: skip
doings, keys = st.sampled_from(["put", "put", "drop", "wrap", "again"]), st.text(max_size=5)


@st.composite
def half_right(draw: Any) -> Any:
    """An experiment that fits, with up to three things wrong with it."""
    out = copy.deepcopy(draw(fits))  # a payload is drawn as it stands in its declaration
    for _ in range(draw(wrongs)):
        path = draw(st.sampled_from(spots(out)))
        if not path:
            if isinstance(out, dict):
                out[draw(fields)] = draw(anything)
            continue
        holder = out
        for key in path[:-1]:
            holder = holder[key]
        what = draw(doings)
        if what == "put":
            holder[path[-1]] = draw(anything)
        elif what == "drop":
            del holder[path[-1]]
        elif what == "wrap":
            holder[path[-1]] = [holder[path[-1]]]
        elif isinstance(holder, dict):
            holder[draw(keys)] = holder[path[-1]]
        else:
            holder.extend(holder[:50])
    return out


SNIPPETS = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 20_000, '{"a":' * 20_000, "null",
            "true", '"', "\\", "\\ud800", "\0", "\ufeff", ",", "}", "]", '"engine":', "/*", "0x1"]  # fmt: skip


def cut(text: str, edits: list[tuple[float, str, str]]) -> str:
    """Edits at places between 0 and 1: insert, drop, repeat, end here."""
    for where, what, snippet in edits:
        at = int(where * len(text))
        if what == "insert":
            text = text[:at] + snippet + text[at:]
        elif what == "drop":
            text = text[:at] + text[at + 1 + len(snippet) % 7 :]
        elif what == "repeat":
            text = text[:at] + text[max(0, at - 20) :]
        else:
            text = text[:at]
    return text


edits = st.lists(
    st.tuples(
        st.floats(0, 1), st.sampled_from(["insert", "insert", "drop", "repeat", "end"]),
        st.sampled_from(SNIPPETS) | st.text(max_size=3),
    ),
    max_size=2,
)  # fmt: skip


def dumped(value: Any) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 50_000


texts = st.builds(cut, half_right().map(dumped), edits)


def hashed(content: bytes, level: int = 6) -> str:
    code = base64.urlsafe_b64encode(zlib.compress(content, level)).decode()
    return "#" + KEY + code.rstrip("=")


BOMBS = [b" " * 30_000_000, b"[" * 7_000_000, b"0" * 8_000_000, zlib.compress(b"\0" * 9_000_000),
         b'{"version":1,"points":[' + b"[1,2]," * 1_000_000]  # fmt: skip
BOMBS = [hashed(bomb, 9) for bomb in BOMBS]
addresses = (
    st.builds(lambda text: hashed(text.encode("utf-8", "surrogatepass")), texts)
    | st.builds(cut, whole().map(lambda v: "#" + to_hash(built(v)) if built(v) else "#e="), edits)
    | st.binary(max_size=300).map(hashed)
    | st.binary(max_size=300).map(lambda b: "#e=" + base64.b64encode(b).decode())
    | st.text(max_size=60).map(lambda t: "e=" + t)
    | st.sampled_from(BOMBS)
    | st.text(max_size=60)
)


def built(value: Any) -> Experiment | None:
    try:
        return Experiment.from_dict(value)
    except BadInput:
        return None
