"""The end of a noisy study: finalists on fresh seeds, and a gain that no seed which chose is part of."""

from __future__ import annotations

import random
import signal
import sqlite3
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.coordinator.finalists import CHOOSING_SEEDS, default_trial, finalists, gain_over, varies, winner
from agentic_hpt.records import FinalReport, Goal, OutcomeConstraint, Trial, TrialState, best_of
from agentic_hpt.report.gaining import gain_sentences
from agentic_hpt.study import Study, resume_study
from study_runs import describe, drive

GOAL = Goal("m")


def trial(number: int, value: float | None, **changes: object) -> Trial:
    state = TrialState.FAILED if value is None else TrialState.COMPLETE
    values = {} if value is None else {"m": value}
    made = Trial(number, {"x": number}, state, number, "w", "joint", 1, values=values)
    return replace(made, **changes)  # type: ignore[arg-type]


def fresh(of: Trial, values: Sequence[float | None], first: int = 900) -> list[Trial]:
    return [trial(first + i, v, params=of.params, kind="fresh_seed", seed=i) for i, v in enumerate(values)]


# -- who ------------------------------------------------------------------------------------------------------------


def test_the_number_of_finalists_grows_with_the_search_and_is_one_without_noise() -> None:
    trials = [trial(i, i / 100) for i in range(80)]
    assert [len(finalists(GOAL, trials[:n], None, 3)) for n in (10, 39, 40, 59, 60, 80)] == [1, 1, 2, 2, 3, 3]
    assert [t.id for t in finalists(GOAL, trials, None, 3)] == [79, 78, 77]
    calm = [*trials, trial(80, 0.79, params={"x": 79}, kind="repeat")]
    assert [t.id for t in finalists(GOAL, calm, None, 3)] == [79]
    assert len(finalists(GOAL, calm, 4, 3)) == 4, "somebody asked for them"
    assert len(finalists(GOAL, trials, None, 0)) == 1
    assert len(finalists(GOAL, trials[:3], 10, 3)) == 3
    assert finalists(GOAL, [trial(0, None)], None, 3) == []


def test_finalists_are_different_configurations_that_satisfy_the_constraints() -> None:
    goal = replace(GOAL, constraints=(OutcomeConstraint("size <= 4", ("size",)),))
    trials = [trial(i, i / 100, values={"m": i / 100, "size": 9.0 if i == 50 else 1.0}) for i in range(60)]
    trials += [trial(60, 0.58, params={"x": 59}, kind="repeat", values={"m": 0.58, "size": 1.0})]
    found = finalists(goal, trials, 12, 3)
    assert len({t.params["x"] for t in found}) == 12
    assert 50 not in {t.params["x"] for t in found}


def test_the_winner_is_the_best_by_all_evidence_not_by_the_fresh_seeds_alone() -> None:
    trials = [trial(i, 0.5 + 0.001 * i) for i in range(40)]
    first, second = trials[39], trials[38]
    luck = {39: fresh(first, [0.4, 0.42]), 38: fresh(second, [0.52, 0.5], 950)}
    assert winner(GOAL, trials, luck) == second
    many = [trial(100 + i, 0.60, params=first.params, kind="repeat") for i in range(4)]
    close = {39: fresh(first, [0.55, 0.57]), 38: fresh(second, [0.57, 0.56], 950)}
    assert winner(GOAL, [*trials, *many], close) == first, "four runs of the search count, too"


def test_a_finalist_that_fails_or_breaks_a_constraint_on_fresh_seeds_is_not_the_winner() -> None:
    trials = [trial(0, 0.9), trial(1, 0.8)]
    assert winner(GOAL, trials, {0: fresh(trials[0], [0.9, None]), 1: fresh(trials[1], [0.8, 0.8])}) == trials[1]
    assert winner(GOAL, trials, {0: fresh(trials[0], [None]), 1: fresh(trials[1], [None])}) == trials[0]
    goal = replace(GOAL, constraints=(OutcomeConstraint("size <= 4", ("size",)),))
    sized = [replace(t, values={**t.values, "size": 4.0}) for t in trials]
    large, small = fresh(sized[0], [0.9, 0.9]), fresh(sized[1], [0.7, 0.7])
    tried = {
        0: [replace(t, values={**t.values, "size": 9.0}) for t in large],
        1: [replace(t, values={**t.values, "size": 3.0}) for t in small],
    }
    assert winner(goal, sized, tried) == sized[1]


def test_the_default_is_what_is_declared_now_whoever_ran_it() -> None:
    """A resumed study may have another one, and one that was asked for trials has no worker of that name."""
    was, asked = trial(0, 0.5, kind="default"), trial(1, 0.6, kind="ask")
    imported, failed = trial(1, 0.9, id=2, kind="imported"), trial(1, None, id=3)
    assert default_trial(GOAL, [was, imported, failed, asked], {"x": 1}) is asked
    assert default_trial(GOAL, [was], {"x": 1}) is None


def test_a_first_fresh_seed_shows_whether_there_is_noise() -> None:
    held = trial(0, 0.5)
    assert not varies(GOAL, held, fresh(held, [0.5, 0.5]))
    assert varies(GOAL, held, fresh(held, [0.5, 0.51]))
    assert varies(GOAL, held, fresh(held, [0.5, None]))


# -- how much -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_gain_is_paired_by_seed_and_its_interval_pooled(direction: str) -> None:
    sign = 1 if direction == "maximize" else -1
    goal = Goal("m", direction)  # type: ignore[arg-type]
    mine = fresh(trial(0, 1.0), [sign * 1.0, sign * 1.2, sign * 5.0])
    other = fresh(trial(1, 1.0), [sign * 0.5, sign * 0.7, None], 950)
    found = gain_over(goal, [], mine, other)
    assert found is not None
    assert found.value == pytest.approx(0.5), "the seed on which the default failed is left out"
    assert found.default == pytest.approx(sign * 0.6)
    assert found.low == pytest.approx(0.5 - 4.303 * 0.02**0.5, abs=1e-3)
    assert found.high == pytest.approx(0.5 + 4.303 * 0.02**0.5, abs=1e-3)
    more = [trial(i, sign * (0.1 if i % 2 else 0.0), params={"x": 0}) for i in range(20)]
    tighter = gain_over(goal, more, mine, other)
    assert tighter is not None
    assert tighter.low is not None
    assert tighter.low > 0.2, "the search's repeats tell the noise better"
    assert gain_over(goal, [], mine, fresh(trial(1, 1.0), [None], 950)) is None
    single = gain_over(goal, [], mine[:1], other[:1])
    assert single is not None
    assert single.low is None


def test_the_interval_holds_the_true_gain_as_often_as_it_says() -> None:
    held = 0
    for seed in range(400):
        dice = random.Random(seed)
        mine = fresh(trial(0, 1.0), [0.3 + dice.gauss(0, 1) for _ in range(3)])
        other = fresh(trial(1, 1.0), [dice.gauss(0, 1) for _ in range(3)], 950)
        found = gain_over(GOAL, [], mine, other)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.3 <= found.high
    assert 0.92 < held / 400 < 0.98


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.3, "more than noise"),
        (-0.1, 0.5, "within noise"),
        (-0.5, -0.1, "worse"),
        (0.2, 0.2, "no noise was seen"),
    ],
)
def test_a_gain_is_called_what_its_interval_allows(low: float, high: float, said: str) -> None:
    final = FinalReport(4, 0.9, 3, 0.88, 0.01, None, 0.02, default_mean=0.68, gain=0.2, gain_low=low, gain_high=high)
    (sentence,) = gain_sentences("m", final.to_json())
    assert said in sentence
    chosen = replace(final, finalists=({"trial": 4, "seeds": 2, "mean": 0.9}, {"trial": 5, "seeds": 2, "mean": 0.8}))
    assert "among 2 finalists on 2 seeds each" in gain_sentences("m", chosen.to_json())[0]
    assert gain_sentences("m", replace(final, gain=None).to_json()) == []


def test_a_study_stands_for_the_winner_of_its_end() -> None:
    trials = [trial(0, 0.5), trial(1, 0.9)]
    assert best_of(GOAL, trials, None) == trials[1]
    assert best_of(GOAL, trials, FinalReport(0, 0.5, 3, 0.5, 0.0, None, 0.0)) == trials[0]
    assert best_of(GOAL, trials, FinalReport(7, 0.5, 3, 0.5, 0.0, None, 0.0)) == trials[1], "not among these"


# -- whole runs -----------------------------------------------------------------------------------------------------

NOISY = """
import random

def train(params, trial):
    return {"score": random.Random(trial.seed).gauss(params["dropout"], 0.1)}
"""
COUNT = "select worker, count(*) from hpt_trials where kind = 'fresh_seed' group by worker order by worker"


def described(folder: Path) -> dict[str, object]:
    return describe(folder, NOISY, budget={"trials": 12}, strategy="joint", finalists=2, fresh_seeds=3)


def test_a_noisy_study_reports_what_did_not_choose_and_a_kill_in_between_changes_nothing(
    tmp_path: Path, home: Path
) -> None:
    assert drive(described(tmp_path), home / "whole").returncode == 0
    killed = drive(described(tmp_path), home / "killed", "trial", 18)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resume_study("study", home=home / "killed")
    results = [Study.open("study", home / name).result() for name in ("whole", "killed")]
    finals = [result.final for result in results]
    assert finals[0] == finals[1]
    final, result = finals[0], results[0]
    assert final is not None
    assert result.best is not None
    assert result.best.id == final.trial
    tried = {entry["trial"]: entry for entry in final.finalists}
    assert len(tried) == 2
    assert final.trial in tried
    with sqlite3.connect(home / "killed" / "ledger.db") as ledger:
        counts = dict(ledger.execute(COUNT).fetchall())
    assert counts == {"default": 3, "fresh-seed": 3, **{f"finalist-{number}": CHOOSING_SEEDS for number in tried}}

    ledger_ = Study.open("study", home / "whole")._ledger()
    last = result.decisions[-1].round
    runs = {name: ledger_.of_assignment(last, "fresh_seed", name) for name in counts}
    seeds = {name: [t.seed for t in of] for name, of in runs.items()}
    choosing = [seeds[f"finalist-{number}"] for number in tried]
    assert choosing[0] == choosing[1], "the finalists are compared on the same seeds"
    assert seeds["fresh-seed"] == seeds["default"]
    assert not set(seeds["fresh-seed"]) & set(choosing[0]), "what chose is not what is told"
    means = {name: statistics.fmean(t.values["score"] for t in of) for name, of in runs.items()}
    assert final.mean == pytest.approx(means["fresh-seed"])
    assert final.gain == pytest.approx(means["fresh-seed"] - means["default"])
    assert final.gain_low is not None
    assert final.gain_high is not None
    assert final.gain_low < final.gain < final.gain_high
    document = result.to_json()["final"]
    assert isinstance(document, dict)
    assert document["gain"] == final.gain


def test_equal_figures_have_a_mean_that_is_the_same_to_the_last_digit(tmp_path: Path) -> None:
    assert statistics.fmean([0.1] * 3) != 0.1
    result = hpt.tune(
        lambda params: 0.1,
        {"x": hpt.Float(0.0, 1.0)},
        metric="m",
        direction="minimize",
        target=0.1,
        home=tmp_path,
        study="s",
        budget=hpt.Budget(trials=1),
        executor="inline",
        mlflow={"enabled": False},
        fresh_seeds=3,
    )
    assert result.final is not None
    assert (result.final.mean, result.final.selection_gap) == (0.1, 0.0)
