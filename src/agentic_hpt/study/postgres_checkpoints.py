"""Checkpoints on PostgreSQL that outlast a server that is away for a while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import DictRow, dict_row

from agentic_hpt.config import shown
from agentic_hpt.errors import LedgerError
from agentic_hpt.listening import AsyncListeningConnection
from agentic_hpt.postgres import reason, unusable
from agentic_hpt.study.serializing import PlainSerializer

T = TypeVar("T")

OUTAGE_SECONDS = 60.0
_PAUSE = 0.25
_SETUP = 0x6870745F636B7074  # "hpt_ckpt"


class PatientSaver(AsyncPostgresSaver):
    """A saver that runs a call again, on a new connection, when its connection is lost.

    It may: each call is one statement, or upserts of the same rows. After `OUTAGE_SECONDS` it raises `LedgerError`.
    """

    conn: psycopg.AsyncConnection[DictRow]

    def __init__(self, connection: psycopg.AsyncConnection[DictRow], url: str) -> None:
        super().__init__(connection, serde=PlainSerializer())
        self._url = url
        self._closed = False

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Give a checkpoint."""
        return await self._insist(lambda: super(PatientSaver, self).aget_tuple(config))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint."""
        return await self._insist(lambda: super(PatientSaver, self).aput(config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a node wrote."""
        await self._insist(lambda: super(PatientSaver, self).aput_writes(config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        """Forget a thread."""
        await self._insist(lambda: super(PatientSaver, self).adelete_thread(thread_id))

    async def close(self) -> None:
        """Close the connection, once no call uses it; a call that comes later fails."""
        self._closed = True
        async with self.lock:
            await self.conn.close()

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        deadline: float | None = None
        while True:
            used = self.conn
            try:
                return await call()
            except psycopg.OperationalError as error:
                deadline = deadline or loop.time() + OUTAGE_SECONDS
                if self._closed or loop.time() >= deadline:
                    raise LedgerError(
                        f"the checkpoints in {shown(self._url)} can't be read or written: {reason(self._url, error)}",
                        "go on with `hpt resume` when PostgreSQL is back",
                    ) from error
            await asyncio.sleep(_PAUSE)
            await self._reconnect(used)

    async def _reconnect(self, lost: psycopg.AsyncConnection[DictRow]) -> None:
        """Open another connection in place of the lost one, unless that was done; without success while it is away."""
        async with self.lock:
            if self.conn is not lost or self._closed:
                return
            await lost.close()
            try:
                self.conn = await _connect(self._url)
            except psycopg.OperationalError:
                pass


@asynccontextmanager
async def open_saver(url: str) -> AsyncIterator[PatientSaver]:
    """Open the store, making its tables on first use. Raises `ConfigError` when it can't be used."""
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of each connection that is lost
    try:
        connection = await _connect(url)
    except psycopg.Error as error:
        raise unusable(url, error) from None
    saver = PatientSaver(connection, url)
    try:
        try:
            await _set_up(saver)
        except psycopg.Error as error:
            raise unusable(url, error) from None
        yield saver
    finally:
        await saver.close()


async def _set_up(saver: PatientSaver) -> None:
    """Make the tables, one driver at a time.

    The lock is tried, not waited for: a session that waits in the server would hold up the other's building of an
    index, for ever.
    """
    deadline = asyncio.get_running_loop().time() + OUTAGE_SECONDS
    while True:
        taken = await (await saver.conn.execute("SELECT pg_try_advisory_lock(%s) AS taken", (_SETUP,))).fetchone()
        if taken is not None and taken["taken"]:
            break
        if asyncio.get_running_loop().time() >= deadline:
            raise LedgerError(f"another process has been making the checkpoints' tables for {OUTAGE_SECONDS:.0f} s")
        await asyncio.sleep(_PAUSE)
    await saver.setup()
    await saver.conn.execute("SELECT pg_advisory_unlock(%s)", (_SETUP,))


async def _connect(url: str) -> psycopg.AsyncConnection[DictRow]:
    return await AsyncListeningConnection.connect(url, autocommit=True, prepare_threshold=0, row_factory=dict_row)
