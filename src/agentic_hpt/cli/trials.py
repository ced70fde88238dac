"""`hpt trials`: a study's trials."""

from __future__ import annotations

from collections.abc import Container

import click

from agentic_hpt.cli.common import Answer, verb
from agentic_hpt.cli.shown import show_trials
from agentic_hpt.records import Goal, JsonObject, Trial, TrialState


@click.command("trials")
@click.argument("study")
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Only the N best, best first.")
@click.option("--state", type=click.Choice([s.value for s in TrialState]), help="Only trials in this state.")
@verb
def command(study: str, top: int | None, state: str | None, home: str | None) -> Answer:
    """List the trials of STUDY: what was tried, by which worker, and what became of it.

    Those that its space does not hold any more, since it was revised, are told as such; none of them is among the best.
    """
    from agentic_hpt.study import open_view

    view = open_view(study, home)
    goal, (trials, outside) = view.config.goal, view.tried()
    trials = [t for t in trials if state is None or t.state == state]
    if top is not None:
        trials = goal.ranked(t for t in trials if t.id not in outside)[:top]
    return Answer(
        {"trials": [_document(goal, trial, outside) for trial in trials]},
        lambda console: show_trials(console, goal, trials, outside, running=view.status == "running"),
    )


def _document(goal: Goal, trial: Trial, outside: Container[int]) -> JsonObject:
    return {
        **({"outside": True} if trial.id in outside else {}),
        **({"feasible": goal.feasible(trial)} if goal.constraints else {}),
        **({"continues": trial.continues} if trial.continues is not None else {}),
        "id": trial.id,
        "state": trial.state.value,
        "failure": trial.failure.value if trial.failure else None,
        "message": trial.message,
        "params": dict(trial.params),
        "values": dict(trial.values),
        "worker": trial.worker,
        "kind": trial.kind,
        "round": trial.round,
        "attempt": trial.attempt,
        "seed": trial.seed,
        "seconds": trial.seconds,
    }
