"""`hpt move`: a study from the home's files into a database."""

from __future__ import annotations

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.records import JsonObject
from agentic_hpt.report.plain import visible


@click.command("move")
@click.argument("study")
@verb
def command(study: str, home: str | None) -> Answer:
    """Move STUDY from the files of the home into the database that AGENTIC_HPT_LEDGER names, to go on there."""
    from agentic_hpt.config import Settings, shown
    from agentic_hpt.study.moving import move_study

    moved = move_study(study, home)
    where = shown(Settings.load(home).ledger_url)
    document: JsonObject = {"study": moved.name, "status": moved.status, "ledger": where}
    told = f"study {moved.name} is in {where} now; its files stay in {moved.artifacts}"
    return Answer(document, lambda console: console.print(visible(told), soft_wrap=True))
