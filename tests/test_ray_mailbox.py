"""What passes between driver and trials on Ray, without Ray."""

from __future__ import annotations

import asyncio

import pytest

from agentic_hpt.executors.ray import mailbox
from agentic_hpt.executors.ray.mailbox import Mailbox
from agentic_hpt.records import Report

REPORT = Report(0, {"accuracy": 0.5})


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(mailbox.time, "monotonic", lambda: Clock.now)
    return Clock


async def silent(box: Mailbox) -> list[str]:
    await box.hush()  # else the call waits for news
    return list((await box.hear([])).silent)


def test_a_report_waits_for_the_drivers_answer():
    async def main() -> None:
        box = Mailbox()
        await box.open("a", 30)
        for stop in (False, True):
            asked = asyncio.create_task(box.report("a", REPORT))
            heard = await box.hear([])
            assert heard.reports == [("a", REPORT)]
            assert not asked.done()
            await box.hush()
            await box.hear([("a", stop)])
            assert await asked is stop

    asyncio.run(main())


def test_whom_the_driver_does_not_know_any_more_is_told_to_end():
    async def main() -> None:
        box = Mailbox()
        assert await box.beat("stranger") is False
        assert await box.report("stranger", REPORT) is True
        await box.open("a", 30)
        asked, beat = asyncio.create_task(box.report("a", REPORT)), asyncio.create_task(box.beat("a"))
        await box.hear([])
        await box.close("a")
        assert await asked is True
        assert await beat is False

    asyncio.run(main())


def test_stopping_says_whether_an_attempt_has_begun_and_reaches_it_at_once():
    async def main() -> None:
        box = Mailbox()
        await box.open("waits", 30)
        assert await box.stop("waits") is False
        assert await box.beat("waits") is False
        await box.open("runs", 30)
        beat = asyncio.create_task(box.beat("runs"))
        await asyncio.sleep(0)
        assert await box.stop("runs") is True
        assert await beat is False

    asyncio.run(main())


def test_an_attempt_is_silent_after_its_lease_but_not_before_it_has_begun(clock):
    async def main() -> None:
        box = Mailbox()
        await box.open("a", 3)
        await box.open("waits for room", 3)
        beat = asyncio.create_task(box.beat("a"))
        await asyncio.sleep(0)
        for _ in range(3):
            clock.now += 1
            assert await silent(box) == []
        clock.now += 1
        assert await silent(box) == ["a"]
        beat.cancel()

    asyncio.run(main())


def test_nobody_is_silent_for_the_time_in_which_the_mailbox_itself_stood_still(clock):
    async def main() -> None:
        box = Mailbox()
        await box.open("a", 3)
        beat = asyncio.create_task(box.beat("a"))
        await asyncio.sleep(0)
        clock.now += 1000
        assert await silent(box) == []
        beat.cancel()

    asyncio.run(main())
