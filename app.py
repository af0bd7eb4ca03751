"""Generative Playground: build the page and launch it (the Hugging Face Spaces entry)."""

from engines import machine

if __name__ == "__main__":
    machine.calibrate()  # the page says what it found

from app.page import build, launch_options

demo = build()

if __name__ == "__main__":
    demo.launch(**launch_options())
