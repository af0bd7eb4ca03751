"""Knobs and actions: whatever a visitor may change, declared once.

From one declaration come the control on the page with its tooltip, the checks of
everything that arrives (address, preset, API), the entry in the Experiment's JSON and
the tests at both ends of the range:

    class Flow(Engine):
        lr: float = knob(1e-3, 1e-5, 1e-1, log=True, live=True, help="Adam step size")
        loss: Literal["a", "b"] = knob("a", help="…")
        clip: float = knob(0.01, 1e-3, 0.1, log=True, when={"loss": "b"}, help="…")
        warmth: float = knob(1.0, 0.1, 2.0, view=True, help="…")

        @action("Step D only")
        def step_discriminator(self): ...
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal


class BadInput(ValueError):
    """Something that arrived is refused. The message is one sentence, fit for the page."""


def printable(text: str, limit: int = 40) -> str:
    """Text fit for a sentence: line breaks and the like escaped, cut to `limit` characters."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown(value: Any, limit: int = 40) -> str:
    """`repr` of anything that a visitor may have sent, cut to `limit` characters."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return printable(text, limit)


LISTED = 240  # characters: every engine's name fits, a list without end does not


def listed(names: Iterable[str], limit: int = LISTED) -> str:
    """Names with commas between them, as many as fit into a sentence."""
    out = ", ".join(names) or "none"
    return out if len(out) <= limit else out[:limit].rpartition(", ")[0] + " …"


@dataclass(frozen=True)
class Above:
    """In a knob's `when`: any number that is larger than this one."""

    above: float


@dataclass(frozen=True)
class Knob:
    """One control. `kind` is float, int, bool, choice or payload; see `knob`, `payload`."""

    default: Any
    low: float | None = None
    high: float | None = None
    log: bool = False
    live: bool = False
    view: bool = False
    help: str = ""
    label: str = ""
    when: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    kind: Literal["float", "int", "bool", "choice", "payload"] = "float"
    choices: tuple[str, ...] = ()
    parse: Callable[[Any], Any] | None = None
    kinds: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """Return `value` in the knob's own type; raise BadInput when it does not fit."""
        if self.kind == "payload":
            return self.parse(value)
        if self.kind == "choice":
            if isinstance(value, str) and value in self.choices:
                return value
            raise BadInput(
                f"{self.name} must be one of {', '.join(self.choices)}; got {shown(value)}."
            )
        if self.kind == "bool":
            if isinstance(value, bool):
                return value
            raise BadInput(f"{self.name} must be true or false; got {shown(value)}.")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # an int too large for a float would overflow in isfinite: compare it as it is
        if not number or (isinstance(value, float) and not math.isfinite(value)):
            raise BadInput(f"{self.name} must be a number; got {shown(value)}.")
        if self.kind == "int" and value != int(value):
            raise BadInput(f"{self.name} must be a whole number; got {shown(value)}.")
        if not self.low <= value <= self.high:
            raise BadInput(
                f"{self.name} must be between {self.low:g} and {self.high:g}; got {shown(value)}."
            )
        return int(value) if self.kind == "int" else float(value)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether the knob means anything beside these other values (its `when`).

        Of a knob that is not among them nothing is asked: it does not suit the data.
        """

        def met(value: Any, wanted: Any) -> bool:
            return value > wanted.above if isinstance(wanted, Above) else value in _listed(wanted)

        return all(
            any(name not in values or met(values[name], wanted) for name in names.split(" or "))
            for names, wanted in self.when.items()
        )

    def suits(self, kind: str) -> bool:
        """Whether the knob means anything on data of this `Dataset.kind` (its `kinds`)."""
        return not self.kinds or kind in self.kinds

    def spec(self) -> dict[str, Any]:
        """What the page needs to draw the control: plain JSON."""
        spec = asdict(replace(self, parse=None))
        del spec["parse"]
        spec["when"] = {
            k: asdict(v) if isinstance(v, Above) else _listed(v) for k, v in self.when.items()
        }
        spec["choices"], spec["kinds"] = list(self.choices), list(self.kinds)
        return spec


def _listed(wanted: Any) -> list:
    return list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]


def knob(
    default: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    log: bool = False,
    live: bool = False,
    view: bool = False,
    help: str = "",
    label: str = "",
    when: Mapping[str, Any] | None = None,
    kinds: tuple[str, ...] = (),
) -> Any:
    """Declare a control.

    Its type comes from the annotation: float, int, bool, or Literal[...] of strings.

    Args:
        default, low, high: the range is closed; bool and Literal take only a default.
        log: the control moves on a logarithmic scale.
        live: a training knob that takes effect at once; other training knobs restart the run.
        view: changes only what is shown; never touches training.
        help: the tooltip, one sentence.
        label: shown on the page in place of the name.
        when: {"other_knob": value, (values…) or Above(number)}: hidden unless all of it holds;
            {"one or another": …} asks it of either of the two.
        kinds: of data (`Dataset.kind`) on which it does anything, hidden on others; empty: all.
    """
    if live and view:
        raise TypeError("a knob is live (training) or view, not both")
    return Knob(default, low, high, log, live, view, help, label, when or {}, kinds=kinds)


def payload(default: Any, check: Callable[[Any], Any], *, help: str = "", label: str = "") -> Any:
    """Declare an option whose value is structured JSON: points of a drawing, pixels, a list.

    It travels with the others through `complete`, JSON and address, but no ready-made control
    can draw it: what walks over sliders and buttons leaves out `spec()["kind"] == "payload"`.

    Args:
        default: of plain JSON types.
        check: takes anything that a visitor may have sent; returns the canonical value, made
            anew of plain JSON types, or raises BadInput. What it returned it accepts again.
    """
    return Knob(default, help=help, label=label, kind="payload", parse=check)


@dataclass(frozen=True)
class Action:
    """A button, or a drag on the picture. `takes` names its arguments ('x', 'y', 'index').

    trains: it changes weights. data: it changes the data, see `action`.
    """

    name: str
    label: str
    help: str
    takes: tuple[str, ...] = ()
    trains: bool = False
    data: bool = False

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise BadInput unless these are the numbers that it takes."""
        if set(arguments) != set(self.takes):
            raise BadInput(f"{self.label} takes {', '.join(self.takes) or 'nothing'}.")
        for key, value in arguments.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not abs(value) < 1e9:
                raise BadInput(f"{key} must be a finite number; got {shown(value)}.")

    def spec(self) -> dict[str, Any]:
        return {**asdict(self), "takes": list(self.takes)}


def action(
    label: str,
    *,
    help: str = "",
    takes: tuple[str, ...] = (),
    trains: bool = False,
    data: bool = False,
):
    """Make a method an action. `trains` says that it changes weights, not only the picture.

    `takes` are numbers that come from the page with the event, in data units.

    With `data` it changes the data, which belong to the Experiment and not to the engine: it
    is a static method of the present dataset and of what it takes, and returns the dataset's
    options that change. The run is then fed with them, as with a visitor's own drawing.
    """

    def mark(method: Callable) -> Callable:
        doc = (method.__doc__ or "").strip().split("\n")[0]
        method.__action__ = Action(method.__name__, label, help or doc, takes, trains, data)
        return staticmethod(method) if data else method

    return mark


class Knobbed:
    """A class whose knobs and actions are collected from its body into `knobs`, `actions`."""

    knobs: ClassVar[dict[str, Knob]] = {}
    actions: ClassVar[dict[str, Action]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = {k: v for k, v in vars(cls).items() if isinstance(v, Knob)}
        hints = typing.get_type_hints(cls) if declared else {}
        cls.knobs = dict(cls.knobs)
        for name, entry in declared.items():
            cls.knobs[name] = _finish(name, entry, hints.get(name), cls.__name__)
            delattr(cls, name)  # an instance without its values should fail loudly
        for entry in cls.knobs.values():
            for other in " or ".join(entry.when).split(" or ") if entry.when else ():
                if other not in cls.knobs:
                    raise TypeError(f"{cls.__name__}.{entry.name}: when names no knob {other!r}")
        cls.actions = {
            **cls.actions,
            **{
                k: f.__action__
                for k, v in vars(cls).items()
                if hasattr(f := getattr(v, "__func__", v), "__action__")
            },
        }

    @classmethod
    def complete(cls, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All knobs: the defaults, overlaid with checked `values`. Raises BadInput."""
        if values is None:
            values = {}
        if not isinstance(values, Mapping):
            raise BadInput(f"knobs must be a mapping of names to values; got {shown(values)}.")
        for name in values:
            if not isinstance(name, str) or name not in cls.knobs:
                known = listed(cls.knobs)
                raise BadInput(f"There is no knob {shown(name)} here; the knobs are: {known}.")
        return {
            # a payload's default is a list or an object, and each owner gets one of its own
            name: entry.check(values.get(name, entry.default))
            for name, entry in cls.knobs.items()
        }


def _finish(name: str, entry: Knob, hint: Any, owner: str) -> Knob:
    """Fill in what the annotation says, and refuse a declaration that makes no sense."""
    where = f"{owner}.{name}"
    if name == "path":  # knobs travel as JSON, where Gradio takes whatever has a path for a file
        raise TypeError(f"{where}: choose another name, for this one stands for files in the API")
    label = entry.label or name.replace("_", " ").capitalize()
    if entry.kind == "payload":
        entry = replace(entry, name=name, label=label)
    elif typing.get_origin(hint) is Literal:
        entry = replace(entry, name=name, label=label, kind="choice", choices=typing.get_args(hint))
    elif hint in (bool, int, float):
        entry = replace(entry, name=name, label=label, kind=hint.__name__)
        if hint is not bool and (entry.low is None or entry.high is None):
            raise TypeError(f"{where}: a number needs its range")
    else:
        raise TypeError(f"{where}: annotate a knob as float, int, bool or Literal[…]")
    if not entry.help:
        raise TypeError(f"{where}: a knob needs its help sentence")
    entry.check(entry.default)
    return entry
