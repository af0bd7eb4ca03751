"""Looking ahead: the discriminator as it will be after a few more steps, as a function of G."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Parameters = Mapping[str, Tensor]


def look_ahead(
    player: nn.Module,
    loss: Callable[[Parameters], Tensor],
    optimiser: torch.optim.Adam,
    lr: float,
    steps: int,
    clip: float | None = None,
) -> dict[str, Tensor]:
    """The player's parameters after `steps` Adam steps down `loss`, kept in the graph.

        θ₀ = θ,  θᵢ₊₁ = θᵢ − lr · mᵢ/(√vᵢ + ε)  with m, v the moments of ∇L(θᵢ)

    Nothing of the player or its optimiser changes. Differentiating what is made of the result
    goes through every gradient ∇L(θᵢ), that is, through second derivatives of L, but takes the
    scales √vᵢ as constants: each is then a plain gradient step with a step size of its own for
    each parameter. Metz et al. 2017, "Unrolled generative adversarial networks".

    Args:
        player: whose parameters they are.
        loss: parameters by name → 0-d; it may depend on the other player's weights as well.
        optimiser: the player's own Adam, whose moments are where the steps begin.
    """
    names = [name for name, _ in player.named_parameters()]
    now = list(player.parameters())
    group = optimiser.param_groups[0]
    (b1, b2), eps = group["betas"], group["eps"]
    kept = [optimiser.state.get(p) or {} for p in now]
    count = kept[0]["step"].double() if kept[0] else torch.zeros((), dtype=torch.float64)
    first = [s["exp_avg"] if s else torch.zeros_like(p) for s, p in zip(kept, now, strict=True)]
    second = [s["exp_avg_sq"] if s else torch.zeros_like(p) for s, p in zip(kept, now, strict=True)]
    for i in range(1, steps + 1):
        t = count.to(now[0].device) + i  # a tensor: a step never waits for a number from the device
        slopes = torch.autograd.grad(loss(dict(zip(names, now, strict=True))), now,
                                     create_graph=True)  # fmt: skip
        first = [b1 * m + (1 - b1) * g for m, g in zip(first, slopes, strict=True)]
        second = [b2 * v + (1 - b2) * g.detach() ** 2 for v, g in zip(second, slopes, strict=True)]
        scale = [(v / (1 - b2**t)).sqrt() + eps for v in second]
        now = [p - lr / (1 - b1**t) * m / s for p, m, s in zip(now, first, scale, strict=True)]
        if clip is not None:
            now = [p.clamp(-clip, clip) for p in now]
    return dict(zip(names, now, strict=True))
