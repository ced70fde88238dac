from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

import pytest

from agentic_hpt.records import Goal, Trial, TrialState
from agentic_hpt.study.uplift_statistics import (
    ANYTIME,
    FRESH,
    Arm,
    ArmRun,
    Baseline,
    Comparison,
    Interval,
    Wins,
    best_so_far,
    compare,
    interval,
    judge,
    pooled_sd,
)

GOAL = Goal("score", "maximize")
BUDGET = 4


def run(arm: Arm, seed: int, curve: Sequence[float | None], **changes: object) -> ArmRun:
    values = [v for v in curve if v is not None]
    fields: dict[str, object] = {
        "arm": arm,
        "seed": seed,
        "study": f"{arm}-{seed}",
        "curve": tuple(curve),
        "default": curve[0],
        "best": values[-1] if values else None,
        "fresh": values[-1] if values else None,
        "fresh_sd": 0.0,
        "fresh_seeds": 3,
        **changes,
    }
    return ArmRun(**fields)  # type: ignore[arg-type]


def baseline(seed: int, mean: float | None = 0.0) -> Baseline:
    return Baseline(seed, mean, 0.0, 3)


def compared(model: float, rules: float, shuffled: float, seeds: int = 6, **changes: object) -> Comparison:
    """Compare arms that reach so much with their second trial, apart from a little that each seed adds."""
    runs = []
    for seed in range(seeds):
        for arm, reached in (("model", model), ("rules", rules), ("shuffled", shuffled)):
            extra = changes if arm == "model" else {}
            runs.append(run(arm, seed, [0.0, reached + seed / 100], **extra))  # type: ignore[arg-type]
    return compare(GOAL, BUDGET, runs, [baseline(seed) for seed in range(seeds)])


def test_the_best_so_far_knows_the_direction_and_counts_trials_without_a_value() -> None:
    def trial(number: int, value: float | None, kind: str = "joint") -> Trial:
        state = TrialState.FAILED if value is None else TrialState.COMPLETE
        values = {} if value is None else {"score": value}
        return Trial(number, {"x": number}, state, number, "w", kind, 1, values=values)  # type: ignore[arg-type]

    trials = [trial(3, 0.1), trial(0, None), trial(1, 0.5), trial(2, 0.7), trial(4, 9.0, "fresh_seed")]
    assert best_so_far(GOAL, [*trials, trial(5, 0.8, "repeat")]) == (None, 0.5, 0.7, 0.7, 0.7), "luck is no find"
    assert best_so_far(GOAL, trials) == (None, 0.5, 0.7, 0.7)
    assert best_so_far(Goal("score", "minimize"), trials) == (None, 0.5, 0.5, 0.1)


def test_regret_is_against_the_best_of_all_arms_and_a_search_that_ended_stays_where_it_was() -> None:
    runs = [run("model", 0, [0.2, 1.0]), run("rules", 0, [0.2, 0.4, 0.4, 0.6])]
    found = compare(GOAL, BUDGET, runs, [])
    assert found.best_known == 1.0
    assert {name: {arm: i.mean for arm, i in arms.items()} for name, arms in found.regret.items()} == {
        "1": {"model": 0.8, "rules": 0.8},
        "2": {"model": 0.0, "rules": 0.6},
        "4": {"model": 0.0, "rules": 0.4},
        ANYTIME: {"model": pytest.approx(0.2), "rules": pytest.approx(0.6)},
        FRESH: {"model": 0.0, "rules": 0.4},
    }
    assert found.against["4"]["rules"].mean == pytest.approx(-0.4)
    assert "shuffled" not in found.against["4"]


def test_regret_is_never_negative_when_less_is_better() -> None:
    runs = [run("model", 0, [3.0, 2.0]), run("rules", 0, [3.0, 1.0])]
    found = compare(Goal("score", "minimize"), BUDGET, runs, [])
    assert (found.best_known, found.regret["4"]["model"].mean, found.regret["4"]["rules"].mean) == (1.0, 1.0, 0.0)
    assert found.wins["model"] == Wins(1, 0, 0)


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ far more than arms do: only pairs show that the model is better in each."""
    runs = []
    for seed in range(6):
        runs += [run("model", seed, [0.0, seed * 10 + 1.0]), run("rules", seed, [0.0, seed * 10.0])]
    found = compare(GOAL, 2, runs, [baseline(seed) for seed in range(6)])
    assert found.against["2"]["rules"] == Interval(-1.0, -1.0, -1.0, 6)
    assert found.verdict == "worth it"


def test_a_model_ahead_in_every_seed_is_worth_it_and_one_behind_is_harmful() -> None:
    assert compared(0.9, 0.5, 0.5).verdict == "worth it"
    harmful = compared(0.5, 0.9, 0.5)
    assert harmful.verdict == "harmful"
    assert "when the budget was spent by 0.4" in harmful.sentence


def test_equal_arms_show_nothing() -> None:
    found = compared(0.5, 0.5, 0.5)
    assert (found.verdict, found.against[ANYTIME]["rules"].low) == ("not shown", 0.0)
    assert "Nor was it shown to do better than when it was fed shuffled outcomes" in found.sentence


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_fewer_than_five_seeds_never_show_anything(seeds: int) -> None:
    for model in (0.9, 0.1):
        found = compared(model, 0.5, 0.5, seeds)
        assert found.verdict == "not shown"
        assert f"{seeds} seed" in found.sentence
    assert compared(0.9, 0.5, 0.5, 5).verdict == "worth it"


def test_seeds_without_a_pair_do_not_count_as_seeds() -> None:
    runs = [run("model", seed, [0.0, 0.9]) for seed in range(6)] + [run("rules", seed, [0.0, 0.5]) for seed in range(4)]
    found = compare(GOAL, BUDGET, runs, [])
    assert (found.seeds, found.against["4"]["rules"].seeds, found.verdict) == (6, 4, "not shown")
    assert "in 4 of 6 seeds both have a result" in found.sentence


def test_seeds_in_which_only_the_model_found_nothing_are_not_passed_over() -> None:
    runs = [run("rules", seed, [0.0, 0.5]) for seed in range(8)]
    runs += [run("model", seed, [None, None] if seed < 2 else [0.0, 0.9]) for seed in range(8)]
    found = compare(GOAL, BUDGET, runs, [])
    assert found.against[ANYTIME]["rules"].below
    assert found.verdict == "not shown"
    assert "in 2 of 8 seeds the model's study has no result" in found.sentence
    assert compare(GOAL, BUDGET, runs[:8] + runs[10:], []).verdict == "worth it", "studies that did not run yet"


def test_a_lead_that_was_not_tried_on_fresh_seeds_is_said_to_be_so() -> None:
    fresh = compared(0.9, 0.5, 0.5)
    assert "luck" not in fresh.sentence
    runs = [run(arm, s, [0.0, v], fresh=None) for s in range(6) for arm, v in (("model", 0.9), ("rules", 0.5))]
    found = compare(GOAL, BUDGET, runs, [])
    assert (found.verdict, "how much of the lead is luck is not known" in found.sentence) == ("worth it", True)


def test_a_model_no_better_than_on_shuffled_outcomes_was_not_shown_to_learn() -> None:
    assert "may be what it knew beforehand" in compared(0.9, 0.5, 0.9).sentence
    learned = compared(0.9, 0.5, 0.6).sentence
    assert "shuffled" not in learned
    assert learned.startswith("Worth it: over the budget the model was ahead of the rules by 0.3")


def test_a_lead_that_fresh_seeds_turn_round_is_harmful() -> None:
    found = compared(0.9, 0.5, 0.5, fresh=0.1)
    assert found.verdict == "harmful"
    assert "on fresh seeds" in found.sentence


def test_failures_of_the_model_are_in_the_sentence() -> None:
    found = compared(0.5, 0.5, 0.5, calls=6, tokens=70, dollars=0.5, fallbacks=2, asked=3)
    assert found.sentence.endswith(
        "In 12 of the 18 decisions for which it was asked the model failed and the rules stood in."
    )
    assert found.costs["model"]["tokens"] == 420
    assert found.costs["rules"]["calls"] == 0


def test_a_win_is_false_when_fresh_seeds_do_not_bear_it_out_beyond_noise() -> None:
    def wins(**changes: object) -> Wins:
        held = run("model", 0, [0.5, 0.9], **{"fresh_sd": 0.1, **changes})
        return compare(GOAL, BUDGET, [held], [Baseline(0, 0.5, 0.1, 3)]).wins["model"]

    noise = 2 * 0.1 * (2 / 3) ** 0.5
    assert wins(fresh=0.5 + noise - 0.001) == Wins(1, 1, 1)
    assert wins(fresh=0.5 + noise + 0.001) == Wins(1, 1, 0)
    assert wins(fresh=None, fresh_seeds=0) == Wins(1, 0, 0), "a win that was not tested is not called false"
    assert wins(best=0.5, fresh=0.1) == Wins(0, 0, 0), "no better than the default is no win"


def test_an_uplift_without_results_says_so() -> None:
    found = compare(GOAL, BUDGET, [run("model", 0, [None, None])], [baseline(0, None)])
    assert (found.best_known, found.verdict) == (None, "not shown")
    assert found.sentence.startswith("Not shown: no seed has a result of both")
    assert compare(GOAL, BUDGET, [], []).seeds == 0


def test_intervals_hold_the_mean_and_are_the_same_each_time() -> None:
    values = [0.1, 0.4, -0.2, 0.3, 0.9]
    found = interval(values)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert min(values) <= found.low < found.mean < found.high <= max(values)
    assert interval(values) == found
    assert interval([]) is None
    assert interval([0.3]) == Interval(0.3, None, None, 1)
    assert not Interval(0.3, None, None, 1).above


@pytest.mark.parametrize("seeds", [5, 8, 20])
def test_intervals_hold_the_truth_about_as_often_as_they_say(seeds: int) -> None:
    """A plain percentile bootstrap of five holds it in 83 of 100 draws; widened for few seeds it must do better."""
    dice = random.Random(1)
    held = 0
    for _ in range(200):
        found = interval([dice.gauss(0.0, 1.0) for _ in range(seeds)])
        assert found is not None
        held += found.low is not None and found.high is not None and found.low <= 0 <= found.high
    assert held >= 180


def test_the_rule_looks_at_all_three_points() -> None:
    better, worse = Interval(-1, -2, -0.5, 9), Interval(1, 0.5, 2, 9)
    unclear = Interval(0, -1, 1, 9)

    def by(anytime: Interval, whole: Interval, fresh: Interval) -> str:
        return judge({ANYTIME: {"rules": anytime}, "4": {"rules": whole}, FRESH: {"rules": fresh}}, 9, "4")

    assert by(better, unclear, unclear) == "worth it"
    assert by(better, worse, unclear) == by(better, unclear, worse) == by(worse, better, better) == "harmful"
    assert by(unclear, better, better) == "not shown"


def test_spreads_are_pooled_by_their_degrees_of_freedom() -> None:
    a, b = [1.0, 2.0, 3.0], [5.0, 5.5]
    squares = 2 * statistics.variance(a) + statistics.variance(b)
    pooled = pooled_sd([(statistics.stdev(a), 3), (statistics.stdev(b), 2), (None, 0), (9.0, 1)])
    assert pooled == pytest.approx((squares / 3) ** 0.5)
    assert pooled_sd([(None, 0)]) is None
