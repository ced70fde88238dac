"""The study file that `hpt init` writes: valid as it is, complete, and the one in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from agentic_hpt.cli import main
from agentic_hpt.cli.study_file import study_file
from agentic_hpt.config import StudyConfig

TEXT = study_file({"task": "digits"})
SETTING = re.compile(r"^( *)#([a-z_]+: .*)$", re.MULTILINE)
DOCS = Path(__file__).parents[1] / "docs" / "study-file.md"


def loaded(folder: Path, text: str) -> StudyConfig:
    (folder / "s.yaml").write_text(text, encoding="utf-8")
    return StudyConfig.from_file(folder / "s.yaml")


def test_the_file_loads_and_holds_the_defaults_it_says(tmp_path: Path) -> None:
    config = loaded(tmp_path, TEXT)
    bare = StudyConfig.from_mapping({"objective": {"task": "digits"}})
    said = config.to_json()
    assert {**said, "description": ""} == bare.to_json()


def test_each_setting_that_is_switched_off_can_be_switched_on(tmp_path: Path) -> None:
    settings = list(SETTING.finditer(TEXT))
    assert len(settings) >= 12
    before = loaded(tmp_path, TEXT)
    for setting in settings:
        text = TEXT[: setting.start()] + setting[1] + setting[2] + TEXT[setting.end() :]
        assert loaded(tmp_path, text) != before, setting[2]
    assert loaded(tmp_path, SETTING.sub(r"\1\2", TEXT)).budget.dollars == 2.0


def test_every_key_is_there() -> None:
    def keys(model: type[BaseModel]) -> set[str]:
        found = set(model.model_fields)
        for field in model.model_fields.values():
            for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                    found |= keys(candidate)
        return found

    missing = {key for key in keys(StudyConfig) if not re.search(rf"\b{key}:", TEXT)}
    assert missing == set()


def test_the_docs_hold_the_same_file() -> None:
    assert f"```yaml\n{TEXT}```\n" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "objective"),
    [
        ([], {"task": "digits"}),
        (["--python", "train.py:train"], {"python": "train.py:train"}),
        (
            ["--command", "python 'my train.py' --lr {learning_rate} \"\\\\é\""],
            {"command": ("python", "my train.py", "--lr", "{learning_rate}", "\\é")},
        ),
    ],
)
def test_init_writes_a_file_that_loads(tmp_path: Path, flags: list[str], objective: dict[str, object]) -> None:
    file = tmp_path / "study.yaml"
    assert main(["init", str(file), *flags]) == 0
    held = StudyConfig.from_file(file).objective
    assert held is not None
    assert held.model_dump(exclude_none=True, exclude={"folder"}) == objective


def test_init_keeps_what_is_there_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("mine")
    assert main(["init", str(file)]) == 2
    assert file.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["init", str(file), "--force"]) == 0
    assert file.read_text(encoding="utf-8") == TEXT
    assert main(["init", str(tmp_path / "none" / "study.yaml")]) == 2
