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
from agentic_hpt.ledger.schema import attempts, decisions, model_calls, outbox, reports, studies, transaction, trials
from agentic_hpt.records import (
    Budget,
    DecisionRecord,
    FinalReport,
    JsonObject,
    ModelCall,
    Outcome,
    Params,
    Report,
    Trial,
    TrialState,
    Usage,
    WorkerKind,
)

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


class StudyLedger:
    """Records of one study; see `protocols.Ledger`. Blocking, for one thread."""

    def __init__(self, engine: Engine, study: int, uid: str, *, budget: Budget, seed: int) -> None:
        self._engine = engine
        self._study = study
        self.uid = uid
        self._budget = budget
        self._seed = seed
        self._trials: dict[int, Trial] = {}
        self._assigned: dict[tuple[int, WorkerKind, str], list[int]] = {}
        self._counted = 0
        with transaction(engine) as connection:
            curves: dict[tuple[int, int], list[Report]] = {}
            rows = connection.execute(
                select(reports).where(reports.c.study == study).order_by(reports.c.number, reports.c.position)
            )
            for row in rows:
                curve = curves.setdefault((row.number, row.attempt), [])
                curve.append(Report(row.step, json.loads(row.metrics)))
            for row in connection.execute(select(trials).where(trials.c.study == study).order_by(trials.c.number)):
                self._keep(_trial(row, curves.get((row.number, row.attempt), ())))
            self._seconds: float = connection.execute(
                select(studies.c.seconds).where(studies.c.id == study)
            ).scalar_one()
            calls = connection.execute(
                select(
                    func.count(),
                    func.coalesce(func.sum(model_calls.c.tokens), 0),
                    func.coalesce(func.sum(model_calls.c.dollars), 0.0),
                ).where(model_calls.c.study == study)
            ).one()
            self._calls, self._tokens, self._dollars = int(calls[0]), int(calls[1]), float(calls[2])

    # -- trials ---------------------------------------------------------------------------------------------------

    def trials(self) -> Sequence[Trial]:
        """Give the study's trials in order of their ids, imported ones included, final ones not."""
        return [t for t in self._trials.values() if t.kind not in ("fresh_seed", "holdout")]

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
            attempt=1 if begin else 0,
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

    def finish(self, number: int, attempt: int, outcome: Outcome) -> Trial:
        """Close a trial with its reports and its outbox entry in one transaction.

        Raises `LedgerError` when the trial is finished already or `attempt` is not its newest.
        """
        held = self.trial(number)
        if held.finished:
            raise LedgerError(f"trial {number} is {held.state} already; a second answer is refused")
        if held.attempt != attempt or attempt == 0:
            raise LedgerError(f"an answer for attempt {attempt} of trial {number} is refused: it is at {held.attempt}")
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

    # -- usage, decisions, final ----------------------------------------------------------------------------------

    def usage(self) -> Usage:
        """Give what has been used of the budget."""
        return Usage(self._counted, self._seconds, self._calls, self._tokens, self._dollars)

    def add_seconds(self, seconds: float) -> None:
        """Add running time to what has been used."""
        total = self._seconds + seconds
        with transaction(self._engine) as connection:
            connection.execute(update(studies).where(studies.c.id == self._study).values(seconds=total))
        self._seconds = total

    def decision(self, round_: int) -> DecisionRecord | None:
        """Give the decision taken after a round, if there is one."""
        query = select(decisions.c.body).where(decisions.c.study == self._study, decisions.c.round == round_)
        with transaction(self._engine) as connection:
            body = connection.execute(query).scalar()
        return DecisionRecord.from_json(json.loads(body)) if body else None

    def decisions(self) -> list[DecisionRecord]:
        """Give all decisions, in order."""
        query = select(decisions.c.body).where(decisions.c.study == self._study).order_by(decisions.c.round)
        with transaction(self._engine) as connection:
            bodies = connection.execute(query).scalars().all()
        return [DecisionRecord.from_json(json.loads(body)) for body in bodies]

    def record_decision(self, decision: DecisionRecord) -> None:
        """Keep a decision; a second one for the same round is refused with `LedgerError`."""
        with transaction(self._engine) as connection:
            calls = [json.loads(body) for body in self._calls_of(connection, decision.round)]
            body = decision.to_json()
            connection.execute(
                insert(decisions).values(
                    study=self._study, round=decision.round, body=json.dumps(body), created=time.time()
                )
            )
            payload: JsonObject = {"decision": body, "calls": calls}
            self._post(connection, "decision", f"decision/{decision.round}", decision.round, payload)

    def record_call(self, call: ModelCall) -> None:
        """Keep a call of the model."""
        tokens = call.input_tokens + call.output_tokens
        with transaction(self._engine) as connection:
            connection.execute(
                insert(model_calls).values(
                    study=self._study,
                    round=call.round,
                    tokens=tokens,
                    dollars=call.dollars,
                    body=json.dumps(asdict(call)),
                    created=time.time(),
                )
            )
        self._calls, self._tokens, self._dollars = self._calls + 1, self._tokens + tokens, self._dollars + call.dollars

    def post_study(self, payload: JsonObject) -> None:
        """Put the study's description into the outbox, once."""
        with transaction(self._engine) as connection:
            there = select(outbox.c.id).where(outbox.c.study == self._study, outbox.c.key == "study")
            if connection.execute(there).scalar() is None:
                self._post(connection, "study", "study", 0, payload)

    def record_final(self, report: FinalReport, payload: JsonObject) -> None:
        """Keep the final figures and put `payload` into the outbox."""
        with transaction(self._engine) as connection:
            connection.execute(
                update(studies).where(studies.c.id == self._study).values(final=json.dumps(report.to_json()))
            )
            there = select(outbox.c.id).where(outbox.c.study == self._study, outbox.c.key == "final")
            if connection.execute(there).scalar() is None:
                self._post(connection, "final", "final", 0, payload)

    def final(self) -> FinalReport | None:
        """Give the final figures, once there are any."""
        with transaction(self._engine) as connection:
            body = connection.execute(select(studies.c.final).where(studies.c.id == self._study)).scalar()
        return FinalReport(**json.loads(body)) if body else None

    def run_id(self) -> str | None:
        """Give the id of the study's MLflow run, once it is known."""
        query = select(outbox.c.ref).where(outbox.c.study == self._study, outbox.c.key == "study")
        with transaction(self._engine) as connection:
            return connection.execute(query).scalar()

    def unsent(self, round_: int | None = None) -> int:
        """Count outbox entries that MLflow has not got yet, of one round or of all."""
        query = select(func.count()).where(outbox.c.study == self._study, outbox.c.ref.is_(None))
        if round_ is not None:
            query = query.where(outbox.c.round == round_)
        with transaction(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    # -- inside -----------------------------------------------------------------------------------------------------

    def _keep(self, trial: Trial) -> None:
        if trial.id not in self._trials:
            self._assigned.setdefault((trial.round, trial.kind, trial.worker), []).append(trial.id)
            self._counted += trial.counted
        self._trials[trial.id] = trial

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

    def _post(self, connection: Connection, kind: str, key: str, round_: int, payload: JsonObject) -> None:
        row = {"study": self._study, "kind": kind, "key": key, "round": round_, "payload": json.dumps(payload)}
        connection.execute(insert(outbox), {**row, "claimed": 0})

    def _calls_of(self, connection: Connection, round_: int) -> Sequence[str]:
        query = select(model_calls.c.body).where(model_calls.c.study == self._study, model_calls.c.round == round_)
        return connection.execute(query.order_by(model_calls.c.id)).scalars().all()


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
    )


__all__ = ["StudyLedger", "trial_seed"]
