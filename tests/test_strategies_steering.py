"""What the decisions ask for, and how every strategy does it: limits, the share outside, repeats, spawned workers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentic_hpt.protocols import Strategy
from agentic_hpt.records import ActionRecord, Assignment, Budget, DecisionRecord, Goal, Trial, configuration_key
from agentic_hpt.space import Choice, Float, Int, SearchSpace
from agentic_hpt.steering import in_range
from agentic_hpt.strategies import Auto, Joint, PerParameter
from test_strategies import CONDITIONAL, DEFAULT, GOAL, SPACE, by_worker, situation, trial

STRATEGIES = [PerParameter, Joint, Auto]
FREEZE_N = ("freeze", {"parameter": "n", "range": {"values": [3]}})
NARROW_LR = ("narrow", {"parameter": "lr", "range": {"low": 1e-3, "high": 1e-2}})
NARROW_WIDTH = ("narrow", {"parameter": "width", "range": {"values": [32, 64]}})


def decided(*actions: tuple[str, Mapping[str, object]], round_: int = 1, verdict: str = "accepted") -> DecisionRecord:
    records = tuple(ActionRecord(type_, "why", (), verdict, "ok", dict(detail)) for type_, detail in actions)  # type: ignore[arg-type]
    return DecisionRecord(round_, "llm", records)


def spawn(worker: str, *names: str, trials: int = 4, **region: object) -> tuple[str, dict[str, object]]:
    return "spawn", {"worker": worker, "parameters": list(names), "trials": trials, "region": region}


def plan(
    strategy: Strategy,
    *decisions: DecisionRecord,
    trials: Sequence[Trial] = (trial(0, DEFAULT, 0.5, kind="default"),),
    space: SearchSpace = SPACE,
    **rest: object,
) -> list[Assignment]:
    now = situation(space, trials, 1, decisions=decisions, **rest)
    return strategy.plan(now, decisions[-1] if decisions else None)


def total(assignments: Sequence[Assignment]) -> int:
    return sum(a.trials for a in assignments)


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", STRATEGIES)
def test_a_frozen_parameter_has_no_worker_and_is_held_at_its_value(made: type[Strategy]) -> None:
    found = plan(made(SPACE, GOAL), decided(FREEZE_N))
    inside = [a for a in found if a.kind != "outside"]
    assert inside
    for worker in inside:
        assert "n" not in worker.tuned
        assert worker.held["n"] == 3
    assert total(found) == 12


@pytest.mark.parametrize("made", STRATEGIES)
def test_workers_keep_to_a_narrowed_range(made: type[Strategy]) -> None:
    strategy = made(SPACE, GOAL)
    found = plan(strategy, decided(NARROW_LR, NARROW_WIDTH, FREEZE_N))
    trials = [trial(0, DEFAULT, 0.5)]
    for worker in found:
        if worker.kind == "outside":
            continue
        for seed in range(worker.trials):
            proposal = strategy.propose(worker, trials, 1000 * seed)
            assert proposal is not None
            assert 1e-3 <= float(proposal.params["lr"]) <= 1e-2  # type: ignore[arg-type]
            assert proposal.params["width"] in (32, 64)
            assert proposal.params["n"] == 3
            trials.append(trial(len(trials), proposal.params, float(seed)))


def test_the_incumbent_that_workers_hold_lies_inside_the_limits() -> None:
    outside = trial(1, {**DEFAULT, "n": 5, "drop": 0.4}, 0.9)
    inside = trial(2, {**DEFAULT, "n": 3, "drop": 0.2}, 0.7)
    held = by_worker(plan(PerParameter(SPACE, GOAL), decided(FREEZE_N), trials=[outside, inside]))["lr"].held
    assert held == {"n": 3, "width": DEFAULT["width"], "drop": 0.2}
    held = by_worker(plan(PerParameter(SPACE, GOAL), decided(FREEZE_N), trials=[outside]))["lr"].held
    assert held == {"n": 3, "width": DEFAULT["width"], "drop": 0.1}, "the default, inside the limits"


def test_a_worker_over_all_learns_from_trials_with_other_values_of_a_frozen_parameter() -> None:
    """Else a freeze would throw away nearly all that was seen."""
    far = [trial(i, {**DEFAULT, "n": 5, "lr": 10 ** (-4 + i / 20)}, i / 40) for i in range(40)]
    strategy = Joint(SPACE, GOAL)
    (worker,) = [a for a in plan(strategy, decided(FREEZE_N), trials=far) if a.kind == "joint"]
    found = [strategy.propose(worker, far, 100 * seed) for seed in range(20)]
    high = sum(p is not None and float(p.params["lr"]) > 10**-2.6 for p in found)  # type: ignore[arg-type]
    assert high >= 15, "the upper half was better throughout"


@pytest.mark.parametrize("made", STRATEGIES)
def test_a_limit_that_is_lifted_is_gone(made: type[Strategy]) -> None:
    lifted = decided(("unfreeze", {"parameter": "n"}), ("widen", {"parameter": "lr", "range": None}), round_=2)
    found = plan(made(SPACE, GOAL), decided(FREEZE_N, NARROW_LR), lifted)
    assert not any(a.region or a.kind == "outside" for a in found)
    assert any("n" in a.tuned for a in found)


def test_a_combination_stays_inside_the_limits() -> None:
    trials = [
        trial(0, DEFAULT, 0.5, kind="default"),
        trial(1, {**DEFAULT, "lr": 0.05}, 0.6, tuned=("lr",)),
        trial(2, {**DEFAULT, "drop": 0.3}, 0.7, tuned=("drop",)),
    ]
    assert "combination" in by_worker(plan(PerParameter(SPACE, GOAL), decided(), trials=trials))
    assert "combination" not in by_worker(plan(PerParameter(SPACE, GOAL), decided(NARROW_LR), trials=trials))


@pytest.mark.parametrize("made", STRATEGIES)
def test_the_bridge_works_inside_the_limits(made: type[Strategy]) -> None:
    now = situation(SPACE, [trial(0, DEFAULT, 0.5)], 1, decisions=(decided(FREEZE_N, NARROW_LR),))
    found = made(SPACE, GOAL).bridge(now)
    assert found is not None
    assert (found.kind, found.worker, found.round, found.trials) == ("bridge", "bridge", 2, 12)
    assert found.tuned == ("lr", "width", "drop")
    assert (found.held, found.region) == ({"n": 3}, {"lr": {"low": 1e-3, "high": 1e-2}})


def test_assignments_carry_the_revision_of_the_space() -> None:
    assert {a.revision for a in plan(PerParameter(SPACE, GOAL), decided(FREEZE_N, NARROW_LR))} == {2}
    assert {a.revision for a in plan(PerParameter(SPACE, GOAL))} == {0}


# -- outside the limits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", STRATEGIES)
@pytest.mark.parametrize(("room", "share"), [(2, 1), (5, 1), (10, 1), (11, 2), (12, 2), (40, 4)])
def test_a_tenth_of_the_round_looks_outside_the_limits(made: type[Strategy], room: int, share: int) -> None:
    found = plan(made(SPACE, GOAL), decided(NARROW_LR, FREEZE_N), round_trials=room)
    outside = by_worker(found)["outside"]
    assert (outside.kind, outside.trials, outside.round) == ("outside", share, 2)
    assert outside.region == {"lr": {"low": 1e-3, "high": 1e-2}, "n": {"values": [3]}}
    assert total(found) == room


def test_of_rounds_with_one_trial_one_in_ten_looks_outside() -> None:
    kinds = []
    for round_ in range(1, 31):
        now = situation(SPACE, [trial(0, DEFAULT, 0.5)], round_, decisions=(decided(FREEZE_N),), round_trials=1)
        kinds += [a.kind for a in Joint(SPACE, GOAL).plan(now, None)]
    assert (len(kinds), kinds.count("outside")) == (30, 3)


@pytest.mark.parametrize("made", STRATEGIES)
def test_without_limits_there_is_no_outside(made: type[Strategy]) -> None:
    assert "outside" not in by_worker(plan(made(SPACE, GOAL), decided()))


def test_outside_is_outside_and_takes_turns() -> None:
    strategy = Joint(SPACE, GOAL)
    limits = decided(NARROW_LR, NARROW_WIDTH, FREEZE_N)
    worker = by_worker(plan(strategy, limits))["outside"]
    dice = random.Random(0)
    trials = [
        trial(i, {"lr": 10 ** dice.uniform(-3, -2), "n": 3, "width": 64, "drop": dice.random() / 2}, 1.0 + i)
        for i in range(60)
    ]
    broken = []
    for number in range(60, 90):
        proposal = strategy.propose(worker, trials, 77 * number)
        assert proposal is not None
        assert SPACE.contains(proposal.params)
        broken.append([n for n, r in worker.region.items() if not in_range(proposal.params[n], r)])
        trials.append(trial(number, proposal.params, 0.1, kind="outside"))
    assert all(broken)
    assert {name for names in broken for name in names} == {"lr", "width", "n"}


def test_outside_of_a_conditional_parameter_brings_it_to_life() -> None:
    strategy = Joint(CONDITIONAL, GOAL)
    limit = ("narrow", {"parameter": "momentum", "range": {"low": 0.0, "high": 0.8}})
    worker = by_worker(plan(strategy, decided(limit), space=CONDITIONAL, trials=()))["outside"]
    adam = [trial(i, {"opt": "adam", "lr": 0.001 + i / 1000}, 1.0) for i in range(30)]
    for seed in range(10):
        found = strategy.propose(worker, adam, 50 * seed)
        assert found is not None
        assert CONDITIONAL.contains(found.params)
        assert float(found.params["momentum"]) > 0.8  # type: ignore[arg-type]


def test_an_outside_that_is_used_up_gets_no_worker() -> None:
    space = SearchSpace(a=Choice([1, 2]), x=Float(0.0, 1.0, step=0.5))
    limit = decided(("freeze", {"parameter": "a", "range": {"values": [1]}}))
    trials = [trial(i, {"a": 2, "x": x}, 0.1) for i, x in enumerate((0.0, 0.5, 1.0))]
    found = plan(Joint(space, GOAL), limit, space=space, trials=trials)
    assert [(a.kind, a.trials) for a in found] == [("joint", 3)]
    strategy = Joint(space, GOAL)
    worker = by_worker(plan(strategy, limit, space=space, trials=trials[:1]))["outside"]
    assert worker.trials == 2
    left = [strategy.propose(worker, trials[:2], seed) for seed in range(5)]
    assert [p.params for p in left if p] == [{"a": 2, "x": 1.0}] * 5
    assert strategy.propose(worker, trials, 0) is None


# -- repeats, proposals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", STRATEGIES)
def test_a_repeat_runs_the_configuration_once_a_seed(made: type[Strategy]) -> None:
    best = {**DEFAULT, "n": 4}
    trials = [trial(0, DEFAULT, 0.5), trial(7, best, 0.9)]
    found = plan(made(SPACE, GOAL), decided(("repeat", {"trial": 7, "seeds": 2})), trials=trials)
    worker = by_worker(found)["repeat-7"]
    assert (worker.kind, worker.trials, worker.queue) == ("repeat", 2, (best, best))
    assert total(found) == 12
    refused = decided(("repeat", {"trial": 7, "seeds": 2}), verdict="refused")
    assert "repeat-7" not in by_worker(plan(made(SPACE, GOAL), refused, trials=trials))


@pytest.mark.parametrize("left", range(1, 8))
def test_queues_keep_to_the_budget(left: int) -> None:
    configurations = [{**DEFAULT, "drop": i / 10} for i in range(2, 5)]
    asked = decided(
        ("repeat", {"trial": 0, "seeds": 3}), ("propose", {"configurations": configurations}), FREEZE_N, spawn("joint")
    )
    found = plan(Joint(SPACE, GOAL), asked, budget=Budget(trials=1 + left))
    assert total(found) == left
    assert all(len(a.queue) in (0, a.trials) for a in found)
    assert len({(a.kind, a.worker) for a in found}) == len(found)


# -- spawned workers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", STRATEGIES)
def test_spawned_workers_come_and_the_strategy_fills_the_round(made: type[Strategy]) -> None:
    asked = decided(spawn("per_parameter", "lr", trials=2), spawn("group", "n", "drop", trials=3))
    found = plan(made(SPACE, GOAL), asked)
    workers = {(a.kind, a.worker): a for a in found}
    alone = workers["per_parameter", "lr"]
    assert (alone.trials, alone.tuned, alone.round) == (2, ("lr",), 2)
    assert alone.held == {k: v for k, v in DEFAULT.items() if k != "lr"}
    group = workers["group", "group-1"]
    assert (group.trials, group.tuned, group.held) == (3, ("n", "drop"), {"lr": 1e-3, "width": 32})
    assert total(found) == 12
    assert not any(a.kind == "group" for a in plan(made(SPACE, GOAL), asked, decided(round_=2))), "for one round only"


def test_names_of_spawned_workers_are_unique_in_a_round() -> None:
    narrow = {"lr": {"low": 1e-3, "high": 1e-2}}
    asked = decided(
        spawn("per_parameter", "lr", trials=1),
        spawn("per_parameter", "lr", trials=1, **narrow),
        spawn("group", "lr", "n", trials=1),
        spawn("group", "lr", "drop", trials=1),
        spawn("joint", trials=1, **narrow),
    )
    found = plan(PerParameter(SPACE, GOAL), asked)
    keys = [(a.kind, a.worker) for a in found]
    assert len(set(keys)) == len(keys)
    assert [k for k in keys if k[0] == "group"] == [("group", "group-1"), ("group", "group-2")]


def test_a_spawned_joint_worker_takes_the_rest_too() -> None:
    found = plan(Joint(SPACE, GOAL), decided(spawn("joint", trials=5)))
    assert [(a.kind, a.worker, a.trials) for a in found] == [("joint", "joint", 12)]
    local = plan(Joint(SPACE, GOAL), decided(spawn("joint", trials=5, lr={"low": 1e-3, "high": 2e-3})))
    assert [(a.kind, a.trials, dict(a.region)) for a in local] == [
        ("joint", 5, {"lr": {"low": 1e-3, "high": 2e-3}}),
        ("joint", 7, {}),
    ]


def test_a_spawned_workers_region_lies_inside_the_limits() -> None:
    wide = {"lr": {"low": 1e-4, "high": 5e-3}, "width": {"values": [16, 32]}, "n": {"low": 1, "high": 5}}
    asked = decided(NARROW_LR, NARROW_WIDTH, FREEZE_N, spawn("group", "lr", "width", "n", trials=3, **wide))
    group = by_worker(plan(Joint(SPACE, GOAL), asked))["group-1"]
    assert group.tuned == ("lr", "width")
    assert group.region == {"lr": {"low": 1e-3, "high": 5e-3}, "width": {"values": [32]}}
    apart = decided(NARROW_LR, spawn("group", "lr", "drop", trials=3, lr={"low": 0.05, "high": 0.1}))
    group = by_worker(plan(Joint(SPACE, GOAL), apart))["group-1"]
    assert group.region == {"lr": {"low": 1e-3, "high": 1e-2}}, "the limits stand where they don't meet"


def test_a_worker_for_what_is_frozen_or_plays_no_part_does_not_come() -> None:
    asked = decided(FREEZE_N, spawn("per_parameter", "n"))
    assert not any(a.kind == "per_parameter" for a in plan(Joint(SPACE, GOAL), asked))
    adam = [trial(0, {"opt": "adam", "lr": 0.05}, 0.1)]
    asked = decided(spawn("per_parameter", "momentum"))
    assert not any(
        a.kind == "per_parameter" for a in plan(Joint(CONDITIONAL, GOAL), asked, space=CONDITIONAL, trials=adam)
    )
    asked = decided(spawn("group", "opt", "momentum"))
    group = by_worker(plan(Joint(CONDITIONAL, GOAL), asked, space=CONDITIONAL, trials=adam))["group-1"]
    assert (group.tuned, group.held) == (("opt", "momentum"), {"lr": 0.05}), "a parent brings its child to life"


def test_prioritised_parameters_get_double_shares() -> None:
    found = by_worker(plan(PerParameter(SPACE, GOAL), decided(("prioritise", {"parameters": ["lr"]})), round_trials=20))
    assert {name: a.trials for name, a in found.items() if a.kind == "per_parameter"} == {
        "lr": 8,
        "n": 4,
        "width": 2,  # two values are left
        "drop": 4,
    }
    assert found["joint"].trials == 2


@pytest.mark.parametrize("made", STRATEGIES)
def test_a_replanned_round_is_the_same(made: type[Strategy]) -> None:
    asked = decided(FREEZE_N, ("repeat", {"trial": 0, "seeds": 2}), spawn("group", "lr", "drop"), spawn("joint"))
    assert plan(made(SPACE, GOAL), asked) == plan(made(SPACE, GOAL), asked)


def test_everything_frozen_but_one_still_goes_on() -> None:
    names = [n for n in SPACE.names if n != "lr"]
    freezes = [("freeze", {"parameter": n, "range": {"values": [DEFAULT[n]]}}) for n in names]
    for strategy in (PerParameter(SPACE, GOAL), Joint(SPACE, GOAL)):
        found = plan(strategy, decided(*freezes))
        assert total(found) == 12
        assert {a.tuned for a in found if a.kind != "outside"} == {("lr",)}


# -- over spaces of all kinds ----------------------------------------------------------------------------------------


@st.composite
def limited_spaces(draw: st.DrawFn) -> tuple[SearchSpace, list[tuple[str, Mapping[str, object]]]]:
    parameters = {
        "f": Float(draw(st.floats(-3, 0)), draw(st.floats(1, 3))),
        "s": Float(0.0, 1.0, step=draw(st.sampled_from([0.1, 0.25, 0.3]))),
        "l": Float(1e-6, 1.0, log=True),
        "i": Int(-5, draw(st.integers(5, 40)), step=draw(st.integers(1, 4))),
        "j": Int(1, 2**12, log=True),
        "o": Choice([1, 2, 4, 8, 16], ordered=True),
        "c": Choice(["a", "b", None, True, 1]),
        "d": Float(0.0, 1.0, when={"c": ["a", "b"]}),
    }
    limits: list[tuple[str, Mapping[str, object]]] = []
    for name in draw(st.lists(st.sampled_from(sorted(parameters)), min_size=1, max_size=5, unique=True)):
        parameter = parameters[name]
        a, b = (draw(st.floats(0, 1)) for _ in range(2))
        if isinstance(parameter, Choice):
            values = draw(st.lists(st.sampled_from(list(parameter.values)), min_size=1, unique_by=repr))
            range_: dict[str, object] = {"values": values}
        else:
            ends = [parameter.snap(parameter.low + x * (parameter.high - parameter.low)) for x in sorted((a, b))]
            range_ = {"low": ends[0], "high": ends[1]}
        if draw(st.booleans()):
            only = range_["values"][0] if isinstance(parameter, Choice) else range_["low"]  # type: ignore[index]
            limits.append(("freeze", {"parameter": name, "range": {"values": [only]}}))
        else:
            limits.append(("narrow", {"parameter": name, "range": range_}))
    return SearchSpace(parameters), limits


@given(limited_spaces(), st.integers(0, 2**31), st.sampled_from(STRATEGIES))
@settings(max_examples=25, deadline=None)
def test_limits_hold_inside_and_are_broken_outside(
    made: tuple[SearchSpace, list[tuple[str, Mapping[str, object]]]], seed: int, strategy_type: type[Strategy]
) -> None:
    space, limits = made
    strategy, decision = strategy_type(space, Goal("m")), decided(*limits)
    asked = decided(*limits, spawn("group", "f", "c", "d", "i", trials=3))
    trials = [trial(0, space.default(), 0.5, kind="default")]
    for turn in (decision, asked):
        now = situation(space, trials, 1, decisions=(turn,))
        for worker in strategy.plan(now, turn):
            assert all(now.steering.holds(params) for params in worker.queue)
            if worker.queue:
                continue
            for _ in range(min(3, worker.trials)):
                found = strategy.propose(worker, trials, (seed + 101 * len(trials)) % 2**32)
                if found is None:
                    continue
                assert space.validated(found.params) == found.params
                again = strategy_type(space, Goal("m")).propose(worker, trials, (seed + 101 * len(trials)) % 2**32)
                assert again == found
                assert configuration_key(found.params) not in {configuration_key(t.params) for t in trials}
                assert now.steering.holds(found.params) == (worker.kind != "outside")
                done = trial(len(trials), found.params, float(len(trials) % 4), kind=worker.kind, tuned=found.tuned)
                trials.append(done)


def test_a_worker_proposes_where_its_region_leaves_a_condition_no_place() -> None:
    space = SearchSpace(
        depth=Int(1, 9, default=3),
        booster=Choice(["tree", "dart"]),
        drop=Float(0.0, 1.0, when={"booster": "dart"}),
    )
    start = trial(0, {"depth": 3, "booster": "dart", "drop": 0.5}, 0.5)
    names = ("depth", "booster", "drop")
    worker = Assignment("group-1", "group", 2, 4, names, region={"booster": {"values": ["tree"]}})
    proposal = Joint(space, GOAL).propose(worker, [start], 1)
    assert proposal is not None
    assert proposal.params["booster"] == "tree"
    assert "drop" not in proposal.params
