"""Ledger, checkpoints and MLflow in one PostgreSQL database, by one setting."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from agentic_hpt.cli import main
from agentic_hpt.cli.doctor import stores
from agentic_hpt.config import Settings, StudyConfig, shown
from agentic_hpt.errors import ConfigError, FailureKind, LedgerError, StudyExists, TrackerAway
from agentic_hpt.ledger import LedgerStore, open_outbox
from agentic_hpt.mlflow_writer import OneWriter
from agentic_hpt.postgres import ServerLock, connect
from agentic_hpt.records import Budget, OutboxEntry, Outcome, Report, Trial, TrialState
from agentic_hpt.study import Study
from agentic_hpt.study.checkpoints import checkpointer
from agentic_hpt.study.moving import move_study
from agentic_hpt.tracking.databases import check_files
from agentic_hpt.tracking.encoding import trial_to_json
from agentic_hpt.tracking.mlflow import EntryRefused, MlflowStore
from agentic_hpt.wiring import read_transfer
from postgres_server import PASSWORD, PostgresServer
from study_runs import describe

pytestmark = [pytest.mark.postgres, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def url(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, home: Path) -> str:
    """A fresh database that the environment names as the ledger's; as the settings give it."""
    monkeypatch.setenv("AGENTIC_HPT_LEDGER", postgres.url())
    return Settings.load(home).ledger_url


# -- checkpoints ----------------------------------------------------------------------------------------------------


def at(number: int, thread: str = "t") -> dict[str, object]:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": f"{number:04d}"}}


def checkpoint(number: int) -> dict[str, object]:
    from langgraph.checkpoint.base import empty_checkpoint

    return {
        **empty_checkpoint(),
        "id": f"{number:04d}",
        "channel_values": {"ids": [number]},
        "channel_versions": {"ids": str(number)},
    }


async def keep(saver: object, number: int, thread: str = "t") -> None:
    await saver.aput(at(number - 1, thread), checkpoint(number), {"step": number}, {"ids": str(number)})  # type: ignore[attr-defined]
    await saver.aput_writes(at(number, thread), [("a", number), ("b", [number])], f"task-{number}")  # type: ignore[attr-defined]


async def newest(saver: object) -> tuple[object, object]:
    found = await saver.aget_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": ""}})  # type: ignore[attr-defined]
    return found.checkpoint["channel_values"]["ids"], [(name, value) for _, name, value in found.pending_writes]


def test_checkpoints_go_on_where_the_server_was_restarted_killed_or_paused(url: str, postgres: PostgresServer) -> None:
    async def work() -> None:
        async with checkpointer(url) as saver:
            for number, fault in enumerate((postgres.stop, postgres.kill, postgres.pause), start=1):
                fault()
                kept = asyncio.create_task(keep(saver, number))
                done, _ = await asyncio.wait([kept], timeout=1.0)
                assert not done, "nobody answers"
                await asyncio.to_thread(postgres.resume)
                await asyncio.to_thread(postgres.start)
                await kept
                assert await newest(saver) == ([number], [("a", number), ("b", [number])])
            await keep(saver, 1, "other")
            postgres.restart()
            await saver.adelete_thread("other")

    asyncio.run(work())
    with connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (3,)
        assert connection.execute("SELECT count(*) FROM checkpoint_writes").fetchone() == (6,)


def test_checkpoints_that_stay_away_end_the_study_with_one_word(
    url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentic_hpt.study.postgres_checkpoints.OUTAGE_SECONDS", 0.3)

    async def work() -> None:
        async with checkpointer(url) as saver:
            postgres.stop()
            await keep(saver, 1)

    with pytest.raises(LedgerError, match="can't be read or written") as caught:
        asyncio.run(work())
    assert "hpt resume" in caught.value.hint
    assert PASSWORD not in str(caught.value)


def test_checkpoints_on_a_server_that_stands_still_end_the_study_too(
    url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentic_hpt.listening.SILENT_SECONDS", 0.3)
    monkeypatch.setattr("agentic_hpt.study.postgres_checkpoints.OUTAGE_SECONDS", 0.3)

    async def work() -> None:
        async with checkpointer(url.replace("connect_timeout=10", "connect_timeout=2")) as saver:
            postgres.pause()
            try:
                async with asyncio.timeout(30):
                    await keep(saver, 1)
            finally:
                await asyncio.to_thread(postgres.resume)

    with pytest.raises(LedgerError, match="can't be read or written"):
        asyncio.run(work())


def test_drivers_that_begin_at_once_make_the_checkpoint_tables_once(url: str) -> None:
    async def work() -> None:
        async def one(number: int) -> None:
            async with checkpointer(url) as saver:
                await keep(saver, number)

        await asyncio.gather(*(one(number) for number in range(1, 7)))

    asyncio.run(work())
    with connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (6,)
        versions = connection.execute("SELECT v FROM checkpoint_migrations ORDER BY v").fetchall()
        assert versions == [(number,) for number in range(len(versions))]


# -- locks and MLflow's tables --------------------------------------------------------------------------------------


def test_a_lock_has_one_holder_and_ends_with_its_connection(url: str, postgres: PostgresServer) -> None:
    first, second, other = ServerLock(url, "a"), ServerLock(url, "a"), ServerLock(url, "b")
    assert first.hold()
    assert first.hold(), "it is held already"
    assert not second.hold()
    assert not second.wait(0.2)
    assert other.hold()
    postgres.restart()
    assert second.hold(), "the server forgot who had it"
    assert not first.hold(), "who lost it must not go on as if it were held"
    second.release()
    assert first.hold()
    first.release()
    other.release()


def test_a_study_has_one_writer_on_all_hosts(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentic_hpt.mlflow_writer._FORMER_SECONDS", 0.2)
    store = LedgerStore(url)
    row = store.create_study("s", {})
    store.open_study(row, budget=Budget(), seed=0).post_study({})
    locks = [ServerLock(url, f"writer {row.uid}") for _ in range(2)]
    first, second = (OneWriter(open_outbox(url, row.uid), lock) for lock in locks)
    entries = first.pending(10)
    assert [entry.key for entry in entries] == ["study"]
    for use in (lambda: second.pending(10), lambda: second.claim(entries)):
        with pytest.raises(TrackerAway, match="another process writes this study"):
            use()
    locks[0].release()
    second.claim(second.pending(10))
    with pytest.raises(TrackerAway):
        first.claim(entries)
    locks[1].release()
    store.close()


def test_the_ledger_takes_what_a_file_takes(url: str) -> None:
    store = LedgerStore(url)
    ledger = store.open_study(store.create_study("s", {"a": "\0"}), budget=Budget(), seed=2**40)
    given = {"round_": 1, "kind": "joint", "params": {"x": "a\0b"}, "tuned": ["x"]}
    trial = ledger.reserve(worker="w" * 300, **given)  # type: ignore[arg-type]
    assert trial is not None
    reports = (Report(2**40, {"loss": 1e308}),)
    outcome = Outcome.failed(FailureKind.CRASH, "bad \0 byte, half a pair: \ud800", reports=reports)
    ledger.finish(trial.id, ledger.start(trial.id).attempt, outcome)
    (read,) = store.open_study(store.find("s"), budget=Budget(), seed=2**40).trials()
    assert (read.params, read.worker, read.reports) == ({"x": "a\0b"}, "w" * 300, reports)
    store.close()


def test_of_two_who_make_the_same_study_at_once_one_is_told_that_it_is_there(url: str) -> None:
    store = LedgerStore(url)
    names = "uid, name, folder, status, config, created, seconds"
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with connect(url) as other, connect(url) as watch, ThreadPoolExecutor(1) as pool:
        with other.transaction():
            other.execute(
                f"INSERT INTO hpt_studies ({names}) VALUES ('u', 's', 's-u', 'running', '{{}}', 0, 0)".encode()
            )
            second = pool.submit(store.create_study, "s", {})
            deadline = time.monotonic() + 30
            while watch.execute(waiting.encode()).fetchone() == (0,):
                assert not second.done()
                assert time.monotonic() < deadline
        with pytest.raises(StudyExists, match="a study named 's' is in this home already"):
            second.result()
    store.close()


def test_a_replay_is_moved_behind_the_study_that_it_repeats(
    url: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StudyConfig.from_mapping(describe(tmp_path))
    monkeypatch.delenv("AGENTIC_HPT_LEDGER")
    with Study.create(config, home=home) as first:
        first.tell(first.ask(), 0.5)
    Study.create(config.model_copy(update={"study": "again"}), home=home, replays=first).close()
    monkeypatch.setenv("AGENTIC_HPT_LEDGER", url)
    with pytest.raises(ConfigError, match="'again' repeats the decisions of 'study', which the database does not have"):
        move_study("again", home)
    assert move_study("study", home).uid == first.uid
    assert move_study("again", home).replays == first.uid


def test_a_study_goes_on_in_another_home_if_that_can_be_written(url: str, home: Path, tmp_path: Path) -> None:
    config = StudyConfig.from_mapping(describe(tmp_path))
    with Study.create(config, home=home) as study:
        study.tell(study.ask(), 0.5)
    (tmp_path / "file").touch()
    refused = Study.open("study", tmp_path / "file")
    for use in (refused.ask, refused.run):
        with pytest.raises(ConfigError, match=r"the home .*file can't be written"):
            use()
    assert [trial.state for trial in refused.trials()] == [TrialState.COMPLETE]
    former = os.umask(0o022)
    try:
        with Study.open("study", tmp_path / "new") as study:
            assert study.ask().id == 1
    finally:
        os.umask(former)
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0, "it is its owner's alone"


def test_what_mlflows_database_can_not_hold_is_refused_and_not_waited_for(url: str, home: Path) -> None:
    uri = Settings.load(home).mlflow_store
    store = MlflowStore(tracking_uri=uri, experiment="e", artifact_root=home, study="s", uid="u")
    trial = Trial(0, {"x": 1.0}, TrialState.COMPLETE, 1, "w\0", "joint", 1, values={"loss": 1.0})
    payload = {"trial": trial_to_json(trial), "started": 1.0, "ended": 2.0}
    with pytest.raises(EntryRefused, match="NUL"):
        store.write(OutboxEntry(1, "trial", "trial/0/1", payload, False))
    again = {**payload, "trial": trial_to_json(replace(trial, worker="w"))}
    assert store.write(OutboxEntry(1, "trial", "trial/0/1", again, True))
    with connect(url) as connection:
        assert connection.execute("SELECT to_regclass('public.experiments')").fetchone() == (None,)
        assert connection.execute("SELECT count(*) FROM hpt_mlflow.runs").fetchone() == (1,)


def test_files_of_an_experiment_made_elsewhere_are_missed_with_a_word(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackerAway, match="can't be written here") as caught:
        check_files((tmp_path / "file" / "home").as_uri())
    assert "--home" in caught.value.hint
    check_files((tmp_path / "a b").as_uri())
    assert (tmp_path / "a b").is_dir()
    check_files("mlflow-artifacts:/1")


# -- what a person sees when the address is wrong -------------------------------------------------------------------

VERBS = (["status"], ["trials", "s"], ["resume", "s"], ["run", "s.yaml"])


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main([*arguments])
    streams = capsys.readouterr()
    return code, streams.out + streams.err


@pytest.mark.parametrize("mistake", ["password", "database", "port", "parameter"])
def test_an_address_that_can_not_be_used_is_told_in_one_line(
    postgres: PostgresServer,
    mistake: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = postgres.url()
    wrong = {
        "password": (right.replace(PASSWORD, "not-hunter22"), "password authentication failed"),
        "database": (f"{right}-not", "does not exist"),
        "port": (right.replace(f":{postgres.port}", ":1"), "refused"),
        "parameter": (f"{right}?sslmod=require", "sslmod"),
    }
    address, problem = wrong[mistake]
    monkeypatch.setenv("AGENTIC_HPT_LEDGER", address)
    (tmp_path / "s.yaml").write_text(json.dumps(describe(tmp_path, study="s")))
    for verb in VERBS:
        code, text = told(capsys, *verb)
        assert code == 2, text
        assert text.startswith("error: "), text
        assert problem in text
        assert text.count("\n") == 2, text
        assert "hunter22" not in text
        assert "connect_timeout" not in text, "what we add to an address is of no use to who gave it"


def test_a_missing_driver_is_named_with_its_extra(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTIC_HPT_LEDGER", postgres.url())
    monkeypatch.setitem(sys.modules, "psycopg", None)
    (tmp_path / "s.yaml").write_text(json.dumps(describe(tmp_path, study="s")))
    for verb in VERBS:
        code, text = told(capsys, *verb)
        assert code == 2, text
        assert "pip install 'agentic-hpt[postgres]'" in text


def test_a_database_without_a_ledger_has_no_studies_and_stays_as_it_is(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, "status")[0] == 0
    code, text = told(capsys, "best", "s")
    assert (code, "there is no ledger in postgresql://***@127.0.0.1" in text) == (2, True)
    with connect(url) as connection:
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        assert connection.execute(tables).fetchone() == (0,)


def test_a_home_that_transfer_names_is_meant_with_its_files(url: str, tmp_path: Path) -> None:
    source = {"study": "old", "home": str(tmp_path / "other")}
    config = StudyConfig.from_mapping(describe(tmp_path, transfer=[source]))
    with pytest.raises(ConfigError, match=r"there is no ledger at .*other/ledger\.db"):
        read_transfer(config, Settings.load())


def test_no_address_is_shown_with_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connect(url.replace(PASSWORD, "pw1"))
    assert "pw1" not in str(caught.value)
    assert "password authentication failed" in str(caught.value)


def test_the_doctor_says_where_the_database_is_and_whether_it_answers(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = {name: (ok, found) for name, ok, found in stores(Settings.load())}
    where = shown(url)
    assert checks == {
        "ledger": (True, f"{where}: answers, version 18: no ledger there yet, will be made"),
        "MLflow store": (True, f"{where}: not there yet, will be made"),
    }
    monkeypatch.setenv("AGENTIC_HPT_LEDGER", url.replace(PASSWORD, "not-hunter22"))
    for ok, found in {name: (ok, found) for name, ok, found in stores(Settings.load())}.values():
        assert ok is False
        assert found.startswith(f"PostgreSQL at {where} can't be used: ")
        assert "hunter22" not in found
