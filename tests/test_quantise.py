"""What leaves a device as codes is what a numpy array is packed into."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from app.pack import pack, unpack
from engines import arrays, quantise
from engines.marks import Arrows, Heat, Images, Panel, Points, Surface
from engines.quantise import Codes, coded, settle
from tests.contract import start, taken
from tests.each import EACH

BOX = (-2.0, 2.0, -1.0, 3.0)
RNG = np.random.default_rng(0)


def holed(*shape: int) -> np.ndarray:
    x = RNG.normal(size=shape).astype(np.float32)
    x.flat[::7] = np.nan
    return x


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        (Heat(holed(6, 5), BOX), "values"),
        (Heat(holed(3, 6, 5), BOX, hi=np.array([1.0, 2.0, 0.5])), "values"),
        (Heat(holed(6, 5), BOX, "plain", "diverging", gamma=1.0), "values"),
        (Surface(holed(6, 5), BOX), "values"),
        (Points(holed(40, 2) * 100, alpha=RNG.random(40), group=RNG.integers(-1, 9, 40)), "xy"),
        (Points(holed(40, 2), alpha=RNG.random(40)), "alpha"),
        (Points(holed(40, 2), group=RNG.integers(-1, 300, 40)), "group"),
        (Arrows(holed(9, 2), holed(9, 2)), "vectors"),
        (Images(holed(4, 8, 8)), "pixels"),
        (Points(np.zeros((0, 2), np.float32)), "xy"),
        (Heat(np.zeros((0, 0), np.float32), BOX), "values"),
        (Heat(np.full((2, 2), np.inf, np.float32), BOX), "values"),
    ],
)
def test_a_tensor_becomes_the_same_codes_as_an_array(mark, name):
    value = getattr(mark, name)
    array, tensor = (coded(mark, name, v, BOX) for v in (value, torch.from_numpy(value)))
    assert np.array_equal(array.codes, tensor.codes) and array.codes.dtype == tensor.codes.dtype
    assert array.how == tensor.how


def test_only_what_lies_on_a_device_is_settled():
    points = holed(5, 2)
    points[1] = 1e6, 0.0  # one that is lost, which must not take the others' resolution
    marks = [Points(points), Points(torch.from_numpy(points), group=np.arange(5))]
    panel = Panel("a", "A", marks, box=BOX)
    array, tensor = settle(panel).marks
    assert array.xy is points
    assert isinstance(tensor.xy, Codes) and isinstance(tensor.group, np.ndarray)
    packed = pack_of(panel)["marks"]
    assert np.array_equal(packed[0]["xy"], packed[1]["xy"], equal_nan=True)


def pack_of(panel: Panel) -> dict:
    from engines.marks import Frame

    return unpack(pack(Frame(0, 0.0, 0.0, [], [panel])))["panels"][0]


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("dataset", ["ring8soft", "digits"])
@pytest.mark.parametrize("engine", EACH)
def test_pictures_whose_arrays_stay_on_a_device_are_the_same(engine, dataset, monkeypatch):
    """A device is played by the CPU, where tensors are left as they are."""

    def panels(steps: int) -> list[dict]:
        run = start(engine, taken(engine, dataset)).train(steps=steps)
        return unpack(pack(run.frame(measure=False)))["panels"]

    plain, settled = panels(3), []
    monkeypatch.setattr(arrays, "stays", lambda x: True)
    monkeypatch.setattr(torch.Tensor, "__array__", never)
    monkeypatch.setattr(quantise, "_settled", noted(quantise._settled, settled))
    assert alike(plain, panels(3))
    assert not alike(plain, panels(4)), "the wrong twin: another step"
    # tables, curves and sheets of pixels are made of numbers that have left the device already
    assert any(settled) or engine in FEW, "nothing was left on the device"


FEW = {
    "divergence",
    "deep_mixture",
    "dimensions",
    "mixture",
    "sequence",
    "dirac_gan",
    "score",
    "vae",
}


def never(*_) -> None:
    raise TypeError("what lies on a device is no array")


def noted(settle, settled: list[bool]):
    def one(mark, box):
        out = settle(mark, box)
        settled.append(out is not mark)
        return out

    return one


def alike(a, b) -> bool:
    """Whether two packed panels are the same but for rounding: a decomposition of a matrix may
    differ in its last bits from one time to the next."""
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["flow", "gan", "vae", "diffusion", "energy"])
def test_on_a_gpu_the_density_and_samples_leave_as_codes(engine):
    from engines import Experiment

    run = Experiment("ring8soft", engine).start("cuda").train(steps=20)
    marks = [mark for panel in run.frame(measure=False).panels for mark in panel.marks]
    assert any(isinstance(v, Codes) for mark in marks for v in vars(mark).values())
    assert not any(isinstance(v, torch.Tensor) for mark in marks for v in vars(mark).values())
