"""`hpt report`: a study's report as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.records import JsonObject, Usage


@click.command("report")
@click.argument("study")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to. [report.html among its files]")
@verb
def command(study: str, out: Path | None, home: str | None) -> Answer:
    """Write the report of STUDY as one HTML page that needs nothing else: figures, decisions, best trials."""
    from agentic_hpt.report import write_report
    from agentic_hpt.study import open_view

    view = open_view(study, home)
    path = write_report(
        (out or view.artifacts / "report.html").absolute(),
        config=view.config,
        status=view.status,
        trials=view.trials(),
        decisions=view.decisions(),
        final=view.final,
        artifacts=view.artifacts,
        usage=_usage(view.result_json()),
    )
    return Answer({"report": str(path)}, lambda console: console.print(str(path), soft_wrap=True))


def _usage(result: JsonObject) -> Usage:
    trials = cast(dict[str, int], result["trials"])
    coordinator = cast(dict[str, float], result["coordinator"])
    return Usage(
        trials=trials["total"],
        seconds=cast(float, result["seconds"]),
        calls=int(coordinator["calls"]),
        tokens=int(coordinator["tokens"]),
        dollars=coordinator["dollars"],
    )
