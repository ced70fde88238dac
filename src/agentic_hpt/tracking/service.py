"""The writer's loop: tell MLflow what stands in the outbox, in order, and answer the driver's requests between entries.

A request is one JSON line with an `id`; its answer is one JSON line with the same `id`:

    {"op": "read_round", "round": 3, "expected": 20, "seconds": 30}   {"trials": [...]} or {"away": "why"}
    {"op": "drain", "seconds": 10}                                    {"left": 0}
    {"op": "info"}                                                    {"run_id": "..." or null, "away": null or "why"}
    {"op": "stop", "seconds": 10}                                     {}, then drains for at most so long and ends

The end of the requests (the driver ended, or died) is a stop too.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TextIO, cast

from agentic_hpt.config import mask_secrets
from agentic_hpt.errors import TrackerAway
from agentic_hpt.protocols import Outbox
from agentic_hpt.records import JsonObject, OutboxEntry, Trial
from agentic_hpt.tracking.encoding import trial_to_json

_BATCH = 16
_POLL = 0.2  # a request ends the pause at once; only unasked-for writing waits so long
_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_TRIES = 3
_REREAD = 1.0
_LAST_SECONDS = 20.0
_COUNTED = 1000


class Store(Protocol):
    """What the loop needs of MLflow."""

    def write(self, entry: OutboxEntry) -> str:
        """Write one entry and give its run's id."""

    def read_round(self, round_: int) -> list[Trial]:
        """Read a round's trials back."""

    def parent(self) -> str | None:
        """Give the id of the study's own run."""


def serve(
    outbox: Outbox, make_store: Callable[[], Store], requests: Iterable[bytes] | Iterable[str], answers: TextIO
) -> None:
    """Write and answer until the requests end or ask to stop, and nothing is left or can be written shortly."""
    inbox: queue.SimpleQueue[JsonObject | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), daemon=True).start()
    _Loop(outbox, make_store, inbox, answers).run()


def _listen(requests: Iterable[bytes] | Iterable[str], inbox: queue.SimpleQueue[JsonObject | None]) -> None:
    for line in requests:
        inbox.put(json.loads(line))
    inbox.put(None)


@dataclass(slots=True)
class _Waiting:
    """A request that isn't answered yet."""

    request: JsonObject
    deadline: float
    read_at: float = 0.0
    """When MLflow was last read for it."""


class _Loop:
    def __init__(
        self,
        outbox: Outbox,
        make_store: Callable[[], Store],
        inbox: queue.SimpleQueue[JsonObject | None],
        answers: TextIO,
    ) -> None:
        self._outbox = outbox
        self._make_store = make_store
        self._inbox = inbox
        self._answers = answers
        self._store: Store | None = None
        self._away: str | None = None
        self._pause = _PAUSE
        self._resume_at = 0.0
        self._tries = 0
        """How often the oldest entry was refused."""
        self._refused: dict[object, str] = {}
        """By round, why a run of it will never be in MLflow."""
        self._wrote_at = 0.0
        self._empty = False
        """Whether nothing was pending when last looked, after the newest request."""
        self._waiting: list[_Waiting] = []
        self._stop_at: float | None = None

    def run(self) -> None:
        """Go on until stopped."""
        while True:
            busy = self._deliver()
            self._settle()
            if self._stop_at is not None and (self._empty or self._away or time.monotonic() >= self._stop_at):
                return
            self._hear(0.0 if busy else _POLL)

    # -- writing

    def _deliver(self) -> bool:
        """Write the next few entries; say whether there may be more to do at once."""
        if time.monotonic() < self._resume_at:
            return False
        done: dict[int, str] = {}
        try:
            if self._store is None:
                self._store = self._make_store()
            entries = self._outbox.pending(_BATCH)
            self._empty = not entries
            if entries:
                self._outbox.claim(entries)
                try:
                    self._write(entries, done)
                finally:
                    self._outbox.sent(done)
        except Exception as error:  # the writer outlives whatever MLflow or the ledger does
            self._go_away(error)
            return False
        self._away, self._pause = None, _PAUSE
        return bool(done)

    def _write(self, entries: list[OutboxEntry], done: dict[int, str]) -> None:
        store = cast(Store, self._store)
        for entry in entries:
            try:
                done[entry.id] = store.write(entry)
            except TrackerAway:
                raise
            except Exception as error:  # a refusal, or an entry that can't be understood
                self._tries += 1
                if self._tries < _TRIES:
                    self._resume_at = time.monotonic() + _PAUSE
                    return
                done[entry.id] = self._give_up(entry, error)
            self._tries = 0
            self._wrote_at = time.monotonic()
            self._hear(0.0)
            if self._stop_at is not None and time.monotonic() >= self._stop_at:
                return

    def _give_up(self, entry: OutboxEntry, error: Exception) -> str:
        reason = mask_secrets(str(error) or type(error).__name__)
        logging.getLogger(__name__).warning("MLflow refused %s: %s", entry.key, reason)
        trial = entry.payload.get("trial")
        if isinstance(trial, dict):
            self._refused[trial.get("round")] = f"MLflow refused {entry.key}: {reason}"
        return f"refused: {reason}"

    def _go_away(self, error: Exception) -> None:
        self._away = mask_secrets(str(error) or type(error).__name__)
        logging.getLogger(__name__).warning("MLflow is away: %s", self._away)
        self._store = None  # a server that comes back may know another experiment under this name
        self._resume_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    # -- answering

    def _hear(self, patience: float) -> None:
        """Take in the requests that are there, waiting for the first."""
        try:
            while True:
                self._take(self._inbox.get(timeout=patience) if patience else self._inbox.get_nowait())
                patience = 0.0
        except queue.Empty:
            return

    def _take(self, request: JsonObject | None) -> None:
        now = time.monotonic()
        self._empty = False
        if request is None:
            last = now + _LAST_SECONDS
            self._stop_at = last if self._stop_at is None else min(self._stop_at, last)
            return
        waiting = _Waiting(request, now + float(cast(float, request.get("seconds", 0.0))))
        if request["op"] == "stop":
            self._stop_at = waiting.deadline
            self._answer(request, {})
        elif request["op"] == "info":
            self._answer(request, self._info())
        else:
            self._waiting.append(waiting)
            if request["op"] == "drain":  # who waits for the last entries must not wait for a pause to end
                self._resume_at = 0.0

    def _info(self) -> JsonObject:
        try:
            run_id = self._store.parent() if self._store is not None else None
        except TrackerAway as error:
            self._go_away(error)
            run_id = None
        return {"run_id": run_id, "away": self._away}

    def _settle(self) -> None:
        """Answer what waits, where it can be answered now."""
        self._waiting = [entry for entry in self._waiting if not self._settled(entry)]

    def _settled(self, waiting: _Waiting) -> bool:
        request, over = waiting.request, time.monotonic() >= waiting.deadline
        if request["op"] == "drain":
            if not (self._empty or over):
                return False
            self._answer(request, {"left": 0 if self._empty else self._left()})
            return True
        answer = self._read(waiting) or ({"away": f"round {request['round']} is not in MLflow yet"} if over else None)
        if answer is not None:
            self._answer(request, answer)
        return answer is not None

    def _left(self) -> int:
        try:
            return len(self._outbox.pending(_COUNTED))
        except Exception as error:
            self._go_away(error)
            return 1

    def _read(self, waiting: _Waiting) -> JsonObject | None:
        """Give the round's trials when all are there, why they can't be had, or `None` while they may still come."""
        round_, now = cast(int, waiting.request["round"]), time.monotonic()
        if self._away is not None:
            return {"away": self._away}
        if round_ in self._refused:
            return {"away": self._refused[round_]}
        fresh = self._wrote_at >= waiting.read_at and (self._empty or now >= waiting.read_at + _REREAD)
        if self._store is None or not fresh:
            return None
        waiting.read_at = now
        try:
            trials = self._store.read_round(round_)
        except Exception as error:
            self._go_away(error)
            return {"away": self._away}
        if len(trials) < cast(int, waiting.request["expected"]):
            return None
        return {"trials": [trial_to_json(trial) for trial in trials]}

    def _answer(self, request: JsonObject, answer: JsonObject) -> None:
        try:
            self._answers.write(json.dumps({"id": request["id"], **answer}) + "\n")
            self._answers.flush()
        except OSError:
            pass  # the driver is gone; what is left to write still matters
