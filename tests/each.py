"""Every engine, for tests that go over all of them."""

import pytest

from engines import ENGINES
from engines.base import families
from engines.knobs import Above, Knob

# `make check` has two minutes: only `make test` tries the later engines of a family, which often
# train several models at once, and those whose density is an integral or a mean over many draws
DEAR = {name for names in families().values() for name in names[1:]} | {"energy", "vae", "nce"}


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
