"""What a SQLite ledger can suffer: a full disk, no right to write, damage, another's lock. Told in plain words."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from agentic_hpt.config import Settings, StudyConfig
from agentic_hpt.errors import LedgerError
from agentic_hpt.ledger import LedgerStore, StudyLedger
from agentic_hpt.records import Budget, Outcome, Report, Trial, TrialState
from agentic_hpt.study import Study, resume_study
from ledger_homes import Home
from study_runs import describe, finished

LONG = Outcome.complete({"m": 1.0}, reports=tuple(Report(step, {"m": step / 7}) for step in range(3000)))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield home
    home.close()


@pytest.fixture
def connected() -> Iterator[Callable[[str], None]]:
    """Set something of every connection that is made from here on, as the machine's state would."""
    set_up: list[Callable[..., None]] = []

    def have(pragma: str) -> None:
        def on_connect(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute(f"PRAGMA {pragma}")

        set_up.append(on_connect)
        event.listen(Engine, "connect", on_connect)

    yield have
    for on_connect in set_up:
        event.remove(Engine, "connect", on_connect)


def begin(ledger: StudyLedger) -> Trial:
    trial = ledger.reserve(round_=1, worker="w", kind="joint", params={"n": 1}, tuned=("n",), begin=True)
    assert trial is not None
    return trial


def driven(home: Home) -> StudyLedger:
    store = home.store()
    hold = store.hold(home.row.uid, None)
    return store.open_study(home.row, budget=Budget(), seed=7, hold=hold)


def assert_whole(home: Home) -> None:
    assert home.sql("pragma integrity_check") == [("ok",)]
    assert home.sql("select count(*) from hpt_reports") == [(0,)]
    assert home.sql("select state, attempt from hpt_trials") == [("running", 1)]


@pytest.mark.parametrize(
    ("pragma", "told"),
    [
        ("max_page_count = {pages}", "the disk is full .*make room; the study can be resumed then"),
        ("query_only = on", "it can't be written .*check the rights"),
    ],
)
def test_a_write_that_fails_leaves_nothing_half_written(
    home: Home, connected: Callable[[str], None], pragma: str, told: str
) -> None:
    begin(driven(home))
    home.close()
    ledger = driven(home)
    home.close()
    ((pages,),) = home.sql("pragma page_count")
    connected(pragma.format(pages=pages))
    with pytest.raises(LedgerError, match=f"the ledger .*ledger.db: {told}"):
        ledger.finish(0, 1, LONG)
    assert ledger.trial(0).state is TrialState.RUNNING
    assert_whole(home)


def test_after_a_full_disk_the_driver_can_go_on(home: Home, connected: Callable[[str], None]) -> None:
    ledger = driven(home)
    begin(ledger)
    full = home.sql("pragma page_count")[0][0]
    home.close()
    connected(f"max_page_count = {full}")
    with pytest.raises(LedgerError, match="disk is full"):
        ledger.finish(0, 1, LONG)
    home.close()
    connected("max_page_count = 100000")
    assert ledger.finish(0, 1, LONG).finished
    assert home.open().trial(0).reports == LONG.reports


def test_another_processes_lock_is_waited_for_and_named(home: Home, connected: Callable[[str], None]) -> None:
    ledger = driven(home)
    begin(ledger)
    home.close()
    connected("busy_timeout = 50")
    other = sqlite3.connect(home.path, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(LedgerError, match="another process keeps it locked"):
        ledger.finish(0, 1, LONG)
    assert [t.state for t in home.open().trials()] == [TrialState.RUNNING], "looking is possible all the same"
    other.execute("rollback")
    other.close()
    assert ledger.finish(0, 1, LONG).finished


def test_a_damaged_file_is_told_from_all_else(home: Home) -> None:
    ledger = driven(home)
    for _ in range(60):
        begin(ledger)
    home.sql("pragma wal_checkpoint(truncate)")
    home.close()
    content = bytearray(home.path.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    home.path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"the file is damaged .*restore a backup"):
        ledger.start(0)
    with pytest.raises(LedgerError, match=r"ledger\.db can't be read: .*malformed"):
        LedgerStore(home.url)


def test_a_file_in_a_folder_that_can_not_be_written_can_be_looked_into(home: Home, tmp_path: Path) -> None:
    ledger = driven(home)
    begin(ledger)
    home.close()
    tmp_path.chmod(0o500)
    try:
        store = LedgerStore(home.url, create=False)
        assert store.open_study(store.find("digits"), budget=Budget(), seed=7).trial(0).params == {"n": 1}
        store.close()
    finally:
        tmp_path.chmod(0o700)


def test_a_study_on_a_full_disk_stops_cleanly_and_is_resumed(tmp_path: Path, connected: Callable[[str], None]) -> None:
    folder, path = tmp_path / "home", tmp_path / "home" / "ledger.db"
    Study.create(StudyConfig.from_mapping(describe(tmp_path, fresh_seeds=0, strategy="joint")), home=folder).close()
    with sqlite3.connect(path) as file:
        ((pages,),) = file.execute("pragma page_count").fetchall()
    file.close()
    connected(f"max_page_count = {pages + 4}")
    with pytest.raises(LedgerError, match="the disk is full"):
        resume_study("study", home=folder)
    before = finished(folder)
    assert 0 < len(before) < 20
    connected("max_page_count = 1000000")
    result = resume_study("study", home=folder)
    assert result.status == "finalized"
    after = finished(folder)
    assert len(after) == 20
    assert {number: after[number] for number in before} == before


def test_a_home_made_sure_of_beside_an_open_ledger_leaves_its_journal_to_it(tmp_path: Path) -> None:
    """SQLite's locks are the process's: to close the file anywhere gives them up, and a reader removes the WAL."""
    tmp_path.chmod(0o755)
    settings = Settings.load(tmp_path)
    settings.create()
    store = LedgerStore(settings.ledger_url)
    store.create_study("study", {})
    settings.create()
    path = tmp_path / "ledger.db"
    look = "import sqlite3, sys; ledger = sqlite3.connect(sys.argv[1]); ledger.execute('select 1 from hpt_studies')"
    subprocess.run([sys.executable, "-c", f"{look}.fetchall(); ledger.close()", str(path)], check=True)
    store.create_study("another", {})
    with contextlib.closing(sqlite3.connect(path)) as ledger:
        assert ledger.execute("select count(*) from hpt_studies").fetchone() == (2,)
    assert path.stat().st_mode & 0o077 == 0
