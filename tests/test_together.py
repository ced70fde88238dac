"""Many trials at once: proposed as a batch, reserved and told in one transaction each, all of it or nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.errors import FailureKind, LedgerError
from agentic_hpt.feasible import random_configuration
from agentic_hpt.protocols import Strategy
from agentic_hpt.records import (
    Arm,
    Assignment,
    Budget,
    Goal,
    Job,
    JsonObject,
    Outcome,
    Report,
    Trial,
    TrialState,
    Wanted,
    configuration_key,
)
from agentic_hpt.strategies.auto import Auto
from agentic_hpt.strategies.joint import Joint
from agentic_hpt.strategies.per_parameter import PerParameter
from bridge_studies import Gates, tune
from ledger_homes import KINDS, Home, opened

GOAL = Goal("score", "maximize")
MIXED = hpt.SearchSpace(
    layers=hpt.Int(1, 8),
    rate=hpt.Float(1e-5, 1e-1, log=True),
    optimizer=hpt.Choice(["adam", "sgd"]),
    momentum=hpt.Float(0.0, 0.99, default=0.5, when={"optimizer": "sgd"}),
)
PLANE = hpt.SearchSpace(x=hpt.Float(0.0, 1.0), y=hpt.Float(0.0, 1.0))


@pytest.fixture(params=KINDS)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    yield from opened(request, tmp_path)


def wanted(count: int) -> list[Wanted]:
    return [Wanted({"x": number / 7}, ("x",)) for number in range(count)]


def test_trials_are_reserved_together_as_far_as_the_budget_goes(home: Home) -> None:
    ledger = home.open(Budget(trials=5))
    first = ledger.reserve_many(wanted(3), round_=1, worker="joint", kind="joint", revision=2)
    rest = ledger.reserve_many(wanted(9), round_=1, worker="joint", kind="joint")
    assert [(t.id, t.attempt, t.revision) for t in (*first, *rest)] == [
        *((n, 1, 2) for n in range(3)),
        (3, 1, 0),
        (4, 1, 0),
    ]
    assert len({t.seed for t in (*first, *rest)}) == 5
    assert ledger.reserve_many(wanted(1), round_=1, worker="joint", kind="joint") == []
    assert list(home.open(Budget(trials=5)).trials()) == [*first, *rest]


@pytest.mark.parametrize("table", ["hpt_trials", "hpt_attempts"])
def test_trials_are_reserved_all_or_none(home: Home, table: str) -> None:
    ledger = home.open(Budget(trials=9))
    home.forbid(f"insert on {table}")
    with pytest.raises(LedgerError, match="not today"):
        ledger.reserve_many(wanted(4), round_=1, worker="joint", kind="joint")
    home.allow()
    for found in (ledger, home.open(Budget(trials=9))):
        assert found.trials() == []
        assert found.usage().trials == 0
    assert len(ledger.reserve_many(wanted(12), round_=1, worker="joint", kind="joint")) == 9


def outcomes() -> list[Outcome]:
    reports = (Report(0, {"score": 0.5}), Report(1, {"score": 0.75}))
    return [
        Outcome.complete({"score": 0.75}, seconds=0.5, reports=reports),
        Outcome.failed(FailureKind.NAN, "the loss was nan", reports=reports[:1]),
        Outcome.pruned(reports=reports[:1]),
    ]


def test_trials_that_are_told_together_are_told_as_one_by_one(home: Home) -> None:
    ledger = home.open(Budget(trials=6))
    begun = ledger.reserve_many(wanted(6), round_=1, worker="joint", kind="joint")
    together = ledger.finish_many([(t.id, 1, o) for t, o in zip(begun[:3], outcomes(), strict=True)])
    alone = [ledger.finish(t.id, 1, o) for t, o in zip(begun[3:], outcomes(), strict=True)]
    same = {"id": 0, "params": {}, "seed": 0}
    assert [replace(t, **same) for t in together] == [replace(t, **same) for t in alone]  # type: ignore[arg-type]
    assert list(home.open(Budget(trials=6)).trials()) == [*together, *alone]
    assert ledger.unsent() == 6
    ends = home.sql("select state from hpt_attempts where ended is not null order by number")
    assert [state for (state,) in ends] == ["complete", "failed", "pruned"] * 2


@pytest.mark.parametrize("wrong", [(0, 1), (2, 7)])
def test_where_one_answer_is_refused_none_of_them_is_kept(home: Home, wrong: tuple[int, int]) -> None:
    """The first trial has ended already; of the last one another attempt answers."""
    ledger = home.open(Budget(trials=3))
    ledger.reserve_many(wanted(3), round_=1, worker="joint", kind="joint")
    ledger.finish(0, 1, outcomes()[0])
    with pytest.raises(LedgerError, match="refused"):
        ledger.finish_many([(1, 1, outcomes()[0]), (*wrong, outcomes()[0])])
    for found in (ledger, home.open(Budget(trials=3))):
        assert [t.finished for t in found.trials()] == [True, False, False]
    assert ledger.unsent() == 1


KILLED = """
import os, signal, sys
from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine
from agentic_hpt.ledger import LedgerStore
from agentic_hpt.records import Budget, Outcome, Wanted

url, dies_at = sys.argv[1], int(sys.argv[2])
store = LedgerStore(url)
ledger = store.open_study(store.find("digits"), budget=Budget(trials=40), seed=7)
seen = 0

def count(*_):
    global seen
    seen += 1
    if seen == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(Engine, "after_cursor_execute", count)
event.listen(Engine, "commit", count)
while True:
    wanted = [Wanted({"x": n / 16}, ("x",)) for n in range(16)]
    begun = ledger.reserve_many(wanted, round_=1, worker="joint", kind="joint")
    if not begun:
        break
    ledger.finish_many([(t.id, t.attempt, Outcome.complete({"score": 0.5})) for t in begun])
"""


@pytest.mark.parametrize("dies_at", [2, 3, 10, 24, 28, 45])
def test_a_kill_leaves_whole_batches_and_the_budget_is_kept(tmp_path: Path, dies_at: int) -> None:
    """The driver dies at one of its statements or commits: a batch is reserved or not, told or not."""
    home = Home(f"sqlite:///{tmp_path / 'ledger.db'}")
    arguments = [sys.executable, "-c", KILLED, home.url, str(dies_at)]
    died = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert died.returncode == -9, died.stderr
    ledger = home.open(Budget(trials=40))
    found = ledger.trials()
    assert len(found) in (0, 16, 32, 40)
    ended = sum(t.finished for t in found)
    assert ended in (0, 16, 32, 40)
    assert ledger.unsent() == ended
    open_ = [t for t in found if not t.finished]
    assert len(open_) in (0, 8, 16)
    for trial in open_:
        ledger.finish(trial.id, ledger.start(trial.id).attempt, outcomes()[0])
    assert len(ledger.reserve_many(wanted(40), round_=1, worker="joint", kind="joint")) == 40 - len(found)
    home.close()


def history(space: hpt.SearchSpace, count: int, running: int = 0) -> list[Trial]:
    import random

    dice, found = random.Random(1), list[Trial]()
    for number in range(count + running):
        params = random_configuration(space, dice)
        trial = Trial(number, params, TrialState.RUNNING, 0, "joint", "joint", 1, tuple(space))
        value = -sum((float(v) - 0.3) ** 2 for v in params.values() if isinstance(v, float))
        ended = replace(trial, state=TrialState.COMPLETE, values={"score": value}, seconds=1.0)
        found.append(ended if number < count else trial)
    return found


ARMS: list[Arm | None] = [None, "gp", "local", "niche", "tpe", "cmaes", "quasi"]


@pytest.mark.parametrize("trials", [0, 40])
@pytest.mark.parametrize("arm", ARMS)
def test_a_batch_is_new_and_no_two_of_it_are_alike(arm: Arm | None, trials: int) -> None:
    space = PLANE if arm == "cmaes" else MIXED
    known = history(space, trials, running=5)
    worker = Assignment("w", "joint", 2, 100, space.names, arm=arm)
    found = (Auto if arm else Joint)(space, GOAL).propose_many(worker, known, range(100, 124))
    assert len(found) == 24
    keys = {configuration_key(p.params) for p in found}
    assert len(keys) == 24
    assert not keys & {configuration_key(t.params) for t in known}
    assert all(space.contains(p.params) for p in found)
    again = (Auto if arm else Joint)(space, GOAL).propose_many(worker, known, range(100, 124))
    assert found == again


@pytest.mark.parametrize("make", [Joint, Auto, PerParameter])
def test_a_batch_of_one_is_what_is_proposed_alone(make: Callable[[hpt.SearchSpace, Goal], Strategy]) -> None:
    known = history(MIXED, 20, running=2)
    for kind in ("joint", "bridge"):
        worker = Assignment("w", kind, 2, 9, MIXED.names)  # type: ignore[arg-type]
        for seed in range(3):
            alone = make(MIXED, GOAL).propose(worker, known, seed)
            assert make(MIXED, GOAL).propose_many(worker, known, [seed]) == [alone]


def test_the_bridge_of_auto_asks_all_arms_for_a_batch() -> None:
    worker = Assignment("bridge", "bridge", 2, 99, PLANE.names)
    found = Auto(PLANE, GOAL).propose_many(worker, history(PLANE, 30), range(40))
    assert len({configuration_key(p.params) for p in found}) == 40


@pytest.mark.parametrize("arm", [None, "gp", "tpe", "quasi"])
def test_a_batch_of_a_grid_is_what_the_grid_still_holds(arm: Arm | None) -> None:
    grid = hpt.SearchSpace(a=hpt.Int(1, 5), b=hpt.Choice(["u", "v", "w"]))
    known = history(grid, 12)
    left = 15 - len({configuration_key(t.params) for t in known})
    found = Auto(grid, GOAL).propose_many(Assignment("w", "joint", 2, 99, grid.names, arm=arm), known, range(40))
    assert len(found) == len({configuration_key(p.params) for p in found}) == left > 0


@pytest.mark.parametrize("arm", ["gp", "tpe"])
def test_a_batch_holds_constraints_limits_and_what_is_held(arm: Arm) -> None:
    space = PLANE.constrained(["x + y <= 0.8"])
    worker = Assignment("w", "group", 2, 99, ("x",), {"y": 0.25}, region={"x": {"low": 0.1, "high": 0.5}}, arm=arm)
    for count in (3, 40):
        found = Auto(space, GOAL).propose_many(worker, history(space, count), range(30))
        assert len(found) == 30
        assert all(p.params["y"] == 0.25 and 0.1 <= float(p.params["x"]) <= 0.5 for p in found)


@pytest.mark.parametrize("strategy", ["joint", "auto"])
def test_a_round_starts_as_one_where_all_slots_are_free(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trials wait until as many as there are slots have begun; each wave is one transaction."""
    gates = Gates(32, lambda trial, begun: begun < 32)
    waves: list[int] = []
    watch(monkeypatch, waves)
    result = tune(monkeypatch, tmp_path, gates, strategy=strategy, budget=Budget(trials=70), trials_per_round=32)
    assert gates.most == 32
    assert len(result.trials) == 70
    assert len({configuration_key(t.params) for t in result.trials if t.kind not in ("repeat", "default")}) >= 60
    assert max(waves) >= 16


def watch(monkeypatch: pytest.MonkeyPatch, waves: list[int]) -> None:
    from agentic_hpt.ledger import StudyLedger

    reserve = StudyLedger.reserve_many

    def counted(self: StudyLedger, asked: list[Wanted], **rest: object) -> list[Trial]:
        found = reserve(self, asked, **rest)  # type: ignore[arg-type]
        waves.append(len(found))
        return found

    monkeypatch.setattr(StudyLedger, "reserve_many", counted)


def test_trials_that_end_together_are_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentic_hpt.ledger import StudyLedger

    lots: list[int] = []
    finish = StudyLedger.finish_many

    def counted(self: StudyLedger, ends: list[tuple[int, int, Outcome]]) -> list[Trial]:
        lots.append(len(ends))
        return finish(self, ends)

    monkeypatch.setattr(StudyLedger, "finish_many", counted)
    events: list[JsonObject] = []
    gates = Gates(32, lambda trial, begun: begun < 32)
    result = tune(monkeypatch, tmp_path, gates, events=events, budget=Budget(trials=32), trials_per_round=32)
    assert sum(lots) == len(result.trials) == 32
    assert max(lots) > 1
    told = [e["trial"] for e in events if e["type"] == "trial"]
    assert sorted(told) == list(range(32))  # type: ignore[type-var]


class Broken(Gates):
    """All trials begin, then all fail alike."""

    async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
        self.begun.append(job.trial)
        await self.wait(lambda: len(self.begun) >= self.slots)
        return Outcome.failed(FailureKind.CRASH, "RuntimeError: no data")


def test_a_study_whose_trials_all_fail_together_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """33 of them: not a multiple of what is enough in a row."""
    events: list[JsonObject] = []
    options: JsonObject = {"budget": Budget(trials=200), "trials_per_round": 33, "failures": {"same": 5}}
    result = tune(monkeypatch, tmp_path, Broken(33), events=events, **options)
    assert result.status == "stopped"
    assert len(result.trials) == 33
    assert any("5 trials in a row failed alike" in str(e["text"]) for e in events if e["type"] == "notice")


def test_a_second_answer_stops_no_more_than_it_would_alone(tmp_path: Path) -> None:
    home = Home(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger = home.open(Budget(trials=4))
    ledger.reserve_many(wanted(2), round_=1, worker="joint", kind="joint")
    with pytest.raises(LedgerError):
        ledger.finish_many([(0, 1, outcomes()[0]), (0, 1, outcomes()[0])])
    assert not any(t.finished for t in home.open(Budget(trials=4)).trials())
    home.close()
