"""Frames packed into one string, which assets/live/ unpacks and paints.

`pack` is a pure function of a Frame and of what the browser already holds. The string is
base64 of

    uint32 header length · header (JSON, padded with spaces to 4 bytes) · blocks

Arrays, and JSON that seldom changes, are *blocks*: each is named by the hash of its
content, is sent once, and costs only its name as long as the browser remembers it. So a
panel that did not change between two frames is 60 bytes. assets/live/blocks.js reads them.

Arrays are quantised to what a screen can show (engines/quantise.py):

    Heat      uint8, 0 is "nothing" (NaN). Sequential: 1 + 254·t^γ with t = (v−lo)/(hi−lo) cut
              to [0, 1]; the error in t^γ is at most 1/508, so for γ = ½ the value is off by at
              most 0.4 % of hi − lo. Diverging: 128 + 127·v/hi; the error is at most hi/254.
              With keyframes lo and hi are common to all, or hi is a list, one for each.
    xy …      int16, an offset and a scale for each coordinate; off by at most half of `scale`,
              1/131068 of the range. −32768 stands for a point that is not finite.
    Surface   int16 likewise.
    Images    uint8, 0 is "not there yet" (NaN), else 1 + 254·v; off by at most 1/508.
    alpha     uint8 of [0, 1]; off by at most 1/510.
    group     uint8; negative means no group (255).
    the rest  float32. Curves are thinned to at most 500 points.

A keyframe costs H·W bytes of a Heat (64×64: 4 kB, 100×100: 10 kB), 4 of each point, arrow or
vertex (and 4 more of an arrow whose foot moves); base64 makes that a third more. Eight keyframes
of a 64×64 field are 44 kB: mark it static where it never changes, else give its panel a low `hz`.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import math
import struct
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engines.marks import Box, Curve, Frame, Mark, Metric, Panel
from engines.quantise import SENTINEL, Codes, coded

VERSION = 1
CURVE_POINTS = 500


class Known:
    """Names of the blocks that a browser holds: the `limit` last used ones.

    assets/live/blocks.js keeps twice as many in the same order, so what is known here is held there.
    """

    def __init__(self, limit: int = 256) -> None:
        self.limit = limit
        self._names: OrderedDict[str, None] = OrderedDict()
        self._forget = False

    def touch(self, name: str) -> bool:
        """Mark a block as used; returns whether the browser holds it already."""
        held = name in self._names
        self._names[name] = None
        self._names.move_to_end(name)
        while len(self._names) > self.limit:
            self._names.popitem(last=False)
        return held

    def clear(self) -> None:
        """Forget everything before the next frame: the browser has missed one.

        Only a flag, since this is called from another thread than `pack`.
        """
        self._forget = True

    def begin(self) -> None:
        if self._forget:
            self._forget = False
            self._names.clear()


class MissingBlock(KeyError):
    """A frame names a block that was never received."""


# ---------------------------------------------------------------- packing


def pack(
    frame: Frame, known: Known | None = None, *, seq: int = 0, extra: Mapping[str, Any] = {}
) -> str:
    """One frame as one base64 string.

    Args:
        frame: what to show.
        known: what the browser holds; it is brought up to date. None sends everything.
        seq: the frame's number, which the browser acknowledges once it has painted it.
        extra: plain values for the page: `playing`, `run`, and `about`, the dict of title,
            tagline, objective, look_for and paper, which is sent only when it changes.
    """
    known = known if known is not None else Known()
    known.begin()
    blocks = _Blocks(known)
    extra = dict(extra)
    about = {**frame.about, **(extra.pop("about", None) or {})}
    header = {
        "version": VERSION,
        "seq": int(seq),
        "step": int(frame.step),
        "seconds": round(float(frame.seconds), 3),
        "rate": _number(round(float(frame.rate), 3)),
        "note": str(frame.note),
        "t": round(time.time() * 1000),
        "about": blocks.json(about),
        "metrics": _metrics(frame.metrics, blocks),
        "panels": [_panel(panel.drawn(), blocks) for panel in frame.panels],
        "late": {str(i): step for i, step in frame.late.items()},
        "extra": _plain(extra),
    }
    header["blocks"] = blocks.table
    text = _dump(header)
    text += b" " * (-len(text) % 4)
    return base64.b64encode(struct.pack("<I", len(text)) + text + b"".join(blocks.data)).decode()


class _Blocks:
    """Collects the blocks of one frame; those that the browser holds are only named."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.data: list[bytes] = []
        self.table: list[tuple[str, int, int]] = []
        self.size = 0
        self.log: list[tuple[str, bytes]] = []

    def put(self, content: bytes) -> str:
        name = hashlib.blake2b(content, digest_size=8).hexdigest()
        self.use(name, content)
        return name

    def use(self, name: str, content: bytes) -> None:
        self.log.append((name, content))
        if not self.known.touch(name):
            padded = content + b"\0" * (-len(content) % 4)
            self.table.append((name, self.size, len(content)))
            self.data.append(padded)
            self.size += len(padded)

    def array(self, codes: np.ndarray, **how: Any) -> dict[str, Any]:
        """A reference to an array; `how` says what its codes mean."""
        # little-endian on the wire, whatever the machine
        codes = np.ascontiguousarray(codes)
        content = codes.astype(codes.dtype.newbyteorder("<"), copy=False).tobytes()
        shape = list(codes.shape)
        return {"hash": self.put(content), "dtype": codes.dtype.name, "shape": shape, **how}

    def json(self, value: Any) -> dict[str, Any]:
        return {"hash": self.put(_dump(_plain(value))), "dtype": "json"}


def _panel(panel: Panel, blocks: _Blocks) -> dict[str, Any]:
    """A reference to {what, marks}: what seldom changes is a block within the block.

    Most panels of a frame are those of the frame before, the same objects: what they were
    packed into is kept with them.
    """
    if kept := vars(panel).get("_packed"):
        reference, used = kept
        for name, content in used:
            blocks.use(name, content)
        return reference
    begin = len(blocks.log)
    what = {
        f.name: getattr(panel, f.name)
        for f in dataclasses.fields(panel)
        if f.name not in ("marks", "hz", "first", "basis", "renew")
    }
    marks = [_mark(mark, panel.box, blocks) for mark in panel.marks]
    reference = blocks.json({"what": blocks.json(what), "marks": marks})
    vars(panel)["_packed"] = (reference, blocks.log[begin:])
    return reference


def _mark(mark: Mark | Curve, box: Box | None, blocks: _Blocks) -> dict[str, Any]:
    """Any mark, field by field: its type's name, plain values, and references to arrays."""
    out: dict[str, Any] = {"type": type(mark).__name__}
    keep = _thinned(len(mark.x)) if isinstance(mark, Curve) else slice(None)
    for field in dataclasses.fields(mark):
        value = getattr(mark, field.name)
        if isinstance(value, (np.ndarray, Codes)) or field.name in _ARRAYS:
            if value is not None and not isinstance(value, Codes):
                value = coded(mark, field.name, np.asarray(value)[keep], box)
            if value is not None:
                value = blocks.array(value.codes, **value.how)
        elif isinstance(value, Sequence) and value and isinstance(value[0], Curve):
            value = [_mark(line, box, blocks) for line in value]
        out[field.name] = value
    return out


_ARRAYS = {"xy", "vectors", "pixels", "keys", "mean", "cov", "x", "y"}


def _thinned(n: int, limit: int = CURVE_POINTS) -> np.ndarray | slice:
    """Which of n points of a curve to keep: evenly spread, the first and the last included."""
    return slice(None) if n <= limit else np.rint(np.linspace(0, n - 1, limit)).astype(int)


_CHANGING = ("value", "se", "floor", "step", "note", "rival")
_LASTING = tuple(f.name for f in dataclasses.fields(Metric) if f.name not in _CHANGING)


def _metrics(metrics: Sequence[Metric], blocks: _Blocks) -> dict[str, Any]:
    """Names and help go in a block, since only the numbers change from frame to frame."""
    what = _named(tuple(tuple(getattr(m, k) for k in _LASTING) for m in metrics))
    now = [[_plain(getattr(m, k)) for k in _CHANGING] for m in metrics]
    what = {"hash": blocks.put(what), "dtype": "json"}
    return {"what": what, "fields": list(_CHANGING), "now": now}


@functools.lru_cache(maxsize=64)
def _named(metrics: tuple[tuple[Any, ...], ...]) -> bytes:
    """What lasts of some metrics, as JSON: the same from frame to frame."""
    return _dump(_plain([dict(zip(_LASTING, each, strict=True)) for each in metrics]))


def _number(x: float) -> float | str | None:
    """JSON has no infinity and no NaN: they travel as "Infinity", "-Infinity" and null."""
    if math.isnan(x):
        return None
    if math.isinf(x):
        return "Infinity" if x > 0 else "-Infinity"
    return x


def _plain(value: Any) -> Any:
    """Plain JSON of dicts, lists, numbers, texts; anything else becomes its text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        value = value.item()
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return _number(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (Sequence, np.ndarray, set, frozenset)):
        return [_plain(v) for v in value]
    return str(value)


def _dump(value: Any) -> bytes:
    # ASCII, so that even half a surrogate pair from a visitor's text survives
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


# ---------------------------------------------------------------- unpacking


def unpack(text: str, blocks: dict[str, bytes] | None = None) -> dict[str, Any]:
    """What the browser reads out of one packed frame, for tests and for other readers.

    blocks: what was received before; it is brought up to date. Arrays come back as numpy
    arrays in their own units, metrics as dicts with all fields of Metric.
    Raises MissingBlock for a block that was neither sent now nor before.
    """
    blocks = blocks if blocks is not None else {}
    raw = base64.b64decode(text, validate=True)
    (size,) = struct.unpack_from("<I", raw)
    header = json.loads(raw[4 : 4 + size])
    for name, offset, length in header.pop("blocks"):
        blocks[name] = raw[4 + size + offset : 4 + size + offset + length]
    header["about"] = _resolved(header["about"], blocks)
    header["panels"] = [_resolved(panel, blocks) for panel in header["panels"]]
    header["panels"] = [{**p["what"], "marks": p["marks"]} for p in header["panels"]]
    metrics = header["metrics"]
    header["metrics"] = [
        {**what, **dict(zip(metrics["fields"], map(_from_plain, now), strict=True))}
        for what, now in zip(_resolved(metrics["what"], blocks), metrics["now"], strict=True)
    ]
    return header


def _from_plain(x: Any) -> Any:
    return {"Infinity": math.inf, "-Infinity": -math.inf}.get(x, x)


def _resolved(value: Any, blocks: Mapping[str, bytes]) -> Any:
    """`value` with every reference replaced by what it names."""
    if isinstance(value, list):
        return [_resolved(v, blocks) for v in value]
    if not isinstance(value, dict):
        return value
    if "hash" not in value or "dtype" not in value:
        return {k: _resolved(v, blocks) for k, v in value.items()}
    if value["hash"] not in blocks:
        raise MissingBlock(value["hash"])
    content = blocks[value["hash"]]
    if value["dtype"] == "json":
        return _resolved(json.loads(content), blocks)
    dtype = np.dtype(value["dtype"]).newbyteorder("<")
    return _decoded(np.frombuffer(content, dtype).reshape(value["shape"]), value)


def _over(hi: float | Sequence[float]) -> np.ndarray:
    """One number for all of (…, H, W), or one for each of (T, H, W)."""
    hi = np.asarray(hi, dtype=np.float64)
    return hi.reshape(-1, 1, 1) if hi.size > 1 else hi.reshape(())


def _decoded(codes: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
    """Codes back in their own units: the inverse of what packing did."""
    code = how["code"]
    if code == "plain":
        return codes.astype(np.float32)
    if code == "group":
        return np.where(codes == 255, -1, codes.astype(int))
    if code == "unit":
        return codes / 255
    if code == "pixels":
        return np.where(codes == 0, np.nan, (codes.astype(float) - 1) / 254)
    if code == "fine":
        v = codes * np.array(how["scale"]) + np.array(how["offset"])
        return np.where(codes == SENTINEL, np.nan, v)
    if code == "diverging":
        v = (codes.astype(float) - 128) / 127 * _over(how["hi"])
    else:
        t = np.maximum(codes.astype(float) - 1, 0) / 254
        v = how["lo"] + (_over(how["hi"]) - how["lo"]) * t ** (1 / how["gamma"])
    return np.where(codes == 0, np.nan, v)
