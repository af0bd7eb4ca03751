"""Style-based GAN: modulation, mixing and truncation against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d

from engines import BadInput, Experiment
from engines.marks import Images, Mesh, Paths, Points
from engines.style import StyleGAN
from engines.style.networks import EPSILON, Generator, Modulated, detour, mixed, truncated
from engines.style.pictures import straight, unbent, variety


def started(dataset: str = "ring8soft", seed: int = 0, **knobs) -> StyleGAN:
    return Experiment(dataset, "style_gan", seed, knobs).start("cpu").engine


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- modulation


def by_hand(layer: Modulated, x: Tensor, w: Tensor) -> Tensor:
    """Weights made for every row, as the paper writes it: one group of a convolution each."""
    s = w @ layer.style.weight.T + layer.style.bias
    v = layer.weight[None] * s[:, None, :]
    if layer.demodulate:
        v = v / (v.square().sum(2, keepdim=True) + EPSILON).sqrt()
    n, n_out, n_in = v.shape
    y = conv1d(x.reshape(1, n * n_in, 1), v.reshape(n * n_out, n_in, 1), groups=n)
    return y.reshape(n, n_out) + layer.bias


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulation_is_its_formula(demodulate):
    layer = Modulated(7, 5, 3, rng(), demodulate).double()
    with torch.no_grad():
        layer.bias.copy_(torch.randn(5, generator=rng(1)))
    x, w = (torch.randn(20, k, generator=rng(2)).double() for k in (7, 3))
    right = by_hand(layer, x, w)
    assert torch.allclose(layer(x, w), right, atol=1e-10)
    # wrong twins: the style of another row, no style at all, weights demodulated before it
    assert not torch.allclose(layer(x, w.roll(1, 0)), right, atol=1e-3)
    plain = x @ layer.weight.T + layer.bias
    assert not torch.allclose(layer(x, w), plain, atol=1e-3)
    early = layer.weight / layer.weight.square().sum(1, keepdim=True).sqrt()
    s = w @ layer.style.weight.T + layer.style.bias
    assert not torch.allclose((x * s) @ early.T + layer.bias, right, atol=1e-3)


def test_demodulation_keeps_the_size_of_a_signal_whatever_the_style():
    layer = Modulated(64, 32, 4, rng()).requires_grad_(False)
    x = torch.randn(4000, 64, generator=rng(1))
    for size in (0.1, 1.0, 30.0):
        y = layer(x, size * torch.randn(1, 4, generator=rng(2)).expand(4000, -1))
        assert float((y - layer.bias).std()) == pytest.approx(1, abs=0.03)
    loud = Modulated(64, 32, 4, rng(), demodulate=False).requires_grad_(False)
    y = loud(x, 30 * torch.randn(1, 4, generator=rng(2)).expand(4000, -1))
    assert float(y.std()) > 3, "the wrong twin: without it"


# ---------------------------------------------------------------- mixing


def test_early_and_late_layers():
    early, late = torch.zeros(3, 4, 2), torch.ones(3, 4, 2)
    assert mixed(early, late, 1)[0, :, 0].tolist() == [0, 1, 1, 1]
    assert torch.equal(mixed(early, late, 4), early) and torch.equal(mixed(early, late, 0), late)
    each = mixed(early, late, torch.tensor([0, 2, 4]))
    assert each[:, :, 1].sum(1).tolist() == [4, 2, 0]


def test_mixing_with_oneself_is_the_plain_sample():
    engine = started()
    a, b = (engine.style(torch.randn(30, 2, generator=rng(k))) for k in (1, 2))
    plain, other = engine.synthesise(a), engine.synthesise(b)
    for crossover in range(5):
        assert torch.equal(engine.mix(a, a, crossover), plain)
    assert torch.equal(engine.mix(a, b, 4), plain) and torch.equal(engine.mix(a, b, 0), other)
    for crossover in (1, 2, 3):
        found = engine.mix(a, b, crossover)
        # the wrong twins: nothing was mixed, or the two sources change places
        assert not torch.allclose(found, plain, atol=1e-4)
        assert not torch.allclose(found, engine.mix(b, a, crossover), atol=1e-4)


def test_layers_after_the_crossover_do_not_see_the_first_source():
    net = Generator(2, 2, 3, 16, 4, 2, rng()).double()
    a, b, c = (net.broadcast(torch.randn(5, 3, generator=rng(k)).double()) for k in (1, 2, 3))
    changed = a.clone()
    changed[:, 2:] = c[:, 2:]
    assert torch.equal(net.synthesis(mixed(a, b, 2)), net.synthesis(mixed(changed, b, 2)))
    assert not torch.equal(net.synthesis(mixed(a, b, 3)), net.synthesis(mixed(changed, b, 3)))


def test_training_mixes_a_share_of_its_samples(monkeypatch):
    engine = started(mixing=0.25, batch=1024)
    seen = []
    synthesis = engine.generator.synthesis.forward
    monkeypatch.setattr(engine.generator.synthesis, "forward", lambda w: (seen.append(w), synthesis(w))[1])  # fmt: skip
    with torch.no_grad():
        engine.train_samples()
        engine.mixing = 0.0
        engine.train_samples()
    two = [(w != w[:, :1]).any(2).any(1).double().mean() for w in seen]
    assert float(two[0]) == pytest.approx(0.25, abs=0.05) and float(two[1]) == 0


# ---------------------------------------------------------------- truncation


def test_truncation_at_both_ends_and_between():
    engine = started("digits", latent=5)
    z = torch.randn(40, 5, generator=rng(1))
    whole, none = engine.style(z, 1.0), engine.style(z, 0.0)
    assert torch.allclose(whole, engine.averaged.mapping(z), atol=1e-6)
    assert torch.allclose(none, engine.mean_style().expand(40, -1))
    images = engine.synthesise(none)
    assert torch.allclose(images, images[:1].expand(40, -1), atol=1e-4), "one image"
    half = engine.style(z, 0.5)
    assert torch.allclose(half, (whole + none) / 2, atol=1e-6)
    # the wrong twins: drawn to the origin, and the mean of samples instead of styles
    assert not torch.allclose(half, whole / 2, atol=1e-3)
    assert not torch.allclose(images[0], engine.synthesise(whole).mean(0), atol=1e-3)
    assert torch.equal(truncated(whole, whole[0], 0.0)[3], whole[0])


def test_the_mean_style_is_the_mean():
    engine = started()
    z = torch.randn(200_000, 2, generator=rng(3))
    with torch.no_grad():
        many = engine.averaged.mapping(z)
    far = (engine.mean_style() - many.mean(0)).abs() / many.std(0)
    assert float(far.max()) < 4 / math.sqrt(1000)


def test_psi_is_the_knobs_and_less_of_it_is_less_variety():
    engine = Experiment("two_gaussians", "style_gan").start("cpu").train(steps=80).engine
    found = []
    for psi in (1.0, 0.5, 0.0):
        engine.psi = psi
        with engine.still():
            found.append(variety(engine.sample(500), engine.pool.test))
    assert found[0] > found[1] > found[2] and found[2] < 1e-3


# ---------------------------------------------------------------- numbers


def test_variety_is_a_ratio_of_spreads():
    data = torch.randn(20_000, 3, generator=rng()) * torch.tensor([1.0, 2.0, 3.0])
    assert variety(0.4 * data + 7, data) == pytest.approx(0.4, abs=1e-5)
    assert variety(data[:10].mean(0).expand(50, -1), data) == pytest.approx(0, abs=1e-5)


def test_detours_of_lines_and_half_circles():
    t = torch.linspace(0, math.pi, 400).double()
    ends = torch.randn(2, 6, 2, generator=rng()).double()
    line = torch.lerp(
        ends[0][:, None], ends[1][:, None], torch.linspace(0, 1, 50).double()[:, None]
    )
    assert float(detour(line)) == pytest.approx(1)
    arc = torch.stack([t.cos(), t.sin()], 1)[None]
    assert float(detour(arc)) == pytest.approx(math.pi / 2, abs=1e-4)
    whole = torch.stack([(2 * t).cos(), (2 * t).sin()], 1)[None]
    assert float(detour(whole)) > 1e3, "back where it began"


def test_a_linear_mapping_bends_nothing():
    engine = started(depth=0)
    in_z, in_w = straight(engine, torch.randn(2, 30, 2, generator=rng()), 12)
    assert torch.allclose(in_z, in_w, atol=1e-4), "straight in one is straight in the other"
    assert unbent(float(detour(in_z)), float(detour(in_w))) == pytest.approx(0, abs=0.02)
    assert unbent(1.5, 1.0) == 1 and unbent(1.5, 1.25) == pytest.approx(0.5)
    in_z, in_w = straight(started(), torch.randn(2, 30, 2, generator=rng()), 12)
    assert not torch.allclose(in_z, in_w, atol=1e-3), "the wrong twin"


def test_straight_lines_share_their_ends_and_are_straight_in_their_space():
    engine = started()
    ends = torch.randn(2, 20, 2, generator=rng())
    in_z, in_w = straight(engine, ends, 9)
    for k, end in ((0, ends[0]), (-1, ends[1])):
        right = engine.synthesise(engine.style(end))
        assert torch.allclose(in_z[:, k], right, atol=1e-4)
        assert torch.allclose(in_w[:, k], right, atol=1e-4)
    middle = engine.synthesise(engine.style((ends[0] + ends[1]) / 2))
    assert torch.allclose(in_z[:, 4], middle, atol=1e-4)
    assert not torch.allclose(in_w[:, 4], middle, atol=1e-3), "the wrong twin: the other space"


def test_what_is_not_of_the_plane_is_refused():
    with pytest.raises(BadInput, match=r"Style-based GAN.*\.$"):
        Experiment("walk", "style_gan")


# ---------------------------------------------------------------- pictures


def drawn(engine: StyleGAN) -> dict:
    with torch.no_grad(), engine.still():
        return {p.id: p.drawn() for p in engine.panels()}


def test_pictures_of_the_plane():
    panels = drawn(started())
    mesh = panels["warp"].marks[0]
    assert isinstance(mesh, Mesh) and mesh.xy.shape == (3, 25, 25, 2) and len(mesh.keys) == 3
    cloud, sources = panels["mixing"].marks[1:]
    assert isinstance(cloud, Points) and len(np.unique(cloud.group)) == len(sources.xy)
    assert isinstance(panels["truncation"].marks[1], Paths)
    assert "warp" not in drawn(started(latent=1))


def test_the_table_of_mixtures():
    engine = started("digits", crossover=1)
    sheet = drawn(engine)["mixing"].marks[0]
    assert isinstance(sheet, Images) and sheet.columns == 10
    cells = sheet.pixels.reshape(10, 10, 8, 8)
    assert np.isnan(cells[0, 0]).all() and not np.isnan(cells[1:]).any()
    engine.crossover = 4  # all layers from the left column
    cells = drawn(engine)["mixing"].marks[0].pixels.reshape(10, 10, 8, 8)
    assert np.allclose(cells[1:, 1:], cells[1:, :1], atol=1e-6)
    engine.crossover = 0
    cells = drawn(engine)["mixing"].marks[0].pixels.reshape(10, 10, 8, 8)
    assert np.allclose(cells[1:, 1:], cells[:1, 1:], atol=1e-6)


def test_the_mean_style_is_that_of_the_weights_of_now():
    """It is kept while they stand, and no longer."""
    run = Experiment("moons", "style_gan").start("cpu")
    engine = run.engine

    def anew():
        engine.refresh()
        return engine.mean_style()

    first = engine.mean_style()
    assert engine.mean_style() is first, "worked out once"
    assert torch.equal(first, anew())
    run.train(steps=3)
    now = engine.mean_style()
    assert not torch.equal(first, now) and torch.equal(now, anew())
    saved = run.checkpoint()
    run.train(steps=3)
    assert not torch.equal(now, engine.mean_style())
    run.restore(saved)
    assert torch.equal(now, run.engine.mean_style())
