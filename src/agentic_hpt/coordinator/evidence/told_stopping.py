"""What a decision is told of early stopping: steps used and saved, and the rungs at which trials were compared."""

from __future__ import annotations

from agentic_hpt.coordinator.evidence.shortening import short
from agentic_hpt.fidelity import rungs, spent
from agentic_hpt.protocols import Situation
from agentic_hpt.records import JsonObject, TrialState


def told_stopping(situation: Situation) -> JsonObject | None:
    """Give how many trials were stopped, went on and ran to their ends, and the steps; `None` without a stop."""
    goal = situation.goal.merges or situation.goal
    known = spent(situation.trials) if situation.past.counts[TrialState.PRUNED] else None
    if known is None:
        return None
    halving = situation.halving
    found = rungs(situation.trials, goal, halving) if halving is not None else []
    told: JsonObject = {
        "stopped": known.stopped,
        "promoted": known.promoted,
        "complete": known.complete,
        "steps_used": known.used,
        "steps_saved": known.saved,
    }
    if found:
        told["rungs"] = [
            {
                "steps": rung.steps,
                "trials": len(rung.values),
                "went_on": len(rung.passed),
                "best": short(rung.best(goal)),
            }
            for rung in found
        ]
    return told
