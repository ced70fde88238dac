"""The driver's side: each attempt a task of Ray, followed through the mailbox."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentic_hpt.errors import FailureKind
from agentic_hpt.executors.processes import pickled
from agentic_hpt.executors.ray.cluster import Cluster
from agentic_hpt.executors.ray.deaths import meaning
from agentic_hpt.executors.ray.mailbox import Heard, Mailbox
from agentic_hpt.executors.ray.supervising import Parcel, supervise
from agentic_hpt.protocols import Objective
from agentic_hpt.records import Job, Limits, Outcome, Report

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle
    from ray.remote_function import RemoteFunction

__all__ = ["RayExecutor"]

_GRACE = 15.0
"""Seconds that a task gets to end its trial when it is told to, before Ray kills it."""
_KILL = 5.0
"""Seconds that Ray gets to say that it has; on a node that is gone there is nobody to say so."""
_PAUSE = 0.5
"""Seconds until a new mailbox is called, lest this goes round and round where none can be had."""
_CANCELLED = FailureKind.CANCELLED, "the executor was closed while the trial ran"


@dataclass
class _Attempt:
    """One attempt under way."""

    key: str
    job: Job
    on_report: Callable[[Report], bool]
    stop: asyncio.Future[None]
    """Done when somebody wants it ended."""
    lost: asyncio.Future[str]
    """Done, with the reason, when nothing is to be expected of it any more."""
    reports: list[Report] = field(default_factory=list)
    error: Exception | None = None
    """What `on_report` raised: the driver's own fault, which `run` raises again."""

    def take(self, report: Report) -> bool:
        """Take a report in, and say whether the trial stops."""
        self.reports.append(report)
        try:
            return self.on_report(report)
        except Exception as error:
            self.error = error
            _set(self.stop)
            return True


class RayExecutor:
    """Run each attempt as a task of Ray, in a process of its own on the node where it is put.

    A task takes the CPUs and GPUs of `limits`; what Ray has no room for waits. Whatever takes a node, a worker or the
    way to it is a failure of kind `lost_worker`, noticed when Ray tells, else when the job's lease is over; nothing is
    tried again here. The job's folders must be on a file system that all nodes share. `growing` says that the cluster
    may add larger nodes than it has. Raises `ConfigError` for an objective that can't be sent.
    """

    def __init__(
        self, objective: Objective, metric: str, slots: int, *, cluster: Cluster, limits: Limits, growing: bool = False
    ) -> None:
        self.slots = slots
        self._parcel = Parcel(pickled(objective), objective.preload(), metric)
        self._cluster = cluster
        self._limits = limits
        self._growing = growing
        self._attempts: dict[str, _Attempt] = {}
        self._running: set[asyncio.Task[Outcome]] = set()
        self._numbers = itertools.count(1)
        self._listener: asyncio.Task[None] | None = None
        self._closing = False
        self._mailbox: ActorHandle = None
        self._task: RemoteFunction = None
        self._sent: ObjectRef[Parcel] | None = None

    async def start(self) -> None:
        """Connect, and see that a trial fits; takes seconds, in which the event loop stands still.

        Raises `ConfigError` when the cluster does not answer, or when no node is large enough.
        """
        self._cluster.connect(cpus=self.slots * self._limits.threads)
        import ray

        if not self._growing:
            self._cluster.check_room(self._limits)
        self._sent = ray.put(self._parcel)
        self._task = ray.remote(supervise).options(
            num_cpus=self._limits.threads, num_gpus=self._limits.gpus, max_retries=0, name="hpt-trial"
        )
        self._mailbox = self._new_mailbox()
        self._listener = asyncio.create_task(self._listen())

    async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
        """Run one attempt to its end; when cancelled, see that it ends on its node first."""
        loop = asyncio.get_running_loop()
        key = f"{job.trial}.{job.attempt}.{next(self._numbers)}"
        attempt = _Attempt(key, job, on_report, loop.create_future(), loop.create_future())
        self._attempts[key] = attempt
        # A task of its own: cancelling `run` must not cut short the cleaning up.
        running = asyncio.create_task(self._attempt(attempt))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            _set(attempt.stop)
            await asyncio.wait([running])
            raise

    async def close(self) -> None:
        """End what still runs, its outcome a failure of kind `cancelled`, and disconnect."""
        for attempt in self._attempts.values():
            _set(attempt.stop)
        if self._running:
            await asyncio.wait(self._running)
        if self._listener is not None:
            import ray

            self._closing = True
            self._mailbox.hush.remote()
            await asyncio.wait([self._listener], timeout=_KILL)
            self._listener.cancel()
            ray.kill(self._mailbox)
            self._listener = self._mailbox = self._sent = None
        self._cluster.close()

    async def _attempt(self, attempt: _Attempt) -> Outcome:
        from ray.exceptions import RayError

        try:
            Path(attempt.job.artifact_dir).mkdir(parents=True, exist_ok=True)  # a node that doesn't see it says so
            mailbox = self._mailbox
            # First of all, since whom it does not know it tells to end.
            await mailbox.open.remote(attempt.key, attempt.job.lease)
            outcome = await self._followed(attempt, mailbox)
            mailbox.close.remote(attempt.key)
        except RayError as error:
            outcome = Outcome.failed(*meaning(error))
        finally:
            self._attempts.pop(attempt.key, None)
        if attempt.error is not None:
            raise attempt.error
        return outcome if outcome.reports else replace(outcome, reports=tuple(attempt.reports))

    async def _followed(self, attempt: _Attempt, mailbox: ActorHandle) -> Outcome:
        """Run an attempt's task; end it when it is to stop, and give it up when it is lost."""
        import ray

        if attempt.stop.done():
            return Outcome.failed(*_CANCELLED)
        ref = self._task.remote(self._sent, attempt.job, attempt.key, mailbox)
        answer = asyncio.ensure_future(_outcome(ref))
        await _first(answer, attempt.stop, attempt.lost)
        if not answer.done() and not attempt.lost.done():
            if not await _told_to_end(attempt.key, mailbox):
                ray.cancel(ref)  # it waits for room, or starts just now
            await _first(answer, attempt.lost, timeout=_GRACE)
        if not answer.done():
            ray.cancel(ref, force=True)
            await _first(answer, timeout=_KILL)
        if attempt.stop.done():
            return Outcome.failed(*_CANCELLED)
        if attempt.lost.done():
            return Outcome.failed(FailureKind.LOST_WORKER, attempt.lost.result())
        return answer.result()

    async def _listen(self) -> None:
        """Hear what the trials report, answer, and give up those that are silent; with a lost mailbox all are."""
        from ray.exceptions import RayError

        answers: list[tuple[str, bool]] = []
        while not self._closing:
            try:
                heard: Heard = await self._mailbox.hear.remote(answers)
            except RayError as error:
                answers = []
                for attempt in self._attempts.values():
                    _lose(attempt, f"the actor between hpt and its trials was lost: {type(error).__name__}")
                self._mailbox = self._new_mailbox()
                await asyncio.sleep(_PAUSE)
                continue
            answers = [
                (key, self._attempts[key].take(report)) for key, report in heard.reports if key in self._attempts
            ]
            for key in heard.silent:
                if key in self._attempts:
                    attempt = self._attempts[key]
                    _lose(attempt, f"no sign of life of the trial's worker for {attempt.job.lease:g} s")

    def _new_mailbox(self) -> ActorHandle:
        """Start a mailbox on the node of the driver, so that it is there as long as the driver is."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = ray.get_runtime_context().get_node_id()
        return (
            ray.remote(Mailbox)
            .options(
                num_cpus=0,
                max_concurrency=3 * self.slots + 16,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote()
        )


async def _told_to_end(key: str, mailbox: ActorHandle) -> bool:
    """Tell an attempt to end, and say whether there is anybody to heed it; without the mailbox it ends by itself."""
    from ray.exceptions import RayError

    try:
        return bool(await mailbox.stop.remote(key))
    except RayError:
        return True


async def _outcome(ref: ObjectRef[Outcome]) -> Outcome:
    """Wait for what became of a task."""
    from ray.exceptions import RayError

    try:
        outcome: Outcome = await ref
    except RayError as error:
        return Outcome.failed(*meaning(error))
    return outcome


def _lose(attempt: _Attempt, why: str) -> None:
    if not attempt.lost.done():
        attempt.lost.set_result(why)


def _set(stop: asyncio.Future[None]) -> None:
    if not stop.done():
        stop.set_result(None)


async def _first(*events: asyncio.Future[Any], timeout: float | None = None) -> None:
    await asyncio.wait(events, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
