"""`hpt init`: write a study file in which every key is explained."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.study_file import study_file
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError
from agentic_hpt.presets import task_study
from agentic_hpt.records import JsonObject
from agentic_hpt.report.plain import visible


@click.command("init")
@click.argument("file", default="study.yaml", type=click.Path(path_type=Path))
@click.option("--python", "function", metavar="FILE:FUNCTION", help="Tune a Python function, e.g. train.py:train.")
@click.option("--command", "line", metavar="LINE", help="Tune a program, e.g. 'python train.py --lr {learning_rate}'.")
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
@verb
def command(file: Path, function: str | None, line: str | None, force: bool, home: str | None) -> Answer:
    """Write a study file, study.yaml by default, in which every key is explained.

    It runs as it is: a small built-in job, unless --python or --command names yours.
    """
    objective = _objective(function, line)
    StudyConfig.from_mapping({**task_study("digits"), "objective": objective}, where="flags")
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(study_file(objective))
    except FileExistsError:
        raise ConfigError(f"{file} is there already", "--force overwrites it") from None
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}", "choose another file") from None
    return Answer(
        {"file": str(file.absolute())},
        lambda console: console.print(f"wrote {visible(file)}; run it by `hpt run {visible(file)}`", soft_wrap=True),
    )


def _objective(function: str | None, line: str | None) -> JsonObject:
    if function is not None and line is not None:
        raise ConfigError("--python and --command are both given", "choose one")
    if function is not None:
        return {"python": function}
    if line is None:
        return {"task": "digits"}
    try:
        return {"command": shlex.split(line)}
    except ValueError as error:
        raise ConfigError(f"--command {line!r}: {error}", "close each quote") from None
