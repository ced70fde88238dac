"""The process that evaluates batches: the driver's side."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from agentic_hpt.executors import host
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.executors.watch import Watch
from agentic_hpt.records import Job, JsonObject, Outcome

__all__ = ["Host"]

Heard = Callable[[Mapping[str, object]], JsonObject | None]
"""Takes a message in, and gives the answer to it if there is one."""


class Host:
    """One such process, started at once, as a trial's is; `job` is what is known of it, its limits among this."""

    def __init__(self, processes: ProcessExecutor, job: Job) -> None:
        self._process = asyncio.create_task(processes.attend(job, host.main, self._watched))
        self._heard: Heard = lambda message: None
        self._watch: _HostWatch | None = None
        self._unsaid: JsonObject | None = None
        self._killed = False
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def runs(self) -> bool:
        """Whether the process has not ended yet, as far as is known, and is not about to."""
        return not self._killed and not self._process.done()

    async def evaluate(self, jobs: Sequence[Job], heard: Heard) -> Outcome | None:
        """Hand jobs over, and wait until all are told: `None`; or until the process ended: why it did.

        `None`, too, where it was killed by `kill`. What it says of the jobs is told to `heard`.
        """
        self._heard, self._done = heard, asyncio.get_running_loop().create_future()
        message: JsonObject = {"jobs": [asdict(job) for job in jobs]}
        if self._watch is None:
            self._unsaid = message
        else:
            self._watch.say(message)
        ends: list[asyncio.Future[None] | asyncio.Task[Outcome]] = [self._done, self._process]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._done.done():
            self._done.result()  # raises what the driver's own code did
            return None
        return None if self._process.cancelled() else self._process.result()

    def kill(self) -> None:
        """Have the process killed, with all that it started; what it still says is not heard."""
        if not self._killed:  # a second word would end the waiting for the process's end
            self._heard = lambda message: None
            self._killed = True
            self._process.cancel()

    async def ended(self) -> None:
        """Wait until the process is gone."""
        await asyncio.wait([self._process])

    def _watched(self, channel: socket.socket, sentinel: int) -> Watch:
        self._watch = _HostWatch(channel, sentinel, self._hear)
        if self._unsaid is not None:
            self._watch.say(self._unsaid)
        return self._watch

    def _hear(self, message: Mapping[str, object]) -> JsonObject | None:
        try:
            answer = self._heard(message)
        except Exception as error:
            self._done.set_exception(error)
            self._heard = lambda message: None
            return None
        if "done" in message and not self._done.done():
            self._done.set_result(None)
        return answer


class _HostWatch(Watch):
    """Follow the process, and talk to it without ever waiting."""

    def __init__(self, channel: socket.socket, sentinel: int, heard: Heard) -> None:
        super().__init__(channel, sentinel)
        self._heard_by = heard
        self._unsent = bytearray()
        self._writing = False

    def say(self, message: JsonObject) -> None:
        """Send a message, now or once there is room for it."""
        self._unsent += json.dumps(message).encode() + b"\n"
        self._send()

    def close(self) -> None:
        """Stop following and talking, and free the channel."""
        self._loop.remove_writer(self._channel)
        super().close()

    def _send(self) -> None:
        try:
            del self._unsent[: self._channel.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # the process is gone; the sentinel tells
        if bool(self._unsent) != self._writing:
            self._writing = bool(self._unsent)
            if self._writing:
                self._loop.add_writer(self._channel, self._send)
            else:
                self._loop.remove_writer(self._channel)

    def _heard(self, message: Mapping[str, object]) -> None:
        answer = self._heard_by(message)
        if answer is not None:
            self.say(answer)
