"""Training steps of spline flows in native code, for live runs: the same numbers to rounding."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from engines.flow import compiled
from engines.flow.autoregressive import SplineAutoregressive
from engines.flow.bases import Gaussian
from engines.flow.kinds import Model
from engines.masked import FREE
from engines.nets import Average

LEAK = 0.01  # of the networks' leaky ReLU


class Native:
    """Whole training steps of a SplineAutoregressive in the plane with Gaussian noise.

    Args:
        net: the flow under training, and its noise.
        optimiser, average: of its parameters.
        clip: what their gradients together are cut to.
    """

    def __init__(
        self, net: Model, optimiser: torch.optim.Adam, average: Average, clip: float
    ) -> None:
        self.net, self.optimiser, self.average, self.clip = net, optimiser, average, clip
        self._descent = Descent(net)
        self._parts, self._means = list(net.parameters()), list(average.module.parameters())
        self._sizes = (ctypes.c_int64 * len(self._parts))(*(p.numel() for p in self._parts))

    @staticmethod
    def fits(net: Model, optimiser: torch.optim.Adam) -> bool:
        """Whether it can take the steps of this model."""
        flow, parts = net.flow, list(net.parameters())
        if type(net.base) is not Gaussian or not isinstance(flow, SplineAutoregressive):
            return False
        told, (group,) = flow.conditioner, optimiser.param_groups
        usual = not (group["weight_decay"] or group["amsgrad"] or group["maximize"])
        alike = [id(part) for part in parts] == [id(part) for part in group["params"]]
        lie = all(part.is_contiguous() for part in parts) and compiled.plain(*parts)
        small = max(told.free, told.each) // 3 <= compiled.MOST
        return bool(told.free) and told.wavy and usual and alike and lie and small

    def __call__(self, x: Tensor, log_det: Tensor, step: int) -> Tensor:
        """One step; the mean of −log q before it, 0-d. See Descent, and Average for `step`."""
        nll = self._descent(x, log_det)
        self.move(step)
        return nll

    def move(self, step: int) -> None:
        """Cut the gradients, take Adam's step along them, let the average follow.

        As clip_grad_norm_, the optimiser's own step and Average.update do, on the same state.
        """
        if not self.optimiser.state:  # the first step makes the moments
            nn.utils.clip_grad_norm_(self._parts, self.clip)
            self.optimiser.step()
            self.average.update(self.net, step)
            return
        (group,), state, table = self.optimiser.param_groups, self.optimiser.state, []
        for part, mean in zip(self._parts, self._means):
            kept = state[part]
            of = (part.grad, part, kept["exp_avg"], kept["exp_avg_sq"], kept["step"], mean)
            table += [tensor.data_ptr() for tensor in of]
        compiled.code().adam(
            len(self._parts), self._sizes, (ctypes.c_void_p * len(table))(*table), self.clip,
            group["lr"], *group["betas"], group["eps"], self.average.weight(step),
        )  # fmt: skip


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

    def __call__(self, x: Tensor, log_det: Tensor) -> Tensor:
        """Mean of −log q, 0-d; the gradients of the cost are left in the weights' `grad`.

        Called where autograd rests.

        Args:
            x: (N, 2) rows that come into the flow.
            log_det: (N,) log|det| of the way there.
        """
        z, log_det, kept = self._there(x, log_det)
        g, means = torch.empty_like(z), z.new_empty(2)  # of the cost, and of −log q
        compiled.code().gaussian(
            *z.shape, z.shape[1] ** 0.5 + Gaussian.FAR, z.data_ptr(), log_det.data_ptr(),
            g.data_ptr(), means.data_ptr(),
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
                compiled.there(y[:, c], theta, flow.bound, x[:, c], log_det, keep=True)
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
                compiled.back(y[:, c], bent[c], flow.bound, g[:, c], g_log, g_y[:, c], g_theta)
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
