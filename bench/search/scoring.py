"""The score: regret as a share of random search's, over tasks; ranks; wins, ties and losses; bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from bench.search.runs import Run

AT = (10, 25, 50, 100)
FLOOR = 0.001
"""A task that is solved would rule the geometric mean alone."""
_DRAWS = 2000

Runs = Mapping[tuple[str, int], Run]
Floats = npt.NDArray[np.float64]


def shares(arm: Runs, measure: Runs, tasks: Sequence[str], seeds: Sequence[int], at: int) -> Floats:
    """Give for each task the mean regret over seeds as a share of the measure's."""
    return np.array([_mean(arm, task, seeds, at) / max(_mean(measure, task, seeds, at), 1e-12) for task in tasks])


def geometric(found: Floats) -> float:
    """Give the geometric mean of shares."""
    return float(np.exp(np.log(np.maximum(found, FLOOR)).mean()))


def table(arm: Runs, tasks: Sequence[str], seeds: Sequence[int], at: int) -> Floats:
    """Give the regrets, a row a task, a column a seed."""
    return np.array([[arm[task, seed].regret[at - 1] for seed in seeds] for task in tasks])


def interval(arm: Floats, other: Floats, measure: Floats) -> tuple[float, float]:
    """Give the 90 % interval of the ratio of two arms' geometric means, over draws of seeds (the same for both)."""
    dice = np.random.default_rng(0)
    found = []
    for _ in range(_DRAWS):
        drawn = dice.integers(arm.shape[1], size=arm.shape[1])
        base = np.maximum(measure.mean(axis=1), 1e-12)
        found.append(geometric(arm[:, drawn].mean(axis=1) / base) / geometric(other[:, drawn].mean(axis=1) / base))
    low, high = np.percentile(found, [5, 95])
    return float(low), float(high)


def ranks(arms: Sequence[Floats]) -> Floats:
    """Give each arm's mean rank over tasks and seeds (1 is best; ties share)."""
    stacked = np.stack(arms)
    below = (stacked[:, None] > stacked[None]).sum(axis=1) + ((stacked[:, None] == stacked[None]).sum(axis=1) - 1) / 2
    return np.asarray(1 + below.mean(axis=(1, 2)))


def wins(arm: Floats, other: Floats) -> tuple[int, int, int]:
    """Count the runs that an arm won, tied and lost against another on the same task and seed."""
    return int((arm < other).sum()), int((arm == other).sum()), int((arm > other).sum())


def _mean(arm: Runs, task: str, seeds: Sequence[int], at: int) -> float:
    return float(np.mean([arm[task, seed].regret[at - 1] for seed in seeds]))
