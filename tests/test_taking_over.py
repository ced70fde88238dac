"""A whole study whose driver stands still: another process takes it over and ends it, and the first writes no more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from postgres_server import PostgresServer

pytestmark = pytest.mark.postgres

OBJECTIVE = """
import os, pathlib, time

def train(params, trial):
    folder = pathlib.Path(__file__).parent
    wanted = (folder / "stopped").exists()
    (folder / f"pid-{os.getpid()}").touch()
    while not wanted:
        time.sleep(0.02)
    return {"score": params["x"]}
"""
STUDY = {
    "study": "study",
    "metric": "score",
    "space": {"x": {"float": [0.0, 1.0]}},
    "budget": {"trials": 4},
    "parallel": 2,
    "strategy": "joint",
    "failures": {"lease_seconds": 1},
    "mlflow": {"enabled": False},
    "fresh_seeds": 0,
}


def wait_for(what: str, there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.02)


class Drivers:
    """Processes of the command line on one database, each with a home of its own as on machines of their own."""

    def __init__(self, url: str, folder: Path) -> None:
        self._environment = {**os.environ, "AGENTIC_HPT_LEDGER": url}
        self._folder = folder
        self.begun: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        home = str(self._folder / f"home{len(self.begun)}")
        command = [sys.executable, "-m", "agentic_hpt.cli", *arguments, "--home", home, "--json"]
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.begun.append(subprocess.Popen(command, env=self._environment, cwd=self._folder, text=True, **out))  # type: ignore[call-overload]
        return self.begun[-1]

    def close(self) -> None:
        for process in self.begun:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            process.communicate(timeout=60)


@pytest.fixture
def drivers(postgres: PostgresServer, tmp_path: Path) -> Iterator[Drivers]:
    drivers = Drivers(postgres.url(), tmp_path)
    yield drivers
    drivers.close()


def test_a_study_is_taken_over_from_a_driver_that_stands_still(
    postgres: PostgresServer, drivers: Drivers, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(OBJECTIVE)
    objective = {"python": "train.py:train", "folder": str(tmp_path)}
    (tmp_path / "study.json").write_text(json.dumps({**STUDY, "objective": objective}))

    def pids() -> set[int]:
        return {int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")}

    def everything() -> list[object]:
        tables = ("studies", "trials", "attempts", "decisions", "outbox")
        with psycopg.connect(drivers._environment["AGENTIC_HPT_LEDGER"]) as connection:
            return [connection.execute(f"select * from hpt_{table}".encode()).fetchall() for table in tables]

    first = drivers.start("run", "study.json")
    wait_for("the first trials", lambda: len(pids()) == 2)
    own = pids()
    refused = drivers.start("resume", "study")
    _, said = refused.communicate(timeout=120)
    assert refused.returncode == 2
    assert f"is being run by another process: {first.pid} on " in said

    first.send_signal(signal.SIGSTOP)
    (tmp_path / "stopped").touch()
    second = drivers.start("resume", "study")
    answer, said = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert json.loads(answer)["trials"] == {"complete": 4, "pruned": 0, "failed": 0, "total": 4}
    before = everything()

    first.send_signal(signal.SIGCONT)
    answer, said = first.communicate(timeout=120)
    assert first.returncode == 1, said
    assert "another process took the study over" in said
    assert "Traceback" not in said
    assert everything() == before
    assert not any(psutil.pid_exists(pid) for pid in own), "its trials would never have ended"
