"""`hpt decisions`: what was decided, and why."""

from __future__ import annotations

from dataclasses import asdict

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.shown import show_decisions
from agentic_hpt.records import JsonObject


@click.command("decisions")
@click.argument("study")
@verb
def command(study: str, home: str | None) -> Answer:
    """List what the coordinator of STUDY decided after each round, the reasons, the guards' verdicts, and the effects.

    Round 0 is the decision before the first round; it is taken when a model or a person decides.
    """
    from agentic_hpt.study import open_view

    view = open_view(study, home)
    decisions, effects, notes = view.decisions(), view.effects(), view.notes()
    document: JsonObject = {
        "decisions": [d.to_json() for d in decisions],
        "effects": [asdict(effect) for effect in effects],
        "notes": [asdict(note) for note in notes],
    }
    return Answer(document, lambda console: show_decisions(console, decisions, effects, notes))
