"""Runs of jobs on executors, and a look at the processes that they leave."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

from agentic_hpt.executors.inline import InlineExecutor
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.protocols import Executor
from agentic_hpt.records import Job, Limits, Outcome, Report

# For scripts that run these functions: the paths of this process, this folder among them.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def build(kind: str, function: Callable[..., object], final: Callable[..., object] | None = None) -> Executor:
    """Make an executor, with two slots if it can."""
    objective = FunctionObjective(function, final)
    return InlineExecutor(objective, "accuracy") if kind == "inline" else ProcessExecutor(objective, "accuracy", 2)


def job(
    folder: Path,
    params: dict | None = None,
    *,
    trial: int = 3,
    attempt: int = 1,
    final: bool = False,
    time_limit: float | None = None,
    limits: Limits | None = None,
    lease: float = 30.0,
) -> Job:
    """Make the job of one attempt; its folders lie in `folder`."""
    home = folder / str(trial)
    return Job(
        study="study",
        trial=trial,
        attempt=attempt,
        params=params or {},
        seed=11,
        worker="w",
        artifact_dir=str(home / "artifacts"),
        checkpoint_dir=str(home / "checkpoints"),
        final=final,
        limits=limits or Limits(seconds=time_limit),
        lease=lease,
    )


def go(executor: Executor, *jobs_: Job, on_report: Callable[[Report], bool] = lambda report: False) -> list[Outcome]:
    """Run the jobs one after the other."""

    async def main() -> list[Outcome]:
        await executor.start()
        try:
            return [await executor.run(j, on_report) for j in jobs_]
        finally:
            await executor.close()

    return asyncio.run(main())


def gone(pid: int) -> bool:
    """Say whether a process has ended; one that init has not reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pid: int) -> None:
    """Return when a process has ended; the test's own time limit catches one that never does."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([fd], [], [])
    finally:
        os.close(fd)
