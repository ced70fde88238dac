"""What the trials' values say: noise, and what lies beyond it; the trend; what each worker and strategy brought.

Only what was measured counts as noise: the difference between runs of one configuration on several seeds.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agentic_hpt.records import (
    Budget,
    ConfigurationKey,
    Goal,
    Insights,
    ParamValue,
    Trial,
    TrialState,
    Usage,
    configuration_key,
)
from agentic_hpt.shrinkage import pooled
from agentic_hpt.space import Choice, Parameter, SearchSpace

_LEAST_TIMED = 10
_NEWEST_TIMED = 400
_LEAST_CORRELATION = 0.5
_CLEAR_CORRELATION = 2.5
"""A rank correlation counts from so many of its SDs where there is none, 1 / sqrt(trials - 1), on."""
_SPREAD = 1.2
"""Where the slower quarter of the trials takes less than so many times the faster one, nothing drives the seconds."""


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


@dataclass(frozen=True, slots=True)
class Cost:
    """What the trials took, in seconds: complete ones, but `kinds` (the mean of each kind of worker) is of all."""

    trials: int
    median: float
    low: float
    """The faster quarter took less, the slower one more than `high`."""
    high: float
    kinds: Mapping[str, float]
    driver: str | None
    """The parameter whose value goes with the seconds most, if one clearly does."""
    correlation: float | None
    """Its rank correlation with the seconds."""


@dataclass(frozen=True, slots=True)
class Affordable:
    """How many more trials the budget lets, and whether it is time that runs out first."""

    trials: int
    by_time: bool


@dataclass(frozen=True, slots=True)
class Noise:
    """The SD of one configuration's metric over seeds."""

    sd: float
    low: float | None
    """The interval that holds the true SD with nine chances in ten; none where neighbours are the source."""
    high: float | None
    repeats: int
    """The runs beyond each configuration's first."""
    source: Literal["repeats", "neighbours"]


def worth_of(goal: Goal, trial: Trial) -> float:
    """Give a trial's value so that more is better; one without a value, or infeasible, is worth less than any."""
    value = goal.value(trial)
    if value is None or not goal.feasible(trial):
        return -math.inf
    return value if goal.direction == "maximize" else -value


def share_beaten(worth: float, others: Sequence[float]) -> float:
    """Give the share of `others` (sorted) that a worth beats, equal ones by half; a half where there are none.

    What has no value beats nothing.
    """
    if worth == -math.inf:
        return 0.0
    return (bisect_left(others, worth) + bisect_right(others, worth)) / 2 / len(others) if others else 0.5


def runs_of(goal: Goal, trials: Iterable[Trial]) -> list[list[Trial]]:
    """Give the complete trials, those of one configuration together."""
    done = [trial for trial in trials if goal.value(trial) is not None]
    names = list(set[str]().union(*(trial.params for trial in done)))
    alike: dict[tuple[ParamValue, ...], list[Trial]] = {}
    for trial in done:
        alike.setdefault(tuple(map(trial.params.get, names)), []).append(trial)
    found: list[list[Trial]] = []
    for candidates in alike.values():
        if len(candidates) == 1:
            found.append(candidates)
            continue
        groups: dict[ConfigurationKey, list[Trial]] = {}
        for trial in candidates:  # only here it is worth the time to tell 1 from true
            groups.setdefault(configuration_key(trial.params), []).append(trial)
        found += groups.values()
    return found


def noise_of(goal: Goal, trials: Iterable[Trial], insights: Insights | None = None) -> Noise | None:
    """Say how much seeds alone move the metric, by what ran twice in this study; `None` when nothing did.

    Imported trials say nothing of it: between two studies more may differ than the seed. With `insights` what
    neighbouring trials say stands in for repeats: it holds what the surrogate can't explain, too, so it is too large
    rather than too small.
    """
    own = (trial for trial in trials if trial.kind != "imported")
    measured = pooled([t.values[goal.metric] for t in same] for same in runs_of(goal, _alike(own)))
    if measured is not None:
        low, high = measured.interval()
        return Noise(measured.sd, low, high, measured.freedom, "repeats")
    outlook = insights.outlook if insights is not None else None
    if outlook is None or outlook.noise is None:
        return None
    return Noise(outlook.noise, None, None, 0, "neighbours")


def _alike(trials: Iterable[Trial]) -> list[Trial]:
    """Leave out most trials that are surely the only one of their configuration: those with a value of their own.

    One parameter is looked at, the one with the most values among the newest: to tell that costs next to nothing.
    """
    given = list(trials)
    newest = [trial.params for trial in given[-_NEWEST_TIMED:]]
    names = list(set[str]().union(*newest))
    telling = max(names, key=lambda name: (len({params.get(name) for params in newest}), name), default="")
    often = Counter(trial.params.get(telling) for trial in given)
    return [trial for trial in given if often[trial.params.get(telling)] > 1]


def noise_sd(trials: Iterable[Trial], goal: Goal) -> float | None:
    """Give the SD of one configuration's metric over seeds, pooled; `None` when none was repeated."""
    noise = noise_of(goal, trials)
    return noise.sd if noise is not None else None


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
        value = goal.figure(trial)
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
        value = goal.figure(trial)
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
        values = [v for t in by_round[number] if (v := goal.value(t)) is not None]
        figures = [v for t in by_round[number] if (v := goal.figure(t)) is not None]
        gain = 0.0
        if figures:
            top = max(figures) if goal.direction == "maximize" else min(figures)
            if best is None or goal.better(top, best):
                gain, best = 0.0 if best is None else abs(top - best), top
        median = statistics.median(values) if values else None
        found.append(RoundTrend(number, len(by_round[number]), len(values), best, median, gain))
    return found[-rounds:] if rounds else []


def yields(goal: Goal, trials: Sequence[Trial], name: Callable[[Trial], str]) -> list[Yield]:
    """Give what each group of trials brought (`name` says whose a trial is), those with the most trials first."""
    finished = sorted((t for t in trials if t.finished and t.counted), key=lambda t: t.id)
    gains = improvements(goal, finished)
    known = {t.id: v for t in finished if (v := goal.value(t)) is not None}
    percentiles = _percentiles(goal, known.values())
    groups: dict[str, list[Trial]] = {}
    for trial in finished:
        groups.setdefault(name(trial), []).append(trial)
    found = []
    for key, mine in groups.items():
        ranks = [percentiles[known[t.id]] for t in mine if t.id in known]
        gained = [gains[t.id] for t in mine if t.id in gains]
        percentile = math.fsum(ranks) / len(ranks) if ranks else None
        found.append(Yield(key, len(mine), len(ranks), len(gained), math.fsum(gained) / len(mine), percentile))
    return sorted(found, key=lambda y: (-y.trials, y.name))


def _percentiles(goal: Goal, values: Iterable[float]) -> dict[float, float]:
    """Give for each value the share of the others that it beats, equal ones by half; a half for an only one."""
    found: dict[float, float] = {}
    counts = Counter(values)
    last = counts.total() - 1
    below = 0
    for value in sorted(counts, reverse=goal.direction == "minimize"):
        found[value] = (2 * below + counts[value] - 1) / 2 / last if last else 0.5
        below += counts[value]
    return found


def cost(space: SearchSpace, trials: Sequence[Trial]) -> Cost | None:
    """Give what the newest trials took, and which parameter drives it; `None` when none has told its seconds."""
    timed = sorted((t for t in trials if t.counted and t.finished and t.seconds is not None), key=lambda t: t.id)
    timed = timed[-_NEWEST_TIMED:]
    complete = [t for t in timed if t.state is TrialState.COMPLETE]
    seconds = [t.seconds or 0.0 for t in complete]
    if not seconds:
        return None
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    kinds: dict[str, list[float]] = {}
    for trial in timed:
        kinds.setdefault(trial.kind, []).append(trial.seconds or 0.0)
    driver, correlation = _driver(space, complete) if high >= _SPREAD * low else (None, None)
    means = {kind: statistics.fmean(kinds[kind]) for kind in sorted(kinds)}
    return Cost(len(complete), median, low, high, means, driver, correlation)


def affordable(budget: Budget, usage: Usage, slots: int, trials: Iterable[Trial]) -> Affordable:
    """Give how many more trials fit the trials and the minutes that are left, by the median seconds of a complete one.

    Where neither says anything it is a large number.
    """
    left = usage.trials_left(budget)
    seconds = [t.seconds for t in trials if t.counted and t.state is TrialState.COMPLETE and t.seconds is not None]
    median = statistics.median(seconds) if seconds else 0.0
    if budget.minutes is None or median <= 0:
        return Affordable(left, by_time=False)
    fitting = max(0.0, budget.minutes * 60 - usage.seconds) * slots / median
    return Affordable(int(fitting), by_time=True) if fitting < left else Affordable(left, by_time=False)


def _driver(space: SearchSpace, trials: Sequence[Trial]) -> tuple[str, float] | tuple[None, None]:
    """Give the parameter whose rank goes with the rank of the seconds most, if it is no accident."""
    found: list[tuple[str, float]] = []
    for name in space:
        active = [t for t in trials if name in t.params]
        places = [_place(space[name], t.params[name]) for t in active]
        if len(active) < _LEAST_TIMED or None in places or len(set(places)) < 2:
            continue
        times = _ranks([t.seconds or 0.0 for t in active])
        if len(set(times)) > 1:
            rho = statistics.correlation(_ranks([p for p in places if p is not None]), times)
            if abs(rho) >= max(_LEAST_CORRELATION, _CLEAR_CORRELATION / math.sqrt(len(active) - 1)):
                found.append((name, rho))
    return max(found, key=lambda entry: abs(entry[1]), default=(None, None))


def _place(parameter: Parameter, value: ParamValue) -> float | None:
    """Give where a value stands among the parameter's; `None` where they have no order."""
    numbers = not isinstance(parameter, Choice) or not any(isinstance(v, bool | str) for v in parameter.values)
    if numbers and isinstance(value, int | float):
        return float(value)
    if not isinstance(parameter, Choice):
        return None
    return parameter.index(value) if parameter.ordered or len(parameter.values) == 2 else None


def _ranks(values: Sequence[float]) -> list[float]:
    """Give each value's rank; equal ones share theirs."""
    order = sorted(values)
    return [(bisect_left(order, v) + bisect_right(order, v)) / 2 for v in values]
