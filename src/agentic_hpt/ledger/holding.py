"""Who drives a study: one process at a time, which says again and again that it lives.

A driver that is dead, or that does not stir for the length of a lease, is replaced by the next that asks. It may only
stand still: so each driver has an epoch, and what one of an earlier epoch writes is refused. No wall clock decides that
a driver is replaced: whoever wants to watches the other's beats on a clock of his own that never jumps.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

import psutil
from sqlalchemy import ColumnElement, Connection, Row, literal_column, select, update

from agentic_hpt.errors import StudyBusy
from agentic_hpt.ledger.database import Database, Fence
from agentic_hpt.ledger.schema import drivers

_BEATS = 10
"""A driver beats so often in a lease."""
_ALIKE_SECONDS = 1.5
_JOIN_SECONDS = 2.0
_MACHINES_OWN = "pid:[4026531836]"
"""The name of the processes' space that a Linux machine begins with."""
_CLOCKS: dict[str, ColumnElement[float]] = {
    "postgresql": literal_column("extract(epoch from clock_timestamp())"),
    "sqlite": literal_column("(julianday('now') - 2440587.5) * 86400.0"),
}


class Hold:
    """A process's hold of a study, until it is released."""

    def __init__(self, database: Database, study: int, epoch: int, every: float | None) -> None:
        self.epoch = epoch
        self.fence = Fence(study, epoch)
        self._database = database
        self._mine = update(drivers).where(drivers.c.study == study, drivers.c.epoch == epoch)
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None
        if every is not None:
            self._beating = threading.Thread(target=self._beat_on, args=(every,), daemon=True, name="hpt-beat")
            self._beating.start()

    @property
    def lost(self) -> bool:
        """Whether it is known that another process took the study over."""
        return self.fence.lost.is_set()

    def release(self) -> None:
        """Let the study go. Where the database does not answer, whoever comes next waits for a lease to pass."""
        self._ended.set()
        if self._beating is not None:
            self._beating.join(_JOIN_SECONDS)
        self._database.attempt(lambda connection: connection.execute(self._mine.values(held=0)).rowcount)

    def _beat_on(self, every: float) -> None:
        """Beat until the hold ends: in a thread of its own, so that long thoughts and outages change nothing."""
        while not self._ended.wait(every):
            if self._database.attempt(self._beat) == 0:
                self.fence.lost.set()
                return

    def _beat(self, connection: Connection) -> int:
        return connection.execute(self._mine.values(beat=drivers.c.beat + 1, beaten=_clock(connection))).rowcount


def take(database: Database, study: int, name: str, lease: float | None) -> Hold:
    """Take hold of a study, from a driver that is dead too. Raises `StudyBusy` when one lives.

    Without a `lease` the caller keeps other processes out by himself: then nobody is waited for.
    """
    every = 0.0 if lease is None else lease / _BEATS
    seen: Row[tuple[object, ...]] | None = None
    still, looked = 0.0, time.monotonic()
    while True:
        row = database.read(lambda connection: _driver(connection, study))
        now = time.monotonic()
        if lease is None or not row.held or _dead(row) or still >= lease:
            epoch = _seize(database, row)
            if epoch is not None:
                return Hold(database, study, epoch, None if lease is None else every)
            seen = None  # somebody was quicker
            continue
        if seen is not None and (row.epoch, row.beat) != (seen.epoch, seen.beat):
            raise busy(database, study, name)
        # While the database was away nobody could beat: such a time is no sign of death.
        still = 0.0 if seen is None else still + min(now - looked, 2 * every)
        seen, looked = row, now
        time.sleep(every)


def busy(database: Database, study: int, name: str) -> StudyBusy:
    """Say that another process drives a study, and which one, as far as it is known."""
    row = database.read(lambda connection: _driver(connection, study))
    which = f": {row.pid} on {row.host}" if row.held else ""
    return StudyBusy(f"study {name!r} is being run by another process{which}", "wait for it, or stop it first")


def is_driven(database: Database, study: int, lease: float) -> bool:
    """Say whether a process drives a study, as far as a look can tell."""

    def look(connection: Connection) -> tuple[Row[tuple[object, ...]], float]:
        return _driver(connection, study), connection.execute(select(_clock(connection))).scalar_one()

    row, now = database.read(look)
    if not row.held:
        return False
    beaten: float = row.beaten
    return not _dead(row) if row.host == _host() else bool(now - beaten < lease)


def _driver(connection: Connection, study: int) -> Row[tuple[object, ...]]:
    return connection.execute(select(drivers).where(drivers.c.study == study)).one()


def _seize(database: Database, row: Row[tuple[object, ...]]) -> int | None:
    """Begin a new epoch, unless the row has changed since it was looked at; `None` then."""
    epoch: int = row.epoch + 1
    as_seen = drivers.c.study == row.study, drivers.c.epoch == row.epoch, drivers.c.beat == row.beat
    mine = {"epoch": epoch, "written": 0, "held": 1, "host": _host(), "pid": os.getpid(), "born": _born(os.getpid())}

    def seize(connection: Connection) -> int:
        fresh = update(drivers).where(*as_seen).values(**mine, beat=drivers.c.beat + 1, beaten=_clock(connection))
        return connection.execute(fresh).rowcount

    return epoch if database.write(seize) == 1 else None


def _clock(connection: Connection) -> ColumnElement[float]:
    return _CLOCKS[connection.dialect.name]


def _dead(row: Row[tuple[object, ...]]) -> bool:
    """Say whether the driver was a process of this machine, and is no more."""
    if row.host != _host():
        return False
    try:
        return bool(abs(_born(row.pid) - row.born) > _ALIKE_SECONDS)
    except psutil.NoSuchProcess:
        return True


def _born(pid: int) -> float:
    """Give when a process began, such that it is the same after the wall clock was changed."""
    began = psutil.Process(pid).create_time()
    return began - psutil.boot_time() if sys.platform == "linux" else began


def _host() -> str:
    """Name the machine; of a container also its own space of processes, whose numbers mean nothing outside."""
    name = socket.gethostname()[:200]
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return name
    return name if space == _MACHINES_OWN else f"{name} {space}"
