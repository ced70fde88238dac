"""`hpt best`: the best configuration found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.shown import show_params
from agentic_hpt.records import Trial
from agentic_hpt.report.plain import number, visible

if TYPE_CHECKING:
    from rich.console import Console


@click.command("best")
@click.argument("study")
@verb
def command(study: str, home: str | None) -> Answer:
    """Show the best complete trial of STUDY and its parameters. Without one, all is empty."""
    from agentic_hpt.study import open_view

    best = open_view(study, home).best()
    if best is None:
        return Answer(
            {"trial": None, "params": {}, "values": {}}, lambda console: console.print("no trial is complete")
        )
    return Answer(
        {"trial": best.id, "params": dict(best.params), "values": dict(best.values)},
        lambda console: _show(console, best),
    )


def _show(console: Console, best: Trial) -> None:
    values = ", ".join(f"{visible(metric)} {number(value)}" for metric, value in best.values.items())
    console.print(f"trial {best.id}: {values}")
    show_params(console, best.params)
