"""Every engine, for tests that go over all of them."""

import pytest

from engines import ENGINES
from engines.base import families

# `make check` has two minutes: only `make test` tries the later engines of a family, which often
# train several models at once, and those whose density is an integral or a mean over many draws
DEAR = {name for names in families().values() for name in names[1:]} | {
    "energy",
    "vae",
    "nce",
    "flow_matching",
}


def quick(names):
    """Names of engines, or tuples that begin with one, for parametrize: dear ones are slow."""
    rows = [name if isinstance(name, tuple) else (name,) for name in names]
    slow = pytest.mark.slow
    return [pytest.param(*row, marks=[slow] if row[0] in DEAR else []) for row in rows]


EACH = quick(ENGINES)
