"""Stacks trained beside each other on a CPU: a thread a core, instead of threads inside of operations.

Such threads wait for one another more than they compute, where operations are as small as these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Lock
from typing import TypeVar

from agentic_hpt.errors import FailureKind
from agentic_hpt.protocols import Batch

__all__ = ["OneAtATime", "side_by_side"]

T = TypeVar("T")


def side_by_side(work: Callable[[T], None], items: Sequence[T], workers: int) -> None:
    """Do the work on each item, on as many threads as there are workers; with one worker here, one after another.

    Raises what the first to fail raises, once those under way have ended.
    """
    import torch

    if workers <= 1:
        for item in items:
            work(item)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers) as pool:
            under_way = [pool.submit(work, item) for item in items]
            try:
                for done in as_completed(under_way):
                    done.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)


class OneAtATime:
    """A batch that several threads may speak to."""

    def __init__(self, batch: Batch) -> None:
        self._batch, self._lock = batch, Lock()
        self.trials = batch.trials

    def report(self, metrics: Mapping[int, Mapping[str, float]], step: int) -> frozenset[int]:
        """See `Batch`."""
        with self._lock:
            return self._batch.report(metrics, step)

    def complete(self, trial: int, answer: object) -> None:
        """See `Batch`."""
        with self._lock:
            self._batch.complete(trial, answer)

    def fail(self, trial: int, kind: FailureKind, message: str) -> None:
        """See `Batch`."""
        with self._lock:
            self._batch.fail(trial, kind, message)

    def remark(self, text: str) -> None:
        """See `Batch`."""
        with self._lock:
            self._batch.remark(text)
