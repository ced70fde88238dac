"""How a store is opened: a SQLite file or a PostgreSQL database, its tables made or brought up to this version.

SQLite runs in WAL mode: a reader or the MLflow writer never blocks the driver for long, and a killed process leaves the
store consistent. What writes begins with `BEGIN IMMEDIATE`, so it never fails half-way for a lock taken too late.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.schema import CreateColumn

from agentic_hpt.config.postgres import for_sqlalchemy, is_postgres, shown
from agentic_hpt.errors import ConfigError, LedgerError, MissingExtra, NoLedger, StoreVersionError
from agentic_hpt.ledger.database import READING, Database
from agentic_hpt.ledger.faults import reason, waits
from agentic_hpt.ledger.schema import COLUMNS_SINCE, SCHEMA_VERSION, TABLES_SINCE, drivers, meta, metadata, studies

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

_CREATION = 7310041867259203347
"""The advisory lock under which the tables are made: drivers that begin at once make them once."""


def open_database(url: str, *, create: bool, patient: bool = False) -> Database:
    """Open a store, making its tables on first use if `create`. One of an older version is brought up to this one.

    A `patient` one waits for a database that does not answer yet. Raises `ConfigError` when it can't be reached,
    `StoreVersionError` for a store of a newer version, `LedgerError` for one that can't be read.
    """
    if is_postgres(url):
        database = Database(_postgres_engine(url), shown(url), patient=patient)
    else:
        path = Path(url.removeprefix("sqlite:///"))
        if not create and not path.exists():
            raise NoLedger(f"there is no ledger at {path}", "check --home")
        database = Database(_sqlite_engine(url, path, create), str(path), file=path)
    try:
        version = database.read(_version)
        if version is None and not create:
            raise NoLedger(f"{database.name} holds no agentic-hpt ledger", "check --home")
        if version is None or version < SCHEMA_VERSION:
            version = database.write(_bring_up)
    except LedgerError as error:
        database.close()
        if isinstance(error.__cause__, DBAPIError) and not waits(error.__cause__):
            if database.shared:
                raise ConfigError(
                    f"the database {database.name} can't be used: {reason(error.__cause__)}",
                    "check the address, and the rights of its user",
                ) from None
            raise LedgerError(
                f"the ledger {database.name} can't be read: {reason(error.__cause__)}", "check the file and its folder"
            ) from None
        raise
    except ConfigError:
        database.close()
        raise
    if version > SCHEMA_VERSION:
        database.close()
        raise StoreVersionError(
            f"the ledger {database.name} has store version {version}; this agentic-hpt reads up to {SCHEMA_VERSION}",
            "upgrade agentic-hpt, or use another --home",
        )
    return database


def _version(connection: Connection) -> int | None:
    """Give a store's version; `None` where nothing of a ledger is. Raises `StoreVersionError` where that isn't sure."""
    ours = [name for name in inspect(connection).get_table_names() if name.startswith("hpt_")]
    if not ours:
        return None
    if meta.name in ours:
        found = connection.execute(select(meta.c.value).where(meta.c.key == "schema_version")).scalar()
        if found is not None and found.isdecimal():
            return int(found)
    raise StoreVersionError(
        f"the ledger has tables ({', '.join(sorted(ours)[:4])}, ...) but does not say of which store version",
        "restore it from a backup, or use another database",
    )


def _bring_up(connection: Connection) -> int:
    """Make the tables, or bring those of an older version up to this one, all or nothing; give the version."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATION})
    version = _version(connection)  # another process may have been quicker
    if version is None:
        metadata.create_all(connection)
        connection.execute(insert(meta).values(key="schema_version", value=str(SCHEMA_VERSION)))
        return SCHEMA_VERSION
    if version < SCHEMA_VERSION:
        _migrate(connection, version)
    return max(version, SCHEMA_VERSION)


def _migrate(connection: Connection, version: int) -> None:
    for since, table in TABLES_SINCE:
        if version < since:
            table.create(connection)
    for since, column in COLUMNS_SINCE:
        if version < since:
            definition = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")
    if version < 5:
        for study in connection.execute(select(studies.c.id)).scalars().all():
            connection.execute(insert(drivers).values(study=study))
    connection.execute(update(meta).where(meta.c.key == "schema_version").values(value=str(SCHEMA_VERSION)))


def _postgres_engine(url: str) -> Engine:
    if importlib.util.find_spec("psycopg") is None:
        raise MissingExtra("a ledger on PostgreSQL", "postgres")
    engine = create_engine(for_sqlalchemy(url), pool_size=3, max_overflow=5)
    event.listen(engine, "do_connect", _listening_connection)
    event.listen(engine, "connect", _on_postgres_connect)
    return engine


def _listening_connection(
    _dialect: object, _record: object, args: Sequence[str], settings: Mapping[str, str]
) -> DBAPIConnection:
    from agentic_hpt.listening import ListeningConnection

    return ListeningConnection.connect(*args, **settings)  # type: ignore[return-value,arg-type]


def _on_postgres_connect(connection: DBAPIConnection, _record: object) -> None:
    """Let no process that stands still, or is cut off, keep the others waiting for what it has locked."""
    cursor = connection.cursor()
    cursor.execute("SET idle_in_transaction_session_timeout = '10s'")
    cursor.execute("SET lock_timeout = '15s'")
    cursor.close()
    connection.commit()


def _sqlite_engine(url: str, path: Path, create: bool) -> Engine:
    writable = create or os.access(path.parent, os.W_OK)
    if not writable:
        # A file that nobody can be writing needs no lock; one with a log beside it has to be read with that.
        quiet = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
        url = f"sqlite:///file:{quote(str(path))}?uri=true&mode=ro{quiet}"
    engine = create_engine(
        url, poolclass=QueuePool if create else NullPool, connect_args={"timeout": 30, "check_same_thread": False}
    )
    event.listen(engine, "connect", _on_sqlite_connect if writable else _on_read_only_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def _on_sqlite_connect(connection: DBAPIConnection, record: object) -> None:
    _on_read_only_connect(connection, record)
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_read_only_connect(connection: DBAPIConnection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _on_sqlite_begin
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    reading = connection.get_execution_options().get(READING, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
