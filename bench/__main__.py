"""Measurements, printed: `make bench`, or `python -m bench hand pace start browser`.

Ratios are taken side by side in one run: absolute figures belong to one machine.
"""

from __future__ import annotations

import sys

from bench import browser, hand, loop, memory, pace, quality, start, visitors

PARTS = {
    "hand": hand.main,
    "pace": pace.main,
    "start": start.main,
    "loop": loop.main,
    "browser": browser.main,
    "visitors": visitors.main,
    "quality": quality.main,
    "memory": memory.main,
}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        print(f"\n== {part}", flush=True)
        PARTS[part]()
