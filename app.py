"""Generative Playground: build the page and launch it (the Hugging Face Spaces entry)."""

from app import nursery

if __name__ == "__main__":
    nursery.early()  # it loads while this process does

from engines import machine

if __name__ == "__main__":
    machine.calibrate()  # the page says what it found

from app.page import build, launch_options
from app.room import by_environment

demo = build(room=by_environment() if __name__ == "__main__" else None)

if __name__ == "__main__":
    demo.launch(**launch_options())
