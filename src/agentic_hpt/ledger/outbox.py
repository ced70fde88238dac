"""The outbox: what MLflow must still be told. Its reader is the process that writes to MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select, update

from agentic_hpt.errors import StudyNotFound
from agentic_hpt.ledger import schema
from agentic_hpt.ledger.database import Database
from agentic_hpt.ledger.opening import open_database
from agentic_hpt.ledger.study_log import evidence_of
from agentic_hpt.records import JsonObject, OutboxEntry


class LedgerOutbox:
    """One study's outbox, in the order in which its entries were made."""

    def __init__(self, database: Database, study: int) -> None:
        self._database = database
        self._study = study

    def pending(self, limit: int) -> list[OutboxEntry]:
        """Give the oldest entries not sent yet; a decision's payload holds its `evidence` too, if any was kept."""
        t = schema.outbox.c
        unsent = t.study == self._study, t.ref.is_(None)
        query = select(t.id, t.kind, t.key, t.round, t.payload, t.claimed).where(*unsent).order_by(t.id).limit(limit)

        def read(connection: Connection) -> list[OutboxEntry]:
            found: list[OutboxEntry] = []
            for row in connection.execute(query).all():
                payload: JsonObject = json.loads(row.payload)
                shown = evidence_of(connection, self._study, row.round) if row.kind == "decision" else None
                if shown is not None:
                    payload["evidence"] = shown
                found.append(OutboxEntry(row.id, row.kind, row.key, payload, bool(row.claimed)))
            return found

        return self._database.read(read)

    def claim(self, entries: Sequence[OutboxEntry]) -> None:
        """Note that these are about to be sent: after a crash they may have been."""
        claimed = update(schema.outbox).where(schema.outbox.c.id.in_([entry.id for entry in entries]))
        self._database.write(lambda connection: connection.execute(claimed.values(claimed=1)))

    def sent(self, refs: Mapping[int, str]) -> None:
        """Note that entries were sent: their ids, with the MLflow run's id for each."""

        def note(connection: Connection) -> None:
            for id_, ref in refs.items():
                connection.execute(update(schema.outbox).where(schema.outbox.c.id == id_).values(ref=ref[:500]))

        self._database.write(note)


def open_outbox(url: str, uid: str) -> LedgerOutbox:
    """Open the outbox of the study `uid`, also during an outage. Raises `LedgerError`, or `StudyNotFound`."""
    database = open_database(url, create=False, patient=True)
    query = select(schema.studies.c.id).where(schema.studies.c.uid == uid)
    study = database.read(lambda connection: connection.execute(query).scalar())
    if study is None:
        raise StudyNotFound(f"no study with the id {uid!r} in this ledger", "check --home")
    return LedgerOutbox(database, study)
