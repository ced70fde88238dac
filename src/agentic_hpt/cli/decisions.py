"""`hpt decisions`: what was decided, and why."""

from __future__ import annotations

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.shown import show_decisions


@click.command("decisions")
@click.argument("study")
@verb
def command(study: str, home: str | None) -> Answer:
    """List what the coordinator of STUDY decided after each round, the reasons, and the guards' verdicts."""
    from agentic_hpt.study import open_view

    decisions = open_view(study, home).decisions()
    return Answer({"decisions": [d.to_json() for d in decisions]}, lambda console: show_decisions(console, decisions))
