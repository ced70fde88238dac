"""However long a study is, a proposal looks at a bounded part of it, and at the same part after a resume."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from agentic_hpt.feasible import random_configuration
from agentic_hpt.ledger import LedgerStore
from agentic_hpt.records import ActionRecord, Arm, Assignment, Budget, DecisionRecord, Goal, Trial, TrialState
from agentic_hpt.space import Float, Int, SearchSpace
from agentic_hpt.strategies import Auto
from agentic_hpt.strategies.gaussian import GaussianProcess
from agentic_hpt.strategies.history import MOST, Window
from agentic_hpt.strategies.insights import MOST as MOST_FOR_INSIGHTS
from agentic_hpt.strategies.observed import MOST as MOST_OBSERVED
from agentic_hpt.strategies.view import SamplerView

SPACE = SearchSpace(x=Float(0.0, 1.0), rate=Float(1e-4, 1.0, log=True), layers=Int(1, 9))
GOAL = Goal("loss", "minimize")
ARMS: tuple[Arm, ...] = ("gp", "local", "tpe", "cmaes")


def history(count: int) -> list[Trial]:
    dice, found = random.Random(1), []
    for number in range(count):
        params = random_configuration(SPACE, dice)
        loss = (float(str(params["x"])) - 0.3) ** 2 + dice.random() / 100
        worker = ARMS[number % len(ARMS)]
        found.append(
            Trial(
                number,
                params,
                TrialState.COMPLETE,
                number,
                worker,
                "joint",
                1 + number // 8,
                SPACE.names,
                values={"loss": loss},
            )
        )
    return found


def test_a_long_history_is_seen_through_a_window_of_the_newest_the_best_and_a_spread() -> None:
    trials = history(2_345)
    window = Window(GOAL)
    assert window.of(trials[:MOST]) == trials[:MOST], "a short one is seen whole"
    shown = window.of(trials)
    ids = [t.id for t in shown]
    assert ids == sorted(set(ids))
    assert MOST - MOST // 4 <= len(ids) <= MOST
    assert set(range(2_345 - MOST // 4, 2_345)) <= set(ids)
    assert {t.id for t in GOAL.ranked(trials)[: MOST // 4]} <= set(ids)
    spread = [i for i in ids if i < 1_500]
    assert min(spread) < 50
    assert max(b - a for a, b in pairwise(spread)) < 50


def test_a_trial_that_still_runs_never_leaves_the_window() -> None:
    trials = history(3_000)
    trials[7] = replace(trials[7], state=TrialState.RUNNING, values={})
    assert trials[7] in Window(GOAL).of(trials)


def test_a_window_does_not_hang_on_what_was_asked_before() -> None:
    trials = history(2_600)
    window = Window(GOAL)
    for count in (400, 501, 624, 625, 1_900, 2_600):
        assert list(window.of(trials[:count])) == list(Window(GOAL).of(trials[:count]))
    late = [replace(t, values={"loss": -1.0}) if t.id == 4 else t for t in trials]
    assert late[4] in window.of(late), "an end that came in late counts"


def test_what_tpe_sees_is_bounded_and_it_proposes_the_same_after_a_resume() -> None:
    trials = history(1_600)
    view = SamplerView(SPACE, GOAL, SPACE.names, {})
    for count in (490, 510, 1_300, 1_600):
        view.sync(trials[:count])
        proposed = view.propose(count)
        fresh = SamplerView(SPACE, GOAL, SPACE.names, {})
        fresh.sync(trials[:count])
        assert fresh.propose(count) == proposed
        shown = [t for t in view._study.get_trials(deepcopy=False) if t.value is not None]
        assert len(shown) <= MOST


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_proposes_the_same_after_a_resume(arm: Arm) -> None:
    trials = history(1_300)
    assignment = Assignment(arm, "joint", 200, 8, SPACE.names, arm=arm)
    kept = Auto(SPACE, GOAL)
    for count in (1_240, 1_260, 1_300):
        assert kept.propose(assignment, trials[:count], 5) == Auto(SPACE, GOAL).propose(assignment, trials[:count], 5)


def test_surrogates_are_fitted_to_few_trials_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    fit = GaussianProcess.fit.__func__  # type: ignore[attr-defined]

    def counted(cls: type[GaussianProcess], given: object, *rest: object, **named: object) -> GaussianProcess:
        rows.append(len(given))  # type: ignore[arg-type]
        return fit(cls, given, *rest, **named)  # type: ignore[no-any-return]

    monkeypatch.setattr(GaussianProcess, "fit", classmethod(counted))
    strategy, trials = Auto(SPACE, GOAL), history(1_500)
    for arm in ARMS:
        strategy.propose(Assignment(arm, "joint", 200, 8, SPACE.names, arm=arm), trials, 1)
    found = strategy.insights(trials)
    assert found.trials == MOST_FOR_INSIGHTS
    assert rows
    assert max(rows) <= MOST_OBSERVED


def test_cmaes_replays_its_newest_trials_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmaes import CMA

    told: list[int] = []
    tell = CMA.tell
    monkeypatch.setattr(CMA, "tell", lambda self, points: (told.append(len(points)), tell(self, points)))
    assignment = Assignment("cmaes", "joint", 200, 8, SPACE.names, arm="cmaes")
    Auto(SPACE, GOAL).propose(assignment, [replace(t, worker="cmaes") for t in history(950)], 1)
    assert 0 < sum(told) <= 200


def test_a_decision_is_read_from_the_ledger_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LedgerStore(f"sqlite:///{tmp_path}/ledger.db")
    ledger = store.open_study(store.create_study("s", {}), budget=Budget(), seed=0)
    going = ActionRecord("continue", "why", (), "accepted", "always")
    read: list[object] = []
    rebuild = DecisionRecord.from_json
    monkeypatch.setattr(DecisionRecord, "from_json", lambda data: (read.append(data), rebuild(data))[1])
    for round_ in range(1, 6):
        ledger.record_decision(DecisionRecord(round_, "rules", (going,)))
        assert [d.round for d in ledger.decisions()] == list(range(1, round_ + 1))
    assert len(read) == 5
    store.close()
