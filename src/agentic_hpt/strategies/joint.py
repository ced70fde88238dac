"""The joint strategy: one worker tunes all parameters at once, its sampler knowing what is running."""

from __future__ import annotations

from collections.abc import Sequence

from agentic_hpt.protocols import Situation
from agentic_hpt.records import Assignment, DecisionRecord, Goal, Insights, Proposal, Trial
from agentic_hpt.space import SearchSpace
from agentic_hpt.strategies.insights import insights_of
from agentic_hpt.strategies.planning import begin, bridge_worker, joint_worker
from agentic_hpt.strategies.proposing import Proposer


class Joint:
    """All parameters at once; see `protocols.Strategy`."""

    def __init__(self, space: SearchSpace, goal: Goal) -> None:
        self._space = space
        self._goal = goal
        self._proposer = Proposer(space, goal)

    def plan(self, situation: Situation, decision: DecisionRecord | None) -> list[Assignment]:
        """Give what the decision asks for, and one worker for the rest of the round."""
        begun = begin(situation, decision, self._proposer)
        return joint_worker(situation, begun, self._proposer, begun.room, "all parameters at once")

    def propose(self, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        """Give the next configuration, or `None` when the assignment's subspace holds nothing new."""
        return self._proposer.propose(assignment, trials, seed)

    def propose_many(self, assignment: Assignment, trials: Sequence[Trial], seeds: Sequence[int]) -> list[Proposal]:
        """Give configurations that are to run together; fewer when the subspace holds nothing new beyond them."""
        return self._proposer.propose_many(assignment, trials, seeds)

    def bridge(self, situation: Situation) -> Assignment | None:
        """Give the worker that keeps free slots busy."""
        return bridge_worker(situation, self._proposer)

    def insights(self, trials: Sequence[Trial]) -> Insights:
        """Say which parameters matter and which interact."""
        return insights_of(self._space, self._goal, trials)
