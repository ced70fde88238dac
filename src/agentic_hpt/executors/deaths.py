"""What ended a trial's process that gave no answer."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path

from agentic_hpt.config import mask_secrets
from agentic_hpt.errors import FailureKind
from agentic_hpt.records import Outcome

__all__ = ["KernelKills", "death", "told", "with_log"]

_VMSTAT = Path("/proc/vmstat")
_RECENT = 10.0
"""Seconds: a process of many gigabytes takes a while to end after the kernel has killed it."""


class KernelKills:
    """Tells whether the kernel has just killed a process because memory was short. It says how many, not which.

    `file` holds the count, in the form of `/proc/vmstat`. `look` is to be called every now and then.
    """

    def __init__(self, file: Path = _VMSTAT) -> None:
        self._file = file
        self._seen = [(time.monotonic(), self._count())]

    def look(self) -> None:
        """Take note of the count, and forget all but the last older one."""
        now = time.monotonic()
        while len(self._seen) > 1 and self._seen[1][0] < now - _RECENT:
            del self._seen[0]
        self._seen.append((now, self._count()))

    def grew(self) -> bool:
        """Say whether the count grew of late; a growth is told once."""
        before, now = self._seen[0][1], self._count()
        if now > before:
            self._seen = [(time.monotonic(), before + 1)]  # others may have been killed at once with this one
        return now > before

    def _count(self) -> int:
        try:
            lines = self._file.read_text().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def death(code: int, kills: KernelKills) -> tuple[FailureKind, str]:
    """Say of a process what its exit code tells."""
    if code == -signal.SIGKILL and kills.grew():
        return FailureKind.OUT_OF_MEMORY, "the kernel killed the trial's process: the machine ran out of memory"
    if code == -signal.SIGKILL:
        return FailureKind.LOST_WORKER, "the trial's process was killed from outside (SIGKILL)"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return FailureKind.CRASH, f"the trial's process died by {name} ({signal.strsignal(-code)})"
    return FailureKind.CRASH, f"the trial's process ended with exit code {code} before it gave an answer"


def told(outcome: Outcome, kills: KernelKills) -> Outcome:
    """Give the outcome that a trial told of itself; it can't know why a program that it ran was killed."""
    if outcome.failure is FailureKind.LOST_WORKER and kills.grew():
        text = f"{outcome.message}: the machine ran out of memory"
        return replace(outcome, failure=FailureKind.OUT_OF_MEMORY, message=text)
    return outcome


def with_log(message: str, log: Path) -> str:
    """Add the end of the trial's output; the interpreter's own frames in a fault's traceback say nothing."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 16_384))
            lines = stream.read().decode(errors="replace").splitlines()
    except OSError:
        return message
    telling = [x for x in lines if x.strip() and "multiprocessing/" not in x and not x.startswith("Extension modules")]
    return mask_secrets("\n".join([message, *telling[-10:]]))[:2000]
