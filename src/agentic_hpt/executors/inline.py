"""Trials one after the other in a thread of the driver: for debugging, and for objectives that cost next to nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from agentic_hpt.errors import FailureKind, TrialFailure
from agentic_hpt.executors.handle import run_objective
from agentic_hpt.protocols import Objective
from agentic_hpt.records import Job, Outcome, Report

__all__ = ["InlineExecutor"]


class InlineExecutor:
    """Run each trial in one dedicated thread of this process; `breakpoint()` and prints work as usual.

    A thread can't be killed: cancellation and the time limit take hold at the trial's next report, and a trial that
    never reports runs to its end. A crash of the interpreter takes the study with it.
    """

    def __init__(self, objective: Objective, metric: str) -> None:
        self.slots = 1
        self._objective = objective
        self._metric = metric
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hpt-inline")
        self._stopping: set[threading.Event] = set()

    async def start(self) -> None:
        """Do nothing: there is nothing to get ready."""

    async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
        """Run one attempt to its end; when cancelled, wait until the trial has stopped at its next report."""
        loop = asyncio.get_running_loop()
        stop = threading.Event()
        self._stopping.add(stop)
        send = _Sender(loop, stop, on_report, job.limits.seconds)
        running = loop.run_in_executor(self._thread, run_objective, self._objective, job, self._metric, send)
        try:
            outcome = await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([running])
            raise
        finally:
            self._stopping.discard(stop)
        if send.error is not None:
            raise send.error
        return outcome

    async def close(self) -> None:
        """Stop what runs at its next report, and end the thread."""
        for stop in self._stopping:
            stop.set()
        await asyncio.to_thread(self._thread.shutdown)


class _Sender:
    """Carries reports from the trial's thread into the event loop's, and the answers back."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stop: threading.Event,
        on_report: Callable[[Report], bool],
        time_limit: float | None,
    ) -> None:
        self.error: Exception | None = None
        self._loop = loop
        self._stop = stop
        self._on_report = on_report
        self._limit = time_limit
        self._started = time.monotonic()

    def __call__(self, report: Report) -> bool:
        if self._stop.is_set() or self.error is not None:
            return True
        if self._limit is not None and time.monotonic() - self._started > self._limit:
            raise TrialFailure(FailureKind.TIMEOUT, f"the trial exceeded its time limit of {self._limit:g} s")
        answer: Future[bool] = Future()
        self._loop.call_soon_threadsafe(self._relay, report, answer)
        return answer.result()

    def _relay(self, report: Report, answer: Future[bool]) -> None:
        try:
            answer.set_result(self._on_report(report))
        except Exception as error:  # the driver's own fault: stop the trial, and let `run` raise it
            self.error = error
            answer.set_result(True)
