"""The Dirac GAN against closed forms, autograd on the published losses, and SciPy's integrator."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, linalg
from torch.nn.functional import logsigmoid, relu

from app.session import Session
from engines import DATASETS, ENGINES, BadInput, Experiment
from engines.dirac_gan import CURES, LOSSES, Game
from engines.dirac_gan.game import values
from engines.dirac_gan.pictures import arrows, compared, numbers, outlook, plane_of, predicted

pytestmark = pytest.mark.slow  # dear: `make test` runs them, `make check` does not

# what D and G minimise, as the papers print it: D's value on data, on samples
PUBLISHED = {
    "non-saturating": (lambda r, f: -logsigmoid(r) - logsigmoid(-f), lambda f: -logsigmoid(f)),
    "minimax": (lambda r, f: -logsigmoid(r) - logsigmoid(-f), lambda f: logsigmoid(-f)),
    "Wasserstein": (lambda r, f: f - r, lambda f: -f),
    "least squares": (lambda r, f: ((r - 1) ** 2 + (f + 1) ** 2) / 2, lambda f: (f - 1) ** 2 / 2),
    "hinge": (lambda r, f: relu(1 - r) + relu(1 + f), lambda f: -f),
}
SETTINGS = list(itertools.product(LOSSES, CURES))
AT = np.array([0.5, 0.0])  # the equilibrium of `start`
PLACES = [(1.3, 0.4), (-0.7, 1.1), (0.5, -2.0), (-1.5, -0.6)]


def plane(*at: float) -> list[torch.Tensor]:
    return [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in at]


def by_autograd(game: Game, theta: float, psi: float) -> np.ndarray:
    """−(∂L_G/∂θ, ∂L_D/∂ψ) of the published losses, noise averaged over a fine grid."""
    t, p = plane(theta, psi)
    loss_d, loss_g = PUBLISHED[game.loss]
    noise, weight = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    if game.cure == "instance noise":
        noise = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
        weight = torch.exp(-0.5 * noise**2)
        weight, noise = weight / weight.sum(), noise * game.noise
    for_d = (weight * loss_d(p * noise, p * (t + noise))).sum()
    for_g = (weight * loss_g(p * (t + noise))).sum()
    if game.cure == "R1":
        for_d = for_d + game.gamma / 2 * p**2
    if game.cure == "WGAN-GP":
        for_d = for_d + game.gamma / 2 * (p.abs() - 1) ** 2
    if game.cure == "consensus":
        (of_g,) = torch.autograd.grad(for_g, t, create_graph=True)
        (of_d,) = torch.autograd.grad(for_d, p, create_graph=True)
        both = game.gamma / 2 * (of_g**2 + of_d**2)
        for_d, for_g = for_d + both, for_g + both
    (down_t,) = torch.autograd.grad(for_g, t, retain_graph=True)
    (down_p,) = torch.autograd.grad(for_d, p)
    return -np.array([down_t.item(), down_p.item()])


@pytest.mark.parametrize(("loss", "cure"), SETTINGS)
def test_the_field_is_minus_the_slopes_of_the_published_losses(loss, cure):
    game = Game(loss, cure, gamma=0.7, noise=0.8)
    # hinge's slope has a jump, which falls between two nodes of the quadrature
    close = 2e-2 if (loss, cure) == ("hinge", "instance noise") else 1e-5
    for place in PLACES:
        true = by_autograd(game, *place)
        ours = np.array(game.field(*map(np.float64, place)))
        assert ours == pytest.approx(true, abs=close)
        twin = ours * [-1, 1]  # a generator that helps the discriminator
        assert twin != pytest.approx(true, abs=close)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_losses_shown_are_the_published_ones(loss):
    real, fake = (torch.linspace(-3, 3, 7, dtype=torch.float64) + s for s in (0.2, -0.1))
    for ours, published in zip(
        values(loss, real, fake), (PUBLISHED[loss][0](real, fake), PUBLISHED[loss][1](fake)),
        strict=True,
    ):  # fmt: skip
        assert torch.allclose(ours, published, atol=1e-12)
        assert not torch.allclose(-ours, published, atol=1e-3)


def printed(loss: str, cure: str, gamma: float, noise: float) -> list[complex]:
    """λ of Mescheder et al. 2018: −s/2 ± √(s²/4 − a²)."""
    a = 0.5 if loss in ("non-saturating", "minimax") else 1.0
    curved = {"non-saturating": 0.5, "minimax": 0.5, "least squares": 2.0}.get(loss, 0.0)
    if cure == "consensus":
        return [-gamma * a * a + 1j * a, -gamma * a * a - 1j * a]
    s = {"R1": gamma, "instance noise": noise**2 * curved}.get(cure, 0.0)
    root = np.emath.sqrt(s * s / 4 - a * a)
    return [-s / 2 + root, -s / 2 - root]


def same(a, b) -> bool:
    order = lambda z: sorted(z, key=lambda v: (round(v.imag, 9), round(v.real, 9)))  # noqa: E731
    return np.allclose(order(a), order(b), atol=1e-9)


@pytest.mark.parametrize(("loss", "cure"), [s for s in SETTINGS if s[1] != "WGAN-GP"])
@pytest.mark.parametrize("gamma", [0.6, 3.0])
def test_eigenvalues_are_those_of_autograds_jacobian_and_as_printed(loss, cure, gamma):
    game = Game(loss, cure, gamma=gamma, noise=0.9, step=0.2, clip=1.0)
    field = lambda z: torch.stack(game.field(z[0], z[1]))  # noqa: E731
    zero = torch.zeros(2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(field, zero).numpy()
    assert game.jacobian() == pytest.approx(jacobian, abs=1e-9)
    assert same(np.linalg.eigvals(jacobian), printed(loss, cure, gamma, 0.9))
    if game.jacobian()[1, 1] != 0:
        assert not same(np.linalg.eigvals(jacobian), printed(loss, cure, -gamma, 0.9)) or (
            cure == "instance noise"
        )
    for alternating, n in ((False, 1), (True, 1), (True, 3)):
        g = Game(loss, cure, gamma, 0.9, 1.0, 0.2, alternating, n)
        step = lambda z, g=g: torch.stack(g.take(z[0], z[1]))  # noqa: E731
        whole = torch.autograd.functional.jacobian(step, zero).numpy()
        assert same(g.multipliers(), np.linalg.eigvals(whole))
        twin = Game(loss, cure, gamma, 0.9, 1.0, 0.2, not alternating, 1)
        assert not same(twin.multipliers(), np.linalg.eigvals(whole))


def test_the_multipliers_have_the_trace_and_determinant_of_the_docstring():
    h, gamma, a = 0.3, 0.7, 0.5
    trace, det = 2 - h * gamma - (h * a) ** 2, 1 - h * gamma
    root = np.emath.sqrt(trace**2 / 4 - det)
    game = Game("minimax", "R1", gamma=gamma, step=h)
    assert same(game.multipliers(), [trace / 2 + root, trace / 2 - root])
    assert game.growth() == pytest.approx(0.5 * math.log(det))
    assert game.turn() == pytest.approx(math.acos(trace / 2 / math.sqrt(det)))


# ---------------------------------------------------------------- orbits


def test_at_once_a_wasserstein_orbit_grows_by_its_factor_in_every_step():
    h = 0.05
    run = Experiment("point", "dirac_gan", knobs={
        "loss": "Wasserstein", "cure": "none", "order": "at once", "lr": h, "radius": 1.0,
    }).start("cpu").train(steps=200)  # fmt: skip
    grown = float(run.engine.players.norm())
    assert grown == pytest.approx((1 + h * h) ** 100, rel=1e-9)
    assert grown != pytest.approx((1 + h * h) ** 200, rel=1e-2), "squared radius, not radius"
    assert run.engine.measured_growth() == pytest.approx(0.5 * math.log1p(h * h), rel=1e-6)
    assert run.engine.game().growth() == pytest.approx(0.5 * math.log1p(h * h), rel=1e-9)


def test_in_turn_a_wasserstein_orbit_is_an_ellipse_for_ever():
    h = 0.2
    orbit = Game("Wasserstein", "none", step=h).orbit(1.0, 0.5, 5000)
    t, p = orbit.T
    kept = t**2 + p**2 - h * t * p
    assert kept == pytest.approx(np.full(5001, kept[0]), rel=1e-9)
    for twin in (t**2 + p**2, t**2 + p**2 + h * t * p):
        assert np.ptp(twin) > 0.1
    assert Game("Wasserstein", "none", step=h).growth() == 0.0


def test_minimax_without_a_cure_keeps_its_radius_and_r1_does_not():
    circle = Game("minimax", "none", step=0.01).orbit(1.2, 0.9, 3000)
    assert np.linalg.norm(circle, axis=1) == pytest.approx(np.full(3001, 1.5), rel=5e-3)
    spiral = Game("minimax", "R1", gamma=0.5, step=0.01).orbit(1.2, 0.9, 3000)
    assert np.linalg.norm(spiral[-1]) < 0.01
    # as Mescheder et al. say of it, the non-saturating game comes nearer, ever more slowly
    far = np.linalg.norm(Game("non-saturating", "none", step=0.01).orbit(1.2, 0.9, 9000), axis=1)
    assert far[3000] < 0.9 * far[0] and 0.25 < far[9000] < 0.9 * far[3000]


@pytest.mark.parametrize(("loss", "cure"), [s for s in SETTINGS if s[0] != "hinge"])
def test_small_steps_follow_scipys_integrator(loss, cure):
    if cure == "clipping":
        pytest.skip("a wall is no part of the field")
    game = Game(loss, cure, gamma=0.6, noise=0.8, step=1e-3)
    start, time = (1.1, 0.7), 1.5
    true = integrate.solve_ivp(
        lambda _, z: by_autograd(game, *z), (0, time), start, rtol=1e-6, atol=1e-8
    ).y[:, -1]
    ours = game.orbit(*start, round(time / 1e-3))[-1]
    assert np.linalg.norm(ours - true) < 5e-3
    back = Game(loss, cure, 0.6, 0.8, step=-1e-3).orbit(*start, round(time / 1e-3))[-1]
    assert not np.linalg.norm(back - true) < 0.1, "the wrong twin: time runs backwards"


def test_r1_with_the_wasserstein_loss_is_the_exponential_of_its_matrix():
    gamma, h, n = 0.8, 1e-3, 4000
    ours = Game("Wasserstein", "R1", gamma=gamma, step=h).orbit(1.0, -0.5, n)[-1]
    true = linalg.expm(np.array([[0, 1], [-1, -gamma]]) * h * n) @ [1.0, -0.5]
    twin = linalg.expm(np.array([[0, 1], [-1, gamma]]) * h * n) @ [1.0, -0.5]
    assert ours == pytest.approx(true, abs=2e-3)
    assert np.linalg.norm(ours - twin) > 1


def test_wgan_gp_ends_on_a_circle_and_a_clipped_slope_stays_within_its_walls():
    ends = []
    for start in ((0.2, 0.1), (2.5, -1.0)):
        far = np.linalg.norm(
            Game("Wasserstein", "WGAN-GP", gamma=1.0, step=0.02).orbit(*start, 6000), axis=1
        )
        ends.append((far[-700:].min(), far[-700:].max()))
    assert ends[0] == pytest.approx(ends[1], abs=0.02) and ends[0][0] > 0.5, "whatever the start"
    held = Game("Wasserstein", "clipping", clip=0.4, step=0.05).orbit(1.5, 0.0, 2000)
    assert np.abs(held[:, 1]).max() == 0.4 and np.linalg.norm(held[-300:], axis=1).min() > 0.3


def test_noise_cures_a_curved_loss_and_leaves_a_straight_one_as_it_was():
    noisy = Game("Wasserstein", "instance noise", noise=1.5, step=0.05).orbit(1.0, 0.5, 300)
    plain = Game("Wasserstein", "none", step=0.05).orbit(1.0, 0.5, 300)
    assert noisy == pytest.approx(plain, abs=1e-9)
    curved = Game("minimax", "instance noise", noise=1.5, step=0.05).orbit(1.0, 0.5, 1000)
    assert np.linalg.norm(curved[-1]) < 1e-3


# ---------------------------------------------------------------- the engine


def start(**knobs):
    return Experiment("point", "dirac_gan", knobs=knobs, options={"at": 0.5}).start("cpu")


@pytest.mark.parametrize(("loss", "cure"), [("minimax", "R1"), ("least squares", "consensus"),
                                            ("hinge", "clipping")])  # fmt: skip
@pytest.mark.parametrize("order", ["in turn", "at once"])
def test_a_run_takes_the_steps_of_the_game(loss, cure, order):
    engine = start(loss=loss, cure=cure, order=order).train(steps=50).engine
    first = (engine.first_theta - 0.5, engine.first_psi)
    assert math.hypot(*first) == pytest.approx(1.5)
    orbit = engine.game().orbit(*first, 50) + AT
    assert engine.players.numpy() == pytest.approx(orbit[-1], abs=1e-12)
    assert engine.seen().numpy() == pytest.approx(orbit, abs=1e-12)
    assert compared(engine, "x", engine.game()) + AT == pytest.approx(orbit, abs=1e-12)
    assert torch.equal(engine.sample(3), torch.full((3, 1), float(engine.players[0])))


def test_growth_seen_is_the_growth_predicted_near_the_equilibrium():
    run = start(loss="minimax", cure="R1", gamma=0.3, radius=0.1).train(steps=300)
    found = {m.name: m.value for m in run.measure()}
    assert found["growth"] == pytest.approx(found["growth_predicted"], rel=0.01)
    assert found["growth_predicted"] == pytest.approx(100 * (math.sqrt(1 - 0.03) - 1), rel=1e-9)
    # real eigenvalues: no turn to measure over, and no swing either
    run = start(loss="minimax", cure="R1", gamma=4.0, radius=0.1).train(steps=300)
    found = {m.name: m.value for m in run.measure()}
    assert found["growth"] == pytest.approx(found["growth_predicted"], rel=0.01)
    kinked = {m.name: m for m in start(cure="WGAN-GP").train(steps=3).measure()}
    assert (
        math.isnan(kinked["growth_predicted"].value) and "kink" in kinked["growth_predicted"].note
    )


def test_the_dashed_course_is_the_orbit_of_a_linear_game():
    engine = start(loss="Wasserstein", cure="R1", gamma=0.3).train(steps=1400).engine
    count = engine.moves // engine.stride
    assert engine.stride == 4 and count == 350, "thinned, and evenly"
    ours, linear = engine.course[:count].numpy(), predicted(engine, engine.game(), count)
    seen = np.isfinite(linear)
    assert ours[seen] == pytest.approx(linear[seen], rel=1e-6)
    other = predicted(engine, engine.game(gamma=0.5), count)
    assert not np.allclose(ours[seen], other[seen], rtol=0.1)


def test_a_hand_may_put_the_players_elsewhere_and_the_orbit_begins_anew():
    run = start().train(steps=30)
    run.act("drag", x=1.5, y=-2.0)
    assert run.engine.players.tolist() == [1.5, -2.0] and run.engine.moves == 0
    run.act("drag", x=99.0, y=99.0)
    assert run.engine.players.tolist() == [3.5, 3.0], "within the picture"
    assert {p.id for p in run.frame().panels} >= {"field", "model", "distance", "eigenvalues"}
    run.train(steps=700)
    assert len(run.engine.seen()) == run.engine.TRAIL
    last = run.engine.seen()[-1]
    assert torch.equal(last, run.engine.players)


def test_data_that_move_are_followed():
    run = start(radius=0.1).train(steps=300)
    run.feed(run.experiment.but(options={"at": -1.0}))
    assert run.engine.moves == 0
    run.train(steps=400)
    assert float(run.engine.players[0]) == pytest.approx(-1.0, abs=1e-2)


def test_arrows_follow_the_field_and_none_is_longer_than_a_cell():
    game = Game("minimax", "R1")
    mark = arrows(game, 0.5, (-2.5, 3.5, -3.0, 3.0), 17)
    v = np.stack(game.field(mark.xy[:, 0].astype(float) - 0.5, mark.xy[:, 1].astype(float)), -1)
    length = np.linalg.norm(mark.vectors, axis=1)
    assert length.max() == pytest.approx(6 / 18, rel=1e-5)
    along = (mark.vectors * v).sum(1) / np.maximum(length * np.linalg.norm(v, axis=1), 1e-12)
    assert along[length > 1e-6] == pytest.approx(1.0, abs=1e-5)


def test_what_is_said_of_the_eigenvalues():
    assert numbers(Game("minimax", "R1", gamma=0.4)) == "field: λ = −0.20 ± 0.46i"
    assert numbers(Game("minimax", "R1", gamma=2.0)) == "field: λ = −1.87, −0.13"
    assert "kink" in numbers(Game(cure="WGAN-GP")) and "kink" in outlook(Game(cure="WGAN-GP"))
    assert "circles" in outlook(Game("minimax")) and "+" in outlook(Game(alternating=False))
    with pytest.raises(ValueError, match="kink"):
        Game(cure="WGAN-GP").jacobian()


def test_a_point_is_for_this_engine_alone():
    point = DATASETS["point"]()
    for name, kind in ENGINES.items():
        assert (kind.accepts(point) is None) == (name == "dirac_gan")
    assert ENGINES["dirac_gan"].accepts(DATASETS["moons"]()).endswith(".")
    with pytest.raises(BadInput, match="single point"):
        Experiment("point", "gan")
    rows = point.sample(5, torch.Generator().manual_seed(0))
    assert torch.equal(rows, torch.zeros(5, 1)) and not point.has_density


def test_on_the_page_it_is_slow_enough_to_be_watched():
    session = Session("cpu")
    session.open(Experiment("point", "dirac_gan"))
    session.worker.redraw()
    most = []
    for speed in ("normal", "slow", "max", "single"):
        session.set_speed(speed)
        session.worker.redraw()
        most.append(session.worker._most())
    assert most == [3, 1, None, None]
    session.open(Experiment("ring8soft", "mixture"))
    session.set_speed("normal")
    session.worker.redraw()
    assert session.worker._most() is None, "others take as many steps as there is time for"


@pytest.mark.parametrize("cure", CURES)
def test_the_eigenvalues_are_within_their_picture(cure):
    for gamma, step in ((0.4, 0.1), (10.0, 2.0)):
        game = Game("Wasserstein", cure, gamma, step=step, d_steps=3)
        half = plane_of(game)[1]
        assert half >= 1.5
        if game.linear:
            assert abs(game.multipliers()).max() < half
