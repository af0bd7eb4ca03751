"""Measurements, printed: `make bench`, or `python -m bench hand pace start room gpu`.

Ratios are taken side by side in one run: absolute figures belong to one machine.
"""

from __future__ import annotations

import argparse
import importlib

# each is loaded when it is asked for: `gpu` needs neither page nor browser
PARTS = (
    "hand", "pace", "start", "loop", "browser", "visitors", "room", "quality", "memory", "spline",
    "gpu",
)  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, help="how long the room is full; 300 unless told")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"there is no part {sorted(unknown)[0]}; the parts are {', '.join(PARTS)}")
    for part in given.parts or PARTS:
        print(f"\n== {part}", flush=True)
        how = {"seconds": given.seconds} if part == "room" and given.seconds else {}
        importlib.import_module(f"bench.{part}").main(**how)
