"""The pages for people: their Python runs, their commands parse, their links and scripts exist."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from deploy_networks import resnet8
from offramp.cli.app import app
from offramp.cli.main import main, register
from offramp.data import load_dataset
from offramp.deploy.bundle import write_bundle

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
assert callable(main)  # importing it registers the commands


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = [line.strip().removeprefix(".venv/bin/") for text in blocks(page, "sh") for line in text.splitlines()]
    return [line for line in lines if line.startswith("offramp ")]


EXTENDING = blocks(ROOT / "docs" / "extending.md", "python")


@pytest.mark.parametrize("number", range(len(EXTENDING)))
def test_examples_of_extending_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from offramp.search.strategy import STRATEGIES

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("offramp.search.strategy.STRATEGIES", dict(STRATEGIES))
    if "BUNDLE" in EXTENDING[number]:
        shape = load_dataset("digits", seed=0).input_shape
        write_bundle(tmp_path / "BUNDLE", resnet8(shape=shape, widths=(4, 8, 8)), thresholds=(0.5, 0.5))
    exec(EXTENDING[number], {})


def test_the_four_extension_points_have_an_example() -> None:
    checks = re.findall(r"^(check_\w+)\(", "\n".join(EXTENDING), flags=re.MULTILINE)
    assert checks == ["check_cost_model", "check_strategy", "check_policy", "check_measurement"]


def test_the_example_of_start_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = blocks(ROOT / "docs" / "start.md", "python")
    found: dict[str, object] = {}
    exec(example, found)
    assert (tmp_path / "runs" / "own" / "report.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_on_the_pages_parse(page: Path) -> None:
    """Options exist and take what is written; nothing is run."""
    register()
    group = get_command(app)
    for line in commands(page):
        _, name, *arguments = shlex.split(line, comments=True)
        command = group.get_command(None, name)  # type: ignore[attr-defined, arg-type]
        assert command is not None, f"{page.name}: {line}"
        command.make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_scripts_on_the_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
    for script in re.findall(r"(?:benchmarks|tests)/\w+\.py", text):
        assert (ROOT / script).is_file(), f"{page.name}: {script}"


def test_every_page_is_reached_from_the_readme() -> None:
    texts = {p.name: p.read_text(encoding="utf-8") for p in PAGES}
    reached, open_pages = {"README.md"}, ["README.md"]
    while open_pages:
        found = {Path(t).name for t in re.findall(r"\]\(([^)#:]+\.md)\)", texts[open_pages.pop()])} - reached
        reached |= found
        open_pages += [name for name in found if name in texts]
    missing = set(texts) - reached
    assert not missing, missing


def test_results_say_who_claims_what_and_how_to_repeat_it() -> None:
    """Every row names a script, or says that it is open."""
    rows = [r for r in (ROOT / "docs" / "results.md").read_text().splitlines() if r.startswith("| **")]
    assert len(rows) >= 8
    for row in rows:
        cells = [c.strip() for c in row.strip("|").split("|")]
        assert len(cells) == 4 and all(cells), row
        assert "benchmarks/" in cells[3] or "offramp " in cells[3], row
        assert np.any([ch.isdigit() for ch in cells[2]]) or "open" in cells[2], row
