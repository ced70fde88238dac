"""Where trials lie in the space: the best against the rest, on bounds, where they fail."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from agentic_hpt.records import ParamValue, Range, Trial
from agentic_hpt.space import Choice, Parameter, SearchSpace

_LEAST_COMPLETE = 10
_LEAST_TOP = 3
_TOP = 0.2
_SHIFT = 0.1
_MORE_FREQUENT = 0.25
_MOST_VALUES = 3
_EDGE = 0.02
_SAMPLE = 300
_LEAST_FAILURES = 4
_FAILURES_IN_REGION = 0.8
_SUCCESSES_IN_REGION = 0.3
_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class Contrast:
    """Where the best fifth of the trials lies in one parameter, and where the rest does.

    Of a number or an ordered choice: the quartiles and the median. Of a choice: its most frequent values, with shares.
    """

    parameter: str
    top: tuple[ParamValue, ...] | tuple[tuple[ParamValue, float], ...]
    rest: tuple[ParamValue, ...] | tuple[tuple[ParamValue, float], ...]
    differs: bool


@dataclass(frozen=True, slots=True)
class AtBound:
    """A parameter whose good values lie on a bound: better ones may lie behind it."""

    parameter: str
    side: Literal["low", "high"]
    bound: Literal["declared", "narrowed"]
    value: ParamValue
    incumbent: bool
    """Whether the best trial lies there."""
    top: bool
    """Whether half of the best fifth, or more, does."""


@dataclass(frozen=True, slots=True)
class SharedRegion:
    """A range of one parameter that holds most failures of a kind, and few successes."""

    parameter: str
    range: Range
    failures: float
    """The share of the failures in it, and that of the complete trials."""
    successes: float


def top_fifth(ranked: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    """Divide the complete trials, best first, into the best fifth and the rest; both are empty below 10 of them.

    Of a long history each is a sample, evenly over the ranks.
    """
    if len(ranked) < _LEAST_COMPLETE:
        return [], []
    top = max(_LEAST_TOP, round(_TOP * len(ranked)))
    return _sample(ranked, 0, top), _sample(ranked, top)


def contrasts(space: SearchSpace, names: Sequence[str], top: Sequence[Trial], rest: Sequence[Trial]) -> list[Contrast]:
    """Set the best fifth against the rest, parameter by parameter; those seen too seldom are left out."""
    found = []
    for name in names:
        parameter = space[name]
        high = _values(parameter, name, top)
        low = _values(parameter, name, rest)
        if len(high) < _LEAST_TOP or len(low) < _LEAST_TOP:
            continue
        if isinstance(parameter, Choice) and not parameter.ordered:
            found.append(_by_frequency(name, parameter, high, low))
        else:
            found.append(_by_quartiles(name, parameter, high, low))
    return found


def at_bounds(
    space: SearchSpace, names: Sequence[str], region: Mapping[str, Range], best: Trial | None, top: Sequence[Trial]
) -> list[AtBound]:
    """Find the parameters where the best trial or the best fifth lies within a fiftieth of the scale of a bound."""
    found = []
    for name in names:
        parameter = space[name]
        limits = _limits(parameter, region.get(name))
        if limits is None:
            continue
        low, high = limits
        mine = _values(parameter, name, [best] if best is not None else [])
        theirs = _values(parameter, name, top)
        sides: tuple[tuple[Literal["low", "high"], float], ...] = (("low", low), ("high", high))
        for side, limit in sides:
            near = _EDGE * (high - low)
            here = any(abs(value - limit) <= near for value in mine)
            crowd = sum(abs(value - limit) <= near for value in theirs)
            most = bool(theirs) and 2 * crowd >= len(theirs)
            if here or most:
                declared = abs(limit - (0.0 if side == "low" else 1.0)) <= 1e-9
                kind: Literal["declared", "narrowed"] = "declared" if declared else "narrowed"
                found.append(AtBound(name, side, kind, _value(parameter, limit), here, most))
    return found


def shared_regions(
    space: SearchSpace, names: Sequence[str], failed: Sequence[Trial], complete: Sequence[Trial]
) -> list[SharedRegion]:
    """Find where failures of one kind have in common what successes have not, the clearest first.

    The shortest range that holds 4 of 5 failures counts when at most 3 of 10 successes lie in it, and when so many
    failures would hardly lie there by chance.
    """
    ours = _sample([t for t in failed if not (t.failure and t.failure.infrastructure)])
    complete = _sample(complete)
    if len(ours) < _LEAST_FAILURES or not complete:
        return []
    found = []
    for name in names:
        parameter = space[name]
        bad, good = _values(parameter, name, ours), _values(parameter, name, complete)
        if len(bad) < _FAILURES_IN_REGION * len(ours):
            continue
        needed = math.ceil(_FAILURES_IN_REGION * len(ours))
        if isinstance(parameter, Choice) and not parameter.ordered:
            range_, inside, successes, ways = _frequent_values(parameter, bad, good, needed)
        else:
            range_, inside, successes, ways = _shortest_range(parameter, bad, good, needed)
        share = successes / len(complete)
        chance = _chance(inside, len(ours), (successes + 1) / (len(complete) + 2)) * ways * len(names)
        if share <= _SUCCESSES_IN_REGION and chance < _CHANCE:
            found.append((chance, name, SharedRegion(name, range_, inside / len(ours), share)))
    return [entry[2] for entry in sorted(found, key=lambda e: (e[0], e[1]))]


def _sample(trials: Sequence[Trial], start: int = 0, stop: int | None = None) -> list[Trial]:
    count = (len(trials) if stop is None else stop) - start
    if count <= _SAMPLE:
        return list(trials[start : start + count])
    return [trials[start + i * count // _SAMPLE] for i in range(_SAMPLE)]


def _by_quartiles(name: str, parameter: Parameter, top: list[float], rest: list[float]) -> Contrast:
    places = [[values[int(q * (len(values) - 1) + 0.5)] for q in (0.25, 0.5, 0.75)] for values in (top, rest)]
    shifted = abs(places[0][1] - places[1][1]) >= _SHIFT
    apart = not places[0][0] <= places[1][1] <= places[0][2]
    shown = [tuple(_value(parameter, place) for place in three) for three in places]
    return Contrast(name, shown[0], shown[1], shifted and apart)


def _by_frequency(name: str, parameter: Choice, top: list[float], rest: list[float]) -> Contrast:
    shares = []
    for values in (top, rest):
        counts = sorted(Counter(values).items(), key=lambda entry: (-entry[1], entry[0]))
        shares.append([(place, count / len(values)) for place, count in counts])
    first, share = shares[0][0]
    differs = share >= 0.5 and share - dict(shares[1]).get(first, 0.0) >= _MORE_FREQUENT
    shown = [tuple((_value(parameter, place), part) for place, part in entries[:_MOST_VALUES]) for entries in shares]
    return Contrast(name, shown[0], shown[1], differs)


def _shortest_range(
    parameter: Parameter, bad: list[float], good: list[float], needed: int
) -> tuple[Range, int, int, int]:
    """Give the shortest range with so many failures, the failures and successes in it, and from how many it is."""
    starts = range(len(bad) - needed + 1)
    start = min(starts, key=lambda i: (bad[i + needed - 1] - bad[i], i))
    low, high = bad[start], bad[start + needed - 1]
    inside = bisect_right(bad, high) - bisect_left(bad, low)
    successes = bisect_right(good, high) - bisect_left(good, low)
    return {"low": _value(parameter, low), "high": _value(parameter, high)}, inside, successes, len(starts)


def _frequent_values(
    parameter: Choice, bad: list[float], good: list[float], needed: int
) -> tuple[Range, int, int, int]:
    """Give the values that fail most often, until so many failures are among them."""
    failures, successes = Counter(bad), Counter(good)
    order = sorted(failures, key=lambda v: (successes[v] / failures[v], v))
    chosen: list[float] = []
    while sum(failures[v] for v in chosen) < needed:
        chosen.append(order[len(chosen)])
    inside, well = sum(failures[v] for v in chosen), sum(successes[v] for v in chosen)
    return {"values": [_value(parameter, v) for v in sorted(chosen)]}, inside, well, len(parameter.values)


def _chance(count: int, of: int, share: float) -> float:
    """Bound the chance of so many or more by Chernoff's inequality, which stays exact in the logarithm."""
    seen = count / of
    if seen <= share:
        return 1.0
    divergence = seen * math.log(seen / share)
    if seen < 1:
        divergence += (1 - seen) * math.log((1 - seen) / (1 - share))
    return math.exp(-of * divergence)


def _limits(parameter: Parameter, range_: Range | None) -> tuple[float, float] | None:
    """Give the present bounds on the scale from 0 to 1; `None` for what has no bounds or no room between them."""
    if isinstance(parameter, Choice) and not parameter.ordered:
        return None
    low, high = 0.0, 1.0
    if range_ is not None:
        values = range_.get("values")
        ends = (
            sorted(_place(parameter, v) for v in cast(Sequence[ParamValue], values))
            if values is not None
            else [
                _place(parameter, cast(float, range_["low"])),
                _place(parameter, cast(float, range_["high"])),
            ]
        )
        low, high = ends[0], ends[-1]
    single = len(parameter.values) < 2 if isinstance(parameter, Choice) else parameter.low == parameter.high
    return None if single or low >= high else (low, high)


def _values(parameter: Parameter, name: str, trials: Sequence[Trial]) -> list[float]:
    """Give the places of the trials' values on the parameter's scale, in order; declared ones only."""
    given = [t.params[name] for t in trials if name in t.params]
    if isinstance(parameter, Choice):
        # `True` is not 1: so the kind is part of the key. A list's own search would cost its length for each trial.
        number = {(isinstance(v, bool), v): i for i, v in enumerate(parameter.values)}
        scale = max(1, len(parameter.values) - 1) if parameter.ordered else 1
        found = (number.get((isinstance(value, bool), value)) for value in given)
        return sorted(place / scale for place in found if place is not None)
    return sorted(_place(parameter, value) for value in given if parameter.accepts(value) is None)


def _place(parameter: Parameter, value: ParamValue) -> float:
    """Say where a value lies on its parameter's scale, from 0 to 1."""
    if isinstance(parameter, Choice):
        return parameter.index(value) / max(1, len(parameter.values) - 1)
    number = float(cast(float, value))
    if parameter.low == parameter.high:
        return 0.0
    if parameter.log:
        return math.log(number / parameter.low) / math.log(parameter.high / parameter.low)
    return (number - parameter.low) / (parameter.high - parameter.low)


def _value(parameter: Parameter, place: float) -> ParamValue:
    """Give the value at a place on the scale."""
    if isinstance(parameter, Choice):
        return parameter.values[round(place * (len(parameter.values) - 1)) if parameter.ordered else int(place)]
    if parameter.log:
        number = parameter.low * (parameter.high / parameter.low) ** place
    else:
        number = parameter.low + place * (parameter.high - parameter.low)
    return parameter.snap(min(max(number, parameter.low), parameter.high))
