"""The strategy `auto`: a portfolio of arms over one history, beside the workers that the coordinator spawns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentic_hpt.earlier import Usable
from agentic_hpt.protocols import Situation
from agentic_hpt.records import Arm, Assignment, DecisionRecord, Goal, Insights, Proposal, Trial
from agentic_hpt.space import SearchSpace
from agentic_hpt.strategies.arms import LEAST, Arms
from agentic_hpt.strategies.history import Window, of_arm
from agentic_hpt.strategies.joint import Joint
from agentic_hpt.strategies.planning import arm_workers, begin
from agentic_hpt.strategies.portfolio import arms_for, by_turn, credits, divided, gains, shares, stalled
from agentic_hpt.strategies.proposing import Proposer

_OUTLOOK_TRIALS = 8


class Auto(Joint):
    """Workers as spawned by the coordinator, and one for each arm of the portfolio; see `protocols.Strategy`."""

    def __init__(self, space: SearchSpace, goal: Goal, seed: int = 0, earlier: Sequence[Usable] = ()) -> None:
        """`seed` is the study's; `earlier` are studies of related tasks, whose surrogates inform this one's."""
        super().__init__(space, goal)
        self._surrogate = Arms(space, goal, seed, earlier)
        self._proposer = Proposer(space, goal, "gp", self._surrogate)
        self._arms = arms_for(space, goal)
        self._window = Window(goal)

    def plan(self, situation: Situation, decision: DecisionRecord | None) -> list[Assignment]:
        """Give what the decision asks for, and divide the rest of the round among the arms."""
        begun = begin(situation, decision, self._proposer)
        trials = self._window.of(situation.trials)
        known = sum(self._goal.losses(t) is not None for t in trials)
        if known < LEAST:
            even: dict[Arm, int] = {"quasi": begun.room} if begun.room > 0 else {}
            return arm_workers(situation, begun, self._proposer, even, {"quasi": "covers the space evenly"})
        gained = gains(situation.goal, trials)
        credit, by_time = credits(self._arms, trials, gained), situation.budget.minutes is not None
        had = {arm: sum(of_arm(t, arm) for t in trials) for arm in self._arms}
        given = divided(begun.room, shares(self._arms, credit, stalled(trials, gained), by_time), had)
        told = {arm: f"{c.gains} of its {c.trials} latest trials bettered the best" for arm, c in credit.items()}
        return arm_workers(situation, begun, self._proposer, given, told)

    def propose(self, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        """Give the next configuration; a worker that is no arm's own (`ask`, `bridge`) has the arms take turns."""
        if assignment.arm is None and assignment.kind in ("ask", "bridge"):
            assignment = replace(assignment, arm=by_turn(self._arms, len(trials)))
        return super().propose(assignment, trials, seed)

    def propose_many(self, assignment: Assignment, trials: Sequence[Trial], seeds: Sequence[int]) -> list[Proposal]:
        """Give configurations that are to run together, those of `ask` and `bridge` by all arms."""
        if assignment.arm is not None or assignment.kind not in ("ask", "bridge"):
            return super().propose_many(assignment, trials, seeds)
        turns: dict[Arm, list[int]] = {}
        for turn, seed in enumerate(seeds, start=len(trials)):
            turns.setdefault(by_turn(self._arms, turn), []).append(seed)
        found: list[Proposal] = []
        for arm, own in turns.items():
            beside = [proposal.params for proposal in found]
            found += self._proposer.propose_many(replace(assignment, arm=arm), trials, own, beside)
        return found

    def insights(self, trials: Sequence[Trial]) -> Insights:
        """Say which parameters matter, which interact, and what going on may bring."""
        return replace(super().insights(trials), outlook=self._surrogate.outlook(trials, _OUTLOOK_TRIALS))
