"""What keeps two processes from driving one study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentic_hpt.errors import ConfigError

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from agentic_hpt.ledger import Hold, LedgerStore, StudyRow


class StudyLock:
    """A process's hold of a study in the ledger, and of a file beside it where the ledger is a file too.

    The file is free as soon as its process is dead, so nobody waits then. In a database that others use, a driver that
    doesn't stir for `lease` seconds is replaced; see `ledger.holding`.
    """

    def __init__(self, store: LedgerStore, row: StudyRow, path: Path, lease: float) -> None:
        self._store = store
        self._row = row
        self._path = path
        self._lease = lease
        self._lock: BaseFileLock | None = None
        self.hold: Hold | None = None
        """What the ledger knows this process by, while it drives the study."""

    def acquire(self) -> None:
        """Take the lock, if it isn't held here already. Raises `StudyBusy` when another process has it."""
        if self.hold is not None:
            return
        if self._store.shared:
            self.hold = self._store.hold(self._row.uid, self._lease)
            return
        self._lock_file()
        try:
            self.hold = self._store.hold(self._row.uid, None)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let it go; without effect when it isn't held here."""
        hold, self.hold = self.hold, None
        if hold is not None:
            hold.release()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def held(self) -> bool:
        """Say whether some process holds it, this one included."""
        if self.hold is not None:
            return not self.hold.lost
        return self._store.is_driven(self._row.uid, self._lease) if self._store.shared else self._file_is_held()

    def _lock_file(self) -> None:
        from filelock import FileLock, Timeout

        lock = FileLock(self._path, thread_local=False)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=1.0)
        except Timeout:
            raise self._store.busy(self._row.uid) from None
        except OSError as error:
            raise ConfigError(
                f"the study's folder {self._path.parent} can't be written: {error.strerror or error}",
                "check its disk and its rights",
            ) from None
        self._lock = lock

    def _file_is_held(self) -> bool:
        from filelock import FileLock, Timeout

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
