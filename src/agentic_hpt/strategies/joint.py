"""The joint strategy: one worker tunes all parameters at once, its sampler knowing what is running."""

from __future__ import annotations

from collections.abc import Sequence

from agentic_hpt.protocols import Situation
from agentic_hpt.records import Assignment, DecisionRecord, Goal, Proposal, Trial
from agentic_hpt.space import SearchSpace
from agentic_hpt.strategies.planning import joint_worker, queued
from agentic_hpt.strategies.proposing import Proposer


class Joint:
    """All parameters at once; see `protocols.Strategy`."""

    def __init__(self, space: SearchSpace, goal: Goal) -> None:
        self._proposer = Proposer(space, goal)

    def plan(self, situation: Situation, decision: DecisionRecord | None) -> list[Assignment]:
        """Give the queued configurations and one worker for the rest of the round."""
        room = min(situation.round_trials, situation.usage.trials_left(situation.budget))
        found = queued(situation, decision, room)
        left = room - sum(a.trials for a in found)
        return found + joint_worker(situation, self._proposer, left, "all parameters at once")

    def propose(self, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        """Give the next configuration, or `None` when the assignment's subspace holds nothing new."""
        return self._proposer.propose(assignment, trials, seed)
