"""What an engine says of itself as a CUDA graph; `engines/graphs.py` does what is said here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.knobs import Knob


@dataclass(frozen=True)
class Capture:
    """Whether a step can be captured, and which live knobs need no new graph when they move.

    A captured step is a list of kernels with their addresses: it repeats them all, and none of the
    Python between them. So a step can be captured if its tensors stay where they are, if nothing
    in it waits for a number from the device, and if every number of Python's that changes from one
    step to the next comes through `Engine.number`.

    One rule says what happens when a live knob moves. A dial is a number on the device, and the
    graphs stay; but one that leaves 0, or comes to it, may switch a term on or off, and has graphs
    of its own. Any other live knob, an action, other data and a loaded checkpoint leave all graphs
    behind, and new ones are captured. Engines with steps of several kinds name them by `occasion`.

    Args:
        no: one sentence, why a step is never captured; "" if it is.
        dials: live knobs of which a step learns by `Engine.number` alone.
        unless: pairs of knobs' values, as in a knob's `when`, and the sentence why a step is not
            captured with them.
    """

    no: str = ""
    dials: tuple[str, ...] = ()
    unless: tuple[tuple[Mapping[str, Any], str], ...] = ()

    def refused(self, knobs: Mapping[str, Any]) -> str:
        """Why a step is not captured with these knobs (all); "" if it is."""
        if self.no:
            return self.no
        met = (why for when, why in self.unless if Knob(None, when=when).applies(knobs))
        return next(met, "")
