"""Our arms: each is a strategy with its coordinator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agentic_hpt.coordinator.rules import RulesCoordinator
from agentic_hpt.protocols import Coordinator, Strategy
from agentic_hpt.records import Goal
from agentic_hpt.space import SearchSpace
from agentic_hpt.strategies import Auto, Joint, PerParameter


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
        Arm("per_parameter", "2", "per_parameter", PerParameter),
        Arm("joint", "2", "joint", Joint),
        Arm("auto", "9", "auto", Auto),
        Arm("auto again", "9", "auto", Auto, seeds_from=1000),
        Arm("auto with a random model", "14", "auto", Auto, 0, _random_model, opening=True),
        Arm("auto with the worst model", "14", "auto", Auto, 0, _worst_model, opening=True),
        Arm("joint again", "2", "joint", Joint, seeds_from=1000),
    )
}
"""`again` is the control: the same arm on other seeds. What lies within its distance from the first is noise."""
