"""`hpt explain`: a study told in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentic_hpt.cli.common import Answer, verb

if TYPE_CHECKING:
    from rich.console import Console


@click.command("explain")
@click.argument("study")
@verb
def command(study: str, home: str | None) -> Answer:
    """Tell STUDY in plain words: what was decided, by whom, on what evidence, and what it brought.

    Works on a running study too. Of many rounds, those in which nothing happened are told together; --json has all.
    """
    from agentic_hpt.report.telling import lines
    from agentic_hpt.study import open_view
    from agentic_hpt.study.telling import explain_study

    story = explain_study(open_view(study, home))
    return Answer(story.to_json(), lambda console: _show(console, lines(story)))


def _show(console: Console, told: list[str]) -> None:
    for line in told:
        console.print(line, style=None if line.startswith(" ") else "bold", soft_wrap=True)
