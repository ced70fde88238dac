from __future__ import annotations

import pytest

from agentic_hpt.errors import SpaceError
from agentic_hpt.records import ActionRecord, DecisionRecord, Verdict
from agentic_hpt.space import Choice, Float, Int, SearchSpace
from agentic_hpt.steering import Spawn, full_range, in_range, space_within, steering_of
from situations import SPACE


def action(type_: str, verdict: Verdict = "accepted", **detail: object) -> ActionRecord:
    return ActionRecord(type_, "because", (), verdict, "why", detail)


def decision(round_: int, *actions: ActionRecord) -> DecisionRecord:
    return DecisionRecord(round_, "llm", actions)


FREEZE = action("freeze", parameter="layers", range={"values": [5]})
NARROW = action("narrow", "repaired", parameter="rate", range={"low": 1e-3, "high": 1e-2})
WORKER = action(
    "spawn", worker="group", parameters=["layers", "rate"], trials=3, region={"rate": {"low": 1.0, "high": 2.0}}
)


def test_without_decisions_nothing_is_limited() -> None:
    steering = steering_of([])
    assert (steering.limits, steering.priorities, steering.spawns, steering.revision) == ({}, (), (), 0)
    assert steering.free(SPACE.names) == SPACE.names


def test_limits_stand_until_they_are_lifted_and_each_change_is_a_revision() -> None:
    steering = steering_of([decision(1, action("continue"), FREEZE), decision(2, NARROW)])
    assert steering.frozen == {"layers": 5}
    assert steering.region == {"rate": {"low": 1e-3, "high": 1e-2}}
    assert steering.free(SPACE.names) == ("rate", "optimizer", "momentum")
    assert (steering.limits["layers"].round, steering.limits["layers"].action) == (1, 1)
    assert steering.revision == 2
    lifted = [decision(3, action("unfreeze", parameter="layers"), action("widen", parameter="rate", range=None))]
    after = steering_of([decision(1, FREEZE), decision(2, NARROW), *lifted])
    assert (after.limits, after.revision) == ({}, 4)


def test_a_refused_action_changes_nothing() -> None:
    refused = [action(r.type, "refused") for r in (FREEZE, NARROW, WORKER)]
    assert steering_of([decision(1, *refused)]) == steering_of([])


def test_a_widened_range_that_is_not_all_stays_a_limit_of_the_widening() -> None:
    wider = action("widen", parameter="rate", range={"low": 1e-4, "high": 1e-2})
    steering = steering_of([decision(1, NARROW), decision(4, wider)])
    limit = steering.limits["rate"]
    assert (limit.kind, limit.range, limit.round) == ("narrowed", {"low": 1e-4, "high": 1e-2}, 4)


def test_the_last_priorities_count_and_workers_live_for_one_round() -> None:
    first = decision(1, action("prioritise", parameters=["rate"]), WORKER)
    steering = steering_of([first])
    assert steering.priorities == ("rate",)
    assert steering.spawns == (Spawn("group", ("layers", "rate"), 3, {"rate": {"low": 1.0, "high": 2.0}}, "because"),)
    later = steering_of([first, decision(2, action("continue"))])
    assert (later.priorities, later.spawns) == (("rate",), ())
    assert steering_of([first, decision(2, action("prioritise", parameters=[]))]).priorities == ()


def test_a_configuration_is_held_to_the_limits_of_its_active_parameters() -> None:
    momentum = action("narrow", parameter="momentum", range={"low": 0.5, "high": 0.9})
    steering = steering_of([decision(1, FREEZE, momentum)])
    assert steering.holds({"layers": 5, "rate": 0.01, "optimizer": "adam"})
    assert not steering.holds({"layers": 3, "rate": 0.01, "optimizer": "adam"})
    assert not steering.holds({"layers": 5, "rate": 0.01, "optimizer": "sgd", "momentum": 0.1})


@pytest.mark.parametrize(
    ("value", "range_", "inside"),
    [
        (1, {"low": 1.0, "high": 2.0}, True),
        (2.0, {"low": 1.0, "high": 2.0}, True),
        (2.1, {"low": 1.0, "high": 2.0}, False),
        (True, {"low": 0.0, "high": 2.0}, False),
        ("a", {"low": 0.0, "high": 2.0}, False),
        (True, {"values": [1]}, False),
        (1.0, {"values": [1]}, True),
        (None, {"values": ["x", None]}, True),
    ],
)
def test_in_range(value: object, range_: dict[str, object], inside: bool) -> None:
    assert in_range(value, range_) is inside  # type: ignore[arg-type]


def test_the_full_range_changes_nothing() -> None:
    assert space_within(SPACE, {name: full_range(SPACE, name) for name in SPACE}).names == SPACE.names
    assert full_range(SPACE, "optimizer") == {"values": ["adam", "sgd"]}


def test_the_space_within_lies_on_the_grid_of_the_declared_one() -> None:
    space = SearchSpace(a=Int(1, 9, step=2), b=Float(0.0, 1.0, step=0.25), c=Choice([8, 16, 32], ordered=True))
    inside = space_within(
        space, {"a": {"low": 1.5, "high": 6.5}, "b": {"low": 0.2, "high": 0.8}, "c": {"values": [32, 8]}}
    )
    assert [inside[name].grid() for name in inside] == [[3, 5], [0.25, 0.5, 0.75], [8, 32]]
    assert all(space.contains(inside.default()) for _ in "x")
    one = space_within(space, {"a": {"values": [7]}, "b": {"values": [0.5]}})
    assert (one["a"].grid(), one["b"].grid()) == ([7], [0.5])


def test_a_default_outside_moves_to_the_nearest_value_inside() -> None:
    assert space_within(SPACE, {"layers": {"low": 5, "high": 9}})["layers"].resolved_default() == 5
    assert space_within(SPACE, {"rate": {"low": 1e-4, "high": 1e-3}})["rate"].resolved_default() == 1e-3


def test_a_parameter_whose_condition_can_not_hold_is_left_out() -> None:
    assert "momentum" not in space_within(SPACE, {"optimizer": {"values": ["adam"]}})
    assert "momentum" in space_within(SPACE, {"optimizer": {"values": ["sgd"]}})


@pytest.mark.parametrize("region", [{"layers": {"low": 3.5, "high": 4.5}}, {"optimizer": {"values": ["lbfgs"]}}])
def test_a_range_without_a_value_is_refused(region: dict[str, dict[str, object]]) -> None:
    with pytest.raises(SpaceError, match="holds none of its values"):
        space_within(SPACE, region)
