"""`hpt resume`: go on with a study that was stopped, or that is to have more."""

from __future__ import annotations

from pathlib import Path

import click

from agentic_hpt.cli.approving import Asker
from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.live import progress_shown
from agentic_hpt.cli.shown import show_result
from agentic_hpt.config import StudyConfig, read_study_file

_SUFFIXES = (".yaml", ".yml")


@click.command("resume")
@click.argument("study", metavar="STUDY|FILE.yaml")
@click.option("--trials", metavar="N|+N", help="Budget: N trials in all, or N more; a study that has ended goes on.")
@click.option("--minutes", metavar="M|+M", help="Budget: M minutes in all, or M more.")
@click.option("--target", type=float, metavar="X", help="Stop once the metric reaches X.")
@click.option(
    "--space",
    "file",
    metavar="FILE.yaml",
    type=click.Path(path_type=Path),
    help="Change the search space first: a study file (its space and constraints count), or a space alone.",
)
@verb
def command(
    study: str, trials: str | None, minutes: str | None, target: float | None, file: Path | None, home: str | None
) -> Answer:
    """Go on with STUDY after Ctrl-C, a kill or a crash, or with more budget. No finished trial is run again.

    With a study file in place of the name, what was changed in it since is taken over, or refused with each reason.
    Exit codes as of `hpt run`.
    """
    from agentic_hpt.study import resume_study

    space, constraints = None, None
    if file is not None:
        from agentic_hpt.study.revising import space_in

        space, constraints = space_in(read_study_file(file))
    described = StudyConfig.from_file(Path(study)) if _is_file(study) else None
    with progress_shown() as listener:
        asker = Asker(listener.paused)
        result = resume_study(
            described.study if described is not None else study,
            home=home,
            described=described,
            trials=trials,
            minutes=minutes,
            target=target,
            space=space,
            constraints=constraints,
            approver=asker,
            listener=listener,
        )
    document, goal = result.to_json(), result.config.goal
    return Answer(document, lambda console: show_result(console, goal, document), result.exit_code)


def _is_file(study: str) -> bool:
    return study.endswith(_SUFFIXES) and Path(study).is_file()
