"""Session: one visitor's life with a run. Play, pause, step, undo, parked tabs.

A Session keeps the Experiment and talks to its Worker through the boundary that
app/worker.py names; it knows neither Plotly nor torch.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from app import zero
from app.crowd import Crowd
from app.mail import SPEEDS
from app.share import MAX_HASH, to_hash
from engines import DATASETS, ENGINES, BadInput, Experiment, families
from engines.base import NOISE
from engines.experiment import MAX_SEED
from engines.knobs import Knob, shown

UNDO = 10  # changes that can be taken back
MAX_STEPS = 100_000


class Session:
    """One visitor. Methods that return `str | None` return a frame to show, if any.

    While a stream runs they return None, for the stream will show the change itself.
    Whatever is refused raises BadInput and leaves the run as it was.
    """

    START = ("ring8soft", "flow")  # what an address without an experiment opens

    def __init__(
        self,
        device: str | None = None,
        fps: float = 20.0,
        crowd: Crowd | None = None,
        pictures: bool = True,
        worker: Any = None,  # one of a room (app/room.py); else the run lives in this process
    ) -> None:
        self.worker = worker or zero.worker(device, fps, crowd, pictures)
        self.used = time.monotonic()  # the last request
        self.patient = False  # whether whoever is shown a picture asks for its numbers by itself
        self.experiment = Experiment(*self.START)
        self._lock = threading.Lock()
        self._parked: dict[str, tuple[Experiment, bytes]] = {}  # by family
        self._chosen: dict[str, str] = {}  # family → the engine last used in it
        self._undo: list[tuple[Experiment, int]] = []  # with the name of its checkpoint
        self._saves = 0
        self.table: Any = None  # what was uploaded last: (Table, name, x, y, its points)
        self._turns: dict[str, float] = {}  # the newest message heard of each kind
        self._opened = 0  # how many experiments so far; the page's first event opens one

    # ------------------------------------------------------------ opening

    def _open(self, experiment: Experiment, saved: bytes | None = None, note: str = "") -> None:
        """Hand an experiment to the worker, with a checkpoint to go on from."""
        self.experiment = experiment
        self._chosen[self.family] = experiment.engine
        self._opened += 1
        self.worker.post(open=experiment.to_json())
        if saved is not None:
            self.worker.post(restore=saved)
        self._tell(note)

    def _tell(self, message: str = "") -> None:
        """What every frame carries along: the engine's texts and the address."""
        kind = ENGINES[self.experiment.engine]
        address = to_hash(self.experiment)
        about = {
            "engine": kind.name,
            "family": kind.family,
            "title": kind.title,
            "tagline": kind.tagline,
            "objective": kind.formula(self.experiment.knobs),
            "look_for": kind.look_for,
            "paper": kind.paper,
            "dataset": self.experiment.dataset,
            "points": 0 if self.experiment.points is None else len(self.experiment.points),
            "hash": address if len(address) <= MAX_HASH else "",
        }
        self.worker.post(extra={"about": about, "run": self._opened}, message=message)

    @property
    def opens(self) -> int:
        """How many experiments were opened so far."""
        return self._opened

    @property
    def opened(self) -> bool:
        """Whether an experiment was opened yet; the page's first event opens one."""
        return self._opened > 0

    @property
    def family(self) -> str:
        return ENGINES[self.experiment.engine].family

    def open(self, experiment: Experiment, note: str = "") -> str | None:
        """Open an experiment in place of the present one (an address, a preset).

        note: a sentence to show with it, as `share.read_hash` returns one.
        """
        return self._change(lambda now: experiment, note)

    def show(self) -> str | None:
        """The present experiment as it stands; opens it if nothing is open yet."""
        with self._lock:
            if not self._opened:
                self._open(self.experiment)
        return self._redraw()

    def _redraw(self, measure: bool = True) -> str | None:
        return self.worker.redraw("later" if measure and self.patient else measure)

    def refuse(self, sentence: str) -> str | None:
        """Show why something was refused; the run goes on."""
        with self._lock:
            if not self._opened:
                self._open(self.experiment)
        self.worker.post(message=sentence)
        return self._redraw()

    def choose_dataset(self, name: str) -> str | None:
        """Another dataset, same engine, knobs and seed; a running stream goes on with it."""
        if not isinstance(name, str) or name not in DATASETS:
            raise BadInput(f"There is no dataset {shown(name)}.")
        if name == self.experiment.dataset:
            return self.show()
        return self._change(lambda now: now.but(dataset=name, options={}, points=None))

    def choose_engine(self, name: str) -> str | None:
        """Another engine on the same data and seed. Parks the run of the engine before."""
        if not isinstance(name, str) or name not in ENGINES:
            raise BadInput(f"There is no engine {shown(name)}.")
        if name == self.experiment.engine:
            return self.show()
        self.pause()
        here = self.experiment
        kept = self.worker.checkpoint()
        with self._lock:
            if kept is not None:
                self._parked[here.engine] = (here, kept)
            data = {
                "dataset": here.dataset, "options": here.options,
                "points": here.points, "seed": here.seed,
            }  # fmt: skip
            before, saved = self._parked.pop(name, (None, None))
            if before is None:
                wanted = self._acceptable(Experiment(ENGINES[name].opens_on, name), data)
            else:
                wanted = self._acceptable(before, data)
            self._undo.clear()
            same = before is not None and wanted == before
            self._open(wanted, saved if same else None)
        return self._redraw()

    @staticmethod
    def _acceptable(experiment: Experiment, data: dict[str, Any]) -> Experiment:
        """The experiment on the present data, or on its own where that cannot be."""
        try:
            return experiment.but(**data)
        except BadInput:
            return experiment

    def choose_family(self, family: str) -> str | None:
        """A tab: its engine last used, else its first."""
        known = families()
        if not isinstance(family, str) or family not in known:
            raise BadInput(f"There is no tab {shown(family)}.")
        return self.choose_engine(self._chosen.get(family, known[family][0]))

    # ------------------------------------------------------------ changes

    def _remember(self) -> None:
        """Keep the present state, so that what restarts the run can be undone."""
        self._saves += 1
        self.worker.post(save=self._saves)
        self._undo.append((self.experiment, self._saves))
        for _, name in self._undo[:-UNDO]:
            self.worker.saves.pop(name, None)
        del self._undo[:-UNDO]

    def stale(self, what: str, turn: Any) -> bool:
        """Whether a newer message of this kind was heard: requests may overtake each other."""
        if isinstance(turn, bool) or not isinstance(turn, (int, float)):
            return False  # one that was not numbered
        if turn < self._turns.get(what, -math.inf):
            return True
        self._turns[what] = turn
        return False

    def set(self, name: str, value: Any, turn: float | None = None) -> str | None:
        """Set a knob of the engine. A value with a lower `turn` than one heard is dropped."""
        kind = ENGINES[self.experiment.engine]
        if not isinstance(name, str) or name not in kind.knobs:
            raise BadInput(f"There is no knob {shown(name)} here.")
        with self._lock:
            if self.stale(name, turn):
                return None
            changed = self.experiment.but(knobs={**self.experiment.knobs, name: value})
            entry = kind.knobs[name]
            if changed == self.experiment:
                return None
            if not (entry.live or entry.view):
                self._remember()
            self.experiment = changed
            self.worker.post(set=(name, changed.knobs[name]))
            self._tell()
        return self._redraw()

    def set_option(self, name: str, value: Any, turn: float | None = None) -> str | None:
        """Set an option of the dataset: new data, so the run begins again."""
        if not isinstance(name, str):
            raise BadInput(f"There is no option {shown(name)} here.")
        if self.stale(f"option {name[:80]}", turn):
            return None
        if name == "source":
            return self._change(lambda now: now.but(source=value, source_options={}))
        return self._change(lambda now: now.but(options={**now.options, name: value}))

    def feed(
        self, experiment: Experiment, undoable: bool = True, measure: bool = True
    ) -> str | None:
        """Other data under the running model, which goes on: a brush, a dragged Gaussian.

        Only the data is taken from `experiment`, so that a knob moved meanwhile stays moved.

        undoable: True at the beginning of a stroke or a drag, False for the rest of it, so
            that one undo takes back all of it.
        measure: False leaves the numbers blank in a paused run, for the answers in between.

        Raises BadInput when the engine or the seed is another, or the data's shape is.
        """
        with self._lock:
            now = self.experiment
            if (experiment.engine, experiment.seed) != (now.engine, now.seed):
                raise BadInput("Only the data can change under a running model.")
            changed = now.but(
                dataset=experiment.dataset, options=experiment.options, points=experiment.points
            )
            now.check_feed(changed)
            if not self._opened:
                self._open(changed)
            elif changed != now:
                if undoable:
                    self._remember()
                self.experiment = changed
                self.worker.post(feed=changed.to_json())
                self._tell()
        return self._redraw(measure)

    def set_beside(self, labels: list[str]) -> str | None:
        """Run the named comparisons of the engine in lockstep beside the present settings."""
        offered = ENGINES[self.experiment.engine].compare
        if not isinstance(labels, list) or not all(
            isinstance(label, str) and label in offered for label in labels
        ):
            raise BadInput(f"There is no comparison {shown(labels)} here.")
        return self._change(lambda now: now.but(beside=[offered[label] for label in labels]))

    def beside_labels(self) -> list[str]:
        offered = ENGINES[self.experiment.engine].compare
        return [k for k, v in offered.items() if dict(v) in list(self.experiment.beside)]

    def act(
        self,
        name: str,
        arguments: dict[str, Any],
        turn: float | None = None,
        begin: bool = True,
        end: bool = True,
    ) -> str | None:
        """One of the engine's actions: a button, or a drag on the picture.

        A drag is many messages: one with a lower `turn` than one heard is dropped, `begin`
        and `end` say which are its first and its last. One that drags data feeds the run.
        """
        kind = ENGINES[self.experiment.engine]
        if not isinstance(name, str) or name not in kind.actions:
            raise BadInput(f"There is no action {shown(name)} here.")
        if not isinstance(arguments, dict):
            raise BadInput("An action's arguments are numbers by name.")
        # a handle tells its number, too; an action gets what it takes
        entry = kind.actions[name]
        if self.stale(f"action {name}", turn):
            return None
        arguments = {k: v for k, v in arguments.items() if k in entry.takes}
        if entry.data:
            return self.feed(self.experiment.acted(name, arguments), begin, end)
        self.worker.post(act=(name, arguments))
        return self._redraw(end)

    def carry_out(self, name: Any, arguments: Any) -> dict[str, Any]:
        """One of the engine's actions, for a program: the answer is where the run stands."""
        entry = ENGINES[self.experiment.engine].actions.get(name) if isinstance(name, str) else None
        if entry is not None and entry.data and isinstance(arguments, dict):
            self.feed(self.experiment.acted(name, arguments))
            return self.ask("numbers")
        return self.ask("act", name=name, arguments=arguments)

    def reset(self) -> str | None:
        """Back to step 0 with the same seed."""
        with self._lock:
            self._remember()
            self.worker.post(restart=None)
            self._tell()
        return self._redraw()

    def branch(self, step: Any) -> str | None:
        """Go on from the kept moment nearest to a step, with the knobs of now; undoable."""
        if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 <= step < 1e12:
            raise BadInput(f"A branch begins at a step; got {shown(step)}.")
        with self._lock:
            if self.worker.timeline.moments:  # else there is nothing to branch from, nor to undo
                self._remember()
            self.worker.post(branch=int(step))
        return self._redraw()

    def set_seed(self, seed: int) -> str | None:
        """Begin again from another seed."""
        return self._change(lambda now: now.but(seed=seed))

    def new_seed(self) -> str | None:
        """Begin again from the next seed."""
        return self._change(lambda now: now.but(seed=(now.seed + 1) % MAX_SEED))

    def _change(self, change: Callable[[Experiment], Experiment], note: str = "") -> str | None:
        """Open what `change` makes of the present experiment, in one piece."""
        with self._lock:
            changed = change(self.experiment)
            if self._opened:
                self._remember()
            self._open(changed, note=note)
        return self._redraw()

    def undo(self) -> str | None:
        """Take back the last change that restarted the run, with the training it had."""
        with self._lock:
            if not self._undo:
                self.worker.post(message="There is nothing to undo.")
            else:
                experiment, name = self._undo.pop()
                self._open(experiment, self.worker.saves.pop(name, None))
        return self._redraw()

    # ------------------------------------------------------------ playing

    def play(self, turn: float | None = None) -> Iterator[str]:
        """Train and yield frames until paused."""
        yield from self._relay(None, turn)

    def step(self, steps: int, turn: float | None = None) -> Iterator[str]:
        """Train for exactly so many steps; stops a stream that is playing."""
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
            raise BadInput(f"Between 1 and {MAX_STEPS:,} steps can be taken; got {shown(steps)}.")
        yield from self._relay(steps, turn)

    def _relay(self, steps: int | None, turn: float | None) -> Iterator[str]:
        with self._lock:
            if not self._opened:
                self._open(self.experiment)
            overtaken = steps is None and self.stale("play", turn)
        if overtaken:  # by a Pause that was clicked after it
            if (frame := self._redraw()) is not None:
                yield frame
            return
        for frame, _ in self.worker.stream(steps):
            if frame is not None:
                yield frame

    def pause(self, turn: float | None = None) -> None:
        if not self.stale("play", turn):
            self.worker.stop()

    def train(self, steps: int, seconds: float) -> Iterator[dict[str, Any]]:
        """Train without pictures and yield where the run stands (app/answers.py)."""
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
            raise BadInput(f"Between 1 and {MAX_STEPS:,} steps can be taken; got {shown(steps)}.")
        self.show()
        try:
            yield from self.worker.train(steps, seconds)
        finally:
            self.used = time.monotonic()  # it was under way for long, and is asked of next

    def ask(self, what: str, **arguments: Any) -> Any:
        """A question that the run answers between two steps (app/answers.py)."""
        self.show()
        return self.worker.ask(what, **arguments)

    def restore(self, saved: bytes) -> None:
        """Take over a checkpoint, with the experiment in it; Undo goes back."""
        self.show()
        with self._lock:
            self._remember()
            try:
                found = self.worker.ask("restore", saved=saved)
            except BadInput:
                self.worker.saves.pop(self._undo.pop()[1], None)
                raise
            self.experiment = Experiment.from_dict(found)
            self._chosen[self.family] = self.experiment.engine
            self._opened += 1
            self._tell()

    def set_speed(self, speed: str) -> None:
        if speed not in SPEEDS:
            raise BadInput(f"Speed must be one of {', '.join(SPEEDS)}; got {shown(speed)}.")
        self.worker.post(speed=speed)

    def choose_gpu(self) -> str | None:
        """Play on a GPU that the Space lends, or no longer; where none is lent, nothing changes."""
        if isinstance(self.worker, zero.ZeroWorker):
            self.worker.choose()
        return self._redraw()

    def close(self) -> None:
        """The visitor left: stop, and let go of everything."""
        self._parked.clear()
        self._undo.clear()
        self.worker.leave()

    # ------------------------------------------------------------ what the page shows

    def controls(self) -> dict[str, Any]:
        """The engine's knobs with their values, its actions and comparisons."""
        kind, data = ENGINES[self.experiment.engine], self.experiment.data_kind
        # a change of what means nothing on these data would be no change
        offered = [
            label for label, changes in kind.compare.items()
            if any(kind.knobs[name].suits(data) for name in changes)
        ]  # fmt: skip
        return {
            "key": f"engine {kind.name} on {data}",
            "where": "engine",
            "engines": self.engines(),
            "knobs": [
                {**entry.spec(), "value": self.experiment.knobs[name]}
                for name, entry in kind.knobs.items()
                if entry.kind != "payload" and entry.suits(data)
            ],
            "actions": [a.spec() for a in kind.actions.values() if not a.takes],
            "compare": {"offered": offered, "chosen": self.beside_labels()},
            "seed": self.experiment.seed,
            "heard": {k: n for k, n in self._turns.items() if k in kind.knobs},
            "beside": [dict(changes) for changes in self.experiment.beside],
        }

    def engines(self) -> dict[str, Any]:
        """The engines of this tab to choose from, name and title; none where there is one."""
        names = families()[self.family]
        offered = [[name, ENGINES[name].title, ENGINES[name].tagline] for name in names]
        return {
            "offered": offered if len(offered) > 1 else [],
            "chosen": self.experiment.engine,
        }

    def sources(self) -> list[dict[str, Any]]:
        """The control that says which dataset the model comes from; none where it takes none."""
        here = self.experiment
        kind, chosen = ENGINES[here.engine], here.source
        if kind.comes_from is None:
            return []
        shape = here.make_dataset().shape
        others = {name: dataset() for name, dataset in DATASETS.items()}
        names = tuple(
            n for n, d in others.items() if d.shape == shape and kind.accepts_source(d) is None
        )
        if kind.comes_from == NOISE:
            names, chosen = (NOISE, *names), chosen or NOISE
        if len(names) < 2:
            return []
        entry = Knob(
            chosen, name="source", kind="choice", choices=names, label="Comes from",
            help="The data that the model starts out from; the data above are where it goes.",
        )  # fmt: skip
        return [{**entry.spec(), "value": chosen}]

    def data_controls(self) -> dict[str, Any]:
        """The dataset's options with their values."""
        dataset = DATASETS.get(self.experiment.dataset)
        knobs = dataset.knobs if dataset else {}
        sources = self.sources()
        return {
            "key": f"dataset {self.experiment.dataset}{' from another' * bool(sources)}",
            "where": "dataset",
            "knobs": sources
            + [
                {**entry.spec(), "value": self.experiment.options[name]}
                for name, entry in knobs.items()
                if entry.kind != "payload"  # those have an editor, not a control
            ],
            "actions": [],
            "heard": {
                name: n for name in [*knobs, "source"] if (n := self._turns.get(f"option {name}"))
            },
        }


def plain(value: dict[str, Any]) -> str:
    """JSON for a component of the page."""
    return json.dumps(value)
