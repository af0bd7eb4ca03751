"""Equations on the page that follow a knob: each is read as arithmetic, and gives what is played."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from app.pack import unpack
from app.session import Session
from engines import ENGINES, Experiment
from engines.dirac_gan.engine import DiracGAN
from engines.dirac_gan.game import CURES, WRITTEN, Game, values
from engines.dirac_gan.game import LOSSES as DIRAC
from engines.gan import GAN, LOSSES


def parts(equation: str) -> tuple[str, str]:
    """The right sides of L_D and L_G."""
    found = re.fullmatch(r"L_\{D\} = (.*?),  L_\{G\} = (.*?),  .*", equation)
    return found.group(1), found.group(2)


def read(text: str, **names) -> Tensor:
    """What an equation is worth."""
    for written, python in (
        ("−", "-"), ("½", "0.5*"), ("^{2}", "**2"), ("ux + (1 - u)y", "u*x + (1 - u)*y"),
        ("E_{p}[f]", "mean(f(x))"), ("E_{q}[f]", "mean(f(y))"), ("R_{1}", "r1*"), ("R_{2}", "r2*"),
        ("λE", "weight*E"), ("log σ(", "log_sigmoid("), ("log D(x)", "log(D(x))"),
        ("log D(y)", "log(D(y))"), ("max(0, ", "positive("), ("x*", "data"),
        ("γψ", "gamma*psi"), ("γ(|ψ|", "gamma*(abs(psi)"), ("γ|v|", "gamma*abs(v)"),
    ):  # fmt: skip
        text = text.replace(written, python)
    for letter, rows in (("p", "x"), ("q", "y")):
        text = re.sub(rf"E_\{{{letter}\}}\|∇[fD]\|\*\*2", f"mean(slope({rows})**2)", text)
    text = re.sub(r"\|∇[fD]\((.+?)\)\|", r"slope(\1)", text)
    text = re.sub(r"E(_\{[pq]\})?\[", "mean(", text).replace("]", ")")
    known = {
        "mean": lambda v: v.mean(), "log": torch.log, "log_sigmoid": logsigmoid,
        "positive": lambda v: v.clamp_min(0), "abs": abs,
    }  # fmt: skip
    return eval(text, {"__builtins__": {}}, {**known, **names})


def near(a: Tensor, b: Tensor) -> bool:
    return abs(float(a) - float(b)) < 1e-9 * max(1.0, abs(float(b)))


REAL = torch.linspace(-2, 3, 11, dtype=torch.float64)
FAKE = (1.3 * REAL).sin() - 0.3


def worth(name: str, real: Tensor, fake: Tensor, of: str | None = None) -> tuple[Tensor, Tensor]:
    """Both players' losses by the equation of `of`, of outputs as the loss `name` has them."""
    plain = {"r1": 0.0, "r2": 0.0, "slope_one": 0.0, "clip": 0.0, "loss": of or name}
    probability = LOSSES[name].probability or torch.sigmoid
    outputs = {"x": real, "y": fake, "f": lambda v: v, "D": probability}
    return tuple(read(text, **outputs) for text in parts(GAN.formula(plain)))


@pytest.mark.parametrize("name", LOSSES)
def test_the_equation_of_each_loss_is_the_loss(name):
    loss = LOSSES[name]
    played = loss.discriminator(REAL, FAKE), loss.of_generator(FAKE, REAL)
    assert all(near(a, b) for a, b in zip(worth(name, REAL, FAKE), played, strict=True))
    # wrong twins: data for samples, and every other loss
    assert not near(worth(name, FAKE, REAL)[0], played[0])
    assert not near(worth(name, FAKE, REAL)[1], played[1])
    for other in LOSSES.keys() - {name}:
        found = worth(name, REAL, FAKE, other)
        assert not all(near(a, b) for a, b in zip(found, played, strict=True)), other


def test_penalties_are_in_the_equation_with_their_weights():
    weights = {"r1": 0.7, "r2": 0.3, "slope_one": 2.0}
    for some in itertools.product((False, True), repeat=3):
        chosen = {k: v if on else 0.0 for (k, v), on in zip(weights.items(), some, strict=True)}
        run = Experiment("ring8", "gan", 0, {**chosen, "fade": 0, "loss": "hinge"}).start("cpu")
        engine = run.engine
        real, fake = engine.data(32), engine.generate(engine.generator, 32, engine.rng).detach()
        u = engine.mixing(engine.rng, 32)
        played = engine.discriminator_loss(engine.logits, real.clone(), fake.clone(), u)
        total = float(sum(played).detach())

        def slope(x: Tensor) -> Tensor:
            x = x.detach().requires_grad_()
            return torch.autograd.grad(engine.logits(x).sum(), x)[0].norm(dim=1)  # noqa: B023

        text, _ = parts(GAN.formula(run.experiment.knobs))
        names = {"x": real, "y": fake, "u": u, "f": engine.logits, "slope": slope,
                 "r1": chosen["r1"], "r2": chosen["r2"], "weight": chosen["slope_one"]}  # fmt: skip
        assert float(read(text, **names).detach()) == pytest.approx(total, rel=1e-5)
        if any(some):  # wrong twin: slopes of another size
            doubled = read(text, **{**names, "slope": lambda x: 2 * slope(x)})
            assert float(doubled.detach()) != pytest.approx(total, rel=1e-3)
        assert [mark in text for mark in ("R_{1}", "R_{2}", "λ")] == list(some)


def test_clipping_is_said_where_it_is_done():
    knobs = GAN.complete({"loss": "Wasserstein", "clip": 0.1})
    assert "±c" in GAN.formula(knobs)
    assert "±c" not in GAN.formula({**knobs, "clip": 0.0})
    assert "±c" not in GAN.formula({**knobs, "loss": "hinge"}), "only Wasserstein's is clipped"


@pytest.mark.parametrize("name", DIRAC)
def test_the_equation_of_each_loss_of_one_parameter(name):
    assert WRITTEN.keys() == DIRAC.keys()
    real, fake = torch.tensor(0.3).double(), torch.tensor(-0.8).double()
    played = values(name, real, fake)

    def found(real, fake, of=name):
        where = {"data": 0, "θ": 1, "D": lambda at: (real, fake)[at]}
        return [
            read(text, **where) for text in parts(DiracGAN.formula({"loss": of, "cure": "none"}))
        ]

    assert all(near(a, b) for a, b in zip(found(real, fake), played, strict=True))
    assert not near(found(fake, real)[0], played[0])
    for other in DIRAC.keys() - {name}:
        assert not all(near(a, b) for a, b in zip(found(real, fake, other), played, strict=True))


@pytest.mark.parametrize("cure", ["R1", "WGAN-GP", "consensus"])
def test_what_a_cure_adds_has_the_slope_that_it_plays(cure):
    """The field with the cure, less that without, is minus the slope of what is written."""
    theta, psi, gamma = 0.7, -0.4, 0.9
    plain, cured = (Game("hinge", c, gamma).field(theta, psi) for c in ("none", cure))
    added = [
        a.removeprefix(b).removeprefix(" + ")
        for a, b in zip(
            parts(DiracGAN.formula({"loss": "hinge", "cure": cure})), WRITTEN["hinge"], strict=True
        )
    ]

    def worth(text: str, theta: float, psi: float) -> float:
        length = np.hypot(*Game("hinge").field(theta, psi))
        return read(text, psi=psi, ψ=psi, v=length, gamma=gamma) if text else 0.0

    h = 1e-5
    slopes = [
        (worth(added[1], theta + h, psi) - worth(added[1], theta - h, psi)) / (2 * h),
        (worth(added[0], theta, psi + h) - worth(added[0], theta, psi - h)) / (2 * h),
    ]
    moved = [float(a - b) for a, b in zip(cured, plain, strict=True)]
    assert moved == pytest.approx([-s for s in slopes], abs=1e-6)
    assert moved != pytest.approx(slopes, abs=1e-3)  # wrong twin: uphill


def test_every_cure_is_told():
    told = {DiracGAN.formula({"loss": "hinge", "cure": cure}) for cure in CURES}
    assert len(told) == len(CURES)


def test_others_show_their_objective():
    for name, kind in ENGINES.items():
        text = kind.formula(kind.complete())
        assert text and len(text) < 250
        if name not in ("gan", "dirac_gan"):
            assert text == kind.objective


def test_the_page_is_told_the_equation_of_the_present_loss():
    session, blocks = Session("cpu"), {}

    def equation(text: str) -> str:
        return unpack(text, blocks)["about"]["objective"]

    first = equation(session.open(Experiment("ring8", "gan")))
    assert "log σ(f(x) − f(y))" in first and "R_{1}" in first
    assert "max(0, 1 − f(x))" in equation(session.set("loss", "hinge"))
    assert "R_{1}" not in equation(session.set("r1", 0.0))
    session.close()
