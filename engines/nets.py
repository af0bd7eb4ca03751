"""Small networks, initialised from the engine's own generator, and their optimiser.

Torch's layers draw their first weights from the one global generator that all visitors
share; here every weight comes from the generator that is passed in.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F


def linear(n_in: int, n_out: int, rng: torch.Generator, gain: float = 1.0) -> nn.Linear:
    """x ↦ Wx + b with W, b ~ U(−gain/√n_in, gain/√n_in), on the generator's device."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out, device=rng.device)
    bound = gain / math.sqrt(n_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=rng)
        layer.bias.uniform_(-bound, bound, generator=rng)
    return layer


class Layers(nn.Sequential):
    """Layers, one after another, without what a call of a module looks up beside its work: that is
    a third of what Python adds to a small network. Hooks of the layers are not called."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self._modules.values():
            if type(layer) is nn.Linear:
                x = F.linear(x, layer._parameters["weight"], layer._parameters["bias"])
            else:
                x = layer.forward(x)
        return x


def mlp(
    sizes: Sequence[int],
    rng: torch.Generator,
    activation: type[nn.Module] = nn.SiLU,
    last_gain: float = 1.0,
    gain: float = 1.0,
) -> Layers:
    """Linear layers of the given `sizes` with `activation` between them.

    last_gain scales the last layer's first weights; 0 makes the network start at zero.
    """
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        final = i == len(sizes) - 2
        layers.append(linear(a, b, rng, last_gain if final else gain))
        if not final:
            layers.append(activation())
    return Layers(*layers)


class Adam(torch.optim.Adam):
    """torch's own fused Adam (Kingma & Ba 2015) without what it looks up anew at every step.

    On small networks on a CPU that is three quarters of a step, about .1 ms: the moments of each
    parameter, their devices and types, a hook for a profiler. Numbers are the same, bit for bit.
    """

    _known: list[tuple[dict, list[list[torch.Tensor]], torch.Tensor]] | None = None

    def step(self, closure: Callable[[], float] | None = None) -> None:
        if closure is not None or (known := (self.state and self._known) or self._find()) is None:
            super().step(closure)
            return
        every = [[p.grad for p in parts] for _, (parts, *_), _ in known]
        if any(slope is None for slopes in every for slope in slopes):
            super().step()
            return
        with torch.no_grad():
            for (group, (parts, *moments, steps), count), slopes in zip(known, every, strict=True):
                count.add_(1)
                torch._fused_adam_(
                    parts, slopes, *moments, [], steps, amsgrad=False, maximize=False,
                    lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1],
                    weight_decay=group["weight_decay"], eps=group["eps"],
                )  # fmt: skip

    step.hooked = True  # torch wraps what has no such mark in a hook of its profiler

    def _find(self) -> list | None:
        """For each group its parameters, both moments and counts of steps, which are parts of one
        vector; None before the first step, and where torch does otherwise."""
        parts = [p for group in self.param_groups for p in group["params"]]
        plain = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in parts)
        usual = all(g["fused"] and not (g["amsgrad"] or g["maximize"]) for g in self.param_groups)
        if not plain or not usual or not all(self.state.get(p) for p in parts):
            return None
        known = []
        for group in filter(lambda group: group["params"], self.param_groups):
            kept = [self.state[p] for p in group["params"]]
            count = torch.stack([slots["step"] for slots in kept])
            for slots, step in zip(kept, count.unbind(), strict=True):
                slots["step"] = step
            lists = [[k[name] for k in kept] for name in ("exp_avg", "exp_avg_sq", "step")]
            known.append((group, [list(group["params"]), *lists], count))
        self._known = known
        return known

    def zero_grad(self, set_to_none: bool = True) -> None:
        if not set_to_none:
            super().zero_grad(False)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._known = None

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        self._known = None


def adam(
    parameters: Iterable[nn.Parameter],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> Adam:
    """Fused Adam: measured 1.2 to 1.5 times faster on small networks, and see `Adam`."""
    return Adam(list(parameters), lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def set_lr(optimiser: torch.optim.Optimizer, lr: float | torch.Tensor) -> None:
    """Set the step size of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def put(place: torch.Tensor, number: float | torch.Tensor) -> None:
    """Write one number into a tensor; if it lies on the device, without asking for it."""
    if isinstance(number, torch.Tensor):
        place.copy_(number)
    else:
        place.fill_(number)


class Average(nn.Module):
    """Exponential moving average of a module's parameters.

    θ̄ ← d·θ̄ + (1−d)·θ with d = min(decay, (1+t)/(10+t)), so that early steps forget fast.
    """

    def __init__(self, source: nn.Module, make: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        self.module = make
        self.module.load_state_dict(source.state_dict())
        self.module.requires_grad_(False)
        self.decay = decay

    def weight(self, step: int) -> float:
        """1 − d."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    def update(self, source: nn.Module, step: int) -> None:
        self.lean(source, self.weight(step))

    def lean(self, source: nn.Module, weight: float | torch.Tensor) -> None:
        """Go the share `weight` of the way to the parameters of `source`."""
        lean(self.module, source, weight)


_found: weakref.WeakKeyDictionary[nn.Module, list[nn.Parameter]] = weakref.WeakKeyDictionary()


def parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those of a module that is complete: they are looked for once, which takes as long as a
    small layer's step."""
    if (known := _found.get(module)) is None:
        known = _found[module] = list(module.parameters())
    return known


@torch.no_grad()
def lean(average: nn.Module, newest: nn.Module, weight: float | torch.Tensor) -> None:
    """θ̄ ← θ̄ + weight · (θ − θ̄) for all parameters; weight a number, or 0-d on their device."""
    mine, theirs = parameters(average), [p.detach() for p in parameters(newest)]
    if isinstance(weight, torch.Tensor):  # torch would ask the device for its value
        way = torch._foreach_sub(theirs, mine)
        torch._foreach_mul_(way, weight)
        torch._foreach_add_(mine, way)
    else:
        torch._foreach_lerp_(mine, theirs, weight)


class Waves(nn.Module):
    """x (N, d) ↦ [x, sin(xF + φ)] (N, d + w), with F ~ N(0, pitch²) and φ ~ U(0, 2π) fixed.

    Sharp edges are out of reach of a small network on x alone (Tancik et al. 2020, Fourier
    features let networks learn high frequency functions in low dimensional domains).

    Args:
        waves: w, how many; 0 leaves x as it is.
        pitch: spread of the frequencies, in radians per unit of x.
    """

    def __init__(self, dim: int, waves: int, pitch: float, rng: torch.Generator) -> None:
        super().__init__()
        self.size = dim + waves
        self.register_buffer("frequency", self.frequencies(dim, waves, pitch, rng))
        phase = torch.rand(waves, generator=rng, device=rng.device) * (2 * math.pi)
        self.register_buffer("phase", phase)

    @staticmethod
    def frequencies(dim: int, waves: int, pitch: float, rng: torch.Generator) -> torch.Tensor:
        """F (d, w)."""
        return pitch * torch.randn(dim, waves, generator=rng, device=rng.device)

    def sines(self, x: torch.Tensor) -> torch.Tensor:
        """sin(xF + φ), (N, d) → (N, w)."""
        return torch.sin(torch.addmm(self.phase, x, self.frequency))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.sines(x)], 1) if len(self.phase) else x


class Best(nn.Module):
    """The weights that did best on validation rows so far, where few rows can be learnt by heart.

    Attributes:
        module: a copy of the network with those weights.
        loss, step: their loss, +∞ at first, and the step at which they stood, 0-d tensors.
    """

    EVERY = 50  # steps between two offers
    ROWS = 2000  # of the validation rows, at most

    def __init__(self, make: nn.Module) -> None:
        super().__init__()
        self.module = make.requires_grad_(False)
        like = next(make.parameters())
        self.register_buffer("loss", torch.full((), math.inf, device=like.device))
        self.register_buffer("step", torch.zeros((), device=like.device))

    @torch.no_grad()
    def offer(self, source: nn.Module, loss: torch.Tensor, step: int | torch.Tensor) -> None:
        """Take over the weights of `source` if its validation `loss` (0-d) is the smallest.

        Decided on the device, for a step never waits for a number to come from there.
        """
        better = loss < self.loss  # never for NaN
        theirs = source.state_dict()
        for name, mine in self.module.state_dict().items():
            mine.copy_(torch.where(better, theirs[name], mine))
        self.loss.copy_(torch.where(better, loss, self.loss))
        at = step if isinstance(step, torch.Tensor) else float(step)
        self.step.copy_(torch.where(better, at, self.step))

    @property
    def found(self) -> bool:
        """Whether any weights were offered yet; costs a transfer from the device."""
        return bool(self.loss.isfinite())

    def forget(self) -> None:
        """Other data came: what did best on the old ones says nothing."""
        self.loss.fill_(math.inf)


STATES = (5056, 16)  # bytes of a generator's state: on the CPU, on a CUDA device


def revive(generator: torch.Generator, state: torch.Tensor) -> None:
    """Set a generator to a kept state. One that was kept on another kind of device cannot go on
    where it stood: there it is seeded with a digest of it, so that the same state still gives the
    same numbers. Raises RuntimeError for what is no state.
    """
    if state.numel() in STATES and state.numel() != generator.get_state().numel():
        digest = hashlib.blake2b(state.cpu().numpy().tobytes(), digest_size=7).digest()
        generator.manual_seed(int.from_bytes(digest, "little"))
    else:
        generator.set_state(state)
