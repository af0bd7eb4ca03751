"""What engines of fields in noise share: the network's Jacobian, the ODE's density, exact fields."""

import itertools
import math

import pytest
import torch

from engines import DATASETS, Experiment, pictures
from engines.cells import cell_average, cell_averages
from engines.fields import ExactPath, Field, ode
from engines.fields.engine import log_normal
from engines.pace import finish, move


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def network(dim=2, **more):
    net = Field(dim, 16, 2, rng(), **more)
    with torch.no_grad():  # the last layer begins at 0, and would hide the others
        net.out.weight.normal_(generator=rng(1))
        net.out.bias.normal_(generator=rng(2))
    return net.double()


@pytest.mark.parametrize(("dim", "waves", "classes"), [(2, 0, 0), (2, 8, 0), (2, 8, 3), (5, 0, 0)])
def test_the_jacobian_carried_by_hand_is_autograds(dim, waves, classes):
    net = network(dim, waves=waves, classes=classes)
    x = torch.randn(7, dim, generator=rng(3), dtype=torch.float64)
    s, blur = torch.randn(7, dtype=torch.float64, generator=rng(4)), torch.full((7,), 0.1).double()
    y = torch.arange(7) % classes if classes else None
    value, jacobian = net.with_jacobian(x, s, blur, y)
    assert torch.allclose(value, net(x, s, blur, y))
    each = torch.autograd.functional.jacobian(lambda x: net(x, s, blur, y), x)
    wanted = torch.stack([each[i, :, i] for i in range(7)])
    assert torch.allclose(jacobian, wanted, atol=1e-10)
    assert not torch.allclose(jacobian.transpose(1, 2), wanted, atol=1e-2)  # its wrong twin


def test_one_level_for_all_is_the_same_level_for_each():
    net = network(waves=8, classes=3)
    x = torch.randn(5, 2, generator=rng(3), dtype=torch.float64)
    at, blur = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
    one = net(x, at, blur, torch.tensor([1]))
    each = net(x, at.expand(5), blur.expand(5), torch.ones(5, dtype=torch.long))
    assert torch.allclose(one, each)
    # no class told is a class of its own
    nobody = net(x, at, blur)
    assert torch.allclose(nobody, net(x, at, blur, torch.tensor([3])))
    assert not torch.allclose(nobody, one)


def test_noise_hides_the_waves_that_are_finer_than_it():
    net = network(waves=32, finest=30.0)
    x = torch.randn(100, 2, generator=rng(3), dtype=torch.float64)
    # the mean over places x + bε of each wave at x is the wave at x, fainter
    x0, b = x[:1], 0.15
    near = x0 + b * torch.randn(200_000, 2, generator=rng(5), dtype=torch.float64)
    mean = torch.sin(torch.addmm(net.phase, near, net.frequency)).mean(0)
    seen = torch.sin(torch.addmm(net.phase, x0, net.frequency))[0]
    assert torch.allclose(mean, seen * net._left(b)[0], atol=0.01)
    assert not torch.allclose(mean, seen * net._left(2 * b)[0], atol=0.01)  # its wrong twin


def bend(z, t):
    """A field with a known Jacobian, far from linear."""
    x, y = z.unbind(1)
    value = torch.stack([torch.sin(y) + t * x, x * y * 0.3], 1)
    slope = torch.stack([torch.stack([torch.full_like(x, t), torch.cos(y)], 1),
                         torch.stack([0.3 * y, 0.3 * x], 1)], 1)  # fmt: skip
    return value, slope


def test_the_log_determinant_is_that_of_the_steps_themselves():
    times = torch.linspace(0, 1, 6).tolist()
    z = torch.randn(9, 2, generator=rng(), dtype=torch.float64)
    there, log_det = ode.carried(bend, z, times)
    v = lambda z, t: bend(z, t)[0]  # noqa: E731
    assert torch.allclose(there, ode.end(v, z, times, ode.heun))
    each = torch.autograd.functional.jacobian(lambda z: ode.end(v, z, times, ode.heun), z)
    wanted = torch.stack([each[i, :, i] for i in range(9)]).det().abs().log()
    assert torch.allclose(log_det, wanted, atol=1e-10)
    # its wrong twin: the trace integrated, which is the same for short steps only
    trace, here = torch.zeros(9, dtype=torch.float64), z
    for t, then in itertools.pairwise(times):
        trace = trace + (then - t) * bend(here, t)[1].diagonal(dim1=1, dim2=2).sum(1)
        here = ode.heun(v, here, t, then)
    assert (trace - wanted).abs().max() > 0.01


@pytest.mark.parametrize(
    ("name", "order"), [("Euler", 1), ("midpoint", 2), ("Heun", 2), ("RK4", 4)]
)
def test_a_solver_is_of_its_order(name, order):
    # dz/dt = tz with z(0) = 1 is e^{t²/2}: halving the steps divides the error by 2^order
    def error(steps):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()
        z = torch.ones(1, 1, dtype=torch.float64)
        return abs(float(ode.end(lambda z, t: t * z, z, times, ode.STEPS[name])) - math.exp(0.5))

    ratio = error(16) / error(32)
    assert 0.8 < math.log2(ratio) / order < 1.2


EXACT = ["moons", "checkerboard", "ring8", "spirals", "rings"]


@pytest.mark.parametrize("name", EXACT)
def test_the_exact_field_is_that_of_standardised_data_in_noise(name):
    dataset = DATASETS[name]()
    assert ExactPath.known(dataset)
    mean, scale, a, sigma = torch.tensor([0.4, -0.3]), 1.7, 0.8, 0.35
    path = ExactPath(dataset, mean, scale)
    z = torch.randn(40, 2, generator=rng(), dtype=torch.float64)
    # a density over z: the mean of N(z; a z₀, σ²) over rows, which no formula of ours has made
    rows = dataset.sample(400_000, rng(7)).double()
    start = a * (rows - mean) / scale
    for i in range(3):
        density = log_normal(z[i] - start, sigma).exp()
        se = float(density.std() / len(density) ** 0.5)
        assert abs(float(path.log_prob(z, a, sigma)[i].exp() - density.mean())) < 5 * se
    # the score is its slope, and Tweedie's formula gives what rows say z₀ was
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(path.log_prob(leaf, a, sigma).sum(), leaf)
    assert torch.allclose(path.score(z, a, sigma), slope, atol=1e-6)
    share = log_normal(z[0] - start, sigma).softmax(0)
    before = (share[:, None] * (rows - mean) / scale).sum(0)
    wrong = (z - sigma * path.score(z, a, sigma)) / a  # its wrong twin
    assert (path.denoised(z, a, sigma)[0] - before).abs().max() < 0.02
    assert (wrong[0] - before).abs().max() > 0.02


def test_a_field_made_in_pieces_is_the_field():
    dataset = DATASETS["moons"]()
    whole = cell_average(dataset.log_prob, dataset.extent, 32, 50, 3)
    asked = []

    def in_parts(x):
        found = []
        for part in x.split(200):
            asked.append(len(part))
            yield
            found.append(dataset.log_prob(part))
        return torch.cat(found)

    pieces = cell_averages(in_parts, dataset.extent, 32, 50, 3)
    count = sum(1 for _ in iter(lambda: move(pieces, 0.0)[0], True)) + 1
    assert len(asked) == math.ceil(32 * 32 / 200) + math.ceil(50 * 9 / 200) == count - 1
    found = finish(cell_averages(in_parts, dataset.extent, 32, 50, 3))
    assert (found == whole).all()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["diffusion", "guided_diffusion"])
def test_the_error_follows_while_frames_stream(engine):
    """Also where an engine's own picture stands in the place of the one that has the density."""
    run = Experiment("ring8soft", engine).start("cpu")
    lane = run.lanes[0]
    error = next(panel for panel in pictures.shared(lane) if panel.id == "error")
    lane.density.ladder.lowest = 0  # there is time enough

    def drawn(wait=0.0):
        lane.density._begun = -wait
        with torch.no_grad():
            lane.density.advance(lane.model_key, 0.0)
            return error.marks()[0].values

    first = drawn()
    run.train(steps=3)
    lane.fresh = False
    seen = [drawn(1e9)]
    while lane.density.step == 0:
        seen.append(drawn())
    assert len(seen) > 10 and all((field == first).all() for field in seen[:-1])
    assert (seen[-1] != first).any() and lane.density.step == 3
    # its wrong twin: nobody asks for the next piece at once
    now = drawn()
    run.train(steps=3)
    lane.density._cost = 1e9
    assert all((drawn() == now).all() for _ in range(3))
