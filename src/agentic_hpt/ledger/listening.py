"""The ledger's connections to PostgreSQL: one over which no answer comes is lost, though nothing has closed it."""

from __future__ import annotations

from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from agentic_hpt.postgres import listening

T = TypeVar("T")


class ListeningConnection(psycopg.Connection[TupleRow]):
    """A connection that gives a server up which stands still."""

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Run what asks the server. Raises `psycopg.OperationalError` where no answer comes."""
        heard = listening(gen, self.pgconn)
        if timeout is None:  # which psycopg 3.2 doesn't know
            return super().wait(heard, interval)
        return super().wait(heard, interval, timeout)
