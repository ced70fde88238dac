"""The search benchmark's harness: it drives studies as the product does, treats all alike, keeps runs, counts right."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import agentic_hpt as hpt
from agentic_hpt.config import StudyConfig
from agentic_hpt.coordinator.rules import RulesCoordinator
from agentic_hpt.protocols import Strategy
from agentic_hpt.records import Assignment, Params, Proposal, Trial, TrialState
from agentic_hpt.space import Choice, Float, Int, SearchSpace
from agentic_hpt.strategies import Joint
from agentic_hpt.study import Study
from agentic_hpt.wiring import make_strategy

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench.search.__main__ import _names
from bench.search.arms import ARMS, Arm
from bench.search.driver import run_study
from bench.search.figure import draw
from bench.search.peers import PEERS, Child, described, from_numbers, to_numbers
from bench.search.report import Shown, told
from bench.search.runs import run_arm, run_peer
from bench.search.scoring import Table, compared, curve, geometric, means, plain, ranks, reached, table, wilcoxon
from bench.search.store import Run, Store
from bench.search.suite import Task
from bench.search.trials import Lab, Setting, first_trials

SPACE = SearchSpace(
    rate=Float(1e-4, 1e-1, log=True, default=1e-3),
    layers=Int(1, 6),
    width=Choice([16, 32, 64, 128], ordered=True),
    kind=Choice(["a", "b", "c"]),
    momentum=Float(0.0, 0.99, when={"kind": ["b", "c"]}),
)


def truth(params: Params) -> float:
    kinds = {"a": 0.0, "b": -0.5, "c": 0.3}
    loss = (math.log10(float(params["rate"])) + 2.2) ** 2 + 0.1 * abs(int(params["layers"]) - 4)  # type: ignore[arg-type]
    return loss + float(params["width"]) / 640 + kinds[str(params["kind"])] + float(params.get("momentum", 0.5)) / 5  # type: ignore[arg-type]


def observed(params: Params, seed: int) -> float:
    return truth(params) + random.Random(seed).gauss(0, 0.05)


TASK = Task("tiny", SPACE, lambda params, seed: (observed(params, seed), truth(params)), best=-0.4)
SHORT = Setting(trials=14, first=5)


@pytest.mark.parametrize(
    ("strategy", "initial"),
    [("per_parameter", ()), ("joint", ({"layers": 2, "rate": 0.01}, {"kind": "c", "momentum": 0.3})), ("auto", ())],
)
def test_the_driver_gives_the_trials_of_the_product(strategy: str, initial: Sequence[Params], tmp_path: Path) -> None:
    study = {
        "study": "bench",
        "metric": "loss",
        "direction": "minimize",
        "space": SPACE,
        "initial": [dict(params) for params in initial],
        "budget": hpt.Budget(trials=45),
        "strategy": strategy,
        "seed": 5,
    }
    hpt.tune(
        lambda params, trial: {"loss": observed(params, trial.seed)},
        home=tmp_path,
        executor="inline",
        mlflow={"enabled": False},
        fresh_seeds=0,
        **study,  # type: ignore[arg-type]
    )
    product = Study.open("bench", tmp_path).trials()
    config = StudyConfig(**study, executor="inline")  # type: ignore[arg-type]
    course = run_study(config, make_strategy(config), RulesCoordinator(), observed)
    ours = [(t.id, dict(t.params), t.worker, t.kind, t.round, t.seed, dict(t.values)) for t in course.trials]
    assert ours == [(t.id, dict(t.params), t.worker, t.kind, t.round, t.seed, dict(t.values)) for t in product]
    assert len(ours) == 45
    assert [t.kind for t in course.trials[: 1 + len(initial)]] == ["default"] + ["initial"] * len(initial)
    if strategy == "auto":
        assert len({t.kind for t in course.trials}) > 2  # it had workers to hold side by side


class Watched(Joint):
    """Notes how many trials are under way when it is asked."""

    seen: list[int]

    def propose(self, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        self.seen.append(sum(t.state is TrialState.RUNNING for t in trials))
        assert all(t.values for t in trials if t.state is TrialState.COMPLETE)
        return super().propose(assignment, trials, seed)


def test_with_several_under_way_the_strategy_sees_them_running_and_slots_stay_busy_between_rounds() -> None:
    seen: list[int] = []

    def make(space: SearchSpace, goal: hpt.records.Goal) -> Strategy:
        strategy = Watched(space, goal)
        strategy.seen = seen
        return strategy

    arm = Arm("watched", "1", "joint", make)
    found = run_arm(arm, TASK, 0, Setting(trials=40, first=0, pending=4))
    assert len(found.observed) == 40
    assert found.kinds["bridge"] > 0
    assert set(seen[4:]) == {3}  # the first three found fewer
    alone: list[int] = []
    seen = alone
    run_arm(arm, TASK, 0, Setting(trials=20, first=0))
    assert set(alone) == {0}


@pytest.fixture(scope="module")
def optuna_peer() -> Iterator[Child]:
    """The peer whose library the tests have."""
    child = Child(Path(sys.executable), "optuna")
    yield child
    child.close()


@pytest.mark.parametrize("name", ["random", "optuna tpe", "optuna cmaes", "optuna gp"])
@pytest.mark.parametrize("pending", [1, 3])
def test_a_peer_is_asked_and_told_in_a_process_of_its_own(name: str, pending: int, optuna_peer: Child) -> None:
    setting = replace(SHORT, pending=pending)
    found = run_peer(optuna_peer, PEERS[name], TASK, 3, setting)
    assert [len(values) for values in (found.regret, found.observed, found.truth, found.seconds)] == [14] * 4
    assert found.by.startswith("optuna ")
    assert list(found.params[:5]) == list(first_trials(TASK, 3, 5))
    assert all(SPACE.contains(params) for params in found.params)
    assert found.seconds[:5] == (0.0,) * 5
    assert all(s > 0 for s in found.seconds[5:])
    best = min(range(14), key=lambda i: found.observed[i])
    assert found.regret[-1] == pytest.approx(found.truth[best] + 0.4)
    assert found == replace(run_peer(optuna_peer, PEERS[name], TASK, 3, setting), seconds=found.seconds)


@pytest.mark.parametrize(("in_batches", "course"), [(False, "aaaa tatatatata tttt"), (True, "aaaa tttt aaaa tttt a t")])
def test_a_peer_that_suggests_in_batches_is_told_a_whole_one_before_the_next(
    in_batches: bool, course: str, optuna_peer: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    send = optuna_peer.send
    monkeypatch.setattr(optuna_peer, "send", lambda do, **message: said.append(do[0]) or send(do, **message))
    run_peer(optuna_peer, replace(PEERS["random"], in_batches=in_batches), TASK, 3, replace(SHORT, pending=4))
    assert "".join(said) == "s" + course.replace(" ", "")


def test_a_peer_that_goes_away_is_an_error_that_says_so(tmp_path: Path) -> None:
    child = Child(Path("/bin/false"), "optuna")
    with pytest.raises(RuntimeError, match="the peer ended while it was asked to start"):
        run_peer(child, PEERS["random"], TASK, 0, SHORT)
    child.close()


def test_all_begin_with_the_same_trials_and_meet_the_same_noise(optuna_peer: Child) -> None:
    peer = run_peer(optuna_peer, PEERS["random"], TASK, 7, SHORT)
    ours = [run_arm(ARMS[name], TASK, 7, SHORT) for name in ("joint", "per_parameter", "auto")]
    first = first_trials(TASK, 7, 5)
    assert first[0] == SPACE.default()
    assert len({str(params) for params in first}) == 5
    for found in (peer, *ours):
        assert list(found.params[:5]) == list(first)
        assert found.observed[:5] == peer.observed[:5]
    assert first_trials(TASK, 8, 5)[1:] != first[1:]
    assert first_trials(replace(TASK, name="another"), 7, 5)[1:] != first[1:]
    again = run_arm(ARMS["joint again"], TASK, 7, SHORT)
    assert again.observed[0] != peer.observed[0]
    assert again.seed == 7


def test_a_small_space_gives_as_many_first_trials_as_it_has() -> None:
    space = SearchSpace(kind=Choice(["a", "b"]))
    assert len(first_trials(Task("small", space, lambda params, seed: (0.0, 0.0), 0.0), 0, 10)) == 2


def test_the_noise_depends_on_the_place_of_a_trial_and_not_on_what_it_tries() -> None:
    noisy = replace(TASK, evaluate=lambda params, seed: (float(seed), 0.0))
    one, two = Lab(noisy, 1), Lab(noisy, 1)
    other = SPACE.complete({"layers": 2})
    assert [one.evaluate(p) for p in (SPACE.default(), other)] == [two.evaluate(p) for p in (other, other)]
    assert len({*one.observed, Lab(noisy, 2).evaluate(other)}) == 3


def test_configurations_travel_as_numbers_and_come_back() -> None:
    space = SearchSpace(
        width=Choice([16, 32], ordered=True, when={"kind": ["b", "c"]}),
        kind=Choice(["a", "b", "c"], default="b"),
        fixed=Choice(["only"]),
        share=Float(0.0, 1.0, step=0.25),
        units=Int(4, 64, log=True),
    )
    found = {p.name: p for p in described(space)}
    assert list(found) == ["kind", "width", "share", "units"]  # parents first, what can't change is not shown
    assert (found["width"].kind, found["width"].high, dict(found["width"].when)) == ("ordered", 1, {"kind": [1, 2]})
    assert (found["kind"].kind, found["kind"].default, found["share"].step, found["units"].log) == (
        "categorical",
        1,
        0.25,
        True,
    )
    params = space.default()
    assert to_numbers(space, params) == {"kind": 1, "width": 0, "share": 0.5, "units": 16}
    assert from_numbers(space, to_numbers(space, params)) == params
    flat = from_numbers(space, {"kind": 0.0, "width": 1.0, "share": 0.26, "units": 64.7})
    assert flat == {"kind": "a", "fixed": "only", "share": 0.25, "units": 64}


def test_runs_are_kept_until_their_arm_changes(tmp_path: Path) -> None:
    arm, store = ARMS["joint"], Store(tmp_path)
    made = [run_arm(arm, TASK, seed, SHORT) for seed in range(2)]
    for found in made:
        store.add(arm.name, SHORT, found)
    kept = Store(tmp_path).runs(arm.name, SHORT, arm.version)
    assert set(kept) == {("tiny", 0), ("tiny", 1)}
    assert kept["tiny", 1].regret == pytest.approx(made[1].regret, rel=1e-5)
    assert kept["tiny", 1].observed == pytest.approx(made[1].observed, rel=1e-6)
    assert kept["tiny", 1].truth == pytest.approx(made[1].truth, rel=1e-6)
    assert kept["tiny", 1].params[3]["kind"] == made[1].params[3]["kind"]
    assert store.runs(arm.name, SHORT, "another") == {}
    assert store.runs(arm.name, Setting()) == {}


def test_a_run_that_a_kill_left_half_written_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add("an arm", SHORT, Run("tiny", 0, (2.0, 2.0, 1.0)))
    (path,) = tmp_path.glob("an-arm/*")
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 2])
    assert set(store.runs("an arm", SHORT)) == {("tiny", 0)}
    store.add("an arm", SHORT, Run("tiny", 1, (3.0,)))
    assert {key: run.regret for key, run in store.runs("an arm", SHORT).items()} == {
        ("tiny", 0): (2.0, 2.0, 1.0),
        ("tiny", 1): (3.0,),
    }


def test_packed_runs_are_read_like_others_and_newer_ones_take_their_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add("an arm", SHORT, Run("a/b", 0, (2.0, 1.0), (5.0, 4.0), (5.0, 4.5), params=(SPACE.default(),)))
    store.pack("an arm")
    for path in tmp_path.glob("an-arm/*"):
        path.unlink()
    (kept,) = store.runs("an arm", SHORT).values()
    assert (kept.regret, kept.observed, kept.truth, kept.params) == ((2.0, 1.0), (5.0, 4.0), (5.0, 4.5), ())
    store.add("an arm", SHORT, Run("a/b", 0, (9.0, 9.0)))
    store.pack("an arm")
    assert store.runs("an arm", SHORT)["a/b", 0].regret == (9.0, 9.0)
    assert store.names() == ["an arm"]


@pytest.mark.parametrize("name", ["per_parameter", "joint", "auto"])
def test_every_arm_repeats_itself_and_differs_by_seed(name: str) -> None:
    setting = Setting(trials=14, first=0)
    first, again, other = (run_arm(ARMS[name], TASK, seed, setting) for seed in (0, 0, 1))
    assert replace(first, seconds=()) == replace(again, seconds=())
    assert first.params[0] == other.params[0] == SPACE.default()
    assert first.params != other.params
    assert sum(first.kinds.values()) == 14


def kept(**regrets: list[list[float]]) -> dict[tuple[str, int], Run]:
    """Make runs: a task by its name, for each seed the regrets after each trial."""
    return {
        (task, seed): Run(task, seed, tuple(values))
        for task, runs in regrets.items()
        for seed, values in enumerate(runs)
    }


def beside(measure: dict[tuple[str, int], Run], **regrets: list[list[float]]) -> Table:
    return table(kept(**regrets), measure, list(regrets), range(99))


MEASURE = kept(a=[[4.0, 4.0], [4.0, 2.0]] * 3, b=[[1.0, 1.0], [3.0, 1.0]] * 3)


def test_the_score_is_the_share_of_random_searchs_mean_regret_after_as_many_trials() -> None:
    arm = beside(MEASURE, a=[[1.0, 0.0], [3.0, 3.0]], b=[[0.0, 0.0], [0.0, 0.0]])
    assert means(arm).tolist() == [[0.5, 0.0], [0.5, 0.0]]
    assert geometric(np.array([0.5, 0.0])) == pytest.approx(math.sqrt(0.5 * 0.001))
    assert curve(arm)[0] == pytest.approx([math.sqrt(0.5 * 0.001)] * 2)
    assert plain(arm, 2)[0] == 0.25
    low, high = plain(arm, 2)[1:]
    assert (low, high) == (0.0, 0.5)  # both seeds of task a drawn the better one, or the worse one
    assert arm.at(2).tolist() == [0.0, 1.0, 0.0, 0.0]


def test_a_run_that_another_lacks_is_left_out_of_their_comparison() -> None:
    whole = beside(MEASURE, a=[[1.0, 1.0], [8.0, 8.0]])
    part = beside(MEASURE, a=[[2.0, 2.0]])
    found = compared(whole, part, 2)
    assert found.runs == (1, 0, 0)
    assert (found.ratio, *found.interval) == pytest.approx((0.5, 0.5, 0.5))
    assert ranks([whole, part], 2).tolist() == [1.0, 2.0]


def test_wins_ties_and_ranks() -> None:
    one, two, worst = (
        beside(MEASURE, a=[[v] for v in values]) for values in ([1.0, 2.0, 3.0], [2.0, 2.0, 1.0], [9.0, 9.0, 9.0])
    )
    assert compared(one, two, 1).runs == compared(two, one, 1).runs == (1, 1, 1)
    assert ranks([one, two, worst], 1).tolist() == [1.5, 1.5, 3.0]


def test_the_interval_of_an_arm_against_itself_is_a_point_and_half_the_regret_is_a_half() -> None:
    arm = beside(MEASURE, a=[[1.0], [2.0], [3.0]], b=[[4.0], [5.0], [9.0]])
    half = beside(MEASURE, a=[[0.5], [1.0], [1.5]], b=[[2.0], [2.5], [4.5]])
    assert (compared(arm, arm, 1).ratio, compared(arm, arm, 1).interval) == (1.0, (1.0, 1.0))
    assert (compared(half, arm, 1).ratio, *compared(half, arm, 1).interval) == pytest.approx((0.5, 0.5, 0.5))


def test_the_signed_rank_test_has_its_known_values() -> None:
    assert wilcoxon(np.zeros(5)) == (0.0, 1.0)
    # Six pairs, all won: 2 of the 64 ways to sign six ranks are as far out.
    assert wilcoxon(-np.arange(1.0, 7.0)) == (-21.0, pytest.approx(2 / 64))
    assert wilcoxon(np.array([0.0, 1.0, -2.0, 3.0, -4.0, 5.0, -6.0])) == (-3.0, pytest.approx(0.84375))


def test_a_task_is_won_only_where_its_own_runs_decide_it() -> None:
    better = beside(MEASURE, a=[[v] for v in (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)], b=[[1.0], [3.0]])
    worse = beside(MEASURE, a=[[v] for v in (2.0, 2.2, 2.4, 2.6, 2.8, 3.0)], b=[[2.0], [4.0]])
    assert compared(better, worse, 1).tasks == (1, 1, 0)
    assert compared(worse, better, 1).tasks == (0, 1, 1)


def test_how_soon_another_ones_final_regret_is_reached() -> None:
    target = beside(MEASURE, a=[[4.0, 1.0], [4.0, 1.0]], b=[[4.0, 0.5], [4.0, 0.5]])
    sooner = beside(MEASURE, a=[[1.0, 1.0], [1.0, 1.0]], b=[[0.5, 0.5], [0.4, 0.4]])
    mixed = beside(MEASURE, a=[[1.0, 0.1], [1.0, 0.1]], b=[[2.0, 1.0], [2.0, 1.0]])
    assert reached(sooner, target, 2) == (1, {"a": 1, "b": 1})
    assert reached(mixed, target, 2) == (2, {"a": 1, "b": None})
    assert reached(target, sooner, 2) == (None, {"a": 2, "b": None})


def test_the_whole_comparison_is_told_and_drawn(tmp_path: Path) -> None:
    def fall(low: float) -> list[list[float]]:
        return [[low + 1.0 / (n + seed / 10 + 1) for n in range(30)] for seed in range(4)]

    doubled = [[v * (2 - seed % 2) for v in regrets] for seed, regrets in enumerate(fall(0.6))]
    runs = {
        "random": kept(s=fall(1.0), t=fall(1.0)),
        "optuna tpe": kept(s=fall(0.5), t=fall(0.5)),
        "smac3": kept(s=doubled, t=doubled),
        "hebo": kept(t=fall(0.1)),
        "auto": kept(s=fall(0.2), t=fall(0.2)[:3]),
    }
    shown = Shown(runs, ["s", "t"], range(4), ["auto"], sequential={"auto": runs["smac3"]})
    assert shown.best_peer(25) == "optuna tpe"  # hebo is better, on one task only
    text = told(shown, Setting(trials=30, pending=8), detail=True)
    assert "auto: 3 to 4 seeds on 2 tasks" in text
    assert "on 1 of 2 tasks" in next(line for line in text.splitlines() if line.startswith("hebo  "))
    against_smac = next(line for line in text.splitlines() if line.startswith("smac3") and "p " in line)
    assert "7/0/0" in against_smac
    soon = next(line for line in text.splitlines() if line.startswith("auto") and "reached on" in line)
    assert "reached on 2 of 2 tasks" in soon
    assert "8 under way against one at a time" in text
    noise = next(line for line in text[text.index("noise: ") :].splitlines() if line.startswith("smac3"))
    assert noise.split()[-1] == "2.00"
    first, again = tmp_path / "figures" / "search.svg", tmp_path / "again.svg"
    draw(shown, first)
    draw(shown, again)
    assert "<svg" in first.read_text()
    assert first.read_bytes() == again.read_bytes(), "a figure changes with its runs alone"


def test_the_peers_whose_runs_are_made_are_shown_too() -> None:
    peers = _names("random, optuna tpe,")
    assert [*peers] == ["random", "optuna tpe"]
    assert [*peers] == ["random", "optuna tpe"], "looked at once to make runs, and once more to show them"
