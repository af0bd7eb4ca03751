"""The Dockerfile and the front matter of a Space say what requirements.txt says, and each other."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.test_project import ROOT, front_matter, pins

TEXT = (ROOT / "Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """(FROM, python:…), … without comments; continued lines are one."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def left_out(path: str) -> bool:
    """Whether .dockerignore keeps a file out of the image."""
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        parts = path.split("/")
        wholes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        names = parts if pattern.startswith("**/") else wholes
        if any(fnmatch.fnmatch(name, pattern.removeprefix("**/")) for name in names):
            return True
    return False


def complaints(text: str) -> list[str]:
    """What is wrong with a Dockerfile for this project."""
    found, out = instructions(text), []
    said = dict(found)
    head = front_matter()
    env = dict(part.split("=", 1) for part in shlex.split(said.get("ENV", "")))
    if said["FROM"] != f"python:{head['python_version'].strip(chr(34))}-slim":
        out.append("another Python than the Space's")
    port = env.get("GRADIO_SERVER_PORT")
    if port != "7860" or said.get("EXPOSE") != port or f":{port}/" not in said["HEALTHCHECK"]:
        out.append("the port differs")
    if env.get("GRADIO_SERVER_NAME") != "0.0.0.0":
        out.append("the container answers only itself")
    order = [name for name, _ in found]
    if said.get("USER") in (None, "root", "0") or order.index("USER") > order.index("CMD"):
        out.append("it runs as root")
    if head["app_file"] not in said["CMD"]:
        out.append("it runs something else than the Space")
    installs = [value for name, value in found if name == "RUN" and "pip install" in value]
    if not any("-r requirements.txt" in value for value in installs):
        out.append("not all that is pinned is installed")
    if not any("download.pytorch.org/whl/cpu" in value for value in installs):
        out.append("it takes the CUDA wheels")
    for name, version in re.findall(r"([\w-]+)==([\w.]+)", " ".join(installs)):
        if pins("requirements.txt").get(name) != version:
            out.append(f"{name} is pinned to another version")
    return out


def test_the_dockerfile_fits():
    assert complaints(TEXT) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("python:3.12-slim", "python:3.10-slim"),
        ("GRADIO_SERVER_PORT=7860", "GRADIO_SERVER_PORT=8080"),
        ("GRADIO_SERVER_NAME=0.0.0.0", "GRADIO_SERVER_NAME=127.0.0.1"),
        ("USER visitor", "USER root"),
        ('"app.py"', '"main.py"'),
        ("pip install -r requirements.txt", "pip install gradio"),
        ("--index-url https://download.pytorch.org/whl/cpu", ""),
        ("pip install -r requirements.txt", "pip install -r requirements.txt gradio==5.0.0"),
    ],
)  # fmt: skip
def test_and_a_wrong_one_would_not(right, wrong):
    assert right in TEXT
    assert complaints(TEXT.replace(right, wrong))


def test_torch_comes_in_the_pinned_version():
    (command,) = re.findall(r"\$\((grep [^)]*)\)", TEXT)
    done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == f"torch=={pins('requirements.txt')['torch']}"


def test_the_health_check_is_python_that_asks_the_page():
    (check,) = [value for name, value in instructions(TEXT) if name == "HEALTHCHECK"]
    code = eval(check[check.index("CMD ") + 4 :])[-1]
    compile(code, "healthcheck", "exec")
    assert "urlopen('http://127.0.0.1:7860/" in code


def test_the_image_holds_what_the_page_needs_and_no_more():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()  # fmt: skip
    if not tracked:  # an archive without its history
        tracked = [str(p.relative_to(ROOT)) for p in Path(ROOT).rglob("*") if p.is_file()]
    for path in tracked:
        needed = path.startswith(("app/", "engines/", "assets/")) or path in (
            "app.py", "requirements.txt", "README.md", "LICENSE",
        )  # fmt: skip
        if needed and not path.startswith("assets/pictures/"):
            assert not left_out(path), path
        if path.startswith(("tests/", "bench/", "assets/pictures/")):
            assert left_out(path), path
    assert left_out(".venv/bin/python") and left_out("app/__pycache__/page.cpython-312.pyc")


def test_a_space_may_use_the_front_matter():
    head = front_matter()
    # huggingface.co/docs/hub/spaces-config-reference
    assert head["colorFrom"] in COLOURS and head["colorTo"] in COLOURS
    assert len(head["emoji"]) <= 2 and head["title"] and head["license"] == "mit"
    assert (ROOT / head["app_file"]).read_text().count("launch(") == 1
    # the platform brings its own `spaces`; another one pinned beside it would take its place
    assert "spaces" not in pins("requirements.txt") and "spaces" in pins("requirements-dev.txt")


COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
