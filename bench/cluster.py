"""What a trial costs the executors that run it in a process: `python bench/cluster.py [--trials N] [--slots N]`.

No-op trials without the graph around them, in processes of this machine and on a Ray of its own. CPU seconds are those
of all processes of the machine, so they want an idle one, or a namespace of its own (`unshare --pid --mount-proc`).
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import psutil

from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.executors.ray import Cluster, RayExecutor
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.protocols import Executor, TrialHandle
from agentic_hpt.records import Job, Limits, Params

REPORTS = 10


def nothing(params: Params, trial: TrialHandle) -> float:
    """Report as often as the parameters say, and give a number."""
    for step in range(int(params["reports"])):
        trial.report(0.5, step=step)
    return 0.5


def cpu_seconds() -> float:
    """Give the CPU seconds of all processes so far, those of children that have ended among them."""
    return sum(sum(p.info["cpu_times"][:4]) for p in psutil.process_iter(["cpu_times"]) if p.info["cpu_times"])


async def measured(executor: Executor, slots: int, trials: int, folder: Path) -> list[str]:
    """Run trials without and with reports, and tell what each took."""
    begin = time.perf_counter()
    await executor.start()
    told = [f"start {time.perf_counter() - begin:.1f} s"]
    free = asyncio.Semaphore(slots)

    async def one(number: int, reports: int) -> None:
        own = str(folder / str(number))
        async with free:
            outcome = await executor.run(Job("bench", number, 1, {"reports": reports}, 0, "w", own, own), _go_on)
            if not outcome.values:
                raise RuntimeError(outcome.message)

    for reports in (0, REPORTS):
        await asyncio.gather(*(one(number, reports) for number in range(2 * slots)))  # warm
        begin, cpu = time.perf_counter(), cpu_seconds()
        await asyncio.gather(*(one(number, reports) for number in range(trials)))
        seconds, cpu = time.perf_counter() - begin, cpu_seconds() - cpu
        told.append(f"{reports} reports: {trials / seconds:.1f} trials/s, {1000 * cpu / trials:.1f} ms of CPU a trial")
    await executor.close()
    return told


def _go_on(report: object) -> bool:
    return False


def main() -> None:
    """Measure both and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--slots", type=int, default=2)
    given = parser.parse_args()
    objective = FunctionObjective(nothing)
    executors: dict[str, Executor] = {
        "processes": ProcessExecutor(objective, "score", given.slots),
        "ray": RayExecutor(objective, "score", given.slots, cluster=Cluster(), limits=Limits()),
    }
    for name, executor in executors.items():
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}:", "; ".join(asyncio.run(measured(executor, given.slots, given.trials, Path(folder)))))


if __name__ == "__main__":
    main()
