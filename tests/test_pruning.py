"""The median rule: who is measured against whom, and from when on."""

from __future__ import annotations

import pytest

from agentic_hpt.records import Goal, Report
from agentic_hpt.strategies import MedianPruner, NoPruner

GOAL = Goal("m")


def pruner_after(*curves: list[float], goal: Goal = GOAL, complete: bool = True) -> MedianPruner:
    """Make a pruner that saw these curves, of trials 0, 1, ..., from step 0 on."""
    pruner = MedianPruner(goal)
    for number, curve in enumerate(curves):
        for step, value in enumerate(curve):
            pruner.should_stop(number, Report(step, {"m": value}))
        pruner.ended(number, complete)
    return pruner


def stops(pruner: MedianPruner, curve: dict[int, float], trial: int = 99) -> list[bool]:
    return [pruner.should_stop(trial, Report(step, {"m": value})) for step, value in curve.items()]


FIVE = [[0.1, v] for v in (0.3, 0.4, 0.5, 0.6, 0.7)]


@pytest.mark.parametrize(("value", "stopped"), [(0.49, True), (0.5, False), (0.51, False)])
def test_worse_than_the_median_at_the_same_step_stops(value: float, stopped: bool) -> None:
    assert stops(pruner_after(*FIVE), {1: value}) == [stopped]


@pytest.mark.parametrize(("value", "stopped"), [(0.49, False), (0.5, False), (0.51, True)])
def test_when_minimizing_higher_is_worse(value: float, stopped: bool) -> None:
    assert stops(pruner_after(*FIVE, goal=Goal("m", "minimize")), {1: value}) == [stopped]


def test_the_best_value_so_far_counts() -> None:
    assert stops(pruner_after(*FIVE), {0: 0.5, 1: 0.0}) == [False, False]
    assert stops(pruner_after(*FIVE, goal=Goal("m", "minimize")), {0: 0.0, 1: 0.9}) == [False, False]


def test_the_median_of_an_even_number_lies_between() -> None:
    six = pruner_after(*FIVE, [0.1, 0.8])
    assert stops(six, {1: 0.54}, trial=50) == [True]
    assert stops(six, {1: 0.56}, trial=51) == [False]


def test_nothing_stops_before_five_trials_are_complete() -> None:
    pruner = pruner_after(*FIVE[:4])
    assert stops(pruner, {1: -9.0}, trial=50) == [False]
    for step, value in enumerate(FIVE[4]):
        pruner.should_stop(4, Report(step, {"m": value}))
    assert stops(pruner, {1: -9.0}, trial=51) == [False], "the fifth is still running"
    pruner.ended(4, complete=True)
    assert stops(pruner, {1: -9.0}, trial=52) == [True]


def test_five_trials_must_have_been_at_that_step() -> None:
    pruner = pruner_after(*FIVE[:4], [0.1], [0.1])
    assert stops(pruner, {1: -9.0}) == [False]


def test_failed_and_pruned_trials_are_no_measure() -> None:
    pruner = pruner_after(*[[0.9, 0.9]] * 20, complete=False)
    assert stops(pruner, {1: -9.0}, trial=50) == [False]
    for number, curve in enumerate(FIVE, start=30):
        for step, value in enumerate(curve):
            pruner.should_stop(number, Report(step, {"m": value}))
        pruner.ended(number, complete=True)
    assert stops(pruner, {1: 0.55}, trial=51) == [False], "the median is 0.5, not 0.9"


def test_the_first_quarter_of_a_typical_trial_is_spared() -> None:
    pruner = pruner_after(*[[0.5] * 21] * 5)
    assert stops(pruner, dict.fromkeys(range(7), 0.1)) == [False] * 5 + [True] * 2


def test_one_long_trial_does_not_stretch_the_first_quarter() -> None:
    pruner = pruner_after(*[[0.5] * 5] * 5, [0.5] * 1000)
    assert stops(pruner, {1: 0.1}) == [True]


def test_a_trial_is_no_measure_for_itself_and_a_retry_starts_afresh() -> None:
    pruner = pruner_after(*FIVE)
    assert stops(pruner, {0: 0.9, 1: 0.1}, trial=50) == [False, False]
    pruner.ended(50, complete=False)
    assert stops(pruner, {1: 0.1}, trial=50) == [True], "what a lost attempt reported is forgotten"


def test_reports_without_the_metric_and_trials_without_reports_say_nothing() -> None:
    pruner = pruner_after(*FIVE)
    assert not pruner.should_stop(50, Report(1, {"loss": 9.0}))
    pruner.ended(50, complete=True)
    pruner.ended(51, complete=True)
    pruner.ended(52, complete=False)
    assert stops(pruner, {1: 0.49}, trial=53) == [True]


def test_no_pruner_stops_nothing() -> None:
    pruner = NoPruner()
    for number in range(9):
        assert not pruner.should_stop(number, Report(5, {"m": -float(number)}))
        pruner.ended(number, complete=True)
