from __future__ import annotations

import io
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest

from agentic_hpt.errors import TrackerAway
from agentic_hpt.records import JsonObject, OutboxEntry, Trial, TrialState
from agentic_hpt.tracking.mlflow import EntryRefused
from agentic_hpt.tracking.service import serve


def entry(number: int, round_: int = 1) -> OutboxEntry:
    return OutboxEntry(number, "trial", f"trial/{number}/1", {"trial": {"id": number, "round": round_}})


class MemoryOutbox:
    def __init__(self, *entries: OutboxEntry) -> None:
        self.entries = {e.id: e for e in entries}
        self.refs: dict[int, str] = {}

    def pending(self, limit: int) -> list[OutboxEntry]:
        return [e for e in self.entries.values() if e.id not in self.refs][:limit]

    def claim(self, entries: Sequence[OutboxEntry]) -> None:
        for known in entries:
            self.entries[known.id] = replace(known, claimed=True)

    def sent(self, refs: Mapping[int, str]) -> None:
        self.refs |= refs


class FakeStore:
    """Keeps what is written; `trouble` is asked before each write and may raise."""

    def __init__(self, trouble: Callable[[OutboxEntry], None] = lambda entry: None) -> None:
        self.written: list[OutboxEntry] = []
        self.opened = 0
        self._trouble = trouble

    def open(self) -> FakeStore:
        self.opened += 1
        return self

    def write(self, entry: OutboxEntry) -> str:
        self._trouble(entry)
        self.written.append(entry)
        return f"run-{entry.id}"

    def read_round(self, round_: int) -> list[Trial]:
        rounds = [e.payload["trial"] for e in self.written]
        return [
            Trial(t["id"], {}, TrialState.COMPLETE, 0, "w", "joint", t["round"])  # type: ignore[index, call-overload]
            for t in rounds
            if t["round"] == round_  # type: ignore[index, call-overload]
        ]

    def parent(self) -> str | None:
        return "parent"


class Driver:
    """Speaks with `serve` as the real driver does: line by line, over a stream that stays open."""

    def __init__(self, outbox: MemoryOutbox, make_store: Callable[[], FakeStore]) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        read, write = os.pipe()
        self._answers = os.fdopen(read, encoding="utf-8")
        self._out = os.fdopen(write, "w", encoding="utf-8")
        args = (outbox, make_store, self._requests(), self._out)
        self._thread = threading.Thread(target=serve, args=args, daemon=True)
        self._thread.start()

    def _requests(self) -> Iterator[str]:
        while (line := self._lines.get()) is not None:
            yield line

    def ask(self, **request: object) -> JsonObject:
        self._lines.put(json.dumps({"id": 1, **request}))
        return {k: v for k, v in json.loads(self._answers.readline()).items() if k != "id"}

    def hang_up(self) -> None:
        self._lines.put(None)
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._answers.close()
        self._out.close()


def run(outbox: MemoryOutbox, make_store: Callable[[], FakeStore]) -> None:
    """Serve a driver that has nothing to ask and hangs up at once."""
    serve(outbox, make_store, [], io.StringIO())


def test_everything_is_written_in_order_and_noted() -> None:
    outbox, store = MemoryOutbox(*(entry(n) for n in range(1, 41))), FakeStore()
    run(outbox, store.open)
    assert [e.id for e in store.written] == list(range(1, 41))
    assert outbox.refs == {n: f"run-{n}" for n in range(1, 41)}


def test_entries_are_claimed_before_they_are_written() -> None:
    outbox = MemoryOutbox(entry(1), entry(2))
    seen: list[bool] = []
    run(outbox, FakeStore(lambda e: seen.append(outbox.entries[e.id].claimed)).open)
    assert seen == [True, True]


def test_while_away_nothing_is_lost_or_reordered_and_a_reader_is_told_at_once() -> None:
    down = [True]

    def trouble(known: OutboxEntry) -> None:
        if known.id == 2 and down[0]:
            raise TrackerAway("no answer from https://user:secret@host/")

    outbox, store = MemoryOutbox(*(entry(n) for n in range(1, 5))), FakeStore(trouble)
    driver = Driver(outbox, store.open)
    answer = driver.ask(op="read_round", round=1, expected=4, seconds=60)
    assert answer == {"away": "no answer from https://***@host/"}
    assert driver.ask(op="info")["away"]
    assert driver.ask(op="drain", seconds=0) == {"left": 3}
    down[0] = False
    assert driver.ask(op="drain", seconds=60) == {"left": 0}
    assert [e.id for e in store.written] == [1, 2, 3, 4]
    assert store.opened == 3, "after being away MLflow is opened anew"
    assert [e.claimed for e in store.written] == [False, True, True, True], "what may have been written is looked up"
    assert driver.ask(op="info") == {"run_id": "parent", "away": None}
    driver.hang_up()


def test_who_waits_for_the_last_entries_does_not_wait_for_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentic_hpt.tracking.service._PAUSE", 600.0)
    down = [True]

    def trouble(known: OutboxEntry) -> None:
        if down[0]:
            raise TrackerAway("away")

    outbox, store = MemoryOutbox(entry(1)), FakeStore(trouble)
    driver = Driver(outbox, store.open)
    assert driver.ask(op="read_round", round=1, expected=1, seconds=60) == {"away": "away"}
    down[0] = False
    assert driver.ask(op="drain", seconds=60) == {"left": 0}
    driver.hang_up()


def test_a_store_that_cannot_be_opened_is_away_and_tried_again() -> None:
    store, tries = FakeStore(), []

    def make() -> FakeStore:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("no such store")
        return store

    driver = Driver(MemoryOutbox(entry(1)), make)
    assert driver.ask(op="read_round", round=1, expected=1, seconds=60) == {"away": "no such store"}
    assert driver.ask(op="drain", seconds=60) == {"left": 0}
    driver.hang_up()


def test_an_entry_that_is_refused_for_good_does_not_block_the_rest() -> None:
    asked: list[int] = []

    def trouble(known: OutboxEntry) -> None:
        asked.append(known.id)
        if known.id == 2:
            raise EntryRefused("INVALID_PARAMETER_VALUE: bad")
        if known.id == 3:
            raise KeyError("params")

    outbox = MemoryOutbox(entry(1), entry(2), entry(3, round_=2), entry(4, round_=3))
    driver = Driver(outbox, FakeStore(trouble).open)
    assert driver.ask(op="drain", seconds=60) == {"left": 0}
    assert asked == [1, 2, 2, 2, 3, 3, 3, 4]
    assert outbox.refs[2] == "refused: INVALID_PARAMETER_VALUE: bad"
    assert (outbox.refs[1], outbox.refs[4]) == ("run-1", "run-4")
    assert "refused trial/2/1" in str(driver.ask(op="read_round", round=1, expected=2, seconds=60)["away"])
    assert driver.ask(op="read_round", round=3, expected=1, seconds=60)["trials"]
    driver.hang_up()


def test_a_round_is_read_once_all_of_it_is_there() -> None:
    outbox, store = MemoryOutbox(entry(1)), FakeStore()
    driver = Driver(outbox, store.open)
    short = driver.ask(op="read_round", round=1, expected=2, seconds=0)
    assert "not in MLflow yet" in str(short["away"])
    outbox.entries[2] = entry(2)
    trials = driver.ask(op="read_round", round=1, expected=2, seconds=60)["trials"]
    assert [t["id"] for t in trials] == [1, 2]  # type: ignore[attr-defined]
    driver.hang_up()


def test_a_reader_that_waits_learns_of_what_is_written_later() -> None:
    outbox = MemoryOutbox(entry(1))

    class Late(FakeStore):
        reads = 0

        def read_round(self, round_: int) -> list[Trial]:
            self.reads += 1
            outbox.entries.setdefault(2, entry(2))
            return super().read_round(round_)

    store = Late()
    driver = Driver(outbox, store.open)
    assert len(driver.ask(op="read_round", round=1, expected=2, seconds=60)["trials"]) == 2  # type: ignore[arg-type]
    assert "away" in driver.ask(op="read_round", round=1, expected=3, seconds=0.7)
    assert store.reads == 3, "MLflow is read again only after something was written"
    driver.hang_up()


def test_the_ledger_failing_is_survived_and_the_entry_looked_up_again() -> None:
    class Flaky(MemoryOutbox):
        failures = 1

        def sent(self, refs: Mapping[int, str]) -> None:
            if refs and self.failures:
                self.failures -= 1
                raise OSError("database is locked")
            super().sent(refs)

    outbox, store = Flaky(entry(1)), FakeStore()
    driver = Driver(outbox, store.open)
    assert driver.ask(op="drain", seconds=60) == {"left": 0}
    assert [(e.id, e.claimed) for e in store.written] == [(1, False), (1, True)]
    driver.hang_up()


def test_stop_ends_at_once_when_mlflow_is_away_and_keeps_the_entries() -> None:
    def away(known: OutboxEntry) -> None:
        raise TrackerAway("down")

    outbox = MemoryOutbox(entry(1))
    driver = Driver(outbox, FakeStore(away).open)
    assert driver.ask(op="read_round", round=1, expected=1, seconds=60) == {"away": "down"}
    assert driver.ask(op="stop", seconds=1000) == {}
    driver.hang_up()
    assert outbox.refs == {}


def test_stop_writes_what_is_left_first() -> None:
    outbox, store = MemoryOutbox(*(entry(n) for n in range(1, 51))), FakeStore()
    driver = Driver(outbox, store.open)
    driver.ask(op="stop", seconds=1000)
    driver.hang_up()
    assert len(outbox.refs) == 50


def test_a_driver_that_is_gone_does_not_stop_the_writing() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    outbox = MemoryOutbox(entry(1))
    serve(outbox, FakeStore().open, ['{"op": "info", "id": 1}'], Broken())
    assert outbox.refs == {1: "run-1"}
