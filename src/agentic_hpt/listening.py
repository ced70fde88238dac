"""Connections to PostgreSQL over which no answer comes: they are lost, though nothing has closed them."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg.rows import DictRow, TupleRow

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn
    from psycopg.waiting import Ready, Wait

T = TypeVar("T")

SILENT_SECONDS = 30.0
"""So long may nothing come over a connection that waits for an answer, until it counts as lost."""


class ListeningConnection(psycopg.Connection[TupleRow]):
    """A connection that gives a server up which stands still."""

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Run what asks the server. Raises `psycopg.OperationalError` where no answer comes."""
        heard = _listening(gen, self.pgconn)
        if timeout is None:  # which psycopg 3.2 doesn't know
            return super().wait(heard, interval)
        return super().wait(heard, interval, timeout)


class AsyncListeningConnection(psycopg.AsyncConnection[DictRow]):
    """The same for those who await the answers."""

    async def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Run what asks the server. Raises `psycopg.OperationalError` where no answer comes."""
        heard = _listening(gen, self.pgconn)
        if timeout is None:
            return await super().wait(heard, interval)
        return await super().wait(heard, interval, timeout)


def _listening(asked: PQGen[T], connection: PGconn) -> Generator[Wait, Ready | int, T]:
    """Ask what `asked` asks, and close the connection of a server that stands still: its host still keeps that open.

    It is run like `asked`, by psycopg's own `wait`. Raises `psycopg.OperationalError`, as for a lost connection.
    """
    heard = time.monotonic()
    try:
        wanted = next(asked)
        while True:
            ready = yield wanted
            if ready:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENT_SECONDS:
                connection.finish()
                raise psycopg.OperationalError(f"the server has said nothing for {SILENT_SECONDS:.0f} s")
            wanted = asked.send(ready)
    except StopIteration as end:
        answer: T = end.value
        return answer
