"""`hpt steer`: leave a note that the next decision must see."""

from __future__ import annotations

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.records import JsonObject


@click.command("steer")
@click.argument("study")
@click.argument("text")
@verb
def command(study: str, text: str, home: str | None) -> Answer:
    """Leave TEXT, in plain words, for the next decision of STUDY, which may be running.

    The model reads it with its evidence, and so does a person who approves decisions; the guards hold all the same.
    """
    from agentic_hpt.study import open_view

    view = open_view(study, home)
    note = view.steer(text)
    config = view.config.coordinator
    read = config.approve or config.model is not None or any(d.kind == "llm" for d in view.decisions())
    document: JsonObject = {"study": study, "note": note.id, "text": note.text, "read": read}
    said = f"note {note.id} is left for the next decision"
    if not read:
        said += "; but this study is decided by the rules, which read no notes: only a model or a person does"
    return Answer(document, lambda console: console.print(said))
