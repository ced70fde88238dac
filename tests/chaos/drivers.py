"""Drivers killed at random moments and at chosen ones, and drivers that are paused."""

from __future__ import annotations

import random
import signal
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
            _reach(aim, subject, driver)
            time.sleep(dice.choice((0.0, dice.uniform(0.0, 0.01))))
        else:
            time.sleep(dice.uniform(0.0, bench.life))
        if driver.poll() is not None:
            if aim and not moments:
                wanted.pop()  # it does not come about in every study, nor is it always seen
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


def _reach(aim: str, subject: Subject, driver: Driver) -> None:
    until(lambda: driver.poll() is not None or subject.phase() == aim)


def paused_driver(bench: Bench, dice: random.Random) -> list[Case]:
    """Pause the driver for longer than its lease: on one machine nobody else gets the study, and it goes on."""
    subject = bench.subject(seconds=0.3, failures={"lease_seconds": 1})
    driver = subject.drive()
    until(lambda: driver.poll() is not None or len(subject.finished()) >= dice.randint(1, 5))
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
