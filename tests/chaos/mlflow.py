"""MLflow's writer killed, and an MLflow server that is killed and comes back."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from chaos.bench import Bench, Case, child, ended_well
from chaos.nursery import Driver
from chaos.subject import Subject, until


def killed_writers(bench: Bench, dice: random.Random, kills: int) -> list[Case]:
    """Kill the process that writes to MLflow at random moments, half-way through an entry or not."""
    cases: list[Case] = []
    while len(cases) < kills:
        subject = bench.subject(trials=16, seconds=0.3, seed=dice.randrange(100), mlflow={})
        driver, count = subject.drive(), 0
        while count < 3 and len(cases) + count < kills and _kill_writer(subject, driver, dice):
            count += 1
        problems = ended_well(subject, driver)
        if problems:
            bench.failed.append(subject.folder)
        cases += [Case("MLflow writer killed", "", tuple(problems))] * count
        if not count:
            cases.append(Case("MLflow writer killed", "", ("the writer was not seen at work", *problems)))
    return cases


def _kill_writer(subject: Subject, driver: Driver, dice: random.Random) -> bool:
    """Kill the writer when it has written a little more; say whether it was seen at work."""

    def sent() -> int:
        return len(subject.query("select 1 from hpt_outbox where ref is not null"))

    wanted = sent() + dice.randint(1, 3)
    reached = until(lambda: driver.poll() is not None or sent() >= wanted)
    time.sleep(dice.uniform(0.0, 0.05))
    pid = child(driver, "mlflow_writer")
    if not reached or driver.poll() is not None or pid is None:
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def server_away(bench: Bench, dice: random.Random) -> list[Case]:
    """Kill the MLflow server in mid-study, let the study end, bring the server back: all is there once."""
    port = _free_port()
    uri = f"http://127.0.0.1:{port}"
    subject = bench.subject(seconds=0.3, mlflow={"tracking_uri": uri, "wait_seconds": 1})
    store = subject.home / "mlflow.db"
    server = _server(port, store)
    try:
        driver = subject.drive()
        wanted = dice.randint(2, 8)
        until(lambda: driver.poll() is not None or len(subject.finished()) >= wanted)
        _stop(server)
        code = driver.wait()
        problems = [] if code == 0 else [f"without the server the study ended with exit code {code}"]
        problems += subject.problems()
        if not subject.query("select 1 from hpt_outbox where ref is null"):
            problems.append("nothing was left to write, so the server was not missed")
        before = subject.finished()
        server = _server(port, store)
        problems += ended_well(subject, subject.drive(), before)
    finally:
        _stop(server)
    if problems:
        bench.failed.append(subject.folder)
    return [Case("MLflow server killed and restarted", "", tuple(problems))]


def _server(port: int, store: Path) -> subprocess.Popen[bytes]:
    """Start a server and wait until it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{store}", "--artifacts-destination", str(store.parent / "served")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with (store.parent / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [*command, *places], stdout=log, stderr=log, start_new_session=True, cwd=store.parent, env=environment
        )

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return True
        except OSError:
            return False

    if not until(answers, 120.0, 0.2):
        _stop(server)
        raise AssertionError((store.parent / "server.log").read_text()[-2000:])
    return server


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
