"""A trial as rows, and back; and the statements that every trial needs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import fields

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from agentic_hpt.errors import FailureKind
from agentic_hpt.ledger.schema import attempts, reports, trials
from agentic_hpt.records import JsonObject, LostAttempt, Report, Trial, TrialState

Rows = Sequence[Row[tuple[object, ...]]]

_FIELDS = tuple(field.name for field in fields(Trial))

# Built once: building them anew costs more than SQLite does.
OPEN_ATTEMPTS = (
    update(attempts)
    .where(
        attempts.c.study == bindparam("of_study"),
        attempts.c.number == bindparam("of_number"),
        attempts.c.ended.is_(None),
    )
    .values(state="lost", ended=bindparam("now"))
)
END_ATTEMPT = (
    update(attempts)
    .where(
        attempts.c.study == bindparam("of_study"),
        attempts.c.number == bindparam("of_number"),
        attempts.c.attempt == bindparam("of_attempt"),
    )
    .values(state=bindparam("ended_as"), ended=bindparam("now"))
)
LOSE_ATTEMPT = END_ATTEMPT.values(message=bindparam("why"))
FORGET_REPORTS = delete(reports).where(
    reports.c.study == bindparam("of_study"),
    reports.c.number == bindparam("of_number"),
    reports.c.attempt == bindparam("of_attempt"),
)
SET_ATTEMPT = (
    update(trials)
    .where(trials.c.study == bindparam("of_study"), trials.c.number == bindparam("of_number"))
    .values(attempt=bindparam("to_attempt"))
)
FINISH = (
    update(trials)
    .where(
        trials.c.study == bindparam("of_study"),
        trials.c.number == bindparam("of_number"),
        trials.c.attempt == bindparam("of_attempt"),
        trials.c.state == str(TrialState.RUNNING),
    )
    .values({name: bindparam(f"new_{name}") for name in ("state", "metrics", "failure", "message", "seconds", "ended")})
)


def trial_row(study: int, trial: Trial, ended: float | None = None) -> dict[str, object]:
    """Give the row of a trial, which `ended` then if it has."""
    row: dict[str, object] = {
        "study": study,
        "number": trial.id,
        "state": str(trial.state),
        "params": json.dumps(dict(trial.params)),
        "tuned": json.dumps(list(trial.tuned)),
        "worker": trial.worker,
        "kind": trial.kind,
        "round": trial.round,
        "revision": trial.revision,
        "seed": trial.seed,
        "attempt": trial.attempt,
        "metrics": json.dumps(dict(trial.values)),
        "failure": str(trial.failure) if trial.failure else None,
        "message": trial.message,
        "seconds": trial.seconds,
        "ended": ended,
        "continues": trial.continues,
        "source": trial.source or None,
    }
    if ended is None:
        row["reserved"] = time.time()
    elif trial.kind == "imported":
        row["reserved"] = ended
    return row


def add_reports(connection: Connection, study: int, told: Sequence[Trial]) -> None:
    """Keep what trials' newest attempts reported."""
    rows = [
        {
            "study": study,
            "number": trial.id,
            "attempt": trial.attempt,
            "position": i,
            "step": report.step,
            "metrics": json.dumps(dict(report.metrics)),
        }
        for trial in told
        for i, report in enumerate(trial.reports)
    ]
    if rows:
        connection.execute(insert(reports), rows)


def told_trial(trial: Trial, ended: float) -> JsonObject:
    """Give what MLflow is told of a trial that ended then."""
    known: JsonObject = {name: getattr(trial, name) for name in _FIELDS}
    curve = [{"step": report.step, "metrics": dict(report.metrics)} for report in trial.reports]
    whole = {**known, "params": dict(trial.params), "values": dict(trial.values), "reports": curve}
    return {"trial": whole, "started": ended - (trial.seconds or 0.0), "ended": ended}


def stored_rows(connection: Connection, study: int) -> tuple[Rows, Rows]:
    """Read the rows of a study's trials and of their reports, in order."""
    found = select(trials).where(trials.c.study == study).order_by(trials.c.number)
    reported = select(reports).where(reports.c.study == study).order_by(reports.c.number, reports.c.position)
    return connection.execute(found).all(), connection.execute(reported).all()


def trials_of(found: Rows, reported: Rows) -> list[Trial]:
    """Give the trials as they were written, of the rows."""
    curves: dict[tuple[int, int], list[Report]] = {}
    for row in reported:
        curves.setdefault((row.number, row.attempt), []).append(Report(row.step, json.loads(row.metrics)))
    return [_trial(row, curves.get((row.number, row.attempt), ())) for row in found]


def lost_of(connection: Connection, study: int, number: int | None) -> list[LostAttempt]:
    """Give the attempts of a trial, or of all, that were lost with their workers."""
    query = select(attempts).where(attempts.c.study == study, attempts.c.message.is_not(None))
    if number is not None:
        query = query.where(attempts.c.number == number)
    rows = connection.execute(query.order_by(attempts.c.number, attempts.c.attempt))
    return [LostAttempt(row.number, row.attempt, row.message) for row in rows]


def _trial(row: Row[tuple[object, ...]], curve: Sequence[Report]) -> Trial:
    data = row._mapping
    return Trial(
        id=data["number"],
        params=json.loads(data["params"]),
        state=TrialState(data["state"]),
        seed=data["seed"],
        worker=data["worker"],
        kind=data["kind"],
        round=data["round"],
        tuned=tuple(json.loads(data["tuned"])),
        revision=data["revision"],
        attempt=data["attempt"],
        values=json.loads(data["metrics"] or "{}"),
        failure=FailureKind(data["failure"]) if data["failure"] else None,
        message=data["message"] or "",
        seconds=data["seconds"],
        reports=tuple(curve),
        continues=data["continues"],
        source=data["source"] or "",
    )
