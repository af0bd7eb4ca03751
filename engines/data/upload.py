"""Files that a visitor brings: tables of points, and pictures.

Whatever the bytes are, the answer is a value or BadInput with one sentence that says what
is wrong and where. Nothing in a file is ever run, and nothing is unpickled.
"""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engines.data.own import MOST_PIXELS, pixels
from engines.knobs import BadInput, printable, shown

MAX_BYTES = 5_000_000
MAX_ROWS, MAX_COLUMNS = 100_000, 200
FEW = 0.05  # of the rows may lack a number and are left out
MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "-", "?", "#n/a"))
MAX_PICTURE_BYTES, MAX_PICTURE_AREA = 20_000_000, 30_000_000
# raster formats alone: some others run programs, or take a screen's worth of memory a byte
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "TGA", "AVIF")


# ---------------------------------------------------------------- tables


@dataclass
class Column:
    """values (N,) float64, NaN where there is no number; wrong: row → what stands there."""

    name: str
    values: np.ndarray
    wrong: dict[int, Any] = field(default_factory=dict)

    @property
    def numeric(self) -> bool:
        """Whether at least half of what stands in it are numbers; a few may still be wrong."""
        found = int(np.isfinite(self.values).sum())
        return found > 0 and found >= len(self.wrong)


@dataclass
class Table:
    """What was read. Rows are counted as in the file, so that its header is row 1 of a CSV.

    Attributes:
        columns: names of all columns. numeric: of those that can be chosen.
    """

    cells: dict[str, Column]
    rows: Sequence[int]  # the number of each in the file
    unit: str = "Row"

    @property
    def columns(self) -> list[str]:
        return list(self.cells)

    @property
    def numeric(self) -> list[str]:
        return [name for name, column in self.cells.items() if column.numeric]

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, x: str | None = None, y: str | None = None) -> tuple[str, str]:
        """Names of the two columns: those asked for, else the first two numeric ones."""
        for name in (x, y):
            if name is not None and (not isinstance(name, str) or name not in self.cells):
                raise BadInput(f"There is no column {shown(name)} in this table.")
        free = [name for name in self.numeric if name not in (x, y)]
        picked = [name if name is not None else free.pop(0) if free else None for name in (x, y)]
        if None in picked:
            known = ", ".join(self.numeric) or "none"
            raise BadInput(f"Two columns of numbers are needed; found: {shown(known, 80)}.")
        if picked[0] == picked[1]:
            raise BadInput(f"Two different columns are needed; got {shown(picked[0])} twice.")
        return picked[0], picked[1]

    def missing(self, x: str | None = None, y: str | None = None) -> int:
        """How many rows lack one of the two numbers; `points` leaves them out."""
        a, b = (self.cells[name].values for name in self.chosen(x, y))
        return int((np.isnan(a) | np.isnan(b)).sum())

    def note(self, x: str | None = None, y: str | None = None) -> str:
        """A sentence about the rows that were left out, or nothing."""
        lost = self.missing(x, y)
        have = "has" if lost == 1 else "have"
        return f"{lost:,} of {len(self):,} rows {have} a gap and were left out." if lost else ""

    def points(self, x: str | None = None, y: str | None = None) -> np.ndarray:
        """(N, 2) float64 of two columns, in their own units.

        Raises BadInput, naming row and column, where something else than a number stands,
        and when more than 5 % of the rows have gaps.
        """
        names = self.chosen(x, y)
        wrong = [(row, name) for name in names for row in self.cells[name].wrong]
        if wrong:
            row, name = min(wrong, key=lambda found: found[0])
            what = shown(self.cells[name].wrong[row])
            raise BadInput(
                f"{self.unit} {row:,}: {what} in column {printable(name)} is not a number."
            )
        xy = np.stack([self.cells[name].values for name in names], 1)
        lost = self.missing(*names)
        if lost > FEW * len(self):
            row = self.rows[int(np.isnan(xy).any(1).argmax())]
            raise BadInput(
                f"{lost:,} of {len(self):,} rows have a gap (the first is {self.unit.lower()} {row:,}): too many "
                "to leave out."
            )
        return xy[~np.isnan(xy).any(1)]


def read_table(raw: bytes, name: str = "") -> Table:
    """Read CSV, TSV, text with semicolons or blanks between, or JSON.

    With or without a header; UTF-8, UTF-16 or Latin-1; decimal commas where semicolons
    separate. JSON may be a list of pairs, a list of objects, or an object of columns. At most
    100,000 rows and 5 MB. Raises BadInput, one sentence, on everything else.
    """
    if not isinstance(raw, (bytes, bytearray)):
        raise BadInput("A table is read from the bytes of a file.")
    if len(raw) > MAX_BYTES:
        raise BadInput(f"This file has {len(raw) / 1e6:.1f} MB; at most 5 MB can be read.")
    text = _decoded(bytes(raw))
    if not text.strip():
        raise BadInput("This file is empty.")
    is_json = str(name).lower().endswith(".json") or text.lstrip()[0] in "[{"
    return _from_json(text) if is_json else _from_text(text)


def _decoded(raw: bytes) -> str:
    if raw[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise BadInput("This is a spreadsheet or an archive: save it as CSV first.")
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    kinds = [kind for mark, kind in marks.items() if raw.startswith(mark)] or ["utf-8", "latin-1"]
    if b"\0" in raw and kinds[0] == "utf-8":  # UTF-16 without its mark, or no text at all
        kinds = ["utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"]
    for kind in kinds:
        try:
            text = raw.decode(kind)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise BadInput("This is not a text file.")


def _number(cell: str, comma: bool) -> float | None:
    """The number that a cell holds: NaN when it is empty, None when it is something else."""
    cell = cell.strip()
    if cell.lower() in MISSING:
        return math.nan
    if comma and "." not in cell:
        cell = cell.replace(",", ".", 1)
    try:
        value = float(cell) if "_" not in cell else math.inf
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _records(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """(row, cells) of the lines that hold anything; a # begins a comment."""
    if separator == " ":
        split = ((i, line.split()) for i, line in enumerate(text.splitlines(), 1))
        return [(i, row) for i, row in split if row and not row[0].startswith("#")]
    reader, out = csv.reader(io.StringIO(text, newline=""), delimiter=separator), []
    try:
        for row in reader:
            if any(cell.strip() for cell in row) and not row[0].lstrip().startswith("#"):
                out.append((reader.line_num, row))
            if len(out) > MAX_ROWS + 1:
                break
    except csv.Error as error:
        raise BadInput(f"Row {reader.line_num:,} cannot be read as a table's row.") from error
    return out


def _separator(text: str) -> str:
    """What stands between the cells: the first of these that divides the lines alike."""
    head = "\n".join(text.splitlines()[:40])
    best, most = "", 0.0
    for separator in ("\t", ";", ",", " "):
        try:
            widths = Counter(len(row) for _, row in _records(head, separator))
        except BadInput:
            continue
        width, count = widths.most_common(1)[0] if widths else (0, 0)
        alike = count / max(widths.total(), 1)
        if width >= 2 and alike > most + 0.2:
            best, most = separator, alike
    if not best:
        raise BadInput("No columns were found: cells are divided by commas, semicolons or tabs.")
    return best


def _from_text(text: str) -> Table:
    separator = _separator(text)
    records = _records(text, separator)
    comma = separator == ";"
    first = [cell.strip() for cell in records[0][1]]
    found = [_number(cell, comma) for cell in first]
    # a header holds no number at all
    header = any(first) and not any(v is not None and math.isfinite(v) for v in found)
    body = records[1:] if header else records
    width = len(first) if header else Counter(len(r) for _, r in body).most_common(1)[0][0]
    _check_size(len(body), width)
    for row, cells in body:
        if any(cell.strip() for cell in cells[width:]):
            raise BadInput(f"Row {row:,} has {len(cells)} cells where {width} are expected.")
    names = first if header else [""] * width
    rows = [row for row, _ in body]
    columns = []
    for i, name in enumerate(names):
        cells = [cells[i] if i < len(cells) else "" for _, cells in body]
        columns.append(_column(name, cells, rows, comma))
    return _table(columns, rows, "Row")


def _check_size(rows: int, columns: int) -> None:
    if rows == 0:
        raise BadInput("This table has no rows.")
    if rows > MAX_ROWS:
        raise BadInput(f"This table has more than {MAX_ROWS:,} rows.")
    if columns > MAX_COLUMNS:
        raise BadInput(f"This table has {columns:,} columns; at most {MAX_COLUMNS} can be read.")


def _column(name: str, cells: Sequence[Any], rows: Sequence[int], comma: bool) -> Column:
    values, wrong = np.full(len(cells), math.nan), {}
    for i, cell in enumerate(cells):
        if isinstance(cell, str):
            value = _number(cell, comma)
        elif cell is None:
            value = math.nan
        elif isinstance(cell, (int, float)) and not isinstance(cell, bool):
            value = float(cell) if abs(cell) < 1e300 else None
        else:
            value = None
        if value is None:
            wrong[rows[i]] = cell.strip() if isinstance(cell, str) else cell
        else:
            values[i] = value
    return Column(name, values, wrong)


def _table(columns: list[Column], rows: Sequence[int], unit: str) -> Table:
    """A table whose columns have names of their own."""
    cells: dict[str, Column] = {}
    for i, column in enumerate(columns, 1):
        name = column.name[:80] or f"column {i}"
        while name in cells:
            name = f"{name[:70]} ({i})"
        cells[name] = column
    return Table(cells, rows, unit)


def _from_json(text: str) -> Table:
    try:
        # integers of thousands of digits take long to read: they are no data
        given = json.loads(text, parse_int=lambda s: int(s) if len(s) < 300 else math.inf)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno:,})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadInput(f"This is not valid JSON{where}.") from error
    if isinstance(given, dict) and len(given) == 1:  # {"points": [[x, y], …]}
        (only,) = given.values()
        if isinstance(only, list) and only and isinstance(only[0], (list, dict)):
            given = only
    if isinstance(given, dict) and given and all(isinstance(v, list) for v in given.values()):
        names, lists = list(given), list(given.values())
        if len({len(v) for v in lists}) > 1:
            raise BadInput("The columns of this JSON object differ in length.")
        _check_size(len(lists[0]), len(names))
    elif isinstance(given, list) and given:
        names, lists = _json_rows(given)
    else:
        raise BadInput("JSON must be a list of pairs, a list of objects, or an object of columns.")
    rows = range(1, len(lists[0]) + 1)
    columns = [_column(n, cells, rows, False) for n, cells in zip(names, lists)]
    return _table(columns, rows, "Entry")


def _json_rows(given: list) -> tuple[list[str], list[list[Any]]]:
    """Names and columns of a list of rows."""
    kind = type(given[0])
    if kind not in (list, dict):
        raise BadInput(f"Entry 1: {shown(given[0])} is neither a pair nor an object.")
    width = len(given[0])
    _check_size(len(given), width)
    for i, row in enumerate(given, 1):
        if type(row) is not kind or (kind is list and len(row) != width):
            like = f"a list of {width}" if kind is list else "an object"
            raise BadInput(f"Entry {i:,}: {shown(row)} is not {like}, as the first one is.")
    if kind is list:
        names = ["x", "y"] if width == 2 else [""] * width
        return names, [list(column) for column in zip(*given)] or [[None] * len(given)]
    names = list(dict.fromkeys(key for row in given for key in row)) or [""]
    _check_size(len(given), len(names))
    return names, [[row.get(name) for row in given] for name in names]


# ---------------------------------------------------------------- pictures


def read_picture(raw: bytes, invert: bool = False) -> dict[str, Any]:
    """The value of Picture's option `pixels` from the bytes of an image file.

    Dark ink is mass, by its distance from the lightest grey; with `invert` light is. What is
    transparent is paper. The picture is turned as its EXIF says and averaged down to at most
    96 pixels a side. Raises BadInput, one sentence, for what cannot be read.
    """
    if not isinstance(raw, (bytes, bytearray)):
        raise BadInput("A picture is read from the bytes of a file.")
    if len(raw) > MAX_PICTURE_BYTES:
        raise BadInput(f"This picture has {len(raw) / 1e6:.0f} MB; at most 20 MB can be read.")
    # imported here: a server without uploads need not wait for it
    from PIL import Image, ImageOps

    Image.init()
    formats = [kind for kind in FORMATS if kind in Image.OPEN]  # as far as it was built with them
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own size is checked below
            image = Image.open(io.BytesIO(raw), formats=formats)
            width, height = image.size
            if width * height > MAX_PICTURE_AREA:
                raise BadInput(
                    f"This picture has {width:,} × {height:,} pixels; at most 30 million can be read."
                )
            image.draft("RGB", (4 * MOST_PIXELS, 4 * MOST_PIXELS))  # JPEG: skip what is not seen
            image = ImageOps.exif_transpose(image)
            grey = _grey(image, 0 if invert else 255)
    except BadInput:
        raise
    except Exception as error:  # a decoder may stumble over hostile bytes in any way
        raise BadInput("This is not a picture that can be read.") from error
    shrink = MOST_PIXELS / max(grey.size)
    if shrink < 1:
        size = [max(1, round(n * shrink)) for n in grey.size]
        grey = grey.resize(size, Image.Resampling.BOX)
    light = np.asarray(grey, dtype=np.int16)
    ink = light - light.min() if invert else light.max() - light
    ink[ink < 6] = 0  # what compression leaves on white paper would outweigh a thin line
    if not ink.any():
        raise BadInput("This picture is of one even colour: there is no ink to learn.")
    return pixels(ink.astype(np.uint8))


def _grey(image: Any, paper: int) -> Any:
    """8-bit grey, what is transparent in the colour of the paper."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # 16 bits and more: from its darkest to its lightest
        deep = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        span = max(float(np.ptp(deep)), 1e-12)
        return Image.fromarray(((deep - deep.min()) * (255 / span)).astype(np.uint8))
    colours = image.convert("RGBA")
    sheet = Image.new("RGBA", colours.size, (paper, paper, paper, 255))
    return Image.alpha_composite(sheet, colours).convert("L")
