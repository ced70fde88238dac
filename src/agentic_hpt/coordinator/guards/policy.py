"""What must happen: when the search is over whatever anybody wants."""

from __future__ import annotations

from typing import Literal

from agentic_hpt.coordinator.termination import no_gain, prospect
from agentic_hpt.fronts import meeting
from agentic_hpt.protocols import Situation
from agentic_hpt.records import Trial

StoppedBy = Literal["target", "budget.trials", "budget.minutes", "no_gain", "exhausted", "coordinator"]


def must_finalize(situation: Situation) -> tuple[StoppedBy, str] | None:
    """Say by what the search is over, and why in words; `None` while it may go on."""
    goal = situation.goal
    best = situation.past.best()
    value = _estimate(situation, best) if best is not None else None
    if best is not None and goal.reached(value):
        return "target", f"trial {best.id} has {goal.metric} {value:g}; the target {goal.target:g} is reached"
    if goal.merges is not None and (met := meeting(goal, situation.trials)) is not None:
        values = ", ".join(f"{metric} {value:g}" for metric, value in met.values.items())
        return "target", f"trial {met.trial.id} has {values}; the targets are reached"
    spent = situation.usage.spent(situation.budget)
    if spent == "budget.trials":
        return spent, f"all {situation.budget.trials} trials are spent"
    if spent == "budget.minutes":
        return spent, f"the {situation.budget.minutes:g} minutes are over"
    if situation.exhausted:
        return "exhausted", "the search space holds nothing that was not tried"
    if situation.stop is not None and (why := no_gain(situation, prospect(situation))) is not None:
        return "no_gain", why
    return None


def plateau(situation: Situation) -> tuple[int, int]:
    """Give the finished trials since the best one, and how many make a plateau.

    They are 5 a parameter, at least 20, and at least half of all that ran and of the trial budget: a search
    that found its best late, or has most of its budget left, goes on.
    A trial that was the best until repeats lowered its mean counts as one: to repeat it makes no plateau at once.
    While every trial breaks a constraint there is none: the search has not found what it looks for.
    """
    past = situation.past
    best, highest, finished = past.furthest(), past.last_gain(), len(past.counted)
    since = 0 if situation.goal.constraints else finished
    if best is not None:
        since = past.since(max(best.id, best.id if highest is None else highest))
    return since, max(20, 5 * len(situation.space), -(-finished // 2), -(-(situation.budget.trials or 0) // 2))


def _estimate(situation: Situation, trial: Trial) -> float | None:
    """Give a trial's value, or its configuration's mean where a repeat ran it again: a lucky seed ends no search."""
    return situation.past.estimates().get(trial.id, situation.goal.value(trial))
