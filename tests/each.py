"""Every engine, for tests that go over all of them."""

import pytest

from engines import ENGINES
from engines.base import families

# the later engines of a family often train several models at once: only `make test` tries those
DEAR = {name for names in families().values() for name in names[1:]}
EACH = [pytest.param(n, marks=pytest.mark.slow) if n in DEAR else n for n in ENGINES]
