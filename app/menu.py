"""What the Share menu asks of the server."""

from __future__ import annotations

import itertools
import json

from app.share import file_name, to_python
from engines import BadInput, Experiment

_numbers = itertools.count(1)  # so that the same answer twice is two answers


def answer(experiment: Experiment, what: object) -> str:
    """JSON for the menu: the experiment as Python or as a file."""
    if what == "python":
        found = {"text": to_python(experiment)}
    elif what == "json":
        found = {"text": json.dumps(experiment.to_dict(), indent=1), "name": file_name(experiment)}
    else:
        raise BadInput("An experiment can be had as Python or as JSON.")
    return json.dumps({"n": next(_numbers), "what": what, **found})
