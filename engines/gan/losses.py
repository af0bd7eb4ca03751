"""The two players' losses, as functions of D's logits, and penalties on D's slope."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

# D(x) = σ(l) with the logit l, so log D = −softplus(−l) and log(1 − D) = −softplus(l):
# no logarithm of a probability that has rounded to zero.


def value(real: Tensor, fake: Tensor) -> Tensor:
    """V(D, G) = E_p[log D(x)] + E_q[log(1 − D(x))] in nats, from logits (N,) and (M,).

    At the best D for a given G it is −log 4 + 2 JSD(p, q); Goodfellow et al. 2014, eq. 1.
    """
    return -cross_entropy(real, fake)


def cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss: −V, the cross-entropy of telling data from samples."""
    return softplus(-real).mean() + softplus(fake).mean()


def minimax(fake: Tensor) -> Tensor:
    """E_q[log(1 − D)]: what the generator minimises in the zero-sum game.

    Its slope in the logit is −σ(l): nothing where D is sure that a sample is fake.
    """
    return -softplus(fake).mean()


def non_saturating(fake: Tensor) -> Tensor:
    """−E_q[log D]: the same fixed point, with a slope −(1 − σ(l)) that is largest there."""
    return softplus(-fake).mean()


def squares(real: Tensor, fake: Tensor) -> Tensor:
    """½ E_p[(D − 1)²] + ½ E_q[D²], D the network's plain output; best at D = p/(p + q).

    Mao et al. 2017, "Least squares generative adversarial networks", with a = 0, b = c = 1.
    """
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def to_one(fake: Tensor) -> Tensor:
    """½ E_q[(D − 1)²]: the further D puts a sample from 1, the harder it is pulled."""
    return (fake - 1).square().mean() / 2


def difference(real: Tensor, fake: Tensor) -> Tensor:
    """E_q[f] − E_p[f]: over critics of slope at most 1, minus the Wasserstein-1 distance.

    Arjovsky, Chintala & Bottou 2017, "Wasserstein generative adversarial networks". What
    bounds the slope is a penalty, or clipped weights.
    """
    return fake.mean() - real.mean()


def climb(fake: Tensor) -> Tensor:
    """−E_q[f]: uphill on the critic, everywhere at the same pace."""
    return -fake.mean()


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """E_p[max(0, 1 − f)] + E_q[max(0, 1 + f)]: what is beyond the margin is left alone.

    The best f is the sign of p − q. Lim & Ye 2017, "Geometric GAN".
    """
    return relu(1 - real).mean() + relu(1 + fake).mean()


def pairs(real: Tensor, fake: Tensor) -> Tensor:
    """−E[log σ(f(x) − f(y))] over pairs of a data point x and a sample y.

    The best f is log p − log q, up to a constant. Jolicoeur-Martineau 2018, "The
    relativistic discriminator"; Huang et al. 2024, "The GAN is dead; long live the GAN!",
    who show that no mode can be left out without a price, and add R1 and R2.
    """
    return softplus(fake - real).mean()


def turned(fake: Tensor, real: Tensor) -> Tensor:
    """−E[log σ(f(y) − f(x))]: the generator wants the order of each pair reversed."""
    return pairs(fake, real)


def averages(real: Tensor, fake: Tensor) -> Tensor:
    """−E_p[log σ(f(x) − E_q f)] − E_q[log σ(E_p f − f(y))]: each against the other's mean.

    Jolicoeur-Martineau 2018, the average form; cross-entropy of logits that are centred so.
    """
    return cross_entropy(real - fake.mean(), fake - real.mean())


def turned_averages(fake: Tensor, real: Tensor) -> Tensor:
    """The same with data and samples exchanged."""
    return averages(fake, real)


@dataclass(frozen=True)
class Loss:
    """The two players' losses as functions of what D says of real (N,) and fake (M,) rows.

    Attributes:
        discriminator: (real, fake) → 0-d.
        generator: (fake) → 0-d, or (fake, real) → 0-d if `relative`.
        of_d, of_g: both as equations, of data x ∼ p and samples y ∼ q.
        relative: the generator's loss looks at the data as well; then N = M.
        probability: turns D's output into its probability of "data"; None for a critic,
            whose values are not probabilities.
        zero: a critic's 0 means something; otherwise it is known up to a constant only.
        ratio: the best critic is log p − log q, up to a constant.
        plays_value: what D maximises is V.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[..., Tensor]
    of_d: str = ""
    of_g: str = ""
    relative: bool = False
    probability: Callable[[Tensor], Tensor] | None = torch.sigmoid
    zero: bool = False
    ratio: bool = False
    plays_value: bool = False

    def of_generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss; `real` is asked for where the loss is `relative`."""
        return self.generator(fake, real) if self.relative else self.generator(fake)


_TELL = "−E_{p}[log D(x)] − E_{q}[log(1 − D(y))]"

LOSSES: dict[str, Loss] = {
    "non-saturating": Loss(
        cross_entropy, non_saturating, _TELL, "−E_{q}[log D(y)]", plays_value=True
    ),
    "minimax": Loss(cross_entropy, minimax, _TELL, "E_{q}[log(1 − D(y))]", plays_value=True),
    "least squares": Loss(
        squares, to_one, "½E_{p}[(D(x) − 1)^{2}] + ½E_{q}[D(y)^{2}]", "½E_{q}[(D(y) − 1)^{2}]",
        probability=lambda output: output,
    ),
    "Wasserstein": Loss(
        difference, climb, "E_{q}[f(y)] − E_{p}[f(x)]", "−E_{q}[f(y)]", probability=None
    ),
    "hinge": Loss(
        hinge, climb, "E_{p}[max(0, 1 − f(x))] + E_{q}[max(0, 1 + f(y))]", "−E_{q}[f(y)]",
        probability=None, zero=True,
    ),
    "relativistic": Loss(
        pairs, turned, "−E[log σ(f(x) − f(y))]", "−E[log σ(f(y) − f(x))]",
        relative=True, probability=None, ratio=True,
    ),
    "relativistic average": Loss(
        averages, turned_averages,
        "−E_{p}[log σ(f(x) − E_{q}[f])] − E_{q}[log σ(E_{p}[f] − f(y))]",
        "−E_{q}[log σ(f(y) − E_{p}[f])] − E_{p}[log σ(E_{q}[f] − f(x))]",
        relative=True, probability=None,
    ),
}  # fmt: skip


def equation(loss: str, r1: float, r2: float, slope_one: float, clip: float) -> str:
    """What both players minimise, with the penalties whose weights are not 0.

    f is the network's plain output; D is its sigmoid, or itself with least squares.
    """
    game = LOSSES[loss]
    f = "D" if loss == "least squares" else "f"
    of_d = game.of_d
    for weight, term in (
        (r1, f"½R_{{1}}E_{{p}}|∇{f}|^{{2}}"),
        (r2, f"½R_{{2}}E_{{q}}|∇{f}|^{{2}}"),
        (slope_one, f"λE[(|∇{f}(ux + (1 − u)y)| − 1)^{{2}}]"),
    ):
        of_d += f" + {term}" if weight > 0 else ""
    where = "y\u00a0=\u00a0G(z)"  # never over two lines
    if game.plays_value:
        where += ",  D = σ(f)"
    if loss == "Wasserstein" and clip > 0:
        where += ",  weights of f in ±c"
    return f"L_{{D}} = {of_d},  L_{{G}} = {game.of_g},  {where}"


# ---------------------------------------------------------------- penalties


def squared_slope(logits: Tensor, x: Tensor) -> Tensor:
    """|∇ₓ l(x)|² of each row, (N,), kept in the graph.

    R1 is r1/2 · E_p of it (Mescheder, Geiger & Nowozin 2018): a discriminator that is flat
    on the data lets the game settle where p = q, instead of circling round it. R2 is the
    same over the samples.
    """
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slope.square().sum(1)


def slope_from_one(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor
) -> Tensor:
    """E[(|∇f(x̂)| − 1)²] on lines x̂ = u x + (1 − u) y from data x to samples y, 0-d.

    Gulrajani et al. 2017, "Improved training of Wasserstein GANs": the best critic has slope
    1 almost everywhere on those lines.

    Args:
        critic: (N, d) → (N,).
        real, fake: (N, d).
        mix: (N, 1), u, uniform on [0, 1].
    """
    between = mix * real + (1 - mix) * fake
    if not between.requires_grad:
        between.requires_grad_()
    steepness = (squared_slope(critic(between), between) + 1e-12).sqrt()
    return (steepness - 1).square().mean()
