"""The page: Gradio's components, and which event goes to which method of the Session."""

from __future__ import annotations

import functools
import html
import json
import logging
import os
from collections.abc import Callable
from typing import Any

import gradio as gr

from app import api, box, home, own, thumbs
from app.controls import ASSETS, Controls, DataEditor, PresetList, ShareMenu
from app.menu import answer
from app.presets import for_family, named
from app.room import Room
from app.session import Session, plain
from app.share import read_hash
from app.view import LiveView
from app.visitors import Visitors
from engines import DATASETS, ENGINES, BadInput, Experiment, families, machine

log = logging.getLogger("playground")

ON_SPACES = "SPACE_ID" in os.environ
FPS = 13.0 if ON_SPACES else 17.0  # a Space has many visitors on one line
VISITORS = 256  # streams at once; each holds a thread, also while it waits for its turn

# nothing streams through an event that is not private: the API is a page of its own
# "multiple": Gradio's default swallows an event while the one before is under way, be it a
# click on Play while the last stream ends, a slider's last value or an acknowledgement
QUIET = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
    "trigger_mode": "multiple",
}
STREAM = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": VISITORS,
    "concurrency_id": "train",
    "trigger_mode": "multiple",
}
SPEED_LABELS = {
    "One step a frame": "single", "Slow": "slow", "Normal": "normal", "As fast as possible": "max",
}  # fmt: skip
HASH_JS = "() => [window.location.hash]"
# play, step and pause carry a number, for a request may overtake the one before
COUNT = "window.playgroundTurn = (window.playgroundTurn || 0) + 1"
PLAY_JS = f"() => [window.location.hash, {COUNT}]"
DATA_JS = f"name => [name, window.location.hash, {COUNT}]"
PAUSE_JS = f"() => [{COUNT}]"


def build(device: str | None = None, fps: float = FPS, room: Room | None = None) -> gr.Blocks:
    """The whole page. Every open browser tab gets a Session of its own, and a run in the room."""
    visitors = Visitors(device, fps, room)
    tabs_by_family = families()
    first = ENGINES[Session.START[1]].family

    with gr.Blocks(
        title="Generative Playground", analytics_enabled=False, fill_width=True,
        delete_cache=(600, 3600),  # seconds: files that the API handed out, or was sent
    ) as demo:  # fmt: skip
        with gr.Column(elem_id="gp-app"):
            gr.HTML(
                '<h1 class="gp-logo">Generative<em>Playground</em></h1>',
                elem_id="gp-brand",
                js_on_load=None,
            )
            with gr.Tabs(elem_id="gp-tabs", selected=first, overflow_behavior="wrap") as tabs:
                with gr.Tab(home.TAB, id=home.TAB):
                    gr.HTML('<p class="gp-unseen">What a generative model is, a map of the '
                            "families, and what to try first.</p>", js_on_load=None)  # fmt: skip
                for family, engines in tabs_by_family.items():
                    with gr.Tab(family, id=family):
                        kind = ENGINES[engines[0]]
                        gr.HTML(f'<p class="gp-unseen">{kind.title}: {kind.tagline}</p>',
                                js_on_load=None)  # fmt: skip
            with gr.Row(elem_id="gp-corner"):
                menu = ShareMenu(elem_id="gp-menu")
                gr.HTML('<button type="button" id="gp-lecture" title="Lecture mode (L)" '
                        'aria-label="Lecture mode" aria-pressed="false"></button>'
                        '<button type="button" id="gp-theme" title="Light or dark" '
                        'aria-label="Light or dark">◐</button>', elem_id="gp-switches",
                        js_on_load=None)  # fmt: skip
            gr.HTML(home.html(), elem_id="gp-home", js_on_load=None)
            with gr.Column(elem_id="gp-left"):
                with gr.Column(elem_classes="gp-card"):
                    gr.HTML("<h4>Data</h4>", js_on_load=None)
                    data = gr.Radio(
                        list(DATASETS), value=Session.START[0], label="Data", show_label=False,
                        container=False, elem_id="gp-data",
                    )  # fmt: skip
                    options = Controls(elem_id="gp-options", elem_classes="gp-controls")
                with gr.Column(elem_classes="gp-card", elem_id="gp-own-card"):
                    gr.HTML("<h4>Your own data</h4>", js_on_load=None)
                    editor = DataEditor(elem_id="gp-own")
                with gr.Column(elem_classes="gp-card", elem_id="gp-try-card"):
                    gr.HTML("<h4>Try this</h4>", js_on_load=None)
                    tries = PresetList(elem_id="gp-try")
            with gr.Column(elem_id="gp-stage", elem_classes="gp-card"):
                gr.HTML('<div data-slot="preset"></div>', elem_id="gp-preset",
                        js_on_load=None)  # fmt: skip
                view = LiveView(elem_id="gp-view")
                with gr.Row(elem_id="gp-transport"):
                    gr.HTML('<div data-slot="note"></div>', elem_id="gp-note",
                            js_on_load=None)  # fmt: skip
                    gr.HTML('<div data-slot="timeline"></div>', elem_id="gp-timeline",
                            js_on_load=None)  # fmt: skip
                    play = gr.Button("Play", elem_id="gp-play", variant="primary")
                    pause = gr.Button("Pause", elem_id="gp-pause", variant="primary")
                    step = gr.Button("Step", elem_id="gp-step")
                    ten = gr.Button("+10", elem_id="gp-ten")
                    hundred = gr.Button("+100", elem_id="gp-hundred")
                    reset = gr.Button("Reset", elem_id="gp-reset")
                    seed = gr.Button("New seed", elem_id="gp-seed")
                    undo = gr.Button("Undo", elem_id="gp-undo")
                    gpu = gr.Button("GPU", elem_id="gp-gpu") if box.ON else None
                    gr.HTML('<div data-slot="progress"></div>', elem_id="gp-progress",
                            js_on_load=None)  # fmt: skip
                    speed = gr.Dropdown(
                        list(SPEED_LABELS), value="Normal", label="Speed", container=False,
                        elem_id="gp-speed", filterable=False, min_width=120,
                    )  # fmt: skip
            with gr.Column(elem_id="gp-right"):
                with gr.Column(elem_classes="gp-card", elem_id="gp-knob-card"):
                    gr.HTML('<h4>Knobs <span title="Knobs with this mark act while it trains">'
                            "⚡ changes live</span></h4>", js_on_load=None)  # fmt: skip
                    knobs = Controls(elem_id="gp-knobs", elem_classes="gp-controls")
                with gr.Column(elem_classes="gp-card"):
                    gr.HTML('<h4>How close <span>floor</span></h4><div data-slot="metrics"></div>',
                            elem_id="gp-metrics", js_on_load=None)  # fmt: skip
                found = machine.described(box.ON) + (f"; {room.described}" if room else "")
                gr.HTML(f'<p class="gp-machine">{html.escape(found)}'
                        '<span data-slot="native"></span></p>', js_on_load=None)  # fmt: skip
            address, turn = gr.Textbox(visible=False), gr.Number(visible=False)
            follow = gr.Button("Open address", elem_id="gp-follow", visible="hidden")

        everything = [view, knobs, options, tabs, data, editor, tries]

        def shown(session: Session, frame: str | None) -> list[Any]:
            """New values of the view and of all that mirrors the experiment."""
            known = session.experiment.dataset
            return [
                gr.skip() if frame is None else frame,
                plain(session.controls()),
                plain(session.data_controls()),
                gr.Tabs(selected=session.family),
                gr.Radio(value=known if known in DATASETS else None),
                plain(own.state(session)),
                tries_of(session.family),
            ]

        def handler(method: Callable[..., str | None]) -> Callable[..., list[Any]]:
            """Run `method(session, …)`; what it refuses becomes a sentence in the page."""

            @functools.wraps(method)
            def handle(session: Session, *arguments: Any) -> list[Any]:
                try:
                    return shown(session, method(session, *arguments))
                except BadInput as error:
                    return shown(session, session.refuse(str(error)))
                except Exception:
                    log.exception("a visitor's request failed")
                    return shown(session, session.refuse(
                        "Something went wrong there; your run goes on as it was."))  # fmt: skip

            return handle

        @handler
        def open_address(session: Session, text: str) -> str | None:
            found, note = read_hash(text)
            return session.show() if found is None else session.open(found, note)

        def arrive(request: gr.Request, text: str) -> Session:
            """The visitor's session. One that is new to us (the server was restarted, or the
            connection was lost for long) opens what the page's address names."""
            session = visitors.of(request.session_hash)
            if not session.opened:
                open_address(session, text)
            return session

        def at_load(text: str, request: gr.Request) -> list[Any]:
            values = open_address(visitors.of(request.session_hash), text)
            if text == home.HASH:
                values[everything.index(tabs)] = gr.Tabs(selected=home.TAB)
            return values

        def on_tab(text: str, event: gr.SelectData, request: gr.Request) -> list[Any]:
            if event.value == home.TAB:  # no family: the run stays as it is
                return [gr.skip()] * len(everything)
            return handler(Session.choose_family)(arrive(request, text), event.value)

        def on_data(name: str, text: str, turn: float | None, request: gr.Request) -> list[Any]:
            session = arrive(request, text)
            if session.stale("experiment", turn):
                return shown(session, None)
            return handler(Session.choose_dataset)(session, name)

        def on_set(text: str, event: gr.EventData, request: gr.Request) -> list[Any]:
            session = arrive(request, text)
            given = _payload(event)
            method = Session.set_option if given.get("where") == "dataset" else Session.set
            found = handler(method)(
                session, given.get("name"), given.get("value"), given.get("turn")
            )
            return found[:3]

        def on_act(text: str, event: gr.EventData, request: gr.Request) -> list[Any]:
            given = _payload(event)
            begin, end = (given.get(key) is not False for key in ("begin", "end"))
            found = handler(Session.act)(
                arrive(request, text), given.get("name"), given.get("args") or {},
                given.get("turn"), begin, end,
            )  # fmt: skip
            # a drag under way changes nothing but the view
            return found if end else [found[0], *[gr.skip()] * (len(everything) - 1)]

        def on_engine(text: str, event: gr.EventData, request: gr.Request) -> list[Any]:
            session, given = arrive(request, text), _payload(event)
            if session.stale("engine", given.get("turn")):
                return shown(session, None)
            return handler(Session.choose_engine)(session, given.get("name"))

        def on_beside(text: str, event: gr.EventData, request: gr.Request) -> list[Any]:
            return handler(Session.set_beside)(arrive(request, text), _payload(event).get("labels"))

        @handler
        def open_preset(session: Session, name: Any) -> str | None:
            return session.open(named(name).experiment)

        def on_preset(text: str, event: gr.EventData, request: gr.Request) -> list[Any]:
            session, given = arrive(request, text), _payload(event)
            if session.stale("experiment", given.get("turn")):
                return shown(session, None)
            return open_preset(session, given.get("name"))

        def on_own(kind: str, full: bool) -> Callable[..., Any]:
            """Own data arrived; a stroke under way changes nothing but the view."""
            handle = handler(own.HANDLERS[kind])

            def on_event(text: str, event: gr.EventData, request: gr.Request) -> Any:
                found = handle(arrive(request, text), _payload(event))
                return found if full else found[0]

            return on_event

        def on_ask(text: str, event: gr.EventData, request: gr.Request) -> str:
            session = arrive(request, text)
            try:
                return answer(session.experiment, _payload(event).get("what"))
            except BadInput as error:
                session.refuse(str(error))
                return gr.skip()

        @handler
        def open_file(session: Session, text: Any) -> str | None:
            return session.open(Experiment.from_json(text))

        def on_open(text: str, event: gr.EventData, request: gr.Request) -> list[Any]:
            return open_file(arrive(request, text), _payload(event).get("text"))

        def on_branch(text: str, event: gr.EventData, request: gr.Request) -> list[Any]:
            return handler(Session.branch)(arrive(request, text), _payload(event).get("step"))

        def on_reset(text: str, request: gr.Request) -> list[Any]:
            return handler(Session.reset)(arrive(request, text))

        def on_seed(text: str, request: gr.Request) -> list[Any]:
            return handler(Session.new_seed)(arrive(request, text))

        def on_undo(text: str, request: gr.Request) -> list[Any]:
            return handler(Session.undo)(arrive(request, text))

        def on_gpu(text: str, request: gr.Request) -> Any:
            frame = arrive(request, text).choose_gpu()
            return gr.skip() if frame is None else frame

        def on_play(text: str, turn: float | None, request: gr.Request):
            yield from arrive(request, text).play(turn)

        def stepper(steps: int) -> Callable:
            def on_step(text: str, turn: float | None, request: gr.Request):
                yield from arrive(request, text).step(steps, turn)

            return on_step

        # these three come often, or late: they never open a session
        def on_pause(turn: float | None, request: gr.Request) -> None:
            if session := visitors.get(request.session_hash):
                session.pause(turn)

        def on_speed(label: str, request: gr.Request) -> None:
            if session := visitors.get(request.session_hash):
                session.set_speed(SPEED_LABELS.get(label, "normal"))

        def on_ack(event: gr.EventData, request: gr.Request) -> Any:
            session = visitors.get(request.session_hash)
            given = _payload(event)
            if session is None or not isinstance(given.get("seq"), int):
                return gr.skip()
            session.worker.hear(given["seq"], bool(given.get("missing")))
            # a paused run draws nothing by itself: send again what the browser lacks, and what the
            # painted frame did not wait for
            again = None
            if given.get("missing") or given.get("owed"):
                again = session.worker.redraw(True if given.get("missing") else "owed")
            return gr.skip() if again is None else again

        def on_view(event: gr.EventData, request: gr.Request) -> Any:
            session = visitors.get(request.session_hash)
            given = _payload(event)
            if session is None:
                return gr.skip()
            if isinstance(given.get("visible"), bool):
                session.worker.look(given["visible"])
                return gr.skip()
            hidden = given.get("hidden")
            if isinstance(hidden, list):
                session.worker.hide(frozenset(str(name)[:80] for name in hidden[:100]))
            frame = session.show()
            return gr.skip() if frame is None else frame

        def on_leave(request: gr.Request) -> None:
            visitors.leave(request.session_hash)

        demo.load(at_load, address, everything, js=HASH_JS, **QUIET)
        follow.click(at_load, address, everything, js=HASH_JS, **QUIET)
        tabs.select(on_tab, address, everything, js=HASH_JS, **QUIET)
        data.input(on_data, [data, address, turn], everything, js=DATA_JS, **QUIET)
        for card in (knobs, options):
            # a knob that is dragged sends twenty of these a second: only what it can change
            card.set(on_set, address, everything[:3], js=HASH_JS, **QUIET)
            card.act(on_act, address, everything, js=HASH_JS, **QUIET)
            card.engine(on_engine, address, everything, js=HASH_JS, **QUIET)
            card.beside(on_beside, address, everything, js=HASH_JS, **QUIET)
        view.act(on_act, address, everything, js=HASH_JS, **QUIET)
        for kind in own.HANDLERS:
            full = kind not in ("points", "gaussians")
            getattr(editor, kind)(
                on_own(kind, full), address, everything if full else view, js=HASH_JS, **QUIET
            )
        tries.preset(on_preset, address, everything, js=HASH_JS, **QUIET)
        menu.ask(on_ask, address, menu, js=HASH_JS, **QUIET)
        menu.open(on_open, address, everything, js=HASH_JS, **QUIET)
        view.branch(on_branch, address, everything, js=HASH_JS, **QUIET)
        view.ack(on_ack, None, view, **QUIET)
        view.view(on_view, None, view, **QUIET)
        play.click(on_play, [address, turn], view, js=PLAY_JS, **STREAM)
        for button, steps in ((step, 1), (ten, 10), (hundred, 100)):
            button.click(stepper(steps), [address, turn], view, js=PLAY_JS, **STREAM)
        pause.click(on_pause, turn, None, js=PAUSE_JS, **QUIET)
        reset.click(on_reset, address, everything, js=HASH_JS, **QUIET)
        seed.click(on_seed, address, everything, js=HASH_JS, **QUIET)
        undo.click(on_undo, address, everything, js=HASH_JS, **QUIET)
        speed.input(on_speed, speed, None, **QUIET)
        if gpu is not None:
            gpu.click(on_gpu, address, view, js=HASH_JS, **QUIET)
        demo.unload(on_leave)
        api.register(visitors)

    demo.visitors = visitors
    return demo.queue(default_concurrency_limit=VISITORS, max_size=4 * VISITORS)


@functools.cache
def tries_of(family: str) -> str:
    """JSON of a tab's presets."""
    return plain([preset.spec() for preset in for_family(family)])


def _payload(event: gr.EventData) -> dict[str, Any]:
    """What the browser sent along with an event; anything that is no object is empty."""
    data = getattr(event, "_data", None)
    return data if isinstance(data, dict) else {}


def theme() -> gr.themes.Base:
    fonts = ["Inter", "system-ui", "Segoe UI", "DejaVu Sans", "sans-serif"]
    return gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", font=fonts,
        font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
        radius_size="lg", spacing_size="sm", text_size="sm",
    )  # fmt: skip


def launch_options() -> dict[str, Any]:
    """What `launch()` needs; the port is Gradio's own (GRADIO_SERVER_PORT)."""
    # </ would end the script: JSON allows it to be written as <\\/
    about = json.dumps({name: kind.about for name, kind in DATASETS.items()}).replace("</", "<\\/")
    page = "".join((ASSETS / name).read_text() for name in ("page.js", "tabs.js"))
    style = (ASSETS / "style.css").read_text()
    return {
        "theme": theme(),
        "css": style + thumbs.css("#gp-data"),
        "head": home.head()
        + f"<script>window.playgroundData = {about}</script><script>{page}</script>",
        "ssr_mode": False,
        "run_history": False,
        "max_threads": 2 * VISITORS,
        "state_session_capacity": 512,  # Gradio keeps each caller's last answers
        "show_error": False,
        "footer_links": ["api"],
    }
