"""All faults of a full run, and the table that tells how they went."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from chaos import drivers, mlflow, postgres, stores, workers
from chaos.bench import Bench, Case, Fault

_AT_ONCE = 10
"""Kills of one task: the tasks are spread over the jobs."""


def planned(kills: int, worker_kills: int) -> dict[str, list[Fault]]:
    """Give the faults by family, as tasks of about a minute."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0 and sys.platform == "linux"
    return {
        "drivers": [partial(drivers.killed_drivers, kills=count) for count in _parts(kills)],
        "pauses": [*[drivers.paused_driver] * 3, *[workers.paused_worker] * 3],
        "workers": [
            *(partial(workers.killed_workers, kills=count) for count in _parts(worker_kills)),
            workers.trial_killed_every_time,
            *[workers.killed_server] * 4,
        ],
        "mlflow": [*[partial(mlflow.killed_writers, kills=3)] * 4, *[mlflow.server_away] * 2],
        "stores": [
            *[stores.disk_full] * 5,
            *[stores.tmpfs_full] * (5 if root else 0),
            *(partial(stores.torn, how=how) for how in stores.TEARS for _ in range(4)),
        ],
        "system": [
            partial(stores.clock_jumps, shift=3600.0),
            partial(stores.clock_jumps, shift=-3600.0),
            *[stores.stopped_and_resumed] * 3,
        ],
        "postgres": [
            *(partial(postgres.outage, how=how) for how in postgres.OUTAGES for _ in range(3)),
            partial(postgres.outage, how="restarted", mlflow=True),
            *[partial(postgres.killed_drivers, kills=5)] * 4,
            *[postgres.taken_over] * 3,
        ],
    }


def run_all(families: Iterable[Sequence[Fault]], folder: Path, seed: int, jobs: int) -> Iterator[Case]:
    """Bring about all faults, each with dice of its own, on several benches at once; give the cases as they come."""
    first = Bench.open(folder / "bench-0")
    first.calibrate()
    benches = [first, *(Bench.open(folder / f"bench-{i}", first.template) for i in range(1, jobs))]
    for bench in benches:
        bench.life = first.life
    free = list(benches)

    def bring_about(number: int, fault: Fault) -> list[Case]:
        bench = free.pop()
        try:
            return fault(bench, random.Random(f"{seed}/{number}"))
        except Exception as error:  # a fault of the harness is not to be taken for a success
            name = getattr(fault, "func", fault).__name__
            return [Case(name, "", (f"the harness failed: {type(error).__name__}: {error}",))]
        finally:
            free.append(bench)

    faults = [fault for family in families for fault in family]
    try:
        with ThreadPoolExecutor(jobs) as pool:
            for done in as_completed([pool.submit(bring_about, *each) for each in enumerate(faults)]):
                yield from done.result()
    finally:
        for bench in benches:
            bench.close()


def table(cases: Sequence[Case]) -> str:
    """Tell of each fault how often it came, how often the study survived it, and how many finished trials were lost."""
    rows = [("fault", "times", "survived", "trials lost")]
    for fault in dict.fromkeys(case.fault for case in cases):
        mine = [case for case in cases if case.fault == fault]
        rows.append((fault, str(len(mine)), str(sum(not c.problems for c in mine)), str(_lost(mine))))
    survived = sum(not case.problems for case in cases)
    rows.append(("all", str(len(cases)), str(survived), str(_lost(cases))))
    moments = Counter(case.moment for case in cases if case.fault == "driver killed")
    if moments:
        rows += [("", "", "", ""), ("driver killed at the moment", "times", "survived", "")]
        for moment, count in moments.most_common():
            well = sum(not c.problems for c in cases if c.fault == "driver killed" and c.moment == moment)
            rows.append((moment, str(count), str(well), ""))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{row[0]:{width}}  {row[1]:>6}  {row[2]:>8}  {row[3]:>11}".rstrip() for row in rows)


def _lost(cases: Iterable[Case]) -> int:
    """Count the finished trials that were not as before; the faults of one study tell of the same ones."""
    return len({problem for case in cases for problem in case.problems if " was (" in problem})


def _parts(count: int) -> list[int]:
    whole, rest = divmod(count, _AT_ONCE)
    return [_AT_ONCE] * whole + ([rest] if rest else [])
