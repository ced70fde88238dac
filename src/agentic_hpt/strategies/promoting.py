"""Promotions: stopped trials that belong to the best of their rung by now go on from their checkpoints."""

from __future__ import annotations

from agentic_hpt.fidelity import Halving, curve_of, ends_at, rungs
from agentic_hpt.protocols import Situation
from agentic_hpt.records import Assignment, Trial, TrialState

_SHARE = 4
"""At most one of so many trials of a round is a promotion: what is new must be tried, too."""


def promotions(situation: Situation, room: int) -> list[Assignment]:
    """Give the worker that lets stopped trials go on, those of the highest rung first, best first; often none.

    It follows from the trials alone. What a decision stopped stays stopped, and so does what lies outside the limits.
    """
    halving = situation.halving
    if halving is None or not halving.promote or room <= 0:
        return []
    chosen = _to_promote(situation, halving)[: max(1, room // _SHARE)]
    if not chosen:
        return []
    worker = Assignment(
        "promotion",
        "promotion",
        situation.round + 1,
        len(chosen),
        situation.space.names,
        queue=tuple(t.params for t in chosen),
        continues=tuple(t.id for t in chosen),
        reason="stopped before, among the best of their rung by now",
    )
    return [worker]


def _to_promote(situation: Situation, halving: Halving) -> list[Trial]:
    goal, steering = situation.goal, situation.steering
    known = {t.id: t for t in situation.trials if t.round <= situation.round}
    asked = {
        action.detail.get("trial")
        for decision in situation.decisions
        for action in decision.actions
        if action.type == "stop_trial" and action.verdict != "refused"
    }
    found: list[Trial] = []
    for rung in reversed(rungs(list(known.values()), goal, halving)):
        for number in rung.waiting(goal, halving.eta):
            trial = known[number]
            possible = situation.space.contains(trial.params) and steering.holds(trial.params)
            stopped = trial.state is TrialState.PRUNED and number not in asked
            if trial not in found and stopped and possible and ends_at(curve_of(trial, goal.metric, known), rung.steps):
                found.append(trial)
    return found
