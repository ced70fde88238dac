"""Many trials at once in one process: jobs that arrive together are handed to the objective as lists."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from agentic_hpt.errors import FailureKind
from agentic_hpt.executors.evaluation import CANCELLED, Evaluation, Member
from agentic_hpt.executors.hosting import Host
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.protocols import BatchObjective
from agentic_hpt.records import Job, Outcome, Report

__all__ = ["BatchedExecutor"]

_QUIET, _LONGEST_QUIET = 0.05, 5.0
_QUIET_SHARE = 0.25
"""Of the time that jobs take: for so long none may have come before those that wait are begun with. Whoever comes a
moment later waits for all of it, and where networks are small a list of one takes as long as a list of hundreds."""
_FIRST_TAKE = 2.0
"""Seconds that jobs are taken to take before any has."""
_LINGERS = 4
"""So many such times are the most that is waited while jobs keep coming."""
_HOST = "batches"
"""The folder of the process, beside those of the trials."""


class BatchedExecutor:
    """Gather the jobs that arrive together, and have one process evaluate them, in the lists that the objective makes.

    The process is forked as a trial's is and stays, with what it holds of data and devices; what trials print goes to
    its `output.log`. Lists are evaluated one after the other. The limits are the trials' own, but what is one process's
    is held by all of a list together: its memory, and its threads, by default one a core. A trial's time begins with
    its list, and its `seconds` are its share of the list's: of each moment the part that falls on one of those under
    way then.

    A list that ends the process by a fault of its own, or by using too much memory, is tried again in halves, until the
    one that does it is found. Final jobs run alone, in processes of their own. `hear` is told the reports of a whole
    step before any `on_report` is asked about it, so that no trial is judged by half of its rivals; `remark` what the
    objective says to a person, again and again.
    """

    def __init__(
        self,
        objective: BatchObjective,
        metric: str,
        slots: int,
        *,
        hear: Callable[[int, Report], None] = lambda trial, report: None,
        remark: Callable[[str], None] = lambda text: None,
        gpus: float = 0.0,
    ) -> None:
        self.slots = slots
        self._hear = hear
        self._remark = remark
        self._alone = ProcessExecutor(objective, metric, 1, gpus=gpus)
        self._running_alone = 0
        self._waiting: list[Member] = []
        self._members: set[Member] = set()
        self._arrived = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._host: Host | None = None
        self._evaluation: Evaluation | None = None
        self._take = _FIRST_TAKE

    async def start(self) -> None:
        """Boot the fork server and wait until it has imported what trials need; takes seconds with torch."""
        await self._alone.start()

    async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
        """Run one attempt to its end, together with others; when cancelled, return once the others go on without it."""
        if job.final:
            self._running_alone += 1
            try:
                return await self._alone.run(job, on_report)
            finally:
                self._running_alone -= 1
        member = Member(job, on_report, asyncio.get_running_loop().create_future())
        self._members.add(member)
        self._waiting.append(member)
        self._arrived.set()
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        try:
            return await asyncio.shield(member.ended)
        except asyncio.CancelledError:
            self._drop(member)
            await asyncio.wait([member.ended])
            raise
        finally:
            self._members.discard(member)

    async def close(self) -> None:
        """Kill what still runs; its outcome is a failure of kind `cancelled`."""
        for member in list(self._members):
            member.end(CANCELLED)
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        await self._end_host()
        await self._alone.close()

    def _drop(self, member: Member) -> None:
        """Let a trial go whose `run` was cancelled: at its next report, or with the process if no other is left."""
        if not member.under_way:
            return
        member.dropped = True
        if member in self._waiting:
            self._waiting.remove(member)
        if self._evaluation is None or member not in self._evaluation:
            member.end(CANCELLED)
        elif not self._evaluation.wanted:
            self._kill()

    async def _serve(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                taken, self._waiting = self._waiting, []
                began = time.monotonic()
                await self._run_all(taken)
                self._take = max(time.monotonic() - began, self._take / 2)
        except Exception as error:  # the driver's own fault: `run` raises it
            self._waiting.clear()
            for member in list(self._members):
                member.fail(error)
            await self._end_host()

    async def _gather(self) -> None:
        """Wait until no more job has come for a while, or all slots are taken."""
        quiet = min(max(_QUIET, _QUIET_SHARE * self._take), _LONGEST_QUIET)
        until = time.monotonic() + _LINGERS * quiet
        with contextlib.suppress(TimeoutError):
            while len(self._waiting) + self._running_alone < self.slots:
                self._arrived.clear()
                async with asyncio.timeout(min(quiet, until - time.monotonic())):
                    await self._arrived.wait()

    async def _run_all(self, members: Sequence[Member]) -> None:
        """Have jobs evaluated until each has its outcome, whatever becomes of the process meanwhile."""
        todo = [list(members)]
        while todo:
            tried = [member for member in todo.pop(0) if member.under_way]
            if not tried:
                continue
            before = self._host
            host = self._hosted(tried)
            evaluation = self._evaluation = Evaluation(tried, self._hear, self._remark, self._kill)
            try:
                death = await host.evaluate([member.job for member in tried], evaluation.heard)
            finally:
                self._evaluation = None
                evaluation.close()
            if not host.runs or death is not None or any(member.under_way for member in tried):
                await self._end_host()
            for member in tried:
                if member.dropped:
                    member.end(CANCELLED)
            suspects, others = evaluation.left()
            if death is None or (host is before and not evaluation.taken):  # none of them did it
                todo.insert(0, suspects + others)
            elif death.failure is FailureKind.LOST_WORKER or len(suspects) == 1 or not evaluation.begun:
                evaluation.end(suspects, death)
                todo.insert(0, others)
            else:
                half = len(suspects) // 2
                todo[:0] = [suspects[:half], suspects[half:], others]

    def _hosted(self, members: Sequence[Member]) -> Host:
        """Give the process, started anew if there is none; what earlier attempts' processes started ends then."""
        if self._host is None or not self._host.runs:
            first = members[0].job
            threads = first.limits.threads if first.limits.threads > 1 else _cores()
            limits = replace(first.limits, seconds=None, threads=threads)  # the process outlives its lists
            folder = str(Path(first.artifact_dir).parent / _HOST)
            attempt = max(member.job.attempt for member in members)
            job = replace(first, trial=-1, attempt=attempt, params={}, artifact_dir=folder, limits=limits)
            self._host = Host(self._alone, job)
        return self._host

    def _kill(self) -> None:
        if self._host is not None:
            self._host.kill()

    async def _end_host(self) -> None:
        if self._host is not None:
            self._host.kill()
            await self._host.ended()
            self._host = None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
