"""Continuous normalizing flow: points follow a field from the data to the noise.

    dx/dt = v(x, t),    d log p/dt = −tr ∂v/∂x        (Chen, Rubanova, Bettencourt & Duvenaud 2018;
                                                       FFJORD: Grathwohl et al. 2019)

Time is cut into segments. Within one, v is a network with weights of its own, and one step of a
Runge–Kutta method follows it; the likelihood is that of these steps, not of an ideal solver
(discretise, then optimise). A log-density that integrates the trace is normalised only as far as
the solver is exact, and a fit by maximum likelihood soon finds fields that the solver gets wrong,
for there it is paid with mass that is not there. So:

- log|det| is that of the step itself, exactly. Its Jacobian is carried through the stages of the
  method beside the value; by Liouville's formula it tends to −∫ tr ∂v/∂x dt as steps get shorter.
- A step must not fold the plane, or else the density would count some noise twice. v is kept from
  becoming steeper than `REACH` in one step's time, as far as a lattice on the plane can see.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from engines.knobs import BadInput

REACH = 1.5  # the steepest that a field may be, in one step's time
NEWTON = 3  # iterations; each squares the error
TINY, DAMPED = 1e-12, 0.02  # smallest determinants, in a density and in a Newton step
FAR, LATTICE = 4.0, 24  # where that is looked at: a square in standardised units, points each way


def squash(u: Tensor) -> tuple[Tensor, Tensor]:
    """a = u/√(1 + u²) and its slope d = (1 + u²)^(−3/2), in (0, 1].

    A sigmoid without an exponential: a fraction of tanh's time on a CPU.
    """
    r = (u * u).add_(1).rsqrt_()
    return u * r, r * r * r


class OneHidden(torch.autograd.Function):
    """v = squash(x W + b) V + c and ∂v/∂x, for one hidden layer, with backward by hand.

    ∂v_j/∂x_i = Σ_h W_ih d_h V_hj is linear in the slopes d: one product with the pairs
    P = (W_ih V_hj), (H, 4). Small products are all there is to do, so what autograd
    spends between them would count.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, out, shift, pairs):
        """x (N, 2), W (2, H), b (H,), V (H, 2), c (2,), P (H, 4) → v (N, 2), ∂v/∂x (N, 4)."""
        u = torch.addmm(bias, x, weight)
        r = (u * u).add_(1).rsqrt_()
        a, r2 = u * r, r * r
        d = r2 * r
        ctx.save_for_backward(x, weight, out, pairs, a, r2, d)
        return torch.addmm(shift, a, out), d @ pairs

    @staticmethod
    def backward(ctx, grad_v, grad_j):
        x, weight, out, pairs, a, r2, d = ctx.saved_tensors
        # ∂a/∂u = d and ∂d/∂u = −3 u r⁵ = −3 a r⁴
        grad_u = (grad_j @ pairs.t()).mul_(a).mul_(r2).mul_(r2).mul_(-3)
        grad_u.addcmul_(grad_v @ out.t(), d)
        return (
            grad_u @ weight.t(),
            x.t() @ grad_u, grad_u.sum(0),
            a.t() @ grad_v, grad_v.sum(0),
            d.t() @ grad_j,
        )  # fmt: skip


class Field:
    """v(x) of one segment: a network of x in the plane, and its exact Jacobian.

    Args:
        network: weights (n_in, n_out) and biases (n_out,) of the layers; squash between them.
        pairs: (H, 4), for a network with one hidden layer; see `OneHidden`.
    """

    def __init__(self, network: list[tuple[Tensor, Tensor]], pairs: Tensor | None = None) -> None:
        self.network, self.pairs = network, pairs

    def __call__(self, x: Tensor) -> Tensor:
        """v(x), (N, 2) → (N, 2)."""
        *hidden, (weight, bias) = self.network
        for w, b in hidden:
            x = squash(torch.addmm(b, x, w))[0]
        return torch.addmm(bias, x, weight)

    def with_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """v(x) (N, 2), and J (N, 2, 2) with J[:, i, j] = ∂v_j/∂x_i."""
        if self.pairs is not None:
            v, j = OneHidden.apply(x, *self.network[0], *self.network[1], self.pairs)
            return v, j.view(-1, 2, 2)
        *hidden, (weight, bias) = self.network
        # forward mode: the two tangents ∂/∂x_i travel with the value, (N, 2, H)
        tangents = None
        for w, b in hidden:
            x, d = squash(torch.addmm(b, x, w))
            tangents = (w if tangents is None else tangents @ w) * d[:, None]
        return torch.addmm(bias, x, weight), tangents @ weight

    def trace(self, x: Tensor) -> Tensor:
        """tr ∂v/∂x, (N, 2) → (N,)."""
        return self.with_jacobian(x)[1].diagonal(dim1=1, dim2=2).sum(1)


class Segment:
    """One step of length h through a field: x(t) → x(t + h), and the log|det| of that step.

    The classical Runge–Kutta method of fourth order: an error of O(h⁵) a step.
    """

    def __init__(self, field: Field, h: float) -> None:
        self.field, self.h = field, h

    def move(self, x: Tensor, h: float) -> Tensor:
        """The step without its determinant; h < 0 goes back in time."""
        v1 = self.field(x)
        v2 = self.field(x + h / 2 * v1)
        v3 = self.field(x + h / 2 * v2)
        v4 = self.field(x + h * v3)
        return x + h / 6 * (v1 + 2 * (v2 + v3) + v4)

    def with_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The step z (N, 2), K (N, 4) with ∂z/∂x = I + K in rows, and its determinant (N,)."""
        h, field = self.h, self.field.with_jacobian

        def stage(v: Tensor, k: Tensor, step: float) -> tuple[Tensor, Tensor]:
            """v and its derivative by the step's own x, at y = x + step·v: ∂y/∂x = I + step·k."""
            v, j = field(torch.add(x, v, alpha=step))
            return v, torch.baddbmm(j, k, j, alpha=step)

        v1, k1 = field(x)
        v2, k2 = stage(v1, k1, h / 2)
        v3, k3 = stage(v2, k2, h / 2)
        v4, k4 = stage(v3, k3, h)
        v = torch.add(v1.add(v4), v2.add(v3), alpha=2)
        k = torch.add(k1.add(k4), k2.add(k3), alpha=2).flatten(1) * (h / 6)
        a, b, c, d = k.unbind(1)
        return torch.add(x, v, alpha=h / 6), k, torch.addcmul((1 + a) * (1 + d), b, c, value=-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 2) → (N, 2) and log|det ∂z/∂x| (N,)."""
        z, _, det = self.with_jacobian(x)
        # should a step fold after all, then what lies on the wrong side counts for nothing
        return z, det.clamp_min(TINY).log()

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, 2) → (N, 2).

        The same method backwards in time undoes the step but for the solver's error; Newton's
        method on step(x) = z then undoes it to rounding.
        """
        x = self.move(z, -self.h)
        for _ in range(NEWTON):
            there, k, det = self.with_jacobian(x)
            a, b, c, d = k.unbind(1)
            p, q = ((there - z) / det.clamp_min(DAMPED)[:, None]).unbind(1)
            # δx = δz (I + K)⁻¹ in rows
            x = x - torch.stack([p * (1 + d) - q * c, q * (1 + a) - p * b], 1)
        return x


class Continuous(nn.Module):
    """A field in `layers` segments of time between data (t = 0) and noise (t = L).

    The weights of all segments are stacked along a leading axis. The field starts near zero.

    Args:
        dim: 2.
        layers: segments L, each one step of length h = 1.
        width, hidden: units and number of hidden layers of each segment's network.
        rng: draws the first weights.

    Raises:
        BadInput: for data that are not in the plane.
    """

    def __init__(
        self, dim: int, layers: int, width: int, hidden: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        if dim != 2:
            raise BadInput(
                f"The continuous flow needs data in the plane; these have {dim} columns."
            )
        self.hidden = hidden
        side = torch.linspace(-FAR, FAR, LATTICE, device=rng.device)
        self.register_buffer("lattice", torch.cartesian_prod(side, side), persistent=False)
        sizes = [2, *[width] * hidden, 2]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            # the first layer's units switch at places all over the data; the last starts near 0
            gain = math.sqrt(3 / n_in) * (1.5 if i == 0 else 0.01 if i == hidden else 1.0)
            spread = 2.25 if i == 0 else 0.0 if i == hidden else 1 / math.sqrt(n_in)
            shape = (layers, n_in, n_out)
            w = torch.empty(shape, device=rng.device).uniform_(-gain, gain, generator=rng)
            b = torch.empty(shape[::2], device=rng.device).uniform_(-1, 1, generator=rng) * spread
            self.weights.append(nn.Parameter(w))
            self.biases.append(nn.Parameter(b))

    def layers(self) -> list[Segment]:
        """The segments in order from data to noise."""
        *inner, last = self.weights
        n = len(last)
        scale = (REACH / self.steepness()).clamp_max(1)[:, None]  # no field steeper than REACH
        weights = [*inner, last * scale[:, None]]
        biases = [*list(self.biases)[:-1], self.biases[-1] * scale]
        pairs = [None] * n
        if self.hidden == 1:
            products = weights[0].transpose(1, 2)[..., None] * weights[1][:, :, None]
            pairs = products.flatten(2).unbind(0)  # (L, H, 2, 2) → L × (H, 4)
        parts = zip(*(t.unbind(0) for pair in zip(weights, biases) for t in pair))
        return [
            Segment(Field(list(zip(part[::2], part[1::2])), p), 1.0)
            for part, p in zip(parts, pairs)
        ]

    def states(self, z: Tensor) -> Tensor:
        """Where noise z (N, 2) stands at times L, L − 1, … 0: (L+1, N, 2), data last."""
        out = [z]
        for segment in reversed(self.layers()):
            out.append(segment.inverse(out[-1]))
        return torch.stack(out)

    @torch.no_grad()
    def steepness(self) -> Tensor:
        """The largest ‖∂v/∂x‖ (Frobenius) of each segment on a lattice, before the scale, (L,)."""
        *hidden, last = self.weights
        x, tangents = self.lattice.expand(len(last), -1, -1), None
        for w, b in zip(hidden, self.biases):
            x, d = squash(torch.baddbmm(b[:, None], x, w))
            if tangents is None:  # ∂/∂x₀ and ∂/∂x₁ of the units, each (L, M, H)
                tangents = [d * w[:, i : i + 1] for i in range(2)]
            else:
                tangents = [(t @ w).mul_(d) for t in tangents]
        return sum((t @ last).square_().sum(2) for t in tangents).amax(1).sqrt() + 1e-12
