"""How strategies divide a round, and what a proposal may and may not be."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentic_hpt.errors import FailureKind
from agentic_hpt.protocols import Situation, Strategy
from agentic_hpt.records import (
    ActionRecord,
    Assignment,
    Budget,
    DecisionRecord,
    Goal,
    Params,
    Report,
    Trial,
    TrialState,
    Usage,
    WorkerKind,
    configuration_key,
)
from agentic_hpt.space import Choice, Float, Int, SearchSpace
from agentic_hpt.strategies import Joint, PerParameter

GOAL = Goal("m")
SPACE = SearchSpace(
    lr=Float(1e-4, 1e-1, log=True, default=1e-3),
    n=Int(1, 5, default=2),
    width=Choice([16, 32, 64], ordered=True),
    drop=Float(0.0, 0.5, default=0.1),
)
DEFAULT = SPACE.default()


def trial(
    number: int,
    params: Params,
    value: float | None = None,
    *,
    round_: int = 1,
    kind: WorkerKind = "per_parameter",
    tuned: tuple[str, ...] = (),
    state: TrialState | None = None,
    failure: FailureKind | None = None,
    reports: tuple[Report, ...] = (),
) -> Trial:
    made = state or (TrialState.RUNNING if value is None else TrialState.COMPLETE)
    values = {"m": value} if value is not None else {}
    return Trial(
        number, params, made, 0, "w", kind, round_, tuned=tuned, values=values, failure=failure, reports=reports
    )


def situation(space: SearchSpace = SPACE, trials: Sequence[Trial] = (), round_: int = 0, **rest: object) -> Situation:
    made = Situation(
        study="s",
        round=round_,
        goal=GOAL,
        space=space,
        budget=Budget(trials=100),
        usage=Usage(trials=len(trials)),
        slots=2,
        round_trials=12,
        trials=tuple(trials),
    )
    return replace(made, **rest)  # type: ignore[arg-type]


def proposals(*configurations: Params, verdict: str = "accepted") -> DecisionRecord:
    action = ActionRecord("propose", "r", (), verdict, "v", {"configurations": list(configurations)})  # type: ignore[arg-type]
    return DecisionRecord(1, "llm", (action,))


def by_worker(assignments: Sequence[Assignment]) -> dict[str, Assignment]:
    found = {a.worker: a for a in assignments}
    assert len(found) == len(assignments), "a worker's name stands once a round"
    return found


# -- a round of the per-parameter strategy ----------------------------------------------------------------------------


def test_round_1_is_the_default_and_a_worker_for_each_parameter() -> None:
    plan = PerParameter(SPACE, GOAL).plan(situation(), None)
    workers = by_worker(plan)
    assert {name: a.trials for name, a in workers.items()} == {"default": 1, "lr": 3, "n": 3, "width": 3, "drop": 2}
    default = workers["default"]
    assert (default.kind, default.trials, default.queue) == ("default", 1, (DEFAULT,))
    for name in SPACE.names:
        worker = workers[name]
        assert (worker.kind, worker.round, worker.tuned) == ("per_parameter", 1, (name,))
        assert worker.held == {k: v for k, v in DEFAULT.items() if k != name}


def test_workers_hold_all_others_at_the_incumbent() -> None:
    best = {**DEFAULT, "lr": 0.02, "n": 4}
    trials = [trial(0, DEFAULT, 0.5, kind="default"), trial(1, best, 0.9, kind="joint"), trial(2, DEFAULT, 0.7)]
    failed = trial(3, {**DEFAULT, "n": 5}, state=TrialState.FAILED, failure=FailureKind.CRASH)
    workers = by_worker(PerParameter(SPACE, GOAL).plan(situation(trials=[*trials, failed], round_=1), None))
    for name in SPACE.names:
        assert workers[name].held == {k: v for k, v in best.items() if k != name}
        assert workers[name].round == 2
    assert "default" not in workers


def test_the_incumbent_lies_inside_the_space() -> None:
    foreign = trial(0, {"lr": 0.5}, 0.99, kind="imported", round_=0)
    worker = by_worker(PerParameter(SPACE, GOAL).plan(situation(trials=[foreign]), None))["lr"]
    assert worker.held == {k: v for k, v in DEFAULT.items() if k != "lr"}


def test_an_imported_incumbent_is_held_and_the_default_still_tried() -> None:
    best = {**DEFAULT, "n": 5}
    workers = by_worker(
        PerParameter(SPACE, GOAL).plan(situation(trials=[trial(0, best, 0.9, kind="imported", round_=0)]), None)
    )
    assert workers["default"].queue == (DEFAULT,)
    assert workers["lr"].held == {k: v for k, v in best.items() if k != "lr"}


@pytest.mark.parametrize("left", range(13))
@pytest.mark.parametrize("strategy", [PerParameter, Joint])
def test_the_budget_cuts_a_round(strategy: type[PerParameter | Joint], left: int) -> None:
    plan = strategy(SPACE, GOAL).plan(situation(budget=Budget(trials=left)), None)
    assert sum(a.trials for a in plan) == left
    assert all(a.trials >= 1 for a in plan)
    assert all(len(a.queue) in (0, a.trials) for a in plan)


def test_fewer_trials_than_workers_take_turns() -> None:
    strategy = PerParameter(SPACE, GOAL)
    trials = [trial(0, DEFAULT, 0.5, kind="default", round_=0)]
    seen = []
    for round_ in range(1, 5):
        plan = strategy.plan(situation(trials=trials, round_=round_, round_trials=2), None)
        assert [a.trials for a in plan] == [1, 1]
        seen += [a.worker for a in plan]
    assert sorted(seen) == sorted([*SPACE.names] * 2)


def test_trials_of_a_used_up_grid_go_to_a_joint_worker() -> None:
    space = SearchSpace(opt=Choice(["adam", "sgd"]), lr=Float(1e-4, 1e-1, log=True))
    default = space.default()
    trials = [trial(0, default, 0.5, kind="default"), trial(1, {**default, "opt": "sgd"}, 0.4, tuned=("opt",))]
    workers = by_worker(PerParameter(space, GOAL).plan(situation(space, trials, 1, round_trials=6), None))
    assert set(workers) == {"lr", "joint"}
    assert (workers["lr"].trials, workers["joint"].trials) == (3, 3)
    assert (workers["joint"].kind, workers["joint"].tuned, workers["joint"].held) == ("joint", space.names, {})
    fresh = by_worker(PerParameter(space, GOAL).plan(situation(space, [trials[0]], 1, round_trials=6), None))
    assert fresh["opt"].trials == 1, "one value is left"


def test_nothing_new_is_an_empty_plan() -> None:
    space = SearchSpace(a=Choice([1, 2]), b=Choice([True, False]))
    configurations = [{"a": a, "b": b} for a in (1, 2) for b in (True, False)]
    trials = [trial(i, c, float(i)) for i, c in enumerate(configurations)]
    for strategy in (PerParameter(space, GOAL), Joint(space, GOAL)):
        assert strategy.plan(situation(space, trials, 1), None) == []
        assert [a.trials for a in strategy.plan(situation(space, trials[:3], 1), None)][:1] == [1]


CONDITIONAL = SearchSpace(
    opt=Choice(["adam", "sgd"]), lr=Float(0.001, 0.1), momentum=Float(0.0, 0.9, when={"opt": "sgd"})
)


def test_an_inactive_parameter_has_no_worker() -> None:
    strategy = PerParameter(CONDITIONAL, GOAL)
    assert (
        {"opt", "lr"}
        <= set(by_worker(strategy.plan(situation(CONDITIONAL), None)))
        <= {"default", "opt", "lr", "joint"}
    )
    sgd = CONDITIONAL.complete({"opt": "sgd"})
    workers = by_worker(strategy.plan(situation(CONDITIONAL, [trial(0, sgd, 1.0)], 1), None))
    assert workers["momentum"].held == {"opt": "sgd", "lr": sgd["lr"]}


def test_a_worker_of_a_parent_brings_its_children_to_life() -> None:
    worker = Assignment("opt", "per_parameter", 1, 3, ("opt",), {"lr": 0.05})
    tried = [trial(0, {"opt": "adam", "lr": 0.05}, 0.1)]
    found = PerParameter(CONDITIONAL, GOAL).propose(worker, tried, 0)
    assert found is not None
    assert found.params == {"opt": "sgd", "lr": 0.05, "momentum": 0.45}


# -- combinations -----------------------------------------------------------------------------------------------------


def after_round_1(*better: tuple[str, object, float], base: float = 0.5) -> list[Trial]:
    trials = [trial(0, DEFAULT, base, kind="default")]
    for name, value, metric in better:
        trials.append(trial(len(trials), {**DEFAULT, name: value}, metric, tuned=(name,)))
    return trials


def combination(trials: Sequence[Trial], **rest: object) -> Assignment | None:
    plan = PerParameter(SPACE, GOAL).plan(situation(trials=trials, round_=1, **rest), None)
    return by_worker(plan).get("combination")


def test_two_improvements_are_merged() -> None:
    found = combination(after_round_1(("lr", 0.01, 0.6), ("n", 4, 0.7), ("n", 5, 0.65), ("drop", 0.3, 0.4)))
    assert found is not None
    assert found.queue == ({**DEFAULT, "lr": 0.01, "n": 4},)
    assert (found.kind, found.round, found.trials) == ("combination", 2, 1)
    assert set(found.tuned) == {"lr", "n"}


def test_of_three_improvements_also_the_strongest_two() -> None:
    found = combination(after_round_1(("lr", 0.01, 0.6), ("n", 4, 0.8), ("drop", 0.3, 0.7)))
    assert found is not None
    assert found.queue == (
        {**DEFAULT, "lr": 0.01, "n": 4, "drop": 0.3},
        {**DEFAULT, "n": 4, "drop": 0.3},
    )


def test_combinations_keep_to_the_room() -> None:
    trials = after_round_1(("lr", 0.01, 0.6), ("n", 4, 0.8), ("drop", 0.3, 0.7))
    found = combination(trials, budget=Budget(trials=len(trials) + 1))
    assert found is not None
    assert found.trials == len(found.queue) == 1
    assert combination(trials, budget=Budget(trials=len(trials))) is None


def test_free_slots_beside_combinations_are_filled() -> None:
    trials = after_round_1(("lr", 0.01, 0.6), ("n", 4, 0.7))
    plan = PerParameter(SPACE, GOAL).plan(situation(trials=trials, round_=1, slots=4), None)
    assert [(a.kind, a.trials) for a in plan] == [("combination", 1), ("joint", 3)]


@pytest.mark.parametrize(
    "better",
    [
        [],
        [("lr", 0.01, 0.6)],
        [("lr", 0.01, 0.6), ("lr", 0.02, 0.7)],
        [("lr", 0.01, 0.6), ("n", 4, 0.5)],
        [("lr", 0.01, 0.4), ("n", 4, 0.3)],
    ],
)
def test_without_two_improved_parameters_there_is_nothing_to_combine(better: list[tuple[str, object, float]]) -> None:
    assert combination(after_round_1(*better)) is None


def test_a_combination_that_was_tried_is_not_tried_again() -> None:
    trials = after_round_1(("lr", 0.01, 0.6), ("n", 4, 0.7))
    tried = trial(9, {**DEFAULT, "lr": 0.01, "n": 4}, 0.2, kind="proposals")
    assert combination([*trials, tried]) is None


def test_only_the_last_round_is_combined() -> None:
    trials = after_round_1(("lr", 0.01, 0.6), ("n", 4, 0.7))
    plan = PerParameter(SPACE, GOAL).plan(situation(trials=trials, round_=2), None)
    assert "combination" not in by_worker(plan)


def test_improvements_are_those_over_the_incumbent_of_that_round() -> None:
    held = {**DEFAULT, "width": 64}
    trials = [
        trial(0, DEFAULT, 0.5, kind="default"),
        trial(1, held, 0.8, tuned=("width",)),
        trial(2, {**held, "lr": 0.01}, 0.7, round_=2, tuned=("lr",)),
        trial(3, {**held, "n": 4}, 0.85, round_=2, tuned=("n",)),
        trial(4, {**held, "drop": 0.3}, 0.9, round_=2, tuned=("drop",)),
    ]
    found = by_worker(PerParameter(SPACE, GOAL).plan(situation(trials=trials, round_=2), None))["combination"]
    assert found.queue == ({**held, "n": 4, "drop": 0.3},)


def test_smaller_is_better_when_minimizing() -> None:
    goal = Goal("m", "minimize")
    trials = after_round_1(("lr", 0.01, 0.4), ("n", 4, 0.3), ("drop", 0.3, 0.6))
    plan = PerParameter(SPACE, goal).plan(situation(trials=trials, round_=1, goal=goal), None)
    assert by_worker(plan)["combination"].queue == ({**DEFAULT, "lr": 0.01, "n": 4},)


def test_a_merge_leaves_out_what_it_makes_inactive() -> None:
    sgd = {"opt": "sgd", "lr": 0.05, "momentum": 0.45}
    trials = [
        trial(0, sgd, 0.5, kind="imported", round_=0),
        trial(1, {"opt": "adam", "lr": 0.05}, 0.6, tuned=("opt",)),
        trial(2, {**sgd, "momentum": 0.8}, 0.7, tuned=("momentum",)),
        trial(3, {**sgd, "lr": 0.01}, 0.8, tuned=("lr",)),
    ]
    plan = PerParameter(CONDITIONAL, GOAL).plan(situation(CONDITIONAL, trials, 1), None)
    queue = by_worker(plan)["combination"].queue
    assert queue == ({"opt": "adam", "lr": 0.01}, {"opt": "sgd", "lr": 0.01, "momentum": 0.8})
    assert all(CONDITIONAL.contains(c) for c in queue)


# -- what a decision asks for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [PerParameter, Joint])
def test_accepted_proposals_are_queued_once(strategy: type[PerParameter | Joint]) -> None:
    tried, new = {**DEFAULT, "n": 3}, {**DEFAULT, "n": 4}
    now = situation(trials=[trial(0, tried, 0.5)], round_=1)
    worker = by_worker(strategy(SPACE, GOAL).plan(now, proposals(tried, new)))["proposals"]
    assert (worker.queue, worker.kind, worker.trials, worker.round) == ((new,), "proposals", 1, 2)
    assert "proposals" not in by_worker(strategy(SPACE, GOAL).plan(now, proposals(tried)))
    assert "proposals" not in by_worker(strategy(SPACE, GOAL).plan(now, proposals(new, verdict="refused")))
    assert sum(a.trials for a in strategy(SPACE, GOAL).plan(now, proposals(tried, new))) == 12


def test_a_replanned_round_queues_the_same() -> None:
    """After a kill a round is planned again while some of its trials are there: the plan must not lose them."""
    new = {**DEFAULT, "n": 4}
    for strategy in (PerParameter(SPACE, GOAL), Joint(SPACE, GOAL)):
        before = strategy.plan(situation(trials=[trial(0, DEFAULT, 0.5)], round_=1), proposals(new))
        ran = [trial(0, DEFAULT, 0.5), trial(1, new, 0.9, round_=2, kind="proposals")]
        again = strategy.plan(situation(trials=ran, round_=1, usage=Usage(trials=1)), proposals(new))
        assert by_worker(again)["proposals"] == by_worker(before)["proposals"]


# -- a round of the joint strategy ------------------------------------------------------------------------------------


def test_a_joint_round() -> None:
    plan = Joint(SPACE, GOAL).plan(situation(), None)
    assert [(a.worker, a.kind, a.trials, a.tuned, a.held) for a in plan] == [
        ("default", "default", 1, SPACE.names, {}),
        ("joint", "joint", 11, SPACE.names, {}),
    ]
    later = Joint(SPACE, GOAL).plan(situation(trials=[trial(0, {**DEFAULT, "n": 3}, 0.5)], round_=3), None)
    assert [(a.worker, a.trials, a.round) for a in later] == [("joint", 12, 4)]


# -- proposals --------------------------------------------------------------------------------------------------------

ALL = Assignment("joint", "joint", 1, 50, SPACE.names)


def metric(params: Params) -> float:
    return -abs(math.log10(float(params["lr"])) + 2) - abs(int(params["n"]) - 4) - float(params["drop"])  # type: ignore[arg-type]


def course(
    strategy: Strategy, assignment: Assignment, count: int, behind: int, end: Callable[[Trial], Trial]
) -> list[Trial]:
    """Run `count` trials with up to `behind` of them running; they end in an order of their own."""
    order = random.Random(0)
    trials: list[Trial] = []
    running: list[int] = []
    for number in range(count):
        found = strategy.propose(assignment, trials, 101 * number)
        if found is None:
            break
        trials.append(trial(number, found.params))
        running.append(number)
        while len(running) > behind:
            done = running.pop(order.randrange(len(running)))
            trials[done] = end(trials[done])
    return trials


def end_prunes(running: Trial) -> Trial:
    """End a trial as one that was stopped early, so that its reports are all that is known of it."""
    return replace(running, state=TrialState.PRUNED, reports=(Report(1, {"m": metric(running.params)}),))


def end(running: Trial) -> Trial:
    """End a trial in one of all the ways there are, by its number."""
    if running.id % 5 == 3:
        failure = FailureKind.LOST_WORKER if running.id % 2 else FailureKind.CRASH
        return replace(running, state=TrialState.FAILED, failure=failure)
    if running.id % 5 == 4:
        reports = () if running.id % 2 else (Report(0, {"other": 1.0}), Report(2, {"m": metric(running.params)}))
        return replace(running, state=TrialState.PRUNED, reports=reports)
    return replace(running, state=TrialState.COMPLETE, values={"m": metric(running.params)})


@pytest.mark.parametrize(
    "assignment",
    [ALL, Assignment("lr", "per_parameter", 1, 50, ("lr",), {k: v for k, v in DEFAULT.items() if k != "lr"})],
)
@pytest.mark.parametrize(("end", "states"), [(end, 4), (end_prunes, 2)])
def test_a_proposal_depends_on_nothing_but_trials_and_seed(
    assignment: Assignment, end: Callable[[Trial], Trial], states: int
) -> None:
    """A resumed study proposes what the killed one would have: a strategy that saw every step knows no more."""
    live = Joint(SPACE, GOAL)
    trials = course(live, assignment, 45, behind=4, end=end)
    assert len({t.state for t in trials}) == states
    for seed in range(12):
        fresh = Joint(SPACE, GOAL).propose(assignment, trials, seed)
        assert fresh is not None
        assert live.propose(assignment, trials, seed) == fresh == live.propose(assignment, trials, seed)


def test_another_seed_is_another_proposal() -> None:
    found = [Joint(SPACE, GOAL).propose(ALL, [], seed) for seed in range(8)]
    assert len({configuration_key(p.params) for p in found if p}) == 8


def test_the_largest_seed_is_taken() -> None:
    space = SearchSpace(a=Choice([1, 2]))
    worker = Assignment("joint", "joint", 1, 2, ("a",))
    found = [Joint(space, GOAL).propose(worker, [trial(0, {"a": a}, 0.0)], 2**32 - 1) for a in (1, 2)]
    assert [p.params["a"] for p in found if p] == [2, 1]


@pytest.mark.parametrize("behind", [0, 3])
def test_a_small_grid_is_used_up_without_a_repeat(behind: int) -> None:
    space = SearchSpace(
        a=Int(1, 3),
        b=Choice(["x", "y"]),
        c=Float(0, 1, step=0.5),
        d=Choice([True, 1], ordered=True, when={"b": "y"}),
    )
    worker = Assignment("joint", "joint", 1, 99, space.names)
    goal = Goal("m")
    strategy = Joint(space, goal)
    trials: list[Trial] = []
    while (found := strategy.propose(worker, trials, len(trials))) is not None:
        assert configuration_key(found.params) not in {configuration_key(t.params) for t in trials}
        trials.append(trial(len(trials), found.params))
        if len(trials) > behind:
            index = len(trials) - 1 - behind
            trials[index] = replace(trials[index], state=TrialState.COMPLETE, values={"m": float(index)})
    assert len(trials) == 3 * 3 * (1 + 2)
    assert all(space.contains(t.params) for t in trials)


def test_a_worker_uses_up_its_parameter_and_stops() -> None:
    held = {k: v for k, v in DEFAULT.items() if k != "n"}
    worker = Assignment("n", "per_parameter", 1, 9, ("n",), held)
    strategy = PerParameter(SPACE, GOAL)
    elsewhere = [trial(i, {**DEFAULT, "lr": 0.05, "n": i + 1}, 1.0) for i in range(5)]
    trials = [*elsewhere, trial(5, DEFAULT, 0.5)]
    while (found := strategy.propose(worker, trials, 7)) is not None:
        assert {k: v for k, v in found.params.items() if k != "n"} == held
        assert found.tuned == ("n",)
        trials.append(trial(len(trials), found.params))
    assert sorted(t.params["n"] for t in trials[5:]) == [1, 2, 3, 4, 5]


def test_held_values_are_kept_to_the_last_digit() -> None:
    held = {"lr": 0.1 / 3, "width": 16, "drop": 0.1 + 0.2}
    worker = Assignment("n", "per_parameter", 1, 3, ("n",), held)
    found = PerParameter(SPACE, GOAL).propose(worker, course(PerParameter(SPACE, GOAL), ALL, 20, 2, end), 1)
    assert found is not None
    assert {k: v for k, v in found.params.items() if k != "n"} == held
    assert list(found.params) == list(SPACE.names)


def test_a_worker_of_the_next_round_holds_the_new_incumbent() -> None:
    strategy = PerParameter(SPACE, GOAL)
    for round_, n in ((1, 2), (2, 5), (3, 2)):
        worker = Assignment("lr", "per_parameter", round_, 3, ("lr",), {**DEFAULT, "n": n, "drop": 0.0})
        found = strategy.propose(worker, [], 0)
        assert found is not None
        assert found.params["n"] == n


def test_a_worker_learns_from_its_own_subspace_only() -> None:
    held = {k: v for k, v in DEFAULT.items() if k != "lr"}
    worker = Assignment("lr", "per_parameter", 1, 9, ("lr",), held)
    own = [trial(i, {**DEFAULT, "lr": 10 ** (-4 + i / 5)}, -float(i)) for i in range(8)]
    others = [trial(10 + i, {**DEFAULT, "lr": 10 ** (-2 + i / 20), "n": 5}, 9.0 + i) for i in range(15)]
    for seed in range(5):
        found = [PerParameter(SPACE, GOAL).propose(worker, trials, seed) for trials in (own, [*own, *others])]
        assert found[0] == found[1]
        everything = PerParameter(SPACE, GOAL).propose(ALL, [*own, *others], seed)
        assert everything != PerParameter(SPACE, GOAL).propose(ALL, own, seed)


def test_only_failures_do_not_stop_proposals() -> None:
    trials = [
        trial(i, {**DEFAULT, "lr": 10 ** (-4 + i / 10)}, state=TrialState.FAILED, failure=kind)
        for i, kind in enumerate([*FailureKind] * 3)
    ]
    found = Joint(SPACE, GOAL).propose(ALL, trials, 0)
    assert found is not None
    assert SPACE.contains(found.params)


def test_failures_of_a_region_are_avoided_and_lost_trials_are_not() -> None:
    space = SearchSpace(x=Float(0.0, 1.0))
    worker = Assignment("x", "per_parameter", 1, 99, ("x",))
    good = [trial(i, {"x": 0.6 + i / 100}, 0.5 + i / 1000) for i in range(6)]

    def upper_half(failure: FailureKind) -> int:
        bad = [trial(10 + i, {"x": i / 30}, state=TrialState.FAILED, failure=failure, round_=1) for i in range(15)]
        strategy = Joint(space, GOAL)
        found = [strategy.propose(worker, [*good, *bad], seed) for seed in range(60)]
        return sum(p is not None and float(p.params["x"]) > 0.5 for p in found)  # type: ignore[arg-type]

    assert upper_half(FailureKind.CRASH) > 45
    crashed, lost = upper_half(FailureKind.CRASH), upper_half(FailureKind.LOST_WORKER)
    without = sum(
        p is not None and float(p.params["x"]) > 0.5  # type: ignore[arg-type]
        for p in (Joint(space, GOAL).propose(worker, good, seed) for seed in range(60))
    )
    assert lost == without, "a lost worker says nothing of the region"
    assert crashed > lost


def test_running_trials_keep_proposals_apart() -> None:
    """Parallel workers ask before any of them has an answer: what runs counts as poor (the constant liar)."""
    space = SearchSpace(x=Float(0.0, 1.0))
    worker = Assignment("x", "per_parameter", 1, 99, ("x",))
    done = [trial(i, {"x": i / 20}, -abs(i / 20 - 0.5)) for i in range(20)]
    strategy = Joint(space, GOAL)

    def spread(told: bool) -> float:
        trials = list(done)
        for number in range(20, 40):
            found = strategy.propose(worker, trials if told else done, number)
            assert found is not None
            trials.append(trial(number, found.params))
        return statistics.pstdev(float(t.params["x"]) for t in trials[20:])  # type: ignore[arg-type]

    assert spread(told=True) > spread(told=False)


@st.composite
def plain_spaces(draw: st.DrawFn) -> SearchSpace:
    low = draw(st.floats(-5, 5))
    width = draw(st.floats(1e-3, 1e3))
    parameters: dict[str, Float | Int | Choice] = {
        "f": Float(low, low + width),
        "s": Float(low, low + width, step=width * draw(st.floats(0.01, 1.0))),
        "l": Float(draw(st.floats(1e-9, 1e-3)), draw(st.floats(1e-3, 1e3)), log=True),
        "i": Int(draw(st.integers(-9, 0)), draw(st.integers(9, 99)), step=draw(st.integers(1, 9))),
        "j": Int(1, draw(st.integers(1, 2**20)), log=True),
        "o": Choice([1, True, "a", None, 0.5], ordered=draw(st.booleans())),
    }
    names = draw(st.lists(st.sampled_from(sorted(parameters)), min_size=1, max_size=3, unique=True))
    return SearchSpace(
        {**{n: parameters[n] for n in names}, "c": Float(0, 1, when={names[0]: when(parameters[names[0]])})}
    )


def when(parameter: Float | Int | Choice) -> object:
    return parameter.values[:2] if isinstance(parameter, Choice) else parameter.snap(parameter.low)


@given(plain_spaces(), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_proposals_always_lie_inside_the_space(space: SearchSpace, seed: int) -> None:
    worker = Assignment("joint", "joint", 1, 99, space.names)
    strategy = Joint(space, GOAL)
    trials: list[Trial] = []
    for number in range(14):
        found = strategy.propose(worker, trials, (seed + number) % 2**32)
        if found is None:
            break
        assert space.validated(found.params) == found.params
        assert list(found.params) == [n for n in space.names if n in found.params]
        trials.append(trial(number, found.params, float(number % 4)))


@pytest.mark.parametrize(
    "wide", [Int(-(2**63), 2**63 - 1), Int(0, 10**18, step=7), Int(1, 10**18, log=True)], ids=["all", "stepped", "log"]
)
def test_whole_numbers_wider_than_a_float_tells_apart_are_searched(wide: Int) -> None:
    space = SearchSpace(n=wide, c=Choice(["a", "b"]))
    worker = Assignment("joint", "joint", 1, 99, space.names)
    trials: list[Trial] = []
    for number in range(14):
        found = Joint(space, GOAL).propose(worker, trials, number)
        assert found is not None
        assert space.validated(found.params) == found.params
        trials.append(trial(number, found.params, float(number % 4)))
    assert len({t.params["n"] for t in trials}) > 7


def test_an_ordered_choice_is_learned_as_an_order() -> None:
    """Neighbours of a good value are tried before strangers: that is what `ordered` is for."""
    values = [2**i for i in range(40)]
    tried = {i: -abs(i - 30.0) for i in range(0, 40, 3)}

    def distance(ordered: bool) -> float:
        space = SearchSpace(size=Choice(values, ordered=ordered))
        trials = [trial(i, {"size": values[i]}, value) for i, value in tried.items()]
        worker = Assignment("size", "per_parameter", 1, 99, ("size",))
        found = [Joint(space, GOAL).propose(worker, trials, 50 * seed) for seed in range(30)]
        return statistics.mean(abs(values.index(p.params["size"]) - 30) for p in found if p)  # type: ignore[arg-type]

    assert distance(ordered=True) < distance(ordered=False)


def test_the_joint_strategy_learns() -> None:
    """On a smooth function of two parameters, 40 trials beat 40 random ones: in the median, and on most seeds."""
    space = SearchSpace(x=Float(-5.0, 5.0), y=Float(1e-5, 1.0, log=True))
    goal = Goal("loss", "minimize")
    worker = Assignment("joint", "joint", 1, 99, space.names)

    def loss(params: Params) -> float:
        return (float(params["x"]) - 1.7) ** 2 + (math.log10(float(params["y"])) + 3.2) ** 2  # type: ignore[arg-type]

    def learned(seed: int) -> float:
        strategy = Joint(space, goal)
        trials: list[Trial] = []
        for number in range(40):
            found = strategy.propose(worker, trials, seed * 1_000_003 + number * 101)
            assert found is not None
            done = trial(number, found.params, 0.0)
            trials.append(replace(done, values={"loss": loss(found.params)}))
        return min(t.values["loss"] for t in trials)

    def guessed(seed: int) -> float:
        dice = random.Random(seed)
        return min(loss({"x": dice.uniform(-5, 5), "y": 10 ** dice.uniform(-5, 0)}) for _ in range(40))

    pairs = [(learned(seed), guessed(seed)) for seed in range(10)]
    assert statistics.median(a for a, _ in pairs) < 0.5 * statistics.median(b for _, b in pairs)
    assert sum(a < b for a, b in pairs) >= 7
