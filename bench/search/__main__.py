"""Compare ways to search on public tasks.

python -m bench.search --data FOLDER [--arms joint,auto] [--tasks chosen|confirmed|all|NAME,...] [--seeds 10]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from bench.search.arms import ARMS
from bench.search.runs import Store, run
from bench.search.scoring import AT, geometric, interval, ranks, shares, table, wins
from bench.search.suite import CHOSEN_ON, CONFIRMED_ON, load_task

_SETS = {"chosen": CHOSEN_ON, "confirmed": CONFIRMED_ON, "all": CHOSEN_ON + CONFIRMED_ON}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("HPO_BENCH_DATA"))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--tasks", default="all", help="chosen, confirmed, all, or names separated by commas")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--against", default="joint")
    parser.add_argument("--detail", action="store_true", help="a line a task")
    parser.add_argument("--store", type=Path, default=Path("bench/results/search"))
    options = parser.parse_args()
    if options.data is None:
        sys.exit("say where the YAHPO data are: --data FOLDER or HPO_BENCH_DATA (see docs/benchmarks.md)")
    names = list(dict.fromkeys(["random", *options.arms.split(","), options.against]))
    tasks, seeds = _SETS.get(options.tasks) or tuple(options.tasks.split(",")), range(options.seeds)
    store = Store(options.store)
    for task_name in tasks:
        task = None
        for name in names:
            arm = ARMS[name]
            missing = [s for s in seeds if (task_name, s) not in store.runs(arm)]
            if missing:
                task = task or load_task(task_name, options.data)
                began = time.process_time()
                store.add(arm, [run(arm, task, seed) for seed in missing])
                print(f"{task_name}: {name}: {len(missing)} runs, {time.process_time() - began:.0f} s", file=sys.stderr)
    kept = {name: store.runs(ARMS[name]) for name in names}
    print(f"{len(tasks)} tasks, {len(seeds)} seeds\n")
    print(f"{'':24}{'geometric mean at':^28}{'plain mean at':^28}{'rank at':^14}")
    print(f"{'':24}" + "".join(f"{at:7}" for at in AT) * 2 + f"{50:7}{100:7}")
    ranked = {at: ranks([table(kept[n], tasks, seeds, at) for n in names]) for at in (50, 100)}
    for i, name in enumerate(names):
        found = [shares(kept[name], kept["random"], tasks, seeds, at) for at in AT]
        line = (
            f"{name:24}" + "".join(f"{geometric(f):7.2f}" for f in found) + "".join(f"{f.mean():7.2f}" for f in found)
        )
        print(line + "".join(f"{ranked[at][i]:7.2f}" for at in (50, 100)))
    print(f"\nratio of geometric means to {options.against}, 90 % interval; runs won / tied / lost")
    for name in names:
        if name == options.against:
            continue
        cells = []
        for at in (25, 50, 100):
            mine, other, measure = (table(kept[n], tasks, seeds, at) for n in (name, options.against, "random"))
            low, high = interval(mine, other, measure)
            won, tied, lost = wins(mine, other)
            cells.append(f"{low:5.2f} to {high:5.2f}  {won:3}/{tied:3}/{lost:3}")
        print(f"{name:24}" + "   ".join(cells))
    if options.detail:
        print(
            f"\nshare of random's regret by task, at 25 / 50 / 100\n{'':28}"
            + "".join(f"{n[:20]:>24}" for n in names[1:])
        )
        for i, task_name in enumerate(tasks):
            cells = []
            for name in names[1:]:
                found = [shares(kept[name], kept["random"], tasks, seeds, at)[i] for at in (25, 50, 100)]
                cells.append(" /".join(f"{f:6.3f}" for f in found).rjust(24))
            print(f"{task_name:28}" + "".join(cells))


if __name__ == "__main__":
    main()
