"""Driving a study's graph: the event loop and signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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


def handle_signals(stop: Callable[[signal.Signals], None]) -> Callable[[], None]:
    """Let Ctrl-C and SIGTERM call `stop` in the event loop; give what puts the old handlers back.

    Outside the main thread, where signals can't be handled, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    old = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        loop.add_signal_handler(number, stop, number)

    def restore() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, old[number])

    return restore
