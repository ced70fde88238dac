"""A real PostgreSQL that is stopped, killed and paused under a study, and drivers that lose their hold on it."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator

from chaos.bench import Bench, Case, ended_well, kill
from chaos.subject import until
from postgres_server import PostgresServer

Outage = Callable[[PostgresServer, random.Random], None]


def _restarted(server: PostgresServer, dice: random.Random) -> None:
    server.stop()
    time.sleep(dice.uniform(0.0, 5.0))
    server.start()


def _killed(server: PostgresServer, dice: random.Random) -> None:
    server.kill()
    time.sleep(dice.uniform(0.0, 3.0))
    server.start()


def _paused(server: PostgresServer, dice: random.Random) -> None:
    server.pause()
    time.sleep(dice.uniform(2.0, 6.0))
    server.resume()


OUTAGES: dict[str, Outage] = {"restarted": _restarted, "killed and started": _killed, "paused": _paused}


@contextlib.contextmanager
def _server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        yield server
    finally:
        server.close()


def outage(bench: Bench, dice: random.Random, how: str, mlflow: bool = False) -> list[Case]:
    """Have the server be away for some seconds, twice: the study waits, and ends as if nothing had been."""
    with _server() as server:
        subject = bench.subject(
            seconds=0.3, database=server.url(), mlflow={"enabled": mlflow}, failures={"lease_seconds": 1}
        )
        driver = subject.drive()
        for least in (1, 5):
            wanted = dice.randint(least, least + 4)
            until(lambda wanted=wanted: driver.poll() is not None or len(subject.finished()) >= wanted)  # type: ignore[misc]
            OUTAGES[how](server, dice)
        problems = ended_well(subject, driver)
        rows = subject.query("select number, state, attempt from hpt_trials where attempt != 1 or state != 'complete'")
        problems += [f"a trial did not survive the outage: {row}" for row in rows]
    if problems:
        bench.failed.append(subject.folder)
    return [Case(f"PostgreSQL {how}", "", tuple(problems))] * 2


def killed_drivers(bench: Bench, dice: random.Random, kills: int) -> list[Case]:
    """Kill drivers of a study on PostgreSQL: the next one takes over at once, and nothing is lost."""
    with _server() as server:
        subject = bench.subject(seconds=0.2, database=server.url(), mlflow={"enabled": False})
        problems: list[str] = []
        for count in range(kills):
            driver, wanted = subject.drive(), 2 * count + dice.randint(0, 2)
            until(lambda driver=driver, wanted=wanted: driver.poll() is not None or len(subject.finished()) >= wanted)  # type: ignore[misc]
            time.sleep(dice.uniform(0.0, 0.3))
            before = subject.finished()
            kill(driver)
            problems += subject.problems(before)
        problems += ended_well(subject, subject.drive(), subject.finished())
    if problems:
        bench.failed.append(subject.folder)
    return [Case("driver killed, PostgreSQL", "", tuple(problems))] * kills


def taken_over(bench: Bench, dice: random.Random) -> list[Case]:
    """Pause a driver beyond its lease and let another take over: the first one, awake again, writes nothing more."""
    with _server() as server:
        subject = bench.subject(
            seconds=0.3, database=server.url(), mlflow={"enabled": False}, failures={"lease_seconds": 1}
        )
        first, wanted = subject.drive(), dice.randint(1, 6)
        until(lambda: first.poll() is not None or len(subject.finished()) >= wanted)
        first.signal(signal.SIGSTOP)
        time.sleep(2.5)
        before = subject.finished()
        second = subject.drive()
        until(lambda: second.poll() is not None or len(subject.finished()) > len(before))
        first.signal(signal.SIGCONT)
        code = first.wait()
        problems = [] if code == 1 else [f"the driver that lost its study ended with exit code {code}"]
        if "took the study over" not in subject.told():
            problems.append(f"it did not say that another took over: {subject.told()[-800:]}")
        problems += ended_well(subject, second, before)
    if problems:
        bench.failed.append(subject.folder)
    return [Case("driver paused, another takes over (PostgreSQL)", "", tuple(problems))]
