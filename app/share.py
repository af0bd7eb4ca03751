"""The address of an experiment: `#e=` and its JSON, compressed and made safe for a URL."""

from __future__ import annotations

import base64
import binascii
import json
import zlib

from engines import Experiment
from engines.experiment import MAX_JSON
from engines.knobs import BadInput

KEY = "e="
MAX_HASH = 200_000  # characters: what a browser and a chat program still carry


def to_hash(experiment: Experiment) -> str:
    """`e=…` for the part of an address behind the `#`."""
    text = json.dumps(experiment.to_dict(), separators=(",", ":")).encode()
    return KEY + base64.urlsafe_b64encode(zlib.compress(text, 9)).decode().rstrip("=")


def from_hash(text: str) -> Experiment | None:
    """The experiment of an address, or None for an address without one.

    Raises BadInput, one sentence, when there is one but it cannot be opened.
    """
    text = (text or "").lstrip("#")
    if not text.startswith(KEY):
        return None
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
    return Experiment.from_json(decoded)


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
    else:
        points = ", ".join(f"({x:.9g}, {y:.9g})" for x, y in given["points"])
        lines += [f"points = [{points}]", ""]
        head = f"run = Experiment.from_points(points, {experiment.engine!r}, "
    body = (",\n" + " " * 4).join(rest)
    lines += [
        f"{head}{body}).start()",
        "run.train(steps=1_000)      # or seconds=10.0",
        "x = run.sample(10_000)      # in the data's own units",
        'print({m["name"]: m["value"] for m in map(vars, run.frame().metrics)})',
    ]
    return "\n".join(lines)
