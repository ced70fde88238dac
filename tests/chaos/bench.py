"""What all faults need: a warm nursery, homes whose MLflow store is made already, and how a case is counted."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from chaos.nursery import Driver, Nursery
from chaos.subject import Subject, Trials, copy_mlflow, until

_STORE = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"


@dataclass(frozen=True)
class Case:
    """One fault, at what moment it came, and what was wrong afterwards."""

    fault: str
    moment: str = ""
    problems: tuple[str, ...] = ()


Fault = Callable[["Bench", random.Random], list[Case]]
"""Brings about some faults, and says how each went."""


@dataclass
class Bench:
    """Makes studies to be harmed, each in a folder of its own."""

    folder: Path
    nursery: Nursery
    template: Path
    """An MLflow store that is migrated already; made when it is first needed."""
    mlflow: bool = True
    """Whether the studies are told to MLflow, unless the fault has to do with it: its writer takes seconds to start."""
    life: float = 6.0
    """Seconds that an undisturbed study takes here."""
    made: int = 0
    failed: list[Path] = field(default_factory=list)
    """Folders of studies that did not do well."""

    @classmethod
    def open(cls, folder: Path, template: Path | None = None) -> Bench:
        """Start a nursery."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, Nursery(), template or folder / "mlflow.db")

    def subject(self, *, trials: int = 12, seconds: float = 0.1, database: str = "", **changes: object) -> Subject:
        """Make a study; with `database` on PostgreSQL."""
        self.made += 1
        changes = {"mlflow": {"enabled": self.mlflow}, **changes}
        folder = self.folder / f"study-{self.made:03d}"
        subject = Subject(folder, self.nursery, trials, seconds, changes, database=database)
        if subject.in_mlflow and not database:
            self._make_template()
            copy_mlflow(self.template, subject.home)
        return subject

    def _make_template(self) -> None:
        if not self.template.exists():
            quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
            command = [sys.executable, "-c", _STORE, f"sqlite:///{self.template}"]
            subprocess.run(command, check=True, env=quiet, stderr=subprocess.DEVNULL)
            connection = sqlite3.connect(self.template)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()

    def calibrate(self) -> None:
        """Measure how long a study takes that nobody disturbs."""
        subject, began = self.subject(), time.monotonic()
        problems = ended_well(subject, subject.drive())
        assert not problems, problems
        self.life = time.monotonic() - began

    def close(self) -> None:
        """End the nursery."""
        self.nursery.close()


def kill(driver: Driver) -> None:
    """Kill a driver for good."""
    driver.signal(signal.SIGKILL)
    driver.wait()


def ended_well(subject: Subject, driver: Driver, before: Trials | None = None) -> list[str]:
    """Wait for a driver that nobody disturbs any more, and say what is wrong with its study."""
    try:
        code = driver.wait()
    except AssertionError as error:
        return [str(error)]
    problems = subject.problems_at_the_end(before)
    if code != 0:
        problems.insert(0, f"exit code {code}: {subject.told()[-600:]}")
    if "Traceback" in subject.told():
        problems.append(f"a traceback: {subject.told().partition('Traceback')[2][:1500]}")
    return problems


def orphans(subject: Subject) -> list[int]:
    """Give the trials' processes that still run (those of a dead driver have a moment to end)."""
    pids = {pid for _, _, pid in subject.executions()}

    def alive() -> list[int]:
        return [pid for pid in pids if runs(pid)]

    until(lambda: not alive(), 20.0, 0.05)
    return alive()


def runs(pid: int) -> bool:
    """Say whether a process is there, and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def child(driver: Driver, word: str) -> int | None:
    """Give the driver's process in whose command line `word` is."""
    try:
        for process in psutil.Process(driver.pid).children():
            if any(word in part for part in process.cmdline()):
                return process.pid
    except psutil.Error:
        pass
    return None


def running_trial(subject: Subject, but: Mapping[int, int]) -> tuple[int, int] | None:
    """Give a trial that runs, and its process; none of those named in `but` with as many kills as they can bear."""
    ended = {pid for word, _, pid in subject.executions() if word == "ends"}
    for word, trial, pid in reversed(subject.executions()):
        if word == "begins" and pid not in ended and but.get(trial, 0) < 2 and runs(pid):
            return trial, pid
    return None
