"""Files that a visitor brings: what can be read is read right, and nothing else is a traceback."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from engines import DATASETS, BadInput, Experiment
from engines.data.upload import MAX_BYTES, MAX_ROWS, Table, read_picture, read_table

XY = [[1.5, -2.0], [0.25, 3e4], [-7.0, 0.125]]


def text(separator: str, header: str = "", comma: bool = False, end: str = "\n") -> str:
    rows = [separator.join(str(v).replace(".", "," if comma else ".") for v in row) for row in XY]
    return end.join([*([header] if header else []), *rows]) + end


GOOD = {
    "comma": text(",", "a,b"),
    "comma, bare": text(","),
    "comma and blank": text(", ", "a, b"),
    "tab": text("\t", "a\tb"),
    "semicolon": text(";", "a;b"),
    "decimal comma": text(";", "a;b", comma=True),
    "decimal comma, bare": text(";", comma=True),
    "blanks": text("   ", "a b"),
    "blanks, bare": text(" "),
    "Windows": text(",", "a,b", end="\r\n"),
    "old Mac": text(",", "a,b", end="\r"),
    "comments": "# by hand\n" + text(" "),
    "quotes": text(",", '"a","b"').replace("1.5", '"1.5"'),
    "blank lines": "\n\n" + text(",", "a,b") + "\n\n",
    "pairs": json.dumps(XY),
    "objects": json.dumps([{"a": x, "b": y} for x, y in XY]),
    "columns": json.dumps({"a": [x for x, _ in XY], "b": [y for _, y in XY]}),
    "points": json.dumps({"points": XY}),
    "numbers as text": json.dumps([{"a": str(x), "b": str(y)} for x, y in XY]),
}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize(
    "code", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"]
)
def test_every_kind_of_table_in_every_encoding(kind, code):
    table = read_table(GOOD[kind].encode(code), "data.txt")
    assert table.points().tolist() == XY
    assert len(table) == 3 and len(table.columns) == len(table.numeric) == 2
    if "a" in GOOD[kind]:
        assert table.columns == ["a", "b"] or kind in ("comments", "points")


def test_columns_are_found_or_chosen():
    raw = "name;größe;note;weight\nann;1,5;x;2\nbob;2,5;y;4\ncid;3,5;z;8\n".encode("latin-1")
    table = read_table(raw, "people.csv")
    assert table.columns == ["name", "größe", "note", "weight"]
    assert table.numeric == ["größe", "weight"]
    assert table.points().tolist() == [[1.5, 2], [2.5, 4], [3.5, 8]]
    assert table.points("weight", "größe").tolist() == [[2, 1.5], [4, 2.5], [8, 3.5]]
    assert table.points(y="größe").tolist() == [[2, 1.5], [4, 2.5], [8, 3.5]]
    for wrong in (("no", None), ("weight", "weight"), (None, 3)):
        with pytest.raises(BadInput):
            table.points(*wrong)
    with pytest.raises(BadInput, match="'ann' in column name is not a number"):
        table.points("name", "weight")


def test_a_column_without_a_name_gets_one():
    assert read_table(b"a,,a\n1,2,3\n4,5,6\n").columns == ["a", "column 2", "a (3)"]
    assert read_table(b"1,2\n3,4\n").columns == ["column 1", "column 2"]


def test_what_is_wrong_is_named_by_row_and_column():
    rows = [f"{i},{i * i}" for i in range(30)]
    rows[15] = "abc,3"
    table = read_table(("height,weight\n" + "\n".join(rows)).encode())
    with pytest.raises(BadInput) as refused:
        table.points()
    assert str(refused.value) == "Row 17: 'abc' in column height is not a number."
    rows[15] = "1,2,3"
    with pytest.raises(BadInput, match="Row 17 has 3 cells where 2 are expected"):
        read_table(("height,weight\n" + "\n".join(rows)).encode())
    entries = [{"a": 1.0, "b": 2.0}] * 9 + [{"a": True, "b": 1.0}]
    with pytest.raises(BadInput, match="Entry 10: True in column a is not a number"):
        read_table(json.dumps(entries).encode()).points()
    for text in ("inf", "1_000", "1e999", "٣x"):
        raw = "a,b\n1,2\n" + text + ",4\n5,6\n"
        with pytest.raises(BadInput, match=r"Row 3: .* in column a is not a number"):
            read_table(raw.encode()).points()


def test_a_few_gaps_are_left_out_and_many_are_refused():
    rows = [f"{i},{i % 7}" for i in range(100)]
    rows[10], rows[20], rows[30] = "NA,1", "3,", "4"
    table = read_table(("a,b\n" + "\n".join(rows)).encode())
    assert table.points().shape == (97, 2) and table.missing() == 3
    assert table.note() == "3 of 100 rows have a gap and were left out."
    for i in range(40, 44):
        rows[i] = "null,1"
    with pytest.raises(BadInput, match=r"7 of 100 rows have a gap \(the first is row 12\)"):
        read_table(("a,b\n" + "\n".join(rows)).encode()).points()
    assert read_table(b"1,2\n3,4\n").note() == ""


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"  \n ", b"a,b\n", b"1\n2\n3\n", b"hello", b"hello world", b"\0\1\2\3", b"\xff\xfe\0",
        b"PK\x03\x04rest", b"a,b\nx,y\nz,w\n", b"[", b"{}", b"[]", b"[1, 2]", b"[[1,2],[3]]",
        b"[[1,2],3]", b'{"a": [1], "b": [1, 2]}', b'{"a": 1}', b"[[]]", b"[{}]", b"[" * 100_000,
        b"null", b'"x"', b"[[1,2],[NaN,Infinity]]", b"[[" + b"9" * 100_000 + b", 1]]",
        b"1,2\n" * (MAX_ROWS + 1), b"," * 1000, b'a,b\n"' + b"x" * 200_000, b"x" * (MAX_BYTES + 1),
        b"\x89PNG\r\n\x1a\n" + bytes(50), "text", None, b'"a\r\nb",c\nx,1\n2,3\n',
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused_in_one_sentence(raw):
    with pytest.raises(BadInput) as refused:
        read_table(raw, "x.csv").points()
    said = str(refused.value)
    assert said.endswith(".") and "\n" not in said and len(said) < 300


def answers(raw: bytes, name: str = "") -> None:
    try:
        table = read_table(raw, name)
        assert isinstance(table, Table)
        xy = table.points()
        assert xy.shape[1] == 2 and np.isfinite(xy).all()
    except BadInput as error:
        assert "\n" not in str(error) and len(str(error)) < 400


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["", "x.csv", "x.json"]))
def test_any_bytes_at_all(raw, name):
    answers(raw, name)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from(["1", "2,5", "-3e4", "", "x", '"', "NA", "#", "é", "1;2"]), max_size=4
        ),
        max_size=8,
    ),
    st.sampled_from([",", ";", "\t", " "]),
)
# an unclosed quote makes a cell, and here the name of a column, of several lines
@example([['"', "1"], ['"', "1;2", "2,5"], ["1", "2,5"], ["1;2"]], ",")
def test_anything_like_a_table(rows, separator):
    answers("\n".join(separator.join(row) for row in rows).encode())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(values)
def test_any_json_at_all(value):
    answers(json.dumps(value).encode(), "x.json")


def test_a_full_table_is_an_experiment():
    xy = np.random.default_rng(0).normal(size=(MAX_ROWS, 2)).round(3)
    raw = "\n".join(f"{a},{b}" for a, b in xy.tolist()).encode()
    points = read_table(raw).points()
    assert np.array_equal(points, xy)
    assert len(Experiment.from_points(points, "mixture").points) == MAX_ROWS


# ---------------------------------------------------------------- pictures


def file(image: Image.Image, kind: str = "PNG", **more) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def weights(value: dict) -> np.ndarray:
    raw = np.frombuffer(base64.b64decode(value["data"]), np.uint8)
    return raw.reshape(value["size"])


def sketch(mode: str = "L", size: tuple[int, int] = (60, 40)) -> Image.Image:
    """White paper with one black box in the upper left quarter."""
    image = Image.new(mode, size, "white")
    image.paste("black", (5, 4, 25, 14))
    return image


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_dark_ink_is_mass(kind):
    more = {"lossless": True} if kind == "WEBP" else {}
    ink = weights(read_picture(file(sketch("RGB"), kind, **more)))
    want = np.zeros((40, 60), np.uint8)
    want[4:14, 5:25] = 255
    assert np.array_equal(ink, want)
    assert not np.array_equal(ink[::-1], want)  # upside down
    light = weights(read_picture(file(sketch("RGB"), kind, **more), invert=True))
    assert np.array_equal(light, 255 - want)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_of_pixels(mode):
    if mode in ("I;16", "I", "F"):
        deep = np.asarray(sketch(), dtype=np.float32) * 200
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(deep.astype(kind))
    else:
        image = sketch("RGB").convert(mode)
    raw = file(image, "TIFF" if mode in ("CMYK", "F", "I") else "PNG")
    ink = weights(read_picture(raw))
    assert ink[4:14, 5:25].min() > 200 and int(ink.astype(int).sum()) == int(ink[4:14, 5:25].sum())


def test_what_is_transparent_is_paper_either_way():
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))  # black, and unseen
    image.paste((90, 90, 90, 255), (2, 2, 8, 8))
    for invert in (False, True):
        ink = weights(read_picture(file(image), invert))
        assert ink[2:8, 2:8].min() > 0 and ink.astype(int).sum() == ink[2:8, 2:8].sum()


def test_a_photograph_is_turned_as_its_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    ink = weights(read_picture(file(sketch("RGB"), "JPEG", exif=exif, quality=95)))
    assert ink.shape == (60, 40)
    assert ink[8:22, 28:34].min() > 200 and ink[40:, :].max() == 0


def test_large_pictures_are_averaged_down_and_mass_stays_in_place():
    ink = weights(read_picture(file(sketch(size=(960, 480)))))
    assert ink.shape == (48, 96)
    assert ink[0, 1] == 153, "six tenths of its ten rows are ink"
    assert ink[5:, :].max() == 0
    tall = weights(read_picture(file(Image.linear_gradient("L").resize((10, 2000)))))
    assert tall.shape == (96, 1)
    found = DATASETS["picture"](pixels=read_picture(file(sketch())))
    x = found.sample(500, __import__("torch").Generator().manual_seed(0))
    assert (x[:, 0] < 0).all() and (x[:, 1] > 0).all(), "upper left"


def png_bomb(side: int) -> bytes:
    """A PNG that claims side × side pixels of one bit."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    head = side.to_bytes(4, "big") * 2 + b"\x01\0\0\0\0"
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"hello", b"\x89PNG\r\n\x1a\n", file(sketch())[:80], file(sketch(), "GIF")[:50],
        png_bomb(8_000), png_bomb(100_000), png_bomb(100), file(Image.new("L", (9, 9), 128)),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", bytes(20_000_001), None, "text",
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused_in_one_sentence(raw):
    with pytest.raises(BadInput) as refused:
        read_picture(raw)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_in_a_picture(data):
    raw = bytearray(file(sketch(), data.draw(st.sampled_from(["PNG", "GIF", "BMP", "TIFF"]))))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadInput):
        assert set(read_picture(bytes(raw))) == {"size", "data"}
