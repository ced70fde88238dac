"""The graph's checkpoint store: a file in the home, or tables beside the ledger's on PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agentic_hpt.config import is_postgres
from agentic_hpt.errors import LedgerError
from agentic_hpt.postgres import check_installed

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver


def checkpointer(address: str) -> AbstractAsyncContextManager[BaseCheckpointSaver[str]]:
    """Open the checkpoint store, and close it for good."""
    if is_postgres(address):
        check_installed()
        from agentic_hpt.study.postgres_checkpoints import open_saver

        return open_saver(address)
    return _sqlite(Path(address.removeprefix("sqlite:///")))


@asynccontextmanager
async def _sqlite(path: Path) -> AsyncIterator[AsyncSqliteSaver]:
    """Open the file.

    A graph that fails leaves writes under way. One that got its INSERT in before the connection closed would keep the
    store locked for as long as its traceback lives: so the close waits for the saver's lock, and rolls back.
    """
    import aiosqlite
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    from agentic_hpt.study.serializing import PlainSerializer

    try:
        connection = await aiosqlite.connect(path)
        saver = AsyncSqliteSaver(connection, serde=PlainSerializer())
        try:
            yield saver
        finally:
            async with saver.lock:
                await connection.rollback()
                await connection.close()
    except sqlite3.DatabaseError as error:
        raise LedgerError(
            f"the checkpoint store {path} can't be used: {error}",
            "check the disk; a damaged store can be moved away: the study goes on from the ledger",
        ) from error
