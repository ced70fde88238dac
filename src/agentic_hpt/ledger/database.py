"""A store's connections, and how work is done in transactions.

Work is a function of a connection: when the connection is lost it is run again, on another one, until the database has
been away for `OUTAGE_SECONDS`. What a driver writes goes through its `Fence`, which makes that exactly once.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, bindparam, select, update
from sqlalchemy.exc import DBAPIError

from agentic_hpt.errors import ConfigError, LedgerError
from agentic_hpt.ledger.faults import in_plain_words, reason, waits
from agentic_hpt.ledger.schema import drivers

T = TypeVar("T")

OUTAGE_SECONDS = 60.0
READING = "hpt_reading"
"""The option of a connection that only reads: on SQLite it takes no lock."""

_PASS = (
    update(drivers)
    .where(
        drivers.c.study == bindparam("of_study"),
        drivers.c.epoch == bindparam("of_epoch"),
        drivers.c.written == bindparam("before"),
    )
    .values(written=bindparam("after"))
)
_STANDS = select(drivers.c.epoch, drivers.c.written).where(drivers.c.study == bindparam("of_study"))


class Fence:
    """Lets the transactions of one driver through, each once, and none after another driver took the study over.

    Each transaction raises `written` by one, under the driver's `epoch`. So one whose COMMIT got no answer is known,
    afterwards, to have gone through or not: a second run finds the figure raised, or raises it itself.
    """

    def __init__(self, study: int, epoch: int) -> None:
        self.epoch = epoch
        self.lost = threading.Event()
        """Set once it is known that another driver took over."""
        self._study = study
        self._written = 0
        self._turn = threading.Lock()

    def run(self, transact: Callable[[Callable[[Connection], T]], T], work: Callable[[Connection], T]) -> T:
        """Have `transact` run `work` behind the fence. Raises `LedgerError` when the study was taken over."""
        answered: list[T] = []

        def fenced(connection: Connection) -> T:
            while not self._passes(connection):
                stands = connection.execute(_STANDS, {"of_study": self._study}).first()
                if stands is None or stands.epoch != self.epoch:
                    self.lost.set()
                    raise LedgerError(
                        "another process took the study over: nothing more is written by this one",
                        "it goes on there; see `hpt status`",
                    )
                if answered and stands.written == self._written + 1:
                    return answered[0]
                self._written = stands.written  # one went through after its caller had given up
            answered[:] = [work(connection)]
            return answered[0]

        with self._turn:
            result = transact(fenced)
            self._written += 1
        return result

    def _passes(self, connection: Connection) -> bool:
        figures = {"before": self._written, "after": self._written + 1}
        at = {"of_study": self._study, "of_epoch": self.epoch, **figures}
        return connection.execute(_PASS, at).rowcount == 1


class Database:
    """A store that is open, under a `name` without secrets. For any thread."""

    def __init__(self, engine: Engine, name: str, *, patient: bool = False, file: Path | None = None) -> None:
        self.name = name
        self._file = file
        self.shared = engine.dialect.name == "postgresql"
        """Whether other machines may use it."""
        self._engine = engine
        weakref.finalize(self, engine.dispose)  # whoever forgets to close leaves no connection open
        self._reading = engine.execution_options(**{READING: True})
        self._answered = patient
        self._away_since: float | None = None

    def read(self, work: Callable[[Connection], T]) -> T:
        """Read, waiting out an outage. Raises `LedgerError`."""

        def once() -> T:
            with self._reading.connect() as connection:
                return work(connection)

        return self._insist(once)

    def write(self, work: Callable[[Connection], T], fence: Fence | None = None) -> T:
        """Write in one transaction, waiting out an outage. Raises `LedgerError`; nothing of it stays then.

        Without a fence `work` may run twice: it must come to the same then.
        """
        if fence is None:
            return self._insist(lambda: self._commit(work))
        return fence.run(lambda fenced: self._insist(lambda: self._commit(fenced)), work)

    def attempt(self, work: Callable[[Connection], T]) -> T | None:
        """Write, once; `None` when the database does not answer, or is gone."""
        try:
            return self._commit(work)
        except (DBAPIError, LedgerError):
            return None

    def sync(self) -> None:
        """See that what was written outlasts a power cut: SQLite's log reaches the disk when the system likes."""
        if self._file is None:
            return
        try:
            log = os.open(self._file.with_name(f"{self._file.name}-wal"), os.O_RDONLY)
        except FileNotFoundError:  # all of it was moved into the store itself, which SQLite does sync
            return
        try:
            os.fsync(log)
        except OSError as error:
            raise LedgerError(f"the ledger {self._file} can't be written: {error.strerror}", "check the disk") from None
        finally:
            os.close(log)

    def close(self) -> None:
        """Free the connections."""
        self._engine.dispose()

    def _commit(self, work: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            if self._file is not None and not self._file.exists():  # SQLite would write on, to what nobody can open
                raise LedgerError(
                    f"the ledger {self._file} is gone: its home was removed or renamed while it was in use",
                    "where it was only renamed, go on there: hpt resume NAME --home DIR",
                )
            return work(connection)

    def _insist(self, once: Callable[[], T]) -> T:
        pause = 0.05
        while True:
            try:
                found = once()
            except DBAPIError as error:
                self._may_wait(error)
            else:
                self._answered, self._away_since = True, None
                return found
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _may_wait(self, error: DBAPIError) -> None:
        """Return where trying again may help; raise what is wrong where it may not.

        All calls share the outage's time: a study that stops for it does not wait again with every last write.
        """
        if not waits(error):
            raise in_plain_words(error, self.name) from error
        if not self._answered:
            raise ConfigError(
                f"the database {self.name} can't be reached: {reason(error)}",
                "check the address, the user and the password, and that the server runs",
            ) from None
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since > OUTAGE_SECONDS:
            raise LedgerError(
                f"the database {self.name} has not answered for {OUTAGE_SECONDS:.0f} s: {reason(error)}",
                "go on with `hpt resume` when it is back",
            ) from error
