"""Sequences, step by step: what teacher forcing does not teach.

A model of the next point given the points before it is trained on true pasts, and then used on
pasts of its own making. Three copies of one network are trained side by side on the same walks.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from scipy.special import lambertw
from torch import Tensor

from engines import nets
from engines.base import Engine
from engines.capture import Capture
from engines.data.base import Dataset, Pool
from engines.knobs import action, knob
from engines.marks import Metric, Panel
from engines.sequence.copies import Copies
from engines.sequence.horizon import Horizon
from engines.sequence.pictures import panels

WAYS = ("teacher forcing", "scheduled sampling", "free running")


class Sequence(Engine):
    """q(x_1) Π_t N(x_{t+1}; μ_θ(x_t, …), σ² I), its mean learnt in three ways at once.

    Each copy makes the mean square of x_{t+1} − μ_θ(past) small on walks of the training data,
    by Adam with gradients cut to a length. The ways differ in the past that it is given:

    - teacher forcing: the true one (Williams & Zipser 1989). Maximum likelihood.
    - scheduled sampling: each point of it is the true one with probability ε, else the model's
      own, and ε falls during training (Bengio, Vinyals, Jaitly & Shazeer 2015).
    - free running: its own from the first point on, ε = 0.

    The target stays the true walk all along. So the last two are not consistent: their optimum
    is not p(x_{t+1} | x_t) even with unlimited data (Huszár 2015). With `through` the gradient
    passes through the model's own points, without it they are taken as given, as Bengio et al.
    do and as in data as demonstrator (Venkatraman, Hebert & Bagnell 2015).

    σ² and the first point's Gaussian are fitted to true pasts in every way, so that what the
    ways differ in is the mean.
    """

    name: ClassVar[str] = "sequence"
    family: ClassVar[str] = "Autoregressive"
    place: ClassVar[float] = 5.1
    title: ClassVar[str] = "Compounding error"
    tagline: ClassVar[str] = "A model of the next step, fed with its own steps."
    objective: ClassVar[str] = (
        "min_{θ} E Σ_{t} |x_{t+1} − μ_{θ}(x̃_{t})|^{2},  x̃_{t} true with probability ε, else its own"
    )
    look_for: ClassVar[str] = (
        "Every picture has the same start and the same luck: a perfect model would cover the blue "
        "walks exactly. Compare the error after one step with the error after many. Drag the start "
        "off the path, where no past of the training data ever was."
    )
    paper: ClassVar[str] = (
        "Bengio, Vinyals, Jaitly & Shazeer (2015), Scheduled sampling for sequence prediction with "
        "recurrent neural networks; Huszár (2015), How (not) to train your generative model"
    )
    density: ClassVar[str] = "exact"
    density_kind: ClassVar[str] = "tractable"
    principle: ClassVar[str] = "maximum likelihood"
    opens_on: ClassVar[str] = "walk"
    loss_label: ClassVar[str] = "squared error of the next step"
    compare: ClassVar[dict] = {
        "A wider network": {"width": 64, "layers": 2, "lr": 5e-3},
        "Fed with its own samples": {"fed": "samples"},
        "No gradient through its own steps": {"through": False},
    }
    if_diverged: ClassVar[str] = "Try a smaller learning rate."

    walks: int = knob(
        512, 4, 8192, log=True, label="Training walks",
        help="How many walks there are to learn from, again and again.",
    )  # fmt: skip
    memory: int = knob(
        1, 1, 4, help="Points of the past that the next one is told from; one is enough here."
    )
    width: int = knob(6, 4, 128, log=True, help="Hidden units of each layer.")
    layers: int = knob(1, 1, 3, help="Hidden layers of each copy.")
    schedule: Literal["inverse sigmoid", "linear", "exponential", "constant"] = knob(
        "inverse sigmoid", live=True,
        help="How the share of true points ε falls in scheduled sampling.",
    )  # fmt: skip
    pace: float = knob(
        60.0, 5.0, 2000.0, log=True, live=True, label="Steps until ε is halfway",
        when={"schedule": ("inverse sigmoid", "linear", "exponential")},
        help="Training steps after which ε is halfway from 1 to its least.",
    )  # fmt: skip
    least: float = knob(
        0.25, 0.0, 1.0, live=True, label="Least ε",
        help="Share of true points that scheduled sampling falls to.",
    )  # fmt: skip
    fed: Literal["means", "samples"] = knob(
        "means", live=True, label="Own points",
        help="What a model's own point is in training: its mean, or a sample of it.",
    )  # fmt: skip
    through: bool = knob(
        True, live=True, label="Gradient through own points",
        help="Whether a point of its own is blamed for the errors after it.",
    )  # fmt: skip
    lr: float = knob(
        3e-2, 1e-5, 1e-1, log=True, live=True, label="Learning rate",
        help="Adam step size, which falls as 1/√(1 + steps/100).",
    )  # fmt: skip
    batch: int = knob(16, 4, 256, log=True, live=True, help="Walks in each step.")
    shown: Literal["teacher forcing", "scheduled sampling", "free running"] = knob(
        "teacher forcing", view=True, label="Model shown",
        help="Whose whole walks are drawn, and of whose density the divergences speak.",
    )  # fmt: skip
    prefix: int = knob(
        4, 1, 12, view=True, label="True points first",
        help="Points of a true walk before the models go on by themselves.",
    )  # fmt: skip
    luck: float = knob(
        1.0, 0.0, 1.0, view=True, label="Noise in the pictures",
        help="Size of the noise in the continuations, true ones and models' alike; 0 shows where "
        "they go on average.",
    )  # fmt: skip

    WAYS: ClassVar[tuple[str, ...]] = WAYS
    capture: ClassVar[Capture] = Capture(dials=("lr", "pace", "least"))
    AVERAGE, CLIP, WALL = 0.98, 1.0, 4.0

    @classmethod
    def accepts(cls, dataset: Dataset) -> str | None:
        if dataset.kind != "sequence" or not hasattr(dataset, "follow"):
            return "Errors add up along sequences: choose the walk."
        return None

    # ------------------------------------------------------------ training

    def start(self, pool: Pool) -> None:
        super().start(pool)
        self.length = self.dim // 2
        # one scale for all steps and both coordinates: a step at t is a step at t + 1
        some = pool.train[: self.walks].view(-1, 2)
        self._mean.copy_(some.mean(0).repeat(self.length))
        self._std.fill_(float(some.std(0).square().mean().sqrt()))
        sizes = [2 * self.memory, *[self.width] * self.layers, 2]
        self.net = Copies(len(WAYS), sizes, self.rng)
        self.average = nets.Average(self.net, Copies(len(WAYS), sizes, self.rng), self.AVERAGE)
        # not the fused one: it rounds the last few numbers of an array in another way, and copies
        # that are told the same shall stay the same to the last bit
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=self.lr, foreach=True)
        # σ² in squared units of the scale; at first, for a model that stays where it is
        still = pool.train[: self.walks].view(-1, self.length, 2).diff(dim=1) / self._std[0]
        self.variance = still.square().mean().repeat(len(WAYS))
        self.moved_x = self.moved_y = 0.0  # by how much the start was dragged
        self.refresh()

    def refresh(self) -> None:
        first = self.pool.train[: self.walks, :2]
        self._first = first.mean(0)
        cov = (first - self._first).T @ (first - self._first) / len(first)
        self._root = torch.linalg.cholesky(cov + 1e-6 * torch.eye(2, device=self.device))
        self.horizon = Horizon(self)

    def truth_share(self) -> float:
        """ε of scheduled sampling now: `least` + (1 − `least`) s, where s falls from (nearly) 1 to 0.

        With i the age: s is 1 − i/2p (linear), 2^(−i/p) (exponential), k/(k + e^(i/k)) with
        k log k = p (inverse sigmoid); at the pace p it is a half each time.
        """
        i, p = self.age, self.pace
        if self.schedule == "constant":
            return self.least
        if self.schedule == "linear":
            share = 1 - i / (2 * p)
        elif self.schedule == "exponential":
            share = 2 ** (-i / p)
        else:
            k = p / float(lambertw(p).real)  # so that k log k = p
            share = k / (k + math.exp(min(i / k, 700)))
        return self.least + (1 - self.least) * max(0.0, share)

    def next_mean(self, net: Copies, past: Tensor) -> Tensor:
        """μ_θ of each copy: pasts (C, N, memory, 2), the latest last → (C, N, 2), data units."""
        z = (past - self._mean[:2]) / self._std[0]
        mean = past[:, :, -1] + self._std[0] * net(z.flatten(2))
        # a walk that runs away is held at a wall, which lets its gradient pass
        reach = self.WALL * self._std[0]
        held = mean.detach().clamp(self._mean[:2] - reach, self._mean[:2] + reach)
        return mean + (held - mean.detach())

    def pasts(self, x: Tensor) -> Tensor:
        """All true pasts of walks (N, T, 2): (N, T − 1, memory, 2). Before the first point: it."""
        before = x[:, :1].expand(-1, self.memory - 1, -1)
        return torch.cat([before, x[:, :-1]], 1).unfold(1, self.memory, 1).transpose(2, 3)

    def told(self, net: Copies, x: Tensor) -> Tensor:
        """Means of every next point of walks (N, T, 2) from true pasts, (C, N, T − 1, 2)."""
        past = self.pasts(x).flatten(0, 1).expand(len(WAYS), -1, -1, -1)
        return self.next_mean(net, past).view(len(WAYS), len(x), -1, 2)

    def roll(self, x: Tensor, share: float | Tensor) -> Tensor:
        """Means (3, B, T − 1, 2) along walks (B, T, 2), each on the past that its way gives."""
        like = {"generator": self.rng, "device": self.device}
        b, t = x.shape[:2]
        true = torch.ones(len(WAYS), b, t, 1, dtype=torch.bool, device=self.device)
        true[1] = (torch.rand(b, t, **like) < share)[..., None]
        true[2].zero_()
        noise = torch.randn(t, b, 2, **like)
        sigma = self._std[0] * self.variance.sqrt()[:, None, None]
        past = x[:, :1].repeat(1, self.memory, 1).expand(len(WAYS), -1, -1, -1)
        means = []
        for i in range(1, t):
            mean = self.next_mean(self.net, past)
            means.append(mean)
            own = mean + sigma * noise[i] if self.fed == "samples" else mean
            own = own if self.through else own.detach()
            point = torch.where(true[:, :, i], x[:, i], own)
            past = torch.cat([past[:, :, 1:], point[:, :, None]], 2)
        return torch.stack(means, 2)

    def live_numbers(self) -> dict[str, float]:
        more = {
            "rate": self.lr / math.sqrt(1 + self.age / 100), "share": self.truth_share(),
            "fade": self.average.weight(self.age), "renewed": max(0.05, 1 / (1 + self.age)),
        }  # fmt: skip
        return {**super().live_numbers(), **more}

    def step(self) -> dict[str, Tensor]:
        index = torch.randint(self.walks, (self.batch,), generator=self.rng, device=self.device)
        x = self.pool.train[index].view(self.batch, -1, 2)
        means = self.roll(x, self.number("share"))
        loss = ((x[:, 1:] - means) / self._std[0]).square().sum(3).mean((1, 2))
        self.optimiser.zero_grad()
        loss.sum().backward()
        self.net.clip(self.CLIP)
        nets.set_lr(self.optimiser, self.number("rate"))
        self.optimiser.step()
        self.average.lean(self.net, self.number("fade"))
        self._fit_noise(x)
        return dict(zip(WAYS, loss.detach(), strict=True))

    @torch.no_grad()
    def _fit_noise(self, x: Tensor) -> None:
        """σ² ← mean square of what the averaged model misses by on true pasts."""
        gap = (x[:, 1:] - self.told(self.average.module, x)) / self._std[0]
        newest = gap.square().mean((1, 2, 3)).clamp_min(1e-8)
        self.variance.lerp_(newest, self.number("renewed"))

    # ------------------------------------------------------------ the model

    @property
    def sigma(self) -> Tensor:
        """σ of each way in data units, (3,)."""
        return self._std[0] * self.variance.sqrt()

    def log_steps(self, x: Tensor) -> Tensor:
        """log q(x_{t+1} | past) in nats of each way: walks (N, T, 2) → (3, N, T − 1)."""
        parts = [self.told(self.average.module, part) for part in x.split(512)]
        gap = x[:, 1:] - torch.cat(parts, 1)
        sigma = self.sigma[:, None, None]
        return (
            -0.5 * (gap / sigma[..., None]).square().sum(3)
            - 2 * sigma.log()
            - math.log(2 * math.pi)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        walk = x.view(len(x), -1, 2)
        z = torch.linalg.solve_triangular(self._root, (walk[:, 0] - self._first).T, upper=False)
        first = -0.5 * z.square().sum(0) - self._root.diagonal().log().sum() - math.log(2 * math.pi)
        return first + self.log_steps(walk)[WAYS.index(self.shown)].sum(1)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        noise = self.randn(self.length, n, 2, generator=generator)
        start = self._first + noise[0] @ self._root.T
        rest = self.carry_on(start[:, None], noise[1:])[WAYS.index(self.shown)]
        return torch.cat([start[:, None], rest], 1).flatten(1)

    def carry_on(self, given: Tensor, noise: Tensor) -> Tensor:
        """Each way's walk on from given points (N, k, 2), with noise (H, N, 2) → (3, N, H, 2)."""
        before = given[:, :1].expand(-1, max(0, self.memory - given.shape[1]), -1)
        past = torch.cat([before, given[:, -self.memory :]], 1).expand(len(WAYS), -1, -1, -1)
        out = []
        for step in noise:
            point = self.next_mean(self.average.module, past) + self.sigma[:, None, None] * step
            past = torch.cat([past[:, :, 1:], point[:, :, None]], 2)
            out.append(point)
        return torch.stack(out, 2)

    # ------------------------------------------------------------ numbers and pictures

    def metrics(self) -> list[Metric]:
        return self.horizon.metrics()

    def panels(self) -> list[Panel]:
        return panels(self)

    @action("Put the start elsewhere", takes=("x", "y"),
            help="Drag the point from which the models go on.")  # fmt: skip
    def drag(self, x: float, y: float) -> None:
        x0, x1, y0, y1 = self.pool.dataset.extent
        here = self.pool.test[0].view(-1, 2)[self.prefix - 1]
        self.moved_x = min(max(x, x0), x1) - float(here[0])
        self.moved_y = min(max(y, y0), y1) - float(here[1])
