"""What went wrong with a database, in plain words, and whether waiting may help."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, IntegrityError

from agentic_hpt.config import mask_secrets
from agentic_hpt.errors import LedgerError

_WAIT = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "53300", "40001", "40P01", "55P03"})
"""What PostgreSQL says when it stops or starts, ended an idle connection, has no connection free, or a lock is held."""

_WORDS = {
    "SQLITE_FULL": ("the disk is full", "make room"),
    "53100": ("the server's disk is full", "make room"),
    "SQLITE_READONLY": ("it can't be written", "check the rights of the file and of its folder"),
    "25006": ("it can't be written", "use the server that takes writes"),
    "42501": ("the database user lacks a right", "grant it"),
    "SQLITE_CORRUPT": ("the file is damaged", "restore a backup, or save what `sqlite3 FILE .recover` can read"),
    "SQLITE_NOTADB": ("the file is no database", "check --home"),
    "SQLITE_BUSY": ("another process keeps it locked", "end that process, or wait for it"),
    "SQLITE_LOCKED": ("another process keeps it locked", "end that process, or wait for it"),
    "SQLITE_IOERR": ("the disk failed", "check the disk"),
    "SQLITE_CANTOPEN": ("the file can't be opened", "check the file and its folder"),
}


def waits(error: DBAPIError) -> bool:
    """Say whether a database did not answer, and may after a while. A file never does."""
    if error.connection_invalidated:
        return True
    state = _state(error)
    if state is not None:
        return state.startswith("08") or state in _WAIT
    return type(error.orig).__module__.startswith("psycopg") and type(error.orig).__name__ not in _OWN_FAULTS


_OWN_FAULTS = frozenset({"DataError", "ProgrammingError", "NotSupportedError"})
"""Raised by the driver without asking the server: what it was given is wrong."""


def in_plain_words(error: DBAPIError, name: str) -> LedgerError:
    """Say what is wrong with the database called `name`."""
    if isinstance(error, IntegrityError):
        return LedgerError(f"the ledger refused a second entry: {reason(error)}")
    code = _state(error) or str(getattr(error.orig, "sqlite_errorname", ""))
    for known, (what, hint) in _WORDS.items():
        if code.startswith(known):
            return LedgerError(f"the ledger {name}: {what} ({reason(error)})", f"{hint}; the study can be resumed then")
    return LedgerError(
        f"the ledger {name} can't be read or written: {reason(error)}", "check the disk and the database"
    )


def reason(error: DBAPIError) -> str:
    """Give the database's own words on one line, secrets masked."""
    said = getattr(getattr(error.orig, "diag", None), "message_primary", None) or str(error.orig)
    return mask_secrets("; ".join(line.strip() for line in said.splitlines() if line.strip()))[:500]


def _state(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None
