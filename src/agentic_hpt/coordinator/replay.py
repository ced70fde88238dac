"""Replay: the decisions of an earlier study again, from its ledger, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from agentic_hpt.coordinator.decisions import parse_decision
from agentic_hpt.coordinator.guards import judge
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
        wanted = [action.asked for action in held.actions if action.asked and action.by != "policy"]
        if not wanted:
            why = None if held.kind == "rules" else "the replayed record does not hold what was asked for"
            return replace(decide_by_rules(situation, held.fallback or why, held.asked), bridged=held.bridged)
        try:
            actions = self._judged(held, wanted, situation)
        except CoordinatorError as error:
            return decide_by_rules(situation, f"the replayed record can't be read: {error.message}")
        # Nothing was spent on it this time.
        return replace(held, actions=actions, source=situation.source, tokens=0, dollars=0.0, seconds=0.0, notes=())

    def _judged(
        self, held: DecisionRecord, wanted: Sequence[dict[str, object]], situation: Situation
    ) -> tuple[ActionRecord, ...]:
        decision = parse_decision({"actions": list(wanted)})
        if held.review.startswith("edit"):
            return judge(decision, situation, by="person")
        actions = judge(decision, situation)
        if held.review.startswith("refuse"):
            why = next((a.verdict_reason for a in held.actions if a.verdict == "refused"), "by a person")
            return refused(tuple(a for a in actions if a.asked or a.by == "policy"), why)
        return actions
