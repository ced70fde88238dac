"""One study's trials: reserved, then run, then told, each step a transaction.

The rows are the truth; a copy of the trials is kept in memory, since one driver writes a study (a lock sees to that),
and a strategy looks at all trials for every proposal.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from sqlalchemy import Connection, func, insert, select, update

from agentic_hpt.errors import FailureKind, LedgerError
from agentic_hpt.ledger.database import Database, Fence
from agentic_hpt.ledger.revising import add_revision, as_now, revisions_of
from agentic_hpt.ledger.schema import attempts, outbox, reports, studies, trials
from agentic_hpt.ledger.study_log import StudyLog, storable
from agentic_hpt.ledger.trial_rows import (
    END_ATTEMPT,
    FINISH,
    FORGET_REPORTS,
    LOSE_ATTEMPT,
    OPEN_ATTEMPTS,
    SET_ATTEMPT,
    Rows,
    add_reports,
    lost_of,
    stored_rows,
    told_trial,
    trial_row,
    trials_of,
)
from agentic_hpt.records import (
    Budget,
    Change,
    FinalReport,
    JsonObject,
    LostAttempt,
    Outcome,
    Params,
    Report,
    Trial,
    TrialState,
    Usage,
    Wanted,
    WorkerKind,
)
from agentic_hpt.refitting import Revision

_OF_THE_END: frozenset[WorkerKind] = frozenset({"fresh_seed", "holdout"})
"""Kinds of trials that no search may see: it would learn from the data that are set aside."""
_WORTH_A_SYNC = 1.0
"""Seconds from which on a trial's end is seen to be on the disk, which takes milliseconds."""


def trial_seed(study_seed: int, number: int) -> int:
    """Give a trial's own seed in [0, 2**31), the same whenever it is asked for."""
    digest = hashlib.sha256(f"{study_seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class StudyLedger(StudyLog):
    """Records of one study; see `protocols.Ledger`. Blocking, for one thread."""

    def __init__(
        self,
        database: Database,
        study: int,
        uid: str,
        *,
        budget: Budget,
        seed: int,
        fence: Fence | None = None,
        told: bool = True,
    ) -> None:
        """Without `told`, MLflow is told of the search's trials only at the study's end, of those named there."""
        super().__init__(database, study, fence)
        self._told = told
        self.uid = uid
        self._budget = budget
        self._seed = seed
        self._trials: dict[int, Trial] = {}
        self._assigned: dict[tuple[int, WorkerKind, str], list[int]] = {}
        self._counted = 0
        self._outside: set[int] = set()
        self._shown: list[Trial] = []
        self._places: dict[int, int] = {}
        self.revisions, self._seconds, rows = self._read(self._stored)
        """`revisions` are how the space was changed since the study began."""
        for trial in trials_of(*rows):
            now = as_now(trial, self.revisions)
            if now is None and trial.kind not in _OF_THE_END:
                self._outside.add(trial.id)
            self._keep(trial if now is None else now)

    def _stored(self, connection: Connection) -> tuple[list[Revision], float, tuple[Rows, Rows]]:
        """Read the revisions of the space, the running time, and the trials, whose many rows mean nothing yet."""
        seconds: float = connection.execute(select(studies.c.seconds).where(studies.c.id == self._study)).scalar_one()
        return revisions_of(connection, self._study), seconds, stored_rows(connection, self._study)

    # -- trials ---------------------------------------------------------------------------------------------------

    def trials(self) -> Sequence[Trial]:
        """Give the study's trials in order of their ids, imported ones included, final ones not.

        Since a revision of the space they are in terms of the new one; those that it does not hold are not among them.
        """
        return self._shown.copy()

    @property
    def begins(self) -> int:
        """The round behind which the search goes on in the space as it was last revised; 0 when it never was."""
        return self.revisions[-1].round if self.revisions else 0

    @property
    def count(self) -> int:
        """How many trials there are, imported, final and outside ones too."""
        return len(self._trials)

    def outside(self) -> list[Trial]:
        """Give the trials that the space does not hold any more, as they were; final ones not."""
        return [self._trials[number] for number in sorted(self._outside)]

    def tried(self) -> list[Trial]:
        """Give `trials` and those `outside`, in order of their ids."""
        return sorted((*self._shown, *self.outside()), key=lambda trial: trial.id)

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
        wanted = Wanted(params, tuple(tuned), seed, continues)
        found = self._reserve([wanted], round_=round_, worker=worker, kind=kind, revision=revision, begin=begin)
        return found[0] if found else None

    def reserve_many(
        self, wanted: Sequence[Wanted], *, round_: int, worker: str, kind: WorkerKind, revision: int = 0
    ) -> list[Trial]:
        """Reserve trials and open their first attempts in one transaction; as many as the trial budget has left."""
        return self._reserve(wanted, round_=round_, worker=worker, kind=kind, revision=revision, begin=True)

    def _reserve(
        self, wanted: Sequence[Wanted], *, round_: int, worker: str, kind: WorkerKind, revision: int, begin: bool
    ) -> list[Trial]:
        found: list[Trial] = []
        for number, wish in enumerate(wanted, start=len(self._trials)):
            trial = Trial(
                id=number,
                params=dict(wish.params),
                state=TrialState.RUNNING,
                seed=trial_seed(self._seed, number) if wish.seed is None else wish.seed,
                worker=worker,
                kind=kind,
                round=round_,
                tuned=wish.tuned,
                revision=revision,
                attempt=1 if begin else 0,
                continues=wish.continues,
            )
            most = self._budget.trials
            if trial.counted and most is not None and self._counted + len(found) >= most:
                break
            found.append(trial)
        if not found:
            return found
        rows = [trial_row(self._study, trial) for trial in found]
        begun = [self._attempt(trial) for trial in found] if begin else []

        def write(connection: Connection) -> None:
            connection.execute(insert(trials), rows)
            if begun:
                connection.execute(insert(attempts), begun)

        self._write(write)
        for trial in found:
            self._keep(trial)
        return found

    def start(self, number: int) -> Trial:
        """Open a new attempt of a reserved trial and give the trial with its attempt number."""
        held = self.trial(number)
        if held.finished:
            raise LedgerError(f"trial {number} is {held.state} already; it can't be started again")
        trial = replace(held, attempt=held.attempt + 1)
        now = time.time()
        at = {"of_study": self._study, "of_number": number}

        def write(connection: Connection) -> None:
            if held.attempt:
                connection.execute(OPEN_ATTEMPTS, {**at, "now": now})
            connection.execute(insert(attempts), self._attempt(trial))
            connection.execute(SET_ATTEMPT, {**at, "to_attempt": trial.attempt})

        self._write(write)
        self._keep(trial)
        return trial

    def lose(self, number: int, attempt: int, message: str, *, reports: tuple[Report, ...] = ()) -> int:
        """Close an attempt whose worker was lost, and why; the trial stays open for another one.

        `reports` are the trial's so far. Gives how many of its attempts were lost so. Raises `LedgerError` like
        `finish`.
        """
        held = self._check_open(number, attempt)
        at = {"of_study": self._study, "of_number": number, "of_attempt": attempt}
        lost = (
            select(func.count())
            .select_from(attempts)
            .where(attempts.c.study == self._study, attempts.c.number == number, attempts.c.message.is_not(None))
        )
        end = {**at, "ended_as": "lost", "now": time.time(), "why": storable(message)}

        def write(connection: Connection) -> int:
            connection.execute(LOSE_ATTEMPT, end)
            add_reports(connection, self._study, [replace(held, reports=reports)])
            return connection.execute(lost).scalar_one()

        return self._write(write)

    def lost_attempts(self, number: int | None = None) -> list[LostAttempt]:
        """Give the attempts of a trial, or of all, that were lost with their workers."""
        return self._read(lambda connection: lost_of(connection, self._study, number))

    def lost_reports(self, number: int) -> tuple[Report, ...]:
        """Give what an open trial had reported when its worker was last lost."""
        last = max((lost.attempt for lost in self.lost_attempts(number)), default=0)
        here = reports.c.study == self._study, reports.c.number == number, reports.c.attempt == last
        query = select(reports).where(*here).order_by(reports.c.position)
        rows = self._read(lambda connection: connection.execute(query).all())
        return tuple(Report(row.step, json.loads(row.metrics)) for row in rows)

    def finish(self, number: int, attempt: int, outcome: Outcome) -> Trial:
        """Close a trial with its reports and its outbox entry in one transaction.

        Raises `LedgerError` when the trial is finished already or `attempt` is not its newest.
        """
        return self.finish_many([(number, attempt, outcome)])[0]

    def finish_many(self, ends: Sequence[tuple[int, int, Outcome]]) -> list[Trial]:
        """Close trials (number, attempt, outcome) as `finish` does, in one transaction: all of them or none."""
        now = time.time()
        told = [self._ended(*end) for end in ends]
        rows = [trial_row(self._study, trial, ended=now) for trial in told]
        at = [{"of_study": self._study, "of_number": t.id, "of_attempt": t.attempt} for t in told]
        new = [
            {f"new_{k}": row[k] for k in ("state", "metrics", "failure", "message", "seconds", "ended")} for row in rows
        ]
        lost = [place for place, t in zip(at, told, strict=True) if t.failure is FailureKind.LOST_WORKER]
        entries = [self._of_trial(trial, now) for trial in told if self._told or not trial.counted]

        def write(connection: Connection) -> None:
            for trial, place, values in zip(told, at, new, strict=True):
                if connection.execute(FINISH, {**place, **values}).rowcount != 1:
                    raise LedgerError(f"trial {trial.id} was changed by another process; the answer is refused")
            connection.execute(
                END_ATTEMPT, [{**p, "ended_as": str(t.state), "now": now} for p, t in zip(at, told, strict=True)]
            )
            if lost:  # these attempts were lost before, with their reports
                connection.execute(FORGET_REPORTS, lost)
            add_reports(connection, self._study, told)
            if entries:
                connection.execute(insert(outbox), entries)

        self._write(write)
        if any((trial.seconds or 0.0) >= _WORTH_A_SYNC for trial in told):
            self._database.sync()
        for trial in told:
            self._keep(trial)
        return told

    def _ended(self, number: int, attempt: int, outcome: Outcome) -> Trial:
        """Give an open trial as it is with its outcome."""
        return replace(
            self._check_open(number, attempt),
            state=outcome.state,
            values=dict(outcome.values) if outcome.state is TrialState.COMPLETE else {},
            failure=outcome.failure,
            message=storable(outcome.message),
            seconds=outcome.seconds,
            reports=outcome.reports,
        )

    def record_final(self, report: FinalReport, payload: JsonObject, best: Sequence[Trial] = ()) -> None:
        """Keep the final figures and put `payload` into the outbox; before it `best`, unless MLflow knows them."""
        self._record_final(report, payload, lambda connection: self._post_trials(connection, best))

    def import_trials(self, found: Iterable[Trial]) -> int:
        """Add finished trials of another study as history; they count for no budget. Gives how many were added."""
        now = time.time()
        imported = [
            replace(
                source,
                id=number,
                kind="imported",
                worker="imported",
                round=0,
                attempt=1,
                message=storable(source.message),
                source=storable(source.source),
            )
            for number, source in enumerate(found, start=len(self._trials))
        ]

        def write(connection: Connection) -> None:
            if imported:
                connection.execute(insert(trials), [trial_row(self._study, trial, ended=now) for trial in imported])
                add_reports(connection, self._study, imported)
                if self._told:
                    connection.execute(insert(outbox), [self._of_trial(trial, now) for trial in imported])

        self._write(write)
        for trial in imported:
            self._keep(trial)
        return len(imported)

    def revise(self, revision: Revision, config: JsonObject, change: Change | None = None) -> None:
        """Change the study's description and keep how its space was revised; trials that had not ended are given up.

        A `change` is what else was changed with it. The ledger must be opened anew afterwards. Raises `LedgerError`.
        """
        self.give_up("the space was revised before the trial ended")
        number = len(self.revisions) + 1
        changed = update(studies).where(studies.c.id == self._study).values(config=json.dumps(config))

        def write(connection: Connection) -> None:
            add_revision(connection, self._study, number, revision)
            connection.execute(changed)
            self._post(connection, "revision", f"revision/{number}", revision.round, revision.to_json())
            if change is not None:
                self._change(connection, change, config)

        self._write(write)

    def give_up(self, why: str, of: Callable[[Trial], bool] = lambda trial: True) -> None:
        """Close the trials that have not ended, or those `of` them."""
        cancelled = Outcome.failed(FailureKind.CANCELLED, why)
        for trial in [t for t in self._trials.values() if not t.finished and of(t)]:
            self.finish(trial.id, self.start(trial.id).attempt, cancelled)

    # -- usage -----------------------------------------------------------------------------------------------------

    def usage(self) -> Usage:
        """Give what has been used of the budget."""
        return Usage(self._counted, self._seconds, self._calls, self._tokens, self._dollars)

    def add_seconds(self, seconds: float) -> None:
        """Add running time to what has been used."""
        total = self._seconds + seconds
        added = update(studies).where(studies.c.id == self._study).values(seconds=total)
        self._write(lambda connection: connection.execute(added))
        self._seconds = total

    # -- inside -----------------------------------------------------------------------------------------------------

    def _keep(self, trial: Trial) -> None:
        if trial.id not in self._trials:
            self._assigned.setdefault((trial.round, trial.kind, trial.worker), []).append(trial.id)
            self._counted += trial.counted
        self._trials[trial.id] = trial
        place = self._places.get(trial.id)
        if place is not None:
            self._shown[place] = trial
        elif trial.kind not in _OF_THE_END and trial.id not in self._outside:
            self._places[trial.id] = len(self._shown)
            self._shown.append(trial)

    def _post_trials(self, connection: Connection, found: Sequence[Trial]) -> None:
        """Tell MLflow of trials that it was not told of as they ended."""
        query = select(trials.c.number, trials.c.ended).where(trials.c.study == self._study)
        ends = {row.number: row.ended for row in connection.execute(query)}
        for trial in found:
            entry = self._of_trial(trial, ends[trial.id])
            if not self._is_posted(connection, str(entry["key"])):
                connection.execute(insert(outbox), entry)

    def _of_trial(self, trial: Trial, ended: float) -> dict[str, object]:
        return self._entry("trial", f"trial/{trial.id}/{trial.attempt}", trial.round, told_trial(trial, ended))

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
        epoch = self._fence.epoch if self._fence is not None else 0
        return {**key, "started": time.time(), "state": "running", "epoch": epoch}


__all__ = ["StudyLedger", "trial_seed"]
