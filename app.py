"""Generative Playground: build the page and launch it (the Hugging Face Spaces entry)."""

import gc

gc.disable()  # until the page stands: all that is loaded stays, and looking through it takes long

from app import nursery  # noqa: E402

if __name__ == "__main__":
    nursery.early()  # it loads while this process does

from engines import machine  # noqa: E402

if __name__ == "__main__":
    machine.calibrate()  # the page says what it found

from app.page import build, launch_options  # noqa: E402
from app.room import by_environment  # noqa: E402

demo = build(room=by_environment() if __name__ == "__main__" else None)
gc.freeze()  # nor is any of it looked through while frames stream
gc.enable()

if __name__ == "__main__":
    demo.launch(**launch_options())
