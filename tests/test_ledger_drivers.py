"""Who drives a study: one process; a dead one is replaced, and one that only stood still writes nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentic_hpt.errors import FailureKind, LedgerError, StudyBusy
from agentic_hpt.ledger import Hold, StudyLedger
from agentic_hpt.records import ActionRecord, Budget, DecisionRecord, FinalReport, ModelCall, Outcome
from ledger_homes import KINDS, Home, opened

NEVER = 10_000.0
"""A lease that no test waits for."""
SOON = 1.0
DONE = Outcome.complete({"accuracy": 0.5})

DRIVER = """
import os, sys
from agentic_hpt.ledger import LedgerStore
from agentic_hpt.records import Budget
store = LedgerStore(sys.argv[1])
row = store.find("digits")
hold = store.hold(row.uid, float(sys.argv[2]))
ledger = store.open_study(row, budget=Budget(), seed=7, hold=hold)
ledger.reserve(round_=1, worker="w", kind="joint", params={"i": 0}, tuned=("i",), begin=True)
print("driving", hold.epoch, flush=True)
sys.stdin.readline()
try:
    ledger.add_seconds(5.0)
    store.set_status(row.uid, "stopped", "user", hold=hold)
except Exception as error:
    print(type(error).__name__, error, hold.lost, flush=True)
os._exit(0)
"""


@pytest.fixture(params=KINDS)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    yield from opened(request, tmp_path)


@pytest.fixture
def drive(home: Home) -> Iterator[Callable[[float], subprocess.Popen[str]]]:
    """Drive the study from another process."""
    begun: list[subprocess.Popen[str]] = []

    def start(lease: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DRIVER, home.url, str(lease)]
        begun.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        stdout = begun[-1].stdout
        assert stdout is not None
        assert stdout.readline().startswith("driving")
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def driven(home: Home, hold: Hold) -> StudyLedger:
    return home.store().open_study(home.row, budget=Budget(), seed=7, hold=hold)


def begin(ledger: StudyLedger) -> None:
    trial = ledger.reserve(round_=1, worker="w", kind="joint", params={"n": 1}, tuned=("n",), begin=True)
    assert trial is not None


def taken_over(home: Home) -> tuple[StudyLedger, Hold]:
    """Give the ledger and the hold of a driver that another has just replaced."""
    hold = home.store().hold(home.row.uid, None)
    ledger = driven(home, hold)
    begin(ledger)
    ledger.start(0)
    home.store().hold(home.row.uid, None)
    return ledger, hold


# -- taking and letting go ------------------------------------------------------------------------------------------


def test_each_driver_has_an_epoch_of_its_own(home: Home) -> None:
    store = home.store()
    assert not store.is_driven(home.row.uid, NEVER)
    for epoch in (1, 2, 3):
        hold = store.hold(home.row.uid, NEVER)
        assert hold.epoch == epoch
        assert store.is_driven(home.row.uid, NEVER)
        begin(driven(home, hold))
        hold.release()
        assert not store.is_driven(home.row.uid, NEVER)
    assert home.sql("select number, epoch from hpt_attempts order by number") == [(0, 1), (1, 2), (2, 3)]


def test_a_study_that_lives_is_refused_and_its_driver_named(home: Home) -> None:
    store = home.store()
    hold = store.hold(home.row.uid, SOON)
    with pytest.raises(StudyBusy, match=f"'digits' is being run by another process: {os.getpid()} on ") as caught:
        home.store().hold(home.row.uid, SOON)
    assert caught.value.exit_code == 2
    begin(driven(home, hold))
    hold.release()


def test_a_study_whose_driver_was_killed_is_taken_at_once(
    home: Home, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    killed = drive(NEVER)
    store = home.store()
    assert store.is_driven(home.row.uid, NEVER)
    killed.kill()
    killed.wait()
    assert not store.is_driven(home.row.uid, NEVER)
    hold = store.hold(home.row.uid, NEVER)
    assert hold.epoch == 2
    hold.release()


def test_a_driver_that_only_stood_still_writes_nothing_more(
    home: Home, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    paused = drive(SOON)
    paused.send_signal(signal.SIGSTOP)
    hold = home.store().hold(home.row.uid, SOON)
    ledger = driven(home, hold)
    ledger.finish(0, ledger.start(0).attempt, DONE)
    paused.send_signal(signal.SIGCONT)
    told, _ = paused.communicate("go\n", timeout=60)
    assert told.startswith("LedgerError another process took the study over")
    assert told.rstrip().endswith("True"), "it knows"
    assert home.sql("select seconds, status from hpt_studies") == [(0.0, "running")]
    assert home.sql("select attempt, state, epoch from hpt_attempts order by attempt") == [
        (1, "lost", 1),
        (2, "complete", 2),
    ]
    hold.release()


def test_the_wall_clock_decides_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat that lies in the future, or long ago, is one that moves or one that doesn't."""
    store = home.store()
    hold = store.hold(home.row.uid, SOON)
    stop = threading.Event()

    def turn_the_clock() -> None:
        for at in (0.0, 4e9) * 1000:
            if stop.is_set():
                return
            home.sql(f"update hpt_drivers set beaten = {at}")
            time.sleep(0.02)

    monkeypatch.setattr(time, "time", lambda: 0.0)
    turning = threading.Thread(target=turn_the_clock)
    turning.start()
    try:
        with pytest.raises(StudyBusy):
            home.store().hold(home.row.uid, SOON)
    finally:
        stop.set()
        turning.join()
    begin(driven(home, hold))
    hold.release()


def test_of_two_who_take_a_study_at_once_one_has_it(home: Home) -> None:
    stores = [home.store() for _ in range(4)]
    held: list[Hold] = []
    refused: list[StudyBusy] = []
    together = threading.Barrier(len(stores))

    def take(number: int) -> None:
        together.wait()
        try:
            held.append(stores[number].hold(home.row.uid, SOON))
        except StudyBusy as error:
            refused.append(error)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 3)
    begin(driven(home, held[0]))
    held[0].release()


# -- the fence ------------------------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[StudyLedger], object]] = {
    "reserve": begin,
    "start": lambda ledger: ledger.start(0),
    "lose": lambda ledger: ledger.lose(0, 2, "gone"),
    "finish": lambda ledger: ledger.finish(0, 2, DONE),
    "import": lambda ledger: ledger.import_trials([ledger.trial(0)]),
    "seconds": lambda ledger: ledger.add_seconds(1.0),
    "decision": lambda ledger: ledger.record_decision(
        DecisionRecord(1, "rules", (ActionRecord("continue", "r", (), "accepted", "v"),))
    ),
    "evidence": lambda ledger: ledger.record_evidence(1, {}),
    "call": lambda ledger: ledger.record_call(ModelCall(1, "m", "v1", "h", "p", "a", 1, 1, 0.0, 1.0)),
    "study": lambda ledger: ledger.post_study({}),
    "final": lambda ledger: ledger.record_final(FinalReport(0, 0.9, 3, 0.88, 0.01, 0.87, 0.02), {}),
}


def everything(home: Home) -> dict[str, object]:
    tables = ("studies", "trials", "attempts", "reports", "decisions", "evidence", "model_calls", "outbox", "drivers")
    return {table: home.sql(f"select * from hpt_{table}") for table in tables}


@pytest.mark.parametrize("write", WRITES)
def test_whatever_a_replaced_driver_writes_is_refused(home: Home, write: str) -> None:
    ledger, hold = taken_over(home)
    assert not hold.lost
    before = everything(home)
    with pytest.raises(LedgerError, match="another process took the study over: nothing more is written"):
        WRITES[write](ledger)
    assert hold.lost
    assert everything(home) == before
    assert ledger.trial(0).attempt == 2, "memory stays as it was, too"


def test_a_replaced_driver_can_not_say_how_the_study_stands(home: Home) -> None:
    _, hold = taken_over(home)
    with pytest.raises(LedgerError, match="took the study over"):
        home.store().set_status(home.row.uid, "stopped", "user", hold=hold)
    assert home.store().find("digits").status == "running"


def test_a_replaced_driver_can_not_remove_the_study(home: Home) -> None:
    _, hold = taken_over(home)
    with pytest.raises(LedgerError, match="took the study over"):
        home.store().discard(home.row.uid, hold=hold)
    assert home.store().find("digits").status == "running"


def test_letting_go_late_does_not_let_the_next_driver_go(home: Home) -> None:
    _, hold = taken_over(home)
    hold.release()
    assert home.store().is_driven(home.row.uid, NEVER)


def test_a_note_is_left_whoever_drives(home: Home) -> None:
    ledger, _ = taken_over(home)
    assert [note.text for note in (ledger.add_note("slower"), *ledger.notes())] == ["slower"] * 2


def test_all_that_write_under_one_hold_get_through(home: Home) -> None:
    hold = home.store().hold(home.row.uid, None)
    ledgers = [driven(home, hold) for _ in range(4)]

    def write(number: int) -> None:
        for _ in range(10):
            ledgers[number].record_call(ModelCall(number, "m", "v1", "h", "p", "a", 1, 1, 0.0, 1.0))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert home.sql("select count(*) from hpt_model_calls") == [(40,)]
    assert home.sql("select written from hpt_drivers") == [(40,)]
    hold.release()


def test_a_refused_answer_leaves_the_driver_in_hold(home: Home) -> None:
    ledger = driven(home, home.store().hold(home.row.uid, None))
    begin(ledger)
    with pytest.raises(LedgerError, match="refused"):
        ledger.finish(0, 5, DONE)
    home.forbid("insert on hpt_outbox")
    with pytest.raises(LedgerError, match="not today"):
        ledger.finish(0, 1, Outcome.failed(FailureKind.CRASH, "x"))
    home.allow()
    assert ledger.finish(0, 1, DONE).finished
