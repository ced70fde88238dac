"""Compare ways to search on public tasks, with each other and with peers.

python -m bench.search --data FOLDER [--arms auto,joint] [--tasks chosen|confirmed|all|further|NAME,...] [--seeds 10]
python -m bench.search --data FOLDER --run-peers --peers "optuna tpe,smac3" [--envs .bench-envs]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.search.arms import ARMS, Arm
from bench.search.figure import draw
from bench.search.peers import PEERS, Child, Peer, python_of
from bench.search.report import Shown, told
from bench.search.runs import run_arm, run_peer
from bench.search.store import Store
from bench.search.suite import CHOSEN_ON, CONFIRMED_ON, FURTHER, REAL, Task, load_task
from bench.search.trials import Setting

_SETS = {
    "chosen": CHOSEN_ON,
    "confirmed": CONFIRMED_ON,
    "all": CHOSEN_ON + CONFIRMED_ON,
    "further": FURTHER,
    "real": REAL,
}
_HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=os.environ.get("HPO_BENCH_DATA"), help="the folder with the YAHPO data")
    add(
        "--arms",
        default="auto",
        help="ours: made where they are missing; or names of stored runs; the first is compared",
    )
    add("--peers", default=",".join(PEERS), help="peers: read from the store")
    add("--run-peers", action="store_true", help="make the peers' runs that are missing, too")
    add("--tasks", default="all", help="chosen, confirmed, all, further, real, or names separated by commas")
    add("--seeds", default="10", help="so many, or FROM-TO")
    add("--trials", type=int, default=100)
    add("--first", type=int, default=10, help="trials that are the same for all; 0: everybody begins as they like")
    add("--pending", type=int, default=1, help="trials under way at once")
    add("--as", dest="name", help="keep the runs of the first arm under this name, e.g. for a variant being tried")
    add("--against", help="whose final regret is to be reached; by default the best peer's")
    add("--detail", action="store_true", help="a line a task")
    add("--store", type=Path, default=_HERE / "results")
    add("--envs", type=Path, default=os.environ.get("BENCH_ENVS", ".bench-envs"), help="the peers' environments")
    add("--figure", type=Path, help="draw the curves into this file")
    add("--pack", action="store_true", help="put each arm's runs into one compressed file")
    options = parser.parse_args()
    tasks = _SETS.get(options.tasks) or tuple(options.tasks.split(","))
    seeds = _seeds(options.seeds)
    setting, store = Setting(options.trials, options.first, options.pending), Store(options.store)
    arms = {name: ARMS.get(name) for name in _names(options.arms)}
    if options.name:
        first = next(iter(arms))
        arms = {options.name: arms[first], **{name: arm for name, arm in arms.items() if name != first}}
    suite = _Suite(options.data)
    for name, arm in arms.items():
        if arm is not None:
            _make(store, name, arm, tasks, seeds, setting, suite)
    peers = _names(options.peers)
    for name in peers if options.run_peers else ():
        _make(store, name, PEERS[name], tasks, seeds, setting, suite, options.envs)
    names = list(dict.fromkeys(["random", *peers, *arms]))
    if options.pack:
        for name in names:
            store.pack(name)
    kept, alone = (
        {name: store.runs(name, kind, _version(arms.get(name))) for name in names}
        for kind in (setting, replace(setting, pending=1))
    )
    if not {task for task, _ in kept["random"]}.issuperset(tasks):
        sys.exit("random search is the measure, and the store lacks runs of it: --run-peers --peers random makes them")
    shown = Shown(kept, tasks, seeds, list(arms), options.against, alone if setting.pending > 1 else {})
    print(told(shown, setting, options.detail))
    if options.figure:
        draw(shown, options.figure)


class _Suite:
    """Loads tasks when they are first needed, and keeps them."""

    def __init__(self, data: Path | None) -> None:
        self._data = data
        self._loaded: dict[str, Task] = {}

    def __getitem__(self, name: str) -> Task:
        if self._data is None:
            sys.exit("say where the YAHPO data are: --data FOLDER or HPO_BENCH_DATA (see docs/benchmarks.md)")
        return self._loaded.setdefault(name, None) or self._load(name)  # type: ignore[arg-type]

    def _load(self, name: str) -> Task:
        self._loaded[name] = load_task(name, Path(self._data or "."))
        return self._loaded[name]


def _make(
    store: Store,
    name: str,
    arm: Arm | Peer,
    tasks: tuple[str, ...],
    seeds: range,
    setting: Setting,
    suite: _Suite,
    envs: Path = Path(),
) -> None:
    """Make the runs that are missing, seed by seed, so that what there is when it is stopped is paired."""
    have = store.runs(name, setting, _version(arm))
    missing = [(seed, task) for seed in seeds for task in tasks if (task, seed) not in have]
    if not missing:
        return
    child = None
    if isinstance(arm, Peer):
        python = python_of(arm.script, envs)
        if not python.exists():
            sys.exit(f"{name}: there is no environment {python.parent.parent}: `make bench-envs` makes it")
        child = Child(python, arm.script)
    for seed, task in missing:
        began = time.process_time()
        run = run_peer(child, arm, suite[task], seed, setting) if child else run_arm(arm, suite[task], seed, setting)  # type: ignore[arg-type]
        store.add(name, setting, run)
        spent = time.process_time() - began if child is None else sum(run.seconds)
        print(f"{name}, seed {seed}, {task}: {spent:.0f} s, regret {run.regret[-1]:.4g}", file=sys.stderr)
    if child:
        child.close()


def _version(arm: Arm | Peer | None) -> str | None:
    return arm.version if isinstance(arm, Arm) else None


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _seeds(text: str) -> range:
    begin, _, end = text.rpartition("-")
    return range(int(begin or 0), int(end))


if __name__ == "__main__":
    main()
