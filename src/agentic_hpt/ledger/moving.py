"""Taking a study from one store to another, with all that is kept of it."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from agentic_hpt.errors import StudyExists, StudyNotFound
from agentic_hpt.ledger.database import Database
from agentic_hpt.ledger.schema import REPLAY, drivers, meta, metadata, outbox, studies
from agentic_hpt.ledger.study_log import storable

_Rows = list[dict[str, object]]


def copy_study(source: Database, target: Database, uid: str, *, tell_again: bool) -> None:
    """Copy the study `uid`, which nobody drives, unless it is there already; whole, or nothing of it.

    With `tell_again` MLflow gets everything anew: it is another store there. Raises `StudyExists` for a taken name.
    """
    study, rows = source.read(lambda connection: _read(connection, uid))
    repeats = select(meta).where(meta.c.key == REPLAY.format(uid))
    replayed = source.read(lambda connection: [dict(row) for row in connection.execute(repeats).mappings()])
    if tell_again:
        rows[outbox.name] = [{**row, "ref": None, "claimed": 0} for row in rows[outbox.name]]
    rows[drivers.name] = [{**row, "held": 0} for row in rows[drivers.name]]

    def write(connection: Connection) -> str | None:
        taken = select(studies.c.uid).where((studies.c.name == study["name"]) | (studies.c.uid == uid))
        found = connection.execute(taken).scalar()
        if found is None:
            made = connection.execute(insert(studies).values(**study)).inserted_primary_key
            for table in metadata.sorted_tables:
                if rows.get(table.name):
                    of = {"study": made[0]}  # type: ignore[index]
                    connection.execute(insert(table), [{**row, **of} for row in rows[table.name]])
            if replayed:
                connection.execute(insert(meta), replayed)
        return found

    if target.write(write) not in (None, uid):
        raise StudyExists(f"a study named {study['name']!r} is in {target.name} already", "archive that one first")


def _read(connection: Connection, uid: str) -> tuple[dict[str, object], dict[str, _Rows]]:
    found = connection.execute(select(studies).where(studies.c.uid == uid)).mappings().first()
    if found is None:
        raise StudyNotFound(f"no study with the id {uid!r} in this ledger", "check --home")
    rows: dict[str, _Rows] = {}
    for table in metadata.sorted_tables:
        if "study" in table.c:
            mine = select(table).where(table.c.study == found["id"]).order_by(*table.primary_key)
            rows[table.name] = [_fit(row) for row in connection.execute(mine).mappings()]
    return _fit(found), rows


def _fit(row: object) -> dict[str, object]:
    """Give a row as any database takes it; those that are numbered get other numbers there, in the same order."""
    held = dict(row)  # type: ignore[call-overload]
    return {k: storable(v) if isinstance(v, str) else v for k, v in held.items() if k != "id"}
