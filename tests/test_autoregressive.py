"""Autoregressive models: scipy, quadrature, sums over all images and autograd as oracles.

Each check is a function that a wrong twin (a forgotten scale, an unmasked network, a transposed
field …) must fail.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from engines import Experiment
from engines.autoregressive import Binned, Categorical, Made, Mixture, pictures
from engines.autoregressive.conditionals import FAR
from engines.autoregressive.engine import Autoregressive
from engines.cells import centres
from engines.data.base import Dataset, Pool
from engines.masked import FREE, degrees, masks
from engines.pictures import density_field

CONDITIONALS = ("mixture of Gaussians", "mixture of logistics", "binned softmax")
ORDERS = ("first to last", "last to first")
SCIPY = {"Gaussian": scipy.stats.norm, "logistic": scipy.stats.logistic}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return size * torch.randn(*shape, generator=rng(seed)).double()


def engine(dim: int = 2, levels: int = 0, seed: int = 0, shake: float = 0.1, **knobs):
    """An engine with weights far from its start, on data with a mean and an uneven scale.

    levels: of small images instead, of one row.
    """
    dataset = Dataset()
    if levels:
        dataset.shape, dataset.kind, dataset.levels = (1, dim), "images", levels
        rows = torch.randint(levels, (300, dim), generator=rng(seed)).float()
        noisy = rows + 0.5
        pool = Pool(dataset, rows, noisy, noisy, dequantise=True)
    else:
        dataset.shape, dataset.kind = (dim,), "plane" if dim == 2 else "vectors"
        dataset.extent = (2.0, 8.0, 1.0, 9.0)
        rows = torch.randn(2000, dim, generator=rng(seed)) * torch.linspace(0.5, 1.5, dim) + 5
        pool = Pool(dataset, rows, rows, rows)
    out = Autoregressive({"width": 16, "components": 6, "bins": 24, **knobs}, seed)
    out.start(pool)
    with torch.no_grad():
        for name, p in out.average.module.named_parameters():
            size = shake / (FREE if name == "free" else 1)
            p += size * torch.randn(p.shape, generator=rng(seed + 5))
    if levels:
        out.kept.module.load_state_dict(out.average.module.state_dict())
    return out


# ---------------------------------------------------------------- conditionals


def mixture(of: str, theta: Tensor):
    """scipy's weights and frozen components, from one θ (3K,)."""
    logits, mean, log_scale = theta.numpy().reshape(3, -1)
    weight = np.exp(logits) / np.exp(logits).sum()
    return weight, SCIPY[of](mean, np.exp(log_scale) + 1e-3)


@pytest.mark.parametrize("of", SCIPY)
def test_mixtures_are_those_of_scipy(of):
    theta, x = numbers(15), numbers(200, seed=1, size=3)
    weight, parts = mixture(of, theta)
    model = Mixture(5, of)
    want = np.log(parts.pdf(x.numpy()[:, None]) @ weight)
    found = model.log_prob(theta, x).numpy()
    assert found == pytest.approx(want, abs=1e-9)
    forgotten = found + np.log(parts.kwds["scale"] if parts.kwds else parts.args[1]).mean()
    assert forgotten != pytest.approx(want, abs=1e-2), "the scale forgotten"
    want = parts.cdf(x.numpy()[:, None]) @ weight
    assert model.cdf(theta, x).numpy() == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("of", SCIPY)
def test_masses_between_edges_are_differences_of_scipys_distribution_functions(of):
    theta, levels = numbers(9), torch.arange(17).double()
    theta[3:6] = torch.tensor([2.0, 8.0, 15.5])
    weight, parts = mixture(of, theta)
    low = torch.where(levels == 0, -FAR, levels - 0.5)
    high = torch.where(levels == 16, FAR, levels + 0.5)
    found = Mixture(3, of).mass(theta, low, high)
    edges = np.concatenate([[-np.inf], np.arange(16) + 0.5, [np.inf]])
    want = np.diff(parts.cdf(edges[:, None]), axis=0) @ weight

    def sums_to_one(mass: Tensor) -> bool:
        return abs(float(mass.sum()) - 1) < 1e-9

    assert found.numpy() == pytest.approx(want, abs=1e-9)
    assert sums_to_one(found)
    assert not sums_to_one(Mixture(3, of).log_prob(theta, levels).exp()), "density at the centre"
    open_ended = Mixture(3, of).mass(theta, levels - 0.5, levels + 0.5)
    assert not sums_to_one(open_ended), "tails forgotten"


@pytest.mark.parametrize("of", SCIPY)
def test_small_masses_far_out_are_not_rounded_away(of):
    theta = torch.tensor([0.0, 0.0, math.log(1 - 1e-3)]).requires_grad_()
    low = torch.tensor([-FAR, -12.0, -0.5, 9.0, 11.0, -FAR])
    high = torch.tensor([-8.0, -11.0, 0.5, 10.0, FAR, FAR])
    if of == "logistic":  # its tails are longer
        low, high = 2 * low, 2 * high
    model, truth = Mixture(1, of), SCIPY[of]
    mass = model.mass(theta, low, high)
    (slope,) = torch.autograd.grad(mass.log().sum(), theta)
    assert torch.isfinite(slope).all()
    want = np.where(low > 0, truth.sf(low) - truth.sf(high), truth.cdf(high) - truth.cdf(low))
    assert mass.detach().numpy() == pytest.approx(want, rel=1e-3, abs=0)
    naive = model.of.cdf(high) - model.of.cdf(low)
    assert naive.numpy() != pytest.approx(want, rel=1e-3, abs=0), "all from the left"


def histogram():
    low, high = torch.tensor([-2.0]).double(), torch.tensor([3.0]).double()
    return Binned(20, low, high), numbers(1, 20)


def test_a_histogram_is_that_of_scipy_with_thin_tails():
    model, theta = histogram()
    weight = theta.softmax(-1)[0].numpy()
    truth = scipy.stats.rv_histogram((weight, np.linspace(-2, 3, 21)), density=False)
    x = torch.linspace(-1.99, 2.99, 301).double()[:, None]
    inner = 1 - 2 * Binned.OUTSIDE
    found = model.log_prob(theta, x).exp()[:, 0].numpy()
    assert found == pytest.approx(inner * truth.pdf(x[:, 0].numpy()), rel=1e-9)
    want = Binned.OUTSIDE + inner * truth.cdf(x[:, 0].numpy())
    assert model.cdf(theta, x)[:, 0].numpy() == pytest.approx(want, abs=1e-9)


def test_a_histogram_integrates_to_one_tails_included():
    model, theta = histogram()
    n, low, high = 340_000, -8.0, 9.0  # no cell has a jump in it
    x = low + (torch.arange(n).double()[:, None] + 0.5) * (high - low) / n
    step = (high - low) / n
    q = model.log_prob(theta, x).exp()
    assert float(q.sum() * step) == pytest.approx(1.0, abs=1e-7)
    inside = (x >= -2) & (x <= 3)
    assert float(q[inside].sum() * step) != pytest.approx(1.0, abs=1e-5), "without its tails"
    running = q.cumsum(0) * step
    assert torch.allclose(model.cdf(theta, x + step / 2), running, atol=1e-6)


def draws(model, theta: Tensor, n: int = 20_000) -> np.ndarray:
    u, v = torch.rand(2, n, 1, generator=rng(3)).double()
    return model.draw(theta.expand(n, 1, -1), u, v)[:, 0].numpy()


@pytest.mark.parametrize("model", [Mixture(5), Mixture(5, "logistic"), histogram()[0]])
def test_draws_follow_the_distribution_function(model):
    theta = numbers(1, 1, model.each)

    def agrees(x: np.ndarray) -> bool:
        u = model.cdf(theta[0], torch.from_numpy(x)[:, None])[:, 0].numpy()
        return scipy.stats.kstest(u, "uniform").pvalue > 1e-3

    x = draws(model, theta)
    assert agrees(x)
    assert not agrees(1.1 * x), "a tenth too wide"
    assert not agrees(x + 0.05), "shifted"


def test_levels_are_drawn_as_often_as_they_are_likely():
    model, theta = Categorical(17), numbers(1, 1, 17)
    x = draws(model, theta).astype(int)
    mass = model.mass(theta[0], torch.arange(17.0)).numpy()
    assert mass == pytest.approx(scipy.special.softmax(theta[0, 0].numpy()))
    counts = np.bincount(x, minlength=17)
    assert scipy.stats.chisquare(counts, mass * len(x)).pvalue > 1e-3
    assert scipy.stats.chisquare(counts, np.roll(mass, 1) * len(x)).pvalue < 1e-6, "off by one"


# ---------------------------------------------------------------- MADE


def net(dim: int, each: int = 3, **more) -> Made:
    made = Made(numbers(dim, each).float(), 24, 2, rng(1), **more).double()
    with torch.no_grad():
        for p in made.parameters():
            p += 0.3 * torch.randn(p.shape, generator=rng(2)).double()
    return made


def sees(made: Made, dim: int) -> Tensor:
    """How much θ_i depends on x_j, (d, d): largest entry of autograd's Jacobian."""
    one = torch.autograd.functional.jacobian
    rows = [one(lambda r: made(r[None])[0], x).abs().amax(1) for x in numbers(4, dim, seed=4)]
    return torch.stack(rows).amax(0)


@pytest.mark.parametrize(("dim", "waves"), [(2, 0), (2, 5), (3, 4), (5, 0), (9, 4)])
def test_every_conditional_sees_only_the_coordinates_before_it(dim, waves):
    made = net(dim, waves=waves, pitch=2.0)
    found = sees(made, dim)
    assert found.triu().abs().max() == 0
    i, j = torch.tril_indices(dim, dim, -1)
    assert (found[i, j] > 1e-4).all(), "and all of those"
    if dim == 2:
        return

    # the wrong twin: what coordinate i is told may see units of degree i as well
    n = dim - 1
    last = made._last
    seen = torch.arange(24) % n + 1
    told = (torch.arange(n) + 2).repeat_interleave(3)
    getattr(made, f"mask{last}").copy_((seen[:, None] <= told).double())
    assert sees(made, dim).triu().abs().max() > 1e-4


def test_masks_have_the_degrees_of_the_paper():
    first, last = masks(degrees(2, 1), 4, 1, torch.tensor([1, 1, 2, 2]))
    # inputs x₁ x₂ and a sine of each; hidden degrees 1 2 1 2
    assert first.tolist() == [[1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1], [0, 1, 0, 1]]
    assert last.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_one_column_is_the_same_as_in_all(dim):
    made, x = net(dim), numbers(7, dim)
    whole = made(x)
    assert whole.shape == (7, dim, 3)
    for i in range(dim):
        later = x.clone()
        later[:, i:] = 99.0
        torch.testing.assert_close(made.column(later, i), whole[:, i])


def test_units_are_left_out_only_by_a_generator():
    made, x = net(4, drop=0.5), numbers(2, 4)
    assert torch.equal(made.rest(x), made.rest(x))
    some = made.rest(x.repeat(4000, 1), rng(0))
    assert torch.equal(some, made.rest(x.repeat(4000, 1), rng(0)))
    assert not torch.equal(some, made.rest(x.repeat(4000, 1), rng(1)))
    # with one layer after it what is left out is made up for on average
    made = Made(numbers(4, 3).float(), 24, 1, rng(1), drop=0.5)
    x = x.float()
    mean = made.rest(x.repeat(20_000, 1), rng(0)).view(20_000, 2, 3, 3).mean(0)
    torch.testing.assert_close(mean, made.rest(x), atol=0.02, rtol=0)


# ---------------------------------------------------------------- the density


BOX, CELLS = (-11.0, 21.0, -11.0, 21.0), 256


def mass(log_prob) -> float:
    with torch.no_grad():
        total = log_prob(centres(BOX, CELLS)).double().exp().sum()
    return float(total) * ((BOX[1] - BOX[0]) / CELLS) ** 2


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("conditional", CONDITIONALS)
def test_the_density_integrates_to_one(conditional, order):
    model = engine(conditional=conditional, order=order, bins=16)
    if conditional == "binned softmax":  # with bins that begin where cells do
        model._mean, model._std = torch.tensor([5.0, 5.0]), torch.tensor([0.5, 2.0])
        bounds = (torch.tensor(edge) for edge in ([-4.0, -4.0], [4.0, 4.0]))
        model._conditional = Binned(16, *bounds)
    assert mass(model.log_prob) == pytest.approx(1.0, abs=1e-3)
    wrong = lambda x: model.log_prob(x) + model._std[0].log()  # noqa: E731
    assert mass(wrong) != pytest.approx(1.0, abs=0.1), "a coordinate's scale forgotten"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("conditional", CONDITIONALS)
def test_masses_of_all_small_images_add_up_to_one(conditional, order):
    model = engine(3, levels=4, conditional=conditional, order=order)
    every = torch.tensor(list(itertools.product(range(4), repeat=3))).float()
    with torch.no_grad():
        log_q = model.log_prob(every + 0.3)
        assert float(log_q.double().exp().sum()) == pytest.approx(1.0, abs=1e-5)
        alone = model.terms(every, model.shown)[:, :2].sum(1)  # the wrong twin: a factor less
        assert float(alone.double().exp().sum()) != pytest.approx(1.0, abs=1e-2)
        torch.testing.assert_close(model.log_prob(every), model.log_prob(every + 0.99))
        outside = model.log_prob(torch.tensor([[-0.1, 1, 1], [0, 4.0, 0], [3.9, 0, 2]]))
        assert outside[:2].tolist() == [-math.inf] * 2 and math.isfinite(outside[2])
        for i in range(3):
            of = model.pixel_masses(every[:5], i)
            torch.testing.assert_close(of.sum(1), torch.ones(5))


@pytest.mark.parametrize("conditional", CONDITIONALS)
def test_small_images_are_drawn_as_often_as_they_are_likely(conditional):
    model = engine(2, levels=3, shake=0.3, conditional=conditional, order="last to first")
    every = torch.tensor(list(itertools.product(range(3), repeat=2))).float()
    with torch.no_grad():
        likely = model.log_prob(every).double().exp().numpy()
    x = model.sample(20_000)
    assert float(x.min()) >= 0 and float(x.max()) < 3
    assert scipy.stats.kstest(x.frac().flatten().numpy(), "uniform").pvalue > 1e-3
    cells = x.floor().long()
    counts = np.bincount((3 * cells[:, 0] + cells[:, 1]).numpy(), minlength=9)
    fits = lambda p: scipy.stats.chisquare(counts, p / p.sum() * len(x)).pvalue  # noqa: E731
    assert fits(likely) > 1e-3
    assert fits(likely.reshape(3, 3).T.flatten()) < 1e-6, "the wrong twin: transposed"


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("conditional", CONDITIONALS)
def test_samples_are_uniform_where_their_distribution_functions_say_so(conditional, order):
    """Rosenblatt 1952: F(x₁) and F(x₂ | x₁) of draws are independent and uniform."""
    model = engine(conditional=conditional, order=order, shake=0.3)
    x = model.sample(600)

    def uniform(first: int) -> bool:
        a, b = x[:, first], x[:, 1 - first]
        with torch.no_grad():
            u = model.marginal_cdf(a)
            v = torch.cat([model.conditional_cdf(*pair) for pair in zip(a.split(1), b.split(1))])
            v = v[:, 0]
        small = [scipy.stats.kstest(w.numpy(), "uniform").pvalue for w in (u, v, (u + v).frac())]
        return min(small) > 1e-3

    assert uniform(model.first)
    assert not uniform(1 - model.first), "the wrong twin: the other order"


def test_the_parts_of_the_density_multiply_to_the_whole():
    for order in ORDERS:
        model = engine(order=order)
        x = model.sample(50)
        a, b = x[:, model.first], x[:, 1 - model.first]
        with torch.no_grad():
            q = model.marginal(a) * model.conditional_density(a, b).diagonal()
            torch.testing.assert_close(q.log(), model.log_prob(x), atol=1e-4, rtol=1e-4)


def test_the_other_order_is_that_of_the_data_turned_round():
    a, b = engine(3, order=ORDERS[0]), engine(3, order=ORDERS[1])
    b._mean, b._std = a._mean.flip(0), a._std.flip(0)
    b.average.module.load_state_dict(a.average.module.state_dict())
    x = a.pool.test[:20]
    with torch.no_grad():
        torch.testing.assert_close(a.log_prob(x), b.log_prob(x.flip(1)))
        assert (a.log_prob(x) - b.log_prob(x)).abs().max() > 0.1


# ---------------------------------------------------------------- trained


class Correlated(Dataset):
    """Two Gaussians with correlation: E[x₂|x₁] and Var[x₂|x₁] are known."""

    kind, shape = "plane", (2,)
    extent = (-4.0, 8.0, -9.0, 5.0)
    RHO, MEAN, STD = 0.8, (2.0, -2.0), (1.0, 2.0)

    def sample(self, n, generator, split="train"):
        z = torch.randn(n, 2, generator=generator)
        second = self.RHO * z[:, 0] + math.sqrt(1 - self.RHO**2) * z[:, 1]
        return torch.stack([z[:, 0], second], 1) * torch.tensor(self.STD) + torch.tensor(self.MEAN)


@pytest.mark.parametrize("order", ORDERS)
def test_one_gaussian_for_each_conditional_of_a_gaussian(order):
    dataset = Correlated()
    model = Autoregressive({"components": 1, "width": 16, "lr": 6e-3, "order": order}, 0)
    rows = [dataset.sample(n, rng(n)) for n in (20_000, 100, 100)]
    model.start(Pool(dataset, *rows))
    for _ in range(400):
        model.step()
        model.step_count += 1
    first, other = model.first, 1 - model.first
    scale = dataset.STD[first]
    at = dataset.MEAN[first] + scale * torch.tensor([-1.0, 0.0, 1.5])
    x = torch.linspace(-16, 16, 4001)
    with torch.no_grad():
        q = model.conditional_density(at, x).double()
    weight = q * (x[1] - x[0])
    mean = (weight * x).sum(1)
    std = ((weight * x.square()).sum(1) - mean**2).sqrt()

    def right(rho: float) -> bool:
        want = dataset.MEAN[other] + rho * dataset.STD[other] * (at - dataset.MEAN[first]) / scale
        spread = dataset.STD[other] * math.sqrt(1 - rho**2)
        close = (mean - want).abs().max() < 0.1 * dataset.STD[other]
        return bool(close and (std / spread - 1).abs().max() < 0.08)

    assert right(dataset.RHO)
    assert not right(-dataset.RHO) and not right(0.0), "the wrong twins"


def test_on_images_the_best_weights_are_kept_and_shown():
    run = Experiment("digits", "autoregressive", knobs={"width": 16, "batch": 64}).start("cpu")
    run.train(steps=45)
    model = run.engine
    with torch.no_grad():
        value = -model.log_prob(run.pool.val).mean()
    assert float(value) == pytest.approx(float(model.kept.loss), rel=1e-5)
    assert int(model.kept.step) == 41
    assert float(run.lanes[0].tracks["validation"].values[-1]) == float(model.validation)
    run.set("best", False)
    with torch.no_grad():
        assert float(-model.log_prob(run.pool.val).mean()) != pytest.approx(float(value), rel=1e-5)
    assert model.shown is model.average.module


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("order", ORDERS)
def test_the_field_is_the_average_of_the_density_over_cells(order):
    model = engine(order=order)
    n, sub = 20, 12
    found = pictures.field(model, n)
    with torch.no_grad():
        fine = model.log_prob(centres(model.pool.dataset.extent, n * sub)).exp()
    want = fine.view(n, sub, n, sub).mean((1, 3)).numpy()
    close = lambda a: np.abs(a - want).max() < 0.01 * want.max()  # noqa: E731
    assert close(found)
    assert not close(found.T) and not close(found[::-1]), "turned"


@pytest.mark.parametrize("order", ORDERS)
def test_the_exact_conditional_is_that_of_the_mixture(order):
    run = Experiment("unbalanced", "autoregressive", knobs={"order": order}).start("cpu")
    run.act("slice", x=1.3, y=-1.3)
    model, modes = run.engine, run.dataset.modes
    first, at = model.first, (1.3, -1.3)[model.first]
    assert model.at == at
    grid = np.linspace(-3, 3, 2001)
    c, s, w = (part.double().numpy() for part in (modes.centres, modes.sigma, modes.weights))

    def conditional(axis: int) -> np.ndarray:
        share = w * scipy.stats.norm.pdf(at, c[:, axis], s)
        parts = scipy.stats.norm.pdf(grid[:, None], c[:, 1 - axis], s)
        return parts @ share / share.sum()

    found = pictures.exact_slice(model, grid)
    assert found == pytest.approx(conditional(first), abs=2e-3)
    assert found != pytest.approx(conditional(1 - first), abs=2e-2), "the other axis"


def test_where_there_is_no_data_there_is_no_conditional():
    run = Experiment("checkerboard", "autoregressive").start("cpu").train(steps=1)
    run.act("slice", x=4.4, y=0.0)
    found = {p.id: p for p in run.frame().panels}
    assert "no data" in found["conditional"].subtitle
    assert [m.label for m in found["conditional"].marks] == ["q, the model"]
    run.act("slice", x=99.0, y=0.0)
    assert run.engine.at == 4.5, "held within the picture"


@pytest.mark.parametrize("order", ORDERS)
def test_first_one_coordinate_is_drawn_and_then_the_other(order):
    run = Experiment("moons", "autoregressive", knobs={"order": order}).start("cpu").train(steps=1)
    panel = next(p for p in run.frame().panels if p.id == "order")
    points = panel.marks[-1]
    first = run.engine.first
    assert points.xy.shape == (3, pictures.DRAWN, 2) and points.keys.tolist() == [0, 1, 2]
    assert np.array_equal(points.xy[1][:, first], points.xy[2][:, first])
    assert np.ptp(points.xy[1][:, 1 - first]) == 0 and np.ptp(points.xy[0]) >= 0
    assert np.ptp(points.xy[2], axis=0).min() > 1
    name = ("x₁", "x₂")[first]
    assert panel.slider.label.startswith(name) and name in panel.subtitle


@pytest.mark.parametrize("order", ORDERS)
def test_digits_are_seen_as_they_are_drawn(order):
    run = Experiment("digits", "autoregressive", knobs={"width": 16, "order": order}).start("cpu")
    run.train(steps=1)
    found = {p.id: p for p in run.frame().panels}
    (sheet,) = found["drawing"].marks
    missing = np.isnan(sheet.pixels).reshape(len(sheet.keys), pictures.SHEET, -1)
    for frame, key in zip(missing, sheet.keys, strict=True):
        there = np.arange(64) < key if order == ORDERS[0] else np.arange(64) >= 64 - key
        assert (frame == ~there).all()
    last = sheet.pixels[-1][None]
    assert ((sheet.pixels == last) | np.isnan(sheet.pixels)).all(), "what is drawn stays"
    (halves,) = found["halves"].marks
    pixels = halves.pixels.reshape(pictures.HALVES, 1 + pictures.WAYS, 64)
    kept = slice(0, 32) if order == ORDERS[0] else slice(32, 64)
    # the noise that makes pixels continuous is drawn anew
    assert np.abs(pixels[:, 1:, kept] - pixels[:, :1, kept]).max() <= 1 / 17 + 1e-6
    (bars,) = found["pixel"].marks
    assert bars.values.sum() == pytest.approx(1.0, abs=1e-5) and len(bars.values) == 17


def test_both_parts_of_the_divergence_add_up():
    run = Experiment("two_gaussians", "autoregressive").start("cpu").train(steps=30)
    values = {m.name: m.value for m in run.measure()}
    assert values["kl_first"] > 0 and values["kl_second"] > 0
    whole = values["kl_first"] + values["kl_second"]
    assert whole == pytest.approx(values["kl_pq"], abs=0.05 + 0.1 * values["kl_pq"])
    field = density_field(run.dataset).sum(0)
    x0, x1 = run.dataset.extent[:2]
    edges = torch.linspace(x0, x1, 101)
    with torch.no_grad():
        q = run.engine.marginal_cdf(edges).diff().double().numpy().clip(1e-12)
    want = scipy.stats.entropy(field / field.sum(), q / q.sum())
    assert values["kl_first"] == pytest.approx(want, abs=1e-3)


def test_a_component_that_drifts_off_leaves_numbers_finite():
    """After minutes on digits the scale of a component without weight has grown past e^88."""
    law = Mixture(2, "logistic")
    theta = torch.tensor([[0.0, -50.0, 0.3, 9.0, -1.0, 95.0]], requires_grad=True)
    mass = law.mass(theta, torch.tensor([0.0]), torch.tensor([0.5]))
    (slope,) = torch.autograd.grad(mass.log().sum(), theta)
    assert torch.isfinite(mass).all() and torch.isfinite(slope).all()
    # the wrong twin: as it was
    free = torch.tensor([[0.0, -50.0, 0.3, 9.0, -1.0, 95.0]], requires_grad=True)
    weight, mean, scale = free.chunk(3, -1)
    a, b = ((edge - mean) / scale.exp() for edge in (0.0, 0.5))
    twin = (weight.softmax(-1) * (torch.sigmoid(b) - torch.sigmoid(a))).sum().log()
    assert not torch.isfinite(torch.autograd.grad(twin, free)[0]).all()
