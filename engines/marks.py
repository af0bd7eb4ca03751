"""The small closed alphabet that every picture is spelled in.

A Panel has a title, axes and marks; a mark is a dataclass of numpy arrays, or of what a GPU has
made of its tensors (engines/quantise.py). Engines say *what* to show; only the view (app/pack.py,
assets/live/) knows how one is drawn.

Roles carry the colour, and one colour means one thing on every tab:
data, model, density, generator, discriminator, score, noise, lost, truth, plain.

A mark with keyframes has a leading time axis in `xy` (Heat: in `values`, Arrows: in `vectors`,
Images: in `pixels`) and `keys`, the (T,) rising values of the panel's slider at which the frames
stand. Between two of them the browser interpolates places, arrows and the values of fields; of
images it shows the last one reached. Before the first key and after the last one it stands still.
A panel without a slider shows the first frame. All frames travel, and so live on in the timeline
and in an exported page: app/pack.py says how many bytes each one costs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from engines.pace import Pieces, finish

AT_REST = "more at rest"  # ends the note of a number that has fewer rows while frames stream

Role = Literal[
    "data",
    "model",
    "density",
    "generator",
    "discriminator",
    "score",
    "noise",
    "lost",
    "truth",
    "plain",
]
MetricKind = Literal["exact", "upper bound", "lower bound", "estimate"]
Box = tuple[float, float, float, float]  # x0, x1, y0, y1


class Mark:
    """Base of all marks. `static` arrays never change within a run and are sent once."""

    static: bool = False


@dataclass
class Heat(Mark):
    """A field on a grid. `values[row, column]`: **cell averages**, row 0 at the bottom.

    scale 'sequential' runs from lo to hi (colour grows with value**gamma), 'diverging' is
    centred on zero and runs from -hi to hi. NaN is drawn as nothing. With `crisp` cells keep
    their edges, however many there are: rows that are things of their own.

    Keyframed: `values` (T, H, W) and `keys` (T,). Values are interpolated linearly, so that a
    density stays one; a cell that is NaN in either frame is nothing between them. Without `hi`
    one scale holds for all frames, up to the largest value in any; a (T,) `hi` gives each frame
    its own, which is interpolated too: for densities that are flat at one end of the slider and
    sharp at the other.
    """

    values: np.ndarray
    box: Box
    role: Role = "density"
    scale: Literal["sequential", "diverging"] = "sequential"
    lo: float = 0.0
    hi: float | np.ndarray | None = None
    gamma: float = 0.5
    label: str = "density"
    unit: str = ""
    crisp: bool = False
    keys: np.ndarray | None = None
    static: bool = False


@dataclass
class Points(Mark):
    """(N, 2) or keyframed (T, N, 2). `group` colours by class; `alpha` in [0, 1] per point."""

    xy: np.ndarray
    role: Role = "model"
    size: float = 2.0
    group: np.ndarray | None = None
    alpha: np.ndarray | None = None
    keys: np.ndarray | None = None
    opacity: float = 0.8
    label: str = ""
    static: bool = False


@dataclass
class Paths(Mark):
    """(P, L, 2): P polylines of L vertices; `tail` fades them towards their beginning.

    `fill` shades what lies between each of them and y = 0.

    `keys` (L,) are not frames but the slider's value at each vertex: of every path only the part
    up to the slider's value is drawn, its last vertex interpolated. They rise, or fall where the
    path runs against the slider: then the part from its beginning down to that value is drawn.
    """

    xy: np.ndarray
    role: Role = "model"
    width: float = 1.0
    tail: bool = False
    fill: bool = False
    opacity: float = 0.6
    label: str = ""
    keys: np.ndarray | None = None
    static: bool = False


@dataclass
class Arrows(Mark):
    """(N, 2) feet and (N, 2) vectors in data units, as they are to be drawn.

    Keyframed: `keys` (T,) with (T, N, 2) vectors, over feet that stay (N, 2) or move (T, N, 2).
    Both are interpolated linearly; an arrow that is NaN in either frame is not there between them.
    """

    xy: np.ndarray
    vectors: np.ndarray
    role: Role = "score"
    opacity: float = 0.9
    label: str = ""
    keys: np.ndarray | None = None
    static: bool = False


@dataclass
class Mesh(Mark):
    """A warped grid: (R, C, 2) vertices or keyframed (T, R, C, 2).

    `fade` lets the opacity of a cell fall as its area grows against the median cell. Only every
    `every`-th line is drawn, through all vertices on it, so that bent lines are seen bent.
    """

    xy: np.ndarray
    role: Role = "plain"
    fade: bool = True
    every: int = 1
    keys: np.ndarray | None = None
    label: str = ""
    static: bool = False


@dataclass
class Ellipses(Mark):
    """K Gaussians drawn at 1 and 2 standard deviations: mean (K, 2), cov (K, 2, 2).

    Their colours are the role's; with `grouped` each has its own, with `group` (K,) its group's.
    """

    mean: np.ndarray
    cov: np.ndarray
    weight: np.ndarray | None = None
    group: np.ndarray | None = None
    role: Role = "model"
    grouped: bool = False
    label: str = ""
    static: bool = False


@dataclass
class Surface(Mark):
    """z[row, column] over a box, drawn in three dimensions; NaN is a hole.

    Its colours are those of a density and grow with the value; with `down` they grow as it
    falls, so that the valleys of an energy look like what is dense. `label` names the height.
    """

    values: np.ndarray
    box: Box
    label: str = ""
    unit: str = ""
    down: bool = False
    static: bool = False


@dataclass
class Images(Mark):
    """(N, H, W) or keyframed (T, N, H, W) in [0, 1], drawn as a sheet of `columns` columns.

    NaN is a pixel that is not there yet: it is drawn as a faint tint. `tags` (N,) are short
    texts. Keyframes are shown as they are, the last one whose key is at or below the slider's
    value: a mixture of two would be a picture that no model has drawn.
    """

    pixels: np.ndarray
    columns: int = 10
    tags: Sequence[str] | None = None
    label: str = ""
    keys: np.ndarray | None = None
    static: bool = False


@dataclass
class Curve:
    """One line of a Curves mark: x (N,), y (N,); `ghost` is the previous run's."""

    name: str
    x: np.ndarray
    y: np.ndarray
    role: Role = "model"
    dash: bool = False
    ghost: bool = False


@dataclass
class Curves(Mark):
    """Lines over a common axis; `levels` are dashed horizontals: (name, value)."""

    lines: Sequence[Curve]
    levels: Sequence[tuple[str, float]] = ()
    x_label: str = "step"
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    fill: bool = False
    static: bool = False


@dataclass
class Bars(Mark):
    """Named bars; `truth` draws the value each should have, `numbers` writes each on its bar."""

    names: Sequence[str]
    values: np.ndarray
    truth: np.ndarray | None = None
    role: Role = "model"
    y_label: str = ""
    numbers: bool = False
    static: bool = False


@dataclass
class Text(Mark):
    """Tokens in reading order, each coloured by its value in [0, 1] where given."""

    tokens: Sequence[str]
    values: np.ndarray | None = None
    static: bool = False


@dataclass
class Handles(Mark):
    """Draggable points: dragging number i to (x, y) sends `action` with x, y, index."""

    xy: np.ndarray
    action: str
    names: Sequence[str] = ()
    role: Role = "plain"
    static: bool = False


@dataclass
class Slider:
    """A slider under a panel that lives in the browser and runs through keyframes.

    Panels whose sliders have the same `linked` name, in all lanes, move together: one value, cut
    to each one's own range.
    """

    label: str
    low: float
    high: float
    value: float
    ends: tuple[str, str] = ("", "")
    linked: str = ""


@dataclass
class Panel:
    """One picture.

    `marks` may be a function, called when the panel is due: at most `hz` times a second
    while streaming, always when a single frame is asked for; one that yields between pieces of its
    work, and returns the marks, holds up no frame where it is dear. `subtitle` may be a function,
    too, called once the marks are there. `box` gives equal axes over
    the same extent as its neighbours; None leaves the axes to the marks. Without `equal` the
    two axes have units of their own, and the box fills the panel: y is a height over x.
    With `first` it stands before the pictures that all engines share, not after them.
    Panels of the same `basis` show one piece of work, and are drawn in the same frame. `renew` puts
    a new density of the model under what else a drawn panel shows, in place.
    """

    id: str
    title: str
    marks: Sequence[Mark] | Callable[[], Sequence[Mark] | Pieces[Sequence[Mark]]]
    subtitle: str | Callable[[], str] = ""
    box: Box | None = None
    size: Literal["large", "small", "wide"] = "small"
    slider: Slider | None = None
    estimate: bool = False
    hz: float = 30.0
    lane: int = 0
    help: str = ""
    equal: bool = True
    first: bool = False
    basis: str = ""
    renew: Callable[[Panel], None] | None = None

    @property
    def cut(self) -> bool:
        """Whether its marks are worked out in pieces."""
        return inspect.isgeneratorfunction(self.marks)

    def drawn(self) -> Panel:
        """The same panel with its marks worked out."""
        later = callable(self.marks) or callable(self.subtitle)
        return finish(self.drawing()) if later else self

    def drawing(self) -> Pieces[Panel]:
        """`drawn`, in the pieces that `marks` has."""
        out, marks = Panel(**{**self.__dict__, "marks": ()}), self.marks
        if callable(marks):
            yield
            marks = marks()
        if inspect.isgenerator(marks):
            marks = yield from marks
        out.marks = list(marks)
        if callable(out.subtitle):
            out.subtitle = out.subtitle()
        return out


@dataclass
class Metric:
    """A number that says what it is.

    kind: "exact"; "estimate", on either side of the truth; "upper bound", when the truth is this
    or less, and "lower bound", when it is this or more. A bound that is a mean over rows or draws
    holds but for its noise. `se` is the standard error, `floor` what two fresh true samples would
    give (or the ideal value). `rival` is the same number for a kernel estimate
    of the data (see engines/rival.py), and NaN or None where there is none.
    """

    name: str
    value: float
    unit: str = ""
    kind: MetricKind = "estimate"
    se: float | None = None
    floor: float | None = None
    step: int = 0
    label: str = ""
    help: str = ""
    of: int | None = None
    note: str = ""
    lane: int = 0
    rival: float | None = None

    def of_fewer(self, rows: str) -> Metric:
        """The same, saying that it was measured on fewer rows than at rest."""
        self.note = self.note or f"of {rows}; {AT_REST}"
        return self

    @property
    def rough(self) -> bool:
        """Whether it was measured on fewer rows than at rest."""
        return self.note.endswith(AT_REST)


@dataclass
class Frame:
    """What one refresh shows; knows nothing of where it came from.

    late: the steps of those panels, by their places, that show the model as it was a while ago.
    """

    step: int
    seconds: float
    rate: float
    metrics: list[Metric]
    panels: list[Panel]
    note: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    late: dict[int, int] = field(default_factory=dict)
