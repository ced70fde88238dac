"""`hpt report`: a study's report as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.report.plain import visible


@click.command("report")
@click.argument("study")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to. [report.html among its files]")
@verb
def command(study: str, out: Path | None, home: str | None) -> Answer:
    """Write the report of STUDY as one HTML page that needs nothing else: figures, decisions, best trials."""
    from agentic_hpt.study import open_view

    view = open_view(study, home)
    path = view.report((out or view.artifacts / "report.html").absolute())
    return Answer({"report": str(path)}, lambda console: console.print(visible(path), soft_wrap=True))
