"""Shared by all tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel estimates beside divergences take a core for seconds: tests/test_rival.py asks
    for them, the others go without."""
    monkeypatch.setattr("engines.looking.rival", lambda pool: {})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch  # not by the process that only deals tests out to others

    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
