"""Trials' processes killed and paused, and the server that they are forked from."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter

from chaos.bench import Bench, Case, child, ended_well, running_trial, runs
from chaos.nursery import Driver
from chaos.subject import Subject, until

_KILLS_A_STUDY = 10


def killed_workers(bench: Bench, dice: random.Random, kills: int) -> list[Case]:
    """Kill trials at random moments, none of them more often than it is tried: all of them are complete in the end."""
    cases: list[Case] = []
    while len(cases) < kills:
        subject = bench.subject(trials=12, seconds=0.3, seed=dice.randrange(100))
        driver, killed = subject.drive(), Counter[int]()
        while len(cases) + killed.total() < kills and killed.total() < _KILLS_A_STUDY:
            found = _next_trial(subject, driver, killed)
            if found is None:
                break
            time.sleep(dice.uniform(0.0, 0.25))
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[1], signal.SIGKILL)
                killed[found[0]] += 1
        problems = ended_well(subject, driver)
        rows = subject.query("select number, failure, message from hpt_trials where state = 'failed'")
        problems += [f"a trial that was killed failed: {row}" for row in rows]
        if problems:
            bench.failed.append(subject.folder)
        cases += [Case("trial killed", "", tuple(problems))] * killed.total()
    return cases


def trial_killed_every_time(bench: Bench, dice: random.Random) -> list[Case]:
    """Kill one trial at each of its attempts: it fails as a lost worker's, and the study goes on."""
    subject = bench.subject(trials=6, seconds=0.3, failures={"attempts": 3})
    driver, victim = subject.drive(), dice.randrange(1, 4)
    for attempt in (1, 2, 3):
        _kill_attempt(subject, driver, victim, attempt)
    problems = ended_well(subject, driver)
    told = subject.query(f"select state, failure, attempt from hpt_trials where number = {victim}")
    if told != [("failed", "lost_worker", 3)]:
        problems.append(f"trial {victim}, killed three times, is told as {told}")
    return [Case("trial killed at each attempt", "", tuple(problems))]


def paused_worker(bench: Bench, dice: random.Random) -> list[Case]:
    """Pause a trial for longer than its lease: it is lost, and runs again; the paused process is gone."""
    subject = bench.subject(trials=6, seconds=0.6, failures={"lease_seconds": 1})
    driver = subject.drive()
    found = _pause_one(subject, driver, dice)
    if found is None:
        return [Case("trial paused beyond its lease", "", ("no trial was seen running", *ended_well(subject, driver)))]
    trial, pid = found
    gone = until(lambda: not runs(pid) or driver.poll() is not None, 60.0, 0.05)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    problems = [] if gone else ["the paused process was left alone"]
    problems += ended_well(subject, driver)
    rows = subject.query(f"select state, attempt from hpt_trials where number = {trial}")
    if rows != [("complete", 2)]:
        problems.append(f"trial {trial}, paused in its first attempt, is told as {rows}")
    return [Case("trial paused beyond its lease", "", tuple(problems))]


def _pause_one(subject: Subject, driver: Driver, dice: random.Random) -> tuple[int, int] | None:
    """Pause a trial that has run for a moment; one that ends meanwhile is let go for the next."""
    while (found := _next_trial(subject, driver, Counter())) is not None:
        time.sleep(dice.uniform(0.0, 0.2))
        with contextlib.suppress(ProcessLookupError):
            os.kill(found[1], signal.SIGSTOP)
            if ("ends", *found) not in subject.executions():
                return found
            os.kill(found[1], signal.SIGCONT)
    return None


def killed_server(bench: Bench, dice: random.Random) -> list[Case]:
    """Kill the server that trials are forked from: those under way are lost with it and run again."""
    subject = bench.subject(seconds=0.2, seed=dice.randrange(100))
    driver = subject.drive()
    wanted = dice.randint(0, 8)
    until(lambda: driver.poll() is not None or len(subject.finished()) >= wanted)
    pid = child(driver, "forkserver")
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    problems = ended_well(subject, driver)
    rows = subject.query("select number, failure, message from hpt_trials where state = 'failed'")
    problems += [f"a trial of the killed server failed: {row}" for row in rows]
    return [Case("fork server killed", "", tuple(problems))]


def _next_trial(subject: Subject, driver: Driver, killed: Counter[int]) -> tuple[int, int] | None:
    until(lambda: driver.poll() is not None or running_trial(subject, killed) is not None, pause=0.005)
    return running_trial(subject, killed)


def _kill_attempt(subject: Subject, driver: Driver, trial: int, attempt: int) -> None:
    """Kill a trial's process in its so manieth attempt, once it runs."""

    def pids() -> list[int]:
        return [pid for word, number, pid in subject.executions() if (word, number) == ("begins", trial)]

    if until(lambda: driver.poll() is not None or len(pids()) >= attempt) and len(pids()) >= attempt:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids()[-1], signal.SIGKILL)
