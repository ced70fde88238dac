"""A PostgreSQL ledger whose connections are lost: everything is written once, and the outage is waited out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentic_hpt.errors import ConfigError, FailureKind, LedgerError
from agentic_hpt.ledger import LedgerStore, StudyLedger, database, open_outbox
from agentic_hpt.records import Budget, ModelCall, Outcome, Trial, TrialState
from cutting_proxy import CuttingProxy, Moment
from ledger_homes import Home, opened
from postgres_server import PostgresServer

pytestmark = pytest.mark.postgres

CALL = ModelCall(1, "m", "v1", "h", "p", "a", 5, 5, 0.25, 1.0)
DONE = Outcome.complete({"accuracy": 0.5}, seconds=1.0)


@pytest.fixture
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    request.param = "postgresql"
    yield from opened(request, tmp_path)


@pytest.fixture
def proxy(home: Home) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(home.url)
    yield proxy
    proxy.away()


@pytest.fixture
def ledger(home: Home, proxy: CuttingProxy) -> Iterator[StudyLedger]:
    """The driver's ledger, through the proxy."""
    store = LedgerStore(proxy.url)
    hold = store.hold(home.row.uid, None)
    yield store.open_study(home.row, budget=Budget(), seed=7, hold=hold)
    store.close()


def begin(ledger: StudyLedger) -> Trial:
    trial = ledger.reserve(round_=1, worker="w", kind="joint", params={"n": 1}, tuned=("n",), begin=True)
    assert trial is not None
    return trial


WRITES: dict[str, Callable[[StudyLedger], object]] = {
    "call": lambda ledger: ledger.record_call(CALL),
    "reserve": begin,
    "finish": lambda ledger: ledger.finish(0, 1, DONE),
    "seconds": lambda ledger: ledger.add_seconds(2.0),
    "note": lambda ledger: ledger.add_note("slower"),
}
FOUND = (
    "select (select count(*) from hpt_model_calls), (select count(*) from hpt_trials),"
    " (select count(*) from hpt_outbox), (select seconds from hpt_studies), (select count(*) from hpt_notes)"
)
WRITTEN = {
    "call": (1, 1, 0, 0.0, 0),
    "reserve": (0, 2, 0, 0.0, 0),
    "finish": (0, 1, 1, 0.0, 0),
    "seconds": (0, 1, 0, 2.0, 0),
    "note": (0, 1, 0, 0.0, 1),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_is_written_is_written_once_when_the_commit_gets_no_answer(
    home: Home, proxy: CuttingProxy, ledger: StudyLedger, write: str, moment: Moment
) -> None:
    begin(ledger)
    proxy.cut(moment)
    WRITES[write](ledger)
    assert proxy.cuts == 1
    assert home.sql(FOUND) == [WRITTEN[write]]
    assert ledger.usage() == home.open().usage(), "memory says the same"
    ledger.record_call(CALL)
    assert home.open().usage().calls == WRITTEN[write][0] + 1, "and it goes on"


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("what", [b"hpt_drivers", b"hpt_attempts", b"hpt_outbox"])
def test_a_connection_that_is_lost_in_mid_transaction_changes_nothing(
    home: Home, proxy: CuttingProxy, ledger: StudyLedger, what: bytes, moment: Moment
) -> None:
    begin(ledger)
    proxy.cut(moment, what)
    ledger.finish(0, 1, DONE)
    assert proxy.cuts == 1
    assert home.sql(FOUND) == [WRITTEN["finish"]]
    assert home.sql("select state from hpt_attempts") == [("complete",)]


def test_reading_goes_on_over_another_connection(home: Home, proxy: CuttingProxy, ledger: StudyLedger) -> None:
    begin(ledger)
    proxy.cut("before", b"hpt_outbox")
    assert ledger.unsent() == 0
    assert proxy.cuts == 1


def test_a_study_is_made_once_when_the_commit_gets_no_answer(home: Home, proxy: CuttingProxy) -> None:
    store = LedgerStore(proxy.url)
    proxy.cut("after")
    made = store.create_study("other", {})
    assert (proxy.cuts, made.name) == (1, "other")
    assert home.sql("select count(*) from hpt_studies where name = 'other'") == [(1,)]
    store.close()


def test_an_outage_is_waited_out_by_all_who_write_and_read(
    home: Home, proxy: CuttingProxy, ledger: StudyLedger
) -> None:
    outbox = open_outbox(proxy.url, home.row.uid)
    begin(ledger)
    proxy.away()
    done: list[object] = []
    threads = [
        threading.Thread(target=lambda: done.append(ledger.finish(0, 1, DONE).state)),
        threading.Thread(target=lambda: done.append(len(outbox.pending(5)))),
    ]
    for thread in threads:
        thread.start()
    threads[0].join(0.5)
    assert done == [], "nobody has given up, and nobody has an answer"
    proxy.back()
    for thread in threads:
        thread.join(60)
    assert TrialState.COMPLETE in done
    assert len(done) == 2
    assert home.open().trial(0).state is TrialState.COMPLETE


def test_an_outage_that_is_too_long_stops_the_study_which_then_is_resumed(
    home: Home, proxy: CuttingProxy, ledger: StudyLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(ledger)
    proxy.away()
    monkeypatch.setattr(database, "OUTAGE_SECONDS", 0.2)
    for write in (lambda: ledger.finish(0, 1, DONE), lambda: ledger.add_seconds(1.0)):
        with pytest.raises(LedgerError, match="has not answered for 0 s") as caught:
            write()
        assert "hpt resume" in caught.value.hint
        assert "pg-hunter22" not in str(caught.value)
    assert ledger.trial(0).state is TrialState.RUNNING
    proxy.back()
    assert ledger.finish(0, 1, DONE).state is TrialState.COMPLETE
    assert home.sql(FOUND) == [WRITTEN["finish"]]


def test_a_server_that_stands_still_stops_the_study_too(
    home: Home, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LedgerStore(f"{home.url}?connect_timeout=2")
    ledger = store.open_study(home.row, budget=Budget(), seed=7, hold=store.hold(home.row.uid, None))
    begin(ledger)
    monkeypatch.setattr("agentic_hpt.listening.SILENT_SECONDS", 0.3)
    monkeypatch.setattr(database, "OUTAGE_SECONDS", 0.2)
    caught: list[LedgerError] = []

    def finish() -> None:
        try:
            ledger.finish(0, 1, DONE)
        except LedgerError as error:
            caught.append(error)

    telling = threading.Thread(target=finish, daemon=True)
    postgres.pause()
    try:
        telling.start()
        telling.join(30)
    finally:
        postgres.resume()
    assert "has not answered for 0 s" in str(caught)
    assert ledger.finish(0, 1, DONE).state is TrialState.COMPLETE
    assert home.sql(FOUND) == [WRITTEN["finish"]]
    store.close()


def test_a_commit_that_went_through_after_its_caller_gave_up_does_not_lock_the_driver_out(
    home: Home, proxy: CuttingProxy, ledger: StudyLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "OUTAGE_SECONDS", -1.0)
    proxy.cut("after")
    with pytest.raises(LedgerError, match="has not answered"):
        ledger.record_call(CALL)
    ledger.add_seconds(2.0)
    assert home.sql(FOUND) == [(1, 0, 0, 2.0, 0)]


def test_a_server_that_is_stopped_and_started_again_loses_nothing(home: Home, postgres: PostgresServer) -> None:
    hold = home.store().hold(home.row.uid, 1.0)
    ledger = home.store().open_study(home.row, budget=Budget(), seed=7, hold=hold)
    started = threading.Event()

    def restart() -> None:
        started.wait()
        postgres.kill()
        postgres.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    for number in range(60):
        begin(ledger)
        ledger.finish(number, 1, DONE)
        if number == 20:
            started.set()
    while restarting.is_alive():
        ledger.add_seconds(0.1)
    restarting.join()
    assert not hold.lost
    assert home.store().is_driven(home.row.uid, 1.0)
    assert [t.state for t in home.open().trials()] == [TrialState.COMPLETE] * 60
    assert ledger.unsent() == 60
    hold.release()


def test_a_driver_that_stands_still_in_mid_transaction_keeps_nobody_out(home: Home) -> None:
    """Its session is ended by the server, and with it what it has locked."""
    store = home.store()
    first = store.hold(home.row.uid, None)
    ledger = store.open_study(home.row, budget=Budget(), seed=7, hold=first)
    inside, go_on = threading.Event(), threading.Event()

    def stand_still(connection: object) -> None:
        if not inside.is_set():
            inside.set()
            go_on.wait()

    refused: list[LedgerError] = []

    def write() -> None:
        try:
            ledger._write(stand_still)
            ledger.add_seconds(1.0)
        except LedgerError as error:
            refused.append(error)

    still = threading.Thread(target=write)
    still.start()
    inside.wait()
    second = home.store().hold(home.row.uid, None)
    go_on.set()
    still.join()
    assert second.epoch == 2
    assert "took the study over" in str(refused[0])
    assert home.sql("select seconds from hpt_studies") == [(0.0,)]


# -- opening --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["password", "database", "port"])
def test_an_address_that_is_wrong_is_refused_at_once_without_the_password(
    postgres: PostgresServer, home: Home, wrong: str
) -> None:
    url = {
        "password": postgres.url("postgres", password="wr0ng-word"),
        "database": postgres.url("nothing_here"),
        "port": home.url.replace(f":{postgres.port}/", ":1/"),
    }[wrong]
    with pytest.raises(ConfigError, match="can't be reached") as caught:
        LedgerStore(url)
    assert caught.value.exit_code == 2
    assert "wr0ng-word" not in str(caught.value)
    assert "pg-hunter22" not in str(caught.value)


def test_a_user_without_rights_is_told_so(home: Home, postgres: PostgresServer) -> None:
    home.sql("drop role if exists guest")
    home.sql("create role guest login password 'gu3st-word'")
    url = home.url.replace("tuner:pg-hunter22", "guest:gu3st-word")
    home.sql("drop schema public cascade")
    home.sql("create schema public")
    with pytest.raises(ConfigError, match="can't be used: no schema") as caught:
        LedgerStore(url)
    assert "gu3st-word" not in str(caught.value)
    home.sql("drop role guest")


@pytest.mark.parametrize("text", ["a\0b", "lone \udc80 byte", "\0\ud800"])
def test_texts_that_no_database_takes_are_written_out(home: Home, text: str) -> None:
    ledger = home.open(Budget())
    begin(ledger)
    assert ledger.lose(0, 1, text) == 1
    ledger.start(0)
    ledger.finish(0, 2, Outcome.failed(FailureKind.CRASH, text))
    ledger.add_note(text)
    home.store().set_status(home.row.uid, "stopped", "error", text)
    again = home.open()
    told = again.trial(0).message
    assert told == ledger.trial(0).message
    assert told == next(n.text for n in again.notes()) == home.store().find("digits").error
    assert "\0" not in told
    assert told.encode().isascii()
