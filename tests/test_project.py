"""What a Space, a fresh machine and a reader rely on."""

from __future__ import annotations

import re
from pathlib import Path

from engines import DATASETS, ENGINES

ROOT = Path(__file__).parent.parent


def front_matter() -> dict[str, str]:
    _, head, _ = (ROOT / "README.md").read_text().split("---\n", 2)
    return dict(re.findall(r"^(\w+): *(.+)$", head, re.M))


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_readme_is_a_space():
    head = front_matter()
    assert head["sdk"] == "gradio"
    assert head["sdk_version"].strip('"') == pins("requirements.txt")["gradio"]
    assert head["python_version"].strip('"') == "3.12"
    assert head["app_file"] == "app.py"
    assert 10 < len(head["short_description"]) <= 60, "the Hub cuts longer ones off"
    assert (ROOT / "app" / "__init__.py").exists(), "app.py beside app/ needs it"


def test_everything_is_pinned():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            assert (
                not line or line.startswith(("-r", "#")) or re.fullmatch(r"[\w\-]+==[\w.]+", line)
            )


def test_the_readme_names_every_dataset_and_family_and_its_pictures_exist():
    text = (ROOT / "README.md").read_text()
    for name in DATASETS:
        assert f"`{name}`" in text, name
    for kind in ENGINES.values():
        assert kind.family in text
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert pictures
    for path in pictures:
        assert (ROOT / path).exists(), path


def test_the_table_of_knobs_is_up_to_date():
    from app.docs import TARGET, text

    assert TARGET.read_text() == text(), "run make docs"


def test_the_family_of_the_contributing_guide_is_a_family():
    """The guide's example is run as it stands: it trains, and its density is right."""
    import torch

    from engines import Experiment

    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    space: dict = {"__name__": "tests.example"}
    try:
        exec(compile(code, "CONTRIBUTING.md", "exec", dont_inherit=True), space)
        run = Experiment("moons", "one_gaussian").start("cpu").train(steps=400)
        rows = run.pool.train.double()
        moments = torch.distributions.Independent(
            torch.distributions.Normal(rows.mean(0), rows.std(0)), 1
        )
        gap = run.log_prob(run.pool.test) - moments.log_prob(run.pool.test.double())
        assert abs(float(gap.mean())) < 0.02
        assert run.frame().panels
    finally:
        ENGINES.pop("one_gaussian", None)
