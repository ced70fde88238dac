"""What persons change of a study beside its space: kept beside it, in order."""

from __future__ import annotations

import json

from sqlalchemy import Connection, insert, select, update

from agentic_hpt.ledger.schema import changes, studies
from agentic_hpt.records import Change, JsonObject


def changes_of(connection: Connection, study: int) -> list[Change]:
    """Give the changes of a study, in order."""
    query = select(changes.c.body).where(changes.c.study == study).order_by(changes.c.number)
    return [Change.from_json(json.loads(body)) for body in connection.execute(query).scalars()]


def add_change(connection: Connection, study: int, change: Change, config: JsonObject | None) -> int:
    """Keep a change, with the description that is in force from now on if it is another; give the change's number.

    A study that it reopens has not ended any more: its final figures are the change's from now on.
    """
    number = len(changes_of(connection, study)) + 1
    connection.execute(insert(changes).values(study=study, number=number, body=json.dumps(change.to_json())))
    values: dict[str, object] = {} if config is None else {"config": json.dumps(config)}
    if change.reopens:
        values |= {"status": "stopped", "stopped_by": None, "error": None, "final": None}
    if values:
        connection.execute(update(studies).where(studies.c.id == study).values(**values))
    return number
