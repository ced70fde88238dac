"""Tables of the ledger. They are the same on SQLite and PostgreSQL."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
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
)

SCHEMA_VERSION = 5
"""1: the first. 2: the table of notes. 3: the table of evidence. 4: a trial's `continues` and `source`; the tables of
earlier studies and of revisions. 5: an attempt's `epoch` and `message`; the tables of drivers
and of changes."""

metadata = MetaData()

meta = Table("hpt_meta", metadata, Column("key", String(50), primary_key=True), Column("value", Text, nullable=False))
REPLAY = "replay/{}"
"""Under this key, with its id, `meta` holds which study a study repeats."""

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
    Column("worker", Text, nullable=False),
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
    Column("epoch", Integer, nullable=False, default=0),
    Column("written", Integer, nullable=False, default=0),
    Column("beat", Integer, nullable=False, default=0),
    Column("beaten", Float, nullable=False, default=0.0),
    Column("held", Integer, nullable=False, default=0),
    Column("host", String(255), nullable=False, default=""),
    Column("pid", Integer, nullable=False, default=0),
    Column("born", Float, nullable=False, default=0.0),
)
"""Which process drives a study; there is a row for each. `epoch` is the fencing token: it grows with every driver, and
every write of one with a smaller epoch is refused. `written` counts the driver's transactions, so that one whose answer
was lost with the connection is known to have gone through or not. `beat` grows while the driver lives, `beaten` is when
(by the database's clock); `host`, `pid` and `born` (when the process began) tell whether a driver on this machine is
dead."""

reports = Table(
    "hpt_reports",
    metadata,
    Column("study", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("step", BigInteger, nullable=False),
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

changes = Table(
    "hpt_changes",
    metadata,
    Column("study", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("body", Text, nullable=False),
)
"""What else a person changed: the description, the objective's code; and that a study which had ended goes on."""

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

TABLES_SINCE: tuple[tuple[int, Table], ...] = (
    (2, notes),
    (3, evidence),
    (4, earlier),
    (4, revisions),
    (5, drivers),
    (5, changes),
)
COLUMNS_SINCE = ((4, trials.c.continues), (4, trials.c.source), (5, attempts.c.epoch), (5, attempts.c.message))
"""What a store of an older version lacks, and since which version it is there."""
