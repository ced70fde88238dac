"""Early stopping: the rules (who is measured against whom, and from when on), and the minimums they keep to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentic_hpt.fidelity import Halving
from agentic_hpt.protocols import Pruner
from agentic_hpt.records import Goal, ObjectiveSpec, Report, Trial, TrialState, WorkerKind
from agentic_hpt.strategies import AsyncHalving, FloorRule, FrontPruner, MedianPruner, NoPruner

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


# -- successive halving ---------------------------------------------------------------------------------------------


def halving_after(ends: list[float], steps: int = 9, goal: Goal = GOAL, **settings: object) -> AsyncHalving:
    """Make a pruner that saw complete trials 0, 1, ... of so many steps, each at one value all along."""
    pruner = AsyncHalving(goal, Halving(**settings))  # type: ignore[arg-type]
    for number, end in enumerate(ends):
        for step in range(steps):
            pruner.should_stop(number, Report(step, {"m": end}))
        pruner.ended(number, True)
    return pruner


def comes_to_rung(pruner: AsyncHalving, *values: float, steps: int = 3) -> None:
    """Let trials 0, 1, ... come to a rung and end there."""
    for number, value in enumerate(values):
        for step in range(steps):
            pruner.should_stop(number, Report(step, {"m": value}))
        pruner.ended(number, False)


def first_stop(pruner: AsyncHalving, value: float, trial: int, steps: int = 9) -> int | None:
    """Give how many steps a trial had behind it when it was first to stop."""
    stopped = (s for s in range(steps) if pruner.should_stop(trial, Report(s, {"m": value})))
    return next((step + 1 for step in stopped), None)


def test_rungs_lie_below_the_length_of_the_first_complete_trials_a_factor_of_eta_apart() -> None:
    pruner = halving_after([0.5, 0.6, 0.7], steps=27)
    assert first_stop(pruner, 0.1, 50, steps=27) == 3
    pruner = halving_after([0.5, 0.6, 0.7], steps=27, min_steps=4)
    assert first_stop(pruner, 0.1, 50, steps=27) == 4
    assert first_stop(halving_after([0.5, 0.6], steps=27), 0.1, 50, steps=27) is None, "two say too little"


def test_at_a_rung_only_the_best_third_goes_on() -> None:
    pruner = halving_after([], min_steps=3)
    comes_to_rung(pruner, *[0.1 * n for n in range(12)])
    for number in range(100, 103):  # they make the rungs
        for step in range(9):
            pruner.should_stop(number, Report(step, {"m": 0.05}))
        pruner.ended(number, True)
    assert first_stop(pruner, 0.75, 50) is None, "five of 16 may go on, three have: it is fifth"
    assert first_stop(pruner, 0.65, 51) == 3, "of 17 it is seventh"
    assert first_stop(pruner, 0.75, 52) is None, "who is equal to the last that goes on goes on too"
    assert first_stop(pruner, 0.85, 53) is None, "it is the sixth that goes on"
    assert first_stop(pruner, 0.95, 54) == 3, "it is third of 20, but as many as may went on"
    assert first_stop(pruner, 1.2, 55) is None, "the best one always goes on"


def test_who_comes_to_a_rung_together_is_judged_by_all_of_them_whatever_their_order() -> None:
    def stopped(order: list[int], heard: bool) -> set[int]:
        pruner = halving_after([0.0, 0.0, 0.0], min_steps=3)  # they take three of the four places
        values = {number: number / 10 for number in range(50, 59)}
        for step in range(3):
            reports = [(number, Report(step, {"m": values[number]})) for number in order]
            for number, report in reports if heard else []:
                pruner.hear(number, report)
            ended = {number for number, report in reports if pruner.should_stop(number, report)}
        return ended

    rising, falling = list(range(50, 59)), list(range(58, 49, -1))
    assert stopped(rising, heard=True) == stopped(falling, heard=True) == set(range(50, 58))
    assert stopped(rising, heard=False) != stopped(falling, heard=False), "else hearing first would be for nothing"


def test_only_trials_of_the_search_that_are_under_way_are_heard() -> None:
    def heard(kind: WorkerKind, began: bool = True, ended: bool = False) -> bool:
        rule = halving_after([0.0, 0.0, 0.0], min_steps=1)
        floor = FloorRule(rule, Halving())
        if began:
            floor.began(Trial(50, {}, TrialState.RUNNING, 0, "w", kind, 1))
        if ended:
            floor.ended(50, False)
        floor.hear(50, Report(0, {"m": 0.5}))
        return any(50 in values for values, _ in rule._rungs.values())

    assert heard("joint")
    assert not heard("joint", ended=True)
    assert not heard("fresh_seed", began=False)
    assert not heard("repeat")


def test_when_minimizing_the_lowest_goes_on() -> None:
    pruner = halving_after([0.1, 0.2, 0.3, 0.4, 0.5], goal=Goal("m", "minimize"), min_steps=3)
    assert first_stop(pruner, 0.05, 50) is None
    assert first_stop(pruner, 0.3, 51) == 3


def test_between_rungs_nothing_stops_and_a_rung_is_judged_once() -> None:
    pruner = halving_after([0.5, 0.6, 0.7], min_steps=3)
    told = [pruner.should_stop(50, Report(step, {"m": 0.1})) for step in (0, 1, 2, 2, 3, 4)]
    assert told == [False, False, True, False, False, False]


def test_who_was_stopped_takes_no_place_even_if_it_looked_best_in_the_order_of_numbers() -> None:
    def told(*order: int) -> AsyncHalving:
        pruner = halving_after([0.0, 0.1, 0.2, *[0.0] * 5], min_steps=3)
        for number in order:  # 50 ended at the rung in either order, as 51 had come there first
            first_stop(pruner, {50: 0.5, 51: 0.9}[number], number, steps={50: 3, 51: 9}[number])
            pruner.ended(number, complete=number == 51)
        return pruner

    live, resumed = told(51, 50), told(50, 51)
    assert {number for _, passed in resumed._rungs.values() for number in passed if number > 8} == {51}
    assert resumed._rungs == live._rungs


def test_stopped_and_failed_trials_stay_a_measure_at_the_rungs_they_reached() -> None:
    pruner = halving_after([0.1, 0.1, 0.1], min_steps=3)
    for number, value in enumerate((0.9, 0.8, 0.7), start=50):
        for step in range(3):
            pruner.should_stop(number, Report(step, {"m": value}))
        pruner.ended(number, False)
    assert first_stop(pruner, 0.6, 60) == 3


def test_steps_may_be_counted_from_one_or_in_hundreds() -> None:
    pruner = AsyncHalving(GOAL, Halving())
    for number in range(3):
        for step in range(100, 1000, 100):
            pruner.should_stop(number, Report(step, {"m": 0.5}))
        pruner.ended(number, True)
    told = [pruner.should_stop(50, Report(step, {"m": 0.1})) for step in range(100, 1000, 100)]
    assert told == [True, False, True, False, False, False, False, False, False], "at 100 and 300 of 900"


# -- the minimums -----------------------------------------------------------------------------------------------------


class Always:
    """A rule that finds every trial poor."""

    def should_stop(self, trial: int, report: Report) -> bool:
        return True

    def ended(self, trial: int, complete: bool, allowed: bool = True) -> None:
        pass


def made(number: int, kind: WorkerKind = "joint", **rest: object) -> Trial:
    return Trial(number, {}, TrialState.RUNNING, 0, "w", kind, 1, **rest)  # type: ignore[arg-type]


def runs(floor: FloorRule, trial: Trial, steps: int = 9, asked: bool = False) -> int:
    """Run a trial under a floor rule and give the steps it had behind it when it ended."""
    floor.began(trial)
    for step in range(steps):
        if floor.should_stop(trial.id, Report(step, {"m": 0.5}), asked=asked):
            floor.ended(trial.id, False)
            return step + 1
    floor.ended(trial.id, True)
    return steps


@pytest.mark.parametrize(("rule", "asked"), [(Always(), False), (NoPruner(), True)], ids=["a rule", "a decision"])
class TestWhoeverWantsTrialsStopped:
    def floor(self, rule: Pruner, asked: bool, **settings: object) -> FloorRule:
        floor = FloorRule(rule, Halving(**settings))  # type: ignore[arg-type]
        assert [runs(floor, made(n), asked=asked) for n in range(4)] == [9] * 4, "the first four run to their ends"
        return floor

    def test_the_first_ones_run_to_their_ends_and_later_ones_stop(self, rule: Pruner, asked: bool) -> None:
        assert runs(self.floor(rule, asked), made(4), asked=asked) == 1

    def test_nothing_stops_before_the_first_rung(self, rule: Pruner, asked: bool) -> None:
        assert runs(self.floor(rule, asked, min_steps=5), made(4), asked=asked) == 5

    def test_where_trials_are_too_short_for_rungs_they_stop_from_their_first_report_on(
        self, rule: Pruner, asked: bool
    ) -> None:
        floor = FloorRule(rule, Halving())
        floors = [runs(floor, made(n), steps=1, asked=asked) for n in range(5)]
        assert floors == [1] * 5
        floor.began(made(5))
        assert floor.should_stop(5, Report(0, {"m": 0.5}), asked=asked)

    @pytest.mark.parametrize("kind", ["default", "repeat", "fresh_seed", "holdout"])
    def test_the_default_and_what_tells_luck_from_merit_is_never_stopped(
        self, rule: Pruner, asked: bool, kind: WorkerKind
    ) -> None:
        assert runs(self.floor(rule, asked), made(4, kind), asked=asked) == 9

    def test_one_of_ten_trials_runs_to_its_end(self, rule: Pruner, asked: bool) -> None:
        floor = self.floor(rule, asked)
        lengths = [9] * 4 + [runs(floor, made(n), asked=asked) for n in range(4, 200)]
        for count in range(1, 201):
            assert sum(length == 9 for length in lengths[:count]) >= count / 10
        assert sum(length == 9 for length in lengths) == 20, "and no more than that"

    def test_before_three_trials_are_complete_nothing_stops(self, rule: Pruner, asked: bool) -> None:
        floor = FloorRule(rule, Halving())
        for number in range(4):  # all of them fail
            floor.began(made(number))
            floor.ended(number, False)
        assert [runs(floor, made(n), asked=asked) for n in range(4, 8)] == [9, 9, 9, 1]

    def test_a_floor_rule_that_is_told_of_the_trials_so_far_goes_on_alike(self, rule: Pruner, asked: bool) -> None:
        lived = self.floor(rule, asked)
        lengths = [9] * 4 + [runs(lived, made(n), asked=asked) for n in range(4, 37)]
        again = FloorRule(rule, Halving())
        for number, length in enumerate(lengths):
            state = TrialState.COMPLETE if length == 9 else TrialState.PRUNED
            reports = tuple(Report(step, {"m": 0.5}) for step in range(length))
            again.remember(Trial(number, {}, state, 0, "w", "joint", 1, reports=reports))
        later = [[runs(floor, made(n), asked=asked) for n in range(37, 60)] for floor in (lived, again)]
        assert later[0] == later[1]


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize(
    "rule",
    [
        lambda: MedianPruner(GOAL),
        lambda: AsyncHalving(GOAL, Halving()),
        lambda: FrontPruner(Goal("m", others=(ObjectiveSpec("n"),))),
    ],
    ids=["median", "asha", "front"],
)
def test_what_breaks_an_outcome_constraint_stops_no_other(rule: Callable[[], Pruner], remembered: bool) -> None:
    """Large models are good and too large: small ones, of which one is to win, would all look poor beside them."""
    floor = FloorRule(rule(), Halving())

    def run(number: int, value: float, allowed: bool) -> bool:
        reports = tuple(Report(step, {"m": value + step / 100, "n": value}) for step in range(9))
        if remembered and not allowed:
            done = Trial(number, {}, TrialState.COMPLETE, 0, "w", "joint", 1, reports=reports)
            floor.remember(done, allowed)
            return True
        floor.began(made(number))
        stopped = any(floor.should_stop(number, report) for report in reports)
        floor.ended(number, not stopped, allowed)
        return not stopped

    assert all([run(number, 0.9, allowed=False) for number in range(8)])
    assert all([run(number, number / 100, allowed=True) for number in range(8, 14)]), "each is the best so far"
    assert not run(14, 0.0, allowed=True), "among those that are allowed the rule is what it was"


def test_several_at_once_are_spared_no_more_often_than_one_by_one() -> None:
    floor = FloorRule(Always(), Halving())
    for number in range(4):
        runs(floor, made(number))
    for number in range(4, 40):
        runs(floor, made(number))
    for number in range(40, 60):
        floor.began(made(number))
    spared = [n for n in range(40, 60) if not floor.should_stop(n, Report(0, {"m": 0.5}))]
    assert spared == [40, 50], "while one that is spared still runs, the others stop"


def test_repeats_take_no_places_and_do_not_count_for_the_one_of_ten() -> None:
    floor = FloorRule(Always(), Halving())
    for number in range(4):
        runs(floor, made(number))
    lengths = [runs(floor, made(n)) for n in range(4, 40)]
    again = FloorRule(Always(), Halving())
    for number in range(4):
        runs(again, made(number))
    with_repeats = []
    for number in range(4, 40):
        assert runs(again, made(100 + number, "repeat")) == 9
        with_repeats.append(runs(again, made(number)))
    assert with_repeats == lengths

    class Told(Always):
        def should_stop(self, trial: int, report: Report) -> bool:
            raise AssertionError("a rule was told of a repeat")

    runs(FloorRule(Told(), Halving()), made(0, "repeat"))


def test_nobody_undoes_the_stops_of_a_rule() -> None:
    floor = FloorRule(AsyncHalving(GOAL, Halving(min_steps=3)), Halving(min_steps=3))
    for number in range(4):
        runs(floor, made(number))
    floor.began(made(4))
    assert [floor.should_stop(4, Report(step, {"m": 0.1})) for step in range(3)] == [False, False, True]


def test_a_trial_that_goes_on_from_a_stopped_one_is_judged_at_higher_rungs_only() -> None:
    floor = FloorRule(AsyncHalving(GOAL, Halving(min_steps=1)), Halving(min_steps=1))
    for number in range(4):
        runs(floor, made(number))
    floor.began(made(4))
    assert floor.should_stop(4, Report(0, {"m": 0.1}))
    floor.ended(4, False)
    floor.began(made(5, "promotion", continues=4))
    assert [floor.should_stop(5, Report(step, {"m": 0.1})) for step in (1, 2)] == [False, True], "the next rung is at 3"
