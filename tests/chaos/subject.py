"""A study under fault, seen from outside: its ledger, its objective's own notes, its MLflow store."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import quote

import psycopg

from chaos.nursery import Driver, Nursery
from chaos.training import OBJECTIVE, SPACE

NAME = "study"

Row = tuple[object, ...]
Trials = dict[int, Row]
"""Of each finished trial what may never change: its params, values, state, seed and attempt."""


@dataclass
class Subject:
    """One study in a folder of its own; `changes` go into its description."""

    folder: Path
    nursery: Nursery
    trials: int = 12
    seconds: float = 0.1
    changes: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    database: str = ""
    """The address of the PostgreSQL that holds ledger, checkpoints and MLflow; files in the home without it."""
    patience: float = 60.0
    """Seconds to wait for a ledger that somebody has locked."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "train.py").write_text(OBJECTIVE.replace("SECONDS", str(self.seconds)))
        description = {
            "study": NAME,
            "objective": {"python": "train.py:train"},
            "metric": "score",
            "space": SPACE,
            "strategy": "joint",
            "budget": {"trials": self.trials},
            "trials_per_round": 4,
            "parallel": 2,
            "fresh_seeds": 2,
            "pruner": "none",
            **self.changes,
        }
        (self.folder / "study.json").write_text(json.dumps(description))
        if self.database:
            self.environment = {**self.environment, "AGENTIC_HPT_LEDGER": self.database}

    # -- driving

    @property
    def in_mlflow(self) -> bool:
        """Whether MLflow is told of it."""
        mlflow = self.changes.get("mlflow")
        return not isinstance(mlflow, Mapping) or mlflow.get("enabled", True) is not False

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def drive(self, *options: str, file_size: int | None = None) -> Driver:
        """Run the study, or resume it where it is begun."""
        return self.nursery.start(
            [*self._arguments(), *options],
            self.folder / "driver.log",
            environment=self.environment,
            file_size=file_size,
        )

    def drive_alone(self, environment: Mapping[str, str]) -> Driver:
        """Like `drive`, in a process that imports everything itself, under other environment variables."""
        command = [sys.executable, "-m", "agentic_hpt.cli", *self._arguments()]
        with (self.folder / "driver.log").open("ab") as log:
            started = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        return Driver(started.pid, started.poll)

    def _arguments(self) -> list[str]:
        verb = ["resume", NAME] if self.begun() else ["run", str(self.folder / "study.json")]
        return [*verb, "--home", str(self.home)]

    def told(self) -> str:
        """Give what the drivers printed."""
        log = self.folder / "driver.log"
        return log.read_text() if log.exists() else ""

    # -- what is written

    def query(self, text: str) -> list[Row]:
        """Read the ledger; nothing while there is none."""
        try:
            if self.database:
                with psycopg.connect(self.database) as connection:
                    return connection.execute(text.encode()).fetchall()
            with contextlib.closing(
                sqlite3.connect(self._file("ledger.db"), uri=True, timeout=self.patience)
            ) as ledger:
                return ledger.execute(text).fetchall()
        except (sqlite3.OperationalError, psycopg.errors.UndefinedTable) as error:
            if any(word in str(error) for word in ("no such table", "unable to open", "does not exist")):
                return []  # it is being made
            raise

    def _file(self, name: str) -> str:
        return f"file:{quote(str(self.home / name))}?mode=rw"  # a store that is not there is not to be made

    def begun(self) -> bool:
        """Say whether the study is there."""
        return bool(self.query("select 1 from hpt_studies"))

    def finished(self) -> Trials:
        """Give the finished trials."""
        rows = self.query(
            "select number, params, metrics, state, seed, attempt from hpt_trials where state != 'running'"
        )
        return {int(str(row[0])): row[1:] for row in rows}

    def executions(self) -> list[tuple[str, int, int]]:
        """Give what the objective noted, in order: `begins` or `ends`, the trial, the process."""
        log = self.folder / "executions.log"
        lines = log.read_text().splitlines() if log.exists() else []
        words = (line.split() for line in lines)
        return [(word, int(trial), int(pid)) for word, trial, pid in words]

    def begins(self) -> Counter[int]:
        """Count how often each trial was really begun."""
        return Counter(trial for word, trial, _ in self.executions() if word == "begins")

    def phase(self) -> str:
        """Say where the study stands, by what is written."""
        studies = self.query("select status, final from hpt_studies")
        if not studies:
            return "before the study is made"
        status, final = studies[0]
        if status in ("finalized", "failed"):
            return "ended, MLflow being told"
        if final is not None:
            return "final figures kept"
        trials = self.query("select number, state, attempt, round, kind from hpt_trials")
        if not trials:
            return "no trial yet"
        searching = any(kind in ("fresh_seed", "holdout") for *_, kind in trials)
        where = "finalizing: " if searching else ""
        executions, begins = self.executions(), self.begins()
        last = {trial: word for word, trial, _ in executions}
        running = [(int(str(number)), int(str(attempt))) for number, state, attempt, *_ in trials if state == "running"]
        if any(last.get(number) == "ends" for number, _ in running):
            return f"{where}trial ended, not told"
        if any(begins[number] < attempt for number, attempt in running):
            return f"{where}trial reserved, not begun"
        if running:
            return f"{where}trial running"
        if searching:
            return "finalizing: between trials"
        newest = max(int(str(row[3])) for row in trials)
        if self.query(f"select 1 from hpt_decisions where round = {newest}"):
            return "decision kept, not acted on"
        if self.query(f"select 1 from hpt_evidence where round = {newest}"):
            return "evidence kept, decision not"
        return "round over, no decision"

    # -- what must hold

    def problems(self, before: Trials | None = None) -> list[str]:
        """Say what is wrong at any moment: finished trials are as they were, none was run more often than attempted."""
        now, found = self.finished(), []
        for number, row in (before or {}).items():
            if now.get(number) != row:
                found.append(f"trial {number} was {row}, and is {now.get(number)}")
        attempts = {int(str(n)): int(str(a)) for n, a in self.query("select number, attempt from hpt_trials")}
        for number, count in self.begins().items():
            if count > attempts.get(number, 0):
                found.append(f"trial {number} was begun {count} times in {attempts.get(number, 0)} attempts")
        twice = "select number from hpt_attempts where state not in ('lost', 'running') group by 1 having count(*) > 1"
        found += [f"trial {row[0]} was completed twice" for row in self.query(twice)]
        counted = self.query("select count(*) from hpt_trials where kind not in ('fresh_seed', 'holdout')")
        if counted and int(str(counted[0][0])) > self.trials:
            found.append(f"{counted[0][0]} trials with a budget of {self.trials}")
        return found

    def problems_at_the_end(self, before: Trials | None = None) -> list[str]:
        """Say what is wrong with a study that was resumed to its end."""
        found = self.problems(before)
        status = self.query("select status, final from hpt_studies")
        if not status or status[0][0] != "finalized" or status[0][1] is None:
            found.append(f"the study is not finalized: {status and status[0][0]}")
        open_ = self.query("select number from hpt_trials where state = 'running'")
        found += [f"trial {row[0]} is open" for row in open_]
        counted = self.query("select count(*) from hpt_trials where kind not in ('fresh_seed', 'holdout')")
        if counted[0][0] != self.trials:
            found.append(f"{counted[0][0]} trials with a budget of {self.trials}")
        final = self.query("select count(*) from hpt_trials where kind = 'fresh_seed' and worker = 'fresh-seed'")
        if int(str(final[0][0])) > 2:
            found.append(f"{final[0][0]} fresh seeds of the winner")
        rounds = [row[0] for row in self.query("select round from hpt_decisions order by round")]
        if rounds != list(range(1, len(rounds) + 1)):
            found.append(f"decisions of rounds {rounds}")
        return found + (self.problems_of_mlflow() if self.in_mlflow else [])

    def problems_of_mlflow(self) -> list[str]:
        """Say what MLflow does not hold exactly once."""
        unsent = self.query("select key from hpt_outbox where ref is null")
        found = [f"MLflow was not told of {row[0]}" for row in unsent]
        wanted = {str(row[0]): row[1] for row in self.query("select key, ref from hpt_outbox where kind != 'revision'")}
        rows = self._runs()
        runs = Counter(key for key, _, _ in rows)
        found += [f"MLflow has {count} runs of {key}" for key, count in runs.items() if count > 1]
        found += [f"MLflow has no run of {key}" for key in wanted if key not in runs and key != "final"]
        found += [f"MLflow has a run of {key}, which the ledger does not know" for key in runs if key not in wanted]
        found += [f"the run of {key} is {status}" for key, _, status in rows if status == "RUNNING" and key != "study"]
        ids = [key.split("/")[1] for key in runs if key.startswith("trial/")]
        found += [f"MLflow has two runs of trial {n}" for n, count in Counter(ids).items() if count > 1]
        missing = {str(number) for number in self.finished()} - set(ids)
        return found + [f"MLflow has no run of trial {number}" for number in sorted(missing)]

    def _runs(self) -> list[tuple[str, str, str]]:
        """Read from MLflow's store each run's key, id and state."""
        schema = "hpt_mlflow." if self.database else ""
        text = (
            f"select value, run_uuid, status from {schema}tags join {schema}runs using (run_uuid) "
            "where key = 'hpt.key' and lifecycle_stage = 'active'"
        )
        if self.database:
            return cast("list[tuple[str, str, str]]", self.query(text))
        with contextlib.closing(sqlite3.connect(self._file("mlflow.db"), uri=True, timeout=60)) as store:
            return store.execute(text).fetchall()


def copy_mlflow(template: Path, home: Path) -> None:
    """Put a store that is migrated already into a home: MLflow's migrations take seconds."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(template, home / "mlflow.db")


def until(condition: Callable[[], bool], seconds: float = 120.0, pause: float = 0.001) -> bool:
    """Wait for it; say whether it came about."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
