"""`hpt best`: the best configuration found."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Show the best complete trial of STUDY and its parameters. Without one, all is empty.

    With several objectives it is the knee of the Pareto front, and --json lists the front too.
    """
    from agentic_hpt.outcomes import constrained
    from agentic_hpt.report.constrained import constraint_sentences
    from agentic_hpt.report.several import front_sentences
    from agentic_hpt.report.summary import repeated_sentence
    from agentic_hpt.study import open_view

    view = open_view(study, home)
    best, trials, goal = view.best(), view.trials(), view.config.goal
    more = constrained(goal, trials, best) if goal.constraints else {}
    repeated = repeated_sentence(goal, trials, best)
    said = [*([repeated] if repeated else []), *front_sentences(goal, trials)]
    said += constraint_sentences(view.config, trials, best)
    if goal.several:
        more = {**more, "pareto": [point.to_json() for point in view.result().pareto]}
    if best is None:
        return Answer(
            {"trial": None, "params": {}, "values": {}, **more},
            lambda console: console.print("\n".join(map(visible, said)) or "no trial is complete", soft_wrap=True),
        )
    return Answer(
        {"trial": best.id, "params": dict(best.params), "values": dict(best.values), **more},
        lambda console: _show(console, best, said),
    )


def _show(console: Console, best: Trial, said: Sequence[str]) -> None:
    values = ", ".join(f"{visible(metric)} {number(value)}" for metric, value in best.values.items())
    console.print(f"trial {best.id}: {values}")
    show_params(console, best.params)
    for sentence in said:
        console.print(visible(sentence))
