"""Driving a study's graph: the event loop, signals, and the checkpoint store."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

T = TypeVar("T")


@asynccontextmanager
async def checkpointer(path: Path) -> AsyncIterator[AsyncSqliteSaver]:
    """Open the checkpoint store, and close it for good.

    A graph that fails leaves writes under way. One that got its INSERT in before the connection closed would keep the
    store locked for as long as its traceback lives: so the close waits for the saver's lock, and rolls back.
    """
    import aiosqlite
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    connection = await aiosqlite.connect(path)
    saver = AsyncSqliteSaver(connection)
    try:
        yield saver
    finally:
        async with saver.lock:
            await connection.rollback()
            await connection.close()


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
