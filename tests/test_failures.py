"""An objective that fails alike again and again ends its study early; one that fails in a region does not."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import cast

import pytest

import agentic_hpt as hpt
from agentic_hpt.cli.app import main
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import FailureKind
from agentic_hpt.graph.failing import alike
from agentic_hpt.records import Arm, Assignment, Goal, Trial, TrialState
from agentic_hpt.strategies import Auto, Joint
from agentic_hpt.study import Result, Study, resume_study, run_study
from agentic_hpt.study.telling import explain_study
from study_runs import describe, drive

PLANE = {"x": {"float": [0.0, 1.0], "default": 0.05}, "y": {"float": [0.0, 1.0], "default": 0.05}}
BROKEN = """
def train(params, trial):
    raise FileNotFoundError(f"no such file: /data/{trial.id}/train.csv")
"""
WORKS = "def train(params, trial):\n    return {'score': params['x']}\n"


def described(folder: Path, code: str, **changes: object) -> dict[str, object]:
    options = {"space": PLANE, "strategy": "joint", "fresh_seeds": 0, "budget": {"trials": 40}}
    return describe(folder, code, **{**options, **changes})


def run(folder: Path, home: Path, code: str, **changes: object) -> Result:
    return run_study(StudyConfig.from_mapping(described(folder, code, **changes)), home=home)


def test_an_objective_that_never_works_stops_its_study_and_goes_on_once_it_is_mended(
    tmp_path: Path, home: Path
) -> None:
    result = run(tmp_path, home, BROKEN)
    assert (result.status, result.stopped_by, result.exit_code) == ("stopped", "failures", 1)
    assert result.usage.trials == 5
    assert result.error is not None
    assert "5 trials in a row failed alike (crash), and none has worked yet: FileNotFoundError" in result.error
    assert "hpt resume study" in result.error
    assert any("failed alike" in sentence for sentence in explain_study(Study.open("study", home)).end)

    again = resume_study("study", home=home)
    assert (again.stopped_by, again.usage.trials) == ("failures", 10), "whoever resumes it has as much patience again"

    (tmp_path / "train.py").write_text(WORKS)
    mended = resume_study("study", home=home)
    assert mended.status == "finalized"
    assert len([t for t in mended.trials if t.counted]) == 40
    assert sum(t.state is TrialState.FAILED for t in mended.trials) == 10


def test_the_patience_is_what_the_study_file_says_and_a_kill_does_not_renew_it(tmp_path: Path, home: Path) -> None:
    killed = drive(described(tmp_path, BROKEN, failures={"same": 7}), home, "trial", 4)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = resume_study("study", home=home)
    assert (result.stopped_by, result.usage.trials) == ("failures", 7)


def test_with_trials_in_parallel_no_more_is_started(tmp_path: Path, home: Path) -> None:
    result = run(tmp_path, home, BROKEN, executor="processes", parallel=2)
    assert (result.status, result.stopped_by) == ("stopped", "failures")
    assert 5 <= result.usage.trials <= 7


def test_failures_that_are_not_alike_are_borne(tmp_path: Path, home: Path) -> None:
    code = "def train(params, trial):\n    raise (ValueError, KeyError, OSError)[trial.id % 3]('odd')\n"
    result = run(tmp_path, home, code, budget={"trials": 18})
    assert (result.status, result.usage.trials) == ("failed", 18)


NAN = "def train(params):\n    return float('nan')\n"


def test_a_study_whose_first_trials_from_all_over_the_space_are_no_numbers_stops_soon(
    tmp_path: Path, home: Path
) -> None:
    result = run(tmp_path, home, NAN, budget={"trials": 12})
    assert result.stopped_by == "failures"
    assert 10 <= result.usage.trials < 12, "some trainings diverge: a few say nothing"
    assert all(t.failure is FailureKind.NAN and not t.values for t in result.trials)
    assert "(nan), the default and others from all over the space, and none has worked yet" in str(result.error)
    assert "see whether the data hold nan" in str(result.error)

    again = resume_study("study", home=home, trials=30)
    assert (again.stopped_by, again.usage.trials) == ("failures", 15), "then it is as patient as with a region"
    (tmp_path / "train.py").write_text(WORKS)
    assert resume_study("study", home=home).status == "finalized"


def test_values_that_are_no_numbers_in_one_corner_are_results_and_borne_for_longer(tmp_path: Path, home: Path) -> None:
    near = [{"x": 0.01 * n, "y": 0.01 * n} for n in range(1, 5)] + [{"x": 0.01 * n, "y": 0.9} for n in range(6, 12)]
    result = run(tmp_path, home, NAN, initial=near, budget={"trials": 11})
    assert (result.status, result.usage.trials) == ("failed", 11)


def test_a_space_most_of_which_is_no_number_is_searched_on_where_one_trial_worked(tmp_path: Path, home: Path) -> None:
    code = "def train(params):\n    return params['x'] if params['x'] == 0.05 else float('nan')\n"
    result = run(tmp_path, home, code, budget={"trials": 12})
    assert (result.status, result.usage.trials) == ("finalized", 12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_large_region_that_fails_does_not_end_a_study_whose_default_works(
    tmp_path: Path, home: Path, seed: int
) -> None:
    """99 % of the space fail with the same words: after 15 such trials in a row the best one runs again, and works."""
    code = """
def train(params, trial):
    if params["x"] > 0.1 or params["y"] > 0.1:
        raise RuntimeError("diverged")
    return {"score": params["x"]}
"""
    result = run(tmp_path, home, code, seed=seed)
    assert result.status == "finalized"
    assert result.usage.trials == 40
    worked = [t.params for t in result.trials if t.state is TrialState.COMPLETE]
    assert any(worked.count(params) > 1 for params in worked), "its patience was tried"


def test_an_objective_that_breaks_under_way_stops_the_study(tmp_path: Path, home: Path) -> None:
    code = """
def train(params, trial):
    if trial.id >= 6:
        raise OSError(28, "No space left on device")
    return {"score": params["x"]}
"""
    result = run(tmp_path, home, code, budget={"trials": 60})
    assert (result.status, result.stopped_by, result.exit_code) == ("stopped", "failures", 1)
    assert result.usage.trials == 6 + 15 + 1
    last, best = result.trials[-1], result.best
    assert best is not None
    assert last.params == best.params, "what worked before was tried once more"
    assert "whose configuration had worked before" in str(result.error)
    (tmp_path / "train.py").write_text(WORKS)
    assert len(resume_study("study", home=home).trials) == 60


def test_the_command_line_says_it_in_a_document_and_exits_with_1(
    tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(described(tmp_path, BROKEN)))
    assert main(["run", str(file), "--home", str(home), "--json"]) == 1
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert (document["status"], document["stopped_by"]) == ("stopped", "failures")
    assert "failed alike" in document["error"]
    assert "the study stops: 5 trials in a row failed alike" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("ValueError: 3 rows at 0x7f00aa in /tmp/a/b.csv", "ValueError: 41 rows at 0x55ee1b in /var/c.csv", True),
        ("ValueError: loss 1.5e-3", "ValueError: loss -2", True),
        ("ValueError: a", "ValueError: b", False),
        ('E: x\n  File "/a/t.py", line 3, in f\n    g()', 'E: x\n  File "/b/t.py", line 9, in f\n    g()', True),
        ("E: x\n  in f\n    g()", "E: x\n  in f\n    h()", False),
        ("the program ended with exit code 1:\nepoch 1\nno GPU", "the program ended with exit code 1:\n\nno GPU", True),
        ("the program ended with exit code 1:\nno GPU", "the program ended with exit code 1:\nno data", False),
    ],
)
def test_texts_are_alike_but_for_numbers_addresses_and_paths(a: str, b: str, same: bool) -> None:
    assert (alike(a) == alike(b)) is same


# -- what samplers learn of failures -----------------------------------------------------------------------------------

SQUARE = hpt.SearchSpace(x=hpt.Float(0.0, 1.0, default=0.2), y=hpt.Float(0.0, 1.0, default=0.2))


def tried(number: int, x: float, y: float, kind: FailureKind) -> Trial:
    """Make a trial of what gets better with x + y, and fails beyond x + y = 1."""
    fails = x + y > 1.0
    return Trial(
        id=number,
        params={"x": x, "y": y},
        state=TrialState.FAILED if fails else TrialState.COMPLETE,
        seed=number,
        worker="ask",
        kind="joint",
        round=1,
        values={} if fails else {"score": x + y},
        failure=kind if fails else None,
    )


def proposed_into_failure(arm: Arm, kind: FailureKind) -> int:
    """Count how many of 12 proposals, each told of, fail, behind 24 trials all over the square."""
    goal = Goal("score", "maximize")
    strategy = Joint(SQUARE, goal) if arm == "tpe" else Auto(SQUARE, goal, 0)
    dice = random.Random(0)
    trials = [tried(number, dice.random(), dice.random(), kind) for number in range(24)]
    asked = Assignment("ask", "joint", 2, 1, SQUARE.names, arm=arm)
    for seed in range(12):
        proposal = strategy.propose(asked, trials, seed)
        assert proposal is not None
        x, y = cast(float, proposal.params["x"]), cast(float, proposal.params["y"])
        trials.append(tried(len(trials), x, y, kind))
    return sum(trial.failure is not None for trial in trials[24:])


@pytest.mark.parametrize("arm", ["gp", "tpe"])
def test_samplers_stay_out_of_where_trials_fail_but_not_of_where_workers_were_lost(arm: Arm) -> None:
    learned = proposed_into_failure(arm, FailureKind.OUT_OF_MEMORY)
    assert learned <= 4
    assert proposed_into_failure(arm, FailureKind.LOST_WORKER) > max(6, learned)
