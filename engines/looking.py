"""Looking at a run: its pictures and numbers, beside a stream of frames or all at once.

While frames stream, pictures, the density and numbers each have a share of the wall time. What is
due longest comes first; what is dear is made in pieces, with less effort, or more seldom, so that
no frame is late and training keeps the most of the machine. A fresh frame has everything in full,
unless less effort is asked for.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np

from engines import pictures
from engines.lanes import Lane
from engines.marks import Curves, Metric, Panel
from engines.pace import Budget, Pieces, move, shares
from engines.probes import OWN, Survey
from engines.quantise import settle
from engines.rival import rival

if TYPE_CHECKING:
    from engines.run import Run

LATE = 4.0  # seconds after which a picture says which step it is of, if that is long past
LONGEST = 0.025  # seconds that one picture may take, or else it is made with less effort
QUICK = 0.012  # seconds in which one may be made at once, though it has pieces
SLICE = 0.03  # seconds after which a frame waits for no further picture
MOVE, PART = 0.006, 0.08  # seconds a frame for what is made in pieces, or a part of its period
DEAR = 0.03  # seconds from which on numbers are made in pieces
ROUND = 6.0  # seconds from one round of dear numbers to the next, for which rows are given up
SMALL = 0.006  # seconds that no ladder is asked to save
OFTEN = {"large": 3.0, "small": 1.0, "wide": 1.0}  # times a second that pictures should be drawn


def related(panels: Iterable[Panel], panel: Panel) -> list[Panel]:
    """A panel and those of the same basis."""
    return [p for p in panels if p.id == panel.id or (p.basis and p.basis == panel.basis)]


class Job:
    """Pictures of one basis in the making, of the model as it stood at the beginning.

    Attributes:
        of: what tells the state of the model from others (`Lane.model_key`).
        cost: seconds spent so far.
    """

    def __init__(self, lane: Lane, panel: Panel) -> None:
        begin, self.of, self.step = time.perf_counter(), lane.model_key, lane.engine.step_count
        shown = copy.copy(lane)
        shown.engine = lane.engine.snapshot()
        shown.engine._effort = lane.ladders[panel.basis or panel.id].effort
        with shown.engine.still():
            self._here = shown.engine.view_rng.get_state()
        found = {p.id: p for p in [*pictures.shared(shown), *shown.engine.panels()]}
        self._engine = shown.engine
        self._work = self._all(related(found.values(), panel))
        self.cost = time.perf_counter() - begin

    def _all(self, panels: list[Panel]) -> Pieces[list[Panel]]:
        out = []
        for panel in panels:
            self._engine.view_rng.set_state(self._here)
            out.append(settle((yield from panel.drawing())))
        return out

    def advance(self, seconds: float) -> list[Panel] | None:
        """Go on for so long; the pictures once they are there."""
        begin = time.perf_counter()
        done, made = move(self._work, seconds)
        self.cost += time.perf_counter() - begin
        return made if done else None


class Looking:
    """Draws and measures for one Run.

    Attributes:
        spent: seconds that pictures and numbers took since it was set to 0.
    """

    def __init__(self, run: Run) -> None:
        self.late: dict[int, int] = {}  # see Frame
        self.run, self.spent, self._at, self._move = run, 0.0, 0.0, MOVE
        self._turn = 0  # by turns, pictures made in pieces and those made at once
        self._shares = shares(run.engine.dear)
        self._panels, self._numbers = Budget(self._shares.panels), Budget(self._shares.numbers)

    # ------------------------------------------------------------ numbers

    def measure(self, fresh: bool) -> None:
        """Work out the metrics that are due, or all. A number is redone only for another model."""
        now = time.perf_counter()
        self._numbers.share = self._shares.numbers * self.run.part
        waiting = []
        for lane in self.run.lanes:
            key = lane.model_key
            late = (now - lane.probed_at.get("", -np.inf)) / self._pause(lane)
            if fresh or (late > 1 and lane.own_cost <= DEAR):
                self._own(lane, now, fresh)
            elif late > 1:
                waiting.append((late, lane, OWN, key))
            for probe in lane.probes:
                late = (now - lane.probed_at.get(probe.name, -np.inf)) * probe.hz
                if lane.probed_key.get(probe.name) != key and (fresh or late >= 1):
                    waiting.append((late, lane, probe, key))
        waiting.sort(key=lambda item: item[0], reverse=True)
        for lane in self.run.lanes:
            if fresh or (lane.survey and lane.survey.of[1:] != lane.model_key[1:]):
                lane.survey = None
        for _, lane, probe, key in waiting:
            if not fresh and not self._numbers.open(now):
                break
            if not fresh and (self._dear(lane) or probe is OWN):
                if lane.survey is None:
                    wanted = [
                        p.name for _, other, p, _ in waiting
                        if other is lane and (p is OWN or self._dear(lane))
                    ]  # fmt: skip
                    effort = lane.ladders[OWN.name].effort
                    lane.survey = Survey(lane.engine, key, wanted, effort)
                    self._spend(self._numbers, lane.survey.cost, fresh)
                continue
            begin = time.perf_counter()
            with lane.engine.still(stream=1):
                found = probe.compute()
            lane.probe_cost[probe.name] = time.perf_counter() - begin
            self._noted(lane, probe.name, found, key, self.run.step)
            self._spend(self._numbers, lane.probe_cost[probe.name], fresh)
        for lane in self.run.lanes:
            if fresh:
                lasts = sum(lane.probe_cost.values()) * len(self.run.lanes) / self._numbers.share
                lane.ladders[OWN.name].begin(lasts / ROUND)
            elif lane.survey is not None and self._numbers.open(now):
                self._go_on(lane)
        self._sorted()

    def _pause(self, lane: Lane) -> float:
        """Seconds between two looks at the engine's own numbers: they are cheap, but on a busy
        machine four times a second would leave nothing for the others."""
        return max(0.25, lane.own_cost / (self._numbers.share / 3))

    def _own(self, lane: Lane, now: float, fresh: bool) -> None:
        begin = time.perf_counter()
        with lane.engine.still(stream=1):
            found = lane.engine.metrics()
        self._noted(lane, OWN.name, found, lane.model_key, self.run.step)
        lane.probed_at[OWN.name], lane.own_cost = now, time.perf_counter() - begin
        self._spend(self._numbers, lane.own_cost, fresh)

    @staticmethod
    def _dear(lane: Lane) -> bool:
        """Whether numbers are made in pieces: where one of them held up a frame, or would."""
        return max(lane.probe_cost.values(), default=1.0) > DEAR

    def _go_on(self, lane: Lane) -> None:
        survey, before = lane.survey, lane.survey.cost
        if (made := survey.advance(self._move)) is not None:
            name, found = made
            self._noted(lane, name, found, survey.of, survey.step)
            lane.engine.adopt(survey.engine)
            if survey.over:
                lane.survey = None
                lasts = survey.cost * len(self.run.lanes) / self._numbers.share
                lane.ladders[OWN.name].judge(dear=lasts > ROUND, roomy=lasts < 0.4 * ROUND)
        self._spend(self._numbers, survey.cost - before, fresh=False)

    def _noted(self, lane: Lane, name: str, found: list[Metric], key, step: int) -> None:
        if name == OWN.name:
            for gone in lane.own - {metric.name for metric in found}:
                lane.metrics.pop(gone, None)  # what a knob has taken away says nothing now
            lane.own = {metric.name for metric in found}
        for metric in found:
            lane.note(metric, step)
        lane.probed_at[name], lane.probed_key[name] = time.perf_counter(), key

    def _sorted(self) -> None:
        beaten = rival(self.run.pool)
        for lane in self.run.lanes:
            for metric in lane.metrics.values():
                metric.rival = beaten.get(metric.name)
            # the page shows them in the order of the probes, whichever came first
            order = {name: i for i, name in enumerate(n for p in lane.probes for n in p.names)}
            lane.metrics = dict(
                sorted(lane.metrics.items(), key=lambda item: order.get(item[0], len(order)))
            )

    def _spend(self, budget: Budget, seconds: float, fresh: bool) -> None:
        # what was asked for at rest is no debt: the stream would stand still until it is paid
        if not fresh:
            budget.spend(seconds)
        self.spent += seconds

    # ------------------------------------------------------------ pictures

    def draw(
        self, fresh: bool, hidden: Collection[str], settled: bool, effort: float = 1.0
    ) -> list[Panel]:
        """The panels of all lanes; those that are due are drawn anew, fresh ones with `effort`."""
        now, begun = time.perf_counter(), self.spent
        self._panels.share = self._shares.panels * self.run.part
        self._move = min(max(MOVE, PART * (now - self._at)), LONGEST)
        self._at, wanted = now, []
        for lane in self.run.lanes:
            lane.fresh = fresh
            if fresh or (lane.job and lane.job.of[1:] != lane.model_key[1:]):
                lane.job = None
            if not fresh:
                shown = lane.density.step
                self.spent += lane.density.advance(
                    lane.density_key, 2 * self._move, len(self.run.lanes) / self.run.part
                )
                if lane.density.step != shown:
                    self._renew(lane)
            wanted += [(lane, panel) for panel in self._listed(lane, hidden)]
        for lane in self.run.lanes:  # before it is looked who is due: what is done now is not
            if lane.job is not None and self._turn % 2 == 0 and self._panels.open(now):
                self._continue(lane, now)
                self._turn += 1
        must, due = [], []
        for lane, panel in wanted:
            kept = lane.panels.get(panel.id)
            stands = settled and kept and not all(isinstance(m, Curves) for m in kept.marks)
            waited = now - lane.drawn_at.get(panel.id, -np.inf)
            if not kept or (fresh and not stands):
                must.append((lane, panel))
            elif not stands and waited * panel.hz >= 1:
                # by seconds waited, not by turns missed: on a busy machine the quick large
                # panels would take every turn, and the small ones stand still
                due.append((waited * (3 if panel.size == "large" else 1), lane, panel))
        for lane, panel in must:
            self._draw(lane, panel, now, fresh, effort)
            lane.job = None
        made: set[tuple[int, str]] = set()  # bases of the pictures that were drawn
        for _, lane, panel in sorted(due, key=lambda item: item[0], reverse=True):
            # a curve costs next to nothing, and shall not wait for the fields
            cheap = lane.panel_cost.get(panel.id, 1.0) < 0.001
            late = self.spent - begun > SLICE
            if (lane.index, panel.basis) not in made and (
                late or not (cheap or self._panels.open(now))
            ):
                continue
            if self._in_pieces(lane, panel):
                if lane.job is None:
                    lane.job = Job(lane, panel)
                    self._spend(self._panels, lane.job.cost, fresh)
                continue
            self._draw(lane, panel, now, fresh)
            self._turn += not cheap
            if panel.basis:
                made.add((lane.index, panel.basis))
        if self._panels.open(now):
            self._turn = 0
        behind = (self._behind(lane, panel.id, now) for lane, panel in wanted)
        self.late = {i: step for i, step in enumerate(behind) if step is not None}
        return [lane.panels[panel.id] for lane, panel in wanted]

    def _behind(self, lane: Lane, name: str, now: float) -> int | None:
        """The step that a picture is of, if that is long past."""
        shown, step, at = lane.panels[name], lane.drawn_step[name], lane.drawn_at[name]
        if shown.renew is not None or name == "error":
            # a density alone says it in its caption, for which there is no room side by side
            step, at = lane.density.step if len(self.run.lanes) > 1 else None, -math.inf
        if step is None or all(mark.static for mark in shown.marks):
            return None
        old = self.run.step - step > max(30, 0.2 * self.run.step)  # as numbers have it
        return step if old and now - at >= LATE else None

    @staticmethod
    def _renew(lane: Lane) -> None:
        """Put a new density into the pictures that have one; their samples come in their own time."""
        for name, panel in lane.panels.items():
            if panel.renew is not None:
                lane.panels[name] = fresh = dataclasses.replace(panel)
                panel.renew(fresh)
                settle(fresh)

    @staticmethod
    def _in_pieces(lane: Lane, panel: Panel) -> bool:
        """Whether a picture, with those of its basis, is too dear to be made at once: unless it
        was found to be quick when nothing that it shows had been worked out for a number before."""
        return panel.cut and lane.work_cost.get(panel.basis or panel.id, np.inf) > QUICK

    def _continue(self, lane: Lane, now: float) -> None:
        job, before = lane.job, lane.job.cost
        if (made := job.advance(self._move)) is not None:
            for panel in made:
                if (old := lane.panels.get(panel.id)) is not None:  # else hidden since
                    panel.lane, panel.title = old.lane, old.title
                    lane.panels[panel.id], lane.drawn_at[panel.id] = panel, now
                    lane.drawn_step[panel.id] = lane.job.step
                    lane.panel_cost[panel.id] = 0.0
            lane.panel_cost[made[0].id] = job.cost
            lane.work_cost[made[0].basis or made[0].id] = job.cost
            self._judge(lane, made[0], job.cost, fresh=False)
            lane.job = None
        self._spend(self._panels, job.cost - before, fresh=False)

    def _listed(self, lane: Lane, hidden: Collection[str]) -> list[Panel]:
        """The panels of a lane that are not hidden, in their order, their marks not yet made."""
        own = lane.engine.panels()
        # an engine's own picture takes the place of the shared one of its id
        mine = {panel.id: panel for panel in own}
        both = [mine.pop(panel.id, panel) for panel in pictures.shared(lane)]
        rest, owned = [panel for panel in own if panel.id in mine], {id(p) for p in own}
        out = []
        for panel in sorted([*both, *rest], key=lambda panel: not panel.first):
            panel.lane = lane.index
            # a shared picture without a name of a lane, like the data's, is of all
            theirs = id(panel) in owned and lane.label and len(self.run.lanes) > 1
            if theirs and lane.label not in panel.title:
                panel.title = f"{panel.title} · {lane.label}"
            if panel.id in hidden:
                lane.panels.pop(panel.id, None)
            else:
                out.append(panel)
        return out

    def _draw(self, lane: Lane, panel: Panel, now: float, fresh: bool, effort: float = 1.0) -> None:
        ladder = lane.ladders[panel.basis or panel.id]
        begin, waited = time.perf_counter(), lane.density.waited
        with lane.engine.still(), lane.engine.easy(effort if fresh else ladder.effort):
            lane.panels[panel.id] = settle(panel.drawn())
        cost = time.perf_counter() - begin
        waited = lane.density.waited - waited
        lane.drawn_at[panel.id], lane.panel_cost[panel.id] = now, cost
        lane.drawn_step[panel.id] = lane.engine.step_count
        if fresh:
            lane.full_cost[panel.id] = cost / effort
        self._spend(self._panels, cost, fresh)
        self._judge(lane, panel, (cost - waited) / (effort if fresh else 1.0), fresh)

    def _judge(self, lane: Lane, panel: Panel, cost: float, fresh: bool) -> None:
        """Let a picture's ladder go down or up, by what it cost and by what all of them cost."""
        ladder = lane.ladders[panel.basis or panel.id]
        if fresh:
            ladder.begin(cost / LONGEST)
            return
        load = sum(
            lane.panel_cost.get(p.id, 0.0) * min(p.hz, OFTEN[p.size]) for p in lane.panels.values()
        ) * len(self.run.lanes)
        often = min(panel.hz, OFTEN[panel.size])
        crowded = cost > SMALL and load > 2 * self._panels.share
        roomy = 2 * cost < 0.8 * LONGEST and load + cost * often < self._panels.share
        ladder.judge(dear=cost > LONGEST or crowded, roomy=roomy)
