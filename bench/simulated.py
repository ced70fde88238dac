"""A large cluster on a simulated clock: trials only sleep, and what the driver computes takes the CPU time it takes.

The loop's clock is the process's CPU time and what was skipped: where everybody waits for a trial's end, the clock
jumps to it. So the driver is as slow as it is on this machine, however busy that is, and an hour of a trial costs
nothing. Ledger, graph and strategy are the real ones.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
import time
from collections.abc import Callable
from concurrent.futures import Executor as ThreadPool
from dataclasses import dataclass, field

from agentic_hpt.errors import FailureKind
from agentic_hpt.records import Job, Outcome, Report, TrialState

_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Cluster:
    """What the simulated workers are like; durations are lognormal."""

    slots: int = 2000
    median_minutes: float = 15.0
    sigma: float = 0.6
    stragglers: float = 0.02
    """The share of the trials that take `slower` times as long."""
    slower: float = 3.0
    lost: float = 0.01
    """The share of the attempts whose worker is lost on the way."""

    def seconds(self, dice: random.Random) -> float:
        """Draw how long a trial takes: a minute at least."""
        drawn = 60 * self.median_minutes * math.exp(self.sigma * dice.gauss(0.0, 1.0))
        return max(60.0, drawn * (self.slower if dice.random() < self.stragglers else 1.0))


class _Jumping(selectors.DefaultSelector):
    """Waits while somebody computes; else there is nothing but time to wait for, and it is skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0
        self.computing = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.computing or not timeout:
            return super().select(_LOOK_SECONDS if timeout is None else min(timeout, _LOOK_SECONDS))
        self.skipped += timeout
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop on that clock."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return time.process_time() + self._jumping.skipped

    def run_in_executor(self, executor: ThreadPool | None, func: Callable[..., object], *args: object):  # type: ignore[no-untyped-def, override]
        self._jumping.computing += 1
        found = super().run_in_executor(executor, func, *args)
        found.add_done_callback(self._computed)
        return found

    def _computed(self, _: object) -> None:
        self._jumping.computing -= 1


@dataclass
class SimulatedExecutor:
    """Trials that sleep; see `protocols.Executor`."""

    cluster: Cluster
    value: Callable[[Job], float]
    busy: list[tuple[float, float]] = field(default_factory=list)
    """When each attempt began and ended."""

    @property
    def slots(self) -> int:
        return self.cluster.slots

    async def start(self) -> None:
        """Nothing has to get ready."""

    async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
        """Sleep as long as the trial takes."""
        dice = random.Random(f"{job.trial}/{job.attempt}")
        whole, lost = self.cluster.seconds(dice), dice.random() < self.cluster.lost
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(whole * dice.random() if lost else whole)
        self.busy.append((began, asyncio.get_running_loop().time()))
        if lost:
            return Outcome.failed(FailureKind.LOST_WORKER, "the simulated worker was lost")
        return Outcome(TrialState.COMPLETE, values={"accuracy": self.value(job)}, seconds=whole)

    async def close(self) -> None:
        """Nothing is held."""

    def share(self, until: float) -> float:
        """Give which part of the slots' time was busy from the first start to `until`."""
        first = min(began for began, _ in self.busy)
        spent = math.fsum(max(0.0, min(ended, until) - began) for began, ended in self.busy)
        return spent / self.slots / (until - first)
