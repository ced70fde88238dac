"""What must happen: when the search is over whatever anybody wants."""

from __future__ import annotations

from typing import Literal

from agentic_hpt.protocols import Situation
from agentic_hpt.records import Trial, configuration_key

StoppedBy = Literal["target", "budget.trials", "budget.minutes", "coordinator"]


def must_finalize(situation: Situation) -> tuple[StoppedBy, str] | None:
    """Say by what the search is over, and why in words; `None` while it may go on."""
    goal = situation.goal
    best = goal.best(situation.trials)
    value = _estimate(situation, best) if best is not None else None
    if best is not None and goal.reached(value):
        return "target", f"trial {best.id} has {goal.metric} {value:g}; the target {goal.target:g} is reached"
    spent = situation.usage.spent(situation.budget)
    if spent == "budget.trials":
        return spent, f"all {situation.budget.trials} trials are spent"
    if spent == "budget.minutes":
        return spent, f"the {situation.budget.minutes:g} minutes are over"
    if situation.exhausted:
        return "coordinator", "the search space holds nothing that was not tried"
    return None


def plateau(situation: Situation) -> tuple[int, int]:
    """Give the finished trials since the best one, and how many make a plateau.

    They are 5 a parameter, at least 20, and at least half of all that ran and of the trial budget: a search
    that found its best late, or has most of its budget left, goes on.
    A trial that was the best until repeats lowered its mean counts as one: to repeat it makes no plateau at once.
    """
    goal = situation.goal
    best = goal.best(situation.trials)
    finished = [t for t in situation.trials if t.finished and t.counted]
    since = len(finished)
    if best is not None:
        highest = goal.best(t for t in situation.trials if t.kind != "repeat") or best
        last = max(best.id, highest.id)
        since = sum(t.id > last for t in finished)
    return since, max(20, 5 * len(situation.space), -(-len(finished) // 2), -(-(situation.budget.trials or 0) // 2))


def _estimate(situation: Situation, trial: Trial) -> float | None:
    """Give a trial's value, or its configuration's mean where a repeat ran it again: a lucky seed ends no search."""
    means = situation.goal.repeated_means(situation.trials)
    return means.get(configuration_key(trial.params), situation.goal.value(trial))
