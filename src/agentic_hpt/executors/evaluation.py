"""Jobs that are evaluated together, and what the process that does it says of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from agentic_hpt.errors import FailureKind
from agentic_hpt.executors.child import read_outcome
from agentic_hpt.records import Job, JsonObject, Outcome, Report

__all__ = ["CANCELLED", "Evaluation", "Member"]

CANCELLED = Outcome.failed(FailureKind.CANCELLED, "the executor was closed while the trial ran")
_GRACE = 2.0
"""Seconds beyond its time limit in which a trial has to come to a report; else the process is killed."""


@dataclass(eq=False)
class Member:
    """One attempt of one trial, from its job to its outcome."""

    job: Job
    on_report: Callable[[Report], bool]
    ended: asyncio.Future[Outcome]
    reports: list[Report] = field(default_factory=list)
    """Of the newest try."""
    known: int = -1
    """The last step that was passed on from an earlier try: what is reported again up to there is no news."""
    seconds: float = 0.0
    dropped: bool = False
    """Whether `run` was cancelled."""
    overdue: bool = False
    """Whether it is beyond its time limit."""

    @property
    def under_way(self) -> bool:
        """Whether it has no outcome yet."""
        return not self.ended.done()

    def begin(self) -> None:
        """Begin a try, maybe after one that came to nothing."""
        self.known = max([self.known, *(report.step for report in self.reports)])
        self.reports = []

    def end(self, outcome: Outcome) -> None:
        """Take the outcome, the first one."""
        if self.under_way:
            self.ended.set_result(replace(outcome, reports=tuple(self.reports), seconds=self.seconds))

    def fail(self, error: Exception) -> None:
        """Have `run` raise an error of the driver's own."""
        if self.under_way:
            self.ended.set_exception(error)


class Evaluation:
    """What the process says of the jobs that it was handed last, and what is answered.

    `hear` is told all reports of a step before any member is asked about its own; `remark` what is for a person;
    `kill` ends the process.
    """

    def __init__(
        self,
        members: Sequence[Member],
        hear: Callable[[int, Report], None],
        remark: Callable[[str], None],
        kill: Callable[[], None],
    ) -> None:
        self.begun: list[Member] = []
        """The list under way, those that were told among them."""
        self.taken = False
        """Whether the process has taken the jobs: what ends it before has nothing to do with them."""
        self._members = {member.job.trial: member for member in members}
        self._hear = hear
        self._remark = remark
        self._kill = kill
        self._timers: list[asyncio.TimerHandle] = []
        self._sharing: set[Member] = set()
        """Those of the list that are under way; before one has begun, all that are."""
        self._share = 0.0
        """What one that was under way all the time since the list began, or was handed over, has had of it."""
        self._looked = time.monotonic()

    def __contains__(self, member: Member) -> bool:
        """Say whether it is one of those that were handed over."""
        return self._members.get(member.job.trial) is member

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for one of them."""
        return any(member.under_way and not member.dropped for member in self._members.values())

    def heard(self, message: Mapping[str, object]) -> JsonObject | None:
        """Take a message in, and give the answer to it."""
        self._look()
        if "taken" in message:
            self.taken = True
            self._sharing, self._share = {member for member in self._members.values() if member.under_way}, 0.0
            self._limit(list(self._members.values()), self._overdue_unbegun)
        elif "began" in message:
            self._began([self._members[trial] for trial in cast(list[int], message["began"])])
        elif "report" in message:
            step, told = cast(int, message["step"]), cast(list[tuple[int, dict[str, float]]], message["report"])
            return {"stop": self._reported({trial: Report(step, metrics) for trial, metrics in told})}
        elif "remark" in message:
            self._remark(cast(str, message["remark"]))
        elif "told" in message:
            self._end(self._members[cast(int, message["told"])], read_outcome(message, ()))
        return None

    def left(self) -> tuple[list[Member], list[Member]]:
        """Give those without an outcome: of the list under way, or of all where none was begun; and the others."""
        suspects = [member for member in self.begun or self._members.values() if member.under_way]
        others = set(self._members.values()).difference(suspects)
        return suspects, [member for member in self._members.values() if member in others and member.under_way]

    def end(self, members: Sequence[Member], death: Outcome) -> None:
        """Give all of them the end that came over the process."""
        size = len(self.begun)
        text = f"in a batch of {size} trials: {death.message}" if size > 1 else death.message
        for member in members:
            self._end(member, replace(death, message=text))

    def close(self) -> None:
        """End the list under way: forget its time limits, and add up what time each had."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._look()
        for member in self._sharing:
            member.seconds += self._share
        self._sharing.clear()
        self._share = 0.0

    def _began(self, members: Sequence[Member]) -> None:
        if not self.begun:
            self._sharing.clear()  # what it took to begin is counted only where nothing came of it
        self.close()
        self.begun = list(members)
        self._sharing = {member for member in members if member.under_way}
        self._limit(members, self._overdue)
        for member in members:
            member.begin()

    def _limit(self, members: Sequence[Member], late: Callable[[Sequence[Member]], None]) -> None:
        """Have `late` told who is beyond its time limit, counted from now."""
        loop = asyncio.get_running_loop()
        for seconds in {member.job.limits.seconds for member in members} - {None}:
            alike = [member for member in members if member.job.limits.seconds == seconds]
            self._timers.append(loop.call_later(cast(float, seconds), late, alike))

    def _reported(self, reports: Mapping[int, Report]) -> list[int]:
        """Pass the reports of a step on, all of them before anyone is judged; give the trials that end here."""
        news: list[tuple[Member, Report]] = []
        for trial, report in reports.items():
            member = self._members[trial]
            if member.under_way:
                member.reports.append(report)
                if not member.dropped and report.step > member.known:
                    self._hear(trial, report)
                    news.append((member, report))
        for member, report in news:
            try:
                if member.on_report(report):
                    self._end(member, Outcome.pruned())
            except Exception as error:  # the driver's own fault: `run` raises it
                self._sharing.discard(member)
                member.fail(error)
        for member in map(self._members.__getitem__, reports):
            if member.dropped:
                self._end(member, CANCELLED)
            elif member.overdue:
                self._time_out(member)
        return [trial for trial in reports if not self._members[trial].under_way]

    def _end(self, member: Member, outcome: Outcome) -> None:
        if member in self._sharing:
            self._sharing.remove(member)
            member.seconds += self._share
        member.end(outcome)

    def _look(self) -> None:
        """Share out the time since this was last done."""
        now = time.monotonic()
        self._share += (now - self._looked) / max(1, len(self._sharing))
        self._looked = now

    def _time_out(self, member: Member) -> None:
        text = f"the trial exceeded its time limit of {member.job.limits.seconds:g} s"
        if not self.begun:
            text += " before its batch began"
        elif len(self.begun) > 1:  # its own seconds are a share, and less
            text += ", counted from the beginning of its batch"
        self._end(member, Outcome.failed(FailureKind.TIMEOUT, text))

    def _overdue(self, members: Sequence[Member]) -> None:
        for member in members:
            member.overdue = True
        self._overdue_unbegun(members)

    def _overdue_unbegun(self, members: Sequence[Member]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(_GRACE, self._end_overdue, members))

    def _end_overdue(self, members: Sequence[Member]) -> None:
        """End the process with those whose time is over; also where it told all of a list and does not come back."""
        self._look()
        late = [member for member in members if member.under_way]
        for member in late:
            self._time_out(member)
        if late or not self._sharing:
            self._kill()
