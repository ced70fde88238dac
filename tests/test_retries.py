"""A worker that is lost costs an attempt, not the trial: it is tried again, in its slot, with what it had reported."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import pytest

from agentic_hpt.cli.progress import Progress
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import FailureKind
from agentic_hpt.graph.attempts import Curve
from agentic_hpt.records import JsonObject, Report, TrialState
from agentic_hpt.study import Result, Study, resume_study, run_study
from agentic_hpt.study.telling import explain_study
from study_runs import describe, drive, finished

LOSES = """
import os
import signal
from pathlib import Path

def attempt(trial):
    \"\"\"Count the attempts of a trial in the folder that a retry keeps.\"\"\"
    mark = trial.checkpoint_dir / "attempts"
    begun = int(mark.read_text()) + 1 if mark.exists() else 1
    mark.write_text(str(begun))
    return begun

def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""

ONCE = """
def train(params, trial):
    if trial.id in (1, 3) and attempt(trial) == 1:
        die()
    return {"score": params["dropout"]}
"""

ALWAYS = """
def train(params, trial):
    if trial.id == 2:
        die()
    return {"score": params["dropout"]}
"""

CHECKPOINTED = """
def train(params, trial):
    saved = trial.checkpoint_dir / "step"
    begun = attempt(trial)
    first = int(saved.read_text()) if CHECKPOINT and saved.exists() else 0
    for step in range(first, 6):
        trial.report({"score": 10.0 * begun + step}, step=step)
        saved.write_text(str(step + 1))
        if begun == 1 and step == 3:
            die()
    return {"score": 1.0}
"""


def lossy(folder: Path, code: str, **changes: object) -> dict[str, object]:
    options = {"executor": "processes", "parallel": 2, "strategy": "joint", "fresh_seeds": 0, "pruner": "none"}
    return describe(folder, LOSES + code, **{"budget": {"trials": 5}, **options, **changes})


def run(folder: Path, home: Path, code: str, **changes: object) -> tuple[Result, list[JsonObject]]:
    events: list[JsonObject] = []
    config = StudyConfig.from_mapping(lossy(folder, code, **changes))
    return run_study(config, home=home, listener=events.append), events


def attempts(home: Path) -> list[tuple[int, int, str, bool]]:
    with sqlite3.connect(home / "ledger.db") as ledger:
        query = "select number, attempt, state, message is not null from hpt_attempts order by number, attempt"
        return [(number, attempt, state, bool(why)) for number, attempt, state, why in ledger.execute(query)]


def test_a_lost_trial_is_tried_again_and_is_one_trial(tmp_path: Path, home: Path) -> None:
    result, events = run(tmp_path, home, ONCE)
    assert result.status == "finalized"
    assert [t.state for t in result.trials] == [TrialState.COMPLETE] * 5
    assert [t.attempt for t in result.trials] == [1, 2, 1, 2, 1]
    assert result.usage.trials == 5
    lost = [e for e in events if e["type"] == "trial_lost"]
    assert sorted((e["trial"], e["attempt"], e["lost"], e["again"]) for e in lost) == [(1, 1, 1, True), (3, 1, 1, True)]
    assert all("SIGKILL" in str(e["message"]) for e in lost)
    assert sum(e["type"] == "trial_started" for e in events) == 5
    assert [row for row in attempts(home) if row[0] == 1] == [(1, 1, "lost", True), (1, 2, "complete", False)]
    told = " ".join(explain_study(Study.open("study", home)).end)
    assert "2 attempts were lost with their workers (of trials 1, 3)" in told
    progress = Progress()
    assert progress.apply(lost[0]) is not None
    assert progress.lost == 1


def test_a_trial_that_is_lost_again_and_again_fails_and_says_why(tmp_path: Path, home: Path) -> None:
    result, events = run(tmp_path, home, ALWAYS, failures={"attempts": 3})
    assert result.status == "finalized"
    trial = result.trials[2]
    assert (trial.state, trial.failure, trial.attempt) == (TrialState.FAILED, FailureKind.LOST_WORKER, 3)
    assert trial.message.startswith("attempts 1, 2, 3 were lost: ")
    assert trial.message.count("SIGKILL") == 1, "what is the same each time is said once"
    assert [e["again"] for e in events if e["type"] == "trial_lost"] == [True, True, False]
    assert len(result.trials) == result.usage.trials == 5
    assert sum(t.state is TrialState.COMPLETE for t in result.trials) == 4


def test_a_single_attempt_is_all_that_is_had_where_the_study_says_so(tmp_path: Path, home: Path) -> None:
    result, _ = run(tmp_path, home, ALWAYS, failures={"attempts": 1})
    assert (result.trials[2].failure, result.trials[2].attempt) == (FailureKind.LOST_WORKER, 1)


@pytest.mark.parametrize(("checkpoint", "first"), [(True, 4), (False, 0)])
def test_a_retried_trial_has_its_whole_curve_once(tmp_path: Path, home: Path, checkpoint: bool, first: int) -> None:
    """With a checkpoint the second attempt begins at step 4, without one at 0."""
    code = CHECKPOINTED.replace("CHECKPOINT", str(checkpoint))
    run(tmp_path, home, code, budget={"trials": 1})
    (trial,) = Study.open("study", home).trials()
    assert trial.state is TrialState.COMPLETE
    expected = [(step, 10.0 * (1 if step < first else 2) + step) for step in range(6)]
    assert [(r.step, r.metrics["score"]) for r in trial.reports] == expected


def test_a_driver_killed_between_the_loss_and_the_next_attempt_loses_nothing(tmp_path: Path, home: Path) -> None:
    code = CHECKPOINTED.replace("CHECKPOINT", "True")
    killed = drive(lossy(tmp_path, code, parallel=1, budget={"trials": 3}), home, "trial_lost", 2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = finished(home)
    assert list(before) == [0]
    assert [t.state for t in Study.open("study", home).trials()] == [TrialState.COMPLETE, TrialState.RUNNING]

    result = resume_study("study", home=home)

    assert {number: finished(home)[number] for number in before} == before
    assert [t.state for t in result.trials] == [TrialState.COMPLETE] * 3
    assert [t.attempt for t in result.trials] == [2, 2, 2]
    expected = [10.0 * (1 if step < 4 else 2) + step for step in range(6)]
    assert [[r.metrics["score"] for r in t.reports] for t in result.trials] == [expected] * 3


def test_attempts_that_end_with_the_driver_do_not_count(tmp_path: Path, home: Path) -> None:
    code = "def train(params, trial):\n    if attempt(trial) < 3:\n        die()\n    return {'score': 1.0}\n"
    described = lossy(tmp_path, code, parallel=1, budget={"trials": 1}, failures={"attempts": 3})
    for _ in range(2):  # each time the driver dies when the trial's process has just been started
        drive(described if not home.exists() else None, home, "trial_started")
    result = resume_study("study", home=home)
    assert result.trials[0].state is TrialState.COMPLETE
    assert result.trials[0].attempt >= 3


def test_the_trials_at_the_end_are_tried_again_too(tmp_path: Path, home: Path) -> None:
    code = """
def train(params, trial):
    if trial.id >= 3 and attempt(trial) == 1:
        die()
    return {"score": params["dropout"]}

def score(params, trial):
    if attempt(trial) == 1:
        die()
    return {"score": 0.5}
"""
    objective = {"python": "train.py:train", "final": "train.py:score", "folder": str(tmp_path)}
    result, events = run(tmp_path, home, code, budget={"trials": 3}, fresh_seeds=2, objective=objective, parallel=1)
    assert result.final is not None
    assert (result.final.fresh_seeds, result.final.failed_seeds, result.final.holdout) == (2, 0, 0.5)
    assert sum(e["type"] == "trial_lost" for e in events) == 3


def test_what_was_reported_before_the_new_attempt_begins_stands() -> None:
    def reports(*steps: int, value: float = 0.0) -> list[Report]:
        return [Report(step, {"score": value}) for step in steps]

    curve = Curve(reports(0, 1, 2, 3), told_before=-1)
    assert curve.whole(()) == tuple(reports(0, 1, 2, 3)), "the attempt had nothing left to do"
    assert curve.add(Report(2, {"score": 9.0}))
    assert [r.step for r in curve.reports] == [0, 1, 2]
    assert curve.whole(reports(2, 3, value=9.0)) == (*reports(0, 1), *reports(2, 3, value=9.0))
    continued = Curve((), told_before=4)
    assert not continued.add(Report(4, {"score": 1.0}))
    assert continued.whole(reports(3, 4, 5)) == tuple(reports(5))
