"""Data that a visitor makes by hand, with exact densities: Gaussians, and a picture."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from engines.data.base import STEPS, Modes, gaussian_rows
from engines.data.exact import LOG_2PI, NoisyBoxes, gauss_legendre, noise_scales, tiles
from engines.data.plane import Plane, _rand, _randn
from engines.knobs import BadInput, payload, shown

MOST_GAUSSIANS, MOST_PIXELS = 24, 96
FAINT = 1e-260  # below this a density is worked out in logarithms


# ---------------------------------------------------------------- drawn points

GRID = 1024  # cells a unit of the plane: half of one is a sixteenth of a pixel on the screen


def snap(points: Any) -> np.ndarray:
    """Points (N, 2) moved to the nearest corner of a grid of 2⁻¹⁰, float64.

    For what is drawn: nobody sees a thousandth, and a link can then carry the very same
    points in two bytes a coordinate. Points that have units of their own stay as they are.
    """
    return np.round(np.asarray(points, dtype=np.float64) * GRID) / GRID


# ---------------------------------------------------------------- Gaussians of any shape


class Ellipses:
    """Σₖ wₖ N(x; cₖ, Rₖ diag(sₖ²) Rₖᵀ), Rₖ a rotation: density and score in float64.

    Args:
        centres, sigma: (K, 2). angle: (K,) radians, of the first axis to the x-axis.
        weights: (K,), above 0; they are divided by their sum.
    """

    def __init__(self, centres: Any, sigma: Any, angle: Any, weights: Any) -> None:
        as64 = lambda part: torch.as_tensor(part, dtype=torch.float64)  # noqa: E731
        self.centres, self.sigma, self.angle = as64(centres), as64(sigma), as64(angle)
        self.weights = as64(weights) / as64(weights).sum()
        cos, sin = self.angle.cos(), self.angle.sin()
        self.axes = torch.stack([cos, sin, -sin, cos], 1).reshape(-1, 2, 2)  # rows: the axes
        self.whiten = self.axes / self.sigma[:, :, None]
        self.const = self.weights.log() - self.sigma.log().sum(1) - LOG_2PI

    @property
    def cov(self) -> Tensor:
        """Covariances (K, 2, 2)."""
        spread = self.axes * self.sigma[:, :, None]
        return spread.mT @ spread

    def parts(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """In tiles of x (N, 2): whitened z (n, K, 2), and log wₖ N(x; …) (n, K)."""
        whiten, const = self.whiten.to(x.device), self.const.to(x.device)
        shift = torch.einsum("kij,kj->ki", whiten, self.centres.to(x.device))
        for tile in tiles(x.double(), 4 * len(const)):
            z = torch.einsum("kij,nj->nki", whiten, tile) - shift
            yield z, const - 0.5 * z.square().sum(2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, (N, 2) → (N,)."""
        out = [torch.logsumexp(joint, 1) for _, joint in self.parts(x)]
        return (torch.cat(out) if out else x.new_zeros(0)).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        """∇ log-density, (N, 2) → (N, 2)."""
        whiten = self.whiten.to(x.device)
        out = [-torch.einsum("nk,nki,kij->nj", joint.softmax(1), z, whiten)
               for z, joint in self.parts(x)]  # fmt: skip
        return (torch.cat(out) if out else torch.zeros_like(x)).to(x.dtype)

    def noised(self, a: float, sigma: float) -> Ellipses:
        """The mixture of a·x + σε: the axes stay, their lengths grow."""
        a, sigma = noise_scales(a, sigma)
        spread = (a * a * self.sigma**2 + sigma * sigma).sqrt()
        return Ellipses(a * self.centres, spread, self.angle, self.weights)

    # ---- entropy

    NEAR = 7.0  # standard deviations beyond which a Gaussian has no mass worth counting (2e-11)
    WORK = 100_000  # cells × Gaussians at most, over all levels

    def entropy(self, tolerance: float = 1e-8) -> float | None:
        """−∫ p log p in nats, to 1e-6 or better; None where that would take too long.

            H = Σ wₖ log 1/wₖ + Σ wₖ (log 2πe + log sₖ₁sₖ₂) − H(k|x)

        Only H(k|x), which lives where two Gaussians overlap, needs a quadrature: on squares
        that are split until they are small beside the sharpest Gaussian near them and until
        Gauss–Legendre rules of 8 × 8 and of 6 × 6 points agree to `tolerance` on each.
        It is None when thin Gaussians overlap over a great length.
        """
        w = self.weights
        whole = (w * (1 - w.log() + LOG_2PI + self.sigma.log().sum(1))).sum()
        reach = self.NEAR * self.cov.diagonal(dim1=1, dim2=2).sqrt()
        low, high = (self.centres - reach).amin(0), (self.centres + reach).amax(0)
        side = float((high - low).max())
        middle, total, work = ((low + high) / 2)[None], 0.0, 0
        corners = torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]]).double() / 4
        while len(middle):
            work += len(middle) * len(w)
            if work > self.WORK:
                return None
            z = torch.einsum("kij,nkj->nki", self.whiten, middle[:, None] - self.centres)
            sharp = self.sigma.amin(1)
            near = z.norm(dim=2) - side / math.sqrt(2) / sharp < self.NEAR
            middle, near = middle[near.sum(1) > 1], near[near.sum(1) > 1]
            coarse = side > 2 * torch.where(near, sharp, math.inf).amin(1)
            fine = middle[~coarse]
            eight, six = self._doubt(fine, side, 8), self._doubt(fine, side, 6)
            agree = (eight - six).abs() < tolerance
            total += float(eight[agree].sum())
            again = torch.cat([middle[coarse], fine[~agree]])
            middle = (again[:, None] + side * corners).reshape(-1, 2)
            side /= 2
        return float(whole) - total

    def _doubt(self, middle: Tensor, side: float, n: int) -> Tensor:
        """∫ p(x) H(k|x) dx over squares (M, 2) by n × n points each, (M,)."""
        node, weight = (torch.from_numpy(v) for v in gauss_legendre(-side / 2, side / 2, n))
        x = (middle[:, None] + torch.cartesian_prod(node, node)).reshape(-1, 2)
        out = []
        for _, joint in self.parts(x):
            log_p = torch.logsumexp(joint, 1, keepdim=True)
            out.append((joint.exp() * (log_p - joint)).sum(1))
        value = torch.cat(out) if out else x.new_zeros(0)
        return value.reshape(-1, n * n) @ torch.outer(weight, weight).reshape(-1)


LIMITS = {
    "x": (-50.0, 50.0), "y": (-50.0, 50.0), "sx": (0.01, 10.0), "sy": (0.01, 10.0),
    "angle": (-1000.0, 1000.0), "weight": (1e-6, 1e6),
}  # fmt: skip


def check_components(given: Any) -> list[list[float]]:
    """1 to 24 rows [x, y, sx, sy, angle, weight] of floats, or BadInput."""
    return gaussian_rows(given, LIMITS, MOST_GAUSSIANS)


class Gaussians(Plane):
    """Σₖ wₖ N(x; cₖ, Σₖ) with everything set by hand."""

    name: ClassVar[str] = "gaussians"
    about = "Gaussians of your own: add, drag, stretch and weigh them."
    source = "a mixture with full covariances, set by hand"
    place = 13

    components: list = payload(
        [
            [-1.4, 0.8, 0.62, 0.24, 0.6, 0.4],
            [1.5, 1.0, 0.42, 0.42, 0.0, 0.3],
            [0.3, -1.5, 0.75, 0.2, -0.35, 0.3],
        ],
        check_components,
        help="Each Gaussian is [x, y, sx, sy, angle, weight]: its centre, its standard deviations "
        "along its own axes, the angle of the first one in radians, and its share.",
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        table = torch.tensor(self.components, dtype=torch.float64)
        self.mixture = Ellipses(table[:, :2], table[:, 2:4], table[:, 4], table[:, 5])
        reach = 4.5 * self.mixture.cov.diagonal(dim1=1, dim2=2).sqrt()
        most = float((self.mixture.centres.abs() + reach).max())
        half = next((step for step in STEPS if step >= most), STEPS[-1])
        self.extent = (-half, half, -half, half)

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        m, device = self.mixture, rng.device
        index = torch.multinomial(m.weights.to(device), n, True, generator=rng)
        spread = (m.axes * m.sigma[:, :, None]).to(device)[index]
        noise = _randn(rng, n, 2)
        return m.centres.to(device)[index] + torch.einsum("ni,nij->nj", noise, spread)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.mixture.log_prob(x)

    def noised(self, a: float, sigma: float) -> Ellipses:
        """The mixture of a·x + σε, exactly."""
        return self.mixture.noised(a, sigma)

    @cached_property
    def entropy(self) -> float | None:
        """−∫ p log p in nats, to 1e-6; None where thin Gaussians overlap over a great length."""
        return self.mixture.entropy()

    @property
    def modes(self) -> Modes | None:
        """The components, if all are round: modes are counted within 3σ in every direction."""
        m = self.mixture
        if float((m.sigma.amax(1) / m.sigma.amin(1)).max()) > 1.05:
            return None
        return Modes(m.centres.float(), m.sigma.square().mean(1).sqrt().float(), m.weights.float())


# ---------------------------------------------------------------- a picture as a density


def pixels(weights: np.ndarray) -> dict[str, Any]:
    """The value of the option `pixels` for weights (h, w) uint8; row 0 is the top."""
    data = base64.b64encode(np.ascontiguousarray(weights, dtype=np.uint8).tobytes()).decode()
    return {"size": [int(n) for n in weights.shape], "data": data}


def check_pixels(given: Any) -> dict[str, Any]:
    """{"size": [h, w], "data": base64 of h·w bytes}, not all of them 0, or BadInput."""
    if not isinstance(given, dict) or set(given) != {"size", "data"}:
        raise BadInput("pixels must be an object with size and data.")
    size, data = given["size"], given["data"]
    if not (
        isinstance(size, (list, tuple))
        and len(size) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) for n in size)
        and all(1 <= n <= MOST_PIXELS for n in size)
    ):
        raise BadInput(
            f"The size of a picture is [height, width], each 1 to {MOST_PIXELS}; got {shown(size)}."
        )
    most = 4 * MOST_PIXELS**2
    try:
        raw = base64.b64decode(data, validate=True) if len(data) <= most else b""
    except (TypeError, ValueError, binascii.Error):
        raise BadInput("The data of a picture must be base64 text.") from None
    if len(raw) != size[0] * size[1]:
        raise BadInput(f"A picture of {size[0]} × {size[1]} needs as many bytes; got {len(raw):,}.")
    if not any(raw):
        raise BadInput("This picture is empty: all its pixels are 0.")
    return pixels(np.frombuffer(raw, np.uint8).reshape(size))


def moon_and_stars(n: int = 48) -> np.ndarray:
    """A crescent moon among four stars, (n, n) uint8: a disc without another, and astroids."""
    y, x = (1 - (np.mgrid[:n, :n] + 0.5) * (2 / n)) * [[[1]], [[-1]]]
    moon = (np.hypot(x + 0.12, y) < 0.72) & (np.hypot(x - 0.22, y - 0.12) > 0.62)
    out = np.where(moon, 255, 0)
    for a, b, size in ((0.3, 0.22, 0.34), (0.72, 0.66, 0.26), (0.7, -0.3, 0.2), (0.12, 0.66, 0.16)):
        star = np.sqrt(np.abs(x - a)) + np.sqrt(np.abs(y - b)) < math.sqrt(size)
        out = np.where(star, 255, out)
    return out.astype(np.uint8)


class Picture(Plane):
    """p(x) = w_ij / (Σw · side²) for x in pixel (i, j): uniform within each pixel.

    The longer side of the picture spans [−4, 4]; it is centred, and its pixels are squares.
    """

    name: ClassVar[str] = "picture"
    about = "A picture of your own: its ink is where the data lies."
    source = "piecewise constant over the pixels"
    place = 14

    pixels: dict = payload(
        pixels(moon_and_stars()),
        check_pixels,
        help=f"Weights of the pixels: size [height, width] up to {MOST_PIXELS} each, and data, the "
        "base64 of one byte a pixel, row by row from the top.",
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        height, width = self.pixels["size"]
        raw = np.frombuffer(base64.b64decode(self.pixels["data"]), np.uint8)
        # row 0 at the bottom from here on, as everywhere on the plane
        ink = torch.from_numpy(raw.reshape(height, width)[::-1].astype(np.float64))
        self.share = ink / ink.sum()
        self.side = 8.0 / max(height, width)
        self.corner = (-width * self.side / 2, -height * self.side / 2)  # x, y of the lower left

    def _draw(self, n: int, rng: torch.Generator) -> Tensor:
        share = self.share.reshape(-1).to(rng.device)
        index = torch.multinomial(share, n, True, generator=rng)
        place = torch.stack([index % self.share.shape[1], index // self.share.shape[1]], 1)
        # away from the edges by more than float32 may round, so that none leaves its pixel
        u = _rand(rng, n, 2).clamp(2**-18, 1 - 2**-18)
        corner = torch.tensor(self.corner, dtype=torch.float64, device=rng.device)
        return corner + (place + u) * self.side

    def _log_prob(self, x: Tensor) -> Tensor:
        height, width = self.share.shape
        u, v = (x[:, 0] - self.corner[0]) / self.side, (x[:, 1] - self.corner[1]) / self.side
        inside = (u >= 0) & (u <= width) & (v >= 0) & (v <= height)  # closed: rounding
        # far away or NaN would overflow an integer
        column = torch.where(inside, u, 0).long().clamp_max(width - 1)
        row = torch.where(inside, v, 0).long().clamp_max(height - 1)
        table = (self.share / self.side**2).log().to(x.device)
        value = torch.where(inside, table[row, column], -math.inf)
        return torch.where(x.isnan().any(1), math.nan, value)

    def cells(self, n: int) -> np.ndarray:
        """Exact averages over the grid: overlaps of its cells with the pixels."""
        x0, x1, y0, y1 = self.extent
        height, width = self.share.shape

        def overlap(low: float, high: float, corner: float, count: int) -> Tensor:
            new = torch.linspace(low, high, n + 1, dtype=torch.float64)
            old = corner + self.side * torch.arange(count + 1, dtype=torch.float64)
            top = torch.minimum(new[1:, None], old[None, 1:])
            return (top - torch.maximum(new[:-1, None], old[None, :-1])).clamp_min(0)

        rows, columns = (
            overlap(y0, y1, self.corner[1], height),
            overlap(x0, x1, self.corner[0], width),
        )
        area = (x1 - x0) * (y1 - y0) / n**2 * self.side**2
        return (rows @ self.share @ columns.T / area).float().numpy()

    @cached_property
    def entropy(self) -> float:
        """Σ w log 1/w + log side², exactly."""
        return float(torch.special.entr(self.share).sum()) + 2 * math.log(self.side)

    def noised(self, a: float, sigma: float) -> SmearedPixels:
        """The pixels, scaled by a and smeared by σ > 0: products of differences of erf."""
        a, sigma = noise_scales(a, sigma)
        return SmearedPixels(self.share, self.side, self.corner, a, sigma)


class SmearedPixels:
    """Pixels of any weights, scaled by a, plus σε.

    p(x) = Σ_ij w_ij A_i(y) B_j(x), where A and B are smeared intervals: both are worked out
    once for every point, and the double sum is a product of matrices.

    Args:
        share: (h, w) that sum to 1, row 0 at the bottom. side, corner: of the pixels, in
            data units. a: any. sigma: above 0.
    """

    def __init__(
        self, share: Tensor, side: float, corner: tuple[float, float], a: float, sigma: float
    ) -> None:
        self.share, self.half, self.sigma = share, abs(a) * side / 2, sigma
        height, width = share.shape
        self.x = a * (corner[0] + side * (torch.arange(width, dtype=torch.float64) + 0.5))
        self.y = a * (corner[1] + side * (torch.arange(height, dtype=torch.float64) + 0.5))
        some = share.nonzero()
        centres = torch.stack([self.x[some[:, 1]], self.y[some[:, 0]]], 1)
        # in logarithms and pixel by pixel: for where the product underflows, and tiny pixels
        self.boxes = NoisyBoxes(centres, self.half, sigma, share[share > 0])

    def _smeared(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Density of U[−h, h] + σε at u, and its derivative; tails keep their precision."""
        v, scale = u.abs(), math.sqrt(0.5) / self.sigma
        near, far = (v - self.half) * scale, (v + self.half) * scale
        p = (torch.erfc(near) - torch.erfc(far)) / (4 * self.half)
        slope = torch.exp(-far.square()) - torch.exp(-near.square())
        return p, slope * u.sign() * (scale / (2 * self.half * math.sqrt(math.pi)))

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """p (N,) and ∇p (N, 2); p = 0 where it is left to `boxes`."""
        p, slope = x.new_zeros(len(x)), torch.zeros_like(x)
        if self.half < 1e-4 * self.sigma:
            return p, slope
        share = self.share.to(x.device)
        for index in tiles(torch.arange(len(x), device=x.device), 2 * sum(share.shape)):
            b, db = self._smeared(x[index, :1] - self.x.to(x.device))
            a, da = self._smeared(x[index, 1:] - self.y.to(x.device))
            rows = a @ share
            p[index] = (rows * b).sum(1)
            slope[index, 0] = (rows * db).sum(1)
            slope[index, 1] = ((da @ share) * b).sum(1)
        return p, slope

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats, (N, 2) → (N,)."""
        p = self._parts(x.double())[0]
        far = ~(p > FAINT)
        out = p.masked_fill(far, 1.0).log()  # the slope of log 0 is no number
        out[far] = self.boxes.log_prob(x[far].double())
        return out.to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        """∇ log-density, (N, 2) → (N, 2)."""
        p, slope = self._parts(x.double())
        out, far = slope / p[:, None], ~(p > FAINT)
        out[far] = self.boxes.score(x[far].double())
        return out.to(x.dtype)
