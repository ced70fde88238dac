"""What an earlier study of another data set is worth, and what one costs that misleads: `make bench-transfer`.

The source is 100 random trials: of a related task, of the task itself with their values turned round (`opposed`), or
with values drawn at random. `auto` proposes, sequentially, after the default and what the source is best at.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from bench.search.suite import Task, load_task
from bench.search.trials import Lab, first_trials

from agentic_hpt.earlier import Usable, firsts
from agentic_hpt.records import Assignment, Goal, Params, Trial, TrialState
from agentic_hpt.strategies import Auto

PAIRS = (
    ("lcbench/167168", "lcbench/168335"),
    ("lcbench/168335", "lcbench/167168"),
    ("rbv2_rpart/14", "rbv2_rpart/40499"),
)
KINDS = ("none", "related", "opposed", "random")
SHOWN = (10, 15, 25, 40)
_SOURCE = 100
_MEASURED = 400


def source(kind: str, related: Task, target: Task, seed: int) -> list[Usable]:
    """Give the earlier study that a run learns from."""
    if kind == "none":
        return []
    params = [dict(p) for p in first_trials(related, 10_000 + seed, _SOURCE)]
    dice = random.Random(seed)
    losses = [related.evaluate(p, seed)[1] for p in params] if kind == "related" else []
    if kind == "opposed":
        losses = [-target.evaluate(p, seed)[1] for p in params]
    return [Usable(kind, tuple(params), tuple(losses or [dice.random() for _ in params]), "")]


def run(pair: tuple[str, str], kind: str, seed: int, data: Path) -> list[float]:
    """Give the normalised regret of the best so far after each trial."""
    target, related = (load_task(name, data) for name in pair)
    goal, lab, earlier = Goal("loss", "minimize"), Lab(target, seed), source(kind, related, target, seed)
    strategy = Auto(target.space, goal, seed, earlier)
    default = target.space.default()
    first: list[Params] = [default, *firsts(earlier, target.space, max(SHOWN), [default])]
    trials: list[Trial] = []
    for number in range(max(SHOWN)):
        params: Params | None = first[number] if number < len(first) else None
        if params is None:
            asked = Assignment("ask", "ask", 0, 1, target.space.names)
            proposal = strategy.propose(asked, trials, 1000 * seed + number)
            params = proposal.params if proposal is not None else default
        values = {"loss": lab.evaluate(params)}
        trials.append(Trial(number, params, TrialState.COMPLETE, 0, "ask", "ask", 0, values=values))
    middle = float(np.median([target.evaluate(p, 0)[1] for p in first_trials(target, 0, _MEASURED)]))
    return [float(r) for r in (np.minimum.accumulate(lab.truth) - target.best) / (middle - target.best)]


def table(pair: tuple[str, str], seeds: int, data: Path, pool: ProcessPoolExecutor) -> Sequence[str]:
    """Measure one pair of tasks; a row a kind of source."""
    asked = {kind: [pool.submit(run, pair, kind, seed, data) for seed in range(seeds)] for kind in KINDS}
    rows = []
    for kind, runs in asked.items():
        curves = np.array([future.result() for future in runs])[:, [n - 1 for n in SHOWN]]
        errors = curves.std(axis=0, ddof=1) / np.sqrt(seeds)
        cells = " | ".join(f"{mean:.3f} ± {error:.3f}" for mean, error in zip(curves.mean(axis=0), errors, strict=True))
        rows.append(f"| {pair[0]} | {kind if kind != 'related' else pair[1]} | {cells} |")
    return rows


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--data", type=Path, required=True, help="the folder with the YAHPO data")
    reader.add_argument("--seeds", type=int, default=10)
    reader.add_argument("--jobs", type=int, default=2)
    options = reader.parse_args()
    print(f"| task | source | {' | '.join(f'{n} trials' for n in SHOWN)} |\n|---|---|{'---|' * len(SHOWN)}", flush=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        for pair in PAIRS:
            print("\n".join(table(pair, options.seeds, options.data, pool)), flush=True)


if __name__ == "__main__":
    main()
