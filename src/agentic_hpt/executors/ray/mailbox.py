"""What driver and trials say to one another: an actor beside the driver that both sides call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentic_hpt.records import Report

__all__ = ["BEAT", "Heard", "Mailbox"]

BEAT = 1.0
"""Seconds between two signs of life of a trial, and the longest that the driver waits for news."""
_MOST = 2 * BEAT
"""Of silence that is counted between two looks: while the driver or this actor stood still, nobody was silent."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the driver hears: reports that wait for answers, and attempts without a sign of life for their lease."""

    reports: Sequence[tuple[str, Report]]
    silent: Sequence[str]


@dataclass
class _Line:
    """What is known of one attempt."""

    lease: float
    silence: float | None = None
    """Seconds since its last sign of life; `None` before the first."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    answer: asyncio.Future[bool] | None = None


class Mailbox:
    """Attempts are named by keys that never come twice; one that the driver does not know (any more) is told to end."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._reports: list[tuple[str, Report]] = []
        self._news = asyncio.Event()
        self._looked = time.monotonic()

    # -- the trial's side --------------------------------------------------------------------------------------------

    async def beat(self, key: str) -> bool:
        """Take a sign of life; say whether the attempt goes on, at once when it doesn't, else after a while."""
        line = self._alive(key)
        if line is None:
            return False
        if line.stopping.is_set():
            return False
        try:
            await asyncio.wait_for(line.stopping.wait(), BEAT)
        except TimeoutError:
            return key in self._lines
        return False

    async def report(self, key: str, report: Report) -> bool:
        """Take a report to the driver, and give its answer: whether the trial stops."""
        line = self._alive(key)
        if line is None:
            return True
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        line.answer = answer
        self._reports.append((key, report))
        self._news.set()
        return await answer

    def _alive(self, key: str) -> _Line | None:
        line = self._lines.get(key)
        if line is not None:
            line.silence = 0.0
        return line

    # -- the driver's side -------------------------------------------------------------------------------------------

    async def open(self, key: str, lease: float) -> None:
        """Learn of an attempt before it begins."""
        self._lines[key] = _Line(lease)

    async def stop(self, key: str) -> bool:
        """Tell an attempt to end, and say whether it has begun at all."""
        line = self._lines.get(key)
        if line is None:
            return False
        line.stopping.set()
        return line.silence is not None

    async def close(self, key: str) -> None:
        """Forget an attempt."""
        line = self._lines.pop(key, None)
        if line is not None:
            line.stopping.set()
            _answer(line, stop=True)

    async def hush(self) -> None:
        """Let the driver's call return: it is not going to make another one."""
        self._news.set()

    async def hear(self, answers: Sequence[tuple[str, bool]]) -> Heard:
        """Pass answers on, and give what is new, as soon as there is something; one call at a time."""
        for key, stop in answers:
            if key in self._lines:
                _answer(self._lines[key], stop)
        if not self._reports:
            try:
                await asyncio.wait_for(self._news.wait(), BEAT)
            except TimeoutError:
                pass
        self._news.clear()
        reports, self._reports = self._reports, []
        return Heard(reports, self._silent())

    def _silent(self) -> list[str]:
        now = time.monotonic()
        passed = now - self._looked
        if passed < BEAT / 2:
            return []
        self._looked = now
        found = []
        for key, line in self._lines.items():
            if line.silence is not None:
                line.silence += min(passed, _MOST)
                if line.silence > line.lease:
                    found.append(key)
        return found


def _answer(line: _Line, stop: bool) -> None:
    if line.answer is not None and not line.answer.done():
        line.answer.set_result(stop)
