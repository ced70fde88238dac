"""The processes that a trial starts, wherever they went: all of them end with its attempt.

While a trial lives, descent finds them: on Linux it stays the parent of what was forked twice or has a session of its
own. When its process is gone, two marks do: a variable of the environment, which programs inherit, and the process's
name, which a fork that runs no program inherits.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import psutil

from agentic_hpt.records import Job

__all__ = ["VARIABLE", "below", "earlier_marks", "end", "end_below", "left_running", "mark_of", "runs", "take_in"]

VARIABLE = "HPT_ATTEMPT"
_SET_NAME, _SET_CHILD_SUBREAPER = 15, 36
_PAUSE = 0.005
_SECONDS = 5.0
"""What the kernel can't end by then, because of a device that doesn't answer say, is left to it."""


def mark_of(job: Job) -> str:
    """Give what no other attempt on this machine has: homes and studies have folders of their own."""
    return _mark(job, job.attempt)


def earlier_marks(job: Job) -> list[str]:
    """Give the marks of the attempts that came before: their drivers are gone, but what they started may not be."""
    return [_mark(job, attempt) for attempt in range(1, job.attempt)]


def take_in(mark: str) -> None:
    """Mark this process, and let it be the parent of all that it will start; does nothing but on Linux."""
    if sys.platform == "linux":
        call = ctypes.CDLL(None).prctl
        call(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        call(_SET_NAME, _name(mark).encode(), 0, 0, 0)


def left_running() -> list[int] | None:
    """Give the processes that this one has started and that still run; `None` where that can't be known."""
    if sys.platform != "linux":
        return None
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there is none: most trials start nothing
        return []
    return [process.pid for process in below(os.getpid())]


def below(pid: int) -> list[psutil.Process]:
    """Give the descendants of a process; none when it is gone."""
    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def runs(pid: int) -> bool:
    """Say whether a process has not ended; one whose end nobody has asked for yet has."""
    return any(map(_runs, _processes([pid])))


def end(marks: Sequence[str], known: Iterable[psutil.Process | int] = ()) -> None:
    """Kill what bears one of the marks and what is `known`. Blocks until nothing of it is left."""
    names = {_name(mark) for mark in marks}
    held = _processes(known)
    _kill_all(lambda: [*held, *_marked(set(marks), names)])


def end_below(pid: int) -> None:
    """Kill the descendants of a process. Blocks until none is left."""
    _kill_all(lambda: below(pid))


def _kill_all(find: Callable[[], list[psutil.Process]]) -> None:
    until, pause = time.monotonic() + _SECONDS, _PAUSE
    while (found := [process for process in find() if _runs(process)]) and time.monotonic() < until:
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(pause)  # then again: what is killed may just have started another one
        pause *= 2


def _mark(job: Job, attempt: int) -> str:
    return f"{job.artifact_dir}#{attempt}"


def _name(mark: str) -> str:
    """Make a process's name of a mark: the kernel keeps 15 bytes of it."""
    return f"hpt-{hashlib.blake2s(mark.encode(), digest_size=5).hexdigest()}"


def _marked(marks: set[str], names: set[str]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or gone by now
            if process.name() in names or process.environ().get(VARIABLE) in marks:
                found.append(process)
    return found


def _processes(known: Iterable[psutil.Process | int]) -> list[psutil.Process]:
    found = []
    for entry in known:
        with suppress(psutil.Error):
            found.append(psutil.Process(entry) if isinstance(entry, int) else entry)
    return found


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
