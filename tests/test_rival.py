"""The kernel estimate that every density is held against."""

import math
import threading

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity

from engines import Experiment, rival
from engines.data.base import DATASETS, PointsDataset
from engines.data.kernels import Kernels
from engines.metrics import kl


@pytest.fixture(scope="module", params=["ring8", "line"])
def kernels(request):
    pool = DATASETS[request.param]().pool(0)
    rows = pool.train[:3000].numpy()
    return Kernels(rows, rows.std(0), pool.dataset.extent, most=3000), pool.test[:500]


def sklearns(kernels, x, bandwidth):
    """The same estimate by scikit-learn: round kernels on standardised points."""
    scale = kernels.scale.numpy()
    tree = KernelDensity(bandwidth=bandwidth).fit(kernels.z.numpy())
    return tree.score_samples(x.double().numpy() / scale) - np.log(scale).sum()


def by_definition(kernels, x):
    """log Σ exp(…), for scikit-learn's trees only bound what lies far from every kernel."""
    scale, h = kernels.scale.numpy(), kernels.bandwidth
    square = cdist(x.double().numpy() / scale, kernels.z.numpy(), "sqeuclidean")
    total = logsumexp(-square / (2 * h * h), axis=1) - np.log(square.shape[1])
    return total - np.log(np.sqrt(2 * np.pi * h * h) * scale).sum()


def test_the_quick_density_is_the_kernel_estimate(kernels):
    estimate, x = kernels
    far = torch.tensor([[60.0, -80.0], [0.0, 0.0], [9.0, 9.0]])[:, : x.shape[1]]
    wanted_near = sklearns(estimate, x, estimate.bandwidth)
    for points, wanted in ((x, wanted_near), (far, by_definition(estimate, far))):
        if x.shape[1] == 2:
            assert estimate.log_prob(points).numpy() == pytest.approx(wanted, rel=1e-5)
        assert estimate.quick_log_prob(points).numpy() == pytest.approx(wanted, rel=1e-6, abs=1e-4)


def test_another_width_is_another_estimate(kernels):
    # the wrong twin of the test above
    estimate, x = kernels
    other = sklearns(estimate, x, 1.1 * estimate.bandwidth)
    assert estimate.quick_log_prob(x).numpy() != pytest.approx(other, rel=1e-6, abs=1e-4)


@pytest.mark.slow
def test_what_it_measures_is_the_divergence_on_the_held_out_points():
    pool = DATASETS["moons"]().pool(0)
    found = rival.measure(pool)
    rows = pool.train[: rival.SAMPLES]
    estimate = Kernels(rows.numpy(), rows.std(0).numpy(), pool.dataset.extent, most=len(rows))
    tree = KernelDensity(bandwidth=estimate.bandwidth, rtol=1e-6)
    tree.fit(rows.double().numpy() / estimate.scale.numpy())
    x = pool.test[:2000]
    log_q = tree.score_samples(x.double().numpy() / estimate.scale.numpy())
    log_q -= float(estimate.scale.log().sum())
    reference = kl(pool.dataset.log_prob(x), log_q)
    assert found["kl_pq"] == pytest.approx(reference.value, abs=4 * reference.se)
    assert 0.005 < found["kl_pq"] < 0.02  # and it is a good estimate
    assert found["kl_qp"] > 0


@pytest.mark.slow
def test_a_rival_that_leaves_the_support_is_infinitely_far():
    pool = DATASETS["checkerboard"]().pool(0)
    assert math.isinf(rival.measure(pool)["kl_qp"])


@pytest.mark.slow
def test_it_comes_by_itself_and_stands_beside_the_divergences(monkeypatch):
    monkeypatch.setattr("engines.looking.rival", rival.rival)
    run = Experiment("moons", "mixture", seed=12345).start("cpu")
    first = {m.name: m for m in run.measure()}
    assert first["kl_pq"].rival is None  # the run does not wait for it
    rival.wait()
    after = {m.name: m for m in run.measure()}
    expected = rival.measure(run.pool)
    for name in ("kl_pq", "kl_qp"):
        assert after[name].rival == expected[name]
    assert after["sliced_w2"].rival is None


def test_points_have_none():
    points = np.random.default_rng(0).normal(size=(30_000, 2))
    pool = PointsDataset(points).pool(0)
    assert not rival.has_rival(pool)
    assert rival.rival(pool) == {}


# ---------------------------------------------------------------- what waits


def dragged(asks: list[str], measure=None) -> tuple[rival.Rivals, list[str], list[float]]:
    """Rivals of visitors who ask for the next pools in every pause: the pools that were worked
    out, in that order, and the pauses. No clock: a pause lasts until its pools are asked for."""
    done, pauses = [], []
    todo = iter(asks)

    def work_out(pool):
        done.append(pool)
        return measure(pool) if measure else {"kl_pq": float(pool)}

    def pause(seconds):
        pauses.append(seconds)
        for name in next(todo, "").split():
            rivals.ask(name, name)

    rivals = rival.Rivals(work_out, pause)
    assert rivals.ask("0", "0") == {}
    rivals.wait()
    return rivals, done, pauses


def test_while_data_are_dragged_only_the_newest_wait():
    rivals, done, pauses = dragged([str(n) for n in range(1, 8)])
    # nothing is worked out before the hand rests, and then the last one comes first
    assert done == ["7", "6", "5", "4"]
    assert pauses[:8] == [rival.QUIET] * 8 and len(done) == rival.WAITING
    assert rivals.ask("7", "7") == {"kl_pq": 7.0}
    # what was dropped is nobody's any more, and may be asked for again
    assert rivals.ask("2", "2") == {}
    rivals.wait()
    assert rivals.ask("2", "2") == {"kl_pq": 2.0} and done[-1] == "2"
    assert not rivals.waiting and rivals.working is None


def test_a_hand_that_never_rests_waits_for_five_seconds_at_most():
    _, done, pauses = dragged([str(n) for n in range(1, rival.TURNS + 1)])
    assert done[0] == str(rival.TURNS)
    assert sum(pauses[: rival.TURNS]) == 5.0
    # a pool that is asked for over and over, as a run does that waits for it, is no new one
    _, done, pauses = dragged(["0"] * 50)
    assert done == ["0"] and len(pauses) == 1


def test_what_is_looked_at_does_not_fall_out_of_the_line():
    # one visitor looks at "0" with every frame while another one drags
    _, done, _ = dragged([f"{n} 0" for n in range(1, 8)])
    assert done == ["0", "7", "6", "5"]


def test_one_that_cannot_be_worked_out_stops_nothing(caplog):
    def measure(pool):
        if pool == "2":
            raise ValueError("no such thing")
        return {"kl_pq": float(pool)}

    rivals, done, _ = dragged(["1", "2"], measure)
    assert done == ["2", "1", "0"]
    assert rivals.ask("1", "1") == {"kl_pq": 1.0} and rivals.ask("0", "0") == {"kl_pq": 0.0}
    assert "kernel estimate of 2" in caplog.text
    # it has none, and is not tried with every frame
    assert rivals.ask("2", "2") == {} and not rivals.waiting and done.count("2") == 1


def test_what_is_found_is_not_kept_for_ever():
    rivals = rival.Rivals(lambda pool: {"kl_pq": 0.0}, lambda seconds: None)
    for n in range(rival.KEPT + 10):
        rivals.ask(str(n), n)
        rivals.wait()
    assert len(rivals.found) == rival.KEPT and str(n) in rivals.found and "0" not in rivals.found


def test_leaving_gives_up_what_waits():
    resting = threading.Event()

    def pause(seconds):
        resting.set()
        assert rivals._left.wait(60)

    rivals = rival.Rivals(lambda pool: {"kl_pq": 0.0}, pause)
    rivals.ask("0", 0)
    assert resting.wait(60)
    rivals.leave()
    assert not rivals.found and not rivals.waiting and rivals._thread is None
