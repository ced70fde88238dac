from __future__ import annotations

import random
from dataclasses import replace

import pytest

from agentic_hpt.coordinator.decisions import MAX_SPAWNS, Decision, Repeat
from agentic_hpt.coordinator.guards import judge, must_finalize, options
from agentic_hpt.coordinator.guards.subspace import Tried, count_new, in_any, near
from agentic_hpt.protocols import Situation
from agentic_hpt.records import (
    ActionRecord,
    Budget,
    DecisionRecord,
    Insights,
    OutcomeConstraint,
    Params,
    Report,
    Trial,
    TrialState,
    Usage,
)
from agentic_hpt.space import Choice, Float, Int, SearchSpace
from agentic_hpt.steering import in_range
from situations import NEW, SPACE, situation, trial

LAYERS = (1, 3, 5, 7, 9)
BEST: Params = {"layers": 5, "rate": 0.003, "optimizer": "sgd", "momentum": 0.25}
"""The incumbent of `studied`; the defaults are 3, 0.01, adam."""


def grid(number: int) -> Params:
    params = {"layers": LAYERS[number % 5], "rate": 10 ** (-4 + 3 * (number % 17) / 17), "optimizer": "adam"}
    return params if number % 2 else {**params, "optimizer": "sgd", "momentum": 0.024 * number}


def studied(trials: int = 40, **changes: object) -> Situation:
    """Make a situation after so many complete trials all over the space: the best fifth has a rate of 0.002 to 0.03."""
    made = [trial(i, 0.5 + i / 1000 + 0.1 * (8 <= i % 17 <= 14), params=grid(i)) for i in range(trials - 1)]
    made.append(trial(trials - 1, 0.8, params=BEST))
    known = Insights({"layers": 0.05, "rate": 0.8, "optimizer": 0.1, "momentum": 0.05})
    about = {"trials": tuple(made), "usage": Usage(trials=trials), "round": 3, "insights": known}
    return situation([], **{**about, **changes})


def judged(now: Situation, *actions: dict[str, object], by: str = "") -> tuple[ActionRecord, ...]:
    return judge(Decision.model_validate({"actions": [{"reason": "because", **a} for a in actions]}), now, by)


def one(now: Situation, type_: str, by: str = "", **fields: object) -> ActionRecord:
    return judged(now, {"type": type_, **fields}, by=by)[0]


def limited(now: Situation, *actions: dict[str, object], round_: int = 3) -> Situation:
    """Give the situation after these actions of an earlier round, all of which must have been let through."""
    records = judged(now, *actions)
    assert all(r.verdict != "refused" for r in records), records
    return replace(now, decisions=(*now.decisions, DecisionRecord(round_, "llm", records)), round=round_ + 1)


def undone(now: Situation, type_: str, name: str, round_: int) -> Situation:
    record = ActionRecord(type_, "why", (), "accepted", "the policy", {"parameter": name}, by="policy")
    return replace(now, decisions=(*now.decisions, DecisionRecord(round_, "rules", (record,))))


FREEZE = {"type": "freeze", "parameter": "layers"}
NARROW = {"type": "narrow", "parameter": "rate", "low": 1e-3, "high": 0.05}


# freeze and unfreeze


def test_a_parameter_is_frozen_at_the_incumbents_value() -> None:
    record = one(studied(), "freeze", parameter="layers", evidence=[39], expects={"gain": 0.01, "trials": 12})
    assert (record.verdict, record.evidence) == ("accepted", (39,))
    assert record.detail == {"parameter": "layers", "range": {"values": [5]}}
    assert record.asked == {
        "type": "freeze",
        "reason": "because",
        "evidence": [39],
        "parameter": "layers",
        "expects": {"gain": 0.01, "trials": 12},
    }


@pytest.mark.parametrize(
    ("now", "name", "why"),
    [
        (studied(), "no_such", "no parameter 'no_such'"),
        (studied(19), "layers", "19 trials are complete; 20 are needed"),
        (limited(studied(), FREEZE), "layers", "frozen already"),
        (
            studied(insights=Insights({"layers": 0.25, "rate": 0.75})),
            "layers",
            "importance, 25%, is at least a fair share",
        ),
        (undone(studied(round=4), "unfreeze", "layers", 1), "layers", "took the same back"),
    ],
)
def test_a_freeze_is_refused(now: Situation, name: str, why: str) -> None:
    record = one(now, "freeze", parameter=name)
    assert record.verdict == "refused"
    assert why in record.verdict_reason
    assert record.detail == {}
    assert name not in options(now).freezable


def test_a_freeze_is_let_through_where_it_is_just_enough() -> None:
    assert one(studied(20), "freeze", parameter="layers").verdict == "accepted"
    unimportant = studied(insights=Insights({"layers": 0.24, "rate": 0.76}))
    assert one(unimportant, "freeze", parameter="layers").verdict == "accepted"
    rested = undone(studied(round=5), "unfreeze", "layers", 1)
    assert one(rested, "freeze", parameter="layers").verdict == "accepted"
    assert one(undone(studied(), "unfreeze", "rate", 3), "freeze", parameter="layers").verdict == "accepted"


def test_a_parameter_that_is_not_active_in_the_incumbent_is_not_frozen() -> None:
    now = studied()
    better = replace(now, trials=(*now.trials, trial(40, 0.85, params=NEW)))
    assert "not active in the best trial" in one(better, "freeze", parameter="momentum").verdict_reason
    assert "momentum" not in options(better).freezable
    assert one(now, "freeze", parameter="momentum").detail["range"] == {"values": [0.25]}


def test_the_last_tuned_parameter_is_not_frozen_in_one_decision_or_over_several() -> None:
    names = ("layers", "rate", "momentum", "optimizer")
    begun = studied(insights=Insights(dict.fromkeys(names, 0.2)))
    records = judged(begun, *({"type": "freeze", "parameter": n} for n in names))
    assert [r.verdict for r in records[:4]] == ["accepted"] * 3 + ["refused"]
    assert "last parameter" in records[3].verdict_reason
    now = limited(begun, *({"type": "freeze", "parameter": n} for n in names[:3]))
    assert "last parameter" in one(now, "freeze", parameter="optimizer").verdict_reason
    assert options(now).freezable == ()


def test_a_parameter_that_can_no_longer_be_active_does_not_count_as_one_left() -> None:
    now = studied()
    adam = replace(now, trials=(*now.trials, trial(40, 0.85, params=NEW)))
    records = judged(adam, *({"type": "freeze", "parameter": n} for n in ("optimizer", "layers", "rate")))
    assert [r.verdict for r in records[:3]] == ["accepted", "accepted", "refused"]


def test_a_limit_that_leaves_nothing_new_inside_is_refused() -> None:
    space = SearchSpace(a=Choice(["x", "y"]), b=Int(1, 20))
    made = [trial(i, 0.5, params={"a": "x", "b": 1 + i % 20}) for i in range(19)]
    made += [trial(19, 0.6, params={"a": "x", "b": 20}), trial(20, 0.7, params={"a": "y", "b": 1})]
    now = replace(studied(), space=space, trials=tuple(made))
    assert one(now, "freeze", parameter="a").verdict == "accepted"
    back = replace(now, trials=(*made, trial(21, 0.9, params={"a": "x", "b": 3})))
    assert "nothing that was not tried" in one(back, "freeze", parameter="a").verdict_reason


def test_a_frozen_parameter_is_unfrozen_and_only_a_frozen_one() -> None:
    now = limited(studied(), FREEZE)
    record = one(now, "unfreeze", parameter="layers")
    assert (record.verdict, record.detail) == ("accepted", {"parameter": "layers"})
    assert "is not frozen" in one(now, "unfreeze", parameter="rate").verdict_reason
    assert options(now).frozen == ("layers",)
    assert "unfreeze" not in options(studied()).actions


def test_a_decision_changes_a_parameter_once() -> None:
    now = limited(studied(), FREEZE)
    thawed, again, _ = judged(now, {"type": "unfreeze", "parameter": "layers"}, FREEZE)
    assert (thawed.verdict, again.verdict) == ("accepted", "refused")
    assert "already" in again.verdict_reason


# narrow and widen


def test_a_number_is_narrowed_to_a_range_that_rests_on_trials() -> None:
    record = one(studied(), "narrow", parameter="rate", low=1e-3, high=0.05)
    assert record.verdict == "accepted"
    assert record.detail == {"parameter": "rate", "range": {"low": 1e-3, "high": 0.05}}


@pytest.mark.parametrize(
    ("asked", "range_", "why"),
    [
        ({"low": 1e-9, "high": 0.05}, {"low": 1e-4, "high": 0.05}, "cut to the present range"),
        ({"low": 0.05, "high": 1e-3}, {"low": 1e-3, "high": 0.05}, "swapped"),
        ({"low": 0.02, "high": 0.1}, {"low": 0.003, "high": 0.1}, "stretched to hold the default, the best trial"),
        ({"low": 2e-4, "high": 0.004}, {"low": 2e-4, "high": 0.01}, "stretched"),
        ({"high": 0.05}, {"low": 1e-4, "high": 0.05}, ""),
        ({"values": [0.05, 1e-3]}, {"low": 1e-3, "high": 0.05}, "taken for a range"),
    ],
)
def test_a_range_is_repaired(asked: dict[str, object], range_: dict[str, float], why: str) -> None:
    record = one(studied(), "narrow", "person", parameter="rate", **asked)
    assert record.detail["range"] == range_
    assert record.verdict == ("repaired" if why else "accepted")
    assert why in record.verdict_reason


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"parameter": "no_such", "low": 1.0}, "no parameter"),
        ({"parameter": "rate"}, "names no range"),
        ({"parameter": "rate", "low": 0.2, "high": 0.4}, "outside the present range"),
        ({"parameter": "rate", "low": -4.0, "high": 0.0}, "outside the present range"),
        ({"parameter": "rate", "values": ["a"]}, "no numbers"),
        ({"parameter": "rate", "low": 1.01e-4}, "hardly smaller"),
        ({"parameter": "rate", "low": 1e-4, "high": 0.1}, "hardly smaller"),
        ({"parameter": "optimizer", "low": 0.0, "high": 1.0}, "give values"),
        ({"parameter": "optimizer", "values": ["lbfgs", 3, True, None]}, "none of the parameter's values"),
        ({"parameter": "optimizer", "values": ["adam"]}, "hardly smaller than the present range, once it holds"),
    ],
)
def test_a_narrowing_is_refused(asked: dict[str, object], why: str) -> None:
    record = one(studied(), "narrow", **asked)
    assert record.verdict == "refused"
    assert why in record.verdict_reason


def test_a_narrowing_rests_on_five_trials_a_parameter_of_which_five_lie_inside() -> None:
    assert "9 trials are complete; 20 are needed" in judged(studied(9), NARROW)[0].verdict_reason
    assert "9 complete trials have it; 10 are needed" in judged(studied(9), NARROW, by="person")[0].verdict_reason
    assert options(studied(9)).narrowable == ()
    far = [trial(i, 0.5, params={**grid(1), "rate": 0.09 + i * 1e-4}) for i in range(20)]
    inside = [trial(20 + i, 0.6 + i / 100, params={**grid(1), "rate": 0.011 + i * 1e-4}) for i in range(4)]
    now = replace(studied(), trials=(*far, *inside))
    assert "4 complete trials lie inside; 5 are needed" in judged(now, NARROW, by="person")[0].verdict_reason
    enough = replace(now, trials=(*now.trials, trial(24, 0.1, params={**grid(1), "rate": 0.012})))
    assert judged(enough, NARROW, by="person")[0].verdict == "accepted"


def test_a_models_range_holds_where_the_best_fifth_lies_and_a_persons_need_not() -> None:
    model, person = (one(studied(), "narrow", by, parameter="rate", low=1e-4, high=0.011) for by in ("", "person"))
    assert (model.verdict, person.verdict) == ("repaired", "accepted")
    best = sorted(studied().trials, key=lambda t: -t.values["accuracy"])[:8]
    held = model.detail["range"]
    assert all(in_range(t.params["rate"], held) for t in best)
    assert "best fifth" in model.verdict_reason


def test_nothing_is_frozen_by_a_model_before_it_is_known_what_matters() -> None:
    early = studied(insights=Insights())
    assert "not known yet" in one(early, "freeze", parameter="layers").verdict_reason
    assert one(early, "freeze", "person", parameter="layers").verdict == "accepted"


def test_a_model_whose_proposals_were_far_below_the_samplers_neither_limits_nor_spawns() -> None:
    poor = [
        trial(40 + i, 0.01, params={**grid(1), "rate": 0.09 + i * 1e-4}, kind="proposals", round=3) for i in range(4)
    ]
    beside = [trial(50 + i, 0.5, params={**grid(1), "rate": 0.05 + i * 1e-4}, kind="joint", round=3) for i in range(4)]
    detail = {"configurations": [dict(t.params) for t in poor], "hypotheses": [""] * 4, "expected": [None] * 4}
    asked = DecisionRecord(2, "llm", (ActionRecord("propose", "try", (), "accepted", "new", detail),))
    now = replace(studied(), trials=(*studied().trials, *poor, *beside), decisions=(asked,))
    assert "its 4 proposals so far beat 0%" in judged(now, NARROW)[0].verdict_reason
    assert one(now, "spawn", worker="joint", trials=3).verdict == "refused"
    assert options(now).narrowable == ()
    assert options(now).spawn_trials == 0
    assert judged(now, NARROW, by="person")[0].verdict != "refused"


def test_a_range_of_one_value_is_refused_since_freeze_is_for_that() -> None:
    space = SearchSpace(a=Int(1, 9, default=4), b=Float(0, 1))
    made = tuple(trial(i, 0.5 + i / 100, params={"a": 4, "b": i / 20}) for i in range(15))
    record = one(replace(studied(), space=space, trials=made), "narrow", parameter="a", low=4, high=4)
    assert record.verdict == "refused"
    assert "freeze" in record.verdict_reason


def test_whole_and_stepped_numbers_are_narrowed_on_their_grid() -> None:
    assert one(studied(), "narrow", "person", parameter="layers", low=1.5, high=7.9).detail["range"] == {
        "low": 3,
        "high": 7,
    }
    assert one(studied(), "narrow", "person", parameter="layers", low=5.2, high=5.4).detail["range"] == {
        "low": 3,
        "high": 5,
    }


def test_a_bound_between_two_steps_is_no_narrowing_and_no_limit() -> None:
    space = SearchSpace(a=Float(0.0, 1.0, step=0.3), b=Float(0, 1))  # 0, 0.3, 0.6, 0.9
    made = tuple(trial(i, 0.5 + i / 100, params={"a": 0.3 * (i % 3), "b": i / 50}) for i in range(20))
    now = replace(studied(), space=space, trials=made)
    assert "hardly smaller" in one(now, "narrow", parameter="a", low=0.0, high=0.95).verdict_reason
    narrowed = limited(now, {"type": "narrow", "parameter": "a", "low": 0.0, "high": 0.7})
    assert narrowed.steering.region == {"a": {"low": 0.0, "high": 0.6}}
    assert one(narrowed, "widen", parameter="a", high=0.9).detail == {"parameter": "a"}


def test_a_best_trial_off_the_grid_can_neither_be_held_nor_kept() -> None:
    """An imported one may be: it was made in another space."""
    odd = trial(40, 0.85, params={**BEST, "layers": 6}, kind="imported")
    now = replace(studied(), trials=(*studied().trials, odd))
    assert "not on the grid" in one(now, "freeze", parameter="layers").verdict_reason
    assert "not on the grid" in one(now, "narrow", "person", parameter="layers", low=3, high=5).verdict_reason
    assert one(now, "narrow", "person", parameter="layers", low=3, high=7).detail["range"] == {"low": 3, "high": 7}


def test_a_choice_is_narrowed_to_values_and_keeps_the_default_and_the_incumbents() -> None:
    space = SearchSpace(a=Choice([8, 16, 32, 64, 128], ordered=True, default=16), b=Float(0, 1))
    made = tuple(trial(i, 0.5 + i / 100, params={"a": (8, 16, 32, 64)[i % 4], "b": i / 50}) for i in range(40))
    now = replace(studied(), space=space, trials=made)  # the last, with 64, is the best
    record = one(now, "narrow", "person", parameter="a", values=[128, 64, 999])
    assert (record.verdict, record.detail["range"]) == ("repaired", {"values": [16, 64, 128]})
    between = one(now, "narrow", "person", parameter="a", low=10, high=70)
    assert (between.verdict, between.detail["range"]) == ("repaired", {"values": [16, 32, 64]})


def test_a_frozen_parameter_is_not_narrowed_nor_one_whose_narrowing_was_taken_back() -> None:
    frozen = limited(studied(), FREEZE)
    assert "unfreeze it first" in one(frozen, "narrow", parameter="layers", low=3).verdict_reason
    back = undone(studied(), "widen", "rate", 2)
    assert "took the same back" in judged(back, NARROW)[0].verdict_reason
    assert "rate" not in options(back).narrowable
    assert "layers" not in options(frozen).narrowable


def test_a_narrowed_range_is_narrowed_further_and_never_widened_by_it() -> None:
    now = limited(studied(), NARROW)
    record = one(now, "narrow", parameter="rate", low=2e-3, high=0.1)
    assert (record.verdict, record.detail["range"]) == ("repaired", {"low": 2e-3, "high": 0.05})


@pytest.mark.parametrize(
    ("asked", "range_", "verdict"),
    [
        ({}, None, "accepted"),
        ({"low": 5e-4, "high": 0.08}, {"low": 5e-4, "high": 0.08}, "accepted"),
        ({"low": 5e-4}, {"low": 5e-4, "high": 0.05}, "accepted"),
        ({"low": 5e-4, "high": 0.01}, {"low": 5e-4, "high": 0.05}, "repaired"),
        ({"low": 0.0, "high": 0.08}, {"low": 1e-4, "high": 0.08}, "repaired"),
        ({"low": 1e-4, "high": 0.1}, None, "accepted"),
        ({"low": -9.0, "high": 9.0}, None, "repaired"),
    ],
)
def test_a_narrowed_parameter_is_widened(
    asked: dict[str, object], range_: dict[str, object] | None, verdict: str
) -> None:
    now = limited(studied(), NARROW)
    record = one(now, "widen", parameter="rate", **asked)
    assert record.verdict == verdict
    assert record.detail.get("range") == range_


def test_what_is_not_narrowed_or_would_not_grow_is_not_widened() -> None:
    now = limited(studied(), NARROW)
    assert "no wider" in one(now, "widen", parameter="rate", low=0.01, high=0.02).verdict_reason
    assert "is not narrowed" in one(now, "widen", parameter="layers").verdict_reason
    assert "outside the present range" in one(now, "widen", parameter="rate", low=1.0, high=2.0).verdict_reason
    assert options(now).narrowed == ("rate",)


# prioritise


def test_half_of_the_tuned_parameters_can_come_first() -> None:
    assert one(studied(), "prioritise", parameters=["rate", "layers"]).verdict == "accepted"
    record = one(studied(), "prioritise", parameters=["momentum", "nope", "rate", "rate", "layers"])
    assert (record.verdict, record.detail) == ("repaired", {"parameters": ["momentum", "rate"]})
    assert "dropped" in record.verdict_reason
    assert "only the first 2" in record.verdict_reason


def test_priorities_are_refused_where_they_mean_nothing() -> None:
    now = limited(studied(), FREEZE, {"type": "prioritise", "parameters": ["rate"]})
    assert "none of 'layers' is tuned" in one(now, "prioritise", parameters=["layers"]).verdict_reason
    assert "already" in one(now, "prioritise", parameters=["rate"]).verdict_reason
    first, second, _ = judged(studied(), *({"type": "prioritise", "parameters": [n]} for n in ("rate", "layers")))
    assert (first.verdict, second.verdict) == ("accepted", "refused")
    lonely = replace(studied(), space=SearchSpace(rate=Float(0, 1)))
    assert one(lonely, "prioritise", parameters=["rate"]).verdict == "refused"
    assert "prioritise" not in options(lonely).actions


# spawn


def test_workers_get_what_is_left_of_the_round() -> None:
    first, second, third, _ = judged(
        studied(),
        {"type": "spawn", "worker": "per_parameter", "parameters": ["rate"], "trials": 5},
        {"type": "spawn", "worker": "group", "parameters": ["layers", "rate"], "trials": 500},
        {"type": "spawn", "worker": "joint", "trials": 1},
        by="person",
    )
    assert (first.verdict, first.detail["trials"]) == ("accepted", 5)
    assert (second.verdict, second.detail["trials"]) == ("repaired", 7)
    assert (third.verdict, third.verdict_reason) == ("refused", "the trials of the next round are given out")


def test_proposals_and_repeats_of_the_decision_leave_less_for_workers() -> None:
    _, _, worker, _ = judged(
        studied(round=1),
        {"type": "propose", "configurations": [{"params": NEW}]},
        {"type": "repeat", "trial": 39, "seeds": 2},
        {"type": "spawn", "worker": "joint", "trials": 12},
        by="person",
    )
    assert worker.detail["trials"] == 12 - 1 - 2


def test_no_more_is_spawned_than_the_budget_has() -> None:
    now = studied(budget=Budget(trials=43))
    assert one(now, "spawn", worker="joint", trials=12).detail["trials"] == 3
    assert options(now).spawn_trials == 3


@pytest.mark.parametrize("first", [True, False])
def test_where_there_are_limits_a_tenth_of_the_round_stays_outside(first: bool) -> None:
    worker = {"type": "spawn", "worker": "joint", "trials": 12}
    records = judged(studied(), *([FREEZE, worker] if first else [worker, FREEZE]), by="person")
    assert next(r for r in records if r.type == "spawn").detail["trials"] == 10
    assert [r.type for r in records[:2]] == (["freeze", "spawn"] if first else ["spawn", "freeze"])


def test_a_joint_worker_tunes_what_is_free_inside_the_limits() -> None:
    record = one(limited(studied(), FREEZE), "spawn", worker="joint", parameters=["rate"], trials=4)
    assert record.verdict == "repaired"
    assert record.detail["parameters"] == ["rate", "optimizer", "momentum"]
    assert one(studied(), "spawn", by="person", worker="joint", trials=4).verdict == "accepted"


@pytest.mark.parametrize(
    ("worker", "names", "kept"),
    [
        ("per_parameter", ["rate"], ["rate"]),
        ("per_parameter", ["layers", "rate"], None),
        ("per_parameter", ["rate", "momentum"], ["rate"]),
        ("per_parameter", ["nope"], None),
        ("per_parameter", [], None),
        ("group", ["rate", "nope", "layers", "momentum"], ["rate", "momentum"]),
        ("group", ["rate", "layers"], None),
        ("group", ["rate"], None),
    ],
)
def test_a_worker_has_as_many_tuned_parameters_as_its_kind(
    worker: str, names: list[str], kept: list[str] | None
) -> None:
    record = one(limited(studied(), FREEZE), "spawn", worker=worker, parameters=names, trials=4)
    if kept is None and worker == "per_parameter" and names[:1] == ["layers"]:
        kept = ["rate"]  # the frozen one is dropped, the next takes its place
    assert record.detail.get("parameters") == kept
    assert (record.verdict == "refused") is (kept is None)


def test_a_parameter_that_is_not_active_beside_the_incumbent_has_no_worker() -> None:
    now = studied()
    adam = replace(now, trials=(*now.trials, trial(40, 0.85, params=NEW)))
    assert one(adam, "spawn", worker="per_parameter", parameters=["momentum"], trials=3).verdict == "refused"
    both = one(adam, "spawn", worker="group", parameters=["momentum", "optimizer"], trials=3)
    assert both.detail["parameters"] == ["optimizer", "momentum"]


def test_a_worker_gets_no_more_trials_than_there_are_new_configurations_for_it() -> None:
    record = one(studied(), "spawn", by="person", worker="per_parameter", parameters=["layers"], trials=12)
    assert (record.verdict, record.detail["trials"]) == ("repaired", 4)
    tried = [trial(50 + i, 0.1, params={**BEST, "layers": n}) for i, n in enumerate(LAYERS)]
    now = replace(studied(), trials=(*studied().trials, *tried))
    assert (
        "nothing that was not tried"
        in one(now, "spawn", worker="per_parameter", parameters=["layers"], trials=12).verdict_reason
    )


def test_a_region_stays_inside_the_limits_and_holds_more_than_one_value() -> None:
    now = limited(studied(), NARROW)
    region = [
        {"parameter": "rate", "low": 1e-5, "high": 0.004},
        {"parameter": "layers", "low": 5, "high": 5.5},
        {"parameter": "optimizer", "values": ["adam", "sgd", "x"]},
        {"parameter": "nope", "low": 0.0},
        {"parameter": "momentum", "low": 3.0, "high": 4.0},
    ]
    record = one(now, "spawn", worker="joint", trials=4, region=region)
    assert record.verdict == "repaired"
    assert record.detail["region"] == {"rate": {"low": 1e-3, "high": 0.004}, "optimizer": {"values": ["adam", "sgd"]}}
    assert record.detail["parameters"] == list(SPACE.names)


def test_the_same_worker_is_not_spawned_twice_and_not_more_than_fit() -> None:
    same = {"type": "spawn", "worker": "joint", "trials": 2}
    assert "such a worker" in judged(studied(), same, same)[1].verdict_reason
    space = SearchSpace({f"p{i}": Float(0, 1) for i in range(12)})
    now = replace(studied(), space=space, round_trials=50, trials=(), usage=Usage())
    workers = [{"type": "spawn", "worker": "per_parameter", "parameters": [f"p{i}"], "trials": 1} for i in range(8)]
    assert [r.verdict for r in judged(now, *workers, by="person")[:8]] == ["accepted"] * MAX_SPAWNS


def test_a_model_that_lifts_its_own_limit_does_not_set_one_again_at_once() -> None:
    """Else each limit would begin a window anew, and none would ever be found to bring nothing."""
    start = studied(round=3)
    limit = judged(start, NARROW)[0]
    held = replace(start, decisions=(DecisionRecord(3, "llm", (limit,)),), round=4)
    lifted = judged(held, {"type": "widen", "parameter": "rate"})[0]
    now = replace(held, decisions=(*held.decisions, DecisionRecord(4, "llm", (lifted,))), round=5)
    assert "was lifted" in judged(now, NARROW)[0].verdict_reason
    assert "rate" not in options(now).narrowable
    assert judged(now, NARROW, by="person")[0].verdict != "refused"
    assert judged(replace(now, round=8), NARROW)[0].verdict != "refused"


# propose


def test_a_configuration_all_but_the_same_as_a_tried_or_running_one_is_refused() -> None:
    near = {**BEST, "rate": 0.003 * 1.01}
    assert "all but the same" in one(studied(), "propose", configurations=[{"params": near}]).verdict_reason
    apart = {**BEST, "rate": 0.003 * 1.1}
    assert one(studied(), "propose", configurations=[{"params": apart}]).verdict == "accepted"
    running = replace(studied(), running=(trial(70, state=TrialState.RUNNING, params=apart),))
    assert one(running, "propose", configurations=[{"params": apart}]).verdict == "refused"
    twins = [{"params": apart}, {"params": {**apart, "momentum": 0.2501}}]
    assert len(one(studied(round=1), "propose", configurations=twins).detail["configurations"]) == 1  # type: ignore[arg-type]


def test_the_more_was_tried_the_smaller_a_step_from_a_tried_configuration_may_be() -> None:
    step = {**BEST, "rate": 0.003 * 1.02}  # 0.3 % of its scale
    assert (
        one(replace(studied(), trials=studied().trials[-10:]), "propose", configurations=[{"params": step}]).verdict
        == "refused"
    )
    assert one(studied(), "propose", configurations=[{"params": step}]).verdict == "accepted"
    assert one(studied(400), "propose", configurations=[{"params": BEST}]).verdict == "refused"
    assert (
        one(studied(400), "propose", configurations=[{"params": {**BEST, "rate": 0.003 * 1.001}}]).verdict == "refused"
    )


def test_a_quick_look_for_near_ones_finds_what_a_slow_one_finds() -> None:
    dice = random.Random(0)
    space = SearchSpace(
        a=Float(1e-4, 1, log=True), b=Int(1, 1000), c=Choice([1, True, "x"]), d=Float(0, 1, when={"c": "x"})
    )
    made = [
        space.complete(
            {n: dice.choice([1e-3, 1.01e-3, 1.09e-3, 1e-2]) for n in "a"}
            | {"b": dice.randint(495, 505), "c": dice.choice([1, True, "x"]), "d": dice.random() / 50}
        )
        for _ in range(60)
    ]
    for within in (0.01, 0.003):
        found = [[near(space, a, b, within) for b in made] for a in made]
        assert [[in_any(space, a, [b], within) for b in made] for a in made] == found
        assert 60 < sum(map(sum, found)) < 3600


def test_whole_numbers_with_few_values_are_alike_only_when_equal() -> None:
    space = SearchSpace(a=Int(1, 101), b=Int(1, 1000))
    now = replace(studied(round=1), space=space, trials=(trial(0, 0.5, params={"a": 50, "b": 500}),))
    for params, fate in (
        ({"a": 51, "b": 500}, "accepted"),
        ({"a": 50, "b": 505}, "refused"),
        ({"a": 50, "b": 515}, "accepted"),
    ):
        assert one(now, "propose", configurations=[{"params": params}]).verdict == fate


def test_hypotheses_and_expectations_stay_with_their_configurations() -> None:
    asked = [
        {"params": {**NEW, "layers": 7}, "hypothesis": "deep", "expected": 0.9, "low": 0.8, "high": 0.95},
        {"params": {"layers": 99}, "hypothesis": "outside", "expected": 0.1},
        {"params": NEW, "hypothesis": "fast", "expected": 0.9, "low": 0.95, "high": 0.8},
        {"params": {**NEW, "layers": 1}, "low": 0.1, "high": 0.2},
    ]
    record = one(studied(round=1), "propose", configurations=asked)
    assert record.verdict == "repaired"
    assert record.detail == {
        "configurations": [{**NEW, "layers": 7}, NEW, {**NEW, "layers": 1}],
        "hypotheses": ["deep", "fast", ""],
        "expected": [[0.9, 0.8, 0.95], [0.9, None, None], None],
    }
    assert "does not hold the expected value" in record.verdict_reason


def test_null_stands_for_a_parameter_that_is_not_active() -> None:
    record = one(studied(round=1), "propose", configurations=[{"params": {**NEW, "momentum": None}}])
    assert (record.verdict, record.detail["configurations"]) == ("accepted", [NEW])


def test_a_model_has_its_share_of_a_round_and_a_person_all_of_it() -> None:
    now = studied(round=1)
    many = [{"params": {**NEW, "layers": n, "rate": r}} for n in (1, 7) for r in (0.024, 0.036, 0.054, 0.085)]
    mine = one(now, "propose", configurations=many)
    assert len(mine.detail["configurations"]) == options(now).proposals == 6  # type: ignore[arg-type]
    persons = one(now, "propose", by="person", configurations=many)
    assert (len(persons.detail["configurations"]), persons.by) == (8, "person")  # type: ignore[arg-type]
    assert options(now, by="person").proposals == 12


def test_a_share_of_nothing_lets_no_proposal_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentic_hpt.coordinator.guards.runs.model_share", lambda _: 0.0)
    record = one(studied(), "propose", configurations=[{"params": NEW}])
    assert record.verdict == "refused"
    assert "have not earned" in record.verdict_reason
    assert "propose" not in options(studied()).actions
    monkeypatch.setattr("agentic_hpt.coordinator.guards.runs.model_share", lambda _: 0.01)
    assert one(studied(), "propose", configurations=[{"params": NEW}]).verdict == "accepted"


def test_before_the_first_round_the_default_has_its_place() -> None:
    now = situation([], round=0, round_trials=4, usage=Usage())
    assert one(now, "spawn", by="person", worker="joint", trials=4).detail["trials"] == 3
    assert "tried already" in one(now, "propose", configurations=[{"params": SPACE.default()}]).verdict_reason
    assert one(now, "propose", configurations=[{"params": NEW}]).verdict == "accepted"
    tried = situation([], round=0, round_trials=4, usage=Usage(), trials=(trial(0, 0.5, params=SPACE.default()),))
    assert one(tried, "spawn", by="person", worker="joint", trials=4).detail["trials"] == 4


def test_a_parameter_with_one_value_is_not_limited() -> None:
    space = SearchSpace(rate=SPACE["rate"], fixed=Int(3, 3), layers=SPACE["layers"])
    made = tuple(trial(i, 0.5, params={"rate": 1e-3 * (i + 1), "fixed": 3, "layers": 3}) for i in range(20))
    now = replace(studied(), space=space, trials=made, insights=Insights({"rate": 0.3, "layers": 0.3}))
    assert "one value as it is" in one(now, "freeze", parameter="fixed").verdict_reason
    assert options(now).freezable == ("rate", "layers")
    assert options(now).free == ("rate", "layers")


# repeat


def test_a_complete_trial_is_repeated_within_round_budget_and_runs() -> None:
    assert one(studied(), "repeat", "person", trial=39, seeds=3).detail == {"trial": 39, "seeds": 3}
    cramped = one(studied(round_trials=8), "repeat", "person", trial=39, seeds=3)
    assert (cramped.verdict, cramped.detail["seeds"]) == ("repaired", 2)
    assert "share of a round" in cramped.verdict_reason


def test_a_model_leaves_half_of_a_rounds_repeats_and_of_the_budgets_to_the_rules() -> None:
    assert one(studied(), "repeat", trial=39, seeds=3).detail["seeds"] == 2
    again = [trial(40 + i, 0.6, params=grid(i), kind="repeat") for i in range(5)]
    spent = replace(studied(), trials=(*studied().trials, *again))
    assert "share of the budget" in one(spent, "repeat", trial=39, seeds=1).verdict_reason
    assert judge(Decision(actions=(Repeat(reason="r", trial=39, seeds=1),)), spent, rules=1)[0].verdict == "accepted"


def test_one_configuration_runs_five_times_at_most() -> None:
    now = studied()
    again = [trial(40 + i, 0.7, params=BEST, kind="repeat") for i in range(3)]
    four = replace(now, trials=(*now.trials, *again))
    assert one(four, "repeat", trial=39, seeds=3).detail["seeds"] == 1
    five = replace(four, running=(trial(60, state=TrialState.RUNNING, params=BEST, kind="repeat"),))
    assert "at most 5 times" in one(five, "repeat", trial=40, seeds=1).verdict_reason
    assert 39 not in options(five).repeatable


def test_repeats_have_a_tenth_of_the_budget_and_three_trials_at_least() -> None:
    now = studied()
    others = [trial(40 + i, 0.6, params=grid(i), kind="repeat") for i in range(9)]
    spent = replace(now, trials=(*now.trials, *others))
    assert one(spent, "repeat", "person", trial=39, seeds=3).detail["seeds"] == 1
    small = replace(now, budget=Budget(trials=50))
    assert one(small, "repeat", "person", trial=39, seeds=3).detail["seeds"] == 3
    assert (
        "share of the budget"
        in one(replace(spent, budget=Budget(trials=90)), "repeat", "person", trial=39, seeds=1).verdict_reason
    )


def test_what_is_not_complete_or_repeated_already_is_not_repeated() -> None:
    now = replace(studied(), trials=(*studied().trials, trial(40, None), trial(41, 0.7, params={"other": 1})))
    for number, why in ((40, "not complete"), (99, "not complete"), (41, "declared space")):
        assert why in one(now, "repeat", trial=number, seeds=1).verdict_reason
    first, second, _ = judged(now, *({"type": "repeat", "trial": 39, "seeds": 1} for _ in "ab"))
    assert (first.verdict, second.verdict) == ("accepted", "refused")


# stop_trial


def curve(*values: float) -> tuple[Report, ...]:
    return tuple(Report(step, {"accuracy": value}) for step, value in enumerate(values))


def going(*values: float, number: int = 60) -> Trial:
    return trial(number, state=TrialState.RUNNING, params=NEW, reports=curve(*values))


def reported(count: int = 5, **changes: object) -> Situation:
    now = studied()
    return replace(now, trials=tuple(replace(t, reports=curve(0.2, 0.4, 0.6)) for t in now.trials[:count]), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "stops"),
    [((0.1,), True), ((0.2,), False), ((0.3, 0.1), True), ((0.5, 0.1), False), ((0.1, 0.2, 0.3, 0.4, 0.5), True)],
)
def test_a_running_trial_is_stopped_when_its_best_is_under_the_median_at_its_step(
    values: tuple[float, ...], stops: bool
) -> None:
    now = reported(running=(going(*values),))
    record = one(now, "stop_trial", trial=60)
    assert (record.verdict == "accepted") is stops
    assert record.detail == ({"trial": 60} if stops else {})
    assert options(now).stoppable == ((60,) if stops else ())


def test_a_trial_is_not_stopped_without_a_measure() -> None:
    assert "not running" in one(studied(), "stop_trial", trial=39).verdict_reason
    assert "reported nothing" in one(reported(running=(going(),)), "stop_trial", trial=60).verdict_reason
    assert "5 are needed" in one(reported(4, running=(going(0.1),)), "stop_trial", trial=60).verdict_reason
    now = reported(running=(going(0.1),))
    first, second, _ = judged(now, *({"type": "stop_trial", "trial": 60} for _ in "ab"))
    assert (first.verdict, second.verdict) == ("accepted", "refused")


def test_what_breaks_an_outcome_constraint_is_no_measure_for_a_running_trial() -> None:
    now = reported(running=(going(0.1),))
    nothing_holds = replace(now.goal, constraints=(OutcomeConstraint("accuracy >= 2", ("accuracy",)),))
    refused = one(replace(now, goal=nothing_holds), "stop_trial", trial=60)
    assert refused.verdict_reason.startswith("0 complete trials reported by step")


def test_a_trial_that_beats_the_best_is_never_stopped() -> None:
    """Curves may fall: then a median can lie above what a trial ends with."""
    now = reported()
    falling = tuple(replace(t, reports=curve(0.95, 0.9)) for t in now.trials)
    now = replace(now, trials=falling, running=(going(0.85),))
    assert one(now, "stop_trial", trial=60).verdict == "refused"


# the decision as a whole


def test_evidence_that_does_not_exist_is_dropped_and_told_when_all_of_it_was_invented() -> None:
    some = one(studied(), "continue", evidence=[39, 4711])
    assert (some.evidence, "none of the trials" in some.verdict_reason) == ((39,), False)
    none = one(studied(), "continue", evidence=[4711])
    assert (none.evidence, "none of the trials" in none.verdict_reason) == ((), True)


def test_what_the_policy_takes_back_comes_first_whoever_decides() -> None:
    now = limited(studied(), FREEZE)
    won = replace(now, trials=(*now.trials, trial(40, 0.85, params={**BEST, "layers": 9}, round=4)))
    records = judged(won, {"type": "continue"}, FREEZE)
    assert [(r.type, r.by, r.verdict) for r in records] == [
        ("unfreeze", "policy", "accepted"),
        ("continue", "", "accepted"),
        ("freeze", "", "refused"),
    ]
    assert records[0].evidence == (40,)
    assert "took the same back" in records[2].verdict_reason
    assert options(won).frozen == ()
    assert "layers" not in options(won).freezable


def test_a_decision_that_says_nothing_of_going_on_goes_on() -> None:
    records = judged(studied(), FREEZE, {"type": "finalize"})
    assert [(r.type, r.verdict) for r in records] == [
        ("freeze", "accepted"),
        ("finalize", "refused"),
        ("continue", "accepted"),
    ]
    assert [r.type for r in judged(studied(), {"type": "continue"})] == ["continue"]


def test_a_lucky_trial_does_not_reach_the_target_once_its_configuration_was_repeated() -> None:
    lucky = situation([0.5, 0.91])
    assert must_finalize(lucky) is not None
    again = replace(
        lucky, trials=(*lucky.trials, replace(lucky.trials[1], id=2, kind="repeat", values={"accuracy": 0.8}))
    )
    assert must_finalize(again) is None


# limits that did not pay


def test_the_more_limits_were_taken_back_the_longer_none_is_set() -> None:
    def taken_back(*rounds: int) -> Situation:
        lifted = ActionRecord("widen", "r", (), "accepted", "the policy", {"parameter": "layers"}, by="policy")
        decisions = tuple(DecisionRecord(number, "llm", (lifted,)) for number in rounds)
        return replace(studied(), decisions=decisions, round=9)

    assert one(taken_back(8), "freeze", parameter="momentum").verdict == "accepted"
    twice = one(taken_back(5, 8), "freeze", parameter="momentum")
    assert (twice.verdict, twice.verdict_reason) == (
        "refused",
        "the policy took back 2 limits so far, the last after round 8",
    )
    assert "freeze" not in options(taken_back(5, 8)).actions
    assert one(taken_back(5, 8), "freeze", by="person", parameter="momentum").verdict == "accepted"
    assert one(taken_back(2, 3), "freeze", parameter="momentum").verdict == "accepted", "they have rested six rounds"


def test_a_number_with_more_steps_than_anyone_lists_holds_enough_that_is_new() -> None:
    fine = SearchSpace(c=Choice(["a", "b"]), x=Float(0.0, 1.0, step=1e-9, when={"c": "a"}))
    coarse = SearchSpace(c=Choice(["a", "b"]), x=Float(0.0, 1.0, step=0.5, when={"c": "a"}))
    assert [count_new(space, Tried([]), 9) for space in (fine, coarse)] == [9, 4]
