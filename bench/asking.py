"""What a proposal costs where many are asked for at once: CPU milliseconds each, alone and in batches.

    python bench/asking.py [--histories 0,200,1000] [--batches 1,32,256]

The history is random complete trials of four parameters. One asked for alone finds the surrogate fitted already,
as where the workers of a round ask one after the other; with trials that ended since, its fit comes to that.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence

from agentic_hpt.feasible import random_configuration
from agentic_hpt.protocols import Strategy
from agentic_hpt.records import Arm, Assignment, Goal, Trial, TrialState
from agentic_hpt.strategies.auto import Auto
from agentic_hpt.strategies.joint import Joint
from scale import SPACE, no_op

GOAL = Goal("accuracy", "maximize")
ASKED: tuple[tuple[str, Arm | None], ...] = (
    ("joint", None),
    *((f"auto, {arm}", arm) for arm in ("gp", "local", "niche", "cmaes")),
)


def history(count: int) -> list[Trial]:
    """Give complete trials of random configurations."""
    dice, found = random.Random(0), list[Trial]()
    for number in range(count):
        params = random_configuration(SPACE, dice)
        done, values = TrialState.COMPLETE, no_op(dict(params))  # type: ignore[arg-type]
        found.append(Trial(number, params, done, 0, "joint", "joint", 1 + number // 8, SPACE.names, values=values))
    return found


def cost(strategy: Strategy, worker: Assignment, trials: Sequence[Trial], count: int) -> float:
    """Give the CPU milliseconds of each of `count` proposals."""
    began = time.process_time()
    found = strategy.propose_many(worker, trials, range(len(trials), len(trials) + count))
    return 1000 * (time.process_time() - began) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", default="0,200,1000")
    parser.add_argument("--batches", default="1,32,256")
    asked = parser.parse_args()
    histories, batches = ([int(n) for n in text.split(",")] for text in (asked.histories, asked.batches))
    print("CPU ms a proposal" + "".join(f"{f'{h:,} trials':>{9 * len(batches)}}" for h in histories))
    print(f"{'in a batch of':17}" + "".join(f"{b:9}" for _ in histories for b in batches))
    for name, arm in ASKED:
        figures = []
        for trials in map(history, histories):
            strategy: Strategy = Joint(SPACE, GOAL) if arm is None else Auto(SPACE, GOAL)
            worker = Assignment("w", "joint", 1 + len(trials) // 8, max(batches), SPACE.names, arm=arm)
            strategy.propose_many(worker, trials, [0])  # what is imported and read in once
            figures += [cost(strategy, worker, trials[:], count) for count in batches]
        print(f"{name:17}" + "".join(f"{figure:9.2f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
