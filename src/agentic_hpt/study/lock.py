"""The lock that keeps two processes from running one study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentic_hpt.errors import StudyBusy

if TYPE_CHECKING:
    from filelock import BaseFileLock


class StudyLock:
    """A file that one holder locks; a killed process holds it no more."""

    def __init__(self, path: Path, study: str) -> None:
        self._path = path
        self._study = study
        self._lock: BaseFileLock | None = None

    def acquire(self) -> None:
        """Take the lock, if it isn't held here already. Raises `StudyBusy` when another process has it."""
        from filelock import FileLock, Timeout

        if self._lock is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._path, thread_local=False)
        try:
            lock.acquire(timeout=1.0)
        except Timeout:
            raise StudyBusy(
                f"study {self._study!r} is being run by another process", "wait for it, or stop it first"
            ) from None
        self._lock = lock

    def release(self) -> None:
        """Let it go; without effect when it isn't held here."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def held(self) -> bool:
        """Say whether some process holds it, this one included."""
        from filelock import FileLock, Timeout

        if self._lock is not None:
            return True
        if not self._path.exists():
            return False
        lock = FileLock(self._path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            return False
        lock.release()
        return False
