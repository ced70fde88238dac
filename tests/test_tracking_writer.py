"""The tracker with its real writer process, a real ledger and a real MLflow store."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from agentic_hpt.errors import TrackerAway
from agentic_hpt.ledger import LedgerStore, StudyLedger
from agentic_hpt.records import Budget, FinalReport, JsonObject, Outcome, Report
from agentic_hpt.tracking.client import MlflowTracker
from agentic_hpt.tracking.null import NullTracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def in_a_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


class Home:
    """A home with one study in its ledger."""

    def __init__(self, folder: Path, tracking_uri: str | None = None) -> None:
        self.folder = folder
        self.ledger_url = f"sqlite:///{folder / 'ledger.db'}"
        self.store = LedgerStore(self.ledger_url)
        self.row = self.store.create_study("digits", {"seed": 1})
        self.ledger: StudyLedger = self.store.open_study(self.row, budget=Budget(), seed=1)
        self.tracking_uri = tracking_uri or f"sqlite:///{folder / 'mlflow.db'}"

    def tracker(self, kind: type[MlflowTracker] = MlflowTracker) -> MlflowTracker:
        return kind(
            ledger_url=self.ledger_url,
            uid=self.row.uid,
            study="digits",
            tracking_uri=self.tracking_uri,
            experiment="digits",
            artifact_root=self.folder / "artifacts",
            log=self.folder / "mlflow-writer.log",
        )

    def post(self, trials: int, round_: int = 1) -> None:
        self.ledger.post_study({"study": "digits", "uid": self.row.uid, "config": {"seed": 1}})
        for _ in range(trials):
            known = self.ledger.reserve(round_=round_, worker="w", kind="joint", params={"x": 0.5}, tuned=["x"])
            assert known is not None
            started = self.ledger.start(known.id)
            reports = tuple(Report(step, {"accuracy": step / 10}) for step in range(3))
            self.ledger.finish(known.id, started.attempt, Outcome.complete({"accuracy": 0.75}, reports=reports))

    def keys(self) -> list[str]:
        """Give the keys of all runs in MLflow that were written to their end, in the order they were made."""
        from mlflow import MlflowClient

        client = MlflowClient(self.tracking_uri)
        experiment = client.get_experiment_by_name("digits")
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        assert all(r.info.status == "FINISHED" or r.data.tags["hpt.key"] == "study" for r in runs)
        return sorted(r.data.tags["hpt.key"] for r in runs)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def expected_keys(home: Home) -> list[str]:
    return sorted(["study", *(f"trial/{t.id}/1" for t in home.ledger.trials())])


@in_a_loop
async def test_a_round_goes_out_and_comes_back(home: Home) -> None:
    tracker = home.tracker()
    await tracker.start()
    home.post(3)
    trials = await tracker.read_round(1, 3, 60)
    assert [t.id for t in trials] == [t.id for t in home.ledger.trials()]
    assert [(t.params, t.values, t.seed) for t in trials] == [
        (t.params, t.values, t.seed) for t in home.ledger.trials()
    ]
    assert tracker._writer is not None
    assert os.getsid(tracker._writer.pid) != os.getsid(0), "Ctrl-C must not reach the writer"
    home.post(2, round_=2)
    assert len(await tracker.read_round(2, 2, 60)) == 2
    assert await tracker.drain(60) == 0
    with pytest.raises(TrackerAway, match="not in MLflow yet"):
        await tracker.read_round(2, 3, 0)
    info = await tracker.info()
    assert info["run_id"]
    assert (info["tracking_uri"], info["experiment"], info["away"]) == (home.tracking_uri, "digits", None)
    await tracker.close()
    assert home.ledger.unsent() == 0


@in_a_loop
async def test_what_a_library_prints_does_not_get_between_the_answers(home: Home) -> None:
    home.post(1)
    (home.folder / "model").mkdir()
    payload: JsonObject = {
        "final": FinalReport(1, 0.75, 3, 0.7, 0.1, None, 0.05).to_json(),
        "params": {"x": 0.5},
        "metric": "accuracy",
        "files": [],
        "model": {"dir": str(home.folder / "model"), "loader": "this"},  # the module that prints when it is imported
        "register_as": "digits",
        "alias": "champion",
    }
    home.ledger.record_final(FinalReport(1, 0.75, 3, 0.7, 0.1, None, 0.05), payload)
    tracker = home.tracker()
    await tracker.start()
    assert await tracker.drain(60) == 0
    assert (await tracker.info())["away"] is None
    await tracker.close()
    assert "Zen of Python" in (home.folder / "mlflow-writer.log").read_text()


@in_a_loop
async def test_close_writes_what_is_left(home: Home) -> None:
    tracker = home.tracker()
    await tracker.start()
    home.post(20)
    await tracker.close()
    assert home.ledger.unsent() == 0


@in_a_loop
async def test_a_store_that_cannot_be_had_is_away_and_nothing_is_lost(tmp_path: Path) -> None:
    home = Home(tmp_path, tracking_uri=f"http://someone:secret@127.0.0.1:{free_port()}")
    home.post(2)
    tracker = home.tracker()
    await tracker.start()
    with pytest.raises(TrackerAway) as caught:
        await tracker.read_round(1, 2, 100)
    assert "did not answer" not in str(caught.value)
    assert "secret" not in str(caught.value)
    info = await tracker.info()
    assert info["tracking_uri"] == f"http://***@127.0.0.1:{home.tracking_uri.rsplit(':', 1)[1]}"
    assert info["away"]
    await tracker.close()
    assert home.ledger.unsent() == 3
    assert "secret" not in (tmp_path / "mlflow-writer.log").read_text()


def scripted(code: str) -> type[MlflowTracker]:
    """A tracker whose writer process is this code instead."""

    class Scripted(MlflowTracker):
        def _command(self) -> Sequence[str]:
            return (sys.executable, "-c", textwrap.dedent(code))

    return Scripted


@in_a_loop
async def test_a_writer_that_dies_is_started_once_more_then_given_up(home: Home) -> None:
    marks = home.folder / "starts"
    code = f"""
        import sys
        sys.stdin.readline()
        open({str(marks)!r}, "a").write("x")
        sys.stdin.readline()
    """
    tracker = home.tracker(scripted(code))
    await tracker.start()
    with pytest.raises(TrackerAway, match="ended"):
        await tracker.read_round(1, 1, 60)
    assert marks.read_text() == "xx"
    assert await tracker.drain(60) == 1
    await tracker.close()


@in_a_loop
async def test_a_writer_that_hangs_is_not_waited_for(home: Home) -> None:
    code = """
        import sys
        for line in sys.stdin:
            pass
    """
    tracker = home.tracker(scripted(code))
    await tracker.start()
    with pytest.raises(TrackerAway, match="did not answer"):
        await tracker.read_round(1, 1, 0)
    await tracker.close()


@in_a_loop
async def test_a_writer_that_needs_longer_than_close_waits_is_left_to_finish(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = home.folder / "done"
    code = f"""
        import sys
        for line in sys.stdin:
            pass
        open({str(done)!r}, "w").write("x")
    """
    monkeypatch.setattr("agentic_hpt.tracking.client._STOP_SECONDS", 0.01)
    tracker = home.tracker(scripted(code))
    await tracker.start()
    await tracker.close()
    await until(done.exists)


@in_a_loop
async def test_a_writer_killed_between_write_and_note_repeats_nothing(home: Home) -> None:
    code = """
        import io, json, os, signal, sys
        from pathlib import Path
        from agentic_hpt.ledger.outbox import LedgerOutbox, open_outbox
        from agentic_hpt.tracking.mlflow import MlflowStore
        from agentic_hpt.tracking.service import serve

        class Dying(LedgerOutbox):
            def sent(self, refs):
                os.kill(os.getpid(), signal.SIGKILL)

        lines = io.FileIO(0, closefd=False)
        s = json.loads(lines.readline())
        outbox = open_outbox(s["ledger_url"], s["uid"])
        outbox.__class__ = Dying
        rest = {k: s[k] for k in ("tracking_uri", "experiment", "study", "uid")}
        serve(outbox, lambda: MlflowStore(artifact_root=Path(s["artifact_root"]), **rest), lines, sys.stderr)
    """
    home.post(10)
    dying = home.tracker(scripted(code))
    await dying.start()
    assert await dying.drain(100) == 1
    assert home.ledger.unsent() == 11, "all written, none noted"
    await dying.close()
    tracker = home.tracker()
    await tracker.start()
    assert len(await tracker.read_round(1, 10, 100)) == 10
    assert await tracker.drain(100) == 0
    await tracker.close()
    assert home.ledger.unsent() == 0
    assert home.keys() == expected_keys(home)


@pytest.mark.slow
@in_a_loop
async def test_writers_killed_anywhere_lose_and_repeat_nothing(home: Home) -> None:
    home.post(120)
    for written in (10, 47, 83):
        tracker = home.tracker()
        await tracker.start()
        await until(lambda n=written: home.ledger.unsent() <= 121 - n)  # type: ignore[misc]
        assert tracker._writer is not None
        os.kill(tracker._writer.pid, signal.SIGKILL)
        await tracker._ended.wait()
        await tracker.close()
    assert home.ledger.unsent() > 0, "the last one was killed before it was done"
    tracker = home.tracker()
    await tracker.start()
    assert await tracker.drain(100) == 0
    await tracker.close()
    assert home.keys() == expected_keys(home)


@pytest.mark.slow
@in_a_loop
async def test_a_dead_drivers_writer_finishes_and_a_new_one_waits_for_it(home: Home) -> None:
    home.post(60)
    driver = subprocess.Popen(
        [sys.executable, "-P", "-m", "agentic_hpt.mlflow_writer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert driver.stdin is not None
    driver.stdin.write(json.dumps(home.tracker()._settings).encode() + b"\n")
    driver.stdin.flush()
    await until(lambda: home.ledger.unsent() < 61)
    driver.stdin.close()  # what the writer sees of a killed driver
    tracker = home.tracker()
    await tracker.start()
    assert len(await tracker.read_round(1, 60, 100)) == 60
    await tracker.close()
    assert driver.wait(60) == 0
    assert home.ledger.unsent() == 0
    assert home.keys() == expected_keys(home)


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start an MLflow server that keeps its runs in `server.db`."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "of")]
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            [*command, *stores],
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
        )


def kill(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
@in_a_loop
async def test_a_server_that_comes_late_and_is_killed_gets_everything_once_and_in_order(tmp_path: Path) -> None:
    port = free_port()
    home = Home(tmp_path, tracking_uri=f"http://127.0.0.1:{port}")
    home.post(12)
    tracker = home.tracker()
    await tracker.start()
    with pytest.raises(TrackerAway):
        await tracker.read_round(1, 12, 100)
    server = serve(tmp_path, port)
    try:
        assert await tracker.drain(200) == 0, (tmp_path / "server.log").read_text()[-2000:]
        trials = await tracker.read_round(1, 12, 100)
        assert [(t.id, t.values) for t in trials] == [(t.id, t.values) for t in home.ledger.trials()]
        home.post(40, round_=2)
        await tracker.read_round(2, 3, 100)
        kill(server)
        with pytest.raises(TrackerAway):
            await tracker.read_round(2, 40, 100)
        assert home.ledger.unsent() > 0, "it was killed while it was written to"
        server = serve(tmp_path, port)
        assert await tracker.drain(200) == 0, (tmp_path / "server.log").read_text()[-2000:]
        assert len(await tracker.read_round(2, 40, 100)) == 40
        assert home.keys() == expected_keys(home)
        assert (await tracker.info())["away"] is None
        await tracker.close()
    finally:
        kill(server)
    with closing(sqlite3.connect(tmp_path / "server.db")) as store:
        made = "SELECT value FROM runs JOIN tags USING (run_uuid) WHERE key = 'hpt.key' ORDER BY runs.rowid"
        keys = [key for (key,) in store.execute(made)]
    assert keys == ["study", *(f"trial/{t.id}/1" for t in home.ledger.trials())], "in the order they ended in"


def test_the_driver_side_does_not_import_mlflow() -> None:
    code = "import sys, agentic_hpt.tracking.client, agentic_hpt.tracking.null; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@in_a_loop
async def test_without_mlflow_nothing_is_read_and_nothing_left() -> None:
    tracker = NullTracker()
    await tracker.start()
    with pytest.raises(TrackerAway, match="switched off"):
        await tracker.read_round(1, 0, 1)
    assert await tracker.drain(1) == 0
    await tracker.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # bounded by the test's time limit
        await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
