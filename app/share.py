"""The address of an experiment: `#e=` and its JSON, compressed and made safe for a URL.

Points stand in it as bytes: as whole numbers where they lie on a grid (`snap` puts drawn
ones there), else as their float32. Either way the very same points come out. A link carries
2,000 of them; of more it carries a sample, and how many there were.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any

import numpy as np

from engines import Experiment
from engines.data.own import GRID
from engines.experiment import MAX_JSON
from engines.knobs import BadInput

KEY = "e="
MAX_LINK_POINTS = 2_000
MAX_HASH = 200_000  # characters: what a browser and a chat program still carry


def to_hash(experiment: Experiment) -> str:
    """`e=…` for the part of an address behind the `#`."""
    given = experiment.to_dict(points=False)
    if experiment.points is not None:
        given["points"] = _packed(experiment.points)
    text = json.dumps(given, separators=(",", ":")).encode()
    return KEY + base64.urlsafe_b64encode(zlib.compress(text, 9)).decode().rstrip("=")


def sample_of(points: np.ndarray) -> np.ndarray:
    """The points that a link carries: all, or always the same 2,000 of them, in their order."""
    if len(points) <= MAX_LINK_POINTS:
        return points
    return points[np.sort(np.random.default_rng(0).permutation(len(points))[:MAX_LINK_POINTS])]


def _packed(points: np.ndarray) -> dict[str, Any]:
    """{"grid" or "float": base64, "of": how many there were, "low": the least grid numbers}.

    The bytes go lowest first through all points, then the next: like ones lie together and
    compress well.
    """
    some = sample_of(points)
    out: dict[str, Any] = {} if len(some) == len(points) else {"of": len(points)}
    whole = some.astype(np.float64) * GRID
    low = whole.min(0)
    if (whole == whole.round()).all() and (np.ptp(whole, axis=0) < 2**16).all():
        out["low"] = [int(v) for v in low]
        kind, raw = "grid", (whole - low).astype("<u2").T
    else:
        kind, raw = "float", some.astype("<f4").T
    planes = np.ascontiguousarray(raw).view(np.uint8).reshape(-1, raw.itemsize).T
    return {**out, kind: base64.b64encode(np.ascontiguousarray(planes).tobytes()).decode()}


def _unpacked(given: dict[str, Any]) -> np.ndarray:
    """(N, 2) points from what `_packed` made. Raises BadInput on anything else."""
    kind = "grid" if "grid" in given else "float"
    size = {"grid": 2, "float": 4}[kind]
    try:
        planes = np.frombuffer(base64.b64decode(given[kind], validate=True), np.uint8)
        columns = np.ascontiguousarray(planes.reshape(size, -1).T).view({2: "<u2", 4: "<f4"}[size])
        xy = columns.reshape(2, -1).T.astype(np.float64)
        if kind == "grid":
            low = np.array([int(v) for v in given["low"]], dtype=np.float64)
            xy = (xy + low.reshape(1, 2)) / GRID
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInput("The points in this address are damaged.") from error
    return xy


def from_hash(text: str) -> Experiment | None:
    """The experiment of an address, or None for an address without one.

    Raises BadInput, one sentence, when there is one but it cannot be opened.
    """
    return read_hash(text)[0]


def read_hash(text: str) -> tuple[Experiment | None, str]:
    """What `from_hash` returns, and a sentence to show with it, if there is one to say."""
    text = (text or "").lstrip("#")
    if not text.startswith(KEY):
        return None, ""
    if len(text) > MAX_HASH:
        raise BadInput("This address is too long to hold an experiment.")
    code = text[len(KEY) :]
    try:
        packed = base64.b64decode(code + "=" * (-len(code) % 4), altchars=b"-_", validate=True)
        unzip = zlib.decompressobj()
        # bounded: a few kB can unpack to gigabytes
        plain = unzip.decompress(packed, MAX_JSON)
        if unzip.unconsumed_tail:
            raise BadInput("The experiment in this address is too large.")
        if not unzip.eof:
            raise BadInput("This address is cut off: its experiment is incomplete.")
        decoded = plain.decode()
    except (ValueError, binascii.Error, zlib.error) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput("This address does not hold an experiment.") from error
    # a browser's link is read as strictly as any JSON; only its points are written otherwise
    given, note = Experiment.parse(decoded), ""
    if isinstance(given, dict) and isinstance(given.get("points"), dict):
        packed_points = given["points"]
        given["points"] = _unpacked(packed_points)
        of, n = packed_points.get("of"), len(given["points"])
        if isinstance(of, int) and not isinstance(of, bool) and n < of < 10**9:
            note = f"{n:,} of {of:,} points: a link cannot carry all."
    return Experiment.from_dict(given), note


AFTER = (
    "run.train(steps=1_000)      # or seconds=10.0",
    "x = run.sample(10_000)      # in the data's own units",
    'print({m["name"]: m["value"] for m in map(vars, run.frame().metrics)})',
)


def file_name(experiment: Experiment) -> str:
    """What a saved experiment is called."""
    return f"{experiment.engine}-{experiment.dataset}.json"


def to_python(experiment: Experiment) -> str:
    """The few lines that run the same experiment from a notebook."""
    given = experiment.to_dict()
    lines = ["from engines import Experiment", ""]
    rest = [f"seed={experiment.seed}", f"knobs={given['knobs']!r}"]
    if given["beside"]:
        rest.append(f"beside={given['beside']!r}")
    if given.get("source"):
        rest.append(f"source={given['source']!r}, source_options={given['source_options']!r}")
    if experiment.points is None:
        if given["options"]:
            rest.insert(1, f"options={given['options']!r}")
        head = f"run = Experiment({experiment.dataset!r}, {experiment.engine!r}, "
    elif len(experiment.points) > MAX_LINK_POINTS:
        name = file_name(experiment)
        return "\n".join([
            *lines,
            f"# {len(experiment.points):,} points are too many to print: save the experiment first",
            f'run = Experiment.from_json(open("{name}").read()).start()',
            *AFTER,
        ])  # fmt: skip
    else:
        points = ", ".join(f"({x:.9g}, {y:.9g})" for x, y in given["points"])
        lines += [f"points = [{points}]", ""]
        head = f"run = Experiment.from_points(points, {experiment.engine!r}, "
    body = (",\n" + " " * 4).join(rest)
    return "\n".join([*lines, f"{head}{body}).start()", *AFTER])
