"""Driving a study's graph: the event loop and signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

T = TypeVar("T")


def run_coroutine(work: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end; in a thread of its own where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    loop, tasks = asyncio.new_event_loop(), list[asyncio.Task[T]]()

    def run() -> T:
        with contextlib.closing(loop):
            tasks.append(loop.create_task(work))
            return loop.run_until_complete(tasks[0])

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            return running.result()
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            raise


class Stopping:
    """Ctrl-C and SIGTERM, while in force, cancel what runs; `told` is called for the first of them.

    Outside the main thread, where signals can't be handled, nothing is changed.
    """

    def __init__(self, told: Callable[[], None]) -> None:
        self.received: list[signal.Signals] = []
        self._told = told
        self._task: asyncio.Task[None] | None = None
        self._restoring = contextlib.ExitStack()

    async def run(self, work: Coroutine[object, object, None]) -> None:
        """Run to the end what a signal cancels; one that came since the last such work counts too."""
        self._task = asyncio.create_task(work)
        if self.received:
            self._task.cancel()
        await self._task

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                self._restoring.callback(signal.signal, number, signal.getsignal(number))
                self._restoring.callback(loop.remove_signal_handler, number)
                loop.add_signal_handler(number, self._stop, number)
        return self

    def __exit__(self, *exc: object) -> None:
        self._restoring.close()

    def _stop(self, number: signal.Signals) -> None:
        self.received.append(number)
        if self._task is not None:
            self._task.cancel()
        if len(self.received) == 1:
            self._told()
