"""`hpt resume`: go on with a study that was stopped."""

from __future__ import annotations

from pathlib import Path

import click

from agentic_hpt.cli.approving import Asker
from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.live import progress_shown
from agentic_hpt.cli.shown import show_result
from agentic_hpt.config import read_study_file


@click.command("resume")
@click.argument("study")
@click.option(
    "--space",
    "file",
    metavar="FILE.yaml",
    type=click.Path(path_type=Path),
    help="Change the search space first: a study file (its space and constraints count), or a space alone.",
)
@verb
def command(study: str, file: Path | None, home: str | None) -> Answer:
    """Go on with STUDY after Ctrl-C, a kill or a crash. No finished trial is run again.

    Exit codes as of `hpt run`.
    """
    from agentic_hpt.study import open_view, resume_study

    space, constraints = None, None
    if file is not None:
        from agentic_hpt.study.revising import space_in

        space, constraints = space_in(read_study_file(file))
    goal = open_view(study, home).config.goal
    with progress_shown() as listener:
        asker = Asker(listener.paused)
        result = resume_study(study, home=home, space=space, constraints=constraints, approver=asker, listener=listener)
    document = result.to_json()
    return Answer(document, lambda console: show_result(console, goal, document), result.exit_code)
