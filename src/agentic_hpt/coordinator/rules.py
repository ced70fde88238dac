"""The rules: the whole decision without a model.

A fixed strategy stays as it is: the rules go on, or end. With `auto` they say which workers the next round has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from agentic_hpt.coordinator.decisions import AnyAction, Continue, Decision
from agentic_hpt.coordinator.evidence import describe_progress
from agentic_hpt.coordinator.guards import judge, must_finalize
from agentic_hpt.coordinator.repeating import confirmation
from agentic_hpt.coordinator.undo import reversals
from agentic_hpt.coordinator.workers import workers
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, DecisionRecord


class RulesCoordinator:
    """Finalizes when the policy says so, else steers on; see `protocols.Coordinator`."""

    kind: Literal["rules", "llm"] = "rules"
    model: str | None = None

    async def decide(self, situation: Situation) -> DecisionRecord:
        """Give the next decision."""
        return decide_by_rules(situation)


def decide_by_policy(situation: Situation) -> DecisionRecord | None:
    """Give the decision that the policy forces, if it forces one."""
    forced = must_finalize(situation)
    if forced is None:
        return None
    stopped_by, reason = forced
    best = situation.past.best()
    evidence = (best.id,) if best is not None else ()
    action = ActionRecord("finalize", reason, evidence, "accepted", "the policy", {"stopped_by": stopped_by})
    return DecisionRecord(situation.round, "policy", (action,), situation.source)


def decide_by_rules(situation: Situation, fallback: str | None = None, asked: str = "") -> DecisionRecord:
    """Give the rules' decision; `fallback` says why they stand in for a model, `asked` why it was asked or not."""
    forced = decide_by_policy(situation)
    if forced is not None:
        return forced
    best = situation.past.best()
    evidence = (best.id,) if best is not None else ()
    actions: list[AnyAction] = []
    if situation.strategy == "auto":
        repeats = confirmation(situation)
        actions += [*repeats, *workers(_without_undone(situation), taken=sum(r.seeds for r in repeats))]
    actions.append(Continue(reason=describe_progress(situation), evidence=evidence))
    whole = Decision.model_construct(actions=tuple(actions))  # how many they may be bounds a model only
    records = judge(whole, situation, rules=len(actions))
    return DecisionRecord(situation.round, "rules", records, situation.source, fallback, asked=asked)


def _without_undone(situation: Situation) -> Situation:
    """Give the situation once the policy has taken back what it takes back now: the workers are to know of it."""
    undone = reversals(situation)
    if not undone:
        return situation
    taken_back = DecisionRecord(situation.round, "policy", undone, situation.source)
    return replace(situation, decisions=(*situation.decisions, taken_back))
