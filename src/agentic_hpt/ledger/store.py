"""The store of all studies in one home: create, find, list and archive them."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from agentic_hpt.errors import LedgerError, StudyBusy, StudyExists, StudyNotFound
from agentic_hpt.ledger import moving, schema
from agentic_hpt.ledger.holding import Hold, busy, is_driven, take
from agentic_hpt.ledger.opening import open_database
from agentic_hpt.ledger.study_ledger import StudyLedger
from agentic_hpt.ledger.study_log import StudyLog, storable
from agentic_hpt.records import Budget, DecisionRecord, JsonObject

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
    """One relational store. Raises `LedgerError` when it can't be opened, `ConfigError` when it can't be reached."""

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._database = open_database(url, create=create)

    @property
    def shared(self) -> bool:
        """Whether processes of other machines may use it."""
        return self._database.shared

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

        def create(connection: Connection) -> bool:
            named = select(schema.studies.c.uid).where(schema.studies.c.name == name)
            taken: str | None = connection.execute(named).scalar()
            if taken is not None:
                return taken == uid  # it is this one where the answer was lost, not the study
            made = connection.execute(insert(schema.studies).values(**values))
            connection.execute(insert(schema.drivers).values(study=made.inserted_primary_key[0]))  # type: ignore[index]
            if replays is not None:
                connection.execute(insert(schema.meta).values(key=schema.REPLAY.format(uid), value=replays))
            return True

        try:
            made_here = self._database.write(create)
        except LedgerError as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise
            made_here = False  # on PostgreSQL another process may make it between the look and the row
        if not made_here:
            raise StudyExists(
                f"a study named {name!r} is in this home already",
                f"go on with it by `hpt resume {name}` (`hpt resume FILE` takes a changed file over), or archive it "
                "and start anew with --fresh",
            )
        return self.find(name)

    def find(self, name: str) -> StudyRow:
        """Give a study by name. Raises `StudyNotFound`."""
        for row in (studies := self.list_studies()):
            if row.name == name:
                return row
        listed = ", ".join(row.name for row in studies[-8:]) or "none yet"
        raise StudyNotFound(f"no study named {name!r} in this home", f"studies here: {listed}")

    def list_studies(self) -> list[StudyRow]:
        """Give all studies, oldest first."""
        query = select(schema.studies).order_by(schema.studies.c.id)
        return [_row(row) for row in self._database.read(lambda connection: connection.execute(query).all())]

    def archive(self, name: str) -> str:
        """Free a study's name by giving the study another, which is returned. Raises `StudyNotFound`."""
        row = self.find(name)
        taken = {study.name for study in self.list_studies()}
        number = 1
        while (archived := f"{name[:80]}-archived-{number}") in taken:
            number += 1
        renamed = update(schema.studies).where(schema.studies.c.id == row.id).values(name=archived)
        self._database.write(lambda connection: connection.execute(renamed))
        return archived

    def set_status(
        self,
        uid: str,
        status: StudyStatus,
        stopped_by: str | None = None,
        error: str | None = None,
        *,
        hold: Hold | None = None,
    ) -> None:
        """Note how a study stands. Of a driver that has a `hold`, nothing is noted once another took the study over."""
        noted = (
            update(schema.studies)
            .where(schema.studies.c.uid == uid)
            .values(status=status, stopped_by=stopped_by, error=None if error is None else storable(error))
        )
        self._database.write(lambda connection: connection.execute(noted), hold.fence if hold else None)

    def open_study(
        self, row: StudyRow, *, budget: Budget, seed: int, hold: Hold | None = None, told: bool = True
    ) -> StudyLedger:
        """Open one study's records; whoever drives it has its `hold`. With `told`, MLflow is told of each trial."""
        fence = hold.fence if hold else None
        return StudyLedger(self._database, row.id, row.uid, budget=budget, seed=seed, fence=fence, told=told)

    def hold(self, uid: str, lease: float | None) -> Hold:
        """Take hold of a study, to drive it. Raises `StudyBusy` when another process does.

        A driver that is dead, or has not stirred for `lease` seconds, is replaced. Without a lease nobody is waited
        for: the caller keeps other processes out by himself.
        """
        row = self.by_uid(uid)
        return take(self._database, row.id, row.name, lease)

    def busy(self, uid: str) -> StudyBusy:
        """Say that another process drives the study `uid`, and which one, as far as it is known."""
        row = self.by_uid(uid)
        return busy(self._database, row.id, row.name)

    def is_driven(self, uid: str, lease: float) -> bool:
        """Say whether a process drives a study, as far as a look can tell; `lease` as it has it."""
        return is_driven(self._database, self.by_uid(uid).id, lease)

    def replayed_by(self, uid: str) -> str | None:
        """Give the id of the study whose decisions the study `uid` repeats, if it repeats any."""
        query = select(schema.meta.c.value).where(schema.meta.c.key == schema.REPLAY.format(uid))
        return self._database.read(lambda connection: connection.execute(query).scalar())

    def decisions_of(self, uid: str) -> list[DecisionRecord]:
        """Give the decisions of a study. Raises `StudyNotFound`."""
        return StudyLog(self._database, self.by_uid(uid).id).decisions()

    def discard(self, uid: str, *, hold: Hold | None = None) -> None:
        """Remove a study that never came to anything, with all its rows; not one that another took from the `hold`."""
        row = self.by_uid(uid)

        def discard(connection: Connection) -> None:
            for table in reversed(schema.metadata.sorted_tables):
                if "study" in table.c:
                    connection.execute(delete(table).where(table.c.study == row.id))
            connection.execute(delete(schema.studies).where(schema.studies.c.id == row.id))
            connection.execute(delete(schema.meta).where(schema.meta.c.key == schema.REPLAY.format(uid)))

        self._database.write(discard, hold.fence if hold else None)

    def copy_study(self, uid: str, into: LedgerStore, *, tell_again: bool) -> None:
        """Copy a study that nobody drives into another store; see `moving.copy_study`."""
        moving.copy_study(self._database, into._database, uid, tell_again=tell_again)

    def by_uid(self, uid: str) -> StudyRow:
        """Give a study by its unique id. Raises `StudyNotFound`."""
        for row in self.list_studies():
            if row.uid == uid:
                return row
        raise StudyNotFound(f"no study with the id {uid!r} in this home", "check --home")

    def close(self) -> None:
        """Free the connections."""
        self._database.close()


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
