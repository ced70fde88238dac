"""Helpers for tests of whole runs: objectives on disk, drivers in processes of their own, what must hold afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from agentic_hpt.study import Study

OBJECTIVE = """
import math

def train(params, trial):
    score = -abs(math.log10(params["learning_rate"]) + 2) - 0.1 * abs(params["num_layers"] - 5)
    for epoch in range(3):
        trial.report({"score": score - 0.01 * (2 - epoch)}, step=epoch)
    return {"score": score}
"""

SPACE = {
    "num_layers": {"int": [1, 6], "default": 2},
    "learning_rate": {"float": [1e-4, 1e-1], "log": True, "default": 1e-3},
    "dropout": {"float": [0.0, 0.5], "default": 0.1},
}


def describe(folder: Path, code: str = OBJECTIVE, **changes: object) -> dict[str, object]:
    """Write an objective to a file and give a study description that runs it, inline and without MLflow."""
    (folder / "train.py").write_text(code)
    description: dict[str, object] = {
        "study": "study",
        "objective": {"python": "train.py:train", "folder": str(folder)},
        "metric": "score",
        "space": SPACE,
        "budget": {"trials": 20},
        "executor": "inline",
        "mlflow": {"enabled": False},
        "fresh_seeds": 2,
    }
    return {**description, **changes}


DRIVER = """
import json, os, signal, sys, threading
from agentic_hpt.config import StudyConfig
from agentic_hpt.study import resume_study, run_study

description, home, kill_type, kill_count = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
name = sys.argv[5]
seen = 0
bridged = threading.Semaphore(0)

def listener(event):
    global seen
    if event["type"] == "trial" and event["worker"] == "bridge":
        bridged.release()
    if event["type"] + ("/bridge" if event.get("worker") == "bridge" else "") == kill_type:
        seen += 1
        if seen == kill_count:
            os.kill(os.getpid(), signal.SIGKILL)

def approver(request):
    for _ in range(3 if request["round"] == 1 else 0):  # the person of these tests thinks for three trials
        assert bridged.acquire(timeout=60)
    return "approve"

if description is None:
    resume_study(name, home=home, approver=approver, listener=listener)
else:
    run_study(StudyConfig.from_mapping(description), home=home, approver=approver, listener=listener)
"""


def drive(
    description: Mapping[str, object] | None,
    home: Path,
    kill_type: str = "never",
    kill_count: int = 1,
    name: str = "study",
) -> subprocess.CompletedProcess[str]:
    """Run (or, without a description, resume) the study in a process of its own that kills itself at an event."""
    return subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(description), str(home), kill_type, str(kill_count), name],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        check=False,
    )


def finished(home: Path, name: str = "study") -> dict[int, tuple[object, ...]]:
    """Give what the ledger holds of finished trials: what must never change again."""
    trials = Study.open(name, home).trials()
    return {t.id: (dict(t.params), dict(t.values), t.state, t.attempt, t.seed) for t in trials if t.finished}
