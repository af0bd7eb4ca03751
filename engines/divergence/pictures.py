"""What is special to a divergence: where it comes from, what it is made of, where starts end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import numpy
from engines.data.line import nice
from engines.divergence import maths
from engines.divergence.fits import Flow
from engines.marks import (
    Bars,
    Curve,
    Curves,
    Ellipses,
    Handles,
    Heat,
    Mark,
    Panel,
    Paths,
    Points,
)
from engines.pictures import density_field, over

if TYPE_CHECKING:
    from engines.divergence.engine import Divergence

WHY = {
    "": "",
    "asked for": "blurred as asked",
    "p is 0 in places": "p is 0 in places, where KL(q‖p) would be ∞",
    "finer than a cell": "p is finer than the grid",
}
FEW = 4  # Gaussians whose axes get handles


def stretched(cov: Tensor, axis: int, end: Tensor, straight: bool) -> Tensor:
    """The covariance (D, D) whose axis number `axis` ends at `end` (D,), from the mean.

    The axes are those of `numpy.linalg.eigh`'s order, smallest first; the others keep their
    lengths and turn along. With `straight` they are the coordinates', and none turns.
    """
    d = len(cov)
    if straight or d == 1:
        out = cov.clone()
        out[axis, axis] = end[axis] ** 2
        return out
    other = float(torch.linalg.eigvalsh(cov)[1 - axis])
    along = end / end.norm().clamp_min(1e-9)
    across = torch.stack([-along[1], along[0]])
    return torch.outer(end, end) + other * torch.outer(across, across)


def axis_ends(mean: Tensor, cov: Tensor, straight: bool) -> Tensor:
    """Where the handles of `stretched` stand, (K, D) and (K, D, D) → (K·D, D)."""
    if straight or cov.shape[-1] == 1:
        ends = torch.diag_embed(cov.diagonal(dim1=-2, dim2=-1).sqrt())
    else:
        value, axes = torch.linalg.eigh(cov)
        # an eigenvector's sign is arbitrary: to the right, or up
        sign = torch.where(axes[:, :1].abs() > 1e-6, axes[:, :1], axes[:, 1:]).sign()
        ends = (axes * sign * value.sqrt()[:, None]).mT
    return (mean[:, None] + ends).reshape(-1, cov.shape[-1])


def panels(engine: Divergence) -> list[Panel]:
    plane = engine.dim == 2
    dataset, target = engine.pool.dataset, engine._target
    hat = "" if dataset.exact else ", p̂ a kernel estimate"
    guess = not dataset.exact
    box = dataset.extent
    x0, x1 = box[:2]
    kind = engine.minimise if engine.integrand == "what is minimised" else engine.integrand
    symbol = maths.SYMBOLS[kind]
    alpha = f", α = {engine.alpha:.2f}" if kind == "α-divergence" else ""
    total = float(engine.value(kind)[0])
    adds = f"adds up to {total:.3f} nats"
    about = WHY[target.why] + hat
    field = box if plane else (x0, x1, *_heights(engine, kind))
    fitted = f"{target.name} and q"
    first = (
        Panel("truth", fitted, lambda: _fitted(engine), about.lstrip(", ") or "drag q",
              box, "large", estimate=guess,
              help="p, or p smoothed where it has to be, with q over it. Drag q by its middle or "
                   "by the ends of its axes: every number follows, also while paused.")
        if plane else
        Panel("model", f"{target.name} and q", lambda: _fitted_line(engine),
              about.lstrip(", ") or "drag tops, and sides of p", box, "large",
              equal=False,
              help="Drag the top of q or of a mode of p; up is narrower for q, heavier for a mode "
                   "of p. The sides of p's modes change their widths.")
    )  # fmt: skip
    out = [
        first,
        Panel("integrand", f"Integrand of {symbol}", lambda: _integrand(engine, kind),
              adds + alpha, field, "large", equal=plane,
              help="Where the divergence comes from. Red, or above 0, adds to the divergence, and blue, or below 0, "
                   "takes from it; what is drawn adds up to the number above, but for the mass "
                   "beyond the grid."),
    ]  # fmt: skip
    if engine.fit.starts > 1:
        out += [
            Panel("starts", "Where each start ended", lambda: _starts(engine),
                  "one colour for each optimum", box, "large", hz=10, equal=plane, first=True,
                  help="All q's that are fitted from different starts, coloured by the optimum "
                       "that they have come to; colours begin with the best. The other pictures "
                       "and How close are about the first of them."),
            Panel("ranking", "Divergence of each start", lambda: _ranking(engine),
                  "best first, by number of the start", hz=4,
                  help="Steps in this row are different local optima."),
        ]  # fmt: skip
    return [
        *out,
        Panel("decomposition", "H(p, q) = H(p) + KL(p‖q)", lambda: _decomposition(engine),
              "entropy, and what q costs beside it", hz=8,
              help="Nats to describe p by q; nats that p needs by itself; and the difference."),
        Panel("divergences", "All divergences", lambda: _divergences(engine),
              "of this q", hz=8,
              help="JS is at most log 2 = 0.693. D_α stands at the α of the slider."),
        Panel("alpha", "D_α for every α", lambda: _alphas(engine), "from one KL to the other", hz=3,
              help="D_α(p‖q) for every α: KL(q‖p) at 0, KL(p‖q) at 1."),
    ]  # fmt: skip


# ---------------------------------------------------------------- p and q


def _fitted(engine: Divergence) -> list[Mark]:
    target, dataset = engine._target, engine.pool.dataset
    field = None if target.sigma else density_field(dataset)
    box = dataset.extent
    if field is None:
        n = [len(axis) for axis in target.axes]
        field, box = numpy(target.log_p.exp()).reshape(n[::-1]).astype(np.float32), target.box
    label = target.name.replace("p", "p" if dataset.exact else "p̂", 1)
    marks: list[Mark] = [Heat(field, box, label=label, unit="per unit area")]
    if isinstance(engine.fit, Flow):
        where = (engine.centre() * engine._std + engine._mean)[None]
        return marks + ([Handles(numpy(where), "move_q", ["q"])] if engine.show_handles else [])
    weight, mean, cov = (part[0] for part in engine.gaussians())
    marks.append(Ellipses(numpy(mean), numpy(cov), numpy(weight), label="q"))
    if engine.show_handles:
        names = ["q"] if len(mean) == 1 else [f"q{k + 1}" for k in range(len(mean))]
        if len(mean) <= FEW:
            ends = axis_ends(mean, cov, engine.q == "diagonal Gaussian")
            marks.append(Handles(numpy(ends), "stretch_q", role="model"))
        marks.append(Handles(numpy(mean), "move_q", names, role="model"))
    return marks


def _graph(engine: Divergence, log_mass: Tensor, role: str, label: str, **more) -> Paths:
    """Densities (…, N) from log masses (…, N + 1), over the data's extent."""
    x, keep = _visible(engine)
    y = numpy((log_mass[..., :-1] - engine._target.log_cell).exp())
    return over(x[keep], y[..., keep], role, label, **more)


def _visible(engine: Divergence) -> tuple[np.ndarray, np.ndarray]:
    x = numpy(engine._target.axes[0])
    x0, x1 = engine.pool.dataset.extent[:2]
    return x, np.flatnonzero((x >= x0) & (x <= x1))[::2]


def _fitted_line(engine: Divergence) -> list[Mark]:
    dataset = engine.pool.dataset
    marks: list[Mark] = [
        _graph(engine, engine._log_p, "data", engine._target.name, fill=True),
        _graph(engine, engine.seen()[0], "model", "q", fill=True),
    ]
    if not engine.show_handles:
        return marks
    mixture = getattr(dataset, "mixture", None) if hasattr(dataset, "moved") else None
    if mixture is not None:
        top = mixture.weights / (mixture.sigma * math.sqrt(2 * math.pi))
        x = mixture.centres[:, 0]
        side = torch.stack([x + mixture.sigma, top * math.exp(-0.5)], 1)
        tops = torch.stack([x, top], 1)
        names = [f"p{k + 1}" for k in range(len(top))]
        marks += [Handles(numpy(side), "widen_p", role="data"),
                  Handles(numpy(tops), "move_p", names, role="data")]  # fmt: skip
    if isinstance(engine.fit, Flow):
        x = engine.centre() * engine._std + engine._mean
        place = torch.stack([x, engine.log_prob(x[:, None]).exp().double()], 1)
        return [*marks, Handles(numpy(place), "move_q", ["q"], role="model")]
    place = _tops(engine)[0]
    names = ["q"] if len(place) == 1 else [f"q{k + 1}" for k in range(len(place))]
    return [*marks, Handles(numpy(place), "move_q", names, role="model")]


def _tops(engine: Divergence) -> Tensor:
    """Where each Gaussian on the line has its top: (S, K, 2)."""
    weight, mean, cov = engine.gaussians()
    height = weight / (cov[..., 0, 0] * 2 * math.pi).sqrt()
    return torch.stack([mean[..., 0], height], -1)


# ---------------------------------------------------------------- where it comes from


def _cells(engine: Divergence, kind: str) -> np.ndarray:
    """The integrand on the grid, (ny, nx) or (nx,), in nats per unit of length or area."""
    terms = maths.terms(kind, engine._log_p, engine.seen()[0], engine.alpha)[:-1]
    n = [len(axis) for axis in engine._axes]
    return numpy(terms).reshape(n[::-1]) / math.exp(engine._target.log_cell)


def _heights(engine: Divergence, kind: str) -> tuple[float, float]:
    values = _cells(engine, kind)
    high, low = (nice(max(float(v.max()), 1e-3)) for v in (values, -values))
    return -max(low, 0.1 * high), high


def _integrand(engine: Divergence, kind: str) -> list[Mark]:
    values = _cells(engine, kind)
    if engine.dim == 2:
        # a few cells in the tails shall not bleach the rest
        hi = float(np.quantile(np.abs(values), 0.998))
        return [Heat(values.astype(np.float32), engine._target.box, "plain", "diverging",
                     hi=max(hi, 1e-6), gamma=1.0, label="integrand", unit="nats per unit area")]  # fmt: skip
    x, keep = _visible(engine)
    return [over(x[keep], values[keep], "truth", "integrand, nats per unit length", fill=True)]


# ---------------------------------------------------------------- starts


def _starts(engine: Divergence) -> list[Mark]:
    _, group = engine.optima()
    k = engine.fit.k
    if engine.dim == 1:
        tops = numpy(_tops(engine).reshape(-1, 2)).astype(np.float32)
        return [
            _graph(engine, engine._log_p, "data", engine._target.name, fill=True),
            _graph(engine, engine.seen(), "noise", "q of each start", width=1.0, opacity=0.5),
            Points(tops, "model", 4.0, np.repeat(group, k), label="its top, by optimum"),
        ]
    target = engine._target
    n = [len(axis) for axis in target.axes]
    field = numpy(target.log_p.exp()).reshape(n[::-1]).astype(np.float32)
    weight, mean, cov = (numpy(part) for part in engine.gaussians())
    share = np.full(weight.size, 1 / weight.size)
    return [
        Heat(field, target.box, label=target.name, unit="per unit area"),
        Ellipses(mean.reshape(-1, 2), cov.reshape(-1, 2, 2), share, np.repeat(group, k),
                 label="q of each start"),
    ]  # fmt: skip


def _ranking(engine: Divergence) -> list[Mark]:
    value = numpy(engine.value())
    order = np.argsort(value, kind="stable")
    symbol = maths.SYMBOLS[engine.minimise]
    return [Bars([str(s + 1) for s in order], value[order], y_label=f"{symbol}, nats")]


# ---------------------------------------------------------------- bars and curves


def _decomposition(engine: Divergence) -> list[Mark]:
    now = engine.numbers()
    names = ["H(p)", "KL(p‖q)", "H(p, q)"]
    return [Bars(names, np.array([now[k] for k in names]), y_label="nats", numbers=True)]


def _divergences(engine: Divergence) -> list[Mark]:
    now = engine.numbers()
    names = list(maths.SYMBOLS.values())
    short = [name.replace("(p‖q)", "") if "α" in name else name for name in names]
    return [Bars(short, np.array([now[k] for k in names]), y_label="nats", numbers=True)]


def _alphas(engine: Divergence) -> list[Mark]:
    alpha = np.linspace(0, 1, 33)
    log_p, log_q = engine._log_p, engine.seen()[0]
    found = [maths.divergence("α-divergence", log_p, log_q, float(a)) for a in alpha]
    lines = [Curve("D_α(p‖q)", alpha, numpy(torch.stack(found)), "model")]
    here = {"forward KL": 1.0, "reverse KL": 0.0, "α-divergence": engine.alpha}.get(engine.minimise)
    if here is not None:
        at = maths.divergence("α-divergence", log_p, log_q, here)
        lines.append(Curve("minimised", np.array([here]), np.array([float(at)]), "truth"))
    return [Curves(lines, x_label="α", y_label="nats")]
