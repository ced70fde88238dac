"""The slots that trials run in, handed out in the order in which they are asked for."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Slots:
    """So many trials run at once; a worker that has a slot may take more of those that nobody waits for."""

    def __init__(self, count: int) -> None:
        self._turn = asyncio.Semaphore(count)
        self.free = count
        self.asking = asyncio.Lock()
        """Held by the worker that fills slots, where they are filled many at once: meanwhile more become free."""

    async def acquire(self) -> None:
        """Wait for a slot."""
        await self._turn.acquire()
        self.free -= 1

    async def more(self, most: int) -> int:
        """Take up to `most` more, as far as nobody else waits for them; gives how many. Does not wait."""
        taken = 0
        while taken < most and not self._turn.locked():
            await self.acquire()
            taken += 1
        return taken

    def release(self, count: int = 1) -> None:
        """Give slots back."""
        self.free += count
        for _ in range(count):
            self._turn.release()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
