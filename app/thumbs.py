"""Thumbnails of the datasets: drawn from their own samples, as masks for one CSS colour."""

from __future__ import annotations

import urllib.parse

import torch

from engines import DATASETS
from engines.data import Dataset

POINTS = 260


def svg(dataset: Dataset) -> str:
    """A square picture of a dataset, black on nothing."""
    rng = torch.Generator().manual_seed(5)
    if dataset.kind == "images":
        height, width = dataset.shape
        image = dataset.example().reshape(height, width) / dataset.levels
        cells = "".join(
            f'<rect x="{c}" y="{r}" width="1.02" height="1.02" opacity="{image[r, c]:.2f}"/>'
            for r in range(height)
            for c in range(width)
            if image[r, c] > 0.08
        )
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 -1 {width + 2} {height + 2}">{cells}</svg>'
    x0, x1, y0, y1 = dataset.extent
    if dataset.kind == "line":
        u = torch.linspace(0, 1, 120)
        p = dataset.log_prob((x0 + (x1 - x0) * u)[:, None]).exp()
        y = 92 - 74 * p / p.max()
        curve = "".join(f"L{100 * a:.1f} {b:.1f}" for a, b in zip(u.tolist(), y.tolist()))
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'
            f'<path d="M0 92{curve}L100 92Z" fill="#000"/></svg>'
        )
    if dataset.kind == "sequence":
        walks = dataset.sample(3, rng).reshape(3, *dataset.shape)
        u, v = 100 * (walks[..., 0] - x0) / (x1 - x0), 100 * (y1 - walks[..., 1]) / (y1 - y0)
        lines = "".join(
            "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(xs, ys))
            for xs, ys in zip(u.tolist(), v.tolist())
        )
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'
            f'<path d="{lines}" fill="none" stroke="#000" stroke-width="2"/></svg>'
        )
    if dataset.kind == "point":
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'
            '<path d="M8 50H92" stroke="#000" stroke-width="2"/><circle cx="50" cy="50" r="9"/></svg>'
        )
    points = dataset.sample(POINTS, rng)
    x = 100 * (points[:, 0] - x0) / (x1 - x0)
    y = 100 * (y1 - points[:, 1]) / (y1 - y0)
    dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x.tolist(), y.tolist()))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'
        f'<path d="{dots}" stroke="#000" stroke-width="2.2" stroke-linecap="round"/></svg>'
    )


def picture(dataset: Dataset) -> str:
    """The same as an image of CSS, for a mask."""
    return f'url("data:image/svg+xml,{urllib.parse.quote(svg(dataset), safe=" =:/<>")}")'


def css(where: str) -> str:
    """Rules that put each dataset's picture on its option of the radio group `where`."""
    return "\n".join(
        f"{where} label:has(input[value={name}])::before"
        f"{{mask-image:{drawn};-webkit-mask-image:{drawn}}}"
        for name, drawn in ((name, picture(kind())) for name, kind in DATASETS.items())
    )
