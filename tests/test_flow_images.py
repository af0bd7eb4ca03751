"""A flow on images: the weights that are shown are those that did best on validation rows."""

from __future__ import annotations

import math

import pytest
import torch

from engines import DATASETS, Experiment
from engines.flow import Flow
from engines.flow.spline import spline, through
from engines.masked import thinned as left_out
from engines.probes import probes

SMALL = {"kind": "RealNVP", "layers": 2, "width": 32, "hidden": 1, "batch": 64, "lr": 2e-2}


def cost(engine: Flow, **shown: bool) -> float:
    """−E log q of the validation rows by what is shown with these view knobs."""
    before = {name: getattr(engine, name) for name in shown}
    vars(engine).update(shown)
    with torch.no_grad():
        found = -engine.log_prob(engine.pool.val).mean()
    vars(engine).update(before)
    return float(found)


@pytest.fixture(scope="module")
def run():
    """A flow that soon knows its 40 digits by heart, and what it cost after every step."""
    torch.set_num_threads(1)
    run = Experiment("digits", "flow", knobs=SMALL).start("cpu")
    run.pool.train = run.pool.train[:40]
    run.costs = []
    for _ in range(161):
        run.train(steps=1)
        run.costs.append(cost(run.engine, best=False))
    return run


def is_the_lowest_offered(value: float, costs: list[float]) -> bool:
    return value == pytest.approx(min(costs[:: Flow.EVERY]), rel=1e-5)


def test_the_weights_that_did_best_are_shown(run):
    engine, costs = run.engine, run.costs
    assert is_the_lowest_offered(cost(engine), costs)
    assert float(engine.kept.loss) == pytest.approx(cost(engine), rel=1e-5)
    assert costs[int(engine.kept.step) - 1] == pytest.approx(cost(engine), rel=1e-5)
    # the last weights are what early stopping is there to avoid, and so are weights not averaged
    assert not is_the_lowest_offered(cost(engine, best=False), costs)
    assert not is_the_lowest_offered(cost(engine, averaged=False), costs)
    assert cost(engine, best=False) > cost(engine) + 1


def test_samples_and_round_trips_are_of_the_shown_weights(run):
    x = run.engine.pool.test[:50]
    with torch.no_grad():
        assert (run.engine.decode(run.engine.encode(x)) - x).abs().max() < 0.05


def test_the_loss_panel_has_the_validation_curve(run):
    run.frame()
    track = run.lanes[0].tracks["validation"]
    assert track.values[-1] == pytest.approx(run.costs[160], rel=1e-5)
    assert track.values[-1] > min(track.values) + 1, "memorising is seen"
    plane = Experiment("moons", "flow", knobs=SMALL).start("cpu").train(steps=2)
    assert set(plane.lanes[0].tracks) == {"nll"} and not plane.engine.keeps


def test_best_validation_is_that_of_the_kept_weights(run):
    engine = run.engine
    bits = next(probe for probe in probes(engine) if probe.name == "bits")
    with torch.no_grad():
        found = {m.name: m for m in bits.compute()}
        engine.best = False
        now = {m.name: m for m in bits.compute()}
        engine.best = True
    assert found["bits_best"].value == pytest.approx(cost(engine) / (64 * math.log(2)), rel=1e-5)
    assert found["bits_val"].value == pytest.approx(found["bits_best"].value, rel=1e-5)
    assert f"{int(engine.kept.step):,}" in found["bits_best"].note
    # whatever is shown, the best stays the best
    assert now["bits_best"].value == pytest.approx(found["bits_best"].value, rel=1e-5)
    assert now["bits_val"].value > found["bits_best"].value + 0.02


def test_other_data_are_learnt_afresh():
    run = Experiment("digits", "flow", knobs=SMALL).start("cpu").train(steps=15)
    before = float(run.engine.kept.loss)
    pool = DATASETS["digits"]().pool(1)
    pool.val = pool.val.flip(1)  # upside down and mirrored: harder to tell
    run.engine.feed(pool)
    assert math.isinf(float(run.engine.kept.loss))
    run.train(steps=10)
    assert before != float(run.engine.kept.loss) == pytest.approx(cost(run.engine), rel=1e-5)


def test_the_best_weights_are_kept_in_a_checkpoint(run):
    other = Experiment("digits", "flow", knobs=SMALL).start("cpu")
    other.restore(run.checkpoint())
    assert cost(other.engine) == pytest.approx(cost(run.engine), rel=1e-6)
    assert float(other.engine.validation) == pytest.approx(float(run.engine.validation))


def test_units_are_left_out_in_training_only():
    run = Experiment("digits", "flow", knobs={"width": 16}).start("cpu").train(steps=2)
    engine, x = run.engine, run.pool.val
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        plain = engine.forward(x, engine.net)[1]
        with engine.net.dropout(rng):
            thinned = engine.forward(x, engine.net)[1]
        assert torch.equal(plain, engine.forward(x, engine.net)[1])
    assert not torch.allclose(plain, thinned)
    units, share = torch.ones(400, 500), 0.3
    found = left_out(units, share, rng)
    assert float((found == 0).float().mean()) == pytest.approx(share, abs=0.01)
    assert float(found.mean()) == pytest.approx(1, abs=0.01)  # and not 0.7, if nothing made up


def test_measuring_leaves_no_unit_out():
    """The validation curve, log q and samples are of the whole network; only the loss is not."""
    run = (
        Experiment("digits", "flow", knobs={"width": 16, "batch": 64}).start("cpu").train(steps=21)
    )
    engine = run.engine
    state, x = engine.rng.get_state(), engine.pool.val
    with torch.no_grad():
        found = cost(engine, best=False)
        whole = -engine.net.base.log_prob(engine.encode(x)) - engine.forward(x)[1]
        with engine.average.module.dropout(torch.Generator().manual_seed(0)):
            twin = cost(engine, best=False)
    assert float(engine.validation) == pytest.approx(found, rel=1e-6)
    assert float(whole.mean()) == pytest.approx(found, rel=1e-5)
    assert twin != pytest.approx(found, rel=1e-4)
    assert torch.equal(engine.rng.get_state(), state), "looking draws nothing from training"


def farthest(z: torch.Tensor) -> float:
    """The largest Kolmogorov–Smirnov distance of a column of z (N, d) from N(0, 1)."""
    cdf = torch.special.ndtr(z.sort(0).values)
    steps = torch.arange(1, len(z) + 1)[:, None] / len(z)
    return float((cdf - steps).abs().max())


def test_every_pixel_begins_gaussian_by_itself():
    engine = Experiment("digits", "flow", knobs={"width": 16}).start("cpu").engine
    rows = engine.pool.rows(torch.arange(1000), torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = farthest(engine.encode(rows))
        bias = engine.shown.flow.conditioner.biases[-1]
        kept, each = bias.clone(), engine.shown.flow.conditioner.each
        bits = cost(engine)
        bias.zero_()  # the identity
        twin, worse = farthest(engine.encode(rows)), cost(engine)
        # widths and heights exchanged: the inverse of what is wanted
        bias.copy_(kept)
        sizes = bias.view(1, -1, each)[:, :, : 2 * (each // 3)].unflatten(2, (2, -1))
        sizes.copy_(sizes.flip(2).clone())
        inverse = farthest(engine.encode(rows))
    assert found < 0.1 < 0.3 < min(twin, inverse)
    assert bits < worse - 50


@pytest.mark.parametrize("kind", ["spline", "RealNVP"])
def test_the_jacobian_of_an_image(kind):
    """log q counts every layer, that which fits the pixels' box to the splines' too."""
    knobs = {"kind": kind, "width": 16, "layers": 2}
    engine = Experiment("digits", "flow", knobs=knobs).start("cpu").train(steps=3).engine
    x = engine.pool.test[:1]
    z, log_det = engine.forward(x)
    slopes = torch.autograd.functional.jacobian(lambda row: engine.forward(row)[0][0], x)[:, 0]
    exact = float(torch.linalg.slogdet(slopes.double())[1])
    assert float(log_det) == pytest.approx(exact, abs=0.02)
    before = engine._before[0].forward(x)[1]
    assert float(log_det - before) != pytest.approx(exact, abs=1.0)
    assert float(engine.log_prob(x)) == pytest.approx(
        float(engine.shown.base.log_prob(z)) + exact, abs=0.02
    )


def test_splines_lead_through_the_knots_they_are_given():
    bound, rng = 3.0, torch.Generator().manual_seed(0)
    x, y = (torch.rand(5, 9, generator=rng).double().cumsum(1) for _ in range(2))
    x, y = (bound * (2 * (k - k[:, :1]) / (k[:, -1:] - k[:, :1]) - 1) for k in (x, y))

    def gap(theta: torch.Tensor) -> float:
        told = theta[:, None].expand(-1, x.shape[1], -1)
        return float((spline(x, told, bound)[0] - y).abs().max())

    assert gap(through(x, y, bound)) < 1e-9
    assert gap(through(y, x, bound)) > 0.1  # the inverse
    assert through(x, x, bound)[:, 16:].abs().max() < 1e-9, "the identity is straight"
    # knots on one place are no reason to break
    assert torch.isfinite(through(torch.zeros(1, 9), y[:1].float(), bound)).all()
