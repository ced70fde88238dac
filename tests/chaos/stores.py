"""Disks that are full, writes that were torn, clocks that jump."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from chaos.bench import Bench, Case, ended_well, kill
from chaos.subject import Subject, until

_CLOCK = """
import os, time
_true, _jumped, _shift = time.time, os.environ["CHAOS_JUMPED"], float(os.environ["CHAOS_SHIFT"])
time.time = lambda: _true() + (_shift if os.path.exists(_jumped) else 0.0)
"""


def disk_full(bench: Bench, dice: random.Random) -> list[Case]:
    """Let no file of the driver grow any more: it ends with a clear word, and goes on once there is room."""
    subject = bench.subject(seconds=0.05, mlflow={"enabled": False})
    return [_cramped(bench, subject, "file size limit", dice.randrange(60_000, 400_000))]


def _cramped(bench: Bench, subject: Subject, how: str, size: int) -> Case:
    driver = subject.drive(file_size=size)
    problems = _stopped_clearly(subject, driver.wait())
    before = subject.finished()
    problems += subject.problems(before)
    problems += ended_well(subject, subject.drive(), before) if not problems else []
    if problems:
        bench.failed.append(subject.folder)
    return Case("disk full", how, tuple(problems))


def tmpfs_full(bench: Bench, dice: random.Random) -> list[Case]:
    """Fill the small file system that the home is on, at a random moment of the study."""
    with _small_disk(bench.folder / f"disk-{bench.made}") as disk:
        subject = bench.subject(trials=24, seconds=0.1)
        shutil.copytree(subject.home, disk, dirs_exist_ok=True)
        shutil.rmtree(subject.home)
        subject.home.symlink_to(disk)
        driver = subject.drive()
        wanted = dice.randint(0, 12)
        until(lambda: driver.poll() is not None or len(subject.finished()) >= wanted)
        ballast = disk / "ballast"
        _fill(ballast)
        code = driver.wait()
        problems = _stopped_clearly(subject, code)
        ballast.unlink()
        before = subject.finished()
        problems += subject.problems(before)
        problems += ended_well(subject, subject.drive(), before)
    if problems:
        bench.failed.append(subject.folder)
    return [Case("disk full", "tmpfs", tuple(problems))]


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        for size in (65_536, 4096):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(b"\0" * size)


def _stopped_clearly(subject: Subject, code: int) -> list[str]:
    """See that a driver without room for its stores said so, and that nothing of its inside was shown."""
    told = subject.told()
    words = ("disk is full", "disk I/O error", "No space left", "File too large", "can't be written")
    if code == 0:
        return ["the disk was full, and the driver ended with exit code 0"]
    problems = [] if code in (1, 2, 3) else [f"exit code {code}"]
    if not any(word in told for word in words):
        problems.append(f"no word of the full disk: {told[-600:]}")
    if "Traceback" in told:
        problems.append(f"a traceback: {told.partition('Traceback')[2][:1500]}")
    return problems


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# -- torn writes

Tear = Callable[[Path, random.Random], None]


def _shortened(path: Path, dice: random.Random) -> None:
    """Leave the beginning of a file, as a machine does that loses power."""
    if path.exists() and path.stat().st_size:
        os.truncate(path, dice.randrange(path.stat().st_size))


def _overwritten(path: Path, dice: random.Random) -> None:
    """Leave rubbish in a file's last part."""
    if path.exists() and path.stat().st_size:
        with path.open("r+b") as stream:
            stream.seek(dice.randrange(path.stat().st_size))
            stream.write(dice.randbytes(3000))


TEARS: dict[str, tuple[str, Tear]] = {
    "checkpoints' log cut short": ("checkpoints.db-wal", _shortened),
    "checkpoints' log overwritten": ("checkpoints.db-wal", _overwritten),
    "ledger's log cut short": ("ledger.db-wal", _shortened),
    "ledger's log overwritten": ("ledger.db-wal", _overwritten),
    "checkpoints damaged": ("checkpoints.db", _overwritten),
    "checkpoints gone": ("checkpoints.db", lambda path, dice: path.unlink(missing_ok=True)),
}


def torn(bench: Bench, dice: random.Random, how: str) -> list[Case]:
    """Kill the driver and tear a store's last writes. What the ledger still holds stays; the study ends exactly."""
    name, tear = TEARS[how]
    subject = bench.subject(seconds=0.05, seed=dice.randrange(100), mlflow={"enabled": False})
    driver = subject.drive()
    wanted = dice.randint(2, 11)
    until(lambda: driver.poll() is not None or len(subject.finished()) >= wanted)
    time.sleep(dice.uniform(0.0, 0.1))
    kill(driver)
    tear(subject.home / name, dice)
    for leftover in subject.home.glob(f"{name.removesuffix('-wal')}-shm"):
        leftover.unlink()
    if how == "checkpoints gone":
        (subject.home / "checkpoints.db-wal").unlink(missing_ok=True)
    held = subject.finished()
    if how.startswith("ledger") and not subject.begun():
        return [Case("torn write", f"{how}: the study itself was not written yet")]
    problems = ended_well(subject, subject.drive(), held)
    if how.startswith("ledger"):  # what it had not held any more was run again
        problems = [problem for problem in problems if "was begun" not in problem]
    if problems:
        bench.failed.append(subject.folder)
    return [Case("torn write", how, tuple(problems))]


# -- the wall clock


def clock_jumps(bench: Bench, dice: random.Random, shift: float) -> list[Case]:
    """Let the wall clock jump while a study with a time budget and time limits runs: nothing notices."""
    subject = bench.subject(
        seconds=0.4, limits={"seconds": 60}, budget={"trials": 12, "minutes": 5}, failures={"lease_seconds": 2}
    )
    site, jumped = subject.folder / "site", subject.folder / "jumped"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_CLOCK)
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    driver = subject.drive_alone({"PYTHONPATH": path, "CHAOS_JUMPED": str(jumped), "CHAOS_SHIFT": str(shift)})
    wanted = dice.randint(1, 6)
    until(lambda: driver.poll() is not None or len(subject.finished()) >= wanted)
    jumped.touch()
    problems = ended_well(subject, driver)
    rows = subject.query("select number, state, failure from hpt_trials where state != 'complete'")
    problems += [f"a trial was not complete: {row}" for row in rows]
    rows = subject.query("select number from hpt_attempts where attempt > 1")
    problems += [f"trial {row[0]} ran again" for row in rows]
    seconds = subject.query("select seconds from hpt_studies")
    if seconds and not 0 < float(str(seconds[0][0])) < 300:
        problems.append(f"{seconds[0][0]} seconds of the time budget are used")
    if problems:
        bench.failed.append(subject.folder)
    return [Case("wall clock jumps", f"{shift:+.0f} s", tuple(problems))]


def stopped_and_resumed(bench: Bench, dice: random.Random) -> list[Case]:
    """Stop a study by SIGTERM as a machine does that goes down: exit code 3, and resumable."""
    subject = bench.subject(seconds=0.2)
    driver = subject.drive()
    wanted = dice.randint(1, 8)
    until(lambda: driver.poll() is not None or len(subject.finished()) >= wanted)
    driver.signal(signal.SIGTERM)
    code = driver.wait()
    problems = [] if code == 3 else [f"exit code {code} after SIGTERM"]
    problems += ended_well(subject, subject.drive(), subject.finished())
    return [Case("machine goes down (SIGTERM)", "", tuple(problems))]
