"""The driver's side of one process: its messages and its end, followed from the event loop without a thread."""

from __future__ import annotations

import asyncio
import json
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from agentic_hpt.errors import FailureKind
from agentic_hpt.executors.child import GO_ON, STOP, read_outcome
from agentic_hpt.records import Outcome, Report

__all__ = ["TrialWatch", "Watch"]


class Watch(ABC):
    """Follow a process by its `channel` and its `sentinel` (readable once the process has ended).

    `ended` is done when the outcome is known, the process is gone or its end of the channel closed, and holds the error
    if the driver's own code raised; `exited` is done when the process is gone. Who inherits takes in the messages.
    """

    def __init__(self, channel: socket.socket, sentinel: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.exited: asyncio.Future[None] = self._loop.create_future()
        self.outcome: Outcome | None = None
        self.reports: list[Report] = []
        self.left: list[int] | None = None
        """The processes that the trial left running when it gave its outcome; `None` where that is not known."""
        self._channel = channel
        self._sentinel = sentinel
        self._rest = b""
        self._deaf = False
        channel.setblocking(False)
        self._loop.add_reader(channel, self._readable)
        self._loop.add_reader(sentinel, self._gone)

    def give_up(self) -> None:
        """Take nothing in any more: whatever the process still says, it says too late."""
        self._loop.remove_reader(self._channel)
        self._deaf = True

    def close(self) -> None:
        """Stop following, and free the channel."""
        self._loop.remove_reader(self._channel)
        self._loop.remove_reader(self._sentinel)
        self._channel.close()

    def _readable(self) -> bool:
        """Take in what has arrived, which may end inside a message; say whether there may be more."""
        if self._deaf:
            return False
        try:
            data = self._channel.recv(65536)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            self._loop.remove_reader(self._channel)
            self._settle()
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        return not self._deaf

    def _take(self, line: bytes) -> None:
        try:
            message: dict[str, object] = json.loads(line)
        except ValueError:
            text = f"the trial sent what is no message of it: {line[:200]!r}"
            self.outcome = Outcome.failed(FailureKind.CRASH, text)
            self._settle()
            self.give_up()
            return
        self._heard(message)

    @abstractmethod
    def _heard(self, message: Mapping[str, object]) -> None:
        """Take a message in."""

    def _gone(self) -> None:
        self._loop.remove_reader(self._sentinel)
        while self._readable():  # its last words may have arrived together with its end
            pass
        self._settle()
        self.exited.set_result(None)

    def _settle(self, error: Exception | None = None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)


class TrialWatch(Watch):
    """Follow the process of one trial: answer its reports by `on_report`, and keep its outcome."""

    def __init__(self, channel: socket.socket, sentinel: int, on_report: Callable[[Report], bool]) -> None:
        super().__init__(channel, sentinel)
        self._on_report = on_report

    def _heard(self, message: Mapping[str, object]) -> None:
        if "state" in message:
            self.outcome = read_outcome(message, tuple(self.reports))
            self.left = message["left"]  # type: ignore[assignment]
            self._settle()
            self.give_up()  # its first word counts
            return
        report = Report(message["step"], message["metrics"])  # type: ignore[arg-type]
        self.reports.append(report)
        try:
            stop = self._on_report(report)
        except Exception as error:  # the driver's own fault: end the trial, and let `run` raise it
            self._settle(error)
            return
        try:
            self._channel.send(STOP if stop else GO_ON)
        except OSError:
            pass  # the process is gone; the sentinel tells
