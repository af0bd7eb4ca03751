"""Continuous normalizing flow: points follow a field from the data to the noise.

    dx/dt = v(x, t),    d log p/dt = −tr ∂v/∂x        (Chen, Rubanova, Bettencourt & Duvenaud 2018;
                                                       FFJORD: Grathwohl et al. 2019)

Time is cut into segments. Within one, v is a network with weights of its own, and one step of a
Runge–Kutta method follows it; the likelihood is that of these steps, not of an ideal solver
(discretise, then optimise). A log-density that integrates the trace is normalised only as far as
the solver is exact, and a fit by maximum likelihood soon finds fields that the solver gets wrong,
because there it is paid for mass that is not there. So two things are done exactly:

- log|det| is that of the step itself. Its Jacobian is carried through the stages of the method
  beside the value; by Liouville's formula it tends to −∫ tr ∂v/∂x dt as steps get shorter.
- A step is a bijection, whatever the weights: h·Lip(v) ≤ log 2 is built into them (`REACH`).
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

from engines.knobs import BadInput

Solver = Literal["midpoint", "RK4"]


def squash(u: Tensor) -> tuple[Tensor, Tensor]:
    """a = u/√(1 + u²) and its slope d = (1 + u²)^(−3/2), in (0, 1].

    A sigmoid without an exponential: a fraction of tanh's time on a CPU.
    """
    r = (u * u).add_(1).rsqrt_()
    return u * r, r * r * r


class OneHidden(torch.autograd.Function):
    """v = squash(x W + b) V + c and ∂v/∂x, for one hidden layer, with backward by hand.

    ∂v_j/∂x_i = Σ_h W_ih d_h V_hj is linear in the slopes d: one product with the pairs
    P = (W_ih V_hj), (H, 4). Small products are all there is to do, so that what autograd
    spends between them counts: by hand a training step takes about two thirds of the time.
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

    midpoint: z = x + h·v(x + ½h·v(x)), with an error of O(h³) a step; RK4 is the classical
    method of fourth order, O(h⁵) a step.
    """

    # a step moves no two points nearer than by ‖step − identity‖ ≤ e^{h·Lip} − 1 < 1
    REACH = 0.98 * math.log(2)
    CORRECTIONS = 6

    def __init__(self, field: Field, h: float, solver: Solver) -> None:
        self.field, self.h, self.solver = field, h, solver

    def move(self, x: Tensor, h: float) -> Tensor:
        """The step without its determinant; h < 0 goes back in time."""
        v = self.field(x)
        if self.solver == "midpoint":
            return x + h * self.field(x + h / 2 * v)
        v2 = self.field(x + h / 2 * v)
        v3 = self.field(x + h / 2 * v2)
        v4 = self.field(x + h * v3)
        return x + h / 6 * (v + 2 * (v2 + v3) + v4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 2) → (N, 2) and log|det ∂z/∂x| (N,)."""
        h, field = self.h, self.field.with_jacobian

        def stage(v: Tensor, k: Tensor, step: float) -> tuple[Tensor, Tensor]:
            """v and its derivative by the step's own x, at y = x + step·v: ∂y/∂x = I + step·k."""
            v, j = field(torch.add(x, v, alpha=step))
            return v, torch.baddbmm(j, k, j, alpha=step)

        v, k = field(x)
        if self.solver == "midpoint":
            v, k = stage(v, k, h / 2)
        else:
            v2, k2 = stage(v, k, h / 2)
            v3, k3 = stage(v2, k2, h / 2)
            v4, k4 = stage(v3, k3, h)
            v = torch.add(v.add(v4), v2.add(v3), alpha=2)
            k = torch.add(k.add(k4), k2.add(k3), alpha=2)
            h = h / 6
        a, b, c, d = (h * k).flatten(1).unbind(1)
        # the determinant of I + h·k; positive, since ‖h·k‖ < 1
        return torch.add(x, v, alpha=h), torch.addcmul((1 + a) * (1 + d), b, c, value=-1).log()

    def inverse(self, z: Tensor) -> Tensor:
        """The x for which forward(x) is z, (N, 2) → (N, 2).

        The same method backwards in time, G, undoes a step but for its error. What is left is
        mended by x ← x + G(z) − G(step(x)): the error shrinks by O(h²) or O(h⁴) each time.
        """
        x = first = self.move(z, -self.h)
        for _ in range(self.CORRECTIONS if self.solver == "midpoint" else 3):
            x = x + (first - self.move(self.move(x, self.h), -self.h))
        return x


class Continuous(nn.Module):
    """A field in `layers` segments of time between data (t = 0) and noise (t = 1).

    The weights of all segments are stacked along a leading axis. The field starts near zero.

    Args:
        dim: 2.
        layers: segments L, each one step of h = 1/L.
        width, hidden: units and number of hidden layers of each segment's network.
        rng: draws the first weights.
        solver: "midpoint" or "RK4".

    Raises:
        BadInput: for data that are not in the plane.
    """

    def __init__(
        self, dim: int, layers: int, width: int, hidden: int, rng: torch.Generator,
        solver: Solver = "midpoint",
    ) -> None:  # fmt: skip
        super().__init__()
        if dim != 2:
            raise BadInput(f"The continuous flow needs data in the plane; these have {dim} columns.")
        self.solver, self.hidden = solver, hidden
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
        # scaled down where the bound on h·Lip(v) exceeds REACH, so that every step is a bijection
        scale = (Segment.REACH / self.lipschitz()).clamp_max(1)[:, None]
        weights = [*inner, last * scale[:, None]]
        biases = [*list(self.biases)[:-1], self.biases[-1]]
        pairs = [None] * n
        if self.hidden == 1:
            products = weights[0].transpose(1, 2)[..., None] * weights[1][:, :, None]
            pairs = products.flatten(2).unbind(0)  # (L, H, 2, 2) → L × (H, 4)
        parts = zip(*(t.unbind(0) for pair in zip(weights, biases) for t in pair))
        return [
            Segment(Field(list(zip(part[::2], part[1::2])), p), 1.0, self.solver)
            for part, p in zip(parts, pairs)
        ]

    def states(self, z: Tensor) -> Tensor:
        """Where noise z (N, 2) stands at times 1, 1 − h, … 0: (L+1, N, 2), data last."""
        out = [z]
        for segment in reversed(self.layers()):
            out.append(segment.inverse(out[-1]))
        return torch.stack(out)

    def lipschitz(self) -> Tensor:
        """An upper bound on Lip(v) of each segment before it is scaled down, (L,).

        Slopes lie in [0, 1], so Lip(v) ≤ ∏ ‖Wᵢ‖₂; for one hidden layer with units balanced:
        |w_h|·|v_h| may be shared between the two weights of a unit as one likes.
        """
        first, *inner, last = self.weights
        last = last.transpose(1, 2)
        if self.hidden == 1:
            a, b = first.square().sum(1, keepdim=True), last.square().sum(1, keepdim=True)
            ratio = ((b + 1e-12) / (a + 1e-12)).sqrt()  # |v_h| / |w_h|
            return (gram_top(first, ratio) * gram_top(last, 1 / ratio)).sqrt() + 1e-12
        bound = (gram_top(first) * gram_top(last)).sqrt()
        for w in inner:
            bound = bound * spectral_bound(w)
        return bound + 1e-12


def gram_top(w: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Largest eigenvalue of w diag(weight) wᵀ, in closed form, (L, 2, H) → (L,)."""
    gram = (w * weight) @ w.transpose(1, 2)
    half = (gram[:, 0, 0] - gram[:, 1, 1]) / 2
    mean = (gram[:, 0, 0] + gram[:, 1, 1]) / 2
    # 1e-12: the root has no slope at 0
    return mean + (half.square() + gram[:, 0, 1].square() + 1e-12).sqrt()


def spectral_bound(w: Tensor) -> Tensor:
    """‖w‖₂ ≤ ‖(wᵀw)⁴‖_F^(1/8), at most H^(1/8)... times too large, (L, H, H) → (L,)."""
    gram = w.transpose(1, 2) @ w
    size = gram.square().sum((1, 2)).sqrt() + 1e-12
    gram = gram / size[:, None, None]
    gram = gram @ gram
    gram = gram @ gram
    return size.sqrt() * (gram.square().sum((1, 2)) + 1e-30) ** (1 / 16)
