"""The driver's side of one trial process: its messages and its end, followed from the event loop without a thread."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

from agentic_hpt.executors.child import GO_ON, STOP, read_outcome
from agentic_hpt.records import Outcome, Report

__all__ = ["Watch"]


class Watch:
    """Follow a trial process by its `channel` and its `sentinel` (readable once the process has ended).

    `ended` is done when the outcome is known or the process is gone, and holds the error if `on_report` raised;
    `exited` is done when the process is gone.
    """

    def __init__(self, channel: socket.socket, sentinel: int, on_report: Callable[[Report], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.exited: asyncio.Future[None] = self._loop.create_future()
        self.outcome: Outcome | None = None
        self.reports: list[Report] = []
        self._channel = channel
        self._sentinel = sentinel
        self._on_report = on_report
        self._rest = b""
        channel.setblocking(False)
        self._loop.add_reader(channel, self._readable)
        self._loop.add_reader(sentinel, self._gone)

    def close(self) -> None:
        """Stop following, and free the channel."""
        self._loop.remove_reader(self._channel)
        self._loop.remove_reader(self._sentinel)
        self._channel.close()

    def _readable(self) -> bool:
        """Take in what has arrived, which may end inside a message; say whether there may be more."""
        try:
            data = self._channel.recv(65536)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            self._loop.remove_reader(self._channel)  # the sentinel tells how it ended
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        return True

    def _take(self, message: dict[str, object]) -> None:
        if "state" in message:
            self.outcome = read_outcome(message, tuple(self.reports))
            self._settle()
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
