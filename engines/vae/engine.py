"""The VAE engine: plain autoencoder, VAE, β-VAE and importance-weighted autoencoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from engines import nets
from engines.base import Engine
from engines.capture import Capture
from engines.data.base import Dataset, Pool, dequantised
from engines.knobs import action, knob
from engines.marks import Metric, Panel
from engines.pace import Pieces
from engines.vae import numbers, pictures
from engines.vae.bounds import (
    Posterior,
    freed,
    importance_bound,
    log_prior,
    log_weights,
    proposed,
)
from engines.vae.decoders import Gaussian, Levels
from engines.vae.networks import Net

BOUNDED = ("VAE", "importance-weighted")
TILE = 4096  # draws at a time, so that a network's activations stay in the cache


class VAE(Engine):
    """Encoder and decoder, trained together by a lower bound of log p(x)."""

    name = "vae"
    family = "VAE"
    place = 6
    title = "Variational autoencoder"
    tagline = (
        "A decoder turns simple noise into data, and an encoder learns which noise may have made "
        "each of them."
    )
    objective = "log p(x) ≥ E_{r(z|x)}[log p(x|z)] − β·KL(r(z|x)‖p(z))"
    look_for = (
        "Each ellipse is the encoder's guess of the noise behind one point: together they should "
        "fill the prior's circles, without holes. The gap between the bound and log p(x) says "
        "what it costs that they are ellipses."
    )
    paper = (
        "Kingma & Welling (2014), Auto-encoding variational Bayes; Rezende, Mohamed & Wierstra "
        "(2014); β: Higgins et al. (2017); importance-weighted: Burda, Grosse & Salakhutdinov (2016)"
    )
    compare = {
        "Autoencoder": {"kind": "autoencoder"},
        "Importance-weighted": {"kind": "importance-weighted"},
        "β = 4": {"beta": 4.0},
    }
    density = "bound"
    density_kind = "approximate"
    principle = "variational bound"
    if_diverged = "Try a smaller learning rate."

    kind: Literal["VAE", "autoencoder", "importance-weighted"] = knob(
        "VAE",
        help="VAE: one guess a point, by the ELBO; importance-weighted: k guesses, a tighter "
        "bound; autoencoder: no noise and no prior, only reconstruction.",
    )
    k: int = knob(
        8, 1, 64, log=True, live=True, label="Guesses (k)", when={"kind": "importance-weighted"},
        help="Draws of z for each point; with one it is the VAE.",
    )  # fmt: skip
    beta: float = knob(
        1.0, 0.0, 20.0, live=True, label="β", when={"kind": BOUNDED},
        help="Weight of KL(r‖prior): 1 is the bound of log p(x), more asks for a simpler code, 0 "
             "for none of the prior.",
    )  # fmt: skip
    warm_up: int = knob(
        0, 0, 2000, label="β warm-up", when={"kind": BOUNDED},
        help="Steps over which β rises from 0, so that the code is in use before it has to pay.",
    )  # fmt: skip
    free_bits: float = knob(
        0.0, 0.0, 8.0, live=True, when={"kind": "VAE"},
        help="Nats that each latent may tell for nothing, on average over a batch.",
    )  # fmt: skip
    noise: Literal["of z", "learnt", "fixed"] = knob(
        "of z", label="Decoder's noise", when={"kind": BOUNDED},
        help="Of z: the decoder tells it for every place; learnt: one σ for all; fixed: as you "
             "set it.",
    )  # fmt: skip
    sigma: float = knob(
        0.3, 0.01, 2.0, log=True, live=True, label="Noise (σ)",
        when={"noise": "fixed", "kind": BOUNDED},
        help="The decoder's noise in standard deviations of the data.",
    )  # fmt: skip
    latents: int = knob(
        0, 0, 32, label="Latents",
        help="Numbers in the code; 0 is as many as the data have, between 2 and 16.",
    )  # fmt: skip
    guess: Literal["full", "diagonal"] = knob(
        "full", label="Encoder's Gaussian", when={"kind": BOUNDED},
        help="Whether the latents of a guess may depend on each other: tilted ellipses, or "
             "upright ones.",
    )  # fmt: skip
    width: int = knob(64, 8, 512, log=True, help="Units in each hidden layer.")
    hidden: int = knob(2, 1, 4, label="Hidden layers", help="Of the encoder, and of the decoder.")
    lr: float = knob(
        5e-3, 1e-5, 1e-1, log=True, live=True, label="Learning rate",
        help="Adam's step size; it falls after the first five hundred steps.",
    )  # fmt: skip
    batch: int = knob(512, 16, 4096, log=True, live=True, help="Data points a step.")
    best: bool = knob(
        True, view=True, label="Best weights",
        help="Show weights averaged over recent steps; on images, those that did best on the "
             "validation rows, before the digits are learnt by heart.",
    )  # fmt: skip

    capture = Capture(dials=("lr", "beta", "free_bits", "sigma"))
    K = 1000  # draws of z for log_prob
    probe_rows = 1000  # held-out rows of the live numbers
    PICTURE = 8  # draws of z for a picture's field
    field_note = f"a bound, {PICTURE} draws"
    VALID = 8  # draws of z for a validation
    WAVES, PITCH = 64, 2.0
    WARM, SETTLED = 100, 500  # steps: the step size rises, and falls as 1/√
    PACE = 5.0  # of log σ, a single number with a long way to go
    AVERAGE = 0.998
    BETAS = (0.9, 0.99)
    FIRST, FIRST_PIXELS = 0.0, -0.5  # log σ of the decoder at the start

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind == "sequence":
            return "The VAE here takes points and pictures, not sequences of steps or tokens."
        return None

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self._integers = pool.dequantise
        n = self.latents or min(max(self.dim, 2), 16)
        start = self.FIRST_PIXELS if self._integers else self.FIRST
        start = math.log(self.sigma) if self.noise == "fixed" else start
        if self._integers:
            levels, unit = pool.dataset.levels, float(pool.std[0])
            head = Levels(self.dim, levels, unit, self.noise, start, self.device)
            bias = torch.zeros(head.size, device=self.device)
            bias[: self.dim] = (pool.mean - 0.5 - levels / 2) / unit
        else:
            head = Gaussian(self.dim, self.noise, start, self.device)
            bias = torch.zeros(head.size, device=self.device)
        full = self.guess == "full" and self.kind in BOUNDED
        self.net = Net(self.dim, n, self.width, self.hidden, head,
                       0 if self._integers else self.WAVES, self.PITCH, full, bias, self.rng)  # fmt: skip
        self.average = nets.Average(self.net, copy.deepcopy(self.net), self.AVERAGE)
        sigma = head.log_sigma
        rest = [p for p in self.net.parameters() if p.requires_grad and p is not sigma]
        groups = [{"params": rest}, {"params": [sigma] if sigma.requires_grad else []}]
        self.optimiser = nets.adam(groups, self.lr, self.BETAS)
        self.pair = 0  # which two rows are shown with what lies between
        if self._integers:
            self.kept = nets.Best(copy.deepcopy(self.net))
            self.validation = torch.full((), math.nan, device=self.device)
        self.refresh()

    def refresh(self) -> None:
        self._bounds: tuple | None = None  # of the held-out rows, see numbers.py
        if self._integers:
            # fixed draws: two validations differ by the weights alone
            rng = torch.Generator(self.device).manual_seed(6_000_011)
            rows = self.pool.val
            self._held_noise = torch.randn(
                len(rows), self.VALID, self.net.latents, generator=rng, device=self.device
            )

    def feed(self, pool: Pool) -> None:
        super().feed(pool)
        if self._integers:
            self.kept.forget()

    def changed(self, name: str) -> None:
        if name == "sigma" and self.noise == "fixed":
            for net in self._nets():
                net.head.log_sigma.data.fill_(math.log(self.sigma))

    def _nets(self) -> list[Net]:
        more = [self.kept.module] if self._integers else []
        return [self.net, self.average.module, *more]

    def prepare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows in data units → what the encoder sees, and what the decoder is asked for."""
        if not self._integers:
            z = self.standardise(x)
            return z, z
        whole = x.floor()
        return self.standardise(whole + 0.5), whole

    @property
    def shift(self) -> Tensor | float:
        """What a log-probability of `prepare`d rows lacks to be one in data units."""
        # pixels are integers, whose cells have volume 1
        return 0.0 if self._integers else -self.log_std

    def live_numbers(self) -> dict[str, float]:
        t = self.age + 1
        more = {
            "rate": self.lr * min(t / self.WARM, (self.SETTLED / t) ** 0.5, 1),
            "fade": self.average.weight(t), "beta_now": self.beta_now, "next": self.step_count + 1,
        }  # fmt: skip
        return {**super().live_numbers(), **more}

    def occasion(self, step: int) -> bool:
        return self._integers and (step - self.fed_at) % nets.Best.EVERY == 0

    def step(self) -> dict[str, Tensor]:
        rate = self.number("rate")
        nets.set_lr(self.optimiser, rate)
        self.optimiser.param_groups[1]["lr"] = rate * self.PACE
        seen, asked = self.prepare(self.pool.batch(self.batch, self.rng))
        self.optimiser.zero_grad()
        loss, told = self.loss(seen, asked)
        loss.backward()
        self.optimiser.step()
        self.average.lean(self.net, self.number("fade"))
        if not self._integers:
            return told
        if self.age % nets.Best.EVERY == 0:
            self.validate()
        return {**told, "validation": self.validation.clone()}

    def loss(self, seen: Tensor, asked: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What is made smaller (0-d, with its slope), and the losses that are shown."""
        r = self.net.encode(seen)
        if self.kind == "autoencoder":
            error = self.squared_error(self.net, r.mean, asked).mean()
            return error, {"squared error": error.detach()}
        beta = self.number("beta_now")
        k = self.k if self.kind == "importance-weighted" else 1
        n, latents = r.mean.shape
        noise = torch.randn(n, k, latents, generator=self.rng, device=self.device)
        z = r.draw(noise)
        log_lik = self.log_lik(self.net, z, asked)
        each, together = r.kl()
        if k > 1:
            log_w = log_weights(log_lik, z, noise, r)
            tempered = log_lik + beta * (log_w - log_lik)
            loss, bound = -importance_bound(tempered).mean(), importance_bound(log_w).mean()
        else:
            rate = freed(each, self.number("free_bits")) + together.mean()
            likely = log_lik.mean()
            loss, bound = beta * rate - likely, None
        with torch.no_grad():
            likely, kl = log_lik.mean() if k > 1 else likely, each.sum() / n + together.mean()
            return loss, {
                "−bound": -((likely - kl if bound is None else bound) + self.shift),
                "reconstruction": -(likely + self.shift),
                "KL": kl,
            }

    @property
    def beta_now(self) -> float:
        """β of the next step, which rises over the first `warm_up` steps of the run.

        Of the run and not of the data (`age`): the warm-up is for a code that does not speak
        yet. When other data come, it does; and while someone draws, they come with every frame.
        """
        return self.beta * min(1.0, (self.step_count + 1) / max(self.warm_up, 1))

    def squared_error(self, net: Net, z: Tensor, asked: Tensor) -> Tensor:
        """½|x − E[x|z]|² in standard deviations of the data, z (N, L) → (N,)."""
        off = net.head.mean(net.decode(z)) - asked
        off = off / self._std if self._integers else off
        return 0.5 * off.square().sum(1)

    def log_lik(self, net: Net, z: Tensor, asked: Tensor) -> Tensor:
        """log p(x|z) of K draws of z for each row, (N, K, L) and (N, d) → (N, K)."""
        n, k, latents = z.shape
        rows = asked if k == 1 else asked.repeat_interleave(k, 0)
        return net.head.log_prob(net.decode(z.reshape(n * k, latents)), rows).view(n, k)

    @torch.no_grad()
    def validate(self) -> None:
        """Offer the averaged weights to `kept` by what they lose on the validation rows."""
        net = self.average.module
        seen, asked = self.prepare(self.pool.val)
        r = net.encode(seen)
        if self.kind == "autoencoder":
            loss = self.squared_error(net, r.mean, asked).mean()
        else:
            z = r.draw(self._held_noise)
            log_w = log_weights(self.log_lik(net, z, asked), z, self._held_noise, r)
            loss = -importance_bound(log_w).mean()
        self.validation.copy_(loss)
        self.kept.offer(net, loss, self.number("next"))

    # ------------------------------------------------------------ the model

    @property
    def has_density(self) -> bool:
        return self.kind != "autoencoder"

    @property
    def loss_is_nll(self) -> bool:
        return self.kind != "autoencoder"

    @property
    def loss_label(self) -> str:
        return "nats" if self.kind != "autoencoder" else "½|x − x̂|², data σ"

    @property
    def shown(self) -> Net:
        """The networks that are looked at, sampled and measured."""
        if not self.best:
            return self.net
        return self.kept.module if self._integers and self.step_count else self.average.module

    def encode(self, x: Tensor) -> Posterior:
        """r(z|x) of rows in data units."""
        return self.shown.encode(self.prepare(x)[0])

    def decode(self, z: Tensor) -> Tensor:
        """E[x|z] in data units, (N, L) → (N, d); on images in the middle of each level's cell."""
        mean = self.shown.head.mean(self.shown.decode(z))
        return mean + 0.5 if self._integers else self.unstandardise(mean)

    def log_prob(self, x: Tensor) -> Tensor:
        """Lower bound of log p(x) in nats by 1,000 draws around r(z|x), (N, d) → (N,).

        On images of log P(⌊x⌋), whose cells have volume 1. Raises NotImplementedError for a plain
        autoencoder, which has no density: nothing says how likely a code is.
        """
        return self.bound(x, self.K)

    def field_log_prob(self, x: Tensor) -> Tensor:
        """The same by so few draws that a picture can wait for it; the same noise everywhere."""
        return self.bound(x, self.PICTURE, common=True)

    def probe_log_prob(self, x: Tensor) -> Tensor:
        """What live numbers take: the bound by fewer draws, since a thousand take too long."""
        return self.bound(x, self.live_draws)

    def probe_pieces(self, x: Tensor) -> Pieces[Tensor]:
        found = []
        for log_w in self.weights_of(x, self.live_draws):
            found.append(importance_bound(log_w))
            yield
        return torch.cat(found) + self.shift

    @property
    def live_draws(self) -> int:
        """Draws of z for each row of a live number."""
        return 100 if self._integers else 250

    @torch.no_grad()
    def bound(self, x: Tensor, k: int, common: bool = False) -> Tensor:
        """L_k(x) in data units, (N, d) → (N,).

        Args:
            common: the same noise for all rows, so that a field is smooth.
        """
        found = [importance_bound(log_w) for log_w in self.weights_of(x, k, common)]
        return torch.cat(found) + self.shift

    def weights_of(
        self, x: Tensor, k: int, common: bool = False, alone: bool = False
    ) -> Iterator[Tensor]:
        """Log-weights of k draws for each row, tile by tile (n, k), without `shift`.

        Args:
            alone: draws of the guess r(z|x) and nothing else, whose mean log-weight is the ELBO.
        """
        if not self.has_density:
            raise NotImplementedError(
                "A plain autoencoder has no density: nothing says how likely a code is."
            )
        net, latents = self.shown, self.shown.latents
        seen, asked = self.prepare(x)
        with self.still(stream=7):
            fixed = self.randn(1, k, latents) if common else None
            rows = max(1, TILE // k)
            for part, wanted in zip(seen.split(rows), asked.split(rows), strict=True):
                r, n = net.encode(part), len(part)
                noise = self.randn(n, k, latents) if fixed is None else fixed.expand(n, -1, -1)
                z, log_q = (r.draw(noise), r.log_prob(noise)) if alone else proposed(r, noise)
                yield self.log_lik(net, z, wanted) + log_prior(z) - log_q

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n samples (n, dim): noise of the prior, decoded; an autoencoder's without any noise."""
        rng = generator or self.view_rng
        z = self.randn(n, self.shown.latents, generator=rng)
        if not self.has_density:
            return self.decode(z)
        x = self.shown.head.sample(self.shown.decode(z), rng)
        if not self._integers:
            return self.unstandardise(x)
        return dequantised(x, rng)

    # ------------------------------------------------------------ looking

    @action("Another pair")
    def another_pair(self) -> None:
        """Show what lies between two other rows."""
        self.pair += 1

    def metrics(self) -> list[Metric]:
        return numbers.metrics(self)

    def panels(self) -> list[Panel]:
        return pictures.panels(self)
