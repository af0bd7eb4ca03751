"""Every kind of flow by the same checks: autograd's Jacobian, quadrature, the way back."""

from __future__ import annotations

import pytest
import torch

from engines import ENGINES, BadInput, Diverged, Experiment
from engines.flow import KINDS
from tests.flows import (
    doubled,
    jacobian_gap,
    mass,
    perturbed,
    round_trip,
    sampled_and_quadrature,
    twins,
    without_a_layer,
    wrong_forwards,
)  # fmt: skip

pytestmark = pytest.mark.slow  # dear: `make test` runs them, `make check` does not

BASES = ("Gaussian", "uniform", "mixture")
SIZES = [(kind, dim) for kind, entry in KINDS.items() for dim in (2, 3, 64) if dim <= entry.most]


def start(kind: str, dataset: str = "moons", **knobs):
    return Experiment(dataset, "flow", knobs={"kind": kind, **knobs}).start("cpu")


@pytest.mark.parametrize(("kind", "dim"), SIZES)
def test_log_determinant_is_that_of_autograds_jacobian(kind, dim):
    engine = doubled(perturbed(dim, kind=kind))
    x = engine.pool.train[: {2: 6, 3: 6, 64: 1}[dim]]
    assert jacobian_gap(engine.forward, x) < 1e-7
    for name, wrong in wrong_forwards(engine).items():
        assert jacobian_gap(wrong, x) > 0.02, name


@pytest.mark.parametrize(
    ("kind", "dim", "base"),
    [(kind, dim, "Gaussian") for kind, dim in SIZES]
    + [(kind, 2, base) for kind in ("RealNVP", "planar") for base in BASES[1:]],
)
def test_inverse_undoes_the_flow(kind, dim, base):
    engine = perturbed(dim, kind=kind, base=base)
    x = engine.pool.train[:200]
    with torch.no_grad():
        assert round_trip(engine, engine.decode, x) < 1e-4
        (metric,) = engine.metrics()
        assert metric.kind == "exact" and metric.value < 1e-4
        assert round_trip(engine, lambda z: without_a_layer(engine, z), x) > 0.01


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    """One flow of each kind after a little training, each on another base."""
    base = BASES[list(KINDS).index(request.param) % 3]
    knobs = {
        "kind": request.param,
        "layers": 4,
        "splines": 2,
        "width": 16,
        "lr": 0.01,
        "base": base,
    }
    # wider than high, so that no Jacobian is 1 by chance
    xy = Experiment("moons", "flow").make_dataset().pool(0).train[:4000] * torch.tensor([2.0, 1.0])
    return Experiment.from_points(xy, "flow", knobs=knobs).start("cpu").train(steps=80).engine


@pytest.mark.slow
def test_density_integrates_to_one_and_samples_follow_it(trained):
    assert abs(mass(trained.log_prob, 480) - 1) < 3e-3  # a spline's density has kinks
    assert sampled_and_quadrature(trained, trained.log_prob, 10_000) < 4
    for name, wrong in twins(trained).items():
        assert abs(mass(wrong) - 1) > 0.05, name
        assert sampled_and_quadrature(trained, wrong, 10_000) > 8, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_repeats_and_goes_on_from_a_checkpoint(kind):
    size = {"layers": 4, "splines": 2, "width": 16, "lr": 0.01}
    a, b, half = (start(kind, **size) for _ in range(3))
    a.train(steps=24)
    b.train(steps=24)
    half.train(steps=12)
    other = start(kind, **size).restore(half.checkpoint()).train(steps=12)
    x = a.pool.test[:64]
    assert torch.equal(a.log_prob(x), b.log_prob(x)) and torch.equal(a.sample(9), b.sample(9))
    assert torch.equal(a.log_prob(x), other.log_prob(x))
    assert not torch.equal(a.log_prob(x), half.log_prob(x))
    first = start(kind, **size).log_prob(a.pool.test).mean()
    assert a.log_prob(a.pool.test).mean() > first + 0.005


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", BASES)
def test_the_pictures_of_every_kind(kind, base):
    run = start(kind, base=base, layers=3, splines=2, width=8).train(steps=3)
    panels = {p.id: p for p in run.frame().panels}
    slider = panels["grid"].slider
    for name in ("grid", "journey"):
        mark = panels[name].marks[0]
        assert mark.keys[0] == 0 and mark.keys[-1] == slider.high
        assert len(mark.keys) == len(mark.xy) <= 9
        with torch.no_grad():
            ends = torch.from_numpy(mark.xy[[0, -1]]).float().reshape(2, -1, 2)
            x = run.engine.decode(ends[0])
        inside = ends[0].abs().amax(1) < 1.7  # at the box's edge float32 has no digits left
        assert torch.allclose(x[inside], ends[1][inside], atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_too_long_is_refused_in_one_sentence(kind):
    if KINDS[kind].most >= 64:
        assert start(kind, "digits", layers=2, splines=2, width=8).train(steps=1).step == 1
        return
    with pytest.raises(BadInput) as refused:
        Experiment("digits", "flow", knobs={"kind": kind})
    assert kind in str(refused.value) and str(refused.value).endswith("choose another kind.")
    with pytest.raises(BadInput, match=kind):  # and so is one that would run beside
        Experiment("digits", "flow", beside=[{"kind": kind}])
    here = Experiment("moons", "flow", knobs={"kind": kind})
    with pytest.raises(BadInput, match=kind):
        here.but(dataset="digits")


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(("kind", "dataset"), [("planar", "grid25"), ("radial", "ring8soft")])
def test_a_setting_that_cannot_train_diverges_politely(kind, dataset, base):
    """It trains or ends with its sentence; and what is shown is finite, whatever happens."""
    run = start(kind, dataset, layers=32, lr=ENGINES["flow"].knobs["lr"].high, base=base)
    try:
        run.train(steps=120)
    except Diverged as error:
        assert "Try a smaller learning rate" in str(error)
    frame = run.frame()
    assert frame.panels and (run.diverged is None or frame.note == run.diverged)
    for panel in frame.panels:
        for mark in panel.marks:
            for value in vars(mark).values():
                if hasattr(value, "dtype") and value.dtype.kind == "f":
                    assert torch.isfinite(torch.as_tensor(value)).all(), (panel.id, type(mark))
