"""The values that travel: goals, budgets, and what survives plain data."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentic_hpt.errors import ConfigError, FailureKind, HptError, SpaceError, TrialFailure
from agentic_hpt.records import (
    ActionRecord,
    Assignment,
    Budget,
    DecisionRecord,
    FinalReport,
    Goal,
    Outcome,
    Report,
    Trial,
    TrialState,
    Usage,
    WorkerKind,
    is_number,
)


def trial(
    number: int, value: float | None, state: TrialState = TrialState.COMPLETE, kind: WorkerKind = "joint"
) -> Trial:
    values = {} if value is None else {"m": value}
    return Trial(number, {"x": number}, state, 0, "w", kind, 1, values=values)


# -- goals ----------------------------------------------------------------------------------------------------------


def test_best_follows_the_direction_and_takes_the_earliest_of_equals() -> None:
    trials = [trial(3, 0.5), trial(1, 0.9), trial(0, 0.9), trial(2, 0.1)]
    assert Goal("m", "maximize").best(trials) == trials[2]
    assert Goal("m", "minimize").best(trials) == trials[3]
    assert Goal("m").best([]) is None


def test_only_complete_trials_have_a_value() -> None:
    others = [trial(i, 9.0, state) for i, state in enumerate(TrialState) if state is not TrialState.COMPLETE]
    goal = Goal("m")
    assert [goal.value(t) for t in others] == [None] * 3
    assert goal.best(others) is None
    assert goal.ranked([*others, trial(8, 1.0)]) == [trial(8, 1.0)]
    assert Goal("other").best([trial(0, 1.0)]) is None


@given(st.lists(st.integers(-3, 3) | st.none()), st.sampled_from(["maximize", "minimize"]))
def test_ranked_is_best_taken_again_and_again(values: list[int | None], direction: str) -> None:
    goal = Goal("m", direction)
    left = [trial(i, v) for i, v in enumerate(values)]
    expected = []
    while (best := goal.best(left)) is not None:
        expected.append(best)
        left.remove(best)
    assert goal.ranked([trial(i, v) for i, v in enumerate(values)]) == expected


@pytest.mark.parametrize(
    ("goal", "value", "reached"),
    [
        (Goal("m", "maximize", 0.9), 0.9, True),
        (Goal("m", "maximize", 0.9), 0.89, False),
        (Goal("m", "minimize", 0.1), 0.1, True),
        (Goal("m", "minimize", 0.1), 0.2, False),
        (Goal("m", "minimize", 0.0), 0.0, True),
        (Goal("m"), 1e9, False),
        (Goal("m", "maximize", 0.9), None, False),
    ],
)
def test_reached(goal: Goal, value: float | None, reached: bool) -> None:
    assert goal.reached(value) is reached


def test_better_is_strict() -> None:
    assert Goal("m").better(2, 1)
    assert not Goal("m").better(1, 1)
    assert Goal("m", "minimize").better(1, 2)
    assert not Goal("m", "minimize").better(1, 1)


# -- budgets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "budget", "spent", "left"),
    [
        (Usage(trials=9), Budget(trials=10), None, 1),
        (Usage(trials=10), Budget(trials=10), "budget.trials", 0),
        (Usage(trials=11), Budget(trials=10), "budget.trials", 0),
        (Usage(trials=5, seconds=59.9), Budget(minutes=1), None, 2**31),
        (Usage(trials=5, seconds=60), Budget(minutes=1), "budget.minutes", 2**31),
        (Usage(trials=10, seconds=60), Budget(trials=10, minutes=1), "budget.trials", 0),
        (Usage(tokens=99, dollars=9.0), Budget(trials=1, tokens=1, dollars=0.1), None, 1),
    ],
)
def test_budgets(usage: Usage, budget: Budget, spent: str | None, left: int) -> None:
    assert usage.spent(budget) == spent
    assert usage.trials_left(budget) == left


@pytest.mark.parametrize("kind", ["default", "per_parameter", "joint", "combination", "proposals", "ask"])
def test_search_trials_are_counted(kind: WorkerKind) -> None:
    assert trial(0, 1.0, kind=kind).counted


@pytest.mark.parametrize("kind", ["imported", "fresh_seed", "holdout"])
def test_others_are_not_counted(kind: WorkerKind) -> None:
    assert not trial(0, 1.0, kind=kind).counted


def test_finished() -> None:
    assert [trial(0, None, state).finished for state in TrialState] == [False, True, True, True]


# -- plain data -----------------------------------------------------------------------------------------------------


def test_an_assignment_survives_json() -> None:
    assignment = Assignment(
        "lr", "per_parameter", 2, 3, ("lr",), {"n": 1, "f": True, "o": None}, ({"lr": 0.1}, {"lr": 0.2}), "why"
    )
    assert Assignment.from_json(json.loads(json.dumps(assignment.to_json()))) == assignment
    short = Assignment("joint", "joint", 1, 8)
    assert Assignment.from_json(json.loads(json.dumps(short.to_json()))) == short


def decision(*actions: ActionRecord) -> DecisionRecord:
    return DecisionRecord(3, "llm", actions, "ledger", "no answer", 12, 0.5, 1.25)


def test_a_decision_survives_json() -> None:
    record = decision(
        ActionRecord("propose", "r", (1, 2), "repaired", "v", {"configurations": [{"x": 1}]}),
        ActionRecord("finalize", "r", (), "refused", "v"),
    )
    assert DecisionRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert DecisionRecord.from_json(json.loads(json.dumps(decision().to_json()))) == decision()


def test_a_refused_action_is_not_taken() -> None:
    refused = ActionRecord("finalize", "r", (), "refused", "v")
    repaired = ActionRecord("finalize", "r", (), "repaired", "v")
    assert not decision(refused).finalizes
    assert decision(refused, repaired).finalizes
    assert decision(refused, repaired).accepted("finalize") is repaired
    assert decision(repaired).accepted("propose") is None


def test_outcomes() -> None:
    curve = (Report(0, {"m": 0.1}),)
    assert Outcome.complete({"m": 1.0}, seconds=2.0) == Outcome(TrialState.COMPLETE, {"m": 1.0}, seconds=2.0)
    assert Outcome.pruned(reports=curve) == Outcome(TrialState.PRUNED, reports=curve)
    failed = Outcome.failed(FailureKind.NAN, "loss is nan")
    assert (failed.state, failed.values, failed.failure, failed.message) == (
        TrialState.FAILED,
        {},
        FailureKind.NAN,
        "loss is nan",
    )


def test_a_final_report_survives_json() -> None:
    report = FinalReport(4, 0.9, 3, 0.88, 0.01, 0.87, 0.02, "/models/4", 1)
    assert FinalReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    chosen = replace(report, finalists=({"trial": 4, "seeds": 2, "mean": 0.9},), gain=0.1, gain_low=0.0, gain_high=0.2)
    assert FinalReport.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen
    old = {k: v for k, v in report.to_json().items() if k not in ("finalists", "gain", "gain_low", "gain_high")}
    assert FinalReport.from_json(old) == report, "a report of an earlier version"


@pytest.mark.parametrize("value", [0, -1, 0.5, 2**70])
def test_numbers(value: object) -> None:
    assert is_number(value)


@pytest.mark.parametrize("value", [True, False, None, "1", math.nan, math.inf, -math.inf, 10**400, 1j, [1]])
def test_no_numbers(value: object) -> None:
    assert not is_number(value)


# -- errors ---------------------------------------------------------------------------------------------------------


def test_errors_say_what_and_what_to_do() -> None:
    assert str(ConfigError("wrong", "mend it")) == "wrong (mend it)"
    assert str(ConfigError("wrong")) == "wrong"
    assert SpaceError("x").exit_code == 2
    assert HptError("x").exit_code == 1


@pytest.mark.parametrize("error", [SpaceError("wrong", "mend it"), TrialFailure(FailureKind.TIMEOUT, "too long")])
def test_errors_cross_a_process_boundary(error: HptError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (back.message, back.hint) == (error.message, error.hint)
    assert getattr(back, "kind", None) == getattr(error, "kind", None)
