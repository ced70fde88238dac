"""Drivers killed at random moments and at chosen ones, and drivers that are paused."""

from __future__ import annotations

import random
import signal
import sqlite3
import time

from chaos.bench import Bench, Case, ended_well, kill, orphans
from chaos.nursery import Driver
from chaos.subject import Subject, Trials, until

AIMED = (
    "no trial yet",
    "trial reserved, not begun",
    "trial running",
    "trial ended, not told",
    "round over, no decision",
    "evidence kept, decision not",
    "decision kept, not acted on",
    "finalizing: trial reserved, not begun",
    "finalizing: trial running",
    "finalizing: trial ended, not told",
    "finalizing: between trials",
    "final figures kept",
    "ended, MLflow being told",
)
_MOST_KILLS = 6


def killed_drivers(bench: Bench, dice: random.Random, kills: int, aims: tuple[str, ...] = ()) -> list[Case]:
    """Kill drivers so often, at `aims` or at moments drawn from the study's life; each study is resumed to its end."""
    cases: list[Case] = []
    wanted = list(aims) or [dice.choice(AIMED) if dice.random() < 0.5 else "" for _ in range(kills)]
    while wanted:
        executor = dice.choice(["processes", "processes", "inline"])
        subject = bench.subject(executor=executor, parallel=1 if executor == "inline" else 2, seed=dice.randrange(100))
        cases += _killed(bench, subject, dice, wanted)
    return cases


def _killed(bench: Bench, subject: Subject, dice: random.Random, wanted: list[str]) -> list[Case]:
    """Kill one study's drivers, at most a few times, taking from `wanted`; then let it end."""
    moments: list[str] = []
    problems: list[str] = []
    before: Trials = {}
    while wanted and len(moments) < _MOST_KILLS:
        driver, aim = subject.drive(), wanted[-1]
        if aim:
            _reach(aim, subject, driver, dice)
        else:
            time.sleep(dice.uniform(0.0, bench.life))
        if driver.poll() is not None:
            if aim and not moments:
                wanted[-1] = ""  # it does not come about in every study
            break
        kill(driver)
        wanted.pop()
        problems += subject.problems(before)
        problems += [f"process {pid} of a trial outlives its driver" for pid in orphans(subject)]
        before = subject.finished()
        moments.append(subject.phase())
    problems += ended_well(subject, subject.drive(), before)
    if problems:
        bench.failed.append(subject.folder)
    return [Case("driver killed", moment, tuple(problems)) for moment in moments]


def _reach(aim: str, subject: Subject, driver: Driver, dice: random.Random) -> None:
    """Let the driver go on step by step, a few milliseconds each, until it stands where it is to be killed."""
    try:
        while driver.poll() is None:
            driver.signal(signal.SIGSTOP)
            if _stands_at(aim, subject):
                return
            driver.signal(signal.SIGCONT)
            time.sleep(dice.uniform(0.001, 0.006))
    except BaseException:  # nobody would ever wake it
        driver.signal(signal.SIGKILL)
        raise


def _stands_at(aim: str, subject: Subject) -> bool:
    """Say whether a driver that stands still is at `aim`; it may have locked the ledger."""
    subject.patience = 0.0
    try:
        return subject.phase() == aim
    except sqlite3.OperationalError:
        return False
    finally:
        subject.patience = Subject.patience


def paused_driver(bench: Bench, dice: random.Random) -> list[Case]:
    """Pause the driver for longer than its lease: on one machine nobody else gets the study, and it goes on."""
    subject = bench.subject(seconds=0.3, failures={"lease_seconds": 1})
    driver = subject.drive()
    wanted = dice.randint(1, 5)
    until(lambda: driver.poll() is not None or len(subject.finished()) >= wanted)
    driver.signal(signal.SIGSTOP)
    time.sleep(1.5)
    other = subject.drive()
    code = other.wait()
    time.sleep(1.0)
    driver.signal(signal.SIGCONT)
    problems = [] if code == 2 else [f"a second driver ended with exit code {code}: {subject.told()[-600:]}"]
    problems += ended_well(subject, driver)
    lost = subject.query("select number, attempt, state, message from hpt_attempts where state not in ('complete')")
    problems += [f"an attempt did not survive the pause: {row}" for row in lost]
    if problems:
        bench.failed.append(subject.folder)
    return [Case("driver paused beyond its lease", "", tuple(problems))]
