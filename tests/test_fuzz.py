"""Ten thousand experiments from hostile and half-right hands.

Whatever arrives, by address, JSON, the page's events, the API or an upload, ends in an
Experiment whose run takes a step, or in BadInput with one clear sentence; and the run that
was there goes on as if nothing had been said. `pytest tests/test_fuzz.py -m slow -s` prints how
many examples were truly run.
"""

from __future__ import annotations

import inspect
import json
import re
import zlib
from collections import Counter
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api import endpoints
from app.session import Session
from app.share import from_hash
from app.visitors import Visitors
from engines import ENGINES, BadInput, Experiment
from engines.knobs import LISTED, listed
from tests.arrivals import addresses, anything, half_right, inside, plain, texts

QUICK = {"address": 100, "json": 100, "session": 50, "api": 50, "upload": 30}
FULL = {"address": 3500, "json": 3500, "session": 1500, "api": 1500, "upload": 1000}
assert sum(FULL.values()) - FULL["upload"] == 10_000
RAN, TOLD = Counter(), Counter()  # examples by kind; what became of them
ONE_IN = 13  # accepted experiments of which one is trained for a step

both = pytest.mark.parametrize(
    "size", [QUICK, pytest.param(FULL, marks=pytest.mark.slow)], ids=["quick", "full"]
)


def fuzz(kind: str, size: dict[str, int], check: Any, *strategies: Any) -> None:
    """Run `check` on so many examples, the same ones every time."""
    RAN[kind] = 0

    @settings(
        max_examples=size[kind], derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @given(st.tuples(*strategies))
    def body(arguments: tuple) -> None:
        RAN[kind] += 1
        check(*arguments)

    body()
    print(f"\n{kind}: {RAN[kind]:,} examples; so far {dict(TOLD)}")
    assert RAN[kind] >= size[kind]


def clear(sentence: str) -> None:
    """One sentence that may be shown to anybody."""
    assert sentence.endswith("."), sentence
    assert len(sentence) <= 300, sentence
    assert "\n" not in sentence and "\r" not in sentence
    assert "Traceback" not in sentence and "Something went wrong" not in sentence, sentence
    assert not re.search(r"\bat 0x[0-9a-fA-F]+|<class |<function ", sentence), sentence
    sentence.encode()  # half a surrogate pair could not be sent


# ---------------------------------------------------------------- address and JSON


def accepted(found: Experiment) -> None:
    """It is one, it survives the journey, and now and then its run takes a step."""
    assert isinstance(found, Experiment)
    text = found.to_json()
    assert Experiment.from_json(text).to_json() == text
    TOLD["accepted"] += 1
    if zlib.crc32(text.encode()) % ONE_IN == 0:
        run = found.start("cpu")
        run.advance()
        assert run.step == 1
        assert all(torch.isfinite(x).all() for x in run.lanes[0].pending[0][1].values())
        TOLD["trained"] += 1


def told(error: BadInput) -> None:
    clear(str(error))
    TOLD["refused"] += 1


@both
def test_addresses(size):
    def check(text: str) -> None:
        try:
            found = from_hash(text)
        except BadInput as error:
            return told(error)
        if found is None:
            TOLD["no experiment"] += 1
        else:
            accepted(found)

    fuzz("address", size, check, addresses)


@both
def test_json(size):
    def check(value: Any, as_text: bool) -> None:
        try:
            if as_text or isinstance(value, str):
                found = Experiment.from_json(value)
            else:
                found = Experiment.from_dict(value)
        except BadInput as error:
            return told(error)
        accepted(found)

    fuzz("json", size, check, texts | half_right() | anything, st.booleans())


@pytest.mark.parametrize("wrong", [None, 0, "", "lr", [], [["lr", 1]]])
def test_settings_beside_are_knobs_by_name(wrong):
    with pytest.raises(BadInput, match="beside must be a list of knob changes"):
        Experiment("moons", "mixture", beside=[wrong])


def test_a_sentence_stays_short_however_many_names_there_are():
    assert listed([]) == "none" and listed(["a", "b"]) == "a, b"
    text = listed([f"name_{i}" for i in range(500)])
    assert len(text) <= LISTED + 2 and text.endswith(" …") and "name_0, name_1, " in text


# ---------------------------------------------------------------- a run that is there


class Resting:
    """A session whose run rests at step 2, and what it was; remade once it was changed."""

    HOME = Experiment("ring8soft", "mixture", knobs={"fit": "gradient", "batch": 32})

    def __init__(self, session: Session) -> None:
        self.session = session
        self.home()

    @property
    def run(self) -> Any:
        return self.session.worker.run

    def home(self) -> None:
        self.session.open(self.HOME)
        for _ in range(2):
            self.run.advance()
        self.note()

    def note(self) -> None:
        tensors, _ = self.run.engine.state()
        self.before = (self.run, self.run.step, tensors, self.session.experiment)

    def unharmed(self, step: bool) -> None:
        """The same run at the same step with the same weights; and it can take one."""
        try:
            self.compare(step)
        except AssertionError:
            self.home()  # so that the next example is judged for itself
            raise

    def compare(self, step: bool) -> None:
        run, at, tensors, experiment = self.before
        now, _ = self.run.engine.state()
        assert self.run is run and run.step == at and self.session.experiment == experiment
        assert now.keys() == tensors.keys()
        assert all(torch.equal(now[k], tensors[k]) for k in now if "view" not in k)
        if step:
            self.run.advance()
            assert self.run.step == at + 1
            self.note()

    def changed(self) -> None:
        """Something was accepted: what is there now is a run that takes a step."""
        assert self.run.experiment == self.session.experiment
        step = self.run.step
        self.run.advance()
        assert self.run.step == step + 1
        if self.run.experiment != self.HOME or self.run.step > 50:
            self.home()
        else:
            self.note()


ACTIONS = sorted({name for engine in ENGINES.values() for name in engine.actions})
actions = st.sampled_from(ACTIONS) | anything
placed = st.dictionaries(st.sampled_from(["x", "y", "index"]), anything) | anything
names = st.sampled_from([*Resting.HOME.knobs, *ENGINES["flow"].knobs, "radius", "noise"]) | anything
somewhere = st.one_of(anything, *[inside(e) for e in ENGINES["mixture"].knobs.values()])
METHODS: dict[str, tuple[st.SearchStrategy, ...]] = {
    "set": (names, somewhere, anything),
    "set_option": (names, somewhere, anything),
    "set_beside": (st.lists(anything | st.sampled_from(list(ENGINES["mixture"].compare) or [""]),
                            max_size=3) | anything,),
    "set_seed": (anything,),
    "set_speed": (anything,),
    "choose_dataset": (anything,),
    "choose_engine": (anything,),
    "choose_family": (anything,),
    "act": (actions, placed, anything, st.booleans(), st.booleans()),
    "step": (anything | st.sampled_from([1, 2, 10**5 + 1]), anything),
    "pause": (anything,),
    "restore": (st.binary(max_size=200) | anything,),
}  # fmt: skip


@st.composite
def calls(draw: Any) -> tuple[str, list[Any]]:
    name = draw(st.sampled_from(sorted(METHODS)))
    return name, [draw(strategy) for strategy in METHODS[name]]


def test_the_methods_that_are_tried_exist():
    for name, strategies in METHODS.items():
        takes = inspect.signature(getattr(Session, name)).parameters
        assert len(takes) == len(strategies) + 1, name


@both
def test_sessions(size):
    resting = Resting(Session("cpu", pictures=False))

    def check(call: tuple[str, list[Any]]) -> None:
        name, arguments = call
        session = resting.session
        session.worker._message = ""
        try:
            result = getattr(session, name)(*arguments)
            if name == "step":
                for _ in result:
                    session.worker.hear(10**9)
            session.show()
        except BadInput as error:
            session.show()
            told(error)
            return resting.unharmed(step=RAN["session"] % 5 == 0)
        if session.worker._message:  # refused where the mail is read
            clear(session.worker._message)
        TOLD["accepted"] += 1
        session._turns.clear()
        session.set_speed("normal")
        resting.changed()

    fuzz("session", size, check, calls())


def test_the_checks_would_notice(monkeypatch):
    """The same checks reject a fault in place of a sentence, a sentence that runs on, and a
    refusal that does harm."""
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "from_dict", classmethod(lambda cls, given: cls(**given)))
        with pytest.raises(TypeError):
            test_json(QUICK)
    with monkeypatch.context() as patch:
        for module in ("engines.knobs", "engines.experiment"):
            patch.setattr(f"{module}.shown", lambda value: f"{value}\n")
        with pytest.raises(AssertionError):
            test_json(QUICK)

    def harmful(self: Session, name: Any, value: Any, turn: Any = None) -> None:
        self.worker.run.step += 1
        raise BadInput("No.")

    monkeypatch.setattr(Session, "set", harmful)
    with pytest.raises(AssertionError):
        test_sessions(QUICK)


# ---------------------------------------------------------------- the API

visitors = Visitors("cpu")
API = endpoints(visitors)
FILES = st.sampled_from(["/etc/passwd", "", "\0", "/dev/zero", "http://localhost/"]).map(
    lambda path: {"path": path, "meta": {"_type": "gradio.FileData"}}
)
points = st.lists(st.lists(plain, max_size=3) | anything, max_size=4)
ASKED: dict[str, dict[str, st.SearchStrategy]] = {
    "engines": {}, "datasets": {}, "metrics": {}, "checkpoint": {},
    "knobs": {"engine": anything},
    "start": {"experiment": half_right() | texts | anything},
    "train": {"steps": anything | st.sampled_from([1, 2])},
    "set": {"name": names, "value": somewhere},
    "act": {"name": actions, "arguments": placed},
    "reset": {"seed": anything},
    "sample": {"n": anything | st.integers(1, 50)},
    "sample_file": {"n": anything | st.integers(1, 50)},
    "log_prob": {"points": points | anything},
    "restore": {"file": FILES | anything},
}  # fmt: skip
HOSTILE = sorted(set(ASKED) - {"engines", "datasets", "metrics", "checkpoint"})


@st.composite
def requests(draw: Any) -> tuple[str, dict[str, Any]]:
    # those without arguments have nothing to be wrong about
    rare = draw(st.integers(0, 99)) == 0
    name = draw(st.sampled_from(sorted(ASKED) if rare else HOSTILE))
    return name, {key: draw(value) for key, value in ASKED[name].items()}


def test_the_whole_api_is_tried():
    assert set(ASKED) == set(API)
    for name, arguments in ASKED.items():
        takes = set(inspect.signature(API[name]).parameters) - {"request"}
        assert takes == set(arguments), name


@both
def test_api(size, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    caller = SimpleNamespace(session_hash="fuzz")
    resting = Resting(visitors.of("fuzz", pictures=False))

    def check(asked: tuple[str, dict[str, Any]]) -> None:
        name, arguments = asked
        if "request" in inspect.signature(API[name]).parameters:
            arguments = {**arguments, "request": caller}
        try:
            result = API[name](**arguments)
            answer = list(result) if name == "train" else result
        except gr.Error as error:
            clear(error.message)
            TOLD["refused"] += 1
            return resting.unharmed(step=RAN["api"] % 5 == 0)
        if not isinstance(answer, gr.FileData):
            json.dumps(answer, allow_nan=False)
        TOLD["accepted"] += 1
        if name in ("start", "train", "set", "reset", "restore"):
            resting.changed()
        else:
            resting.unharmed(step=True)

    fuzz("api", size, check, requests())


# ---------------------------------------------------------------- uploads


@both
def test_uploads(size):
    upload = pytest.importorskip("engines.data.upload")
    cell = st.one_of(
        plain.map(str), st.floats(-5, 5).map(str), st.sampled_from(['"', ",", ";", "\t", "1e999"])
    )
    rows = st.lists(st.lists(cell, max_size=4), max_size=40)
    good = st.lists(
        st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(lambda p: [str(v) for v in p]),
        min_size=20, max_size=40,
    )  # fmt: skip
    tables = st.builds(
        lambda head, body, extra, comma: "\n".join(
            comma.join(row) for row in [head, *body, *extra]
        ).encode("utf-8", "surrogatepass"),
        st.lists(cell, max_size=3), good | rows, rows, st.sampled_from([",", ";", "\t", " "]),
    )  # fmt: skip
    raw = tables | texts.map(lambda t: t.encode("utf-8", "surrogatepass")) | st.binary(max_size=400)
    heads = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"PK\x03\x04", b"\xef\xbb\xbf",
             b"\xff\xfe", b"\x93NUMPY"]  # fmt: skip
    endings = st.sampled_from(
        ["a.csv", "a.tsv", "a.json", "a.CSV", "a", "", "../a.csv", "a.exe", "é.csv"]
    )

    def check(head: bytes, content: bytes, name: str, picture: bool) -> None:
        try:
            if picture:
                upload.read_picture(head + content)
            else:
                upload.read_table(head + content, name)
        except BadInput as error:
            return told(error)
        TOLD["accepted"] += 1

    fuzz("upload", size, check, st.sampled_from(heads), raw, endings, st.booleans())
