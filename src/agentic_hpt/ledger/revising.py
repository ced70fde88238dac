"""Revisions of a study's space: kept beside the study, whose trials stay as they were written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, insert, select

from agentic_hpt.ledger.schema import revisions
from agentic_hpt.records import Trial
from agentic_hpt.refitting import Revision, refit


def revisions_of(connection: Connection, study: int) -> list[Revision]:
    """Give the revisions of a study's space, in order."""
    query = select(revisions.c.body).where(revisions.c.study == study).order_by(revisions.c.number)
    return [Revision.from_json(json.loads(body)) for body in connection.execute(query).scalars()]


def add_revision(connection: Connection, study: int, number: int, revision: Revision) -> None:
    """Keep a revision."""
    connection.execute(insert(revisions).values(study=study, number=number, body=json.dumps(revision.to_json())))


def as_now(trial: Trial, made: Sequence[Revision]) -> Trial | None:
    """Give a trial in terms of the space as it was last revised; `None` when it is no configuration of it."""
    since = [revision for revision in made if trial.id < revision.trials]
    if not since:
        return trial
    spaces = since[0].before, *(revision.after for revision in since)
    params = refit(trial.params, *spaces)
    if params is None:
        return None
    return replace(trial, params=params, tuned=tuple(name for name in trial.tuned if name in spaces[-1]))
