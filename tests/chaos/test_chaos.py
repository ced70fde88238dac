"""A few of all faults, at moments that a seed draws; `python tests/chaos` (or `make chaos`) injects them all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from chaos import drivers, mlflow, stores, workers
from chaos.bench import Bench, Case, Fault
from chaos.nursery import Nursery
from chaos.plan import planned, table

pytestmark = pytest.mark.xdist_group("chaos")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Bench:
    folder = tmp_path_factory.mktemp("chaos")
    return Bench(folder, nursery, folder / "mlflow.db", mlflow=False)


def harm(bench: Bench, fault: Fault, seed: int) -> Sequence[Case]:
    cases = fault(bench, random.Random(seed))
    assert cases, "no fault came about"
    problems = [problem for case in cases for problem in case.problems]
    assert not problems, "\n".join(problems)
    return cases


def test_a_driver_may_be_killed_whatever_it_is_doing(bench: Bench) -> None:
    aims = (
        "final figures kept",
        "finalizing: between trials",
        "finalizing: trial running",
        "decision kept, not acted on",
        "round over, no decision",
        "trial ended, not told",
        "trial reserved, not begun",
        "trial running",
    )
    assert len(harm(bench, partial(drivers.killed_drivers, kills=0, aims=aims), 0)) >= 6


def test_mlflow_holds_every_trial_once_though_its_driver_was_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "mlflow", True)
    harm(bench, partial(drivers.killed_drivers, kills=0, aims=("round over, no decision",)), 1)


def test_a_paused_driver_keeps_its_study(bench: Bench) -> None:
    harm(bench, drivers.paused_driver, 0)


def test_killed_trials_run_again(bench: Bench) -> None:
    harm(bench, partial(workers.killed_workers, kills=3), 0)


def test_a_trial_that_is_killed_at_each_attempt_fails_as_a_lost_workers(bench: Bench) -> None:
    harm(bench, workers.trial_killed_every_time, 0)


def test_a_paused_trial_is_lost_and_runs_again(bench: Bench) -> None:
    harm(bench, workers.paused_worker, 0)


def test_a_killed_mlflow_writer_is_replaced(bench: Bench) -> None:
    harm(bench, partial(mlflow.killed_writers, kills=1), 0)


def test_a_driver_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(bench: Bench) -> None:
    harm(bench, stores.disk_full, 0)


@pytest.mark.parametrize("how", ["checkpoints' log overwritten", "ledger's log cut short"])
def test_torn_writes_cost_no_more_than_what_they_held(bench: Bench, how: str) -> None:
    harm(bench, partial(stores.torn, how=how), 0)


def test_a_clock_that_is_set_back_changes_nothing(bench: Bench) -> None:
    harm(bench, partial(stores.clock_jumps, shift=-3600.0), 0)


def test_the_harness_sees_what_was_lost_and_what_ran_twice(bench: Bench, tmp_path: Path) -> None:
    subject = bench.subject(trials=4, seconds=0.0, executor="inline", parallel=1, fresh_seeds=0)
    assert subject.drive().wait() == 0
    before = subject.finished()
    assert sorted(before) == [0, 1, 2, 3]
    assert subject.problems(before) == []
    lost = {**before, 0: (*before[0][:-1], 2), 9: before[1]}
    assert [problem[:7] for problem in subject.problems(lost)] == ["trial 0", "trial 9"]
    with (subject.folder / "executions.log").open("a") as log:
        log.write("begins 2 1\n")
    assert subject.problems(before) == ["trial 2 was begun 2 times in 1 attempts"]
    assert table([Case("a fault", "", ("trial 0 was (1), and is (2)",)), Case("a fault")]).splitlines()[1].split() == [
        *("a", "fault", "2", "1", "1")
    ]


def test_a_full_run_holds_as_many_kills_as_were_asked_for() -> None:
    families = planned(200, 100)
    assert sum(fault.keywords["kills"] for fault in families["drivers"]) == 200  # type: ignore[attr-defined]
    kills = [f.keywords["kills"] for f in families["workers"] if getattr(f, "keywords", {}).get("kills")]  # type: ignore[attr-defined]
    assert sum(kills) == 100
