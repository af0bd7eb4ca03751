"""Everything by API: a server of our own, and clients as anybody would use them."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from app.answers import number
from app.api import endpoints
from app.share import from_hash
from app.visitors import IDLE, Visitors
from engines import DATASETS, ENGINES, Experiment

ROOT = Path(__file__).parent.parent
NAMES = {
    "/engines": [], "/datasets": [], "/knobs": ["engine"], "/start": ["experiment"],
    "/train": ["steps"], "/metrics": [], "/set": ["name", "value"], "/reset": ["seed"],
    "/act": ["name", "arguments"],
    "/sample": ["n"], "/sample_file": ["n"], "/log_prob": ["points"], "/checkpoint": [],
    "/restore": ["file"],
}  # fmt: skip


# ---------------------------------------------------------------- without a server


@pytest.fixture
def visitors() -> Visitors:
    return Visitors("cpu")


@pytest.fixture
def call(visitors):
    """Call an endpoint as one caller: call("sample", 10), or as another: by="b"."""
    functions = endpoints(visitors)

    def calling(name: str, *arguments, by: str = "a"):
        request = SimpleNamespace(session_hash=by)
        if name in ("engines", "datasets", "knobs"):
            return functions[name](*arguments)
        if name == "act":
            return functions[name](arguments[0], request, *arguments[1:])
        if name == "reset":
            return functions[name](request, *arguments)
        return functions[name](*arguments, request)

    return calling


MIXTURE = {
    "dataset": "ring8soft", "engine": "mixture", "seed": 3, "knobs": {"fit": "gradient"},
}  # fmt: skip


def last(stream) -> dict:
    return list(stream)[-1]


def refused(function, *arguments) -> str:
    def whole() -> None:
        result = function(*arguments)
        if hasattr(result, "__next__"):
            list(result)

    with pytest.raises(gr.Error) as error:
        whole()
    return error.value.message


def test_lists_are_the_registries_and_plain_json(call):
    engines, datasets = call("engines"), call("datasets")
    assert [e["name"] for e in engines] == list(ENGINES)
    assert [d["name"] for d in datasets] == list(DATASETS)
    for entry in engines:
        kind = ENGINES[entry["name"]]
        assert (entry["density"] is not None) == (kind.density is not None)
        specs = call("knobs", entry["name"])
        assert [s["name"] for s in specs] == entry["knobs"] == list(kind.knobs)
        for spec in specs:
            assert kind.knobs[spec["name"]].check(spec["default"]) == spec["default"]
        json.dumps([entry, specs], allow_nan=False)
    json.dumps(datasets, allow_nan=False)


def test_start_completes_and_its_address_opens_the_same(call):
    opened = call("start", MIXTURE)
    experiment = Experiment(**MIXTURE)
    assert opened["experiment"] == experiment.to_dict()
    assert from_hash(opened["address"]) == experiment
    # what came back opens again, as an object and as text
    assert call("start", opened["experiment"])["experiment"] == opened["experiment"]
    again = call("start", json.dumps(opened["experiment"]))
    assert (again["experiment"], again["run"]) == (opened["experiment"], 3)


def test_training_by_api_is_training(call):
    """The same steps as a run of our own: the same samples' density, weight for weight."""
    call("start", MIXTURE)
    stream = list(call("train", 30))
    own = Experiment(**MIXTURE).start("cpu").train(steps=30)
    points = own.pool.test[:50].tolist()
    assert stream[-1]["step"] == 30
    expected = own.log_prob(points).tolist()
    assert call("log_prob", points) == expected
    twin = Experiment(**MIXTURE).start("cpu").train(steps=29)
    assert call("log_prob", points) != twin.log_prob(points).tolist()  # one step too few
    measured = {m.name: m.value for m in own.measure()}
    assert {k: m["value"] for k, m in stream[-1]["metrics"].items()} == {
        k: number(v) for k, v in measured.items()
    }
    assert stream[-1]["losses"].keys() == own.lanes[0].tracks.keys()
    json.dumps(stream, allow_nan=False)


def test_asking_never_changes_training(call):
    for by in ("a", "b"):
        call("start", MIXTURE, by=by)
        for _ in range(2):
            last(call("train", 5, by=by))
            if by == "b":
                call("metrics", by=by)
                call("sample", 10, by=by)
                call("checkpoint", by=by)
    points = [[0.0, 1.0], [2.0, 0.5]]
    assert call("log_prob", points, by="a") == call("log_prob", points, by="b")


def test_questions_are_answered_while_it_trains(call):
    call("start", {"dataset": "ring8soft", "engine": "flow"})
    stream = call("train", 100_000)
    first = next(stream)
    assert len(call("sample", 100)) == 100
    call("set", "lr", 2e-4)
    between = call("metrics")
    assert between["step"] >= first["step"]
    assert next(stream)["step"] > first["step"]
    stream.close()
    deadline = time.monotonic() + 20
    while (now := call("metrics")["step"]) != call("metrics")["step"]:
        assert time.monotonic() < deadline, "a stream that was closed goes on"
    assert 0 < now < 100_000
    assert call("start", {"dataset": "moons", "engine": "flow"})["run"] == 2


def test_an_action_does_what_its_button_does(call):
    """`Step G only` by API is the run's own: the same generator, number for number."""
    gan = {"dataset": "ring8soft", "engine": "gan", "seed": 3}
    (entry,) = [e for e in call("engines") if e["name"] == "gan"]
    offered = {a["name"]: a["takes"] for a in entry["actions"]}
    assert offered == {k: list(a.takes) for k, a in ENGINES["gan"].actions.items()}
    call("start", gan)
    last(call("train", 5))
    assert call("act", "step_generator")["step"] == 5
    own, twin = (Experiment(**gan).start("cpu").train(steps=5) for _ in range(2))
    own.act("step_generator")
    twin.act("step_discriminator")  # the other player's
    found = call("sample", 50)
    assert found == own.sample(50).tolist() != twin.sample(50).tolist()
    call("start", {"dataset": "ring8soft", "engine": "flow"})
    assert call("act", "follow", {"x": 1.0, "y": -0.5})["step"] == 0


def test_beside_settings_are_told_apart(call):
    call("start", {**MIXTURE, "beside": [{"n_components": 3}]})
    end = last(call("train", 5))
    assert len(end["beside"]) == 1 and "3" in end["beside"][0]["label"]
    name = next(iter(end["losses"]))
    assert end["losses"][name] != end["beside"][0]["losses"][name]


def test_a_checkpoint_goes_on_where_it_was(call):
    call("start", MIXTURE)
    last(call("train", 20))
    saved = call("checkpoint")
    last(call("train", 20))
    points = [[0.0, 1.0], [2.0, 0.5]]
    forty = call("log_prob", points)
    call("start", {"dataset": "moons", "engine": "flow"}, by="b")
    back = call("restore", saved, by="b")
    assert back["experiment"] == Experiment(**MIXTURE).to_dict()
    assert call("metrics", by="b")["step"] == 20
    assert call("log_prob", points, by="b") != forty
    assert last(call("train", 20, by="b"))["step"] == 40
    assert call("log_prob", points, by="b") == forty


def test_a_file_of_samples_is_plain_numpy(call):
    call("start", {"dataset": "digits", "engine": "mixture"})
    rows = np.load(call("sample_file", 5000).path, allow_pickle=False)
    assert rows.shape == (5000, 64) and rows.dtype == np.float32
    assert "file" in refused(call, "sample", 5000)  # 320,000 numbers


HOSTILE = ["/etc/passwd", "../../etc/passwd", "", "\0", "http://127.0.0.1/", "/", "/dev/zero"]


@pytest.mark.parametrize("path", HOSTILE)
def test_only_uploaded_files_are_read(call, path):
    for given in (path, {"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}):
        assert refused(call, "restore", given) == "That is not an uploaded file."


REFUSED = [
    ("start", ["nonsense"], "That is not an experiment: it is not valid JSON."),
    ("start", [{"dataset": "ring8"}], "This experiment does not name its engine."),
    ("start", [[1]], "An experiment is JSON text; got [1]."),
    ("set", ["lr", "fast"], "lr must be a number; got 'fast'."),
    ("act", ["nothing"], "There is no action 'nothing' here."),
    ("act", [["follow"]], "There is no action ['follow'] here."),
    ("act", ["follow"], "Follow a point takes x, y."),
    ("act", ["follow", {"x": 1, "z": 2}], "Follow a point takes x, y."),
    ("act", ["follow", {"x": 1, "y": "up"}], "y must be a finite number; got 'up'."),
    ("act", ["follow", [1, 2]], "An action's arguments are numbers by name."),
    ("set", ["nothing", 1], "There is no knob 'nothing' here."),
    ("train", [0], "Between 1 and 100,000 steps can be taken; got 0."),
    ("train", [100_001], "Between 1 and 100,000 steps can be taken; got 100001."),
    ("train", [True], "Between 1 and 100,000 steps can be taken; got True."),
    ("sample", [100_001], "Between 1 and 100,000 samples can be drawn; got 100001."),
    ("log_prob", [[]], "Between 1 and 100,000 points can be judged."),
    ("log_prob", [[[1, 2, 3]]],
     "points must be a list of points of 2 finite numbers each; got [1, 2, 3]."),
    ("reset", [-1], "seed must be between 0 and 2147483647; got -1."),
    ("knobs", ["none"], f"There is no engine 'none'; try {', '.join(ENGINES)}."),
]  # fmt: skip


def test_a_refusal_is_one_sentence_and_the_run_goes_on(call):
    call("start", {"dataset": "ring8soft", "engine": "flow"})
    last(call("train", 3))
    for name, arguments, sentence in REFUSED:
        assert refused(call, name, *arguments) == sentence
        assert call("sample", 1)
    assert call("metrics")["step"] == 3
    assert last(call("train", 2))["step"] == 5


def test_a_density_that_is_not_there_is_said_to_be_missing(call):
    without = [n for n, kind in ENGINES.items() if not kind.density]
    for name in without:
        dataset = ENGINES[name].opens_on
        call("start", {"dataset": dataset, "engine": name})
        row = [0.0] * DATASETS[dataset]().dim
        assert refused(call, "log_prob", [row]).endswith("has no density.")


def test_a_run_that_diverges_says_so(call, monkeypatch):
    call("start", {"dataset": "ring8soft", "engine": "flow"})
    step = ENGINES["flow"].step
    monkeypatch.setattr(
        ENGINES["flow"], "step", lambda self: {k: v * np.nan for k, v in step(self).items()}
    )
    sentence = refused(call, "train", 1000)
    assert sentence.startswith("The run diverged at step") and "Try" in sentence
    monkeypatch.undo()
    call("reset")
    assert last(call("train", 3))["step"] == 3


def test_a_fault_of_ours_is_one_sentence_too(call, monkeypatch):
    call("start", MIXTURE)
    monkeypatch.setattr(ENGINES["mixture"], "sample", lambda *a, **k: 1 / 0)
    assert refused(call, "sample", 3) == "Something went wrong there; the run goes on as it was."
    monkeypatch.undo()
    assert len(call("sample", 3)) == 3


def test_who_has_no_name_gets_no_session(visitors):
    start = endpoints(visitors)["start"]
    for key in (None, "", 7, "x" * 1000):
        assert "session_hash" in refused(start, MIXTURE, SimpleNamespace(session_hash=key))
    assert len(visitors) == 0


def test_a_caller_that_never_comes_back_is_let_go_of(call, visitors):
    call("start", MIXTURE, by="a")
    page = visitors.of("page")  # a browser says when it leaves, however long it rests
    for session in (visitors.get("a"), page):
        session.used -= IDLE + 1
    visitors.sweep()
    assert visitors.get("a") is None
    assert visitors.get("page") is page


def test_nobody_need_arrive_for_that(call, visitors, monkeypatch):
    monkeypatch.setattr("app.visitors.SWEEP", 0.01)
    call("start", MIXTURE, by="a")
    visitors.get("a").used -= IDLE + 1
    deadline = time.monotonic() + 20
    while len(visitors):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    call("start", MIXTURE, by="b")  # and the next one is swept away in his turn
    visitors.get("b").used -= IDLE + 1
    while len(visitors):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---------------------------------------------------------------- with one


class Server:
    """`python app.py` on a free port."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}/", log
        environment = {
            **os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": str(log.parent / "files"),
        }  # fmt: skip
        with log.open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=out, stderr=out
            )
        for _ in itertools.count():
            try:
                urllib.request.urlopen(self.url + "config", timeout=1)
                break
            except OSError:
                assert self.process.poll() is None, log.read_text()
                time.sleep(0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("api") / "log.txt")
    yield running
    running.process.terminate()
    running.process.wait(15)
    text = running.log.read_text()
    assert "Traceback" not in text, text[-4000:]


@pytest.fixture
def client(server, tmp_path) -> Iterator[Client]:
    one = Client(server.url, verbose=False, download_files=tmp_path)
    yield one
    one.close()


@pytest.mark.slow
def test_the_page_of_the_api_lists_ours_alone_with_types_and_words(client):
    info = client.view_api(return_format="dict", print_info=False)
    assert {
        name: [p["parameter_name"] for p in entry["parameters"]]
        for name, entry in info["named_endpoints"].items()
    } == NAMES
    assert info["unnamed_endpoints"] == {}
    for name, entry in info["named_endpoints"].items():
        assert len(entry["description"]) > 20, name
        for parameter in entry["parameters"]:
            assert parameter["label"] == parameter["parameter_name"]
            assert parameter["python_type"]["type"] not in ("Any", ""), name
            assert parameter["python_type"]["description"], name
        (result,) = entry["returns"]
        assert result["python_type"]["type"] not in ("Any", ""), name


@pytest.mark.slow
def test_start_train_and_sample(client):
    names = [e["name"] for e in client.predict(api_name="/engines")]
    assert names == list(ENGINES)
    opened = client.predict(experiment={**MIXTURE, "knobs": {"n_components": 8}}, api_name="/start")
    assert opened["experiment"]["knobs"]["n_components"] == 8
    before = client.predict(api_name="/metrics")
    job = client.submit(steps=2000, api_name="/train")
    seen = list(job)
    steps = [s["step"] for s in seen]
    assert len(seen) > 2 and steps == sorted(steps) and steps[-1] == 2000
    assert job.result()["step"] == 2000
    kl = next(k for k in before["metrics"] if k.startswith("kl"))
    assert seen[-1]["metrics"][kl]["value"] < 0.5 * before["metrics"][kl]["value"]
    assert seen[-1]["metrics"][kl]["kind"] == "exact" or seen[-1]["metrics"][kl]["se"] > 0
    # the samples' mean is the data's, within its own error
    rows = np.array(client.predict(n=20_000, api_name="/sample"))
    truth = Experiment(**MIXTURE).make_dataset().pool(3).train.numpy()
    error = 6 * truth.std(0) / np.sqrt(len(rows))
    assert (abs(rows.mean(0) - truth.mean(0)) < error + 0.02).all()
    assert (abs(rows.mean(0) + 0.5 - truth.mean(0)) > error + 0.02).any()  # a wrong mean
    path = client.predict(n=100_000, api_name="/sample_file")
    assert np.load(path, allow_pickle=False).shape == (100_000, 2)


@pytest.mark.slow
def test_a_refusal_reaches_the_client_word_for_word(client):
    client.predict(experiment=MIXTURE, api_name="/start")
    client.predict(steps=10, api_name="/train")
    with pytest.raises(AppError) as error:
        client.predict("lr", "fast", api_name="/set")
    assert str(error.value) == "lr must be a number; got 'fast'."
    for arguments, api in ((("n_components", 1e9), "/set"), (("<b>",), "/start"), ((0,), "/train")):
        with pytest.raises(AppError) as error:
            client.predict(*arguments, api_name=api)
        assert str(error.value).endswith(".") and "raised an exception" not in str(error.value)
    assert client.predict(steps=5, api_name="/train")["step"] == 15


@pytest.mark.slow
def test_a_checkpoint_goes_to_another_client_and_on(client, server, tmp_path):
    client.predict(experiment=MIXTURE, api_name="/start")
    client.predict(steps=20, api_name="/train")
    path = client.predict(api_name="/checkpoint")
    other = Client(server.url, verbose=False, download_files=tmp_path)
    try:
        back = other.predict(file=handle_file(path), api_name="/restore")
        assert back["experiment"] == Experiment(**MIXTURE).to_dict()
        for one in (client, other):
            assert one.predict(steps=20, api_name="/train")["step"] == 40
        points = [[0.0, 1.0], [2.0, 0.5]]
        assert client.predict(points, api_name="/log_prob") == other.predict(
            points, api_name="/log_prob"
        )
    finally:
        other.close()


@pytest.mark.slow
def test_two_clients_at_once_do_not_disturb_each_other(server):
    """Each ends with the numbers that it would have alone."""
    ends: dict[int, list] = {}
    points = [[0.0, 1.0], [2.0, 0.5], [-1.0, -1.0]]

    def work(seed: int) -> None:
        one = Client(server.url, verbose=False)
        try:
            one.predict(experiment={**MIXTURE, "seed": seed}, api_name="/start")
            for _ in range(3):
                one.predict(steps=40, api_name="/train")
            ends[seed] = one.predict(points, api_name="/log_prob")
        finally:
            one.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    [t.start() for t in threads]
    [t.join(120) for t in threads]
    for seed in (1, 2):
        alone = Experiment(**{**MIXTURE, "seed": seed}).start("cpu").train(steps=120)
        assert ends[seed] == alone.log_prob(points).tolist()


@pytest.mark.slow
def test_plain_http_does_without_a_client(server):
    """POST for an event, GET its stream; a session_hash of one's own holds the run."""

    def ask(name: str, *data, key: str = "plain-http") -> list[str]:
        body = json.dumps({"data": data, "session_hash": key}).encode()
        url = f"{server.url}gradio_api/call/{name}"
        head = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, head)) as answer:
            event = json.load(answer)["event_id"]
        with urllib.request.urlopen(f"{url}/{event}") as answer:
            return answer.read().decode().split("\n\n")

    assert '"mixture"' in ask("start", MIXTURE)[0]
    assert any('"step":7' in line.replace(" ", "") for line in ask("train", 7))
    assert any('"step":7' in line.replace(" ", "") for line in ask("metrics"))
