"""Everything by API: what gradio_client, or any program that speaks HTTP, can ask for.

The functions below are documented on the page that Gradio makes (`?view=api`). Each caller
has a Session of its own, as each open page has, and the same checks: what does not fit comes
back as one sentence, and the run goes on.
"""

# No `from __future__ import annotations`: Gradio reads return types as they stand here.

import functools
import inspect
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_function_description, get_upload_folder, is_in_or_equal

from app.session import Session
from app.share import MAX_HASH, to_hash
from app.visitors import Visitors
from engines import DATASETS, ENGINES, BadInput, Experiment
from engines.experiment import VERSION
from engines.knobs import Knob, listed, shown

log = logging.getLogger("playground")

SECONDS = 600.0  # the longest that one call of /train goes on
CALLERS = 16  # calls at once, and as many that train; each holds a thread
MAX_FILE = 64 * 2**20  # bytes of a checkpoint that is sent to us
MAX_KEY = 200


def endpoints(visitors: Visitors) -> dict[str, Callable]:
    """The functions by their names in the API; every one raises gr.Error, one sentence."""

    def caller(request: gr.Request) -> Session:
        key = getattr(request, "session_hash", None)
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
            raise BadInput("A session_hash of your own must come with this request.")
        return visitors.of(key, pictures=False)

    def engines() -> list[dict[str, Any]]:
        """What can be trained: name, family, title, tagline, objective, look_for, paper,
        density ("exact", "bound" or null for a model without one), knobs by name, actions
        (name, label, help, takes: the numbers to give, trains: whether weights change), and
        the settings that it offers to run beside itself."""
        return [
            {
                "name": name, "family": kind.family, "title": kind.title,
                "tagline": kind.tagline, "objective": kind.objective,
                "look_for": kind.look_for, "paper": kind.paper, "density": kind.density,
                "knobs": list(kind.knobs), "actions": [a.spec() for a in kind.actions.values()],
                "beside": {label: dict(changes) for label, changes in kind.compare.items()},
            }
            for name, kind in ENGINES.items()
        ]  # fmt: skip

    def datasets() -> list[dict[str, Any]]:
        """What can be learned: name, about, kind, shape of one row, classes, extent of the plane
        [x0, x1, y0, y1], density ("exact" or null), and options with their ranges."""
        out = []
        for name, kind in DATASETS.items():
            example = kind()
            out.append({
                "name": name, "about": kind.about, "source": kind.source, "kind": kind.kind,
                "shape": list(example.shape), "classes": kind.classes,
                "extent": list(example.extent) if kind.kind == "plane" else None,
                "density": "exact" if example.exact else None,
                "options": [_spec(entry) for entry in kind.knobs.values()],
            })  # fmt: skip
        return out

    def knobs(engine: str) -> list[dict[str, Any]]:
        """The knobs of an engine: name, label, kind (float, int, bool or choice), default, low,
        high, log, choices, live (acts while it trains), view (changes only what is shown), when
        (the other knobs' values for which it means anything, or what they must be above; "a or b"
        asks it of either), kinds (the kinds of data on which it
        does, all if none is listed) and help. A knob that is neither live nor view begins the run
        again.

        Args:
            engine: one of the names that /engines lists
        """
        if not isinstance(engine, str) or engine not in ENGINES:
            raise BadInput(f"There is no engine {shown(engine)}; try {listed(ENGINES)}.")
        return [_spec(entry) for entry in ENGINES[engine].knobs.values()]

    def start(experiment: dict[str, Any] | str, request: gr.Request) -> dict[str, Any]:
        """Open an experiment in place of your present one, at step 0. Returns run (how many you
        have opened), experiment (completed with every default, to be kept and sent again as it
        is or as JSON text), and address (put behind this page's own it opens the same; empty
        where it would be too long).

        Args:
            experiment: {"dataset", "engine"} and, if wanted, seed, knobs, options, points, beside
        """
        found = _experiment(experiment)
        session = caller(request)
        session.open(found)
        return _about(session)

    def train(steps: int, request: gr.Request) -> dict[str, Any]:
        """Train, and stream where the run stands about four times a second: step, seconds of
        training, rate in steps a second, metrics {name: {value, se, unit, kind, floor, step,
        note, kernel_estimate}}, losses {name: value}, the same for the settings beside, and a
        note. A metric's kind is exact, estimate, upper bound (the truth is this or less) or lower
        bound (this or more). The last one has every metric measured anew. It ends after 600 seconds at the
        latest; a newer /train ends an older one. In JSON, infinity is "Infinity", and what is no
        number is null.

        Args:
            steps: between 1 and 100,000
        """
        last: dict[str, Any] = {}
        for last in caller(request).train(steps, SECONDS):
            yield last
        if last.get("note"):
            raise BadInput(last["note"])  # it diverged

    def metrics(request: gr.Request) -> dict[str, Any]:
        """Measure everything now; the same fields as /train. It never changes the training."""
        return caller(request).ask("numbers", fresh=True)

    def set(name: str, value: float | bool | str, request: gr.Request) -> dict[str, Any]:
        """Set a knob of the engine, also while /train goes on. Returns what /start does.

        Args:
            name: one of the names that /knobs lists
            value: in its range; a knob neither live nor view begins the run again
        """
        session = caller(request)
        session.set(name, value)
        return _about(session)

    def reset(request: gr.Request, seed: int | None = None) -> dict[str, Any]:
        """Back to step 0. Returns what /start does.

        Args:
            seed: of everything random; null keeps the present one
        """
        session = caller(request)
        session.reset() if seed is None else session.set_seed(seed)
        return _about(session)

    def act(
        name: str, request: gr.Request, arguments: dict[str, float] | None = None
    ) -> dict[str, Any]:
        """Carry out one of the engine's actions, as its button or a drag on its picture does,
        also while /train goes on. Returns the same fields as /train, with the metrics as they
        were measured last; /metrics measures anew.

        Args:
            name: one of the actions that /engines lists
            arguments: a number for each name that the action takes, such as {"x": 1, "y": 0}
        """
        return caller(request).carry_out(name, arguments)

    def sample(n: int, request: gr.Request) -> list[list[float]]:
        """Draw n new samples of the model, one list of numbers each, in the data's own units.

        Args:
            n: at most 100,000 points of a plane, 200,000 numbers in all; see /sample_file
        """
        return caller(request).ask("samples", n=n)

    def sample_file(n: int, request: gr.Request) -> gr.FileData:
        """Draw n new samples of the model into a .npy file of float32 (n, numbers a row).

        Args:
            n: between 1 and 100,000
        """
        return _file("samples.npy", caller(request).ask("samples", n=n, file=True))

    def log_prob(points: list[list[float]], request: gr.Request) -> list[float]:
        """The model's log-density at each point, in nats and the data's own units; "-Infinity"
        where the density is 0. A model without a density says so.

        Args:
            points: at most 100,000 of a plane, fewer of what has more numbers a row
        """
        return caller(request).ask("log_prob", points=points)

    def checkpoint(request: gr.Request) -> gr.FileData:
        """The whole run as a .safetensors file: weights, optimiser, random states, curves and
        the experiment. 20 steps, save, restore, 20 steps is 40 steps."""
        return _file("checkpoint.safetensors", caller(request).ask("checkpoint"))

    def restore(file: gr.FileData, request: gr.Request) -> dict[str, Any]:
        """Go on from a checkpoint, with the experiment that is in it. Returns what /start does.

        Args:
            file: what /checkpoint gave, at most 64 MB; in Python handle_file("…")
        """
        session = caller(request)
        session.restore(_read(file))
        return _about(session)

    every = (engines, datasets, knobs, start, train, metrics, set, act, reset, sample,
             sample_file, log_prob, checkpoint, restore)  # fmt: skip
    return {function.__name__: _guarded(function) for function in every}


def register(visitors: Visitors) -> None:
    """Add the API to the Blocks that are being built."""
    for name, function in endpoints(visitors).items():
        limit = "api-train" if inspect.isgeneratorfunction(function) else "api"
        made = gr.api(
            function, api_name=name, api_description=_described(function),
            concurrency_limit=CALLERS, concurrency_id=limit,
        )  # fmt: skip
        # Gradio shows a parameter's description only where its component has one
        _, described, _ = get_function_description(function)
        block = gr.context.Context.root_block.fns[made["id"]]
        names = [p for p in inspect.signature(function).parameters if p != "request"]
        for component, parameter in zip(block.inputs, names, strict=True):
            component.label = parameter
            component._api_info["additional_description"] = described[parameter]


# ---------------------------------------------------------------- the parts


def _guarded(function: Callable) -> Callable:
    """The same function; whatever is refused or fails is gr.Error with one sentence."""

    def refusal(error: Exception) -> gr.Error:
        if isinstance(error, BadInput):
            return gr.Error(str(error), print_exception=False)
        log.error("a call of /%s failed", function.__name__, exc_info=error)
        return gr.Error(
            "Something went wrong there; your run goes on as it was.", print_exception=False
        )

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from function(*args, **kwargs)
            except Exception as error:
                raise refusal(error) from None

        return stream

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise refusal(error) from None

    return call


def _described(function: Callable) -> str:
    """The docstring's first part in one line."""
    text, _, _ = get_function_description(function)
    return text


def _spec(entry: Knob) -> dict[str, Any]:
    return {"name": entry.name, **{k: v for k, v in entry.spec().items() if k != "name"}}


def _experiment(given: Any) -> Experiment:
    """An object, which may leave out its version, or the JSON text of a whole one."""
    if isinstance(given, dict):
        given = {"version": VERSION, **given}
        try:
            given = json.dumps(given)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInput("That is not an experiment: it is not valid JSON.") from error
    return Experiment.from_json(given)


def _about(session: Session) -> dict[str, Any]:
    address = to_hash(session.experiment)
    return {
        "run": session.opens,
        "experiment": session.experiment.to_dict(),
        "address": f"#{address}" if len(address) <= MAX_HASH else "",
    }


def _file(name: str, content: bytes) -> gr.FileData:
    """A file that the caller can fetch; Gradio deletes it after a while."""
    folder = Path(get_upload_folder())
    folder.mkdir(parents=True, exist_ok=True)
    path = os.path.join(tempfile.mkdtemp(dir=folder), name)
    Path(path).write_bytes(content)
    return gr.FileData(path=path, orig_name=name, size=len(content))


def _read(file: Any) -> bytes:
    """The bytes of a file that was uploaded. Raises BadInput for anything else."""
    path = file.get("path") if isinstance(file, dict) else getattr(file, "path", None)
    if not isinstance(path, str) or "\0" in path or len(path) > 4000:
        raise BadInput("That is not an uploaded file.")
    try:
        # resolved, so that no link leads out of the folder
        real = os.path.realpath(path)
        inside = is_in_or_equal(real, os.path.realpath(get_upload_folder()))
        if not inside or not os.path.isfile(real):
            raise BadInput("That is not an uploaded file.")
        if os.path.getsize(real) > MAX_FILE:
            raise BadInput(f"At most {MAX_FILE // 2**20} MB can be read.")
        return Path(real).read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput("That is not an uploaded file.") from error
