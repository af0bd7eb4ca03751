"""A visitor's own data: kernel estimates, a mixture edited by hand, a picture as a density."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import KernelDensity

from engines import DATASETS, ENGINES, BadInput, Experiment
from engines.cells import cell_average
from engines.data.base import PointsDataset
from engines.data.kernels import MOST
from engines.data.own import pixels
from engines.marks import Heat
from engines.pictures import density_field
from tests.each import EACH

RNG = np.random.default_rng


def moons(n: int = 600, seed: int = 0) -> np.ndarray:
    return DATASETS["moons"]().sample(n, torch.Generator().manual_seed(seed)).numpy()


# ---------------------------------------------------------------- kernel estimates


def test_the_kernel_estimate_is_that_of_scikit_learn():
    dataset = PointsDataset(moons() * [3.0, 0.5])
    x = moons(200, 1) * [3.0, 0.5]
    h, s = dataset.kernels.bandwidth, dataset.scale
    rows = dataset._split("train").astype(np.float64)
    model = KernelDensity(bandwidth=h).fit(rows / s)
    want = model.score_samples(x / s) - np.log(s).sum()
    found = dataset.log_prob(torch.from_numpy(x)).numpy()
    assert found == pytest.approx(want, abs=1e-9)
    # wrong twins: without the Jacobian of the two scales; with the held-out points as kernels
    assert abs(found - model.score_samples(x / s)).max() > 0.1
    twin = KernelDensity(bandwidth=h).fit(dataset.xy / s).score_samples(x / s) - np.log(s).sum()
    assert abs(found - twin).max() > 0.05


def left_out(rows: np.ndarray, h: float, area: float) -> float:
    """Leave-one-out log-likelihood of rows, and 1 % of strays, by scipy."""
    total = []
    for i in range(min(len(rows), 500)):
        others = np.delete(rows, i, axis=0)
        p = stats.multivariate_normal(rows[i], h * h).pdf(others).mean()
        total.append(math.log(0.99 * p + 0.01 / area))
    return float(np.mean(total))


def test_the_bandwidth_has_the_greatest_leave_one_out_likelihood():
    dataset = PointsDataset(moons(300))
    kernels, rows = dataset.kernels, dataset._split("train") / dataset.scale
    x0, x1, y0, y1 = dataset.extent
    area = (x1 - x0) * (y1 - y0) / dataset.scale.prod()
    h = kernels.bandwidth
    assert kernels.score(h) == pytest.approx(left_out(rows, h, area), abs=1e-5)
    best = max(left_out(rows, h * factor, area) for factor in (0.5, 0.8, 0.95, 1.05, 1.25, 2))
    assert kernels.score(h) >= best
    # the wrong twin keeps the point itself among its kernels: the narrower the better
    near = [np.mean([stats.multivariate_normal(x, g * g).pdf(rows).mean() for x in rows[:50]])
            for g in (h, h / 4)]  # fmt: skip
    assert near[1] > near[0]


def test_copies_and_strays_do_not_spoil_the_bandwidth():
    usual = PointsDataset(moons(1000)).kernels.bandwidth
    twice = PointsDataset(np.concatenate([moons(1000)] * 2)).kernels.bandwidth
    assert 0.5 * usual < twice < 1.5 * usual, "copies would let h fall to 0"
    far = PointsDataset(np.concatenate([moons(1000), [[30.0, 30.0]]]))
    near = PointsDataset(moons(1000))
    lonely = (far.kernels.bandwidth * far.scale) / (near.kernels.bandwidth * near.scale)
    assert (lonely < 1.6).all(), "one stray point does not blur all the others"
    grid = np.array([[i % 5, i // 5] for i in range(25)] * 8, dtype=float)
    assert 0.01 < PointsDataset(grid).kernels.bandwidth < 1.0


@pytest.mark.parametrize("n", [20, 300, 6000])
def test_the_kernel_estimate_integrates_to_one(n):
    dataset = PointsDataset(moons(n) * [40.0, 1.0] + [1e4, -7])
    assert len(dataset.kernels.z) == min(round(0.8 * n), MOST)
    x0, x1, y0, y1 = dataset.extent
    wide = ((x1 - x0), (y1 - y0))
    box = (x0 - wide[0], x1 + wide[0], y0 - wide[1], y1 + wide[1])
    mass = dataset.kernels.cells(box, 300).astype(np.float64).sum() * 9 * wide[0] * wide[1] / 300**2
    assert mass == pytest.approx(1.0, abs=1e-5)
    twin = mass * dataset.scale.prod()
    assert abs(twin - 1) > 0.1, "without the Jacobian"


def test_the_cells_of_a_kernel_estimate_are_averages_of_its_density():
    dataset = PointsDataset(moons(300) * [2.0, 1.0])
    want = cell_average(dataset.log_prob, dataset.extent, 30, refine=900, sub=8)
    assert np.abs(dataset.cells(30) - want).max() < 0.01 * want.max()
    assert np.abs(dataset.cells(30).T - want).max() > 0.1 * want.max(), "rows are y"


def test_fields_are_kept_for_each_dataset_by_its_content():
    a, b = PointsDataset(moons(200)), PointsDataset(moons(200, 1))
    assert a.key != b.key and a.key == PointsDataset(moons(200)).key
    assert density_field(a) is density_field(PointsDataset(moons(200)))
    assert not np.array_equal(density_field(a), density_field(b))


@pytest.mark.parametrize("engine", EACH)
def test_what_shows_an_estimated_density_says_so(engine, small):
    if ENGINES[engine].accepts(PointsDataset(moons())):
        pytest.skip("it takes no points of one's own")
    run = Experiment.from_points(moons(), engine).start("cpu").train(steps=2)
    panels = {p.id: p for p in run.frame().panels}
    shown = ["truth", *(["error", "distance"] if "error" in panels else []),
             *(["optimal"] if "optimal" in panels else [])]  # fmt: skip
    for name in shown:
        panel = panels[name]
        if not any(isinstance(mark, Heat) for mark in panel.marks):
            continue  # points of the data, by their class, are no density
        assert panel.estimate and "estimate" in panel.title + panel.subtitle, name
    exact = {p.id: p for p in Experiment("moons", engine).start("cpu").frame().panels}
    truth = exact["truth"]
    assert not truth.estimate and "estimate" not in truth.title + truth.subtitle


def test_most_engines_take_points_of_ones_own():
    mine = PointsDataset(moons())
    assert sum(engine.accepts(mine) is None for engine in ENGINES.values()) >= 8


def test_points_that_float32_makes_one_are_refused():
    xy = RNG(0).normal(size=(50, 2)) * [1.0, 1e-4] + [0, 5e5]
    with pytest.raises(BadInput, match="line or spot"):
        PointsDataset(xy)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["autoregressive", "flow"])
def test_few_points_are_not_learnt_by_heart(engine):
    run = Experiment.from_points(moons(400), engine).start("cpu").train(steps=600)
    fresh = torch.from_numpy(moons(5000, seed=9))  # the truth, which no estimate knows

    def nll() -> float:
        with torch.no_grad():
            return -float(run.log_prob(fresh).mean())

    kept = nll()
    run.set("best", False)  # the wrong twin: whatever stood last
    assert kept < nll() - 0.2
    # other points: what did best on the old ones is forgotten, and the newest shown meanwhile
    run.set("best", True)
    run.feed(Experiment.from_points(moons(400, seed=1) + 1.0, engine))
    assert not run.engine.kept.found and run.engine.shown is run.engine.average.module
    run.train(steps=60)
    assert run.engine.kept.found and run.engine.shown is run.engine.kept.module
    # and data without end need no such care
    assert not Experiment("moons", engine).start("cpu").pool.finite


# ---------------------------------------------------------------- Gaussians by hand

THREE = [
    [-1.0, 0.5, 1.2, 0.3, 0.7, 2.0],
    [1.5, 1.0, 0.4, 0.5, 0.0, 1.0],
    [0.3, -1, 0.9, 0.2, -2, 5],
]
MANY = [
    [*RNG(k).uniform(-3, 3, 2), *RNG(k + 50).uniform(0.1, 0.6, 2), float(k), k + 1.0]
    for k in range(24)
]


def gaussians(components: list) -> object:
    return DATASETS["gaussians"](components=[[float(v) for v in row] for row in components])


def by_scipy(components: list, x: np.ndarray, turn: float = 1.0) -> np.ndarray:
    """log p by scipy's multivariate normal; turn = −1 is the twin that turns the wrong way."""
    weights = np.array([row[5] for row in components])
    total = np.zeros(len(x))
    for (cx, cy, sx, sy, angle, _), w in zip(components, weights / weights.sum()):
        c, s = math.cos(turn * angle), math.sin(turn * angle)
        rotation = np.array([[c, -s], [s, c]])
        cov = rotation @ np.diag([sx**2, sy**2]) @ rotation.T
        total += w * stats.multivariate_normal([cx, cy], cov).pdf(x)
    with np.errstate(divide="ignore"):
        return np.log(total)


@pytest.mark.parametrize("components", [THREE, MANY, [[0, 0, 10, 0.01, 0.3, 1]]])
def test_the_density_of_gaussians_is_that_of_scipy(components):
    dataset = gaussians(components)
    x = dataset.sample(300, torch.Generator().manual_seed(0)).double()
    found = dataset.log_prob(x).numpy()
    assert found == pytest.approx(by_scipy(components, x.numpy()), rel=1e-9, abs=1e-9)
    assert abs(found - by_scipy(components, x.numpy(), turn=-1)).max() > 0.1


def test_samples_of_gaussians_have_their_moments():
    row = [0.5, -1.0, 1.5, 0.3, 0.8, 1.0]
    x = gaussians([row]).sample(100_000, torch.Generator().manual_seed(0)).double()
    c, s = math.cos(0.8), math.sin(0.8)
    rotation = np.array([[c, -s], [s, c]])
    cov = rotation @ np.diag([1.5**2, 0.3**2]) @ rotation.T
    assert x.mean(0).tolist() == pytest.approx([0.5, -1.0], abs=0.02)
    assert np.abs(x.T.cov().numpy() - cov).max() < 0.03
    assert np.abs(x.T.cov().numpy() - cov * [[1, -1], [-1, 1]]).max() > 0.5  # turned the other way


@pytest.mark.slow
@pytest.mark.parametrize("components", [THREE, MANY, [[1, 1, 0.5, 0.2, 1, 3]]])
def test_entropy_of_gaussians_to_a_millionth(components):
    dataset = gaussians(components)
    n, reach = 1200, 8.0
    x = torch.linspace(-reach, reach, n, dtype=torch.float64)
    log_p = dataset.log_prob(torch.cartesian_prod(x, x))
    # the trapezoidal rule converges faster than any power for what is smooth and dies out
    want = -float((log_p.exp() * log_p).sum()) * (2 * reach / (n - 1)) ** 2
    assert dataset.entropy == pytest.approx(want, abs=1e-6)
    weights = dataset.mixture.weights
    twin = dataset.entropy + float((weights * weights.log()).sum())  # labels forgotten
    assert len(components) == 1 or abs(twin - want) > 1e-2


def test_entropy_of_gaussians_in_closed_form():
    far = gaussians([[-40, 0, 0.01, 10, 0, 1], [40, 0, 0.3, 0.01, 0.5, 3]])
    want = sum(w * (math.log(2 * math.pi * math.e * a * b) - math.log(w))
               for w, a, b in ((0.25, 0.01, 10), (0.75, 0.3, 0.01)))  # fmt: skip
    assert far.entropy == pytest.approx(want, abs=1e-9)
    same = gaussians([[0, 0, 0.4, 0.2, 1, 1], [0, 0, 0.4, 0.2, 1, 5]])
    assert same.entropy == pytest.approx(math.log(2 * math.pi * math.e * 0.08), abs=1e-7)
    # two long threads on each other: too dear to integrate, and so not claimed
    assert gaussians([[0, 0, 10, 0.01, 0, 1], [0, 0.01, 10, 0.01, 0.001, 1]]).entropy is None


def test_noised_gaussians_are_those_of_scipy():
    a, sigma = -0.7, 0.4
    noised = gaussians(THREE).noised(a, sigma)
    grown = [[a * x, a * y, math.hypot(a * sx, sigma), math.hypot(a * sy, sigma), t, w]
             for x, y, sx, sy, t, w in THREE]  # fmt: skip
    x = torch.from_numpy(RNG(0).normal(size=(50, 2)))
    assert noised.log_prob(x).numpy() == pytest.approx(by_scipy(grown, x.numpy()))
    assert abs(noised.log_prob(x).numpy() - by_scipy(THREE, x.numpy())).max() > 0.1


def test_the_extent_stands_still_until_a_gaussian_reaches_out_of_it():
    assert gaussians(THREE).extent == (-6, 6, -6, 6)
    for shift in (0.0, 0.4, 0.8):
        assert gaussians([[shift, 0, 0.5, 0.5, 0, 1]]).extent == (-4, 4, -4, 4)
    assert gaussians([[50, 50, 10, 10, 0, 1]]).extent == (-100, 100, -100, 100)


def test_round_gaussians_have_modes_and_stretched_ones_have_none():
    assert gaussians(THREE).modes is None
    modes = gaussians([[-2, 0, 0.3, 0.3, 1, 1], [2, 0, 0.5, 0.49, 0, 3]]).modes
    assert modes.weights.tolist() == pytest.approx([0.25, 0.75])
    assert modes.sigma.tolist() == pytest.approx([0.3, 0.495], abs=1e-3)


GOOD = [0.0, 0.0, 1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        None, [], "abc", {}, 7, [GOOD] * 25, [[1, 2, 3]], [GOOD, None], [[*GOOD, 1]],
        [[math.nan, *GOOD[1:]]], [[*GOOD[:2], 0.0, 1, 0, 1]], [[*GOOD[:5], 0]], [[*GOOD[:5], -1]],
        [[10**400, *GOOD[1:]]], [[True, *GOOD[1:]]], [["0", *GOOD[1:]]], [[*GOOD[:2], 11, 1, 0, 1]],
    ],
)  # fmt: skip
def test_components_that_make_no_sense_are_refused_in_one_sentence(wrong):
    with pytest.raises(BadInput) as refused:
        DATASETS["gaussians"](components=wrong)
    assert str(refused.value).endswith(".") and len(str(refused.value)) < 200


# ---------------------------------------------------------------- a picture


def picture(weights: np.ndarray) -> object:
    return DATASETS["picture"](pixels=pixels(weights))


@pytest.mark.parametrize("shape", [(48, 48), (96, 31), (7, 20), (1, 1), (1, 96)])
def test_a_picture_is_uniform_within_each_pixel(shape):
    weights = RNG(0).integers(0, 256, shape).astype(np.uint8)
    weights[0, 0] = 200
    dataset = picture(weights)
    height, width = shape
    side = 8 / max(shape)
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    # row 0 is the top of the picture
    middle = np.stack([(column - width / 2 + 0.5) * side, (height / 2 - row - 0.5) * side], 2)
    p = weights / weights.astype(float).sum() / side**2
    found = dataset.log_prob(torch.from_numpy(middle.reshape(-1, 2))).exp().numpy().reshape(shape)
    assert found == pytest.approx(p)
    if shape == (48, 48):
        assert found[::-1] != pytest.approx(p), "upside down"
    mass = p * side**2
    assert dataset.entropy == pytest.approx(-(mass[mass > 0] * np.log(p[mass > 0])).sum())
    outside = torch.tensor([[4.1, 0.0], [0.0, -4.1], [-1e30, 0.0]])
    assert (dataset.log_prob(outside) == -math.inf).all()


def test_samples_of_a_picture_never_leave_its_ink():
    weights = np.zeros((96, 96), np.uint8)
    weights[::2, 1::2] = RNG(0).integers(1, 256, (48, 48))
    dataset = picture(weights)
    x = dataset.sample(100_000, torch.Generator().manual_seed(0))
    assert torch.isfinite(dataset.log_prob(x)).all()
    column = ((x[:, 0].double() + 4) * 12).floor().long()
    row = 95 - ((x[:, 1].double() + 4) * 12).floor().long()
    counts = np.zeros((96, 96))
    np.add.at(counts, (row.numpy(), column.numpy()), 1)
    ink = weights > 0
    expected = weights[ink] / weights[ink].astype(float).sum() * len(x)
    assert stats.chisquare(counts[ink], expected).pvalue > 1e-3
    assert (
        stats.chisquare(counts[::-1][:, ::-1].T[ink] + 1e-9, expected, sum_check=False).pvalue
        < 1e-6
    )


@pytest.mark.parametrize("shape", [(10, 25), (48, 48)])
def test_the_cells_of_a_picture_are_averages_of_its_density(shape):
    dataset = picture(RNG(0).integers(0, 256, shape).astype(np.uint8))
    n, sub = 40, 24
    want = cell_average(dataset.log_prob, dataset.extent, n, refine=n * n, sub=sub)
    assert np.abs(dataset.cells(n) - want).max() < 0.03 * want.max()
    assert float(dataset.cells(n).astype(float).sum()) * (8 / n) ** 2 == pytest.approx(1, abs=1e-5)
    assert np.abs(dataset.cells(n)[::-1] - want).max() > 0.3 * want.max()


def test_a_smeared_picture_is_a_sum_of_normal_distribution_functions():
    weights = np.array([[3, 0, 9], [1, 200, 5]], np.uint8)
    dataset = picture(weights)
    for a, sigma in ((1.0, 0.5), (-0.6, 1.1)):
        noised = dataset.noised(a, sigma)
        for x, y in ((0.3, 0.2), (1.4, -1.0), (-2.0, 2.5)):
            side, want = 8 / 3, 0.0
            for i in range(2):
                for j in range(3):
                    u = np.sort(a * np.array([(j - 1.5) * side, (j - 0.5) * side]))
                    v = np.sort(a * np.array([(1 - i) * side, -i * side]))
                    inside = [np.diff(stats.norm(c, sigma).cdf(e))[0] / np.diff(e)[0]
                              for c, e in ((x, u), (y, v))]  # fmt: skip
                    want += weights[i, j] / weights.sum() * inside[0] * inside[1]
            found = float(noised.log_prob(torch.tensor([[x, y]], dtype=torch.float64)).exp())
            assert found == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        None, "abc", [], {}, {"size": [2, 2]}, {"size": [2, 2], "data": "!!!"},
        {"size": [2, 2], "data": "AAAA"}, {"size": [97, 1], "data": ""}, {"size": [0, 4], "data": ""},
        {"size": [2.0, 2], "data": "AQEBAQ=="}, {"size": [True, 4], "data": "AQEBAQ=="},
        {"size": [2, 2], "data": "AAAAAA=="}, {"size": [2, 2], "data": None},
        {"size": [2, 2], "data": "AQEBAQ==", "more": 1}, {"size": [2, 2], "data": "é"},
        {"size": [2, 2], "data": "A" * 10**6}, {"size": 4, "data": "AQEBAQ=="},
    ],
)  # fmt: skip
def test_pixels_that_make_no_sense_are_refused_in_one_sentence(wrong):
    with pytest.raises(BadInput) as refused:
        DATASETS["picture"](pixels=wrong)
    assert str(refused.value).endswith(".") and len(str(refused.value)) < 200


# ---------------------------------------------------------------- options with structure


@pytest.mark.parametrize("name", ["gaussians", "picture"])
def test_a_payload_travels_with_the_experiment(name):
    value = {"gaussians": MANY, "picture": pixels(RNG(0).integers(0, 9, (96, 96)))}[name]
    option = {"gaussians": "components", "picture": "pixels"}[name]
    experiment = Experiment(name, "mixture", options={option: value})
    again = Experiment.from_json(experiment.to_json())
    assert again == experiment and hash(again) == hash(experiment)
    assert again.make_dataset().key == experiment.make_dataset().key
    assert again.make_dataset().key != Experiment(name, "mixture").make_dataset().key
    entry = DATASETS[name].knobs[option]
    assert entry.spec()["kind"] == "payload"
    json.dumps(entry.spec())
    a, b = (DATASETS[name]().options[option] for _ in range(2))
    assert a == b and a is not b, "a default is not shared"


def test_a_running_model_follows_a_dragged_gaussian():
    run = Experiment("gaussians", "mixture").start("cpu").train(steps=20)
    moved = [[row[0] + 1.0, *row[1:]] for row in run.experiment.options["components"]]
    before = run.engine.components()[1].mean(0)
    run.feed(run.experiment.but(options={"components": moved})).train(steps=20)
    assert run.step == 40
    assert (run.engine.components()[1].mean(0) - before)[0] > 0.5


def test_columns_of_very_different_scales_are_made_comparable_and_it_is_said():
    from app.own import comparable

    rng = np.random.default_rng(0)
    points = rng.normal([5, 1.7e9], [1, 4000], (500, 2))
    scaled, note = comparable(points, "a", "b")
    assert scaled.mean(0) == pytest.approx([0, 0], abs=1e-9)
    assert scaled.std(0) == pytest.approx([1, 1])
    assert "a and b" in note and note.endswith(".")
    usual = rng.normal([5, 3], [1, 6], (500, 2))
    same, nothing = comparable(usual, "a", "b")
    assert nothing == "" and same is usual


def test_points_on_a_slanted_line_are_refused():
    x = np.linspace(-1, 1, 100)
    with pytest.raises(BadInput, match="one line"):
        PointsDataset(np.stack([x, 2 * x + 1], 1))
