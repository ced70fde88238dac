"""The attempts of one trial: a worker that is lost costs an attempt, not the trial."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby

from agentic_hpt.graph.context import Emit, StudyParts
from agentic_hpt.records import LostAttempt, Report, Trial

_PAUSE, _LONGEST_PAUSE = 0.25, 30.0
_CAUSE = 300


class Curve:
    """What a trial has reported, over all its attempts; steps that a stopped trial before it reported are not its own.

    An attempt that finds a checkpoint goes on where the last one was lost, one without begins anew: whatever lies
    before the first step that it reports stands, all from there on is its own.
    """

    def __init__(self, known: Sequence[Report], told_before: int) -> None:
        self.reports: list[Report] = list(known)
        self._told_before = told_before
        self._begins: int | None = None

    def begin(self) -> None:
        """Learn that another attempt begins."""
        self._begins = None

    def add(self, report: Report) -> bool:
        """Take a report in, and say whether it is the trial's own."""
        if report.step <= self._told_before:  # without a checkpoint an objective starts anew
            return False
        if self._begins is None:
            self._begins = report.step
            self.reports[:] = [known for known in self.reports if known.step < report.step]
        self.reports.append(report)
        return True

    def whole(self, last: Sequence[Report]) -> tuple[Report, ...]:
        """Give the curve of a trial whose last attempt, by its own account, reported `last`."""
        own = [report for report in last if report.step > self._told_before]
        if not own:
            return tuple(self.reports)
        begins = own[0].step if self._begins is None else self._begins
        return *(report for report in self.reports if report.step < begins), *own


async def known_curve(parts: StudyParts, trial: Trial) -> Curve:
    """Give the curve of a trial as its lost attempts left it."""
    told_before = _last_step(parts, trial)
    known = await parts.think(parts.ledger.lost_reports, trial.id) if trial.attempt > 1 else ()
    return Curve(known, told_before)


async def tried_again(parts: StudyParts, trial: Trial, curve: Curve, message: str, emit: Emit) -> Trial | None:
    """Close an attempt whose worker was lost, and begin the next one; `None` when there have been enough.

    The slot is held meanwhile. Where the time is over, nothing is begun either.
    """
    most = parts.config.failures.attempts
    reports = tuple(curve.reports)
    lost = await parts.think_through(parts.ledger.lose, trial.id, trial.attempt, message, reports=reports)
    left = parts.seconds_left() if trial.counted else None
    again = lost < most and (left is None or left > 0)
    emit(
        {
            "type": "trial_lost",
            "trial": trial.id,
            "worker": trial.worker,
            "round": trial.round,
            "attempt": trial.attempt,
            "lost": lost,
            "most": most,
            "again": again,
            "message": message,
        }
    )
    if not again:
        return None
    await asyncio.sleep(min(_LONGEST_PAUSE, _PAUSE * 2 ** (lost - 1)))  # what took the worker may take the next one
    curve.begin()
    return await parts.think_through(parts.ledger.start, trial.id)


async def told_of_all(parts: StudyParts, trial: Trial) -> str:
    """Say why each of a trial's attempts was lost."""
    lost = await parts.think(parts.ledger.lost_attempts, trial.id)
    return "; ".join(_told(cause, list(alike)) for cause, alike in groupby(lost, key=_cause))


def _cause(lost: LostAttempt) -> str:
    return " ".join(lost.message.split())[:_CAUSE]


def _told(cause: str, alike: Sequence[LostAttempt]) -> str:
    if len(alike) == 1:
        return f"attempt {alike[0].attempt} was lost: {cause}"
    return f"attempts {', '.join(str(lost.attempt) for lost in alike)} were lost: {cause}"


def _last_step(parts: StudyParts, trial: Trial) -> int:
    """Give the last step that the trials which this one goes on from have reported; -1 where there is none."""
    last = -1
    while trial.continues is not None:
        trial = parts.ledger.trial(trial.continues)
        last = max([last, *(report.step for report in trial.reports)])
    return last
