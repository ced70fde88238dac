"""Replay: the decisions of an earlier study again, from its ledger, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from agentic_hpt.coordinator.decisions import Decision, parse_decision
from agentic_hpt.coordinator.guards import judge, judge_both
from agentic_hpt.coordinator.review import refused
from agentic_hpt.coordinator.rules import decide_by_policy, decide_by_rules
from agentic_hpt.errors import CoordinatorError
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, DecisionRecord


class ReplayCoordinator:
    """Gives the recorded decisions, round by round; see `protocols.Coordinator`.

    Policy first, as ever. What was asked for is judged again by today's guards, and what the policy undoes is worked
    out anew: the same trials bring the same verdicts. When the record runs out, the rules decide.
    """

    model: str | None = None

    def __init__(self, record: Sequence[DecisionRecord]) -> None:
        self._record = {decision.round: decision for decision in record}
        asked = any(decision.kind == "llm" or decision.round == 0 for decision in record)
        self.kind: Literal["rules", "llm"] = "llm" if asked else "rules"

    async def decide(self, situation: Situation) -> DecisionRecord:
        """Give the next decision."""
        forced = decide_by_policy(situation)
        held = self._record.get(situation.round)
        if forced is not None:
            return replace(forced, bridged=held.bridged if held is not None else 0)
        if held is None:
            return decide_by_rules(situation, "the replayed record ends here")
        if not any(action.asked and action.by != "policy" for action in held.actions):
            why = None if held.kind in ("rules", "policy") else "the replayed record does not hold what was asked for"
            return replace(decide_by_rules(situation, held.fallback or why, held.asked), bridged=held.bridged)
        try:
            actions = _judged(held, situation)
        except CoordinatorError as error:
            return decide_by_rules(situation, f"the replayed record can't be read: {error.message}")
        # Nothing was spent on it this time.
        return replace(held, actions=actions, source=situation.source, tokens=0, dollars=0.0, seconds=0.0, notes=())


def _judged(held: DecisionRecord, situation: Situation) -> tuple[ActionRecord, ...]:
    """Judge what was asked for again, as what it was: a model's, the rules' own, or a person's."""
    decision = _asked([a for a in held.actions if a.by != "rules"])
    if held.review.startswith("edit"):
        return judge(decision, situation, by="person")
    if held.kind == "rules":
        actions = judge(decision, situation, rules=len(decision.actions))
    else:
        actions = judge_both(decision, _asked([a for a in held.actions if a.by == "rules"]).actions, situation)
    if held.review.startswith("refuse"):
        why = next((a.verdict_reason for a in held.actions if a.verdict == "refused"), "by a person")
        return refused(tuple(a for a in actions if a.asked or a.by == "policy"), why)
    return actions


def _asked(actions: Sequence[ActionRecord]) -> Decision:
    asked = [a.asked for a in actions if a.asked and a.by != "policy"]
    return parse_decision({"actions": asked}) if asked else Decision.model_construct(actions=())
