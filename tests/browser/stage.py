"""A bare page with a view, as an exported page uses it: what is packed is what is painted."""

from __future__ import annotations

import numpy as np
from playwright.sync_api import Page

from app.pack import Known, pack
from app.view import ASSETS, LIVE_JS, PLOTLY_JS
from engines.marks import Frame, Mark, Panel, Points

BOX = (-4.0, 4.0, -4.0, 4.0)


class Stage:
    """A bare page with a view; `sent` are the events that it triggered."""

    def __init__(self, page: Page) -> None:
        self.page, self.seq, self.known = page, 0, Known()
        # a real address, since local storage is refused to a page without one
        page.route("**/*", lambda route: route.fulfill(
            body='<body><div id="v" style="width:900px"></div></body>', content_type="text/html"))  # fmt: skip
        page.goto("http://127.0.0.1:9/")
        page.add_style_tag(path=str(ASSETS / "live.css"))
        page.add_script_tag(path=str(PLOTLY_JS))
        page.add_script_tag(path=str(ASSETS / "timeline.js"))
        for path in LIVE_JS:
            page.add_script_tag(path=str(path))
        page.evaluate(
            """() => { window.sent = [];
            window.view = PlaygroundView(document.getElementById('v'),
                { trigger: (name, data) => sent.push([name, data]) }); }"""
        )

    def send(self, frame: Frame, playing: bool = True, lose: bool = False, **about) -> None:
        self.seq += 1
        extra = {"playing": playing, "about": about or {"title": "T"}}
        text = pack(frame, self.known, seq=self.seq, extra=extra)
        if lose:
            return
        self.page.evaluate("text => view.show(text)", text)
        self.page.evaluate("() => new Promise(r => requestAnimationFrame(() => setTimeout(r, 30)))")

    def show(self, *marks: Mark, **rest) -> None:
        """One frame of one panel, until it is painted with its axes."""
        self.send(Frame(self.seq, 0.0, 0.0, [], [Panel("p", "P", list(marks), box=BOX, **rest)]))
        self.page.wait_for_function("window.playground.ready")
        assert self.page.evaluate("playground.error") is None

    def spot(self, colour: str) -> tuple[float, float]:
        """Centre, in the *axes'* units, of the canvas's pixels that have a role's colour."""
        return tuple(self.page.evaluate(
            """name => {
              const canvas = document.querySelector('.gp-plot canvas');
              const hex = getComputedStyle(document.body).getPropertyValue('--gp-' + name).trim();
              const want = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
              const { width, height } = canvas;
              const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
              let [n, sx, sy] = [0, 0, 0];
              for (let i = 0; i < data.length; i += 4) {
                if (want.some((v, c) => Math.abs(data[i + c] - v) > 40)) continue;
                n++; sx += (i / 4) % width + .5; sy += Math.floor(i / 4 / width) + .5;
              }
              const ratio = width / canvas.clientWidth;
              const { xaxis, yaxis } = document.querySelector('.gp-axes')._fullLayout;
              return [xaxis.p2d(sx / n / ratio), yaxis.p2d(sy / n / ratio)];
            }""", colour))  # fmt: skip

    def reach(self, colour: str, panel: int = 0) -> tuple[float, float, float, float]:
        """x0, x1, y0, y1, in the axes' units, of the pixels that have a role's colour."""
        return tuple(self.page.evaluate(
            """([name, panel]) => {
              const canvas = document.querySelectorAll('.gp-plot > canvas')[panel];
              const hex = getComputedStyle(document.body).getPropertyValue('--gp-' + name).trim();
              const want = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
              const { width, height } = canvas;
              const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
              let [x0, x1, y0, y1] = [width, 0, height, 0];
              for (let i = 0; i < data.length; i += 4) {
                if (want.some((v, c) => Math.abs(data[i + c] - v) > 40)) continue;
                const [x, y] = [(i / 4) % width + .5, Math.floor(i / 4 / width) + .5];
                [x0, x1, y0, y1] = [Math.min(x0, x), Math.max(x1, x), Math.min(y0, y), Math.max(y1, y)];
              }
              const ratio = width / canvas.clientWidth;
              const { xaxis, yaxis } = document.querySelectorAll('.gp-axes')[panel]._fullLayout;
              return [xaxis.p2d(x0 / ratio), xaxis.p2d(x1 / ratio),
                yaxis.p2d(y1 / ratio), yaxis.p2d(y0 / ratio)];
            }""", [colour, panel]))  # fmt: skip

    def colour_at(self, x: float, y: float) -> list[int]:
        """Red, green and blue of the first canvas at a place given in the axes' units."""
        return self.page.evaluate(
            """([x, y]) => {
              const canvas = document.querySelector('.gp-plot canvas');
              const { xaxis, yaxis } = document.querySelector('.gp-axes')._fullLayout;
              const ratio = canvas.width / canvas.clientWidth;
              const at = [xaxis.d2p(x) * ratio, yaxis.d2p(y) * ratio].map(Math.round);
              return [...canvas.getContext('2d').getImageData(...at, 1, 1).data].slice(0, 3);
            }""", [x, y])  # fmt: skip

    def move(self, value: float, panel: int = 0) -> None:
        """Move a panel's slider, as a hand would."""
        self.page.evaluate(
            """([value, panel]) => { const i = document.querySelectorAll('.gp-slider input')[panel];
            i.value = value; i.dispatchEvent(new Event('input')); }""", [value, panel])  # fmt: skip
        self.page.wait_for_timeout(100)

    def sent(self, name: str) -> list[dict]:
        return [data for event, data in self.page.evaluate("sent") if event == name]

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse to a place given in the axes' units."""
        px, py = self.page.evaluate(
            """([x, y]) => {
              const { xaxis, yaxis } = document.querySelector('.gp-axes')._fullLayout;
              const box = document.querySelector('.gp-plot').getBoundingClientRect();
              return [box.left + xaxis.d2p(x), box.top + yaxis.d2p(y)];
            }""", [x, y])  # fmt: skip
        self.page.mouse.move(px, py)


def dot(x: float, y: float) -> Points:
    """A point that `Stage.spot` finds."""
    return Points(np.array([[x, y]]), "lost", size=8, opacity=1.0)


def readout(stage: Stage) -> str:
    """What the panel says of the place under the mouse."""
    return stage.page.inner_text(".gp-readout")
