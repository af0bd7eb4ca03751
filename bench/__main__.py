"""Measurements, printed: `make bench`, or `python -m bench loop browser visitors room quality memory`.

Ratios are taken side by side in one run: absolute figures belong to one machine.
"""

from __future__ import annotations

import argparse

from bench import browser, loop, memory, quality, room, visitors

PARTS = {
    "loop": loop.main,
    "browser": browser.main,
    "visitors": visitors.main,
    "room": room.main,
    "quality": quality.main,
    "memory": memory.main,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the room is full")
    given = parser.parse_args()
    for part in given.parts or PARTS:
        print(f"\n== {part}", flush=True)
        if part == "room":
            room.main(given.seconds)
        else:
            PARTS[part]()
