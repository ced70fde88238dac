"""The search benchmark's harness: it drives studies as the product does, keeps its runs, and counts right."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.config import StudyConfig
from agentic_hpt.coordinator.rules import RulesCoordinator
from agentic_hpt.records import Params
from agentic_hpt.space import Choice, Float, Int, SearchSpace
from agentic_hpt.study import Study
from agentic_hpt.wiring import make_strategy

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench.search.arms import ARMS, Arm
from bench.search.driver import run_study
from bench.search.runs import Run, Store, run
from bench.search.scoring import geometric, interval, ranks, shares, table, wins
from bench.search.suite import Task

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


@pytest.mark.parametrize("strategy", ["per_parameter", "joint", "auto"])
def test_the_driver_gives_the_trials_of_the_product(strategy: str, tmp_path: Path) -> None:
    study = {
        "study": "bench",
        "metric": "loss",
        "direction": "minimize",
        "space": SPACE,
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
    if strategy == "auto":
        assert {"group", "per_parameter", "joint", "repeat"} <= {t.kind for t in course.trials}


def test_runs_are_kept_until_their_arm_changes(tmp_path: Path) -> None:
    arm, store = ARMS["joint"], Store(tmp_path)
    made = [run(arm, TASK, seed, trials=12) for seed in range(2)]
    assert [len(r.regret) for r in made] == [12, 12]
    assert all(a >= 0 for r in made for a in r.regret)
    store.add(arm, made)
    kept = Store(tmp_path).runs(arm)
    assert set(kept) == {("tiny", 0), ("tiny", 1)}
    assert kept["tiny", 1].regret == pytest.approx(made[1].regret, rel=1e-5)
    assert store.runs(Arm("joint", "another", arm.strategy, arm.make)) == {}


@pytest.mark.parametrize("name", ["random", "per_parameter", "joint", "auto"])
def test_every_arm_starts_at_the_default_and_repeats_itself(name: str) -> None:
    first, again, other = (run(ARMS[name], TASK, seed, trials=14) for seed in (0, 0, 1))
    assert first == again
    assert first.regret[0] == other.regret[0] == pytest.approx(truth(SPACE.default()) + 0.4)
    assert first.regret != other.regret
    assert sum(first.kinds.values()) == 14
    control = run(ARMS["joint again"], TASK, 0, trials=14)
    assert control.regret != run(ARMS["joint"], TASK, 0, trials=14).regret


def kept(**regrets: list[float]) -> dict[tuple[str, int], Run]:
    """Make runs of one trial: a task by its name, a regret a seed."""
    return {
        (task, seed): Run(task, seed, (value,), {})
        for task, values in regrets.items()
        for seed, value in enumerate(values)
    }


def test_the_score_is_the_share_of_random_searchs_regret() -> None:
    arm, measure = kept(a=[1.0, 3.0], b=[0.0, 0.0]), kept(a=[4.0, 4.0], b=[1.0, 3.0])
    found = shares(arm, measure, ["a", "b"], [0, 1], 1)
    assert found.tolist() == [0.5, 0.0]
    assert geometric(found) == pytest.approx(math.sqrt(0.5 * 0.001))


def test_wins_ties_and_ranks() -> None:
    one, two = (table(kept(a=values), ["a"], range(3), 1) for values in ([1.0, 2.0, 3.0], [2.0, 2.0, 1.0]))
    assert wins(one, two) == (1, 1, 1)
    assert wins(two, one) == (1, 1, 1)
    worst = table(kept(a=[9.0, 9.0, 9.0]), ["a"], range(3), 1)
    assert ranks([one, two, worst]).tolist() == [1.5, 1.5, 3.0]


def test_the_interval_of_an_arm_against_itself_is_a_point_and_half_the_regret_is_a_half() -> None:
    arm = table(kept(a=[1.0, 2.0, 3.0], b=[4.0, 5.0, 9.0]), ["a", "b"], range(3), 1)
    assert interval(arm, arm, arm) == (1.0, 1.0)
    assert interval(arm / 2, arm, arm) == pytest.approx((0.5, 0.5))
