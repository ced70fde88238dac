"""Guards of the actions that end something, a trial or the search, or just go on."""

from __future__ import annotations

import statistics

from agentic_hpt.coordinator.decisions import Continue, Finalize, StopTrial
from agentic_hpt.coordinator.guards.draft import Draft, accepted, refused
from agentic_hpt.coordinator.guards.policy import plateau
from agentic_hpt.fidelity import Curve, curve_of
from agentic_hpt.records import ActionRecord, Goal

_LEAST_CURVES = 5


def go_on(action: Continue, draft: Draft) -> ActionRecord:
    """Go round again; the policy has been asked before."""
    return accepted(action, draft, "budget is left and the target is not reached", [])


def finalize(action: Finalize, draft: Draft) -> ActionRecord:
    """End the search once the trials since the best one are enough for a plateau."""
    since, needed = plateau(draft.situation)
    if since >= needed:
        why = f"{since} trials brought nothing better than the best one; {needed} are enough"
        return accepted(action, draft, why, [], stopped_by="coordinator")
    missing = f"the target is not reached, budget is left, and only {since} of {needed} trials passed without gain"
    return refused(action, draft, missing)


def stop_trial(action: StopTrial, draft: Draft) -> ActionRecord:
    """End a running trial whose best report is worse than the median of the complete trials at that step."""
    goal = draft.situation.goal
    if goal.merges is not None:
        return refused(action, draft, "with several objectives only the pruner stops trials: it looks at all of them")
    trial = next((t for t in draft.situation.running if t.id == action.trial), None)
    if trial is None:
        return refused(action, draft, f"trial {action.trial} is not running")
    if any(r.detail["trial"] == action.trial for r in draft.taken("stop_trial")):
        return refused(action, draft, "this decision stops it already")
    known = {t.id: t for t in draft.situation.trials}
    reported = curve_of(trial, goal.metric, known)
    if not reported:
        return refused(action, draft, "it has reported nothing yet")
    step, best = max(reported), _best(goal, list(reported.values()))
    allowed = [t for t in draft.complete if goal.feasible(t)]  # who may win sets the measure
    others = [value for t in allowed if (value := _at(curve_of(t, goal.metric, known), step)) is not None]
    if len(others) < _LEAST_CURVES:
        return refused(
            action, draft, f"{len(others)} complete trials reported by step {step}; {_LEAST_CURVES} are needed"
        )
    median = statistics.median(others)
    top = goal.value(draft.best) if draft.best is not None else None
    if not goal.better(median, best) or (top is not None and goal.better(best, top)):
        return refused(action, draft, f"its best report, {best:.4g}, is no worse than the median, {median:.4g}")
    why = f"its best report, {best:.4g}, is worse than the median at step {step}, {median:.4g}"
    return accepted(action, draft, why, [], trial=action.trial)


def _at(curve: Curve, step: int) -> float | None:
    """Give what a curve had at a step, or at the nearest one before."""
    known = [s for s in curve if s <= step]
    return curve[max(known)] if known else None


def _best(goal: Goal, values: list[float]) -> float:
    return max(values) if goal.direction == "maximize" else min(values)
