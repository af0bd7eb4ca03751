"""What lends a GPU to a Space, played on a machine without one.

`DeviceApi` answers as the device API does that the real `spaces` package asks; `python -m
tests.zerogpu SCRIPT` runs a script as a Space would, with that package's scheduling, fork, pickling and relay of a generator
in place; only its dealings with CUDA are played.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class DeviceApi:
    """Lends one GPU to whoever asks. `log` tells what was asked; `refuse` what to say instead,
    as (status, headers, JSON)."""

    def __init__(self) -> None:
        self.log: list[tuple[str, dict[str, str]]] = []
        self.refuse: list[tuple[int, dict[str, str], Any]] = []
        self.crowded = False  # another device for each call, as for visitors who come at once
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                url = urlsplit(self.path)
                asked = dict(parse_qsl(url.query))
                status, headers, body = api.answer(url.path.strip("/"), asked)
                text = json.dumps(body).encode()
                self.send_response(status)
                for key, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(key, value)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, what: str, asked: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        self.log.append((what, asked))
        if what != "schedule":
            return 200, {}, {}
        if self.refuse:
            return self.refuse.pop(0)
        n = len(self.asked("schedule"))
        index = n if self.crowded else 0
        lent = {"idle": True, "nvidiaIndex": index, "nvidiaUUID": "GPU", "allowToken": f"t{n}"}
        return 200, {}, lent

    def asked(self, what: str) -> list[dict[str, str]]:
        return [asked for name, asked in self.log if name == what]


def over_quota(wait: str = "1:02:03", left: int = 5) -> tuple[int, dict[str, str], Any]:
    """What the device API says to a visitor whose time is used up."""
    headers = {"X-Authenticated": "regular", "X-Approve-Result": "quota-exceeded"}
    return 429, headers, {"left": left, "wait": wait}


def no_gpu() -> tuple[int, dict[str, str], Any]:
    return 503, {}, {}


def pretend(api: DeviceApi) -> None:
    """Make this process the Space's, from now on; call it before `spaces` is imported.

    Let `spaces` take torch for one that was built for CUDA: `spaces.zero.torch` needs symbols
    that others lack. As on a Space, its own process is told that there is a GPU, and the forked
    one is not. What it does to tensors that are sent to the GPU before the fork is left out: this
    project sends none."""
    import torch

    os.environ.update(SPACES_ZERO_GPU="true", SPACES_ZERO_DEVICE_API_URL=api.url)
    true = torch.cuda.is_available
    theirs = types.ModuleType("spaces.zero.torch")
    theirs.patch = lambda: setattr(torch.cuda, "is_available", lambda: True)
    theirs.unpatch = lambda: setattr(torch.cuda, "is_available", true)
    theirs.init = lambda uuid: None
    theirs.enter_mode = lambda: None
    theirs.pack = theirs.size = lambda: 0
    theirs.move = lambda callback=None: None
    theirs.is_in_bad_fork = lambda: False
    sys.modules["spaces.zero.torch"] = theirs
