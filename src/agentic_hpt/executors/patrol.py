"""One look at all running trials, now and then: do they live, and do they keep to their memory?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from agentic_hpt.errors import FailureKind
from agentic_hpt.records import Job

__all__ = ["Finding", "Patrol"]

_PAUSE, _MEMORY_PAUSE = 1.0, 0.25
_SHARE = 0.04
"""Looking takes at most about this part of one core, however many processes the machine has."""
_MIB = 2**20
_STALLED = {
    psutil.STATUS_STOPPED: "it was stopped (SIGSTOP)",
    psutil.STATUS_DISK_SLEEP: "it hung in the kernel, waiting for a device or a file system (state D)",
}

Children = dict[int, list[psutil.Process]]


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a trial has to be killed."""

    kind: FailureKind
    message: str


class Patrol:
    """Watches trials' processes, and the `server` that they are forked from. Everything but `look` is quick.

    Lost is a process that was stopped, or hung in the kernel without a step, for all of its lease. One that computes
    and says nothing lives, and so does one that a debugger holds. A stalled server is killed here: it starts anew.

    Memory is what the trial and all that it started hold at the time. What processes share, the libraries that trials
    are forked with say, counts by its share (PSS); the system works that out slowly, so it is asked only where the
    plain sum of resident memory is beyond the limit.
    """

    def __init__(self, server: Callable[[], int | None]) -> None:
        self.pause = _PAUSE
        """Seconds to wait before the next look."""
        self.lease = 30.0
        """Of the server."""
        self._server = server
        self._of_server: _Signs | None = None
        self._watched: dict[int, tuple[_Signs, Job]] = {}

    def expect(self, job: Job) -> None:
        """Get ready for a trial that is about to be started."""
        self.lease = job.lease
        if job.limits.memory_mb is not None:
            self.pause = min(self.pause, _MEMORY_PAUSE)

    def follow(self, pid: int, job: Job) -> None:
        """Look at a trial's process from now on."""
        with suppress(psutil.Error):  # gone already
            self._watched[pid] = _Signs(pid), job

    def leave(self, pid: int) -> None:
        """Look at it no more."""
        self._watched.pop(pid, None)

    def look(self) -> dict[int, Finding]:
        """Look at all of them and give what is wrong, by process. Blocks for milliseconds, and may run in a thread."""
        began = time.thread_time()
        watched = dict(self._watched)
        self._look_at_server()
        limited = any(job.limits.memory_mb is not None for _, job in watched.values())
        children = _children() if limited else {}
        found: dict[int, Finding] = {}
        for pid, (signs, job) in watched.items():
            with suppress(psutil.Error):
                signs.look(self.pause)
                if signs.stalled >= job.lease:
                    text = f"the trial's process gave no sign of life for {job.lease:g} s: {signs.what}"
                    found[pid] = Finding(FailureKind.LOST_WORKER, text)
                elif job.limits.memory_mb is not None and (used := _beyond(signs.process, children, job)):
                    found[pid] = Finding(FailureKind.OUT_OF_MEMORY, used)
        self.pause = max(_MEMORY_PAUSE if limited else _PAUSE, (time.thread_time() - began) / _SHARE)
        return found

    def _look_at_server(self) -> None:
        pid = self._server()
        if pid is None:
            return
        with suppress(psutil.Error, ProcessLookupError):
            if self._of_server is None or self._of_server.process.pid != pid:
                self._of_server = _Signs(pid)
            self._of_server.look(self.pause)
            if self._of_server.stalled >= self.lease:
                os.kill(pid, signal.SIGKILL)


class _Signs:
    """The signs of life of one process, from look to look."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.stalled = 0.0
        """Seconds for which there was none."""
        self.what = ""
        self._before: object = None
        self._looked = time.monotonic()

    def look(self, pause: float) -> None:
        """Count the time since the last look, at most twice the pause: who looks may have been stopped itself."""
        with self.process.oneshot():
            state, spent = self.process.status(), self.process.cpu_times()
            now = state, self.process.num_ctx_switches(), spent.user, spent.system
        since = min(time.monotonic() - self._looked, 2 * pause)
        self.stalled = self.stalled + since if state in _STALLED and now == self._before else 0.0
        self.what = _STALLED.get(state, "")
        self._before, self._looked = now, time.monotonic()


def _children() -> Children:
    """Give the children of every process, by one pass over all."""
    found: Children = {}
    for process in psutil.process_iter(["ppid"]):
        found.setdefault(process.info["ppid"], []).append(process)
    return found


def _beyond(trial: psutil.Process, children: Children, job: Job) -> str:
    """Say what a trial uses when that is more than its limit; empty when it is not."""
    tree = [trial]
    for process in tree:  # grows meanwhile
        tree.extend(children.get(process.pid, ()))
    limit = job.limits.memory_mb or 0.0
    if sum(map(_resident, tree)) <= limit * _MIB:
        return ""
    used = sum(map(_shared_out, tree)) / _MIB
    if used <= limit:
        return ""
    started = len(tree) - 1
    others = f" with the {started} processes" if started > 1 else " with the process"
    return (
        f"the trial used {used:.0f} MiB{others * bool(started)}{' it started' * bool(started)}; its limit is {limit:g}"
    )


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _shared_out(process: psutil.Process) -> int:
    """Give the memory of a process, what it shares counted by its share; where that isn't told, its own alone."""
    with suppress(psutil.Error):
        full = process.memory_full_info()
        return int(getattr(full, "pss", full.uss))
    return _resident(process)
