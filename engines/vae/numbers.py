"""Numbers of a VAE: its bounds and the gap between them, active latents, samples astray."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from engines.marks import Metric, MetricKind
from engines.probes import reference
from engines.vae.bounds import WIDER

if TYPE_CHECKING:
    from engines.vae.engine import VAE

ROWS = 100  # held-out rows of the bounds
ELBO_DRAWS = 50
CODES = 1000  # held-out rows whose codes are looked at
ACTIVE = 0.01  # of the variance of E[z|x] over x (Burda, Grosse & Salakhutdinov 2016)
ASTRAY = 0.001  # share of held-out points that are less probable than what is called astray


class Bounds(NamedTuple):
    """Of held-out rows, (N,) each, in nats: log p(x) by many draws, and the ELBO."""

    importance: Tensor
    elbo: Tensor


@torch.no_grad()
def bounds(engine: VAE) -> Bounds:
    """Both for the first held-out rows. Kept for as long as the model stays as it is."""
    key = (engine.step_count, *(getattr(engine, name) for name in engine.knobs))
    if engine._bounds is None or engine._bounds[0] != key:
        rows = engine.pool.test[:ROWS]
        high = engine.bound(rows, engine.live_draws)
        low = torch.cat([w.mean(1) for w in engine.weights_of(rows, ELBO_DRAWS, alone=True)])
        engine._bounds = (key, Bounds(high, low + engine.shift))
    return engine._bounds[1]


def activity(engine: VAE) -> Tensor:
    """Var_x E[z_j|x] of each latent over held-out rows, (L,)."""
    return engine.encode(engine.pool.test[:CODES]).mean.var(0)


def astray(engine: VAE, n: int = 2000) -> float:
    """Share of decoded prior noise where p(x) is below that of all but a thousandth of the data.

    Of decoded means, without the decoder's own noise: it is about places, not about blur.
    """
    pool = engine.pool
    edge = reference(pool).log_p.quantile(ASTRAY)
    x = engine.decode(engine.randn(n, engine.shown.latents))
    return float((pool.dataset.log_prob(x) < edge).float().mean())


@torch.no_grad()
def metrics(engine: VAE) -> list[Metric]:
    dataset, out = engine.pool.dataset, []
    if engine.has_density:
        found = bounds(engine)

        # all three lie below what they bound: log p(x) twice, and KL(r(z|x)‖p(z|x))
        kind: MetricKind = "lower bound"

        def mean(name: str, values: Tensor, label: str, text: str) -> Metric:
            se = float(values.std()) / len(values) ** 0.5
            return Metric(name, float(values.mean()), "nats", kind, se, label=label, help=text)

        gap = found.importance - found.elbo
        k = engine.live_draws
        out += [
            mean("elbo", found.elbo, "log p(x), ELBO",
                 f"The bound that a VAE is trained by, on {ROWS} held-out rows with {ELBO_DRAWS} "
                 "draws of the encoder's guess each: log p(x) lies above it."),
            mean("log_p", found.importance, f"log p(x), {k:,} draws",
                 "By importance sampling: half of the draws from the encoder's guess, a quarter "
                 f"from one {WIDER:g} times as wide, a quarter from the prior, each weighed by all "
                 "three together. Still below log p(x), and the closer the more draws."),
            mean("gap", gap, "Posterior gap",
                 "Their difference: how far the encoder's Gaussian is from the true guess, "
                 "KL(r(z|x)‖p(z|x)). It is this or more, since log p(x) lies above what is drawn."),
        ]  # fmt: skip
    variance = activity(engine)
    active = int((variance > ACTIVE).sum())
    if engine.has_density:
        out.append(
            Metric("active", float(active), "", "estimate", of=len(variance), label="Active latents",
                   help=f"Latents whose mean varies over the data by more than {ACTIVE}: the others "
                        "tell nothing, and the decoder ignores them."))  # fmt: skip
    if dataset.exact and dataset.kind in ("plane", "line"):
        out.append(
            Metric("astray", 100 * astray(engine), "%", "estimate", floor=0.0,
                   label="Samples off the data",
                   help="Share of decoded noise that lands where the data are less dense than at "
                        "999 of 1,000 held-out points."))  # fmt: skip
    return out
