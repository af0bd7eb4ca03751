"""Every engine, for tests that go over all of them."""

import pytest

from engines import ENGINES

# `make check` has two minutes: it tries the engines that differ the most, one by EM, one with an
# exact density and one without, and `make test` tries all
CHEAP = {"mixture", "flow", "gan"}
DEAR = set(ENGINES) - CHEAP


def quick(names):
    """Names of engines, or tuples that begin with one, for parametrize: dear ones are slow."""
    rows = [name if isinstance(name, tuple) else (name,) for name in names]
    slow = pytest.mark.slow
    return [pytest.param(*row, marks=[slow] if row[0] in DEAR else []) for row in rows]


EACH = quick(ENGINES)
