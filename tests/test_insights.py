from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from agentic_hpt.errors import FailureKind
from agentic_hpt.records import Goal, Insights, ParamValue, Trial, TrialState
from agentic_hpt.space import Choice, Float, Int, SearchSpace
from agentic_hpt.strategies.insights import insights_of
from agentic_hpt.strategies.proposing import random_value

SPACE = SearchSpace(a=Float(0.0, 1.0), b=Float(0.0, 1.0), c=Float(0.0, 1.0), idle=Float(0.0, 1.0))
GOAL = Goal("loss", "minimize")
Function = Callable[[dict[str, float]], float | None]


def sampled(space: SearchSpace, function: Function, count: int, seed: int = 0, noise: float = 0.0) -> list[Trial]:
    """Make trials all over the space; one for which the function gives nothing has failed."""
    dice = random.Random(seed)
    trials = []
    for number in range(count):
        params: dict[str, ParamValue] = {}
        for name in space.order:
            if space.is_active(name, params):
                params[name] = random_value(space[name], dice)
        value = function(params)  # type: ignore[arg-type]
        made = Trial(number, params, TrialState.COMPLETE, number, "joint", "joint", 1)
        if value is None:
            trials.append(replace(made, state=TrialState.FAILED, failure=FailureKind.CRASH))
        else:
            trials.append(replace(made, values={"loss": value + dice.gauss(0, noise)}))
    return trials


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "function",
    [
        lambda p: p["a"] + 2 * p["b"] + 0.5 * p["c"],
        lambda p: (p["a"] - 0.3) ** 2 + (p["b"] - 0.7) ** 2,
        lambda p: 100 ** p["a"] + 100 ** p["b"],
    ],
)
def test_where_each_parameter_acts_for_itself_no_pair_interacts(function: Function, seed: int) -> None:
    found = insights_of(SPACE, GOAL, sampled(SPACE, function, 200, seed))
    assert found.interactions == ()
    assert sum(found.importance.values()) == pytest.approx(1.0)
    assert min(found.importance, key=lambda name: found.importance[name]) in ("idle", "c")
    assert found.importance["idle"] < 0.1
    assert found.trials == 128


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_pair_that_acts_together_is_found_first(seed: int, direction: str) -> None:
    sign = 1 if direction == "minimize" else -1
    trials = sampled(SPACE, lambda p: sign * ((p["a"] - p["b"]) ** 2 + 0.1 * p["c"]), 150, seed, noise=0.02)
    found = insights_of(SPACE, Goal("loss", direction), trials).interactions  # type: ignore[arg-type]
    assert [(i.a, i.b) for i in found] == [("a", "b")]
    assert 0.3 < found[0].strength <= 1.0


@pytest.mark.parametrize("seed", range(10))
def test_in_pure_noise_no_pair_interacts_and_nothing_surely_matters(seed: int) -> None:
    for count in (40, 100):
        found = insights_of(SPACE, GOAL, sampled(SPACE, lambda p: 0.0, count, seed, noise=1.0))
        assert found.interactions == ()
        assert max(map(found.sure, SPACE)) < 0.05


def test_of_functions_without_interactions_fewer_than_one_in_twenty_seems_to_have_one() -> None:
    wrong = 0
    for seed in range(40):
        dice = random.Random(seed)
        bent = {name: (dice.uniform(0, 2), dice.random()) for name in SPACE}

        def additive(p: dict[str, float], bent: dict[str, tuple[float, float]] = bent) -> float:
            return sum(weight * (p[name] - middle) ** 2 for name, (weight, middle) in bent.items())

        trials = sampled(SPACE, additive, (20, 40, 80)[seed % 3], seed, noise=(0.0, 0.05)[seed % 2])
        wrong += bool(insights_of(SPACE, GOAL, trials).interactions)
    assert wrong < 2


def test_what_is_known_gets_surer_with_trials() -> None:
    told = [insights_of(SPACE, GOAL, sampled(SPACE, lambda p: p["a"] * p["b"] + p["c"], n, 1, 0.1)) for n in (15, 120)]
    assert all(set(found.importance_sd) == set(SPACE) for found in told)
    for name in SPACE:
        assert told[1].importance_sd[name] < told[0].importance_sd[name]
    assert told[1].sure("c") > 0.3


def test_what_matters_is_found_in_both_directions() -> None:
    for direction, sign in (("minimize", 1), ("maximize", -1)):
        trials = sampled(SPACE, lambda p, sign=sign: sign * ((p["b"] - 0.5) ** 2 + 0.01 * p["a"]), 200)
        found = insights_of(SPACE, Goal("loss", direction), trials)  # type: ignore[arg-type]
        assert next(iter(found.importance)) == "b"
        assert found.importance["b"] > 0.6


def test_conditions_and_categories_take_part() -> None:
    space = SearchSpace(
        optimizer=Choice(["adam", "sgd", "lion"]),
        momentum=Float(0.0, 1.0, when={"optimizer": "sgd"}),
        layers=Int(1, 9, step=2),
        rate=Float(1e-4, 1.0, log=True),
        width=Choice([8, 16, 32, 64], ordered=True),
        fixed=Float(1.0, 1.0),
    )

    def loss(p: dict[str, object]) -> float:
        wanted = 3 if p["optimizer"] == "adam" else 7
        return abs(p["layers"] - wanted) + 0.1 * abs(p.get("momentum", 0.0) - 0.9)  # type: ignore[operator]

    found = insights_of(space, GOAL, sampled(space, loss, 300))  # type: ignore[arg-type]
    assert set(found.importance) == set(space)
    assert found.importance["fixed"] == 0.0
    assert next(iter(found.importance)) == "layers"
    assert (found.interactions[0].a, found.interactions[0].b) == ("optimizer", "layers")


def test_a_parameter_active_once_or_never_is_worth_nothing() -> None:
    space = SearchSpace(
        kind=Choice(["x", "y"]),
        z=Float(0.0, 1.0, when={"kind": "y"}),
        a=Float(0.0, 1.0),
    )
    plain = [t for t in sampled(space, lambda p: p["a"], 80) if t.params["kind"] == "x"][:30]
    once = replace(plain[0], id=99, params={"kind": "y", "z": 0.5, "a": 0.1})
    found = insights_of(space, GOAL, plain)
    assert (found.importance["z"], found.importance["kind"]) == (0.0, 0.0)
    assert found.importance["a"] == pytest.approx(1.0)
    found = insights_of(space, GOAL, [*plain, once])
    assert found.importance["z"] == 0.0
    assert found.importance["a"] > 0.8
    assert found.sure("kind") < 0.05


def test_trials_that_fail_count_as_poor_ones() -> None:
    trials = sampled(SPACE, lambda p: None if p["c"] > 0.5 else 0.1, 200, noise=0.01)
    assert next(iter(insights_of(SPACE, GOAL, trials).importance)) == "c"
    lost = [replace(t, failure=FailureKind.LOST_WORKER) if t.failure else t for t in trials]
    assert insights_of(SPACE, GOAL, lost).trials == sum(t.failure is None for t in trials)
    pruned = [replace(t, state=TrialState.PRUNED, failure=None) if t.failure else t for t in trials]
    assert insights_of(SPACE, GOAL, pruned).importance == insights_of(SPACE, GOAL, trials).importance


@pytest.mark.parametrize("values", [(0.5,), (0.5, None), (0.0, 0.0, 0.0, 1.0)])
def test_equal_values_divide_nothing_by_zero(values: tuple[float | None, ...]) -> None:
    dice = random.Random(4)
    found = insights_of(SPACE, GOAL, sampled(SPACE, lambda p: dice.choice(values), 60))
    assert found.importance == {} or sum(found.importance.values()) == pytest.approx(1.0)
    assert found.interactions == ()
    if values == (0.5,):
        assert found == Insights({}, (), 60)


def test_too_few_trials_say_nothing() -> None:
    trials = sampled(SPACE, lambda p: p["a"], 12)
    assert insights_of(SPACE, GOAL, trials).importance
    assert insights_of(SPACE, GOAL, trials[:11]) == Insights()
    assert insights_of(SPACE, GOAL, []) == Insights()


def test_trials_from_outside_the_space_are_left_out() -> None:
    trials = sampled(SPACE, lambda p: p["a"], 40)
    outside = [replace(t, id=100 + t.id, params={**t.params, "a": 5.0}) for t in trials]
    assert insights_of(SPACE, GOAL, [*trials, *outside]) == insights_of(SPACE, GOAL, trials)


def test_the_same_trials_in_another_order_give_the_same_and_a_long_history_rests_on_a_part() -> None:
    trials = sampled(SPACE, lambda p: (p["a"] - p["b"]) ** 2, 3000)
    found = insights_of(SPACE, GOAL, trials)
    assert found.trials == 128
    assert [(i.a, i.b) for i in found.interactions] == [("a", "b")]
    mixed = list(trials)
    random.Random(1).shuffle(mixed)
    assert insights_of(SPACE, GOAL, mixed) == found


@pytest.mark.parametrize("count", [60, 400])
def test_an_interaction_is_found_among_many_parameters(count: int) -> None:
    space = SearchSpace({f"p{number}": Float(0.0, 1.0) for number in range(14)})
    trials = sampled(space, lambda p: (p["p3"] - p["p7"]) ** 2 + 0.2 * p["p5"], count)
    found = insights_of(space, GOAL, trials)
    assert [(i.a, i.b) for i in found.interactions] == [("p3", "p7")]
    assert 0 < found.interactions[0].sd < found.interactions[0].strength / 2
    assert set(list(found.importance)[:3]) == {"p3", "p5", "p7"}


def test_a_hundred_parameters_are_looked_at_by_those_that_vary_most() -> None:
    space = SearchSpace({f"p{number}": Float(0.0, 1.0) for number in range(100)})
    found = insights_of(space, GOAL, sampled(space, lambda p: p["p3"] * p["p7"] + 0.5 * p["p50"], 320))
    assert set(list(found.importance)[:3]) == {"p3", "p7", "p50"}
    assert len(found.importance) == 100
    assert sum(share > 0 for share in found.importance.values()) <= 15


def test_where_trials_crowd_around_the_best_an_additive_function_has_no_pair_and_another_has_its_own() -> None:
    dice = random.Random(0)

    def crowded(function: Function) -> list[Trial]:
        wide = sampled(SPACE, function, 20, 3)
        found = list(wide)
        for number in range(20, 100):
            params = {name: min(1.0, max(0.0, dice.gauss(0.5, 0.05 + 0.1 * (number % 2)))) for name in SPACE}
            value = function(params)
            assert value is not None
            found.append(replace(wide[0], id=number, params=params, values={"loss": value}))
        return found

    alone = crowded(lambda p: sum((p[name] - 0.5) ** 2 for name in "abc"))
    assert insights_of(SPACE, GOAL, alone).interactions == ()
    joined = crowded(lambda p: (p["a"] - p["b"]) ** 2 + (p["c"] - 0.5) ** 2)
    assert [(i.a, i.b) for i in insights_of(SPACE, GOAL, joined).interactions] == [("a", "b")]
