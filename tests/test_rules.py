"""What the rules decide without a model: which workers a round of `auto` has, how many trials each, and why."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentic_hpt.coordinator.rules import decide_by_rules
from agentic_hpt.coordinator.workers import (
    confirmation,
    connected,
    neighbourhood,
    refining_radius,
    shares_of_arms,
    workers,
)
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
from agentic_hpt.steering import in_range, space_within

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


@pytest.mark.parametrize("strategy", ["per_parameter", "joint"])
def test_a_fixed_strategy_stays_as_it_is(strategy: str) -> None:
    decision = decide_by_rules(situation(course(40), strategy=strategy))
    assert [a.type for a in decision.actions] == ["continue"]


def test_before_there_is_something_to_refine_all_explore() -> None:
    assert [a.type for a in decide_by_rules(situation(course(19))).actions] == ["continue"]
    assert [a.type for a in decide_by_rules(situation([trial(i, None) for i in range(30)])).actions] == ["continue"]
    assert accepted(decide_by_rules(situation(course(20))), "spawn")


def test_a_part_of_the_round_refines_the_best() -> None:
    trials = course(24)
    best = GOAL.best(trials)
    assert best is not None
    decision = decide_by_rules(situation(trials))
    spawned = accepted(decision, "spawn")
    assert [a.verdict for a in decision.actions] == ["accepted"] * len(decision.actions), (
        "rules ask for what guards let"
    )
    assert sum(int(str(a.detail["trials"])) for a in spawned) == 6, (
        "a third for each arm, and the joint worker the rest"
    )
    group = next(a for a in spawned if a.detail["worker"] == "group")
    assert group.detail["parameters"] == ["rate", "layers", "size", "kind"], "all that have more than one value"
    assert group.evidence == (best.id,)
    assert f"trial {best.id}" in group.reason
    assert decision.actions[-1].type == "continue"


def test_parameters_that_interact_are_tuned_together_every_other_round() -> None:
    found = (Interaction("size", "rate", 0.4), Interaction("layers", "kind", 0.2), Interaction("rate", "only", 0.1))
    known = Insights({}, found, 24)
    odd = next(s for s in workers(situation(course(24), insights=known, round=3)) if s.worker == "group")
    assert (odd.parameters, odd.region) == (("rate", "size"), ())
    assert "rate, size depend on each other" in odd.reason
    even = next(s for s in workers(situation(course(24), insights=known, round=4)) if s.worker == "group")
    assert even.parameters == ("rate", "layers", "size", "kind")
    assert connected([("a", "b"), ("c", "d"), ("d", "a"), ("b", "e"), ("e", "f")]) == {"a", "b", "c", "d"}


def test_a_parameter_that_matters_gets_the_workers_of_its_own() -> None:
    trials = [*course(24), trial(24, 0.1, "per_parameter"), trial(25, 0.1, "per_parameter")]
    plain = [s.parameters[0] for s in workers(situation(trials)) if s.worker == "per_parameter"]
    assert "rate" not in plain, "it had two trials, the others none"
    known = Insights({"rate": 0.9, "layers": 0.1, "size": 0.0, "kind": 0.0}, (), 24)
    had = [trial(26 + i, 0.1, "per_parameter", {"layers": 1 + i}) for i in range(4)]
    had = [replace(t, tuned=(name,)) for t, name in zip(had, ("layers", "size", "kind", "size"), strict=True)]
    told = workers(situation([*trials, *had], insights=known))
    first = next(s for s in told if s.worker == "per_parameter")
    assert first.parameters == ("rate",)
    assert "importance 90%" in first.reason


def test_a_parameter_without_a_new_value_gets_no_worker_of_its_own() -> None:
    best = trial(23, 9.0)
    others = [trial(40 + i, 0.0, params={**best.params, "kind": kind}) for i, kind in enumerate("abc")]
    sizes = [trial(50 + i, 0.0, params={**best.params, "size": size}) for i, size in enumerate((8, 16, 64))]
    named = [s for s in workers(situation([*course(23), best, *others])) if s.worker == "per_parameter"]
    assert "kind" not in {s.parameters[0] for s in named}
    only = SearchSpace(size=SPACE["size"], kind=SPACE["kind"])
    cut = [replace(t, params={n: t.params[n] for n in only}) for t in [best, *others, *sizes] for _ in range(4)]
    cut = [replace(t, id=i) for i, t in enumerate(cut)]
    named = [s for s in workers(situation(cut, space=only, round_trials=30)) if s.worker == "per_parameter"]
    assert [(s.parameters, s.trials) for s in named] == [(("size",), 1)], "128 is left"


def test_what_pays_gets_more_trials_and_each_arm_keeps_a_part() -> None:
    start = [trial(0, 0.1, "default")]
    gains = [replace(trial(1 + i, 0.2 + i / 100, "group"), round=2) for i in range(10)]
    without = [replace(trial(20 + i, 0.0, kind), round=2) for i, kind in enumerate(("joint", "per_parameter") * 10)]
    shares, why = shares_of_arms(GOAL, [*start, *gains, *without])
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["group"] > 0.5
    assert min(shares.values()) >= 0.15
    assert "group in 10 of 10" in why
    assert "joint in 0 of 10" in why
    before = [replace(trial(100 + i, 5.0 + i, "joint"), round=1) for i in range(9)]
    again, _ = shares_of_arms(GOAL, [*start, *gains, *without, *before])
    assert again["joint"] == pytest.approx(shares["joint"]), "gains before there was something to refine are no merit"
    assert shares_of_arms(GOAL, course(20))[0] == pytest.approx(dict.fromkeys(shares, 1 / 3))


def test_the_group_looks_nearer_when_it_finds_nothing_and_farther_when_it_does() -> None:
    start = trial(0, 0.5)
    assert refining_radius(GOAL, [start]) == pytest.approx(0.2)
    nothing = [trial(1 + i, 0.1, "group") for i in range(8)]
    assert refining_radius(GOAL, [start, *nothing]) == pytest.approx(0.14)
    assert refining_radius(GOAL, [start, *[trial(1 + i, 0.1, "group") for i in range(99)]]) == pytest.approx(0.05)
    assert refining_radius(GOAL, [start, trial(1, 0.6, "group")]) == pytest.approx(0.28)


@given(st.integers(0, 2**32), st.floats(0.01, 0.5))
@settings(max_examples=60)
def test_a_neighbourhood_holds_its_centre_and_more_and_lies_in_the_space(seed: int, radius: float) -> None:
    dice = random.Random(seed)
    space = SearchSpace(
        f=Float(-1.0, 2.0),
        s=Float(0.0, 1.0, step=0.3),
        l=Float(1e-6, 1.0, log=True),
        i=Int(-3, 30, step=4),
        j=Int(1, 4096, log=True),
        o=Choice([1, 2, 4, 8, 16, 32], ordered=True),
        c=Choice(["a", "b"]),
    )
    centre = {
        "f": dice.uniform(-1, 2),
        "s": space["s"].snap(dice.random()),  # type: ignore[arg-type]
        "l": 10 ** dice.uniform(-6, 0),
        "i": space["i"].snap(dice.randint(-3, 30)),
        "j": dice.randint(1, 4096),
        "o": dice.choice([1, 2, 4, 8, 16, 32]),
        "c": dice.choice("ab"),
    }
    parts = neighbourhood(space, centre, space.names, radius)
    region = {
        p.parameter: {k: v for k, v in p.model_dump(exclude={"parameter"}).items() if v is not None} for p in parts
    }
    assert "c" not in region
    inside = space_within(space, region)
    assert inside.contains(centre)
    for name in space.names:
        grid = inside[name].grid()
        assert grid is None or len(grid) > 1
    span = inside["l"]
    assert isinstance(span, Float)
    assert math.log(span.high / span.low) <= 2 * radius * math.log(1e6) + 1e-9


def test_the_best_is_run_again_to_know_the_noise_and_no_more_where_there_is_none() -> None:
    trials = course(24)
    best = GOAL.best(trials)
    assert best is not None
    assert confirmation(situation(trials[:23])) == []
    (first,) = confirmation(situation(trials))
    assert (first.trial, first.seeds) == (best.id, 1)
    same = replace(best, id=24, kind="repeat")
    assert confirmation(situation([*trials, same])) == [], "twice the same value: there is no noise"


def test_the_best_is_confirmed_while_noise_may_have_made_it_the_best() -> None:
    trials = [trial(i, 0.5 + i / 1000) for i in range(30)]
    noisy = [*trials, replace(trials[29], id=30, kind="repeat", values={"m": 0.5})]
    (again,) = confirmation(situation(noisy))
    assert "noise" in again.reason
    clear = [*(replace(t, values={"m": t.id / 10}) for t in trials), replace(trials[29], id=30, kind="repeat")]
    clear[-1] = replace(clear[-1], values={"m": 2.91})
    assert confirmation(situation(clear)) == [], "the best stands far above the noise"
    often = [*trials, *(replace(trials[29], id=30 + i, kind="repeat", values={"m": 0.5 + i / 50}) for i in range(3))]
    assert not any(r.trial == 29 for r in confirmation(situation(often))), "four runs are enough"


def test_the_rules_keep_to_what_is_free_and_to_the_budget() -> None:
    frozen = ActionRecord("freeze", "r", (), "accepted", "ok", {"parameter": "kind", "range": {"values": ["a"]}})
    trials = [replace(t, params={**t.params, "kind": "a"}) for t in course(24)]
    now = situation(trials, decisions=(DecisionRecord(2, "llm", (frozen,)),))
    for spawned in workers(now):
        assert "kind" not in spawned.parameters
    for left in range(1, 8):
        decision = decide_by_rules(situation(course(24), budget=Budget(trials=24 + left)))
        asked = [a for a in decision.actions if a.type in ("spawn", "repeat")]
        assert sum(int(str(a.detail.get("trials", a.detail.get("seeds")))) for a in asked) <= left
        assert all(a.verdict == "accepted" for a in asked)


def test_one_parameter_is_refined_alone() -> None:
    space = SearchSpace(x=Float(0.0, 1.0))
    trials = [Trial(i, {"x": i / 20}, TrialState.COMPLETE, i, "w", "joint", 1, values={"m": 1.0}) for i in range(20)]
    found = workers(situation(trials, space=space))
    assert [(s.worker, s.parameters) for s in found] == [("per_parameter", ("x",))]


def test_the_rules_workers_know_what_the_policy_takes_back_in_the_same_decision() -> None:
    inside = [trial(i, 0.5 + i / 1000) for i in range(30)]
    outside = trial(30, 0.9, params={"rate": 0.09})
    detail = {"parameter": "rate", "range": {"low": 1e-4, "high": 1e-2}}
    narrowed = DecisionRecord(1, "person", (ActionRecord("narrow", "r", (), "accepted", "w", detail),))
    decision = decide_by_rules(situation([*inside, outside], decisions=(narrowed,)))
    assert next(a.type for a in decision.actions if a.by == "policy") == "widen"
    groups = [a for a in decision.actions if a.type == "spawn" and a.detail["worker"] == "group"]
    assert groups
    assert all(a.evidence == (30,) for a in groups)
    assert all(in_range(0.09, a.detail["region"]["rate"]) for a in groups if "rate" in a.detail["region"])


def test_a_models_repeats_do_not_use_up_those_of_the_rules() -> None:
    noisy = [trial(i, 0.5 + 0.01 * (i % 5)) for i in range(40)]
    again = [replace(trial(40 + i, 0.5, "repeat", noisy[i].params), worker=f"repeat-{i}") for i in range(8)]
    asked = tuple(ActionRecord("repeat", "r", (), "accepted", "w", {"trial": i, "seeds": 1}) for i in range(8))
    rounds = {t.round for t in again}
    by_model = tuple(DecisionRecord(r - 1, "llm", asked) for r in sorted(rounds))
    by_rules = tuple(DecisionRecord(r - 1, "rules", asked) for r in sorted(rounds))
    assert confirmation(situation([*noisy, *again], decisions=by_model))
    assert not confirmation(situation([*noisy, *again], decisions=by_rules))


def test_pruned_trials_count_before_refining_begins_and_failed_ones_do_not() -> None:
    complete, others = course(10), [trial(10 + i, None) for i in range(10)]
    assert accepted(decide_by_rules(situation([*complete, *others])), "spawn") == []
    pruned = [replace(t, state=TrialState.PRUNED) for t in others]
    assert accepted(decide_by_rules(situation([*complete, *pruned])), "spawn")
