"""Which is faster here: each trial in a process of its own, or many of them in batches? A few seconds of both tell."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentic_hpt.executors.batched import BatchedExecutor
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.protocols import BatchObjective, Executor
from agentic_hpt.records import Job, Limits, Params, Report

__all__ = ["Speeds", "measured_speeds"]

_STEPS = 4
_ENOUGH = 0.5
"""Seconds between a trial's first report and one by which its speed is known, however few there were."""
_LONGEST = 15.0
"""Seconds for each of the two ways: what has not reported twice by then is not known."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Steps a second, those of all trials under way counted together; `None` where too few came to a second report."""

    processes: float | None
    batched: float | None


async def measured_speeds(
    objective: BatchObjective, metric: str, configurations: Sequence[Params], slots: int, limits: Limits
) -> Speeds:
    """Let configurations make their first steps: some in `slots` processes at once, then all of them in batches.

    Starting processes and loading data is left out: what trials take in the long run is compared.
    """
    with tempfile.TemporaryDirectory(prefix="agentic-hpt-") as folder:
        jobs = [_job(Path(folder), number, params, limits) for number, params in enumerate(configurations)]
        alone, together = _Course(slots), _Course(None)
        some = jobs[: max(8, slots)]
        await _run(ProcessExecutor(objective, metric, slots, gpus=limits.gpus), some, alone, slots)
        batches = BatchedExecutor(objective, metric, len(jobs), hear=together.hear, gpus=limits.gpus)
        await _run(batches, jobs, together, len(jobs))
    return Speeds(alone.speed(len(some)), together.speed(len(jobs)))


class _Course:
    """When trials reported, and how many were in one list with each; or `slots` where each runs by itself."""

    def __init__(self, slots: int | None) -> None:
        self._slots = slots
        self._times: dict[int, list[float]] = {}
        self._list_of: dict[int, Collection[int]] = {}
        self._hearing: list[int] = []
        self._heard_all = True

    def hear(self, trial: int, report: Report) -> None:
        """Learn that a trial reports; all of its list do, before `on_report` is asked about one of them."""
        if self._heard_all:
            self._hearing, self._heard_all = [], False
        self._hearing.append(trial)
        self._list_of[trial] = self._hearing

    def on_report(self, trial: int) -> Callable[[Report], bool]:
        """Give what takes a trial's reports, and stops it once its speed is known."""

        def take(report: Report) -> bool:
            self._heard_all = True
            times = self._times.setdefault(trial, [])
            times.append(time.monotonic())
            return len(times) > _STEPS or (len(times) > 1 and times[-1] - times[0] > _ENOUGH)

        return take

    def speed(self, asked: int) -> float | None:
        """Give the steps a second, if at least half of those that were asked for have shown theirs."""
        costs = [
            (times[-1] - times[0]) / (len(times) - 1) / (self._slots or len(self._list_of[trial]))
            for trial, times in self._times.items()
            if len(times) > 1
        ]
        return len(costs) / sum(costs) if 2 * len(costs) >= asked and sum(costs) > 0 else None


async def _run(executor: Executor, jobs: Sequence[Job], course: _Course, slots: int) -> None:
    free = asyncio.Semaphore(slots)

    async def one(job: Job) -> None:
        async with free:
            await executor.run(job, course.on_report(job.trial))

    try:
        await executor.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST), asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(one(job))
    finally:
        await executor.close()


def _job(folder: Path, number: int, params: Params, limits: Limits) -> Job:
    home = folder / str(number)
    return Job(
        study="calibration",
        trial=number,
        attempt=1,
        params=params,
        seed=number,
        worker="calibration",
        artifact_dir=str(home),
        checkpoint_dir=str(home / "checkpoint"),
        limits=limits,
    )
