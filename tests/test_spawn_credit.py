"""What the workers that a model spawns may cost: an account, which their trials' ranks draw on and refill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agentic_hpt.coordinator.decisions import Decision
from agentic_hpt.coordinator.guards import judge, options
from agentic_hpt.coordinator.spawn_credit import spawn_room
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, Budget, DecisionRecord, Trial
from situations import situation, trial

GROUP = ("layers", "rate")


def spawned(round_: int, by: str = "", trials: int = 4) -> DecisionRecord:
    detail: dict[str, object] = {"worker": "group", "parameters": list(GROUP), "trials": trials, "region": {}}
    return DecisionRecord(round_, "llm", (ActionRecord("spawn", "r", (), "accepted", "ok", detail, by=by),))


def after(rounds: Sequence[tuple[float | None, ...]], by: str = "", budget: int = 200) -> Situation:
    """Make rounds of sampler's trials with values 0.1 to 0.8, beside the trials of a spawned group."""
    trials: list[Trial] = []
    for number, values in enumerate(rounds, 2):
        for i in range(8):
            trials.append(trial(len(trials), 0.1 * (i + 1), round=number, kind="joint"))
        for value in values:
            trials.append(trial(len(trials), value, round=number, kind="group", tuned=GROUP))
    decisions = tuple(spawned(number + 1, by) for number in range(len(rounds)))
    now = situation((), round=len(rounds) + 1, trials=tuple(trials), decisions=decisions, budget=Budget(trials=budget))
    return replace(now, round_trials=100)


def test_the_account_opens_with_a_thirtieth_of_the_budget_and_three_at_least() -> None:
    assert spawn_room(after([])) == 6
    assert spawn_room(after([], budget=30)) == 3
    assert spawn_room(after([], budget=5000)) == 50, "at most half a round"


def test_poor_workers_use_it_up_and_good_ones_pay_back() -> None:
    assert spawn_room(after([(0.0,) * 4])) == 2
    assert spawn_room(after([(None,) * 4])) == 2, "a failed trial is a poor one"
    assert spawn_room(after([(0.0,) * 4, (0.0,) * 4])) == 0
    assert spawn_room(after([(0.0,) * 4, (0.9,) * 2])) == 4
    assert spawn_room(after([(0.9,) * 40])) == 6, "merit is no licence"
    assert spawn_room(after([(0.45,) * 40])) == 6, "a worker like any other costs nothing"


def test_the_rules_workers_are_not_on_the_models_account() -> None:
    assert spawn_room(after([(0.0,) * 4] * 3, by="rules")) == 6


@pytest.mark.parametrize("by", ["", "person"])
def test_the_guard_and_the_schema_keep_to_it_but_not_for_a_person(by: str) -> None:
    spawn = {"type": "spawn", "reason": "r", "worker": "joint", "trials": 50}
    for now, room in ((after([]), 6), (after([(0.0,) * 4]), 2), (after([(0.0,) * 8]), 0)):
        record = judge(Decision.model_validate({"actions": [spawn]}), now, by)[0]
        assert record.detail.get("trials", 0) == (50 if by else room)
        assert options(now, by).spawn_trials == (100 if by else room)
        own = judge(Decision.model_validate({"actions": [spawn]}), now, rules=1)[0]
        assert own.detail["trials"] == 50
    assert "not earned" in judge(Decision.model_validate({"actions": [spawn]}), after([(0.0,) * 8]))[0].verdict_reason
