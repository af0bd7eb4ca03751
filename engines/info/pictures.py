"""Pictures and numbers of an InfoGAN: what the codes have come to mean, and who can read them."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engines.arrays import marked, numpy
from engines.info.information import (
    Codes,
    agreement,
    category_terms,
    continuous_terms,
    estimate,
    known_classes,
)
from engines.marks import Bars, Heat, Mark, Metric, Panel, Paths, Points
from engines.pictures import sheet

if TYPE_CHECKING:
    from engines.info.engine import InfoGAN

CLOUD, READ = 1000, 2000
LINES, ALONG = 3, 41  # noises that a code is swept over for each category, and points of a line
COLUMNS = 10


def shared(engine: InfoGAN) -> list[Panel]:
    """Of the plane and of images."""
    k = engine.categories
    return [
        Panel("told", "Code given, code read", partial(told, engine),
              "across: given to G; up: read by Q", (0.0, float(k), 0.0, float(k)), "small", hz=3,
              help="Each column is a code: how Q spreads its belief over the codes when it sees "
              "samples of it. A clean diagonal is log K nats, the most that there is to tell."),
        Panel("use", "Codes of the data", partial(use, engine), "share of held-out data", None,
              "small", hz=3,
              help="All codes are given to the generator equally often. Do they name equal "
              "shares of the data?"),
    ]  # fmt: skip


# ---------------------------------------------------------------- the plane


def plane_panels(engine: InfoGAN) -> list[Panel]:
    box = engine.pool.dataset.extent
    own = [
        Panel("model", "Samples, by their code", partial(samples, engine),
              f"{engine.categories} codes; data in grey", box, "large",
              help="Each sample has the colour of the categorical code that it was made from."),
        Panel("truth", "Data, by the code read", partial(data, engine),
              "held-out points, in the colour of the code that Q reads", box, "large", hz=6,
              help="Q has only ever been shown samples. Here it reads real points: groups of one "
              "colour are kinds of data that were found without a label."),
    ]  # fmt: skip
    if engine.continuous:
        own.append(
            Panel("sweep", f"Continuous code {which(engine) + 1}, from −1 to 1",
                  partial(sweep, engine), "a line: one code, one noise", box, "small", hz=6,
                  help="Everything else stands still while one continuous code runs through its "
                  "range, from faint to strong. Long lines: the code decides where in a group a sample lies."),
        )  # fmt: skip
    return [*own, *shared(engine)]


def which(engine: InfoGAN) -> int:
    """The continuous code that is swept: the one chosen, or the last there is."""
    return min(engine.swept, engine.continuous) - 1


def samples(engine: InfoGAN) -> list[Mark]:
    x, codes = engine.coded(CLOUD)
    return [
        Points(marked(engine.pool.test[:CLOUD]), "plain", 1.4, opacity=0.2, label="data",
               static=True),
        Points(marked(x), "model", group=marked(codes.category), label="samples, by code"),
    ]  # fmt: skip


def data(engine: InfoGAN) -> list[Mark]:
    rows = engine.pool.test[:CLOUD]
    group = numpy(engine.code_of(rows))
    return [Points(marked(rows), "data", group=group, label="data, by the code read")]


def swept(engine: InfoGAN, rows: int, columns: int) -> Tensor:
    """Samples (K, rows, columns, dim): of each category and `rows` noises, a code swept in
    `columns` steps from −1 to 1. Without continuous codes the columns are noises."""
    k, c = engine.categories, engine.continuous
    noise = engine.randn(1, rows, 1, engine.latent).expand(k, rows, columns, -1)
    u = torch.zeros(k, rows, columns, c, device=engine.device)
    if c:
        u[..., which(engine)] = torch.linspace(-1, 1, columns, device=engine.device)
    else:
        noise = engine.randn(1, rows, columns, engine.latent).expand(k, -1, -1, -1)
    category = torch.arange(k, device=engine.device)[:, None].expand(k, rows * columns)
    codes = Codes(category.reshape(-1), u.reshape(-1, c), noise.reshape(-1, engine.latent))
    return engine.decode(codes).view(k, rows, columns, -1)


def sweep(engine: InfoGAN) -> list[Mark]:
    x = swept(engine, LINES, ALONG).flatten(0, 1)
    return [
        Points(
            marked(engine.pool.test[:600]), "data", 1.4, opacity=0.25, label="data", static=True
        ),
        Paths(marked(x), "generator", 1.8, tail=True, opacity=0.9, label="one code swept"),
    ]


# ---------------------------------------------------------------- images


def image_panels(engine: InfoGAN) -> list[Panel]:
    c = engine.continuous
    along = f"across: continuous code {which(engine) + 1}" if c else "one noise for each column"  # fmt: skip
    return [
        Panel("codes", "A row for each code", partial(sheet_of_codes, engine), along, None, "large",
              hz=6, first=True,
              help="The same noise in every row, and across it the code from −1 to 1. Do rows hold one kind of picture each? Does the "
              "continuous code change slant or stroke?"),
        Panel("read", "Real images, by the code read", partial(sheet_of_data, engine),
              "a row for each code", None, "small", hz=2,
              help="The held-out images that Q is surest of. It has only ever been shown samples. A row of "
              "one kind of digit is a class that "
              "was found without a label; an empty row is a code that no image was read as."),
        *shared(engine),
    ]  # fmt: skip


def sheet_of_codes(engine: InfoGAN) -> list[Mark]:
    x = swept(engine, 1, COLUMNS).flatten(0, 2)
    return [sheet(engine, x, COLUMNS, "row: code")]


def sheet_of_data(engine: InfoGAN) -> list[Mark]:
    rows, k = engine.pool.test, engine.categories
    belief = engine.read(engine.standardise(rows)).logits.softmax(1)
    sure, code = belief.max(1)
    out = torch.full((k, COLUMNS, engine.dim), math.nan, device=engine.device)
    for j in range(k):
        mine = (code == j).nonzero()[:, 0]
        best = mine[sure[mine].argsort(descending=True)][:COLUMNS]
        out[j, : len(best)] = rows[best]
    return [sheet(engine, out.flatten(0, 1), COLUMNS, "row: the code read")]


# ---------------------------------------------------------------- numbers


def told(engine: InfoGAN) -> list[Mark]:
    k = engine.categories
    x, codes = engine.coded(READ)
    belief = engine.read(engine.standardise(x)).logits.softmax(1)
    mean = torch.zeros(k, k, device=engine.device).index_add_(0, codes.category, belief)
    count = codes.category.bincount(minlength=k).clamp_min(1)
    # in small cells, for a field is drawn smooth
    field = np.kron(numpy((mean / count[:, None]).T), np.ones((8, 8), np.float32))
    return [Heat(field, (0.0, float(k), 0.0, float(k)), "generator",
                 hi=1.0, gamma=1.0, label="Q(read | given)")]  # fmt: skip


def use(engine: InfoGAN) -> list[Mark]:
    k = engine.categories
    share = engine.code_of(engine.pool.test[:5000]).bincount(minlength=k).float()
    even = np.full(k, 1 / k, np.float32)
    return [Bars([str(j) for j in range(k)], numpy(share / share.sum()), even, "data",
                 y_label="share of data")]  # fmt: skip


def metrics(engine: InfoGAN) -> list[Metric]:
    x, codes = engine.coded(READ)
    with torch.no_grad():
        read = engine.read(engine.standardise(x))
        found = estimate(category_terms(read, codes.category))
    most = math.log(engine.categories)
    out = [
        Metric("information", found.value, "nats", "lower bound", se=found.se, floor=most,
               label="I(c; x), at least",
               help="L_I = E log Q(c|x) + H(c), on the samples shown: never more than I(c; x), "
               f"which is at most H(c) = log {engine.categories} = {most:.4g}. Below 0 the reader "
               "does worse than a guess."),
    ]  # fmt: skip
    if engine.continuous:
        with torch.no_grad():
            found = estimate(continuous_terms(read, codes.continuous))
        out.append(
            Metric("continuous", found.value, "nats", "lower bound", se=found.se, label="I(u; x), at least",
                   help="The same for all continuous codes together. It has no ceiling: a number "
                   "can be told to any precision.")
        )  # fmt: skip
    known = known_classes(engine.pool, 5000)
    if known is not None:
        rows, classes = known
        out.append(
            Metric("agreement", agreement(engine.code_of(rows), classes), floor=1.0,
                   label="Codes and classes",
                   help="Normalised mutual information between the codes read in held-out data and "
                   "the classes, which nobody told: 1 when each says the other, 0 when neither does.")
        )  # fmt: skip
    return out
