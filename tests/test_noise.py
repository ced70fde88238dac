"""Noise: what is known of it, whom it makes the best, and who runs again because of it."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentic_hpt.coordinator.repeating import MAX_RUNS, SHARE, confirmation
from agentic_hpt.coordinator.rules import decide_by_rules
from agentic_hpt.coordinator.statistics import noise_in, noise_of, noise_sd
from agentic_hpt.past import Past
from agentic_hpt.protocols import Situation
from agentic_hpt.records import (
    ActionRecord,
    Budget,
    DecisionRecord,
    Direction,
    Goal,
    Insights,
    OutcomeConstraint,
    Outlook,
    Params,
    Trial,
    TrialState,
    Usage,
    WorkerKind,
)
from agentic_hpt.shrinkage import Pooled, Prior, pooled, student
from agentic_hpt.space import Float, SearchSpace

GOAL = Goal("m")
SPACE = SearchSpace(x=Float(0.0, 1.0))


def trial(number: int, value: float | None, kind: WorkerKind = "joint", params: Params | None = None) -> Trial:
    state = TrialState.FAILED if value is None else TrialState.COMPLETE
    made = {"x": number / 1000} if params is None else params
    return Trial(number, made, state, number, "w", kind, 1 + number // 8, values={} if value is None else {"m": value})


def again(first: Trial, number: int, value: float | None) -> Trial:
    return trial(number, value, "repeat", first.params)


def situation(trials: Sequence[Trial], **changes: object) -> Situation:
    made = Situation(
        study="s",
        round=3,
        goal=GOAL,
        space=SPACE,
        budget=Budget(trials=100),
        usage=Usage(trials=len(trials)),
        slots=2,
        round_trials=8,
        trials=tuple(trials),
        strategy="auto",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def course(count: int) -> list[Trial]:
    dice = random.Random(3)
    return [trial(i, dice.random()) for i in range(count)]


# -- figures --------------------------------------------------------------------------------------------------------


def test_the_sd_is_pooled_over_repeated_configurations_with_its_interval() -> None:
    assert pooled([[1.0], [2.0]]) is None
    found = pooled([[1.0, 3.0], [5.0, 5.0, 5.0], [9.0]])
    assert found == Pooled(pytest.approx(math.sqrt(2 / 3)), 3)
    low, high = found.interval()
    assert low < found.sd < high
    few, many = Pooled(1.0, 2).interval(), Pooled(1.0, 50).interval()
    assert few[0] < many[0] < 1 < many[1] < few[1]
    assert Pooled(1.0, 10).interval() == (pytest.approx(0.739, abs=0.002), pytest.approx(1.595, abs=0.002))
    assert Pooled(1.0, 1).interval() == (pytest.approx(0.510, abs=0.002), pytest.approx(15.95, abs=0.02))


@pytest.mark.parametrize(("freedom", "reach"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (30, 2.042)])
def test_students_intervals_are_those_of_the_tables(freedom: int, reach: float) -> None:
    assert student(freedom) == pytest.approx(reach, rel=0.01)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30), st.floats(1e-3, 10), st.floats(-1, 1), st.integers(1, 9))
def test_more_runs_draw_a_mean_less_and_leave_less_doubt(
    losses: list[float], sd: float, mean: float, runs: int
) -> None:
    prior = Prior.of(losses, sd)
    near, far = prior.estimate(mean, runs), prior.estimate(mean, runs + 1)
    assert min(prior.mean, mean) - 1e-12 <= near <= max(prior.mean, mean) + 1e-12
    assert abs(far - mean) <= abs(near - mean) + 1e-12
    assert prior.doubt(runs + 1) < prior.doubt(runs) <= sd / math.sqrt(runs)


def test_noise_comes_from_repeats_and_else_from_what_neighbours_say() -> None:
    trials = [trial(0, 0.5), trial(1, 0.7)]
    assert noise_of(GOAL, trials) is None
    told = Insights(outlook=Outlook(gain=0.1, sd=0.1, noise=0.03, trials=20))
    by_neighbours = noise_in(Past.of(GOAL, trials), told)
    assert by_neighbours is not None
    assert (by_neighbours.sd, by_neighbours.source) == (0.03, "neighbours")
    assert noise_sd(trials, GOAL) is None, "neighbours are no measure of a gain"
    measured = noise_in(Past.of(GOAL, [*trials, again(trials[0], 2, 0.7)]), told)
    assert measured is not None
    assert (measured.source, measured.repeats, measured.sd) == ("repeats", 1, pytest.approx(math.sqrt(0.02)))


def test_an_imported_run_of_the_same_configuration_is_no_measure_of_noise() -> None:
    trials = [trial(0, 0.5), trial(1, 0.7)]
    assert noise_of(GOAL, [trial(2, 9.0, "imported", trials[0].params), *trials]) is None


def test_one_and_true_are_two_configurations() -> None:
    trials = [trial(0, 0.1, params={"x": 1}), trial(1, 0.2, params={"x": True}), trial(2, 0.3, params={"x": 1})]
    assert [[t.id for t in same] for same in Past.of(GOAL, trials).runs()] == [[0, 2]]


# -- the incumbent --------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-4, 4) | st.none(), max_size=12), st.sampled_from(["maximize", "minimize"]), st.booleans())
def test_without_noise_the_best_is_the_best_value(values: list[int | None], direction: Direction, repeat: bool) -> None:
    goal = Goal("m", direction)
    trials = [trial(i, v) for i, v in enumerate(values)]
    ranked = goal.ranked(trials)
    if repeat:  # the same value again: no noise was seen
        trials += [again(t, 100 + t.id, goal.value(t)) for t in trials[:3]]
    best = goal.best(trials)
    assert (best.id if best else None) == (ranked[0].id if ranked else None)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_lucky_single_run_does_not_beat_a_good_mean(direction: Direction) -> None:
    sign = 1 if direction == "maximize" else -1
    goal = Goal("m", direction)
    trials = [trial(i, sign * (0.5 + 0.001 * i)) for i in range(20)]
    good = trial(20, sign * 0.60)
    trials += [good, again(good, 21, sign * 0.62), again(good, 22, sign * 0.58)]
    lucky = trial(23, sign * 0.61)
    assert goal.best([*trials, lucky]) == good
    stood = [*trials, lucky, *(again(lucky, 24 + i, sign * 0.64) for i in range(3))]
    assert goal.best(stood) == lucky, "its mean is better now"
    assert goal.best([*trials, trial(23, sign * 0.9)]) == trial(23, sign * 0.9), "that is more than luck"


def test_where_everything_is_noise_the_best_mean_of_several_runs_is_still_told_apart() -> None:
    dice = random.Random(1)
    trials = [trial(i, dice.gauss(0, 1)) for i in range(20)]
    first, second = trials[0], trials[1]
    trials += [again(first, 20 + i, 0.8 + 0.3 * (-1) ** i) for i in range(4)]
    trials += [again(second, 30 + i, -0.8 + 0.3 * (-1) ** i) for i in range(4)]
    estimates = GOAL.expected(trials)
    assert estimates[first.id] > estimates[second.id]
    assert estimates[first.id] == estimates[20], "all runs of a configuration stand for the same"


def place_of(made: Trial) -> int:
    return round(float(made.params["x"]) * 1000)  # type: ignore[arg-type]


def leader(trials: Sequence[Trial]) -> int:
    means = GOAL.estimates(trials)
    return place_of(max(trials, key=lambda t: means.get(t.id, t.values["m"])))


def test_estimated_means_find_better_configurations_than_means_and_raw_values() -> None:
    """Over 100 studies of 40 configurations, ten runs spent on whoever leads: the truth of the best, by each rule."""
    found: dict[str, list[float]] = {"raw": [], "mean": [], "estimated": []}
    for seed in range(100):
        dice = random.Random(seed)
        truth = [dice.gauss(0, 1) for _ in range(40)]
        trials = [trial(i, t + dice.gauss(0, 1)) for i, t in enumerate(truth)]
        found["raw"].append(truth[max(range(40), key=lambda i: trials[i].values["m"])])

        for number in range(40, 50):
            place = leader(trials)
            trials.append(again(trials[place], number, truth[place] + dice.gauss(0, 1)))
        found["mean"].append(truth[leader(trials)])
        best = GOAL.best(trials)
        assert best is not None
        found["estimated"].append(truth[place_of(best)])
    means = {name: statistics.fmean(values) for name, values in found.items()}
    assert means["estimated"] > means["mean"] > means["raw"] + 0.1


def test_what_breaks_a_constraint_is_not_the_best_whatever_its_mean() -> None:
    goal = replace(GOAL, constraints=(OutcomeConstraint("size <= 4", ("size",)),))
    large = replace(trial(0, 0.9), values={"m": 0.9, "size": 9.0})
    small = replace(trial(1, 0.5), values={"m": 0.5, "size": 1.0})
    more = [replace(again(small, 2 + i, 0.5), values={"m": 0.4 + i / 10, "size": 1.0}) for i in range(2)]
    assert goal.best([large, small, *more]) == small


# -- who runs again -------------------------------------------------------------------------------------------------


def test_the_best_is_run_again_to_know_the_noise() -> None:
    trials = course(24)
    best = GOAL.best(trials)
    assert best is not None
    assert confirmation(situation(trials[:23])) == []
    (first,) = confirmation(situation(trials))
    assert (first.trial, first.seeds) == (best.id, 1)


def test_two_repeats_with_the_same_value_are_believed_and_one_is_not() -> None:
    trials = course(24)
    best, second = GOAL.ranked(trials)[:2]
    once = [*trials, again(best, 24, GOAL.value(best))]
    (asked,) = confirmation(situation(once))
    assert asked.trial == second.id, "another configuration tells more"
    assert confirmation(situation([*once, again(second, 25, GOAL.value(second))])) == []


def test_a_challenger_runs_again_before_it_takes_over_and_what_is_clear_does_not() -> None:
    trials = [trial(i, 0.5 + i / 1000) for i in range(30)]
    best = trials[29]
    trials += [again(best, 30, 0.53), again(best, 31, 0.52), again(best, 32, 0.535)]
    assert confirmation(situation(trials)) == [] or confirmation(situation(trials))[0].trial != 29
    lucky = trial(33, 0.535)
    (asked,) = confirmation(situation([*trials, lucky]))
    assert asked.trial == lucky.id
    assert "may be the best" in asked.reason
    far = [*(replace(t, values={"m": t.id / 10}) for t in trials[:30]), again(best, 30, 2.91), again(best, 31, 2.89)]
    assert confirmation(situation(far)) == [], "the best stands far above the noise"


def test_nothing_runs_more_than_five_times() -> None:
    trials = [trial(i, 0.5 + i / 1000) for i in range(30)]
    for number in range(30, 30 + MAX_RUNS - 1):
        trials.append(again(trials[29], number, 0.5 + (number % 2) / 10))
    assert all(r.trial != 29 for r in confirmation(situation(trials)))


def test_half_of_the_last_rounds_may_tell_the_best_ones_apart() -> None:
    dice = random.Random(5)
    trials = [trial(i, dice.gauss(0, 1)) for i in range(85)]
    trials += [again(trials[3], 85, dice.gauss(0, 1)), again(trials[4], 86, dice.gauss(0, 1))]
    assert len(confirmation(situation(trials[:60] + trials[85:]))) == 1
    late = confirmation(situation(trials))
    assert len(late) == 4
    assert len({r.trial for r in late}) == 4
    decided = decide_by_rules(situation(trials))
    assert [a.verdict for a in decided.actions if a.type == "repeat"] == ["accepted"] * 4
    by_time = situation(trials[:60] + trials[85:], budget=Budget(minutes=1.0), usage=Usage(trials=62, seconds=55.0))
    timed = replace(by_time, trials=tuple(replace(t, seconds=1.0) for t in by_time.trials))
    assert len(confirmation(timed)) == 4, "the minutes left are two rounds"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 40), st.integers(26, 120), st.sampled_from([0.0, 0.1, 5.0]))
def test_repeats_keep_to_their_share_of_the_trials(seed: int, round_trials: int, budget: int, noise: float) -> None:
    dice = random.Random(seed)
    trials: list[Trial] = []
    decisions: list[DecisionRecord] = []
    round_ = 0
    while len(trials) < budget:
        now = situation(
            trials, round=round_, round_trials=round_trials, budget=Budget(trials=budget), decisions=tuple(decisions)
        )
        decision = decide_by_rules(now)
        decisions.append(decision)
        asked = [int(str(a.detail["trial"])) for a in decision.actions if a.type == "repeat"]
        round_ += 1
        for place in range(min(round_trials, budget - len(trials))):
            number = len(trials)
            value = dice.gauss(0, 1) * noise
            if place < len(asked):
                first = trials[asked[place]]
                made = replace(
                    again(first, number, GOAL.value(first) or 0.0),
                    round=round_,
                    worker=f"repeat-{asked[place]}",
                )
                trials.append(replace(made, values={"m": made.values["m"] + value}))
            else:
                trials.append(replace(trial(number, number / 1000 + value), round=round_))
    most = max(2, int(SHARE * budget))
    assert sum(t.kind == "repeat" for t in trials) <= most
    if not noise:
        assert sum(t.kind == "repeat" for t in trials) <= 2


def test_failed_repeats_and_nothing_complete_break_nothing() -> None:
    assert confirmation(situation([trial(i, None) for i in range(30)])) == []
    trials = course(26)
    best = GOAL.best(trials)
    assert best is not None
    (asked,) = confirmation(situation([*trials, again(best, 26, None)]))
    assert asked.trial == best.id


def test_a_models_repeats_do_not_use_up_those_of_the_rules() -> None:
    noisy = [trial(i, 0.5 + 0.01 * (i % 5)) for i in range(40)]
    more = [replace(again(noisy[i], 40 + i, 0.5), worker=f"repeat-{i}") for i in range(16)]
    asked = tuple(ActionRecord("repeat", "r", (), "accepted", "w", {"trial": i, "seeds": 1}) for i in range(16))
    rounds = {t.round for t in more}
    by_model = tuple(DecisionRecord(r - 1, "llm", asked) for r in sorted(rounds))
    by_rules = tuple(DecisionRecord(r - 1, "rules", asked) for r in sorted(rounds))
    assert confirmation(situation([*noisy, *more], decisions=by_model))
    assert not confirmation(situation([*noisy, *more], decisions=by_rules))
