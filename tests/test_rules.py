"""What the rules decide without a model: which workers a round of `auto` has, how many trials each, and why."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from agentic_hpt.coordinator.rules import decide_by_rules
from agentic_hpt.coordinator.workers import (
    connected,
    share_of_workers,
    trials_due,
    workers,
)
from agentic_hpt.past import Past
from agentic_hpt.protocols import Situation
from agentic_hpt.records import (
    ActionRecord,
    Budget,
    DecisionRecord,
    Goal,
    Insights,
    Interaction,
    Params,
    Trial,
    TrialState,
    Usage,
    WorkerKind,
)
from agentic_hpt.space import Choice, Float, Int, SearchSpace

GOAL = Goal("m")
SPACE = SearchSpace(
    rate=Float(1e-4, 1e-1, log=True, default=1e-3),
    layers=Int(1, 9),
    size=Choice([8, 16, 32, 64, 128], ordered=True),
    kind=Choice(["a", "b", "c"]),
    only=Choice(["x"]),
)


def trial(number: int, value: float | None, kind: WorkerKind = "joint", params: Params | None = None) -> Trial:
    made = {**SPACE.default(), "rate": 1e-3 * (1 + number / 100), **(params or {})}
    state = TrialState.FAILED if value is None else TrialState.COMPLETE
    tuned = ("rate",) if kind == "per_parameter" else ()
    return Trial(
        number, made, state, number, "w", kind, 1 + number // 8, tuned, values={} if value is None else {"m": value}
    )


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


def course(count: int, kind: WorkerKind = "joint") -> list[Trial]:
    dice = random.Random(3)
    return [trial(i, dice.random(), kind) for i in range(count)]


def accepted(decision: DecisionRecord, type_: str) -> list[ActionRecord]:
    return [a for a in decision.actions if a.type == type_ and a.verdict != "refused"]


PAIRS = (Interaction("size", "rate", 0.4, 0.05), Interaction("layers", "kind", 0.2, 0.02))
KNOWN = Insights({"rate": 0.5, "size": 0.3, "layers": 0.1, "kind": 0.1}, PAIRS, 24)
ALONE = Insights({"rate": 0.6, "layers": 0.3, "size": 0.06, "kind": 0.04}, (), 24)
"""What interacts, and what matters each for itself."""


def mixed(rounds: int, worker: WorkerKind, gains: Sequence[WorkerKind] = (), seconds: float = 1.0) -> list[Trial]:
    """Make rounds of nine arms' trials and one worker's, in which each trial of the kinds `gains` betters the best."""
    found = [trial(0, 0.0, "default")]
    for number in range(1, 1 + 10 * rounds):
        kind: WorkerKind = worker if number % 10 == 0 else "joint"
        made = trial(number, float(number) if kind in gains else -1.0, kind)
        found.append(replace(made, round=2, seconds=seconds if kind == worker else 1.0))
    return found


@pytest.mark.parametrize("strategy", ["per_parameter", "joint"])
def test_a_fixed_strategy_stays_as_it_is(strategy: str) -> None:
    decision = decide_by_rules(situation(course(40), strategy=strategy, insights=KNOWN))
    assert [a.type for a in decision.actions] == ["continue"]


def test_without_evidence_there_are_no_workers() -> None:
    assert workers(situation(course(40))) == []
    unsure = Insights({"rate": 0.6, "layers": 0.4}, (), 24, importance_sd={"rate": 0.3, "layers": 0.2})
    assert workers(situation(course(40), insights=unsure)) == []
    assert workers(situation([trial(i, None) for i in range(30)], insights=KNOWN)) == []
    assert workers(situation(course(40), insights=KNOWN))


def test_a_small_part_of_the_round_is_the_workers() -> None:
    trials = course(24)
    best = GOAL.best(trials)
    assert best is not None
    decision = decide_by_rules(situation(trials, insights=KNOWN))
    assert [a.verdict for a in decision.actions] == ["accepted"] * len(decision.actions), (
        "rules ask for what guards let"
    )
    (group,) = accepted(decision, "spawn")
    assert (group.detail["worker"], group.detail["trials"]) == ("group", 1)
    assert group.evidence == (best.id,)
    assert decision.actions[-1].type == "continue"


def test_parameters_that_interact_are_tuned_together() -> None:
    (found,) = workers(situation(course(24), insights=KNOWN))
    assert (found.worker, found.parameters, found.region) == ("group", ("rate", "size"), ())
    assert "rate, size depend on each other (strength up to 40% ± 5%)" in found.reason
    frozen = ActionRecord("freeze", "r", (), "accepted", "ok", {"parameter": "rate", "range": {"values": [1e-3]}})
    held = [replace(t, params={**t.params, "rate": 1e-3}) for t in course(24)]
    (other,) = workers(situation(held, insights=KNOWN, decisions=(DecisionRecord(2, "llm", (frozen,)),)))
    assert other.parameters == ("layers", "kind"), "the next pair, as one of the first is frozen"
    assert connected([("a", "b"), ("c", "d"), ("d", "a"), ("b", "e"), ("e", "f")]) == {"a", "b", "c", "d"}


def test_a_parameter_gets_workers_of_its_own_if_it_surely_matters_and_interacts_with_none() -> None:
    whole = workers(situation(course(24), insights=ALONE, round_trials=30))
    assert [(s.worker, s.parameters, s.trials) for s in whole] == [
        ("per_parameter", ("rate",), 1),
        ("per_parameter", ("layers",), 1),
        ("per_parameter", ("size",), 1),
    ]
    assert "importance 60%, no interaction of it is certain, 0 trials of its own" in whole[0].reason
    joined = replace(ALONE, interactions=(Interaction("layers", "size", 0.3),))
    told = {s.parameters for s in workers(situation(course(24), insights=joined, round_trials=60))}
    assert told == {("layers", "size"), ("rate",)}
    had = [trial(24 + i, 0.1, "per_parameter") for i in range(2)]
    (next_,) = workers(situation([*course(24), *had], insights=ALONE))
    assert next_.parameters == ("layers",), "the other had two trials already"


def test_a_parameter_without_a_new_value_gets_no_worker_of_its_own() -> None:
    best = trial(23, 9.0)
    others = [trial(40 + i, 0.0, params={**best.params, "kind": kind}) for i, kind in enumerate("abc")]
    sizes = [trial(50 + i, 0.0, params={**best.params, "size": size}) for i, size in enumerate((8, 16, 64))]
    known = Insights({"size": 0.5, "kind": 0.5}, (), 24)
    named = workers(situation([*course(23), best, *others], insights=known, round_trials=60))
    assert {s.parameters[0] for s in named} == {"size"}
    only = SearchSpace(size=SPACE["size"], kind=SPACE["kind"])
    cut = [replace(t, params={n: t.params[n] for n in only}) for t in [best, *others, *sizes] for _ in range(4)]
    cut = [replace(t, id=i) for i, t in enumerate(cut)]
    named = workers(situation(cut, space=only, round_trials=60, insights=known))
    assert [(s.parameters, s.trials) for s in named] == [(("size",), 1)], "128 is left"


def test_workers_that_gain_more_often_than_the_arms_get_more_and_others_less_within_bounds() -> None:
    usual, why = share_of_workers(Past.of(GOAL, course(20)))
    assert (usual, why) == (0.1, "no worker has a record yet")
    much, why = share_of_workers(Past.of(GOAL, mixed(10, "group", ["group"])))
    assert much == pytest.approx(0.3), "never more"
    assert "10 of 10 trials of such workers bettered the best, and 0 of 90 others" in why
    alike, _ = share_of_workers(Past.of(GOAL, mixed(10, "group", ["group", "joint"])))
    assert alike == pytest.approx(0.1, rel=0.05)
    idle, _ = share_of_workers(Past.of(GOAL, mixed(10, "group", ["joint"])))
    neither, _ = share_of_workers(Past.of(GOAL, mixed(10, "group")))
    assert 0.03 < idle < 0.1
    assert 0.03 < neither < 0.1
    only = [trial(i, -float(i), "per_parameter") for i in range(1, 100)]
    assert share_of_workers(Past.of(GOAL, [trial(0, 0.0), *only]))[0] == 0.03, "never less"
    cheap = [trial(i, float(i), "joint", {"layers": 9}) for i in range(9)]
    later = [replace(t, id=t.id + 20) for t in mixed(10, "group", ["group"])]
    again = [replace(t, values={"m": t.values["m"] + 50}) for t in later]
    assert share_of_workers(Past.of(GOAL, [*cheap, *again]))[0] == much, "gains before there were workers are no merit"


def test_a_gain_within_the_noise_earns_nothing() -> None:
    trials = mixed(10, "group", ["group"])
    repeats = [replace(trials[5], id=900 + i, kind="repeat", values={"m": v}) for i, v in enumerate((-90.0, 90.0))]
    assert share_of_workers(Past.of(GOAL, [*trials, *repeats]))[0] < 0.1


@pytest.mark.parametrize(("share", "least", "most"), [(0.03, 2, 4), (0.1, 9, 11), (0.3, 28, 32)])
def test_over_many_rounds_the_workers_come_to_their_share(share: float, least: int, most: int) -> None:
    trials: list[Trial] = []
    for _ in range(25):
        given = trials_due(Past.of(GOAL, trials), share, 8)
        assert given <= math.ceil(share * 8)
        for place in range(8):
            trials.append(trial(len(trials), 0.1, "group" if place < given else "joint"))
    assert least <= sum(t.kind == "group" for t in trials[100:]) <= most
    assert trials_due(Past.of(GOAL, []), share, 500) == int(share * 500), (
        "a round may be longer than what is looked back on"
    )


def test_the_rules_keep_to_what_is_free_and_to_the_budget() -> None:
    frozen = ActionRecord("freeze", "r", (), "accepted", "ok", {"parameter": "kind", "range": {"values": ["a"]}})
    trials = [replace(t, params={**t.params, "kind": "a"}) for t in course(24)]
    now = situation(trials, decisions=(DecisionRecord(2, "llm", (frozen,)),), insights=ALONE, round_trials=60)
    assert workers(now)
    for spawned in workers(now):
        assert "kind" not in spawned.parameters
    for left in range(1, 8):
        decision = decide_by_rules(situation(course(24), budget=Budget(trials=24 + left), insights=ALONE))
        asked = [a for a in decision.actions if a.type in ("spawn", "repeat")]
        assert sum(int(str(a.detail.get("trials", a.detail.get("seeds")))) for a in asked) <= left
        assert all(a.verdict == "accepted" for a in asked)


def test_one_parameter_needs_no_worker_of_its_own() -> None:
    space = SearchSpace(x=Float(0.0, 1.0))
    trials = [Trial(i, {"x": i / 20}, TrialState.COMPLETE, i, "w", "joint", 1, values={"m": 1.0}) for i in range(20)]
    assert workers(situation(trials, space=space, insights=Insights({"x": 1.0}, (), 20))) == []


def test_the_rules_workers_know_what_the_policy_takes_back_in_the_same_decision() -> None:
    inside = [trial(i, 0.5 + i / 1000) for i in range(30)]
    outside = trial(30, 0.9, params={"rate": 0.09})
    detail = {"parameter": "rate", "range": {"low": 1e-4, "high": 1e-2}}
    narrowed = DecisionRecord(1, "person", (ActionRecord("narrow", "r", (), "accepted", "w", detail),))
    decision = decide_by_rules(situation([*inside, outside], decisions=(narrowed,), insights=KNOWN))
    assert next(a.type for a in decision.actions if a.by == "policy") == "widen"
    groups = [a for a in decision.actions if a.type == "spawn" and a.detail["worker"] == "group"]
    assert groups
    assert all(a.evidence == (30,) for a in groups)
