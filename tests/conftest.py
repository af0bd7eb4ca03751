"""Shared by all tests."""

from __future__ import annotations

import dataclasses
import os

import pytest

# sessions that are compared bit by bit may not begin to train another way in their middle:
# tests/test_native.py asks for it
os.environ.setdefault("PLAYGROUND_COMPILE", "0")


@pytest.fixture(autouse=True)
def no_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel estimates beside divergences take a core for seconds: tests/test_rival.py asks
    for them, the others go without."""
    monkeypatch.setattr("engines.looking.rival", lambda pool: {})


# samples of dear pictures and numbers
FEW = {
    "guided.pictures.COURSE": 40, "guided.numbers.DRAWN": 200,
    "inverse.numbers.DRAWN": 60, "inverse.numbers.HELD": 20, "inverse.pictures.WALKS": 40,
    "diffusion.numbers.COMPARED": {"plane": 200, "images": 100},
    "flow_matching.numbers.SAMPLES": 200, "flow_matching.numbers.HELD": 400,
}  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarse pictures and numbers over few points, by the same code: what the contract says of a
    frame does not hang on its size, and thousands are made."""
    from engines import ENGINES, Dataset, probes

    monkeypatch.setattr(Dataset, "sizes", (4_000, 500, 1_000))
    for kind in ENGINES.values():
        monkeypatch.setattr(kind, "field_grid", (20, 40, 2))
        monkeypatch.setattr(kind, "probe_rows", min(kind.probe_rows, 200))
        for name, n in {"STEPS_PROBE": 4, "STEPS_FIELD": 3}.items():  # of an ODE
            if hasattr(kind, name):
                monkeypatch.setattr(kind, name, n)
    for name, n in FEW.items():
        monkeypatch.setattr(f"engines.{name}", n)
    for name, n in {"N_SAMPLES": 1_000, "N_ENERGY": 400, "N_REVERSE": 400, "N_IMAGES": 200}.items():
        monkeypatch.setattr(probes, name, n)


# defaults of knobs, where an engine's own are larger
NARROW = {"batch": 64, "width": 32, "n_points": 4_000}


@pytest.fixture
def narrow(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow networks and few rows a step as well, where nothing need be learnt."""
    from engines import ENGINES

    for kind in ENGINES.values():
        for name in NARROW.keys() & kind.knobs.keys():
            entry = kind.knobs[name]
            n = max(entry.low, min(entry.default, NARROW[name]))
            monkeypatch.setitem(kind.knobs, name, dataclasses.replace(entry, default=n))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch  # not by the process that only deals tests out to others

    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
