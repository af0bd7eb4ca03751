"""Run: an Experiment under training, headless.

It trains, draws frames, saves and restores itself; it knows neither page nor pacing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from engines import machine
from engines.base import ENGINES, Engine
from engines.experiment import Experiment
from engines.graphs import Backend, Cuda, Graphs
from engines.knobs import BadInput, shown
from engines.lanes import Lane, Track, lane_label
from engines.looking import Looking
from engines.marks import Frame, Metric
from engines.onlook import Onlooker

MAX_CHECKPOINT = 256 * 2**20


class Diverged(ArithmeticError):
    """Training ran into NaN or infinity. The message says which knob to try."""


class Run:
    """An Experiment under training. Make one with `Experiment.start()`.

    Attributes:
        experiment: what is being run, with every change made since.
        engine: the first lane's engine. `lanes` holds those beside it, too.
        step, seconds: steps taken and seconds spent training.
        diverged: None, or the sentence that says what happened and what to try.
        part: how much of a core it has, at most 1: pictures and numbers keep to their shares of it.
    """

    def __init__(self, experiment: Experiment, device: str = "cpu") -> None:
        self.device, self.graphs, self.onlooker = device, None, None
        self.part = 1.0
        self._adopt(experiment)

    def _adopt(self, experiment: Experiment) -> None:
        self.pool = experiment.make_pool(self.device)
        self.dataset = self.pool.dataset
        self._build(experiment)

    def _build(self, experiment: Experiment) -> None:
        before = getattr(self, "lanes", [])
        self.pool.turn(0)
        kind, lanes = ENGINES[experiment.engine], []
        for index, knobs in enumerate(experiment.lanes()):
            engine = kind(knobs, experiment.seed, self.device)
            engine.start(self.pool)
            lanes.append(Lane(index, engine))
        self.experiment, self.lanes = experiment, lanes
        self._label()
        self.haunt(before)
        self.step, self.seconds, self.diverged = 0, 0.0, None
        self.quickened = ""
        self._last_frame: Frame | None = None
        self._ticks: list[tuple[int, float]] = []
        self._looking = Looking(self)

    def _label(self) -> None:
        """Name the lanes by what tells them apart."""
        kind, beside = ENGINES[self.experiment.engine], self.experiment.beside
        differ = {k: self.experiment.knobs[k] for changes in beside for k in changes}
        for lane, changes in zip(self.lanes, [differ, *beside], strict=True):
            lane.label = lane_label(kind, changes)

    def haunt(self, before: list[Lane]) -> None:
        """Keep the loss curves of the lanes of an earlier run as ghosts of this one's."""
        for lane, earlier in zip(self.lanes, before, strict=False):
            if type(earlier.engine) is type(lane.engine):
                lane.ghosts = dict(earlier.tracks) or earlier.ghosts

    @property
    def engine(self) -> Engine:
        return self.lanes[0].engine

    # ------------------------------------------------------------ training

    def train(self, steps: int | None = None, seconds: float | None = None) -> Run:
        """Train for a number of steps, or of seconds. Raises Diverged on NaN or infinity."""
        if (steps is None) == (seconds is None):
            raise TypeError("train takes steps or seconds, one of them")
        begin, done, looked = time.perf_counter(), 0, 0
        while done < steps if steps is not None else time.perf_counter() - begin < seconds:
            done += self.advance(None if steps is None else steps - done)
            if done - looked >= 200:
                looked = done
                self._flush()
                if self.diverged:
                    break
        self._flush()
        if self.diverged:
            raise Diverged(self.diverged)
        return self

    def advance(self, most: int | None = 1) -> int:
        """One training step in every lane, or by CUDA graphs (`by_graphs`) several, but at most
        `most`; returns how many."""
        begin, taken = time.perf_counter(), 1
        if self.graphs is not None:
            taken = self.graphs.advance(self, most)
        else:
            self.step += 1
            for lane in self.lanes:
                losses = lane.engine.train_step()
                lane.engine.step_count = self.step
                lane.pending.append((self.step, losses))
            self.pool.turn(self.step)
        self.seconds += time.perf_counter() - begin
        return taken

    def by_graphs(self, backend: Backend | None = None) -> Run:
        """From now on take whole steps as CUDA graphs where there is a GPU and the engine allows
        it: the same steps but for rounding. `graphs.why_eager` says why not. On a CPU: nothing."""
        if backend is None and torch.device(self.device).type == "cuda":
            backend = Cuda(self.device)
        self.graphs = Graphs(backend) if backend is not None else None
        if torch.device(self.device).type == "cuda":
            self.onlooker = Onlooker(self.device)
        return self

    def quicken(self, native: bool = True) -> None:
        """For live sessions, as often as one likes: every lane trains the fastest way that is ready,
        the same to rounding: by graphs on a GPU, on a CPU with the products of matrices that suit it
        and in native code, if that is wanted.

        `quickened` is what the page says of it, in a few words.
        """
        if torch.device(self.device).type == "cuda" and self.graphs is None:
            self.by_graphs()
        if self.graphs is not None:
            self.quickened = self.graphs.said
        elif native:
            machine.suit(*(max(getattr(lane.engine, of, 1000) for lane in self.lanes)
                           for of in ("batch", "width")))  # fmt: skip
            said = [lane.engine.quicken() for lane in self.lanes]
            self.quickened = ", ".join(dict.fromkeys(filter(None, said)))

    def _flush(self) -> None:
        finite = [lane.flush() for lane in self.lanes]
        if not all(finite) and not self.diverged:
            self._diverge("a loss is not a finite number")

    def _diverge(self, what: str) -> None:
        self.diverged = f"The run diverged at step {self.step:,}: {what}. {self.engine.if_diverged}"

    # ------------------------------------------------------------ the model

    def sample(self, n: int, lane: int = 0) -> Tensor:
        """n samples (n, dim) of the model, in data units."""
        if not 1 <= n <= 1_000_000:
            raise BadInput(f"Between 1 and 1,000,000 samples can be drawn; got {shown(n)}.")
        with torch.no_grad():
            return self.lanes[lane].engine.sample(n)

    def log_prob(self, x: Any, lane: int = 0) -> Tensor:
        """Log-density (N,) in nats at x (N, dim), in data units.

        Raises NotImplementedError, saying so, for an engine without a density.
        """
        x = torch.as_tensor(x, dtype=torch.float32, device=self.device)
        with torch.no_grad():
            return self.lanes[lane].engine.log_prob(x)

    # ------------------------------------------------------------ changes

    def set(self, name: str, value: Any) -> bool:
        """Set a knob in every lane that shares it. Returns True when the run restarted.

        Live and view knobs act at once; any other training knob rebuilds the engines and
        begins again at step 0 with the same seed.
        """
        kind = ENGINES[self.experiment.engine]
        changed = self.experiment.but(knobs={**self.experiment.knobs, name: value})
        entry = kind.knobs[name]
        if not (entry.live or entry.view):
            self._build(changed)
            return True
        for lane, knobs in zip(self.lanes, changed.lanes(), strict=True):
            setattr(lane.engine, name, knobs[name])
            lane.engine.changed(name)
        self.experiment = changed
        self._label()
        return False

    def feed(self, experiment: Experiment) -> Run:
        """Go on with the data of `experiment`, which differs from the present one only in them.

        Weights, optimisers, step count, generators and curves stay; pictures and numbers are
        made anew. The standardisation stays as well: it is part of the model by now. A run
        that has diverged cannot go on, and begins again. Raises BadInput, and goes on as
        before, when anything but the data differs or the data has another shape.
        """
        self.experiment.check_feed(experiment)
        if self.diverged:
            self._adopt(experiment)
            return self
        self._flush()
        pool = experiment.make_pool(self.device)
        pool.turn(self.step)
        with torch.no_grad():
            for lane in self.lanes:
                lane.feed(pool)
        self.experiment, self.dataset, self.pool = experiment, pool.dataset, pool
        return self

    def act(self, name: str, /, **arguments: float) -> None:
        """Carry out one of the engine's actions in every lane."""
        kind = ENGINES[self.experiment.engine]
        if not isinstance(name, str) or name not in kind.actions:
            raise BadInput(f"There is no action {shown(name)} here.")
        entry = kind.actions[name]
        entry.check(arguments)
        if entry.data:
            self.feed(self.experiment.acted(name, arguments))
            return
        for lane in self.lanes:
            getattr(lane.engine, name)(**arguments)
            lane.acts += 1

    def restart(self, seed: int | None = None) -> None:
        """Back to step 0, with the same seed or another one."""
        if seed is None:
            self._build(self.experiment)
        else:
            self._adopt(self.experiment.but(seed=seed))

    # ------------------------------------------------------------ frames

    def measure(self, fresh: bool = True) -> list[Metric]:
        """The metrics of all lanes, without pictures.

        fresh: work out every one now. Otherwise each at most at its own rate, within a share
        of the wall time. A run that has diverged keeps the numbers it had.
        """
        if self.onlooker is not None and not self.onlooker.looking:
            with self.onlooker.look(self):
                return self.measure(fresh)
        self._flush()
        self._check()
        if not self.diverged:
            with torch.no_grad():
                self._looking.measure(fresh)
        return [m for lane in self.lanes for m in lane.metrics.values()]

    def _check(self) -> None:
        # a step may ruin the weights while its own loss was still finite
        if not self.diverged and not all(lane.engine.finite() for lane in self.lanes):
            self._diverge("a weight is not a finite number")

    def frame(
        self,
        fresh: bool = True,
        hidden: Collection[str] = (),
        measure: bool = True,
        settled: bool = False,
        ahead: int = 0,
        effort: float = 1.0,
    ) -> Frame:
        """What the browser would be shown.

        fresh: work out every panel and every metric. Otherwise each is redrawn at most at
        its own rate, the most overdue first, within a share of the wall time, so that a
        stream of frames stays even and training keeps the most of the machine.
        hidden: ids of panels that nobody sees; they are left out.
        measure: False leaves the metrics as they are.
        settled: the pictures were drawn afresh just before and the model has not changed since:
            only curves are drawn again, since numbers are on them.
        ahead: about so many steps are taken on the device meanwhile, where they are CUDA graphs.
        effort: a power of ½; less than 1 makes fresh pictures coarser, where many wait for them.
        """
        if self.onlooker is not None and not self.onlooker.looking:
            with self.onlooker.look(self, ahead):
                return self.frame(fresh, hidden, measure, settled, effort=effort)
        self._flush()
        self._looking.spent = 0.0
        self._check()
        if self.diverged and self._last_frame is not None:
            self._last_frame.note = self.diverged
            return self._last_frame
        with torch.no_grad():
            if measure:
                self._looking.measure(fresh)
            panels = self._looking.draw(fresh, hidden, settled, effort)
        metrics = [m for lane in self.lanes for m in lane.metrics.values()]
        self._last_frame = Frame(
            self.step, self.seconds, self.rate(), metrics, panels, self.diverged or "",
            late=self._looking.late,
        )  # fmt: skip
        return self._last_frame

    @property
    def keys(self) -> tuple[Any, ...]:
        """Others for every state of the models and every setting of them."""
        return id(self.pool), *(lane.model_key for lane in self.lanes)

    @property
    def drawing(self) -> float:
        """Seconds that all pictures take in full."""
        return sum(cost for lane in self.lanes for cost in lane.full_cost.values())

    @property
    def budgeted(self) -> float:
        """Seconds of the last frame that went to pictures and numbers."""
        return self._looking.spent

    def rate(self) -> float:
        """Steps per second of training over the last second or so."""
        self._ticks.append((self.step, self.seconds))
        while len(self._ticks) > 2 and self._ticks[-1][1] - self._ticks[0][1] > 1.0:
            self._ticks.pop(0)
        steps = self._ticks[-1][0] - self._ticks[0][0]
        seconds = self._ticks[-1][1] - self._ticks[0][1]
        return steps / seconds if seconds > 0 else 0.0

    # ------------------------------------------------------------ checkpoints

    def checkpoint(self) -> bytes:
        """The whole run as bytes, without pickle: safetensors with the Experiment inside."""
        self._flush()
        tensors: dict[str, Tensor] = {}
        meta: dict[str, Any] = {
            "experiment": self.experiment.to_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "lanes": [],
        }
        for lane in self.lanes:
            arrays, plain = lane.engine.state()
            tensors.update({f"{lane.index}:{key}": value for key, value in arrays.items()})
            tracks = {
                kind: {name: track.dump() for name, track in getattr(lane, kind).items()}
                for kind in ("tracks", "metric_tracks")
            }
            meta["lanes"].append({"plain": plain, **tracks})
        text = json.dumps(meta).encode()
        tensors["meta"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return safetensors.torch.save(tensors)

    def branch(self, saved: bytes) -> Run:
        """Go back to a checkpoint of this run, but keep the knobs and the data of now.

        The curves that are given up stay as ghosts. Raises BadInput, and goes on as before,
        if it is no checkpoint of such a run.
        """
        now, given_up = self.experiment, self.lanes
        tensors, meta = _unpacked(saved)
        if meta["experiment"].get("engine") != now.engine or len(meta["lanes"]) != len(self.lanes):
            raise BadInput("This checkpoint belongs to another experiment.")
        before = dict(vars(self))
        try:
            self._build(now)
            self._load(tensors, meta)
        except Exception as error:
            vars(self).clear()
            vars(self).update(before)
            self.pool.turn(self.step)
            raise BadInput("This checkpoint belongs to another experiment.") from error
        self.haunt(given_up)
        return self

    def restore(self, saved: bytes) -> Run:
        """Take over a checkpoint. Raises BadInput, and goes on as before, if it is not one."""
        tensors, meta = _unpacked(saved)
        before = dict(vars(self))
        try:
            experiment = Experiment.from_dict(meta["experiment"])
            if experiment.to_dict() != self.experiment.to_dict():
                self._adopt(experiment)
            else:
                self._build(experiment)
            self._load(tensors, meta)
        except Exception as error:
            vars(self).clear()
            vars(self).update(before)
            self.pool.turn(self.step)
            if isinstance(error, BadInput):
                raise
            raise BadInput("That is not a checkpoint, or it is damaged.") from error
        return self

    def _load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Fill the lanes, which are built already, with what a checkpoint holds."""
        for lane, kept in zip(self.lanes, meta["lanes"], strict=True):
            head = f"{lane.index}:"
            own = {k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)}
            lane.engine.load_state(own, kept["plain"])
            for kind in ("tracks", "metric_tracks"):
                for name, track in kept[kind].items():
                    getattr(lane, kind)[name] = Track.load(track)
        self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
        self.pool.turn(self.step)


def _unpacked(saved: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint. Raises BadInput if it is not one."""
    if not isinstance(saved, (bytes, bytearray)) or len(saved) > MAX_CHECKPOINT:
        raise BadInput("That is not a checkpoint.")
    try:
        tensors = safetensors.torch.load(bytes(saved))
        meta = json.loads(tensors.pop("meta").numpy().tobytes())
        if isinstance(meta["experiment"], dict) and isinstance(meta["lanes"], list):
            return tensors, meta
    except Exception as error:
        raise BadInput("That is not a checkpoint, or it is damaged.") from error
    raise BadInput("That is not a checkpoint, or it is damaged.")
