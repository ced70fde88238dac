"""The store of all studies in one home: create, find, list and archive them."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Row, delete, insert, select, update

from agentic_hpt.errors import StudyExists, StudyNotFound
from agentic_hpt.ledger import schema
from agentic_hpt.ledger.schema import transaction
from agentic_hpt.ledger.study_ledger import StudyLedger
from agentic_hpt.ledger.study_log import StudyLog
from agentic_hpt.records import Budget, DecisionRecord, JsonObject

_REPLAY = "replay/{}"
"""Under this key, with its id, the store keeps which study a study repeats."""

StudyStatus = Literal["running", "stopped", "finalized", "failed"]


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study as the store knows it. `status` is `running` also after its driver was killed: the lock tells."""

    id: int
    uid: str
    name: str
    folder: str
    """Name of the study's folder among the artifacts; stays when the study is archived."""
    status: StudyStatus
    stopped_by: str | None
    error: str | None
    config: JsonObject
    seconds: float
    final: JsonObject | None

    @property
    def first_name(self) -> str:
        """The name the study was made with, and the one that MLflow knows; `name` changes when it is archived."""
        return self.folder.removesuffix(f"-{self.uid}")


class LedgerStore:
    """One relational store. Raises `LedgerError` when it can't be opened."""

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._engine = schema.open_engine(url, create=create)

    def create_study(self, name: str, config: JsonObject, *, replays: str | None = None) -> StudyRow:
        """Add a study, one that `replays` another's decisions maybe. Raises `StudyExists` when its name is taken."""
        uid = uuid.uuid4().hex[:12]
        values = {
            "uid": uid,
            "name": name,
            "folder": f"{name}-{uid}",
            "status": "running",
            "config": json.dumps(config),
            "created": time.time(),
        }
        with transaction(self._engine) as connection:
            taken = select(schema.studies.c.id).where(schema.studies.c.name == name)
            if connection.execute(taken).first() is not None:
                raise StudyExists(
                    f"a study named {name!r} is in this home already",
                    f"go on with it by `hpt resume {name}`, or archive it and start anew with --fresh",
                )
            connection.execute(insert(schema.studies).values(**values))
            if replays is not None:
                connection.execute(insert(schema.meta).values(key=_REPLAY.format(uid), value=replays))
        return self.find(name)

    def find(self, name: str) -> StudyRow:
        """Give a study by name. Raises `StudyNotFound`."""
        with transaction(self._engine) as connection:
            row = connection.execute(select(schema.studies).where(schema.studies.c.name == name)).first()
            if row is None:
                known = connection.execute(select(schema.studies.c.name).order_by(schema.studies.c.id)).scalars().all()
                listed = ", ".join(known[-8:]) if known else "none yet"
                raise StudyNotFound(f"no study named {name!r} in this home", f"studies here: {listed}")
        return _row(row)

    def list_studies(self) -> list[StudyRow]:
        """Give all studies, oldest first."""
        with transaction(self._engine) as connection:
            return [_row(row) for row in connection.execute(select(schema.studies).order_by(schema.studies.c.id))]

    def archive(self, name: str) -> str:
        """Free a study's name by giving the study another, which is returned. Raises `StudyNotFound`."""
        row = self.find(name)
        taken = {study.name for study in self.list_studies()}
        number = 1
        while (archived := f"{name[:80]}-archived-{number}") in taken:
            number += 1
        with transaction(self._engine) as connection:
            connection.execute(update(schema.studies).where(schema.studies.c.id == row.id).values(name=archived))
        return archived

    def set_status(
        self, uid: str, status: StudyStatus, stopped_by: str | None = None, error: str | None = None
    ) -> None:
        """Note how a study stands."""
        with transaction(self._engine) as connection:
            connection.execute(
                update(schema.studies)
                .where(schema.studies.c.uid == uid)
                .values(status=status, stopped_by=stopped_by, error=error)
            )

    def open_study(self, row: StudyRow, *, budget: Budget, seed: int) -> StudyLedger:
        """Open one study's records."""
        return StudyLedger(self._engine, row.id, row.uid, budget=budget, seed=seed)

    def replayed_by(self, uid: str) -> str | None:
        """Give the id of the study whose decisions the study `uid` repeats, if it repeats any."""
        with transaction(self._engine) as connection:
            query = select(schema.meta.c.value).where(schema.meta.c.key == _REPLAY.format(uid))
            return connection.execute(query).scalar()

    def decisions_of(self, uid: str) -> list[DecisionRecord]:
        """Give the decisions of a study. Raises `StudyNotFound`."""
        return StudyLog(self._engine, self.by_uid(uid).id).decisions()

    def discard(self, uid: str) -> None:
        """Remove a study that never came to anything, with all its rows."""
        row = self.by_uid(uid)
        with transaction(self._engine) as connection:
            for table in reversed(schema.metadata.sorted_tables):
                if "study" in table.c:
                    connection.execute(delete(table).where(table.c.study == row.id))
            connection.execute(delete(schema.studies).where(schema.studies.c.id == row.id))
            connection.execute(delete(schema.meta).where(schema.meta.c.key == _REPLAY.format(uid)))

    def by_uid(self, uid: str) -> StudyRow:
        """Give a study by its unique id. Raises `StudyNotFound`."""
        for row in self.list_studies():
            if row.uid == uid:
                return row
        raise StudyNotFound(f"no study with the id {uid!r} in this home", "check --home")

    def close(self) -> None:
        """Free the connections."""
        self._engine.dispose()


def _row(row: Row[tuple[object, ...]]) -> StudyRow:
    data = row._mapping
    return StudyRow(
        id=data["id"],
        uid=data["uid"],
        name=data["name"],
        folder=data["folder"],
        status=data["status"],
        stopped_by=data["stopped_by"],
        error=data["error"],
        config=json.loads(data["config"]),
        seconds=data["seconds"],
        final=json.loads(data["final"]) if data["final"] else None,
    )
