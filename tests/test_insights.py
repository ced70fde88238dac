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
    assert found.trials == 200


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_pair_that_acts_together_is_found_first(seed: int, direction: str) -> None:
    sign = 1 if direction == "minimize" else -1
    trials = sampled(SPACE, lambda p: sign * ((p["a"] - p["b"]) ** 2 + 0.1 * p["c"]), 150, seed, noise=0.02)
    found = insights_of(SPACE, Goal("loss", direction), trials).interactions  # type: ignore[arg-type]
    assert [(i.a, i.b) for i in found] == [("a", "b")]
    assert 0.3 < found[0].strength <= 1.0


@pytest.mark.parametrize("seed", range(10))
def test_in_pure_noise_no_pair_interacts(seed: int) -> None:
    found = insights_of(SPACE, GOAL, sampled(SPACE, lambda p: 0.0, 100, seed, noise=1.0))
    assert found.interactions == ()


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
    for trials in (plain, [*plain, once]):
        found = insights_of(space, GOAL, trials)
        assert found.importance["z"] == 0.0
        assert found.importance["a"] > 0.9


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


def test_the_same_trials_in_another_order_give_the_same_and_a_long_history_rests_on_a_thousand() -> None:
    trials = sampled(SPACE, lambda p: (p["a"] - p["b"]) ** 2, 3000)
    found = insights_of(SPACE, GOAL, trials)
    assert found.trials == 1000
    assert [(i.a, i.b) for i in found.interactions] == [("a", "b")]
    mixed = list(trials)
    random.Random(1).shuffle(mixed)
    assert insights_of(SPACE, GOAL, mixed) == found


def test_an_interaction_is_found_among_many_parameters() -> None:
    space = SearchSpace({f"p{number}": Float(0.0, 1.0) for number in range(20)})
    trials = sampled(space, lambda p: (p["p3"] - p["p7"]) ** 2 + 0.2 * p["p5"], 400)
    found = insights_of(space, GOAL, trials)
    assert [(i.a, i.b) for i in found.interactions] == [("p3", "p7")]
