"""Situations for tests of coordinators: a small space, trials made from bare values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agentic_hpt.protocols import Situation
from agentic_hpt.records import Budget, Goal, Trial, TrialState, Usage
from agentic_hpt.space import Choice, Float, Int, SearchSpace

SPACE = SearchSpace(
    layers=Int(1, 9, step=2, default=3),
    rate=Float(1e-4, 1e-1, log=True, default=1e-2),
    optimizer=Choice(["adam", "sgd"]),
    momentum=Float(0.0, 0.99, default=0.5, when={"optimizer": "sgd"}),
)
PLATEAU = 50
"""The trials that make a plateau here: half of the budget."""
NEW = {"layers": 5, "rate": 0.05, "optimizer": "adam"}
"""A configuration of the space that no trial made here has."""


def trial(number: int, value: float | None = None, **changes: object) -> Trial:
    """Make a finished trial: complete with `value`, or failed without one."""
    made = Trial(
        id=number,
        params={"layers": 3, "rate": 0.01 + number * 1e-7, "optimizer": "adam"},
        state=TrialState.FAILED if value is None else TrialState.COMPLETE,
        seed=number,
        worker="rate",
        kind="per_parameter",
        round=1,
        tuned=("rate",),
        values={} if value is None else {"accuracy": value},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def situation(values: Iterable[float | None] = (0.5, 0.6), **changes: object) -> Situation:
    """Make the situation after round 1, with a trial for each value, a target of 0.9 and 100 trials of budget."""
    trials = tuple(trial(number, value) for number, value in enumerate(values))
    made = Situation(
        study="digits",
        round=1,
        goal=Goal("accuracy", "maximize", 0.9),
        space=SPACE,
        budget=Budget(trials=100),
        usage=Usage(trials=len(trials)),
        slots=2,
        round_trials=12,
        trials=trials,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def flat(trials: int) -> list[float]:
    """Give values in which the first is the best and `trials` others bring nothing."""
    return [0.8, *([0.5] * trials)]
