"""The node's side: a task that runs one attempt in a process of its own, and is the driver's eye and hand there."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from agentic_hpt.errors import FailureKind
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.executors.ray.mailbox import BEAT
from agentic_hpt.protocols import Objective
from agentic_hpt.records import Job, Outcome, Report

if TYPE_CHECKING:
    from ray.actor import ActorHandle

__all__ = ["Parcel", "supervise", "unseen"]

_SEEN_SECONDS = 5.0
"""A folder that another machine has just made may be seen a moment later."""
_ENDED = "the driver has ended the trial, or has not answered for its lease"


@dataclass(frozen=True, slots=True)
class Parcel:
    """What all attempts of a study have in common; the objective stays pickled until the trial's own process."""

    objective: bytes
    preload: tuple[str, ...]
    metric: str


def supervise(parcel: Parcel, job: Job, key: str, mailbox: ActorHandle) -> Outcome:
    """Run one attempt to its end, as a task of Ray. It ends early when the mailbox says so, or is gone."""
    folder = unseen(job.artifact_dir)
    if folder:
        return Outcome.failed(FailureKind.LOST_WORKER, folder)
    outcome = asyncio.run(_run(_node(parcel), job, key, mailbox))
    if outcome.failure is FailureKind.LOST_WORKER:
        outcome = replace(outcome, message=f"on node {socket.gethostname()}: {outcome.message}")
    return outcome


def unseen(folder: str) -> str:
    """Say what is wrong when this machine does not see a folder that the driver has made; empty when it does."""
    deadline = time.monotonic() + _SEEN_SECONDS
    while not os.path.isdir(folder):
        if time.monotonic() > deadline:
            return (
                f"node {socket.gethostname()} does not see {folder}: "
                "put the home (--home) on a folder that all nodes share, at the same path"
            )
        time.sleep(_SEEN_SECONDS / 50)
    return ""


async def _run(node: _Node, job: Job, key: str, mailbox: ActorHandle) -> Outcome:
    import ray
    from ray.exceptions import RayError

    ended = threading.Event()

    def on_report(report: Report) -> bool:
        answer = mailbox.report.remote(key, report)
        while not ended.is_set():
            if ray.wait([answer], timeout=BEAT)[0]:
                return bool(ray.get(answer))
        return True

    await node.ready()
    loop = asyncio.get_running_loop()
    trial = asyncio.create_task(node.executor.run(job, on_report))

    def end() -> None:
        ended.set()
        loop.call_soon_threadsafe(trial.cancel)

    over = threading.Event()
    pulse = threading.Thread(target=_beat, args=(key, job.lease, mailbox, over, end), name="hpt-pulse", daemon=True)
    pulse.start()
    try:
        return await trial
    except (asyncio.CancelledError, RayError):
        return Outcome.failed(FailureKind.CANCELLED, _ENDED)
    finally:
        over.set()


def _beat(key: str, lease: float, mailbox: ActorHandle, over: threading.Event, end: Callable[[], None]) -> None:
    """Give signs of life until the attempt is `over`; call `end` when it has to, or nobody answered for its lease."""
    import ray
    from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError

    alone = 0.0
    while not over.is_set():
        asked = time.monotonic()
        try:
            if not ray.get(mailbox.beat.remote(key), timeout=2 * BEAT):
                break
            alone = 0.0
        except (GetTimeoutError, ActorUnavailableError):
            # Counted by bounded steps: while this process itself stood still, nobody failed to answer.
            alone += min(time.monotonic() - asked, 2 * BEAT)
            if alone > lease:
                break
            over.wait(max(0.0, BEAT - (time.monotonic() - asked)))
        except RayError:
            break
    if not over.is_set():
        end()


class _Sent:
    """An objective that stays pickled: what stands for it is opened by the trial's process."""

    def __init__(self, parcel: Parcel) -> None:
        self._parcel = parcel

    def preload(self) -> tuple[str, ...]:
        """Name the modules worth importing once before trial processes are forked."""
        return self._parcel.preload

    def __reduce__(self) -> tuple[Callable[[bytes], object], tuple[bytes]]:
        return pickle.loads, (self._parcel.objective,)


class _Node:
    """What a worker of Ray keeps from trial to trial: the server that trials are forked from."""

    def __init__(self, parcel: Parcel) -> None:
        self.executor = ProcessExecutor(cast(Objective, _Sent(parcel)), parcel.metric, 1)
        self._ready = False

    async def ready(self) -> None:
        """Boot the server, the first time."""
        if not self._ready:
            await self.executor.start()
            self._ready = True


@lru_cache(maxsize=1)
def _node(parcel: Parcel) -> _Node:
    return _Node(parcel)
