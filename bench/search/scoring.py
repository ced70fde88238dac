"""The score: regret as a share of random search's; ranks; wins, ties and losses with a test; how soon; how noisy.

Runs are paired by task and seed. An optimizer with fewer runs than others is compared on those that both have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from bench.search.store import Run

AT = (10, 25, 50, 100)
FLOOR = 0.001
"""A task that is solved would rule the geometric mean alone."""
_DRAWS = 2000
_BAND = (5, 95)
"""Percentiles: 90 % intervals."""

Runs = Mapping[tuple[str, int], Run]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Runs of one optimizer: for each task the seeds, their regrets (a row a seed, a column a trial), random search's.

    Random search's are of the same seeds: with the same first trials all shares are 1 as long as these last.
    """

    seeds: Mapping[str, tuple[int, ...]]
    regret: Mapping[str, Floats]
    random: Mapping[str, Floats]

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """The tasks and seeds that there are."""
        return [(task, seed) for task, seeds in self.seeds.items() for seed in seeds]

    @property
    def measure(self) -> dict[str, Floats]:
        """Random search's mean regret after as many trials."""
        return {task: np.maximum(regret.mean(axis=0), 1e-12) for task, regret in self.random.items()}

    @property
    def shares(self) -> dict[str, Floats]:
        """The regrets as shares of the measure."""
        measure = self.measure
        return {task: regret / measure[task] for task, regret in self.regret.items()}

    def only(self, pairs: Iterable[tuple[str, int]]) -> Table:
        """Keep some tasks and seeds."""
        wanted = set(pairs)
        places = {t: [i for i, seed in enumerate(have) if (t, seed) in wanted] for t, have in self.seeds.items()}
        places = {task: found for task, found in places.items() if found}
        return Table(
            {task: tuple(self.seeds[task][i] for i in found) for task, found in places.items()},
            {task: self.regret[task][found] for task, found in places.items()},
            {task: self.random[task][found] for task, found in places.items()},
        )

    def at(self, trial: int) -> Floats:
        """Give each run's share after so many trials, in the order of `pairs`."""
        return np.concatenate([found[:, trial - 1] for found in self.shares.values()]) if self.seeds else np.empty(0)


@dataclass(frozen=True)
class Compared:
    """An optimizer against another, after so many trials."""

    ratio: float
    """Of the geometric means."""
    interval: tuple[float, float]
    """Of the ratio, 90 %."""
    runs: tuple[int, int, int]
    """Runs won, tied, lost."""
    tasks: tuple[int, int, int]
    """Tasks won, undecided, lost: by the same test among a task's runs, at 5 %."""
    p: float
    """Of the signed-rank test over all pairs; two-sided."""


def table(arm: Runs, random: Runs, tasks: Sequence[str], seeds: Iterable[int]) -> Table:
    """Put an arm's runs beside random search's."""
    known = {task: tuple(seed for seed in seeds if (task, seed) in arm and (task, seed) in random) for task in tasks}
    known = {task: found for task, found in known.items() if found}
    regret, measure = (
        {task: np.array([runs[task, seed].regret for seed in found]) for task, found in known.items()}
        for runs in (arm, random)
    )
    return Table(known, regret, measure)


def geometric(means: Floats) -> Floats:
    """Give the geometric mean over tasks, the last axis, of mean shares."""
    return np.asarray(np.exp(np.log(np.maximum(means, FLOOR)).mean(axis=-1)))


def means(found: Table) -> Floats:
    """Give the mean shares: a row a trial, a column a task."""
    return np.stack([values.mean(axis=0) for values in found.shares.values()], axis=-1)


def curve(found: Table) -> tuple[Floats, Floats, Floats]:
    """Give the geometric mean after each trial, and the ends of its interval over draws of seeds."""
    low, high = np.percentile(geometric(_drawn(found.shares)), _BAND, axis=0)
    return geometric(means(found)), low, high


def plain(found: Table, trial: int) -> tuple[float, float, float]:
    """Give the plain mean over tasks after so many trials, and the ends of its interval."""
    low, high = np.percentile(_drawn(found.shares)[:, trial - 1].mean(axis=-1), _BAND)
    return float(means(found)[trial - 1].mean()), float(low), float(high)


def compared(arm: Table, other: Table, trial: int) -> Compared:
    """Compare two optimizers on the runs that both have."""
    both = set(arm.pairs) & set(other.pairs)
    mine, theirs = arm.only(both), other.only(both)
    # The same seeds are drawn for both: the dice are.
    ratios = (geometric(_drawn(mine.shares)) / geometric(_drawn(theirs.shares)))[:, trial - 1]
    low, high = np.percentile(ratios, _BAND)
    ratio = float(geometric(means(mine)[trial - 1]) / geometric(means(theirs)[trial - 1]))
    tasks = [0, 0, 0]
    for task, values in mine.shares.items():
        sign, p = wilcoxon(values[:, trial - 1] - theirs.shares[task][:, trial - 1])
        tasks[1 if p >= 0.05 else 0 if sign < 0 else 2] += 1
    a, b = mine.at(trial), theirs.at(trial)
    runs = int((a < b).sum()), int((a == b).sum()), int((a > b).sum())
    return Compared(ratio, (float(low), float(high)), runs, (tasks[0], tasks[1], tasks[2]), wilcoxon(a - b)[1])


def wilcoxon(differences: Floats) -> tuple[float, float]:
    """Give the sum of signed ranks and its two-sided p. Pairs that tie are left out; without others p is 1."""
    from scipy import stats

    moved = differences[differences != 0]
    if not moved.size:
        return 0.0, 1.0
    return float((np.sign(moved) * stats.rankdata(abs(moved))).sum()), float(stats.wilcoxon(moved).pvalue)


def ranks(arms: Sequence[Table], trial: int) -> Floats:
    """Give each arm's mean rank over the runs that all have (1 is best; ties share)."""
    both = set.intersection(*(set(arm.pairs) for arm in arms))
    stacked = np.stack([arm.only(both).at(trial) for arm in arms])
    below = (stacked[:, None] > stacked[None]).sum(axis=1) + ((stacked[:, None] == stacked[None]).sum(axis=1) - 1) / 2
    return np.asarray(1 + below.mean(axis=1))


def reached(arm: Table, target: Table, end: int) -> tuple[int | None, dict[str, int | None]]:
    """Say after how many trials the regret was reached that the target has in the end: over all tasks, and for each.

    Over all tasks it is the geometric mean, of shares of random search's regret in the end. `None`: never.
    """
    both = set(arm.pairs) & set(target.pairs)
    mine, theirs = arm.only(both), target.only(both)
    falls = {t: regret.mean(axis=0) / mine.measure[t][end - 1] for t, regret in mine.regret.items()}
    ends = {t: float(regret[:, end - 1].mean() / mine.measure[t][end - 1]) for t, regret in theirs.regret.items()}
    whole = geometric(np.stack(list(falls.values()), axis=-1))
    return _first(whole, float(geometric(np.array(list(ends.values()))))), {t: _first(falls[t], ends[t]) for t in falls}


def _first(fall: Floats, end: float) -> int | None:
    places = np.flatnonzero(fall <= end)
    return int(places[0]) + 1 if places.size else None


def _drawn(shares: Mapping[str, Floats]) -> Floats:
    """Draw seeds anew, task by task; give the mean shares: a draw, a trial, a task."""
    dice, drawn = np.random.default_rng(0), []
    for values in shares.values():
        counts = dice.multinomial(len(values), [1 / len(values)] * len(values), size=_DRAWS)
        drawn.append(counts @ values / len(values))
    return np.stack(drawn, axis=-1)
