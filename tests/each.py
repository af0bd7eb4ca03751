"""Every engine, for tests that go over all of them."""

import pytest

from engines import ENGINES
from engines.knobs import Above, Knob

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


def context(engine: str, entry: Knob) -> dict:
    """Other knobs' values beside which this one means something (its `when`)."""

    def one(name, wanted):
        if isinstance(wanted, Above):
            other = ENGINES[engine].knobs[name]
            return other.default if other.default > wanted.above else other.high
        return wanted if isinstance(wanted, str | bool | int) else wanted[0]

    firsts = {names.split(" or ")[0]: wanted for names, wanted in entry.when.items()}
    return {name: one(name, wanted) for name, wanted in firsts.items()}
