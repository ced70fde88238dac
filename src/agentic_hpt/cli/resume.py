"""`hpt resume`: go on with a study that was stopped."""

from __future__ import annotations

import click

from agentic_hpt.cli.approving import Asker
from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.live import progress_shown
from agentic_hpt.cli.shown import show_result


@click.command("resume")
@click.argument("study")
@verb
def command(study: str, home: str | None) -> Answer:
    """Go on with STUDY after Ctrl-C, a kill or a crash. No finished trial is run again.

    Exit codes as of `hpt run`.
    """
    from agentic_hpt.study import open_view, resume_study

    goal = open_view(study, home).config.goal
    with progress_shown() as listener:
        result = resume_study(study, home=home, approver=Asker(listener.paused), listener=listener)
    document = result.to_json()
    return Answer(document, lambda console: show_result(console, goal, document), result.exit_code)
