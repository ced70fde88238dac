"""After `kill -9` at any moment a resumed study ends with no finished trial lost or run twice, and the budget exact."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from agentic_hpt.errors import StudyBusy
from agentic_hpt.study import Study, resume_study
from study_runs import describe, drive, finished

MOMENTS = [
    ("study", 1),
    ("round", 1),
    ("trial_started", 1),
    ("trial", 1),
    ("trial", 7),
    ("decision", 1),
    ("round", 2),
    ("trial_started", 12),
    ("decision", 3),
    ("final_started", 1),
    ("trial", 21),
    ("final", 1),
]


@pytest.mark.parametrize(("event", "count"), MOMENTS)
def test_a_killed_study_is_resumed_to_its_end(tmp_path: Path, home: Path, event: str, count: int) -> None:
    killed = drive(describe(tmp_path), home, event, count)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = finished(home)

    result = resume_study("study", home=home)

    assert result.status == "finalized"
    after = finished(home)
    assert {number: after[number] for number in before} == before
    assert sorted(after) == list(range(20))
    assert result.final is not None
    assert result.final.fresh_seeds == 2
    with sqlite3.connect(home / "ledger.db") as ledger:
        twice = (
            "select number from hpt_attempts where state not in ('lost', 'running') group by number having count(*) > 1"
        )
        assert ledger.execute(twice).fetchall() == []
        assert ledger.execute("select count(*) from hpt_trials").fetchone() == (22,)
        rounds = [row[0] for row in ledger.execute("select round from hpt_decisions order by round")]
    assert rounds == list(range(1, len(rounds) + 1))


def test_a_resumed_study_takes_the_course_it_would_have_taken(tmp_path: Path, home: Path) -> None:
    assert drive(describe(tmp_path), home / "whole").returncode == 0
    assert drive(describe(tmp_path), home / "killed", "trial", 9).returncode == -signal.SIGKILL
    resume_study("study", home=home / "killed")

    def course(folder: Path) -> list[object]:
        return [(t.params, t.values, t.worker, t.round) for t in Study.open("study", folder).trials()]

    assert course(home / "killed") == course(home / "whole")


@pytest.mark.parametrize("event", ["trial_started", "final_started", "final"])
def test_a_ledger_that_lacks_what_the_loop_had_done_counts_all_the_same(tmp_path: Path, home: Path, event: str) -> None:
    """As after a power cut, or where the ledger was restored from a copy."""
    assert drive(describe(tmp_path), home, "decision", 1).returncode == -signal.SIGKILL
    before = finished(home)
    with contextlib.closing(sqlite3.connect(home / "ledger.db")) as ledger:
        ledger.execute("vacuum into ?", (str(tmp_path / "copy.db"),))
    drive(None, home, event, 12 if event == "trial_started" else 1)
    for path in home.glob("ledger.db*"):
        path.unlink()
    shutil.copy(tmp_path / "copy.db", home / "ledger.db")
    assert finished(home) == before

    events: list[Mapping[str, object]] = []
    result = resume_study("study", home=home, listener=events.append)

    assert any("begins again from the ledger" in str(told.get("text")) for told in events)
    assert result.status == "finalized"
    after = finished(home)
    assert {number: after[number] for number in before} == before
    assert sorted(after) == list(range(20))
    assert [decision.round for decision in result.decisions] == list(range(1, len(result.decisions) + 1))


def test_kills_again_and_again_lose_nothing(tmp_path: Path, home: Path) -> None:
    description = describe(tmp_path, executor="processes", parallel=2)
    assert drive(description, home, "trial", 3).returncode == -signal.SIGKILL
    for count in (2, 4, 3):
        before = finished(home)
        drive(None, home, "trial", count)
        after = finished(home)
        assert {number: after[number] for number in before} == before
    result = resume_study("study", home=home)
    assert result.status == "finalized"
    assert len([t for t in result.trials if t.counted]) == 20


@pytest.mark.parametrize("executor", ["inline", "processes"])
@pytest.mark.parametrize(("event", "count"), [("trial_started/bridge", 1), ("trial/bridge", 2), ("decision", 2)])
def test_a_study_that_is_killed_while_trials_go_on_before_a_decision_loses_and_doubles_nothing(
    tmp_path: Path, home: Path, executor: str, event: str, count: int
) -> None:
    """After round 1 a person thinks for three trials; the driver is killed meanwhile, or just after the decision."""
    parallel = 2 if executor == "processes" else 1
    described = describe(tmp_path, executor=executor, parallel=parallel, coordinator={"approve": True})
    killed = drive(described, home, event, count)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = finished(home)
    reserved = [t for t in Study.open("study", home).trials() if t.kind == "bridge"]
    assert reserved

    result = resume_study("study", home=home, approver=lambda request: "approve")

    assert result.status == "finalized"
    after = finished(home)
    assert {number: after[number] for number in before} == before
    assert sorted(after) == list(range(20))
    assert {t.id for t in reserved} <= {t.id for t in result.trials if t.kind == "bridge" and t.finished}
    rounds = [d.round for d in result.decisions]
    assert rounds == list(range(len(rounds)))
    for decision in result.decisions:
        assert decision.bridged == sum(t.kind == "bridge" and t.round == decision.round + 1 for t in result.trials)


def test_a_finished_study_is_not_run_again(tmp_path: Path, home: Path) -> None:
    assert drive(describe(tmp_path), home).returncode == 0
    events: list[object] = []
    result = Study.open("study", home).run(listener=events.append)
    assert result.status == "finalized"
    assert events == []


SLOW = """
import os
import time

def train(params, trial):
    (trial.artifact_dir / "began").write_text(str(os.getpid()))
    time.sleep(600)
"""


def _started(home: Path) -> bool:
    return bool(list(home.glob("artifacts/*/trials/*/began")))


def _runs(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_and_leaves_a_resumable_study(
    tmp_path: Path, home: Path, number: signal.Signals
) -> None:
    study = tmp_path / "study.yaml"
    (tmp_path / "train.py").write_text(SLOW)
    study.write_text(
        "study: study\nobjective: {python: 'train.py:train'}\nmetric: score\nparallel: 2\nmlflow: {enabled: false}\n"
        "space: {x: {float: [0, 1]}}\nbudget: {trials: 3}\nstrategy: joint\nfresh_seeds: 0\n"
    )
    command = [sys.executable, "-m", "agentic_hpt.cli", "run", str(study), "--home", str(home)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not _started(home):
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(StudyBusy):
        resume_study("study", home=home)
    driver.send_signal(number)
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == {signal.SIGINT: 130, signal.SIGTERM: 3}[number], errors
    assert "Traceback" not in errors
    assert Study.open("study", home).status == "stopped"
    assert [t.state for t in Study.open("study", home).trials()] == ["running", "running"]
    pids = [text for path in home.glob("artifacts/*/trials/*/began") if (text := path.read_text())]
    assert pids
    assert not [pid for pid in pids if _runs(pid)], "no trial's process is left"

    (tmp_path / "train.py").write_text("def train(params):\n    return params['x']")
    result = resume_study("study", home=home)
    assert result.status == "finalized"
    assert [t.attempt for t in result.trials] == [2, 2, 1]


IMPORTS_LONG = """
import sys, time
from pathlib import Path

if "agentic_hpt.cli.app" not in sys.modules:  # where trials are forked from
    Path({folder!r}, "imports").touch()
    time.sleep(600)

def train(params):
    return params["x"]
"""


def test_ctrl_c_does_not_wait_for_what_the_objective_imports(tmp_path: Path, home: Path) -> None:
    code = IMPORTS_LONG.format(folder=str(tmp_path))
    described = describe(tmp_path, code, executor="processes", space={"x": {"float": [0.0, 1.0]}})
    (tmp_path / "study.json").write_text(json.dumps(described))
    temporary = Path(tempfile.mkdtemp(prefix="hpt"))  # short: sockets lie there
    command = [sys.executable, "-m", "agentic_hpt.cli", "run", str(tmp_path / "study.json"), "--home", str(home)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not (tmp_path / "imports").exists():
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130, errors
    assert "Traceback" not in errors
    assert list(temporary.glob("agentic-hpt-*")) == []
    shutil.rmtree(temporary)
