"""The arms that are compared: each is a strategy with its coordinator. All start with the task's default."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentic_hpt.coordinator.rules import RulesCoordinator
from agentic_hpt.protocols import Coordinator, Strategy
from agentic_hpt.records import Assignment, Goal, Proposal, Trial, configuration_key
from agentic_hpt.space import SearchSpace
from agentic_hpt.strategies import Auto, Joint, PerParameter
from agentic_hpt.strategies.drawing import random_value

_TRIES = 50


class Random(Joint):
    """Draws every configuration evenly: the measure of the score."""

    def __init__(self, space: SearchSpace, goal: Goal) -> None:
        super().__init__(space, goal)
        self._declared = space

    def propose(self, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        tried, dice = {configuration_key(t.params) for t in trials}, random.Random(seed)
        for _ in range(_TRIES):
            drawn = {name: random_value(self._declared[name], dice) for name in self._declared}
            params = self._declared.complete(drawn)
            if configuration_key(params) not in tried:
                return Proposal(params, assignment.tuned)
        return super().propose(assignment, trials, seed)


@dataclass(frozen=True)
class Arm:
    """A way to search. `version` is raised when what it does changes, so that its stored runs are made anew."""

    name: str
    version: str
    strategy: str
    """The name in a study file, which also sets how long rounds are."""
    make: Callable[[SearchSpace, Goal], Strategy]
    seeds_from: int = 0
    coordinator: Callable[[int], Coordinator] = lambda seed: RulesCoordinator()
    opening: bool = False
    """Whether the coordinator is asked before round 1 too, as a model is."""


def _random_model(seed: int) -> Coordinator:
    from bench.search.models import WorstCase

    return WorstCase("random", seed)


def _worst_model(seed: int) -> Coordinator:
    from bench.search.models import WorstCase

    return WorstCase("worst", seed)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("random", "1", "joint", Random),
        Arm("per_parameter", "1", "per_parameter", PerParameter),
        Arm("joint", "1", "joint", Joint),
        Arm("auto", "5", "auto", Auto),
        Arm("auto again", "5", "auto", Auto, seeds_from=1000),
        Arm("auto with a random model", "13", "auto", Auto, 0, _random_model, opening=True),
        Arm("auto with the worst model", "13", "auto", Auto, 0, _worst_model, opening=True),
        Arm("joint again", "1", "joint", Joint, seeds_from=1000),
    )
}
"""`again` is the control: the same arm on other seeds. What lies within its distance from the first is noise."""
