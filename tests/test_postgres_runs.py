"""Whole studies on PostgreSQL: a server that goes away and comes back, several drivers, a driver that takes over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentic_hpt.postgres import connect
from postgres_server import PostgresServer
from study_runs import SPACE

pytestmark = [pytest.mark.postgres]

GATED = """
import math, time
from pathlib import Path

def train(params, trial):
    folder = Path(__file__).parent
    (folder / f"at-{trial.id}").touch()
    while trial.id in GATES and not (folder / f"go-{trial.id}").exists():
        time.sleep(0.02)
    return {"score": -abs(math.log10(params["learning_rate"]) + 2)}
"""


class Driver:
    """`hpt` in a process of its own, with a home of its own, as on a host of its own."""

    def __init__(self, folder: Path, url: str, name: str, trials: int, gates: tuple[int, ...] = ()) -> None:
        self.folder, self.home = folder, folder / "home"
        self._started: list[subprocess.Popen[str]] = []
        folder.mkdir()
        (folder / "train.py").write_text(f"GATES = {gates!r}\n{GATED}")
        study = {
            "study": name,
            "objective": {"python": "train.py:train"},
            "metric": "score",
            "space": SPACE,
            "budget": {"trials": trials},
            "executor": "inline",
            "fresh_seeds": 1,
        }
        (folder / "study.yaml").write_text(json.dumps(study))
        self._environment = {**os.environ, "AGENTIC_HPT_LEDGER": url, "AGENTIC_HPT_HOME": str(self.home)}

    def hpt(self, *arguments: str, ledger: str | None = None) -> subprocess.Popen[str]:
        """Start a command; with `ledger` on that store."""
        command = [sys.executable, "-m", "agentic_hpt.cli", *arguments]
        environment = self._environment if ledger is None else {**self._environment, "AGENTIC_HPT_LEDGER": ledger}
        running = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._started.append(running)
        return running

    def reached(self, running: subprocess.Popen[str], trial: int) -> None:
        """Wait until a trial runs."""
        deadline = time.monotonic() + 120
        while not (self.folder / f"at-{trial}").exists():
            assert running.poll() is None, running.communicate()[1]
            assert time.monotonic() < deadline, f"trial {trial} was not begun"
            time.sleep(0.02)

    def let_go(self, trial: int) -> None:
        (self.folder / f"go-{trial}").touch()

    def end(self) -> None:
        for running in self._started:
            with running:
                running.kill()


MakeDriver = Callable[..., Driver]


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.url()


@pytest.fixture
def make_driver(url: str, tmp_path: Path) -> Iterator[MakeDriver]:
    made: list[Driver] = []

    def make(folder: str, name: str, trials: int, gates: tuple[int, ...] = ()) -> Driver:
        made.append(Driver(tmp_path / folder, url, name, trials, gates))
        return made[-1]

    yield make
    for driver in made:
        driver.end()


def ended(running: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = running.communicate(timeout=200)
    assert "Traceback" not in err, err
    return running.returncode, out + err


def check(url: str, name: str, trials: int) -> None:
    """See that each trial of a study is there once, by one attempt that counted, and that MLflow has all, once."""
    with connect(url) as connection:

        def column(query: str) -> list[object]:
            return [row[0] for row in connection.execute(query, (name,)).fetchall()]

        of = "FROM {} t JOIN hpt_studies s ON s.id = t.study WHERE s.name = %s"
        assert column(f"SELECT number {of.format('hpt_trials')} AND kind != 'fresh_seed' ORDER BY 1") == list(
            range(trials)
        )
        assert set(column(f"SELECT t.state {of.format('hpt_trials')}")) == {"complete"}
        finished = f"SELECT number {of.format('hpt_attempts')} AND t.state = 'complete'"
        assert sorted(column(finished)) == column(f"SELECT number {of.format('hpt_trials')} ORDER BY 1")  # type: ignore[type-var]
        posted = column(f"SELECT key {of.format('hpt_outbox')} ORDER BY t.id")
        written = column(
            "SELECT k.value FROM hpt_mlflow.runs r JOIN hpt_mlflow.experiments e ON e.experiment_id = r.experiment_id "
            "JOIN hpt_mlflow.tags k ON k.run_uuid = r.run_uuid AND k.key = 'hpt.key' WHERE e.name = %s ORDER BY 1"
        )
        assert written == sorted(key for key in posted if key != "final")  # type: ignore[type-var]
        refs = column(f"SELECT ref {of.format('hpt_outbox')}")
        assert all(refs)
        assert not any(str(ref).startswith("refused") for ref in refs)
        open_runs = "SELECT count(*) FROM hpt_mlflow.runs r JOIN hpt_mlflow.experiments e USING (experiment_id)"
        assert column(f"{open_runs} WHERE e.name = %s AND r.status = 'RUNNING'") == [0]


def test_a_study_outlasts_a_server_that_is_restarted_killed_and_paused(
    url: str, postgres: PostgresServer, make_driver: MakeDriver
) -> None:
    driver = make_driver("a", "outages", 10, gates=(2, 4, 6))
    running = driver.hpt("run", "study.yaml", "--json")
    for trial, fault in ((2, postgres.stop), (4, postgres.kill), (6, postgres.pause)):
        driver.reached(running, trial)
        fault()
        driver.let_go(trial)  # it ends while nobody answers
        time.sleep(1.0)
        postgres.resume()
        postgres.start()
    code, text = ended(running)
    assert code == 0, text
    check(url, "outages", 10)


def test_several_drivers_share_a_database_and_one_takes_over_from_another(url: str, make_driver: MakeDriver) -> None:
    """Three begin at once, on an empty database. Of one the host dies; another host goes on with its study."""
    drivers = [make_driver(name, name, 6, gates=(3,)) for name in ("a", "b", "c")]
    running = [driver.hpt("run", "study.yaml", "--json") for driver in drivers]
    for driver, process in zip(drivers, running, strict=True):
        driver.reached(process, 3)
    second = make_driver("elsewhere", "a", 6)
    code, text = ended(second.hpt("resume", "a"))
    assert code == 2
    assert "study 'a' is being run by another process" in text
    running[0].send_signal(signal.SIGKILL)
    running[0].communicate()
    for driver in drivers:
        driver.let_go(3)
    code, text = ended(second.hpt("resume", "a", "--json"))
    assert code == 0, text
    for process in running[1:]:
        code, text = ended(process)
        assert code == 0, text
    for name in ("a", "b", "c"):
        check(url, name, 6)


def test_a_study_begun_in_files_is_moved_and_goes_on_in_the_database(url: str, make_driver: MakeDriver) -> None:
    driver = make_driver("a", "moved", 8, gates=(5,))
    running = driver.hpt("run", "study.yaml", "--json", ledger="")
    driver.reached(running, 5)
    code, text = ended(driver.hpt("move", "moved"))
    assert (code, "is being run by another process" in text) == (2, True), text
    running.send_signal(signal.SIGKILL)
    running.communicate()
    driver.let_go(5)
    code, text = ended(driver.hpt("move", "moved", "--json"))
    assert code == 0, text
    with connect(url) as connection:
        states = connection.execute("SELECT number, state, seed FROM hpt_trials ORDER BY number").fetchall()
        assert [state for _, state, _ in states] == [*["complete"] * 5, "running"]
    code, text = ended(driver.hpt("resume", "moved", "--json"))
    assert code == 0, text
    check(url, "moved", 8)
    with connect(url) as connection:
        assert (
            connection.execute("SELECT number, state, seed FROM hpt_trials ORDER BY 1 LIMIT 5").fetchall() == states[:5]
        )
    code, text = ended(driver.hpt("status", "--json", ledger=""))
    assert [study["study"] for study in json.loads(text)["studies"]] == ["moved-archived-1"]
    code, text = ended(driver.hpt("move", "moved-archived-1", ledger=""))
    assert (code, "AGENTIC_HPT_LEDGER" in text) == (2, True), text
