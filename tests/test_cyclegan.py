"""CycleGAN: its two networks, its losses, what the cycle asks for and what it leaves open."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from app.session import Session
from app.share import read_hash, to_hash, to_python
from engines import DATASETS, ENGINES, BadInput, Experiment
from engines.cyclegan import Pair, best_symmetry, symmetry_of
from engines.cyclegan.symmetry import energy_distance
from engines.marks import Arrows, Points


def start(dataset="ring8soft", source="moons", **knobs):
    return Experiment(dataset, "cyclegan", source=source, knobs=knobs).start("cpu")


def energy_by_numpy(x, y) -> float:
    """The definition, pair by pair: rows of one sample are compared with others of it only."""

    def mean(a, b, own):
        far = np.linalg.norm(a[:, None] - b[None], axis=2)
        return far.sum() / (len(a) * (len(b) - own))

    return 2 * mean(x, y, 0) - mean(x, x, 1) - mean(y, y, 1)


def by_layers(pair: Pair, which: int) -> nn.Sequential:
    """The same network of torch's own layers."""
    layers: list[nn.Module] = []
    for weight, bias in zip(pair.weights, pair.biases, strict=True):
        layer = nn.Linear(*weight.shape[1:])
        layer.weight.data, layer.bias.data = weight[which].T.clone(), bias[which, 0].clone()
        layers += [nn.SiLU(), layer] if layers else [layer]
    return nn.Sequential(*layers)


def test_a_pair_is_two_networks_of_torchs_layers():
    pair = Pair([2, 8, 8, 3], torch.Generator().manual_seed(0))
    x = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1))
    out = pair(x)
    for which in (0, 1):
        assert torch.allclose(out[which], by_layers(pair, which)(x[which]), atol=1e-6)
        assert torch.allclose(out[which], pair.one(which, x[which]), atol=1e-6)
    assert not torch.allclose(pair.one(0, x[0]), pair.one(1, x[0]), atol=1e-2)


# ---------------------------------------------------------------- losses


def losses(engine, x, y, detached=False):
    """Zhu et al. 2017, equations 1 to 3 and the identity loss, direction by direction."""
    g, f = (by_layers(engine.generators, i) for i in (0, 1))
    d_y, d_x = (by_layers(engine.discriminators, i) for i in (0, 1))
    xs, ys = (x - engine.x_mean) / engine.x_std, engine.standardise(y)
    sides = [(g, f, d_y, xs, ys), (f, g, d_x, ys, xs)]
    on_d = on_g = cycle = 0.0
    for there, back, d, given, wanted in sides:
        made = there(given)
        real, fake = d(wanted), d(made)
        if engine.loss == "least squares":
            on_d = on_d + ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2
            on_g = on_g + ((fake - 1) ** 2).mean() / 2
        else:
            on_d = on_d - torch.log(real.sigmoid()).mean() - torch.log(1 - fake.sigmoid()).mean()
            on_g = on_g - torch.log(fake.sigmoid()).mean()
        cycle = cycle + (back(made) - given).abs().mean()
    same_y = g((y - engine.x_mean) / engine.x_std) - ys
    same_x = f(engine.standardise(x)) - xs
    return on_d, on_g, cycle, same_y.abs().mean() + same_x.abs().mean()


@pytest.mark.parametrize("loss", ["non-saturating", "least squares"])
def test_the_losses_are_the_papers(loss):
    engine = start(loss=loss, r1=0.0, identity=2.0).train(steps=5).engine
    x, y = engine.pool.source.train[:64], engine.pool.train[:64]
    on_d, on_g, cycle, same = (part.detach() for part in losses(engine, x, y))
    xs, ys = (x - engine.x_mean) / engine.x_std, engine.standardise(y)
    given, wanted = torch.stack([xs, ys]), torch.stack([ys, xs])
    made = engine.generators(given)
    fooled = engine._fooled(engine.discriminators(made).squeeze(2))
    assert float(fooled.detach()) == pytest.approx(float(on_g), rel=1e-5)
    missed = (engine.generators(made.flip(0)).flip(0) - given).abs().mean()
    assert 2 * float(missed.detach()) == pytest.approx(float(cycle), rel=1e-5)
    assert 2 * float(engine._moved(x, y, wanted).detach()) == pytest.approx(float(same), rel=1e-5)
    # the wrong twin forgets to turn the two sides round: then G would have to undo itself
    twin = (engine.generators(made) - given).abs().mean()
    assert 2 * float(twin.detach()) != pytest.approx(float(cycle), rel=1e-2)
    engine._descend = lambda optimiser, player, loss, lr: None
    assert 2 * float(engine._update_discriminators(wanted, made.detach())) == pytest.approx(
        float(on_d), rel=1e-5
    )


def test_r1_is_the_mean_squared_slope_on_the_data():
    engine, seen = start(r1=3.0).engine, []
    engine._descend = lambda optimiser, player, loss, lr: seen.append(float(loss.detach()))
    real = torch.randn(2, 32, 2, generator=torch.Generator().manual_seed(0))
    fake = real.flip(0) + 1
    plain = 2 * float(engine._update_discriminators(real, fake))
    slopes = []
    for which in (0, 1):
        x = real[which].clone().requires_grad_()
        (slope,) = torch.autograd.grad(by_layers(engine.discriminators, which)(x).sum(), x)
        slopes.append(float(slope.square().sum(1).mean()))
    assert seen[0] - plain == pytest.approx(3.0 / 2 * sum(slopes), rel=1e-4)
    assert seen[0] - plain != pytest.approx(3.0 * sum(slopes), rel=1e-2)


def linear(engine, a_there, b_there, a_back, b_back):
    """Make both averaged generators affine maps of data units: x ↦ A x + b."""
    pair = Pair([2, 2], torch.Generator().manual_seed(0))
    for which, (a, b) in enumerate(((a_there, b_there), (a_back, b_back))):
        a, b = torch.as_tensor(a).float(), torch.as_tensor(b).float()
        m_in, s_in = (engine.x_mean, engine.x_std) if which == 0 else (engine._mean, engine._std)
        m_out, s_out = (engine._mean, engine._std) if which == 0 else (engine.x_mean, engine.x_std)
        # standardised: ((A (z s + m) + b) − m') / s'
        pair.weights[0].data[which] = ((a * s_in) / s_out[:, None]).T
        pair.biases[0].data[which, 0] = (a @ m_in + b - m_out) / s_out
    engine.average.module = pair


def test_exact_inverses_have_no_cycle_error_and_others_have():
    run = start("unbalanced", "two_gaussians")
    a, b = np.array([[1.2, 0.3], [-0.4, 0.8]]), np.array([0.5, -1.0])
    back = np.linalg.inv(a)
    linear(run.engine, a, b, back, -back @ b)
    found = {m.name: m.value for m in run.engine.metrics()}
    assert found["cycle"] < 1e-5 and found["cycle_back"] < 1e-5
    x = run.pool.source.test[:1000]
    moved = np.linalg.norm(x.numpy() @ a.T + b - x.numpy(), axis=1).mean()
    assert found["moved"] == pytest.approx(moved, rel=1e-4)
    # wrong twins: the shift is not taken back, or the matrix is only turned back
    for wrong in ((back, b), (a.T, -a.T @ b)):
        linear(run.engine, a, b, *wrong)
        found = {m.name: m.value for m in run.engine.metrics()}
        assert found["cycle"] > 0.1
    # back is there by a shift of d: the error is |d|, in σ of X
    linear(run.engine, a, b, back, -back @ b + [0.3, 0.4])
    sigma = float(run.pool.source.std.square().mean().sqrt())
    assert {m.name: m.value for m in run.engine.metrics()}["cycle"] == pytest.approx(
        0.5 / sigma, rel=1e-4
    )


def test_energy_distance_is_its_definition_and_knows_a_shift():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 2, generator=rng).double(), torch.randn(50, 2, generator=rng).double()
    assert energy_distance(x, y) == pytest.approx(energy_by_numpy(x.numpy(), y.numpy()), rel=1e-9)
    assert energy_distance(x, y + 1) > 10 * abs(energy_distance(x, y))


# ---------------------------------------------------------------- what it cannot know


def test_the_symmetries_of_known_data_are_found():
    rows = lambda name: DATASETS[name]().sample(  # noqa: E731
        2000, torch.Generator().manual_seed(1), "test"
    )
    ring = best_symmetry(rows("ring8soft"))
    turn = torch.linalg.det(ring.matrix)
    angle = float(ring.words.split()[2].rstrip("°")) if turn > 0 else None
    assert angle is None or abs(angle / 45 - round(angle / 45)) < 0.34, "eight modes"
    # a long Gaussian has a half turn and two mirrors, and no quarter turn
    long = torch.randn(2000, 2, generator=torch.Generator().manual_seed(2)) * torch.tensor([3, 0.4])
    found = best_symmetry(long)
    axes = found.matrix.abs()
    assert axes[0, 0] > 0.98, found.words
    y = long[:50]
    assert torch.allclose(found.back(found(y)), y, atol=1e-5)
    assert not torch.allclose(found(found(y)) if "turned by 90" in found.words else found(y), y)
    # spirals look alike from afar when they are turned; their density tells
    spirals = symmetry_of(DATASETS["spirals"]())
    assert spirals.words == "turned by 180°" and spirals.gap < 0.3
    assert symmetry_of(DATASETS["swissroll"]()).gap > 0.3
    assert symmetry_of(DATASETS["spirals"]()) is spirals, "worked out once"
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    assert energy_distance(long[:300] @ quarter.T, long[300:600]) > 20 * abs(found.energy)


def test_another_pairing_is_as_good_and_has_the_same_cycle_error():
    run = start(batch=64).train(steps=60)
    engine = run.engine
    s, x = engine._other, run.pool.source.test[:400]
    plain = engine.back(engine.there(x))
    assert torch.allclose(engine.back(s.back(s(engine.there(x)))), plain, atol=1e-4)
    wrong = engine.back(s(s(engine.there(x))) if "turned" in s.words else s(engine.there(x)))
    assert not torch.allclose(wrong, plain, atol=0.1)
    found = {m.name: m.value for m in engine.metrics()}
    assert found["fits_other"] == pytest.approx(found["fits"], abs=0.15)
    assert (s(engine.there(x)) - engine.there(x)).norm(dim=1).mean() > 0.5, "another one it is"


@pytest.mark.slow
def test_a_map_that_fits_and_comes_back_is_found_and_weights_decide_which():
    ends = []
    for weights in (6, 8):
        run = start("ring8soft", "moons", weights=weights).train(steps=500)
        found = {m.name: m.value for m in run.engine.metrics()}
        assert found["cycle"] < 0.15 and found["cycle_back"] < 0.15
        assert found["fits"] < 0.1
        held = run.pool.test[:400].double()
        source = run.pool.source.test[:400].double()
        assert energy_distance(source, held) > 2 * found["fits"], "the wrong twin: not moved at all"
        ends.append(run.engine.there(run.pool.source.test[:500]))
    assert (ends[0] - ends[1]).norm(dim=1).mean() > 1.0, "another pairing"
    lost = start("ring8soft", "moons", cycle=0.0).train(steps=500)
    assert lost.engine.metrics()[0].value > 0.4, "the wrong twin: without the cycle"


def test_pictures_show_where_each_x_goes():
    run = start(arrows=50).train(steps=20)
    panels = {p.id: p for p in run.frame().panels}
    assert panels["arrows"].title == "Arrows x → G(x)"
    arrow = next(m for m in panels["arrows"].marks if isinstance(m, Arrows))
    x = run.pool.source.test[:50]
    assert arrow.xy == pytest.approx(x.numpy())
    assert arrow.xy + arrow.vectors == pytest.approx(run.engine.there(x).numpy(), abs=1e-5)
    way = next(m for m in panels["pairing"].marks if isinstance(m, Points))
    assert way.xy.shape == (2, 800, 2) and way.xy[0] == pytest.approx(
        run.pool.source.test[:800].numpy()
    )
    colours = [m.group for p in ("source", "model", "other") for m in panels[p].marks
               if isinstance(m, Points) and m.group is not None]  # fmt: skip
    assert len(colours) == 3 and all(np.array_equal(colours[0], c) for c in colours)
    assert len(np.unique(colours[0])) > 4
    assert "as good" in panels["other"].subtitle and "not" not in panels["other"].subtitle
    crooked = {p.id: p for p in start("swissroll").engine.panels()}
    assert "not as good" in crooked["other"].subtitle


# ---------------------------------------------------------------- where it comes from


def test_a_source_travels_with_the_experiment():
    made = Experiment("ring8soft", "cyclegan", source="river", seed=4)
    assert made.source == "river" and made.source_options == DATASETS["river"].complete()
    assert Experiment.from_json(made.to_json()) == made
    assert read_hash(to_hash(made))[0] == made
    assert "source='river'" in to_python(made)
    assert Experiment("ring8soft", "cyclegan").source == "moons", "its own, where none is named"
    assert "source" not in Experiment("ring8soft", "gan").to_dict()
    a, b = made.make_pool("cpu"), made.make_pool("cpu")
    assert torch.equal(a.source.train, b.source.train) and a.source.dataset.name == "river"
    twin = made.but(dataset="river", options={}).make_pool("cpu")
    assert not torch.equal(twin.train[:100], twin.source.train[:100]), "rows of their own"
    assert made.make_pool("cpu").source.source is None


@pytest.mark.parametrize(
    ("engine", "given"),
    [
        ("cyclegan", {"source": "digits"}),
        ("cyclegan", {"source": "point"}),
        ("cyclegan", {"source": "nowhere"}),
        ("cyclegan", {"source": 3}),
        ("cyclegan", {"source": "moons", "source_options": {"noise": "loud"}}),
        ("gan", {"source": "moons"}),
    ],
)
def test_a_source_that_does_not_fit_is_refused_in_a_sentence(engine, given):
    with pytest.raises(BadInput) as refused:
        Experiment("ring8soft", engine, **given)
    assert str(refused.value).endswith(".") and len(str(refused.value)) < 300


def test_a_run_keeps_its_source_and_goes_on_with_it():
    run = start(source="rings").train(steps=3)
    run.feed(run.experiment.but(dataset="moons", options={}))
    assert run.pool.dataset.name == "moons" and run.pool.source.dataset.name == "rings"
    assert run.dataset is run.pool.dataset
    with pytest.raises(BadInput, match="source"):
        run.feed(run.experiment.but(source="river", source_options={}))
    saved = run.train(steps=2).checkpoint()
    again = start().restore(saved)
    assert again.pool.source.dataset.name == "rings"
    assert torch.equal(again.engine.x_mean, run.engine.x_mean)


def test_the_page_offers_the_source_among_the_datas_options():
    session = Session("cpu")
    session.open(Experiment("ring8soft", "cyclegan"))
    first = session.data_controls()["knobs"][0]
    assert first["name"] == "source" and first["value"] == "moons"
    assert "digits" not in first["choices"] and "rings" in first["choices"]
    json.dumps(session.data_controls())
    session.set_option("source", "rings")
    assert session.experiment.source == "rings"
    for wrong in ("digits", "nowhere", 7):
        with pytest.raises(BadInput):
            session.set_option("source", wrong)
    assert session.experiment.source == "rings"
    session.choose_engine("gan")
    assert session.experiment.source is None
    assert all(k["name"] != "source" for k in session.data_controls()["knobs"])
    session.choose_engine("cyclegan")
    assert session.experiment.source == "rings", "as it was left"


def test_planes_only():
    kind = ENGINES["cyclegan"]
    for name, dataset in DATASETS.items():
        accepted = kind.accepts(dataset()) is None
        assert accepted == (dataset.kind == "plane") == (kind.accepts_source(dataset()) is None), (
            name
        )
