"""`hpt status`: how the studies stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.shown import show_result, table
from agentic_hpt.records import JsonObject
from agentic_hpt.report.plain import number, visible

if TYPE_CHECKING:
    from rich.console import Console


@click.command("status")
@click.argument("study", required=False)
@verb
def command(study: str | None, home: str | None) -> Answer:
    """Show how all studies of the home stand, or STUDY in full."""
    from agentic_hpt.study import list_studies, open_view

    studies = list_studies(home)
    if study is None:
        return Answer({"studies": list(studies)}, lambda console: _show(console, studies))
    view = open_view(study, home)
    result = view.result_json()
    listed = [entry for entry in studies if entry["study"] == study]
    return Answer({"studies": list(listed)}, lambda console: show_result(console, view.config.goal, result))


def _best(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{visible(metric)} {number(figure)}" for metric, figure in value.items())
    return "–" if value is None else number(value)


def _show(console: Console, studies: list[JsonObject]) -> None:
    if not studies:
        console.print("no studies here yet; `hpt run --task digits` runs one")
        return
    shown = table("study", "status", "trials", "best", right=("trials",))
    for entry in studies:
        shown.add_row(
            visible(entry["study"]),
            visible(entry["status"]),
            str(entry["trials"]),
            _best(entry["best"]),
        )
    console.print(shown)
