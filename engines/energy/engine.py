"""The energy-based engine: a network's energy, lowered on data and raised where chains go."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from engines import nets
from engines.base import Engine
from engines.capture import Capture
from engines.data.base import Dataset, Pool
from engines.energy import langevin, pictures
from engines.energy.langevin import Moves, Trace
from engines.energy.network import Energy
from engines.knobs import knob
from engines.marks import Box, Metric, Panel
from engines.pace import Pieces, finish
from engines.quadrature import Quadrature, domain

PERSISTENT, CONTRASTIVE, SHORT = "persistent CD", "contrastive divergence", "short-run"


class EnergyBased(Engine):
    """q(x) = exp(−E(x)/T)/Z on a declared domain, E a SiLU network on standardised data.

    The slope of the log-likelihood is −E_p[∂E/∂θ]/T + E_q[∂E/∂θ]/T: the energy sinks at data and
    rises at draws of the model. Those come from Markov chains that use only slopes of E, never Z.
    In the plane Z is worked out by quadrature beside, for what is shown and measured; training
    never sees it.

    References: Hinton 2002 (contrastive divergence); Tieleman 2008 (persistent chains); Nijkamp
    et al. 2019 (short-run chains); Du & Mordatch 2019 (replay buffer, energies kept small).
    """

    name: ClassVar[str] = "energy"
    family: ClassVar[str] = "Energy"
    place: ClassVar[float] = 4.0
    title = "Energy-based model"
    tagline = (
        "Any function can be an energy: it sinks where data are, and rises where the model's own "
        "samples go."
    )
    objective = "q(x) = e^{−E(x)/T} / Z,   ∇_{θ} log q = −E_{p}[∇_{θ}E]/T + E_{q}[∇_{θ}E]/T"
    look_for = (
        "Blue arrows pull the slope towards data, orange ones push it off the chains: where the "
        "two cancel, learning is done. Without the energy penalty log Z drifts away, and the "
        "density does not care: only differences of E matter."
    )
    paper = (
        "Hinton, 2002: Training Products of Experts by Minimizing Contrastive Divergence; "
        "Tieleman, 2008; Nijkamp et al., 2019; Du & Mordatch, 2019"
    )
    density = "exact"
    density_kind = "approximate"
    principle = "maximum likelihood"
    loss_label = "E on data − E on chains"
    if_diverged = "Try a smaller learning rate, or a smaller Langevin step."
    followed: ClassVar[Mapping[str, tuple[str, str]]] = {"log_z": ("log Z", "nats")}
    compare: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Contrastive divergence": {"method": CONTRASTIVE},
        "Short-run chains": {"method": SHORT},
        "Without Metropolis": {"metropolis": False},
    }

    method: Literal["persistent CD", "contrastive divergence", "short-run"] = knob(
        PERSISTENT, live=True,
        help="Where chains begin: where they stopped (a replay buffer), at data, or at noise.",
    )  # fmt: skip
    k: int = knob(
        3, 1, 100, log=True, live=True, label="Chain length k",
        help="Langevin moves of each chain before each update of the weights.",
    )  # fmt: skip
    langevin: float = knob(
        0.3, 0.01, 1.0, log=True, live=True, label="Langevin step ε",
        help="Size of a chain's first move, in standard deviations of the data; moves shrink to "
             "a thirtieth of it along the chain.",
    )  # fmt: skip
    metropolis: bool = knob(
        True, live=True, label="Metropolis correction", kinds=("plane",),
        help="Accept or refuse each move so that chains draw from exactly q, however large ε is. "
        "In the plane only: of images it would refuse nearly every move.",
    )  # fmt: skip
    noise: float = knob(
        1.0, 0.0, 2.0, live=True, when={"metropolis": False},
        help="Multiplies the noise of each move: 1 is Langevin's in the plane, less is a colder chain.",
    )  # fmt: skip
    leaps: bool = knob(
        True, live=True, label="Far leaps", when={"method": PERSISTENT, "metropolis": True},
        kinds=("plane",),
        help="After its moves each chain also tries two far places: one anywhere, and one as far "
             "off as two other chains are from each other.",
    )  # fmt: skip
    buffer: int = knob(
        4096, 64, 16384, log=True, label="Chains kept", when={"method": PERSISTENT},
        help="Chains in the replay buffer; each update moves as many of them as a batch has rows.",
    )  # fmt: skip
    restarts: float = knob(
        0.0, 0.0, 1.0, live=True, label="Begun anew", when={"method": PERSISTENT},
        help="Share of the chains that begin anew from noise at each update.",
    )  # fmt: skip
    temperature: float = knob(
        1.0, 0.1, 5.0, log=True, live=True,
        help="T in exp(−E/T): hot is flat, cold is sharp. Training goes on at this temperature.",
    )  # fmt: skip
    lr: float = knob(
        2e-3, 1e-5, 1e-1, log=True, live=True, label="Learning rate",
        help="Adam's step size; it falls after the first few hundred steps.",
    )  # fmt: skip
    batch: int = knob(256, 16, 2048, log=True, live=True,
                      help="Data points, and as many chains, in each update.")  # fmt: skip
    penalty: float = knob(
        1e-3, 0.0, 1.0, live=True, label="Energy penalty",
        help="Adds this times E² on data and chains to the loss: it ties down the constant that "
             "the likelihood leaves free, and flattens E.",
    )  # fmt: skip
    width: int = knob(128, 16, 256, log=True, help="Units in each hidden layer.")
    hidden: int = knob(2, 1, 4, label="Hidden layers", help="Hidden layers of the energy.")
    waves: int = knob(
        64, 0, 256, label="Sine features", kinds=("plane",),
        help="Fixed random sines of x that the network sees beside x, in the plane only: without "
             "them sharp edges are out of its reach.",
    )  # fmt: skip
    averaged: bool = knob(
        True, view=True, label="Averaged weights",
        help="Show the energy with weights averaged over recent steps, or the weights themselves.",
    )  # fmt: skip
    walk: int = knob(
        60, 5, 200, view=True, label="Moves drawn",
        help="Moves of the chains in the picture of chains; short-run chains stop after k.",
    )  # fmt: skip

    capture = Capture(dials=("lr", "langevin", "noise", "restarts", "temperature", "penalty"))
    WARM, BEGIN, POWER = 30, 200, 0.5  # steps of warming up; then lr falls as (BEGIN/t)^POWER
    AVERAGE = 0.999
    BETAS = (0.0, 0.99)  # momentum makes energies and chains swing past each other
    PITCH = 3.0
    FALL = 0.03
    SETTLE = 3  # moves of each kept chain before it is shown as a sample
    TILE = 2048

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind in ("plane", "images"):
            return None
        return "An energy-based model here needs data in the plane, or images."

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        waves = self.waves if self.dim == 2 else 0
        self.net = Energy(self.dim, self.width, self.hidden, waves, self.PITCH, self.rng)
        self.average = nets.Average(self.net, copy.deepcopy(self.net), self.AVERAGE)
        self.optimiser = nets.adam(self.net.parameters(), self.lr, self.BETAS)
        self.refresh()
        self.chains = self.moves().anywhere(self.buffer, self.rng)
        self.accepted = torch.ones((), device=self.device)  # of the last step's moves

    def refresh(self) -> None:
        self._box = self.domain()
        low, high = self._bounds(self._box)
        self._low, self._high = self.standardise(low), self.standardise(high)
        self._quadrature_key = self._quadrature = self._outside = None

    def domain(self) -> Box | None:
        """The box of the plane that q is normalised on; None for images."""
        return domain(self.pool) if self.dim == 2 else None

    def _bounds(self, box: Box | None) -> tuple[Tensor, Tensor]:
        """The domain's corners in data units, (dim,) each; of images, all that pixels can be."""
        if box is None:
            low = torch.zeros(self.dim, device=self.device)
            return low, low + self.pool.dataset.levels
        x0, x1, y0, y1 = box
        return (torch.tensor([x0, y0], device=self.device),
                torch.tensor([x1, y1], device=self.device))  # fmt: skip

    def moves(self) -> Moves:
        """How chains move under the present knobs.

        In many dimensions a noise that leaves q as it is drowns an image, and Metropolis' rule
        refuses nearly every move of use. As is the custom there, chains are cold: their noise is
        as long as in the plane, κ ε √(2/dim) ξ, and no move is refused.
        """
        plane = self.dim == 2
        noise = self.number("noise")
        noise = noise if plane else noise * math.sqrt(2 / self.dim)
        return Moves(
            self._low, self._high, self.k, self.number("langevin"), self.FALL, noise,
            self.number("temperature"),
            self.metropolis and plane,
        )  # fmt: skip

    def live_numbers(self) -> dict[str, float]:
        t = self.age + 1
        chains = min(self.batch, self.buffer)
        more = {
            "rate": self.lr * min(t / self.WARM, (self.BEGIN / t) ** self.POWER, 1),
            "fade": self.average.weight(t), "turn": self.step_count * chains % self.buffer,
        }  # fmt: skip
        return {**super().live_numbers(), **more}

    def step(self) -> dict[str, Tensor]:
        z = self.standardise(self.pool.batch(self.batch, self.rng))
        chains = self.negatives(z)
        nets.set_lr(self.optimiser, self.number("rate"))
        energy = self.net(torch.cat([z, chains]))
        low, high = energy[: len(z)], energy[len(z) :]
        gap = low.mean() - high.mean()
        loss = gap / self.number("temperature")
        if self.penalty > 0:
            loss = loss + self.number("penalty") * (low.square().mean() + high.square().mean())
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.average.lean(self.net, self.number("fade"))
        return {"energy gap": gap.detach()}

    def negatives(self, z: Tensor) -> Tensor:
        """Where this step's chains have come to, (M, dim); `z` (N, dim) are its data."""
        moves, force = self.moves(), self.net.force
        if self.method != PERSISTENT:
            begin = z if self.method == CONTRASTIVE else moves.anywhere(len(z), self.rng)
            out, _, trace = langevin.run(force, begin, moves, self.rng)
            self.accepted.copy_(trace.accepted.float().mean())
            return out
        # all chains have their turn, one block after the other
        n = min(len(z), len(self.chains))
        first = self.number("turn")
        first = first.long() if isinstance(first, Tensor) else first
        turn = torch.arange(n, device=self.device).add_(first) % len(self.chains)
        # other data may have brought another domain, and left chains outside of it
        begin = self.chains[turn].clamp(self._low, self._high)
        if self.restarts > 0:
            anew = torch.rand(n, 1, generator=self.rng, device=self.device) < self.number(
                "restarts"
            )
            begin = torch.where(anew, moves.anywhere(n, self.rng), begin)
        out, energy, trace = langevin.run(force, begin, moves, self.rng)
        self.accepted.copy_(trace.accepted.float().mean())
        if self.leaps and moves.metropolis:
            out = self._leap(self.net, out, energy, moves, self.rng)
        self.chains[turn] = out
        return out

    @torch.no_grad()
    def _leap(
        self, net: Energy, z: Tensor, energy: Tensor, moves: Moves, rng: torch.Generator
    ) -> Tensor:
        """Where each chain is after two far moves, (N, dim)."""
        pair = torch.randint(len(self.chains), (2, len(z)), generator=rng, device=self.device)
        a, b = self.chains[pair]
        z, energy = langevin.leap(net, z, energy, z + a - b, moves, rng)
        far = moves.anywhere(len(z), rng)
        return langevin.leap(net, z, energy, far, moves, rng)[0]

    # ------------------------------------------------------------ the model

    @property
    def shown(self) -> Energy:
        """The energy that is looked at, sampled and measured: averaged or as it is."""
        return self.average.module if self.averaged else self.net

    @property
    def has_density(self) -> bool:
        return self.dim == 2

    @property
    def has_draws(self) -> bool:
        return self.dim == 2

    @torch.no_grad()
    def energy(self, x: Tensor) -> Tensor:
        """E(x), rows (N, dim) in data units → (N,)."""
        return torch.cat([self.shown(self.standardise(part)) for part in x.split(self.TILE)])

    def quadrature(self) -> Quadrature:
        """Z, and all that follows from it, of the energy as it stands; kept until it changes."""
        finish(self.prepared())
        return self._quadrature

    def prepared(self) -> Pieces[None]:
        if not self.has_density:
            raise NotImplementedError("Above two dimensions an energy has no density to show.")
        # versions count changes in place, but not those by fused Adam, of which steps tell
        weights = tuple((id(p), p._version) for p in self.shown.parameters())
        key = (self.step_count, weights, self.temperature)
        if self._quadrature_key != key:
            t = self.temperature
            log_f = lambda x: -self.energy(x) / t  # noqa: E731
            self._quadrature = yield from Quadrature.made(log_f, self._box, self.device)
            self._quadrature_key = key

    def log_prob(self, x: Tensor) -> Tensor:
        """−E(x)/T − log Z in nats, (N, 2) → (N,); −∞ outside the domain. Z by quadrature."""
        return self.quadrature().log_prob(x)

    def draws(self, n: int) -> Tensor:
        return self.quadrature().sample(n, self.view_rng)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n places (n, dim) that the method's own chains come to, in data units.

        Kept chains are drawn from the buffer and go on for a few moves. Short-run chains make
        their k moves from noise. Those of contrastive divergence, which begin at data, are made
        to begin at noise here, and make as many moves as the picture of chains shows.
        """
        return finish(self.sample_pieces(n, generator))

    def sample_pieces(self, n: int, generator: torch.Generator | None = None) -> Pieces[Tensor]:
        """`sample`, `TILE` kept chains at a time."""
        rng = generator or self.view_rng
        if self.method != PERSISTENT:
            return self.unstandardise((yield from self.from_noise(n, rng)).places[-1])
        moves, count = self.moves(), len(self.chains)
        index = torch.randperm(count, generator=rng, device=self.device)[:n]
        if n > count:
            more = torch.randint(count, (n - count,), generator=rng, device=self.device)
            index = torch.cat([index, more])
        out = []
        for part in self.chains[index].clamp(self._low, self._high).split(self.TILE):
            yield
            z, energy, _ = langevin.run(self.shown.force, part, moves, rng, self.SETTLE)
            if self.leaps and moves.metropolis:
                z = self._leap(self.shown, z, energy, moves, rng)
            out.append(z)
        return self.unstandardise(torch.cat(out))

    def from_noise(self, n: int, rng: torch.Generator) -> Pieces[Trace]:
        """n chains of the energy that is shown, from noise on, in standardised units."""
        moves = self.moves()
        count = self.k if self.method == SHORT else self.walk
        begin = moves.anywhere(n, rng)
        return (yield from langevin.running(self.shown.force, begin, moves, rng, count))[2]

    # ------------------------------------------------------------ numbers and pictures

    def metrics(self) -> list[Metric]:
        if not self.has_density:
            return []
        quadrature = self.quadrature()
        out = [
            Metric("accepted", 100 * float(self.accepted), "%", "exact", label="Moves accepted",
                   help="Share of the last update's Langevin moves that Metropolis' rule let pass; "
                   "a chain does best at a half or more. Without the rule all pass."),
            Metric("log_z", float(quadrature.log_z), "nats", "exact", label="log Z",
                   help="log ∫ exp(−E/T) over the domain, by quadrature. A constant added to E moves "
                   "it and changes nothing else."),
        ]  # fmt: skip
        outside = self.outside()
        if outside is not None:
            kind = "exact" if self.pool.dataset.exact else "estimate"
            mass = float(quadrature.log_mass.exp()[outside].sum())
            out.append(
                Metric("outside", 100 * mass, "%", kind, floor=0.1, label="Mass outside the data",
                       help="How much of q lies outside the smallest region that holds 99.9 % of the "
                       "data's density: valleys that no chain has found.")
            )  # fmt: skip
        return out

    def outside(self) -> Tensor | None:
        """Which cells of the quadrature lie outside the smallest region with 99.9 % of p, (n²,)."""
        if self._outside is None:
            self._outside = pictures.outside(self)
        return self._outside

    def panels(self) -> list[Panel]:
        return pictures.panels(self)
