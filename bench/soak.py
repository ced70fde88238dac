"""A long study on two processes with faults injected at random: nothing may be lost, memory and open files stay flat.

    python bench/soak.py [--minutes 120] [--seed 0] [--gap 30] [--driver-gap 900] [--seconds 0.4] [--home DIR]

Cheap trials sleep and report. Every `--gap` seconds on average a trial's process is killed (SIGKILL) or paused
(SIGSTOP, for some seconds), the MLflow writer or the server that trials are forked from is killed; every `--driver-gap`
seconds the driver itself, and `hpt resume` goes on. A line a minute, and the table at the end: exit code 1 when
something was lost or run twice.

What a driver holds grows with the study by design: the history. So its memory is told as bytes a trial, beside what a
driver that was just started holds of the same history; a leak would show as the difference.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from chaos.training import OBJECTIVE, SPACE

STUDY = {
    "study": "soak",
    "objective": {"python": "train.py:train"},
    "metric": "score",
    "space": SPACE,
    "strategy": "joint",
    "parallel": 2,
    "trials_per_round": 50,
    "fresh_seeds": 2,
    "pruner": "none",
}
FAULTS = {"trial killed": 8, "trial paused": 4, "MLflow writer killed": 2, "fork server killed": 2}
DRIVER = "driver killed"


@dataclass
class Sample:
    """What the processes held at one moment."""

    at: float
    began: float
    """When this driver was started."""
    trials: int
    rss: int
    files: int
    writer_rss: int
    server_rss: int


@dataclass
class Soak:
    """The study's files, its driver, and what was seen."""

    folder: Path
    minutes: float
    random: random.Random
    began: float = field(default_factory=time.monotonic)
    driver_began: float = 0.0
    driver: subprocess.Popen[bytes] | None = None
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    known: dict[int, tuple[object, ...]] = field(default_factory=dict)
    begun: dict[int, int] = field(default_factory=dict)
    """How often each finished trial had been begun when it was first seen as finished."""
    lost: int = 0
    paused: list[tuple[float, psutil.Process]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def start(self) -> None:
        """Run the study, or resume it."""
        begun = (self.home / "ledger.db").exists()
        verb = ["resume", "soak"] if begun else ["run", str(self.folder / "study.json")]
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "agentic_hpt.cli", *verb, "--home", str(self.home)], stdout=log, stderr=log
            )
        self.driver_began = time.monotonic()

    def finished(self) -> dict[int, tuple[object, ...]]:
        """Give what the ledger holds of finished trials."""
        if not (self.home / "ledger.db").exists():
            return {}
        query = "select number, params, metrics, state, seed, attempt from hpt_trials where state != 'running'"
        with contextlib.closing(sqlite3.connect(self.home / "ledger.db", timeout=60)) as ledger:
            try:
                return {row[0]: row[1:] for row in ledger.execute(query)}
            except sqlite3.OperationalError:  # the tables are being made
                return {}

    def executions(self) -> Counter[int]:
        """Give how often each trial was begun."""
        log = self.folder / "executions.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return Counter(int(line.split()[1]) for line in lines if line.startswith("begins"))

    def compare(self) -> None:
        """Count what is not there any more, or not as it was."""
        now = self.finished()
        self.lost += sum(now.get(number) != row for number, row in self.known.items())
        self.known = now
        begun = self.executions()
        self.begun = {number: begun[number] for number in now} | self.begun

    @property
    def twice(self) -> int:
        """Count the finished trials that were run again."""
        begun = self.executions()
        return sum(begun[number] > before for number, before in self.begun.items())

    def children(self) -> dict[str, list[psutil.Process]]:
        """Give the driver's processes by what they are."""
        found: dict[str, list[psutil.Process]] = {"trials": [], "writer": [], "server": []}
        assert self.driver is not None
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.driver.pid).children():
                with contextlib.suppress(psutil.Error):
                    line = " ".join(process.cmdline())
                    if "agentic_hpt.mlflow_writer" in line:
                        found["writer"].append(process)
                    elif "forkserver" in line:
                        found["server"].append(process)
                        found["trials"] += process.children()
        return found

    def inject(self, fault: str) -> None:
        """Do it, if there is something to do it to."""
        if fault == DRIVER:
            self._kill_driver()
            return
        what = {"MLflow writer killed": "writer", "fork server killed": "server"}.get(fault, "trials")
        targets = self.children()[what]
        if not targets:
            return
        target = self.random.choice(targets)
        with contextlib.suppress(psutil.Error):
            if fault == "trial paused":
                target.suspend()
                self.paused.append((time.monotonic() + self.random.uniform(1.0, 6.0), target))
            else:
                target.kill()
            self.faults[fault] += 1

    def _kill_driver(self) -> None:
        assert self.driver is not None
        if self.driver.poll() is not None:
            return
        self.driver.kill()
        self.driver.wait()
        self.faults[DRIVER] += 1
        self.compare()
        self.start()

    def wake(self) -> None:
        """Let those go on whose pause is over."""
        for until, process in list(self.paused):
            if time.monotonic() >= until:
                self.paused.remove((until, process))
                with contextlib.suppress(psutil.Error):
                    process.resume()

    def sample(self) -> None:
        """Note what the processes hold."""
        assert self.driver is not None
        with contextlib.suppress(psutil.Error):
            driver, others = psutil.Process(self.driver.pid), self.children()
            rss = {what: sum(p.memory_info().rss for p in others[what]) for what in ("writer", "server")}
            self.samples.append(
                Sample(
                    time.monotonic() - self.began,
                    self.driver_began - self.began,
                    len(self.finished()),
                    driver.memory_info().rss,
                    driver.num_fds(),
                    rss["writer"],
                    rss["server"],
                )
            )

    def line(self) -> str:
        """Tell where it stands."""
        self.compare()
        last = self.samples[-1] if self.samples else Sample(0, 0, 0, 0, 0, 0, 0)
        done = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items())) or "none"
        return (
            f"{(time.monotonic() - self.began) / 60:6.1f} min  {len(self.known):6} trials  lost {self.lost}  "
            f"twice {self.twice}  driver {last.rss / 2**20:.0f} MiB {last.files} files  "
            f"writer {last.writer_rss / 2**20:.0f}  server {last.server_rss / 2**20:.0f}  faults: {done}"
        )


def slope(points: list[tuple[float, float]]) -> float:
    """Give the slope of a least-squares line; 0 for fewer than three points."""
    if len(points) < 3:
        return 0.0
    mean_x, mean_y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def settled(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Give the samples driver by driver, without each one's first three minutes (it still imports)."""
    for began in sorted({sample.began for sample in samples}):
        yield [s for s in samples if s.began == began and s.at - began > 180]


def told(soak: Soak, code: int) -> dict[str, object]:
    """Give the figures of the whole run."""
    soak.compare()
    with contextlib.closing(sqlite3.connect(soak.home / "ledger.db", timeout=60)) as ledger:
        attempts = dict(ledger.execute("select number, attempt from hpt_trials"))
        states = dict(ledger.execute("select state, count(*) from hpt_trials group by state"))
        kinds = dict(ledger.execute("select failure, count(*) from hpt_trials where failure is not null group by 1"))
        unsent = ledger.execute("select count(*) from hpt_outbox where ref is null").fetchone()[0]
        status = ledger.execute("select status from hpt_studies").fetchone()[0]
    keys = (
        "select value, count(*) from tags join runs using (run_uuid) where key = 'hpt.key' "
        "and value like 'trial/%' and lifecycle_stage = 'active' group by value"
    )
    with contextlib.closing(sqlite3.connect(soak.home / "mlflow.db", timeout=60)) as mlflow:
        runs = dict(mlflow.execute(keys))
    begun = soak.executions()
    groups = [group for group in settled(soak.samples) if len(group) > 5]
    firsts = [(float(group[0].trials), float(group[0].rss)) for group in groups]
    sizes = {p.name: p.stat().st_size for p in soak.home.glob("*.db")}
    count = max(len(soak.known), 1)
    return {
        "minutes": round((time.monotonic() - soak.began) / 60, 1),
        "CPU cores used": round(sum(os.times()[2:4]) / (time.monotonic() - soak.began), 2),
        "exit": code,
        "status": status,
        "trials": states,
        "failures": kinds,
        "faults": dict(soak.faults),
        "lost": soak.lost,
        "run again though finished": soak.twice,
        "begun more often than attempted": sum(begun[n] > attempts.get(n, 0) for n in begun),
        "outbox left": unsent,
        "MLflow runs": len(runs),
        "MLflow runs twice": sum(count > 1 for count in runs.values()),
        "trials without an MLflow run": len(soak.known) - len({key.split("/")[1] for key in runs}),
        "driver: bytes a trial": [round(slope([(s.trials, s.rss) for s in group])) for group in groups],
        "driver just started: bytes a trial": round(slope(firsts)),
        "driver: MiB at last": round(soak.samples[-1].rss / 2**20) if soak.samples else 0,
        "driver: open files, slope an hour": [round(slope([(s.at / 3600, s.files) for s in g]), 2) for g in groups],
        "driver: open files": sorted({s.files for group in groups for s in group}),
        "server: MiB, slope an hour": [
            round(slope([(s.at / 3600, s.server_rss / 2**20) for s in g]), 1) for g in groups
        ],
        "writer: MiB at most": round(max((s.writer_rss for s in soak.samples), default=0) / 2**20),
        "bytes a trial on disk": {name: round(size / count) for name, size in sizes.items()},
    }


def run(soak: Soak, gap: float, driver_gap: float) -> dict[str, object]:
    """Inject faults until the study has ended by itself, and give the figures."""
    soak.start()
    clock = time.monotonic
    small, large = clock() + 60.0, clock() + 30.0 + soak.random.expovariate(1 / driver_gap)
    minute, looked = clock() + 60.0, clock()
    last_fault = soak.began + 60.0 * soak.minutes
    assert soak.driver is not None
    while soak.driver.poll() is None:
        time.sleep(0.5)
        now = clock()
        soak.wake()
        if now >= small and now < last_fault:
            soak.inject(soak.random.choices(list(FAULTS), list(FAULTS.values()))[0])
            small = now + soak.random.expovariate(1 / gap)
        if now >= large and now < last_fault:
            soak.inject(DRIVER)
            large = now + soak.random.expovariate(1 / driver_gap)
        if now >= looked + 15.0:
            soak.sample()
            looked = now
        if now >= minute:
            print(soak.line(), flush=True)
            minute = now + 60.0
    return told(soak, soak.driver.returncode)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gap", type=float, default=30.0, help="seconds between faults, on average")
    parser.add_argument("--driver-gap", type=float, default=900.0, help="seconds between kills of the driver")
    parser.add_argument("--seconds", type=float, default=0.4, help="how long a trial sleeps")
    parser.add_argument("--home", type=Path, help="an empty folder to keep; a temporary one by default")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.home or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.py").write_text(OBJECTIVE.replace("SECONDS", str(options.seconds)))
        budget = {"minutes": options.minutes, "trials": 10**6}
        (folder / "study.json").write_text(json.dumps({**STUDY, "budget": budget}))
        soak = Soak(folder, options.minutes, random.Random(options.seed))
        try:
            figures = run(soak, options.gap, options.driver_gap)
        finally:
            if soak.driver is not None and soak.driver.poll() is None:
                soak.driver.send_signal(signal.SIGINT)
                soak.driver.wait(60)
    print(json.dumps(figures, indent=2))
    return int(bool(figures["lost"] or figures["run again though finished"] or figures["MLflow runs twice"]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
