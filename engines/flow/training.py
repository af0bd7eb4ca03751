"""Training steps of spline flows in native code, for live runs: the same numbers to rounding."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from engines.flow import compiled
from engines.flow.autoregressive import SplineAutoregressive
from engines.flow.bases import Gaussian
from engines.flow.kinds import Model
from engines.masked import FREE
from engines.nets import Average

LEAK = 0.01  # of the networks' leaky ReLU


class Native:
    """What of an engine's training step is done in native code.

    Args:
        net: the flow under training, and its noise.
        optimiser, average: of the parameters of net, all of which learn.

    Attributes:
        whole: whether `nll` works out losses and gradients; else autograd does, and only the
            splines are compiled.
        moves: whether `move` takes the optimiser's step.
    """

    def __init__(self, net: Model, optimiser: torch.optim.Adam, average: Average) -> None:
        self.net, self.optimiser, self.average = net, optimiser, average
        compiled.adopt(net)
        self.whole = _whole(net)
        if self.whole:
            self._descent = Descent(net)
            self.nll = self._descent.nll
        parts, means = list(net.parameters()), list(average.module.parameters())
        (group,) = optimiser.param_groups
        usual = not (group["weight_decay"] or group["amsgrad"] or group["maximize"])
        alike = [id(part) for part in parts] == [id(part) for part in group["params"]]
        fit = all(part.is_contiguous() for part in parts) and compiled.plain(*parts, *means)
        self._parts, self._means, self._can_move = parts, means, usual and alike and fit
        self._sizes = (ctypes.c_int64 * len(parts))(*(part.numel() for part in parts))

    @property
    def moves(self) -> bool:
        return self._can_move and bool(self.optimiser.state)  # the first step makes its moments

    def move(self, clip: float, step: int) -> None:
        """Cut the gradients to a length of `clip`, take Adam's step, let the average follow.

        As clip_grad_norm_, the optimiser's own step and Average.update do, on the same state.
        """
        (group,), state = self.optimiser.param_groups, self.optimiser.state
        table = []
        for part, mean in zip(self._parts, self._means):
            kept = state[part]
            of = (part.grad, part, kept["exp_avg"], kept["exp_avg_sq"], kept["step"], mean)
            table += [tensor.data_ptr() for tensor in of]
        compiled.code().adam(
            len(self._parts), self._sizes, (ctypes.c_void_p * len(table))(*table), clip,
            group["lr"], *group["betas"], group["eps"], 1 - self.average.share(step),
        )  # fmt: skip


def _whole(net: Model) -> bool:
    """Whether Descent is made for this model."""
    flow = net.flow
    if type(net.base) is not Gaussian or not isinstance(flow, SplineAutoregressive):
        return False
    told = flow.conditioner
    return bool(told.free) and told.wavy and told.free // 3 <= compiled.MOST


class Descent:
    """Losses and gradients of a SplineAutoregressive in the plane with Gaussian noise.

    The whole way there and back: the same products of matrices as in tensors, and kernels between
    them. What takes autograd some four hundred small operations is about thirty here.
    """

    def __init__(self, net: Model) -> None:
        self.net, told = net, net.flow.conditioner
        self.weights, self.biases, self.first = list(told.weights), list(told.biases), told.first
        self._parts = [*self.weights, *self.biases, self.first]
        self._grads = [torch.empty_like(part) for part in self._parts]

    @torch.no_grad()
    def nll(self, x: Tensor, log_det: Tensor) -> Tensor:
        """Mean of −log q, 0-d; the gradients of the cost are left in the weights' `grad`.

        Args:
            x: (N, 2) rows that come into the flow.
            log_det: (N,) log|det| of the way there.
        """
        z, log_det, kept = self._there(x, log_det)
        g, means = torch.empty_like(z), z.new_empty(2)
        compiled.code().gaussian(
            *z.shape, self.net.base.far, z.data_ptr(), log_det.data_ptr(), g.data_ptr(),
            means.data_ptr(),
        )  # fmt: skip
        self._back(kept, g, z.new_full((1,), -1 / len(z)).expand(len(z)))
        for part, grad in zip(self._parts, self._grads):
            part.grad = grad
        return means[1]

    def _there(self, x: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor, list]:
        """Noise z, log|det| of the whole way, and what every layer leaves for the way back."""
        flow, told, code = self.net.flow, self.net.flow.conditioner, compiled.code()
        log_det = log_det + 2 * flow.mixing.scale.log().sum()
        free, kept, last = FREE * self.first, [], len(self.weights) - 1
        for i in range(len(free)):
            y = x @ flow.mixing.matrix[i]
            angle = torch.addcmul(told.phase[i], y[:, :1], told.frequency[i])
            seen = [torch.cat([y[:, :1], angle.sin()], 1)]
            for j, (w, b) in enumerate(zip(self.weights, self.biases)):
                out = seen[-1] @ w[i]
                leak = LEAK if j < last else 1.0
                code.leaky_forward(*out.shape, leak, b[i].data_ptr(), out.data_ptr())
                seen.append(out)
            x = torch.empty_like(y)
            bent = [
                compiled.forward(y[:, c], theta, flow.bound, x[:, c], log_det, keep=True)
                for c, theta in enumerate((free[i : i + 1], seen[-1]))
            ]
            kept.append((y, angle, seen, bent))
        return x, log_det, kept

    def _back(self, kept: list, g: Tensor, g_log: Tensor) -> None:
        """Fill the gradients, from g (N, 2) of the noise and g_log (N,) of log|det|."""
        flow, code, half = self.net.flow, compiled.code(), len(self.weights)
        g_weights, g_biases, g_first = self._grads[:half], self._grads[half:-1], self._grads[-1]
        for i in reversed(range(len(kept))):
            y, angle, seen, bent = kept[i]
            g_y, back = torch.empty_like(y), torch.empty_like(seen[-1])
            for c, g_theta in enumerate((g_first[i : i + 1], back)):
                compiled.backward(y[:, c], bent[c], flow.bound, g[:, c], g_log, g_y[:, c], g_theta)
            for j in reversed(range(half)):
                code.leaky_backward(
                    *back.shape, LEAK if j < half - 1 else 1.0, seen[j + 1].data_ptr(),
                    back.data_ptr(), g_biases[j][i].data_ptr(),
                )  # fmt: skip
                torch.mm(seen[j].T, back, out=g_weights[j][i])
                if j or i:  # nothing before the first layer learns
                    back = back @ self.weights[j][i].T
            if i:
                slope = angle.cos_().mul_(flow.conditioner.frequency[i])
                g_y[:, 0] += back[:, 0] + (back[:, 1:] * slope).sum(1)
                g = g_y @ flow.mixing.matrix[i].T
        g_first *= FREE
