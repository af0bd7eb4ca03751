"""Measurements, printed: `make bench`, or `python -m bench loop browser visitors quality memory gpu`.

Ratios are taken side by side in one run: absolute figures belong to one machine.
"""

from __future__ import annotations

import importlib
import sys

# each is loaded when it is asked for: the last needs neither page nor browser
PARTS = ("loop", "browser", "visitors", "quality", "memory", "gpu")

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        print(f"\n== {part}", flush=True)
        if part not in PARTS:
            sys.exit(f"There is no part {part}; the parts are {', '.join(PARTS)}.")
        importlib.import_module(f"bench.{part}").main()
