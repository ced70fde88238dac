"""Who runs on fresh seeds at the end, who is the winner, and what it gains over the default: decided here, purely.

The seeds that choose among the finalists are not those that are reported: the winner's figures are free of selection.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agentic_hpt.coordinator.statistics import noise_of
from agentic_hpt.records import ConfigurationKey, Goal, Params, Trial, configuration_key
from agentic_hpt.shrinkage import pooled, student

CHOOSING_SEEDS = 2
"""So many seeds each finalist runs on before one of them is the winner."""
_MOST = 3
_SHARE = 0.1
"""By default choosing takes at most so many trials, as a part of those of the search."""


@dataclass(frozen=True, slots=True)
class Gain:
    """How much better the winner is than the default (below 0: worse), and the 95 % interval if seeds tell one."""

    value: float
    low: float | None
    high: float | None
    default: float
    """The default's mean."""


def finalists(goal: Goal, trials: Sequence[Trial], wanted: int | None, seeds: int) -> list[Trial]:
    """Give a trial of each configuration that may be the winner, the best by estimated mean first; at least that one.

    `wanted` is how many somebody asked for. By default two or three are tried where there may be noise, and one where
    repeats have shown none, where the search was too short, and with several objectives.
    """
    best = goal.best(trials)
    if best is None:
        return []
    most = wanted if wanted is not None else min(_MOST, int(_SHARE * sum(t.counted for t in trials)) // CHOOSING_SEEDS)
    noise = noise_of(goal, trials)
    if seeds < 1 or most < 2 or goal.several or (wanted is None and noise is not None and noise.sd == 0):
        return [best]
    allowed, sign = goal.satisfying(trials), -1.0 if goal.direction == "maximize" else 1.0
    estimates = goal.expected(allowed)
    ranked = sorted(allowed, key=lambda t: (sign * estimates.get(t.id, t.values[goal.metric]), t.id))
    found: dict[ConfigurationKey, Trial] = {configuration_key(best.params): best}
    for trial in ranked:
        if len(found) == most:
            break
        found.setdefault(configuration_key(trial.params), trial)
    return list(found.values())


def varies(goal: Goal, trial: Trial, fresh: Sequence[Trial]) -> bool:
    """Say whether fresh seeds have shown noise: another value than the search's, or a failure."""
    value = goal.value(trial)
    return any(goal.value(t) != value for t in fresh)


def winner(goal: Goal, trials: Sequence[Trial], tried: Mapping[int, Sequence[Trial]]) -> Trial:
    """Choose among the finalists by all evidence: the search's and that of `tried`, the fresh runs by finalist.

    One that breaks a constraint there, or that fails on a seed, stands behind those that don't.
    """
    again = [replace(t, kind="repeat") for runs in tried.values() for t in runs]
    evidence = [*trials, *again]
    known = {t.id: t for t in trials}
    estimates, sign = goal.expected(evidence), -1.0 if goal.direction == "maximize" else 1.0
    satisfying = {t.id for t in goal.satisfying(evidence)}

    def order(number: int) -> tuple[bool, int, float, int]:
        failed = sum(goal.value(t) is None for t in tried[number])
        estimate = sign * estimates.get(number, known[number].values[goal.metric])
        return number not in satisfying, failed, estimate, number

    return known[min(tried, key=order)]


def told(goal: Goal, tried: Mapping[int, Sequence[Trial]]) -> tuple[dict[str, object], ...]:
    """Give the finalists as plain data: the trial, the fresh seeds that chose, and their mean."""
    found: list[dict[str, object]] = []
    for number, runs in tried.items():
        values = _values(goal, runs)
        found.append({"trial": number, "seeds": len(values), "mean": statistics.fmean(values) if values else None})
    return tuple(found)


def default_trial(goal: Goal, trials: Sequence[Trial], default: Params) -> Trial | None:
    """Give the first trial of the default configuration as it is declared now that has a value, whoever ran it."""
    valued = (t for t in trials if t.counted and goal.value(t) is not None)
    return next((t for t in valued if same_configuration(t.params, default)), None)


def same_configuration(a: Params, b: Params) -> bool:
    """Say whether two configurations are one."""
    return configuration_key(a) == configuration_key(b)


def gain_over(goal: Goal, trials: Sequence[Trial], fresh: Sequence[Trial], default: Sequence[Trial]) -> Gain | None:
    """Give the winner's gain over the default on fresh seeds, by those on which both have a value.

    The interval is Student's, with the noise pooled over both and the search's repeats: the seeds alone are few. `None`
    when no seed has both values.
    """
    known = {t.seed: value for t in default if (value := goal.value(t)) is not None}
    pairs = [(value, known[t.seed]) for t in fresh if (value := goal.value(t)) is not None and t.seed in known]
    if not pairs:
        return None
    mine, other = [a for a, _ in pairs], [b for _, b in pairs]
    sign = 1.0 if goal.direction == "maximize" else -1.0
    gain = sign * (statistics.fmean(mine) - statistics.fmean(other))
    held = noise_of(goal, trials)
    both = pooled([mine, other])
    parts = [(p.sd, n) for p, n in ((both, both.freedom if both else 0), (held, held.repeats if held else 0)) if p]
    freedom = sum(n for _, n in parts)
    if not freedom:
        return Gain(gain, None, None, statistics.fmean(other))
    sd = math.sqrt(math.fsum(n * found**2 for found, n in parts) / freedom)
    reach = student(freedom) * sd * math.sqrt(2 / len(pairs))
    return Gain(gain, gain - reach, gain + reach, statistics.fmean(other))


def _values(goal: Goal, trials: Sequence[Trial]) -> list[float]:
    return [value for t in trials if (value := goal.value(t)) is not None]
