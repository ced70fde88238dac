"""One study's trials: reserved, then run, then told, each step a transaction.

The rows are the truth; a copy of the trials is kept in memory, since one driver writes a study (a lock sees to that),
and a strategy looks at all trials for every proposal.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from sqlalchemy import Connection, Engine, Row, bindparam, func, insert, select, update

from agentic_hpt.errors import FailureKind, LedgerError
from agentic_hpt.ledger.revising import add_revision, as_now, revisions_of
from agentic_hpt.ledger.schema import attempts, reports, studies, transaction, trials
from agentic_hpt.ledger.study_log import StudyLog
from agentic_hpt.records import Budget, JsonObject, Outcome, Params, Report, Trial, TrialState, Usage, WorkerKind
from agentic_hpt.refitting import Revision

# The statements that every trial needs, built once: building them anew costs more than SQLite does.
_OPEN_ATTEMPTS = (
    update(attempts)
    .where(
        attempts.c.study == bindparam("of_study"),
        attempts.c.number == bindparam("of_number"),
        attempts.c.ended.is_(None),
    )
    .values(state="lost", ended=bindparam("now"))
)
_END_ATTEMPT = (
    update(attempts)
    .where(
        attempts.c.study == bindparam("of_study"),
        attempts.c.number == bindparam("of_number"),
        attempts.c.attempt == bindparam("of_attempt"),
    )
    .values(state=bindparam("ended_as"), ended=bindparam("now"))
)
_LOSE_ATTEMPT = _END_ATTEMPT.values(message=bindparam("why"))
_SET_ATTEMPT = (
    update(trials)
    .where(trials.c.study == bindparam("of_study"), trials.c.number == bindparam("of_number"))
    .values(attempt=bindparam("to_attempt"))
)
_FINISH = (
    update(trials)
    .where(
        trials.c.study == bindparam("of_study"),
        trials.c.number == bindparam("of_number"),
        trials.c.attempt == bindparam("of_attempt"),
        trials.c.state == str(TrialState.RUNNING),
    )
    .values({name: bindparam(f"new_{name}") for name in ("state", "metrics", "failure", "message", "seconds", "ended")})
)


def trial_seed(study_seed: int, number: int) -> int:
    """Give a trial's own seed in [0, 2**31), the same whenever it is asked for."""
    digest = hashlib.sha256(f"{study_seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class StudyLedger(StudyLog):
    """Records of one study; see `protocols.Ledger`. Blocking, for one thread."""

    def __init__(self, engine: Engine, study: int, uid: str, *, budget: Budget, seed: int) -> None:
        super().__init__(engine, study)
        self.uid = uid
        self._budget = budget
        self._seed = seed
        self._trials: dict[int, Trial] = {}
        self._assigned: dict[tuple[int, WorkerKind, str], list[int]] = {}
        self._counted = 0
        self._outside: set[int] = set()
        with transaction(engine) as connection:
            self.revisions = revisions_of(connection, study)
            """How the space was changed since the study began."""
            curves: dict[tuple[int, int], list[Report]] = {}
            rows = connection.execute(
                select(reports).where(reports.c.study == study).order_by(reports.c.number, reports.c.position)
            )
            for row in rows:
                curve = curves.setdefault((row.number, row.attempt), [])
                curve.append(Report(row.step, json.loads(row.metrics)))
            for row in connection.execute(select(trials).where(trials.c.study == study).order_by(trials.c.number)):
                written = _trial(row, curves.get((row.number, row.attempt), ()))
                now = as_now(written, self.revisions)
                self._keep(written if now is None else now)
                if now is None:
                    self._outside.add(written.id)
            self._seconds: float = connection.execute(
                select(studies.c.seconds).where(studies.c.id == study)
            ).scalar_one()

    # -- trials ---------------------------------------------------------------------------------------------------

    def trials(self) -> Sequence[Trial]:
        """Give the study's trials in order of their ids, imported ones included, final ones not.

        Since a revision of the space they are in terms of the new one; those that it does not hold are not among them.
        """
        hidden = self._outside
        return [t for t in self._trials.values() if t.kind not in ("fresh_seed", "holdout") and t.id not in hidden]

    @property
    def begins(self) -> int:
        """The round behind which the search goes on in the space as it was last revised; 0 when it never was."""
        return self.revisions[-1].round if self.revisions else 0

    @property
    def count(self) -> int:
        """How many trials there are, imported, final and outside ones too."""
        return len(self._trials)

    def outside(self) -> list[Trial]:
        """Give the trials that the space does not hold any more, as they were."""
        return [self._trials[number] for number in sorted(self._outside)]

    def trial(self, number: int) -> Trial:
        """Give one trial. Raises `LedgerError` for an unknown number."""
        if number not in self._trials:
            raise LedgerError(f"there is no trial {number} in this study", f"it has {len(self._trials)} trials")
        return self._trials[number]

    def of_assignment(self, round_: int, kind: WorkerKind, worker: str) -> list[Trial]:
        """Give the trials reserved for one assignment, in order."""
        return [self._trials[n] for n in self._assigned.get((round_, kind, worker), ())]

    def reserve(
        self,
        *,
        round_: int,
        worker: str,
        kind: WorkerKind,
        params: Params,
        tuned: Sequence[str],
        seed: int | None = None,
        begin: bool = False,
        revision: int = 0,
        continues: int | None = None,
    ) -> Trial | None:
        """Reserve the next trial; `None` when the trial budget is used up (final trials are not counted).

        With `begin` its first attempt is opened in the same transaction.
        """
        number = len(self._trials)
        trial = Trial(
            id=number,
            params=dict(params),
            state=TrialState.RUNNING,
            seed=trial_seed(self._seed, number) if seed is None else seed,
            worker=worker,
            kind=kind,
            round=round_,
            tuned=tuple(tuned),
            revision=revision,
            attempt=1 if begin else 0,
            continues=continues,
        )
        if trial.counted and self._budget.trials is not None and self._counted >= self._budget.trials:
            return None
        with transaction(self._engine) as connection:
            connection.execute(insert(trials), self._row(trial))
            if begin:
                connection.execute(insert(attempts), self._attempt(trial))
        self._keep(trial)
        return trial

    def start(self, number: int) -> Trial:
        """Open a new attempt of a reserved trial and give the trial with its attempt number."""
        held = self.trial(number)
        if held.finished:
            raise LedgerError(f"trial {number} is {held.state} already; it can't be started again")
        trial = replace(held, attempt=held.attempt + 1)
        now = time.time()
        at = {"of_study": self._study, "of_number": number}
        with transaction(self._engine) as connection:
            if held.attempt:
                connection.execute(_OPEN_ATTEMPTS, {**at, "now": now})
            connection.execute(insert(attempts), self._attempt(trial))
            connection.execute(_SET_ATTEMPT, {**at, "to_attempt": trial.attempt})
        self._keep(trial)
        return trial

    def lose(self, number: int, attempt: int, message: str) -> int:
        """Close an attempt whose worker was lost, and why; the trial stays open for another one.

        Gives how many of the trial's attempts were lost so. Raises `LedgerError` like `finish`.
        """
        self._check_open(number, attempt)
        at = {"of_study": self._study, "of_number": number, "of_attempt": attempt}
        lost = (
            select(func.count())
            .select_from(attempts)
            .where(attempts.c.study == self._study, attempts.c.number == number, attempts.c.message.is_not(None))
        )
        with transaction(self._engine) as connection:
            connection.execute(_LOSE_ATTEMPT, {**at, "ended_as": "lost", "now": time.time(), "why": message})
            return connection.execute(lost).scalar_one()

    def finish(self, number: int, attempt: int, outcome: Outcome) -> Trial:
        """Close a trial with its reports and its outbox entry in one transaction.

        Raises `LedgerError` when the trial is finished already or `attempt` is not its newest.
        """
        held = self._check_open(number, attempt)
        trial = replace(
            held,
            state=outcome.state,
            values=dict(outcome.values) if outcome.state is TrialState.COMPLETE else {},
            failure=outcome.failure,
            message=outcome.message,
            seconds=outcome.seconds,
            reports=outcome.reports,
        )
        now = time.time()
        with transaction(self._engine) as connection:
            at = {"of_study": self._study, "of_number": number, "of_attempt": attempt}
            row = self._row(trial, ended=now)
            new = {f"new_{k}": row[k] for k in ("state", "metrics", "failure", "message", "seconds", "ended")}
            if connection.execute(_FINISH, {**at, **new}).rowcount != 1:
                raise LedgerError(f"trial {number} was changed by another process; the answer is refused")
            connection.execute(_END_ATTEMPT, {**at, "ended_as": str(trial.state), "now": now})
            self._add_reports(connection, trial)
            payload: JsonObject = {"trial": asdict(trial), "started": now - (outcome.seconds or 0.0), "ended": now}
            self._post(connection, "trial", f"trial/{number}/{attempt}", trial.round, payload)
        self._keep(trial)
        return trial

    def import_trials(self, found: Iterable[Trial]) -> int:
        """Add finished trials of another study as history; they count for no budget. Gives how many were added."""
        now = time.time()
        imported = [
            replace(source, id=number, kind="imported", worker="imported", round=0, attempt=1)
            for number, source in enumerate(found, start=len(self._trials))
        ]
        with transaction(self._engine) as connection:
            for trial in imported:
                connection.execute(insert(trials), self._row(trial, ended=now))
                self._add_reports(connection, trial)
                payload: JsonObject = {"trial": asdict(trial), "started": now - (trial.seconds or 0.0), "ended": now}
                self._post(connection, "trial", f"trial/{trial.id}/1", 0, payload)
        for trial in imported:
            self._keep(trial)
        return len(imported)

    def revise(self, revision: Revision, config: JsonObject) -> None:
        """Change the study's description and keep how its space was revised; trials that had not ended are given up.

        The ledger must be opened anew afterwards. Raises `LedgerError`.
        """
        cancelled = Outcome.failed(FailureKind.CANCELLED, "the space was revised before the trial ended")
        for trial in [t for t in self._trials.values() if not t.finished]:
            self.finish(trial.id, self.start(trial.id).attempt, cancelled)
        number = len(self.revisions) + 1
        with transaction(self._engine) as connection:
            add_revision(connection, self._study, number, revision)
            connection.execute(update(studies).where(studies.c.id == self._study).values(config=json.dumps(config)))
            self._post(connection, "revision", f"revision/{number}", revision.round, revision.to_json())

    # -- usage -----------------------------------------------------------------------------------------------------

    def usage(self) -> Usage:
        """Give what has been used of the budget."""
        return Usage(self._counted, self._seconds, self._calls, self._tokens, self._dollars)

    def add_seconds(self, seconds: float) -> None:
        """Add running time to what has been used."""
        total = self._seconds + seconds
        with transaction(self._engine) as connection:
            connection.execute(update(studies).where(studies.c.id == self._study).values(seconds=total))
        self._seconds = total

    # -- inside -----------------------------------------------------------------------------------------------------

    def _keep(self, trial: Trial) -> None:
        if trial.id not in self._trials:
            self._assigned.setdefault((trial.round, trial.kind, trial.worker), []).append(trial.id)
            self._counted += trial.counted
        self._trials[trial.id] = trial

    def _check_open(self, number: int, attempt: int) -> Trial:
        """Give the trial whose newest attempt this is. Raises `LedgerError` when it is finished, or at another one."""
        held = self.trial(number)
        if held.finished:
            raise LedgerError(f"trial {number} is {held.state} already; a second answer is refused")
        if held.attempt != attempt or attempt == 0:
            raise LedgerError(f"an answer for attempt {attempt} of trial {number} is refused: it is at {held.attempt}")
        return held

    def _attempt(self, trial: Trial) -> dict[str, object]:
        key = {"study": self._study, "number": trial.id, "attempt": trial.attempt}
        return {**key, "started": time.time(), "state": "running"}

    def _row(self, trial: Trial, ended: float | None = None) -> dict[str, object]:
        row: dict[str, object] = {
            "study": self._study,
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

    def _add_reports(self, connection: Connection, trial: Trial) -> None:
        if trial.reports:
            connection.execute(
                insert(reports),
                [
                    {
                        "study": self._study,
                        "number": trial.id,
                        "attempt": trial.attempt,
                        "position": i,
                        "step": report.step,
                        "metrics": json.dumps(dict(report.metrics)),
                    }
                    for i, report in enumerate(trial.reports)
                ],
            )


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


__all__ = ["StudyLedger", "trial_seed"]
