"""Tables of the ledger and how a store is opened.

SQLite runs in WAL mode: a reader or the MLflow writer never blocks the driver for long, and a killed process leaves the
store consistent. Every transaction is `BEGIN IMMEDIATE`, so a write never fails half-way for a lock taken too late.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.schema import CreateColumn

from agentic_hpt.errors import LedgerError, StoreVersionError

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

SCHEMA_VERSION = 5
"""1: the first. 2: the table of notes. 3: the table of evidence. 4: a trial's `continues` and `source`; the tables of
earlier studies and of revisions. 5: an attempt's `epoch` and `message`; the table of drivers."""

metadata = MetaData()

meta = Table("hpt_meta", metadata, Column("key", String(50), primary_key=True), Column("value", Text, nullable=False))

studies = Table(
    "hpt_studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", String(16), nullable=False, unique=True),
    Column("name", String(120), nullable=False, unique=True),
    Column("folder", String(140), nullable=False),
    Column("status", String(20), nullable=False),
    Column("stopped_by", String(40)),
    Column("error", Text),
    Column("config", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("final", Text),
)

trials = Table(
    "hpt_trials",
    metadata,
    Column("study", ForeignKey("hpt_studies.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(20), nullable=False),
    Column("params", Text, nullable=False),
    Column("tuned", Text, nullable=False),
    Column("worker", String(100), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("round", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("metrics", Text),
    Column("failure", String(30)),
    Column("message", Text),
    Column("seconds", Float),
    Column("reserved", Float, nullable=False),
    Column("ended", Float),
    Column("continues", Integer),
    Column("source", Text),
)

attempts = Table(
    "hpt_attempts",
    metadata,
    Column("study", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("state", String(20), nullable=False),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("message", Text),
)
"""`state`: running, a trial's final state, or `lost`; then `message` says why, unless it was the driver that went.
`epoch`: of the driver that started it; see `drivers`."""

drivers = Table(
    "hpt_drivers",
    metadata,
    Column("study", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("written", Integer, nullable=False),
    Column("beat", Integer, nullable=False),
    Column("beaten", Float, nullable=False),
    Column("held", Integer, nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("born", Float, nullable=False),
)
"""Which process drives a study. `epoch` is the fencing token: it grows with every driver, and every write of one with a
smaller epoch is refused. `written` counts the driver's transactions, so that one whose answer was lost with the
connection is known to have gone through or not. `beat` grows while the driver lives, `beaten` is when (by the
database's clock); `host`, `pid` and `born` (when the process began) tell whether a driver on this machine is dead."""

reports = Table(
    "hpt_reports",
    metadata,
    Column("study", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("step", Integer, nullable=False),
    Column("metrics", Text, nullable=False),
)

decisions = Table(
    "hpt_decisions",
    metadata,
    Column("study", Integer, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("body", Text, nullable=False),
    Column("created", Float, nullable=False),
)

evidence = Table(
    "hpt_evidence",
    metadata,
    Column("study", Integer, primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)
"""What each decision rests on, packed: it is large, and seldom looked at."""

model_calls = Table(
    "hpt_model_calls",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", Integer, nullable=False, index=True),
    Column("round", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("dollars", Float, nullable=False),
    Column("body", Text, nullable=False),
    Column("created", Float, nullable=False),
)

earlier = Table(
    "hpt_earlier",
    metadata,
    Column("study", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)
"""The trials of earlier studies that a study learns from, packed: they are no trials of its own."""

revisions = Table(
    "hpt_revisions",
    metadata,
    Column("study", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("body", Text, nullable=False),
)
"""How a person changed a study's space."""

notes = Table(
    "hpt_notes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", Integer, nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)

outbox = Table(
    "hpt_outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", Integer, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("key", String(60), nullable=False),
    Column("round", Integer, nullable=False),
    Column("payload", Text, nullable=False),
    Column("claimed", Integer, nullable=False, default=0),
    Column("ref", String(500)),
    UniqueConstraint("study", "key"),
)
Index("hpt_outbox_unsent", outbox.c.study, outbox.c.ref, outbox.c.id)
"""`ref` is null until MLflow has the entry; then it is the run's id."""


def open_engine(url: str, *, create: bool) -> Engine:
    """Open a store, making its tables on first use if `create`. One of an older version is brought up to this one.

    Raises `StoreVersionError` for a store of a newer version, `LedgerError` for one that can't be read.
    """
    path = Path(url.removeprefix("sqlite:///"))
    if not create and not path.exists():
        raise LedgerError(f"there is no ledger at {path}", "check --home")
    engine = create_engine(
        url, poolclass=QueuePool if create else NullPool, connect_args={"timeout": 30, "check_same_thread": False}
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    try:
        with engine.begin() as connection:
            found = inspect(connection).has_table(meta.name)
            if not found and create:
                metadata.create_all(connection)
                connection.execute(insert(meta).values(key="schema_version", value=str(SCHEMA_VERSION)))
            elif not found:
                raise LedgerError(f"{path} holds no agentic-hpt ledger", "check --home")
            version = int(connection.execute(select(meta.c.value).where(meta.c.key == "schema_version")).scalar_one())
            if version < SCHEMA_VERSION:
                _migrate(connection, version)
                version = SCHEMA_VERSION
    except DatabaseError as error:
        engine.dispose()
        raise LedgerError(f"the ledger {path} can't be read: {error.orig}", "check the file and its folder") from None
    if version > SCHEMA_VERSION:
        engine.dispose()
        raise StoreVersionError(
            f"the ledger {path} has store version {version}; this agentic-hpt reads up to {SCHEMA_VERSION}",
            "upgrade agentic-hpt, or use another --home",
        )
    return engine


_TABLES_SINCE: tuple[tuple[int, Table], ...] = ((2, notes), (3, evidence), (4, earlier), (4, revisions), (5, drivers))
_COLUMNS_SINCE = ((4, trials.c.continues), (4, trials.c.source), (5, attempts.c.epoch), (5, attempts.c.message))


def _migrate(connection: Connection, version: int) -> None:
    """Bring a store of an older version up to this one, all or nothing."""
    for since, table in _TABLES_SINCE:
        if version < since:
            table.create(connection)
    for since, column in _COLUMNS_SINCE:
        if version < since:
            definition = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}")
    new = update(meta).where(meta.c.key == "schema_version").values(value=str(SCHEMA_VERSION))
    connection.execute(new)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Open a transaction whose database errors come out as `LedgerError`; nothing of it stays when it fails."""
    try:
        with engine.begin() as connection:
            yield connection
    except IntegrityError as error:
        raise LedgerError(f"the ledger refused a second entry: {error.orig}") from error
    except DatabaseError as error:
        raise LedgerError(
            f"the ledger can't be read or written: {error.orig}", "check the disk and other processes"
        ) from error


def _on_connect(connection: DBAPIConnection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _on_begin
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: object) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # type: ignore[attr-defined]
