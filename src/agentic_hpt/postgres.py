"""Connections to PostgreSQL beside the ledger's own: opened with one clear word if they can't be, and locks on them."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from typing import TYPE_CHECKING

from agentic_hpt.config.postgres import shown, without_password
from agentic_hpt.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    import psycopg

_POLL = 0.1


def check_installed() -> None:
    """See that there is a driver. Raises `MissingExtra`."""
    try:
        import psycopg  # noqa: F401 - its C library may be what is missing, which only an import tells
    except ImportError:
        found = False
    else:
        found = importlib.util.find_spec("langgraph.checkpoint.postgres") is not None
    if not found:
        raise MissingExtra("PostgreSQL", "postgres")


def connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    """Open a connection that commits each statement. Raises `ConfigError` when it can't be opened."""
    check_installed()
    import psycopg

    try:
        return psycopg.connect(url, autocommit=True)
    except psycopg.Error as error:
        raise unusable(url, error) from None


def unusable(url: str, error: Exception) -> ConfigError:
    """Say that a database can't be used, and why, without its password."""
    return ConfigError(
        f"PostgreSQL at {shown(url)} can't be used: {reason(url, error)}",
        "check the address, the user with its password and rights, and that the server runs",
    )


def reason(url: str, error: Exception) -> str:
    """Give what PostgreSQL said on one line, without the address's password."""
    return without_password(url, "; ".join(line.strip() for line in str(error).splitlines() if line.strip()))[:500]


class ServerLock:
    """A lock in a database, held by one connection: it ends with that, whatever becomes of the holder or its host."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._key = int.from_bytes(hashlib.sha256(f"agentic-hpt/{name}".encode()).digest()[:8], signed=True)
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def hold(self) -> bool:
        """Take the lock, or see that it is still held; give whether it is. Raises `ConfigError` when nobody answers."""
        if self._alive():
            return True
        connection = connect(self._url)
        # Tried, and not waited for: who waits in the server keeps others there from building an index.
        taken = connection.execute("SELECT pg_try_advisory_lock(%s)", (self._key,)).fetchone()
        if taken is None or not taken[0]:
            connection.close()
            return False
        self._connection = connection
        return True

    def wait(self, seconds: float) -> bool:
        """Try for so long to take it; give whether it is held."""
        deadline = time.monotonic() + seconds
        while not self.hold():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True

    def release(self) -> None:
        """Let it go; without effect when it isn't held."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _alive(self) -> bool:
        import psycopg

        if self._connection is None:
            return False
        try:
            self._connection.execute("SELECT 1")
        except psycopg.Error:
            self.release()
            return False
        return True
