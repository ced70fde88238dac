"""What the documents say is run: Python blocks, study files, the graph's picture, commands and links."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agentic_hpt.cli.app import VERBS
from agentic_hpt.config import StudyConfig

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for i, code in enumerate(re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)):
            found.append((f"{page.relative_to(ROOT)}:{i}", code))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("code", [c for _, c in blocks("python")], ids=[n for n, _ in blocks("python")])
def test_python_blocks_run(code: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hpt-home").is_dir()


@pytest.mark.parametrize("text", [c for _, c in blocks("yaml")], ids=[n for n, _ in blocks("yaml")])
def test_study_files_are_valid(text: str) -> None:
    assert StudyConfig.from_mapping(yaml.safe_load(text)).space


def test_the_picture_of_the_graph_is_the_graphs() -> None:
    from agentic_hpt.graph import build_graph

    picture = build_graph(None).get_graph().draw_mermaid().strip()  # type: ignore[arg-type]
    assert picture in [code.strip() for _, code in blocks("mermaid")]


def test_commands_and_their_flags_exist() -> None:
    from agentic_hpt.cli.app import main

    said = {
        line.strip().split("#")[0].split(" && ")[0]
        for page in PAGES
        for line in page.read_text().splitlines()
        if line.startswith("    hpt ")
    }
    assert said
    for command in said:
        _, verb, *rest = shlex.split(command)
        assert verb in VERBS, command
        helped = subprocess.run(
            [sys.executable, "-m", "agentic_hpt.cli", verb, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for flag in (word for word in rest if word.startswith("--")):
            assert flag in helped, command
    assert callable(main)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
