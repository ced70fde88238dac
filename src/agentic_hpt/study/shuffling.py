"""What a model is shown in an uplift: the study under its own name, and in the control, outcomes dealt out anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from agentic_hpt.protocols import Situation
from agentic_hpt.records import DecisionRecord, Trial

_OUTCOME = ("state", "values", "failure", "message", "seconds", "reports")


def plain(study: str) -> Callable[[Situation], Situation]:
    """Give what shows a model the study as `study`: the name of an arm would tell it that it is being tested."""
    return lambda situation: replace(situation, study=study)


def shuffled(study: str, seed: int) -> Callable[[Situation], Situation]:
    """Give what shows a model each finished trial with some other one's outcome, the same for the same seed and round.

    What is found from outcomes is found again from the shuffled ones; only space, budget and configurations stay true.
    """

    def seen(situation: Situation) -> Situation:
        from agentic_hpt.strategies.insights import insights_of

        ring = [trial for trial in situation.trials if trial.finished]
        random.Random(f"{seed}/{situation.round}").shuffle(ring)
        # Each gets its neighbour's, so that none keeps its own: with few trials a plain shuffle often changes little.
        changed = {own.id: _with_outcome(own, other) for own, other in zip(ring, [*ring[1:], *ring[:1]], strict=True)}
        trials = tuple(changed.get(trial.id) or _silent(trial) for trial in situation.trials)
        insights = insights_of(situation.space, situation.goal, trials)
        decisions = tuple(_without_words(decision) for decision in situation.decisions)
        running = tuple(_silent(trial) for trial in situation.running)
        shown = replace(situation, study=study, trials=trials, running=running)
        return replace(shown, insights=insights, decisions=decisions)

    return seen


def _without_words(decision: DecisionRecord) -> DecisionRecord:
    """Give a decision without the words of rules, policy and guards: these quote the true outcomes."""
    actions = tuple(
        replace(action, verdict_reason="", reason=action.reason if decision.kind == "llm" and not action.by else "")
        for action in decision.actions
    )
    return replace(decision, actions=actions)


def _silent(trial: Trial) -> Trial:
    """Give a running trial without what it has reported, which is true, and no other one's can stand for it."""
    return replace(trial, reports=())


def _with_outcome(own: Trial, other: Trial) -> Trial:
    return replace(own, **{name: getattr(other, name) for name in _OUTCOME})
