"""Native code gives what tensors give, to rounding; and where it cannot be had nothing is lost.

The splines and the step in tensors, which zuko, finite differences and autograd hold to account
elsewhere, are the oracle here. Each check is a function that a wrong twin must fail.
"""

from __future__ import annotations

import copy
import math
import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.pack import unpack
from app.worker import Worker
from engines import Experiment, Run, native
from engines.flow import bases, compiled, training
from engines.flow import spline as tensors
from engines.native import Library

BOUND = 3.0


def settled(library: Library) -> Library:
    """The library once it is ready or off."""
    library.ask()
    until = time.monotonic() + 60
    while library.state == "busy" and time.monotonic() < until:
        time.sleep(0.01)
    return library


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The flows' kernels, compiled into a folder of their own."""
    if native.compiler() is None:
        pytest.skip("needs a C compiler")
    before = os.environ.get("PLAYGROUND_COMPILE")
    os.environ["PLAYGROUND_COMPILE"] = "1"
    library = Library(compiled.LIBRARY.source, tmp_path_factory.mktemp("native"))
    settled(library)
    os.environ["PLAYGROUND_COMPILE"] = before or "0"
    assert library.state == "ready", library.why
    return library


@pytest.fixture
def kernels(built: Library, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setattr(compiled, "LIBRARY", built)
    assert compiled.ready() is not None
    return built


# ---------------------------------------------------------------- splines


def some(m: int, bins: int, shared: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points over ±6 with numbers of splines, and what to weigh values and log slopes with."""
    rng = torch.Generator().manual_seed(bins)
    x = 3 * torch.randn(m, generator=rng).clamp(-2, 2)
    x[:4] = torch.tensor([-BOUND, BOUND, -1e4, 1e4])[:m]
    theta = torch.randn(1 if shared else m, tensors.parameters(bins), generator=rng)
    return x, theta, *torch.randn(2, m, generator=rng)


def passed(bend, x: Tensor, theta: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    """y, log slopes and the gradients of x and theta, with theta shared where it has one row."""
    x, theta = x.clone().requires_grad_(), theta.clone().requires_grad_()
    rows = theta.expand(len(x), -1)
    y, log_slope = bend(x, rows, BOUND)
    (a * y + b * log_slope).sum().backward()
    return [y.detach(), log_slope.detach(), x.grad, theta.grad]


def worse(bend, m: int = 300, bins: int = 20, shared: bool = False) -> float:
    """The largest error over that of tensors in single precision, both against double's."""
    given = some(m, bins, shared)
    exact = passed(tensors.spline, *(part.double() for part in given))
    single, mine = passed(tensors.spline, *given), passed(bend, *given)
    return max(
        float((c - a).abs().max() / ((b - a).abs().max() + 1e-6 * a.abs().max()))
        for a, b, c in zip(exact, single, mine, strict=True)
    )


@pytest.mark.parametrize(
    ("m", "bins", "shared"), [(300, 20, False), (300, 7, True), (64, 4, False), (1, 5, False)]
)
def test_compiled_splines_are_as_exact_as_tensors(kernels, m, bins, shared):
    assert worse(compiled.spline, m, bins, shared) < 10


def test_and_the_comparison_would_notice(kernels):
    def swapped(x, theta, bound):
        w, h, d = theta.split([20, 20, 21], 1)
        return compiled.spline(x, torch.cat([h, w, d], 1), bound)

    def silent(x, theta, bound):
        y, log_slope = compiled.spline(x, theta, bound)
        return y, log_slope.detach()

    def still(x, theta, bound):  # no gradient of the widths
        return compiled.spline(x, torch.cat([theta[:, :20].detach(), theta[:, 20:]], 1), bound)

    for twin in (swapped, silent, still):
        assert worse(twin) > 50, twin.__name__


@pytest.mark.parametrize("shared", [False, True])
def test_without_gradients_and_back_again(kernels, shared):
    x, theta, _, _ = some(1000, 12, shared)
    theta = (0.5 * theta).expand(len(x), -1)
    y, log_slope = compiled.spline(x.view(-1, 2), theta.reshape(500, 2, -1), BOUND)
    kept = tensors.spline(x, theta, BOUND)
    assert (y.flatten() - kept[0]).abs().max() < 1e-3 * kept[0].abs().max()
    assert (log_slope.flatten() - kept[1]).abs().max() < 1e-4
    back = compiled.spline_inverse(y, theta.reshape(500, 2, -1), BOUND).flatten()
    inner = x.abs() < BOUND
    assert (back - x)[inner].abs().max() < 1e-3
    assert (back / x - 1)[~inner].abs().max() < 1e-4
    assert (compiled.spline_inverse(y.flatten(), -theta, BOUND) - x).abs().max() > 0.1


def test_what_is_no_number_stays_none(kernels):
    x, theta, _, _ = some(100, 6)
    x[10], theta[20, 3], theta[30, 17] = float("nan"), float("nan"), float("inf")
    y, log_slope = compiled.spline(x, theta, BOUND)
    assert y[10].isnan() and y[20].isnan() and log_slope[10].isnan() and log_slope[20].isnan()
    assert torch.isfinite(y[40:]).all() and torch.isfinite(log_slope[40:]).all()
    assert compiled.spline_inverse(x, theta, BOUND)[20].isnan()
    given = [part.requires_grad_() for part in some(100, 6)[:2]]
    y, log_slope = compiled.spline(*given, BOUND)
    (y.sum() * float("nan") + log_slope.sum()).backward()
    assert given[1].grad.isnan().any()


def test_what_kernels_do_not_take_goes_through_tensors(kernels):
    x, theta, _, _ = some(50, 5)
    double = compiled.spline(x.double(), theta.double(), BOUND)
    assert all(map(torch.equal, double, tensors.spline(x.double(), theta.double(), BOUND)))
    theta.requires_grad_()
    assert compiled.spline_inverse(x, theta, BOUND).requires_grad


# ---------------------------------------------------------------- training


def started(kernels: Library | None = None, data: str = "moons", **knobs) -> Run:
    run = Experiment(data, "flow", knobs=knobs).start("cpu")
    if kernels is not None:
        run.quicken()
        assert run.quickened == "splines compiled"
    return run


def gap(a: Run, b: Run, of=lambda p: p) -> float:
    """The largest difference of weights (or their gradients), relative to each tensor's largest."""
    pairs = zip(a.engine.net.parameters(), b.engine.net.parameters(), strict=True)
    pairs = [(of(p).detach(), of(q).detach()) for p, q in pairs]
    return max(float((p - q).abs().max() / p.abs().max()) for p, q in pairs)


def first_step(kernels, **knobs) -> float:
    """How far losses and gradients of steps 1 to 3 are from those in tensors."""
    runs = started(None, **knobs), started(kernels, **knobs)
    off = 0.0
    for run in runs:  # torch cuts the gradients themselves
        run.engine.CLIP = math.inf
        if run.engine._native is not None:
            run.engine._native.clip = math.inf
    for _ in range(3):
        for run in runs:
            run.advance()
        off = max(off, gap(*runs, of=lambda p: p.grad))
        a, b = (run.lanes[0].pending[-1][1]["nll"] for run in runs)
        off = max(off, abs(float(a - b)))
    return off


@pytest.mark.parametrize(
    "knobs",
    [
        {"splines": 1},
        {"splines": 3, "hidden": 1, "batch": 100, "bins": 4},
        {"splines": 2, "hidden": 3, "width": 16},
        {"kind": "spline coupling", "bins": 6},
        {"base": "mixture"},
        {"base": "uniform", "splines": 2},
    ],
    ids=str,
)
def test_losses_and_gradients_are_those_of_tensors(kernels, knobs):
    assert first_step(kernels, **knobs) < 1e-4


@pytest.mark.parametrize(("name", "value"), [("LEAK", 0.02), ("FREE", 5.0)])
def test_a_wrong_way_back_is_noticed(kernels, monkeypatch, name, value):
    monkeypatch.setattr(training, name, value)
    assert first_step(kernels, splines=2) > 1e-3


def losses(z: Tensor, log_det: Tensor, far: float) -> Tensor:
    """What the kernel says of noise z: both losses, and the gradient of the first."""
    g, means = torch.empty_like(z), z.new_empty(2)
    compiled.code().gaussian(
        *z.shape, far, z.data_ptr(), log_det.data_ptr(), g.data_ptr(), means.data_ptr()
    )
    return torch.cat([means, g.flatten()])


def test_the_noises_losses_are_those_of_the_base(kernels):
    rng = torch.Generator().manual_seed(0)
    z, log_det = 4 * torch.randn(200, 2, generator=rng), torch.randn(200, generator=rng)
    z[0] = 0
    leaf, base = z.clone().requires_grad_(), bases.Gaussian(2)
    loss = (base.cost(leaf) - log_det).mean()
    loss.backward()
    nll = -(base.log_prob(z) + log_det).mean()
    wanted = torch.cat([loss.detach()[None], nll[None], leaf.grad.flatten()])
    far = 2**0.5 + base.FAR
    assert float(z.norm(dim=1).max()) > far, "some of it lies where the cost is a straight line"
    assert (losses(z, log_det, far) - wanted).abs().max() < 1e-5
    assert (losses(z, log_det, 2 * far) - wanted).abs().max() > 1e-3


def moved(kernels, clip: float = 0.5, late: int = 0) -> float:
    """How far ten moves are from torch's on the same gradients, cut to a length of .5."""
    a, b = (started(kernels, lr=0.02).train(steps=1).engine for _ in range(2))
    b._native.clip = clip
    rng = torch.Generator().manual_seed(0)
    for step in range(2, 12):
        for p, q in zip(a.net.parameters(), b.net.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=rng)
            q.grad = p.grad.clone()
        torch.nn.utils.clip_grad_norm_(a.net.parameters(), 0.5)
        a.optimiser.step()
        a.average.update(a.net, step)
        b._native.move(step + late)
    (one, _), (other, _) = a.state(), b.state()
    of = [name for name in one if name.startswith(("net.", "average.", "optimiser/"))]
    sizes = [one[name].double().abs().max() + 1e-12 for name in of]
    return max(
        float((one[name].double() - other[name].double()).abs().max() / size)
        for name, size in zip(of, sizes, strict=True)
    )


def test_a_move_is_torchs_adam_with_its_cut_and_average(kernels):
    assert moved(kernels) < 1e-5
    assert moved(kernels, clip=1e9) > 1e-2, "gradients that are not cut make other moments"
    assert moved(kernels, late=3) > 1e-4, "the average follows as fast as the step says"


@pytest.mark.slow
def test_it_learns_as_well(kernels):
    runs = started(None, "ring8soft"), started(kernels, "ring8soft")
    x = runs[0].pool.test[:2000]
    found = [float(run.train(steps=600).log_prob(x).mean()) for run in runs]
    assert abs(found[0] - found[1]) < 0.02


@pytest.mark.parametrize("data", ["moons", "digits"])
def test_pictures_and_samples_of_a_compiled_flow_are_the_same(kernels, data):
    run = started(None, data, splines=2).train(steps=2)
    twin = started(None, data, splines=2).restore(run.checkpoint())
    twin.quicken()
    shown = twin.engine.shown.flow
    assert shown.bend == compiled.COMPILED and copy.deepcopy(shown).bend == compiled.COMPILED
    x = run.pool.test[:200]
    a, b = (r.log_prob(x) for r in (run, twin))
    assert (a - b).abs().max() / a.abs().max() < 1e-4
    a, b = (r.sample(200) for r in (run, twin))
    assert (a - b).abs().max() < 1e-2


def test_dimensions_have_compiled_flows(kernels):
    runs = [Experiment("corners", "dimensions", knobs={"layers": 1}).start("cpu") for _ in range(2)]
    runs[1].quicken()
    assert runs[1].quickened == "splines compiled"
    for run in runs:
        run.train(steps=2)
    pairs = zip(*(run.engine.flows.parameters() for run in runs), strict=True)
    assert max(float((p - q).detach().abs().max()) for p, q in pairs) < 1e-4


# ---------------------------------------------------------------- live runs alone


def live(steps: int, **rest) -> tuple[Worker, list[str]]:
    """A worker after so many live steps, and what its frames said of the arithmetic."""
    worker, blocks = Worker("cpu", **rest), {}
    worker.post(open=Experiment("moons", "flow").to_json())
    frames = [unpack(frame, blocks) for frame, _ in worker.stream(steps) if frame]
    return worker, [frame["extra"]["native"] for frame in frames]


def test_a_live_run_takes_them_and_an_experiment_does_not(kernels):
    worker, said = live(3)
    assert worker.run.engine._native is not None and said[-1] == "splines compiled"
    program, _ = live(3, pictures=False)
    assert program.run.engine._native is None, "a program's run repeats bit by bit"
    plain = started().train(steps=3)
    assert plain.engine._native is None and plain.quickened == ""
    assert gap(program.run, plain) == 0 and 0 < gap(worker.run, plain) < 1e-4


def test_a_knob_that_restarts_begins_in_tensors_and_is_quickened_again(kernels):
    worker, _ = live(2)
    worker.post(set=("bins", 9))
    worker.redraw(measure=False)
    assert worker.run.engine._native is None and worker.run.quickened == ""
    for _ in worker.stream(2):
        pass
    assert worker.run.step == 2 and worker.run.engine._native is not None
    worker.post(set=("batch", 64))
    for _ in worker.stream(2):
        pass
    assert worker.run.step == 4 and not worker.run.diverged
    worker.post(set=("kind", "MAF"))
    worker.redraw(measure=False)
    assert worker.run.quickened == "" and worker.run.engine._native is None


def test_a_checkpoint_goes_on_in_tensors_and_in_native_code(kernels):
    worker, _ = live(5)
    saved = worker.checkpoint()
    runs = [started().restore(saved), started().restore(saved)]
    runs[1].quicken()
    for run in runs:
        run.train(steps=3)
    worker.run.train(steps=3)
    assert gap(runs[1], worker.run) == 0, "20 steps, save, load, 20 steps is 40 steps"
    assert 0 < gap(*runs) < 1e-4


# ---------------------------------------------------------------- the compiler


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYGROUND_COMPILE", "1")


GOOD = "int trial(void) { return 1; }"


@pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")
@pytest.mark.parametrize(
    ("text", "state"),
    [
        (GOOD, "ready"),
        ("int trial(void) { return 0; }", "off"),
        ("int trial(void) { __builtin_trap(); }", "off"),
        ("int trial(void) { return }", "off"),
    ],
)
def test_only_what_passes_its_trial_is_loaded_and_kept(tmp_path, on, text, state):
    (tmp_path / "a.c").write_text(text)
    library = settled(Library(tmp_path / "a.c", tmp_path))
    assert library.state == state and bool(library.why) == (state == "off")
    assert len(list(tmp_path.glob("*.so"))) == (state == "ready")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()], "nothing half done is left"


@pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")
def test_the_second_time_nothing_is_compiled(tmp_path, on, monkeypatch):
    (tmp_path / "a.c").write_text(GOOD)
    assert settled(Library(tmp_path / "a.c", tmp_path)).state == "ready"
    monkeypatch.setattr(Library, "_compile", lambda *given: 1 / 0)
    assert settled(Library(tmp_path / "a.c", tmp_path)).state == "ready"
    (tmp_path / "a.c").write_text(GOOD + "  /* other code */")
    assert settled(Library(tmp_path / "a.c", tmp_path)).state == "off"


def test_without_a_compiler_it_is_off_and_says_why(tmp_path, on, monkeypatch):
    monkeypatch.setattr(native, "compiler", lambda: None)
    library = settled(Library(compiled.LIBRARY.source, tmp_path))
    assert (library.state, library.why, library.code) == ("off", "no C compiler here", None)
    monkeypatch.setattr(compiled, "LIBRARY", library)
    worker, said = live(2)
    assert worker.run.engine._native is None
    assert said[-1] == "splines not compiled (no C compiler here)"
    assert gap(worker.run, started().train(steps=2)) == 0


def test_it_can_be_turned_off(tmp_path, on, monkeypatch):
    monkeypatch.setenv("PLAYGROUND_COMPILE", "0")
    library = settled(Library(compiled.LIBRARY.source, tmp_path))
    assert library.state == "off" and library.why == "PLAYGROUND_COMPILE is 0"
    assert not list(tmp_path.iterdir())


def test_nobody_waits_for_it(tmp_path, on, monkeypatch):
    going = []
    monkeypatch.setattr(
        Library, "_load", lambda self: [going.append(1), time.sleep(0.3), "code"][2]
    )
    library = Library(tmp_path / "a.c", tmp_path)
    begin = time.perf_counter()
    assert [library.ask() for _ in range(100)] == [None] * 100
    assert time.perf_counter() - begin < 0.25 and library.state == "busy"
    assert settled(library).ask() == "code" and going == [1]


def test_the_cache_is_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.cache() == Path(tmp_path) / "generative-playground"
    assert native.cache().stat().st_mode & 0o077 == 0
    native.cache().chmod(0o777)
    with pytest.raises(PermissionError):
        native.cache()
