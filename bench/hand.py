"""The bare loop ÷ the same model in plain PyTorch, written out by hand, in turn, on one thread.

By hand: the same layers, batch and loss, rows drawn by index, `torch.optim.Adam` at its default
settings, losses kept, and an average of the weights only where the engine has one. What the engine
has beside it, such as other step sizes from step to step, it must do within its own time.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines import Experiment, machine

SECONDS, ROUNDS = 2.0, 7
Step = Callable[[], None]


def perceptron(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def averaged(mine: nn.Module, theirs: nn.Module, decay: float = 0.999) -> None:
    with torch.no_grad():
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            a.mul_(decay).add_(b, alpha=1 - decay)


class Denoiser(nn.Module):
    """What `engines.fields.Field` is with 128 waves and three layers of 128, for one class."""

    def __init__(self) -> None:
        super().__init__()
        self.frequency, self.phase = nn.Parameter(torch.randn(2, 128), False), torch.rand(128)
        self.place, self.clock = nn.Linear(130, 128), nn.Linear(11, 128)
        self.inner = nn.ModuleList([nn.Linear(128, 128) for _ in range(2)])
        self.out = nn.Linear(128, 2)

    def forward(self, x: Tensor, level: Tensor, blur: Tensor) -> Tensor:
        faded = torch.exp(-0.5 * blur**2 * self.frequency.square().sum(0))
        wave = torch.sin(x @ self.frequency + self.phase) * faded
        angle = level * (math.pi / 2) * 2.0 ** torch.arange(5)
        told = self.clock(torch.cat([level, angle.sin(), angle.cos()], 1))
        h = F.silu(self.place(torch.cat([x, wave], 1)) + told)
        for layer in self.inner:
            h = F.silu(layer(h))
        return self.out(h)


def diffusion(rows: Tensor) -> Step:
    net, mean = Denoiser(), Denoiser()
    optimiser, losses = torch.optim.Adam(net.parameters(), lr=4e-3), []

    def step() -> None:
        x = rows[torch.randint(len(rows), (512,))]
        sigma = torch.exp(-1.6 + 1.4 * torch.randn(512, 1)).clamp(0.001, 20)
        noisy = x + sigma * torch.randn_like(x)
        size = (1 + sigma**2).sqrt()
        wanted = (noisy / size**2 - x) * size / sigma
        loss = (net(noisy / size, sigma.log() / 4, sigma / size) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        averaged(mean, net)
        losses.append(loss.detach())

    return step


def vae(rows: Tensor) -> Step:
    """Digits: 16 latents, each with a σ of its own, and logistics rounded to levels."""
    encoder, decoder = perceptron(64, 64, 64, 32), perceptron(16, 64, 64, 128)
    net = nn.ModuleList([encoder, decoder])
    mean = nn.ModuleList([perceptron(64, 64, 64, 32), perceptron(16, 64, 64, 128)])
    optimiser, losses = torch.optim.Adam(net.parameters(), lr=5e-3), []
    middle, unit = rows.float().mean(0) + 0.5, float(rows.float().std(0).mean())

    def step() -> None:
        x = rows[torch.randint(len(rows), (512,))].float()
        mu, log_sigma = encoder((x + 0.5 - middle) / unit).chunk(2, 1)
        z = mu + log_sigma.exp() * torch.randn_like(mu)
        told, scale = decoder(z).chunk(2, 1)
        centre, wide = middle + unit * told, 1 / (unit * scale.clamp(-7, 3).exp())
        off, first, last = (x - centre) * wide, x <= 0, x >= 16
        up = F.logsigmoid(off + wide / 2).masked_fill(last, 0.0)
        down = F.logsigmoid(wide / 2 - off).masked_fill(first, 0.0)
        inside = torch.log(-torch.expm1(-wide)).masked_fill(first | last, 0.0)
        rate = 0.5 * (mu**2 + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum(1)
        loss = (rate - (up + down + inside).sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        averaged(mean, net, 0.998)
        losses.append(loss.detach())

    return step


def gan(rows: Tensor) -> Step:
    """The game of 2014 with the non-saturating loss."""
    make, judge, mean = perceptron(2, 64, 64, 64, 2), perceptron(2, 64, 64, 64, 1), None
    mean = perceptron(2, 64, 64, 64, 2)
    g_adam = torch.optim.Adam(make.parameters(), lr=5e-3, betas=(0.0, 0.99))
    d_adam = torch.optim.Adam(judge.parameters(), lr=2.5e-3, betas=(0.0, 0.99))
    ones, zeros, losses = torch.ones(256, 1), torch.zeros(256, 1), []
    cross = F.binary_cross_entropy_with_logits

    def step() -> None:
        real = rows[torch.randint(len(rows), (256,))]
        fake = make(torch.randn(256, 2)).detach()
        loss = cross(judge(real), ones) + cross(judge(fake), zeros)
        d_adam.zero_grad()
        loss.backward()
        d_adam.step()
        losses.append(loss.detach())
        loss = cross(judge(make(torch.randn(256, 2))), ones)
        g_adam.zero_grad()
        loss.backward()
        g_adam.step()
        averaged(mean, make, 0.98)
        losses.append(loss.detach())

    return step


PLAIN = {"loss": "non-saturating", "r1": 0.0, "r2": 0.0, "waves": 0}
ROWS: dict[str, tuple[str, str, dict, Callable[[Tensor], Step]]] = {
    "diffusion": ("ring8soft", "diffusion", {}, diffusion),
    "VAE on digits": ("digits", "vae", {"guess": "diagonal"}, vae),
    "GAN, plain": ("ring8soft", "gan", PLAIN, gan),
}


def rate(step: Step, seconds: float = SECONDS) -> float:
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        done += 1
    return done / (time.perf_counter() - begin)


def ratios(dataset: str, engine: str, knobs: dict, by_hand: Callable) -> list[tuple[float, float]]:
    """(steps/s of the bare loop, steps/s by hand), in turn. Each in its own way: ours as a live
    run does, by hand as torch does by itself."""
    run = Experiment(dataset, engine, 0, knobs).start("cpu")
    run.quicken()
    rows = run.pool.train if dataset == "digits" else run.engine.standardise(run.pool.train)
    ours, torch_default = torch.get_float32_matmul_precision(), "highest"
    step, out = by_hand(rows), []
    rate(step, 0.3), run.train(seconds=0.3)
    for i in range(ROUNDS):
        pair = {}
        for who in ("ours", "theirs") if i % 2 else ("theirs", "ours"):
            torch.set_float32_matmul_precision(ours if who == "ours" else torch_default)
            if who == "ours":
                begin, done = time.perf_counter(), run.step
                run.train(seconds=SECONDS)
                pair[who] = (run.step - done) / (time.perf_counter() - begin)
            else:
                pair[who] = rate(step)
        out.append((pair["ours"], pair["theirs"]))
    torch.set_float32_matmul_precision(ours)
    return out


def main() -> None:
    torch.set_num_threads(1)
    found = machine.calibrate()
    print(f"matrix products: {found.precision} (×{found.speedup:.2f})")
    print("model            bare/s  by hand/s   ratio (min … max)")
    for name, row in ROWS.items():
        pairs = ratios(*row)
        each = [a / b for a, b in pairs]
        print(
            f"{name:15s} {statistics.median(a for a, _ in pairs):7.0f}"
            f"  {statistics.median(b for _, b in pairs):9.0f}"
            f"   {statistics.median(each):5.2f} ({min(each):.2f} … {max(each):.2f})",
            flush=True,
        )
