"""Homes as they may be: read-only, taken, a file, oddly named, gone in mid-run, used by two processes at once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError
from agentic_hpt.study import Study, run_study
from chaos.bench import kill
from chaos.nursery import Driver, Nursery
from chaos.subject import until
from study_runs import describe

pytestmark = pytest.mark.xdist_group("chaos")

LOOKS = ("status", "trials study", "best study", "decisions study", "explain study")
WAITING = """
import time
from pathlib import Path

def train(params, trial):
    here, deadline = Path(__file__).parent, time.monotonic() + 60
    if trial.id:
        (here / f"{trial.artifact_dir.parts[-3]}-waits").touch()
    while trial.id and not (here / "go").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody said go")
        time.sleep(0.01)
    return params["x"]
"""
PLAIN = "def train(params):\n    return params['x']\n"
X = {"x": {"float": [0.0, 1.0]}}


class Hpt:
    """The command line, in forked processes that find everything imported."""

    def __init__(self, nursery: Nursery, folder: Path) -> None:
        self._nursery = nursery
        self._folder = folder
        self._count = 0

    def start(self, *arguments: str, home: Path) -> tuple[Driver, Path]:
        """Start a command; give its process, and the file that it prints to."""
        self._count += 1
        log = self._folder / f"output-{self._count}"
        return self._nursery.start([*arguments, "--home", str(home)], log), log

    def __call__(self, *arguments: str, home: Path) -> tuple[int, str]:
        """Run a command; give its exit code and what it printed."""
        driver, log = self.start(*arguments, home=home)
        return driver.wait(), log.read_text()

    @contextlib.contextmanager
    def waiting(self, study: Path, home: Path) -> Iterator[tuple[Driver, Path]]:
        """Run a study until its second trial waits for the file `go` beside it."""
        driver, log = self.start("run", str(study), home=home)
        try:
            assert until(lambda: driver.poll() is not None or any(study.parent.glob(f"{study.stem}-*-waits")))
            assert driver.poll() is None, log.read_text()
            yield driver, log
        finally:
            kill(driver)


@pytest.fixture
def hpt(nursery: Nursery, tmp_path: Path) -> Hpt:
    return Hpt(nursery, tmp_path)


def written(folder: Path, name: str = "study", code: str = WAITING, **changes: object) -> Path:
    """Write a study file beside its objective, and give its path."""
    small = {"space": X, "budget": {"trials": 4}, "fresh_seeds": 0, "study": name}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(describe(folder, code, **{**small, **changes})))
    return path


@pytest.fixture
def locked(home: Path) -> Iterator[Path]:
    """A home that can't be written; root, whom permissions don't stop, gets a read-only file system."""
    home.mkdir()
    if os.geteuid() != 0:
        yield home
        home.chmod(0o755)
        for path in home.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(home)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("root may not mount here, so nothing can be made read-only")
    yield home
    subprocess.run(["umount", "--lazy", str(home)], check=True)


def lock(home: Path) -> None:
    if os.geteuid() == 0:
        subprocess.run(["mount", "-o", "remount,ro", str(home)], check=True)
        return
    for path in (*home.rglob("*"), home):
        path.chmod(0o555 if path.is_dir() else 0o444)


def test_looking_needs_no_writing(tmp_path: Path, locked: Path, hpt: Hpt) -> None:
    assert hpt("run", str(written(tmp_path, code=PLAIN)), home=locked)[0] == 0
    lock(locked)
    for look in LOOKS:
        code, told = hpt(*look.split(), home=locked)
        assert code == 0, told
        assert "trial" in told
    page = tmp_path / "page.html"
    assert hpt("report", "study", "--out", str(page), home=locked)[0] == 0
    assert page.exists()


def test_what_a_killed_driver_left_can_be_looked_at_on_a_read_only_disk(tmp_path: Path, locked: Path, hpt: Hpt) -> None:
    with hpt.waiting(written(tmp_path), locked):
        pass
    assert (locked / "ledger.db-wal").stat().st_size, "the newest transactions are in the log"
    lock(locked)
    code, told = hpt("trials", "study", "--json", home=locked)
    assert code == 0, told
    assert [trial["state"] for trial in json.loads(told)["trials"]] == ["complete", "running"]


def test_a_read_only_home_refuses_to_run_and_to_resume_with_a_clear_word(
    tmp_path: Path, locked: Path, hpt: Hpt
) -> None:
    file = written(tmp_path)
    with hpt.waiting(file, locked):
        pass
    lock(locked)
    for verb in (("run", str(file)), ("run", str(written(tmp_path, "other"))), ("resume", "study")):
        code, told = hpt(*verb, home=locked)
        assert code == 2
        assert "can't be written" in told
        assert "Traceback" not in told


def test_a_home_that_is_a_file_is_refused(tmp_path: Path, hpt: Hpt) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        code, told = hpt("run", str(written(tmp_path)), home=home)
        assert code == 2
        assert "can't be written" in told


@pytest.mark.parametrize(
    "name", ["a b", "ü – 試", "100%", 'it\'s "q"', "se;mi&$(x)", "[x]{y}", "back\\slash", "a:b@c", "-x"]
)
def test_homes_may_have_odd_names(tmp_path: Path, name: str) -> None:
    run_study(config(tmp_path), home=tmp_path / name)
    assert len(Study.open("study", tmp_path / name).trials()) == 4
    assert (tmp_path / name / "ledger.db").exists()


@pytest.mark.parametrize("name", ["what?", "a#b", "a%20b"])
def test_homes_that_addresses_cannot_hold_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="in its path"):
        run_study(config(tmp_path), home=tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_home_that_is_removed_in_mid_run_ends_the_study_with_a_clear_word(
    tmp_path: Path, home: Path, hpt: Hpt
) -> None:
    with hpt.waiting(written(tmp_path), home) as (driver, log):
        shutil.rmtree(home)
        (tmp_path / "go").touch()
        assert driver.wait() == 1, log.read_text()
    assert "is gone" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_damaged_checkpoint_store_is_told_of_and_can_be_moved_away(tmp_path: Path, home: Path, hpt: Hpt) -> None:
    with hpt.waiting(written(tmp_path), home):
        (tmp_path / "go").touch()
    for log in home.glob("checkpoints.db-*"):
        log.unlink()
    (home / "checkpoints.db").write_bytes(b"no database at all" * 1000)
    code, told = hpt("resume", "study", home=home)
    assert code == 1
    assert "can't be used" in told
    assert "can be moved away" in told
    assert "Traceback" not in told
    (home / "checkpoints.db").unlink()
    code, told = hpt("resume", "study", home=home)
    assert code == 0, told
    assert len(Study.open("study", home).trials()) == 4


def test_what_took_long_and_what_was_decided_is_brought_to_the_disk(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut can't be had in a test: what is seen is that the ledger's log is synced, and when."""
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def seen(file: int) -> None:
        fsync(file)
        ended = [trial for trial in Study.open("study", home).trials() if trial.finished]
        synced.append((Path(f"/proc/self/fd/{file}").readlink().name, len(ended)))

    monkeypatch.setattr(os, "fsync", seen)
    wait = "    time.sleep(1.01 if trial.id == 1 else 0)"
    code = f"import time\n\ndef train(params, trial):\n{wait}\n    return params['x']\n"
    run_study(StudyConfig.from_mapping(json.loads(written(tmp_path, code=code).read_text())), home=home)
    assert [count for name, count in synced if name == "ledger.db-wal"] == [2, 4]


def test_two_processes_run_two_studies_in_one_home_at_once(tmp_path: Path, home: Path, hpt: Hpt) -> None:
    one, two = (written(tmp_path, name, budget={"trials": 12}) for name in ("one", "two"))
    with hpt.waiting(one, home) as first, hpt.waiting(two, home) as second:
        (tmp_path / "go").touch()
        for driver, log in (first, second):
            assert driver.wait() == 0, log.read_text()
    for name in ("one", "two"):
        study = Study.open(name, home)
        assert study.status == "finalized"
        assert [(t.id, t.attempt) for t in study.trials()] == [(number, 1) for number in range(12)]


def test_a_second_process_is_refused_the_same_study(tmp_path: Path, home: Path, hpt: Hpt) -> None:
    file = written(tmp_path)
    with hpt.waiting(file, home) as (driver, log):
        again, resumed = hpt("run", str(file), home=home), hpt("resume", "study", home=home)
        (tmp_path / "go").touch()
        assert driver.wait() == 0, log.read_text()
    assert again[0] == resumed[0] == 2
    assert "is in this home already" in again[1]
    assert "another process" in resumed[1]
    assert [t.attempt for t in Study.open("study", home).trials()] == [1] * 4


def config(folder: Path) -> StudyConfig:
    return StudyConfig.from_mapping(describe(folder, PLAIN, space=X, budget={"trials": 4}, fresh_seeds=0))
