"""A study by the command line on a Ray of its own: what it says, what it leaves, and how it is stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from agentic_hpt.records import TrialState
from agentic_hpt.study import Study
from executor_runs import wait_until_gone
from study_runs import describe

CODE = """
import os, time
from pathlib import Path

def train(params, trial):
    here = Path(os.environ["HERE"])
    if trial.id == 9:
        (here / "pid").write_text(str(os.getpid()))
        while not (here / "go").exists():
            time.sleep(0.05)
    for step in range(6):
        trial.report(1 / (trial.id + 1), step=step)  # each is worse than all before it
    return 1 / (trial.id + 1)
"""


def hpt(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "agentic_hpt.cli", *arguments]


def ray_left() -> list[str]:
    """Name the processes of Ray."""
    return [p.name() for p in psutil.process_iter() if p.name().startswith(("ray", "gcs_server"))]


def test_a_study_on_a_ray_of_its_own_is_stopped_and_resumed_and_leaves_no_ray(tmp_path):
    ray = {"env": {"HERE": str(tmp_path)}}
    description = describe(tmp_path, CODE, executor="ray", ray=ray, budget={"trials": 14}, parallel=2, fresh_seeds=1)
    file, home = tmp_path / "study.yaml", ["--home", str(tmp_path / "home")]
    file.write_text(yaml.safe_dump(description))
    log = (tmp_path / "said").open("w+")
    with log, subprocess.Popen(hpt("run", str(file), *home), stdout=log, stderr=log) as first:
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
            assert first.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
    said = (tmp_path / "said").read_text()
    assert first.returncode == 130, said
    assert "trials run on a Ray of their own on this machine: it listens on loopback only" in said
    assert "Traceback" not in said
    wait_until_gone(int((tmp_path / "pid").read_text()))
    assert ray_left() == []
    (tmp_path / "go").touch()
    done = subprocess.run(hpt("resume", "study", *home, "--json"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"]["total"] == 14
    trials = [t for t in Study.open("study", tmp_path / "home").trials() if t.counted]
    assert [t.id for t in trials if t.attempt > 1][-1] >= 9
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert ray_left() == []
    assert list(Path(tempfile.gettempdir()).glob("hpt-ray-*")) == []
