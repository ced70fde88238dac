"""What the trials' values say: noise, and what lies beyond it; what trials take, and how many more there is time for.

Only what was measured counts as noise: the difference between runs of one configuration on several seeds.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agentic_hpt.past import Past
from agentic_hpt.records import Budget, Goal, Insights, ParamValue, Trial, TrialState, Usage
from agentic_hpt.space import Choice, Parameter, SearchSpace

_LEAST_TIMED = 10
_NEWEST_TIMED = 400
_LEAST_CORRELATION = 0.5
_CLEAR_CORRELATION = 2.5
"""A rank correlation counts from so many of its SDs where there is none, 1 / sqrt(trials - 1), on."""
_SPREAD = 1.2
"""Where the slower quarter of the trials takes less than so many times the faster one, nothing drives the seconds."""


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


def noise_of(goal: Goal, trials: Iterable[Trial]) -> Noise | None:
    """Say how much seeds alone move the metric, by what ran twice in this study; `None` when nothing did."""
    return noise_in(Past.of(goal, trials))


def noise_in(past: Past, insights: Insights | None = None) -> Noise | None:
    """Say how much seeds alone move the metric, by what ran twice in this study; `None` when nothing did.

    Imported trials say nothing of it: between two studies more may differ than the seed. With `insights` what
    neighbouring trials say stands in for repeats: it holds what the surrogate can't explain, too, so it is too large
    rather than too small.
    """
    measured = past.noise()
    if measured is not None:
        low, high = measured.interval()
        return Noise(measured.sd, low, high, measured.freedom, "repeats")
    outlook = insights.outlook if insights is not None else None
    if outlook is None or outlook.noise is None:
        return None
    return Noise(outlook.noise, None, None, 0, "neighbours")


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


def cost(space: SearchSpace, past: Past) -> Cost | None:
    """Give what the newest trials took, and which parameter drives it; `None` when none has told its seconds."""
    timed = past.timed(_NEWEST_TIMED)
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


def affordable(budget: Budget, usage: Usage, slots: int, past: Past) -> Affordable:
    """Give how many more trials fit the trials and the minutes that are left, by the median seconds of a complete one.

    Where neither says anything it is a large number.
    """
    left = usage.trials_left(budget)
    median = past.median_seconds() or 0.0
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
