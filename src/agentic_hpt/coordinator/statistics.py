"""What the trials' values say: noise, and what lies beyond it; the trend; what each worker and strategy brought.

Only what was measured counts as noise: the difference between runs of one configuration on several seeds.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agentic_hpt.records import ConfigurationKey, Goal, ParamValue, Trial, configuration_key


@dataclass(frozen=True, slots=True)
class RoundTrend:
    """A round's trials, and how far the search had come at its end."""

    round: int
    trials: int
    complete: int
    best_so_far: float | None
    median: float | None
    gain: float
    """By how much the round bettered the best value."""


@dataclass(frozen=True, slots=True)
class Yield:
    """What a worker, or all workers of a kind, have brought."""

    name: str
    trials: int
    complete: int
    improved_best: int
    """Trials that were the best so far when they ended."""
    gain_per_trial: float
    percentile: float | None
    """The mean rank of its complete trials among all: 1 is the best of the study, 0 the worst."""


def noise_sd(trials: Iterable[Trial], goal: Goal) -> float | None:
    """Give the SD of one configuration's metric over seeds, pooled; `None` when none was repeated."""
    done = [trial for trial in trials if goal.value(trial) is not None]
    names = list(set[str]().union(*(trial.params for trial in done)))
    alike: dict[tuple[ParamValue, ...], list[Trial]] = {}
    for trial in done:
        alike.setdefault(tuple(map(trial.params.get, names)), []).append(trial)
    groups: dict[ConfigurationKey, list[float]] = {}
    for candidates in alike.values():
        if len(candidates) > 1:  # only here it is worth the time to tell 1 from true
            for trial in candidates:
                groups.setdefault(configuration_key(trial.params), []).append(trial.values[goal.metric])
    repeated = [sorted(values) for values in groups.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if not freedom:
        return None
    squares = math.fsum((len(values) - 1) * statistics.variance(values) for values in repeated)
    return math.sqrt(squares / freedom)


def beyond_noise(gain: float, sd: float | None) -> bool:
    """Say whether a gain of one trial over another is more than noise: twice the SD of such a difference.

    While the noise was not measured every gain counts.
    """
    return gain > least_gain(sd)


def least_gain(sd: float | None) -> float:
    """Give the gain that a real one must exceed; 0 while the noise was not measured."""
    return 0.0 if sd is None else 2 * math.sqrt(2) * sd


def improvements(goal: Goal, trials: Iterable[Trial]) -> dict[int, float]:
    """Give the trials (by id) that were the best so far when they ended, each with its gain; 0 for the first one.

    A configuration's luck on another seed is no improvement, so repeats are left out.
    """
    found: dict[int, float] = {}
    best: float | None = None
    for trial in sorted(trials, key=lambda t: t.id):
        value = goal.value(trial)
        if value is None or trial.kind == "repeat":
            continue
        if best is None or goal.better(value, best):
            found[trial.id] = 0.0 if best is None else abs(value - best)
            best = value
    return found


def since_gain(goal: Goal, trials: Iterable[Trial], sd: float | None) -> int:
    """Count the finished trials of the search since the last gain beyond noise.

    Gains add up until they are more than noise: a slow climb is one, too.
    """
    since = 0
    held: float | None = None
    for trial in sorted((t for t in trials if t.finished), key=lambda t: t.id):
        since += trial.counted
        value = goal.value(trial)
        if value is None or trial.kind == "repeat":
            continue
        if held is None or (goal.better(value, held) and beyond_noise(abs(value - held), sd)):
            held, since = value, 0
    return since


def trend(goal: Goal, trials: Iterable[Trial], rounds: int) -> list[RoundTrend]:
    """Follow the search round by round; the last `rounds` of them are given."""
    by_round: dict[int, list[Trial]] = {}
    for trial in trials:
        if trial.finished and trial.counted:
            by_round.setdefault(trial.round, []).append(trial)
    found = []
    best: float | None = None
    for number in sorted(by_round):
        values = sorted(v for t in by_round[number] if (v := goal.value(t)) is not None)
        gain = 0.0
        if values:
            top = values[-1] if goal.direction == "maximize" else values[0]
            if best is None or goal.better(top, best):
                gain, best = 0.0 if best is None else abs(top - best), top
        median = statistics.median(values) if values else None
        found.append(RoundTrend(number, len(by_round[number]), len(values), best, median, gain))
    return found[-rounds:] if rounds else []


def yields(goal: Goal, trials: Sequence[Trial], name: Callable[[Trial], str]) -> list[Yield]:
    """Give what each group of trials brought (`name` says whose a trial is), those with the most trials first."""
    finished = sorted((t for t in trials if t.finished and t.counted), key=lambda t: t.id)
    gains = improvements(goal, finished)
    values = sorted(v for t in finished if (v := goal.value(t)) is not None)
    groups: dict[str, list[Trial]] = {}
    for trial in finished:
        groups.setdefault(name(trial), []).append(trial)
    found = []
    for key, mine in groups.items():
        ranks = [_rank(values, v, goal) for t in mine if (v := goal.value(t)) is not None]
        gained = [gains[t.id] for t in mine if t.id in gains]
        percentile = math.fsum(ranks) / len(ranks) if ranks else None
        found.append(Yield(key, len(mine), len(ranks), len(gained), math.fsum(gained) / len(mine), percentile))
    return sorted(found, key=lambda y: (-y.trials, y.name))


def _rank(values: Sequence[float], value: float, goal: Goal) -> float:
    if len(values) == 1:
        return 0.5
    below = (bisect_left(values, value) + bisect_right(values, value) - 1) / 2 / (len(values) - 1)
    return below if goal.direction == "maximize" else 1 - below
