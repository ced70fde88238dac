"""Earlier studies of related tasks: what of them a study's space can take, and which configurations to begin with.

Their values are of another task: they are never compared with the study's own, and no trial of theirs is one of its.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn, cast

from agentic_hpt.records import EarlierStudy, Params, ParamValue, configuration_key, is_number
from agentic_hpt.space import Choice, Parameter, SearchSpace

_BEGIN_SHARE = 10
"""For so many trials of the budget one configuration of an earlier study is tried first; one at least, if there is
room for it behind the default."""
_MOST_FIRSTS = 3
_GOOD_SHARE = 0.1
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""Also what is no JSON: .5, 1. and +1."""


@dataclass(frozen=True, slots=True)
class Usable:
    """An earlier study in terms of a space: whole configurations with their losses, less is better.

    Numbers may lie outside the space's ranges: a surrogate learns from them what happens near the edge.
    """

    source: str
    params: tuple[dict[str, ParamValue], ...]
    losses: tuple[float, ...]
    told: str
    """How many of the trials can be used, and why others can't."""
    barred: frozenset[int] = frozenset()
    """The places of those that are not to be tried first."""


def plain(text: str) -> ParamValue:
    """Give the value that a text stands for: a number, true, false, null, or the text itself."""
    try:
        value = json.loads(text if text not in ("True", "False", "None") else {"None": "null"}.get(text, text.lower()))
    except (ValueError, RecursionError):
        value = float(text) if _NUMBER.fullmatch(text) else text
    return value if value is None or isinstance(value, bool | str) or is_number(value) else text


def usable(study: EarlierStudy, space: SearchSpace) -> Usable:
    """Give what of an earlier study a space can take.

    A parameter that the study did not have was at its default, as declared here; one that is not here is left out. A
    trial with a value that no value here equals (a choice, a text for a number) can't be used.
    """
    params: list[dict[str, ParamValue]] = []
    losses: list[float] = []
    unfit: Counter[str] = Counter()
    barred: set[int] = set()
    for place, (old, loss) in enumerate(zip(study.params, study.losses, strict=True)):
        found = _told_in(space, old)
        if isinstance(found, str):
            unfit[found] += 1
        else:
            barred |= {len(params)} if place in study.barred else set()
            params.append(found)
            losses.append(loss)
    names = {name for old in study.params for name in old}
    notes = [f"{count} lie where {name} has no such value" for name, count in unfit.most_common()]
    notes += [f"{study.without} ended without a value"] if study.without else []
    if new := [name for name in space.names if name not in names]:
        notes.append(f"{', '.join(new)} taken to be at the default there")
    if gone := sorted(names - set(space.names)):
        notes.append(f"{', '.join(gone)} left out")
    total = len(study.params) + study.without
    head = f"{len(params)} of {total} trials of {study.source} can be used"
    text = ": ".join([head, *(["; ".join(notes)] if notes else [])])
    return Usable(study.source, tuple(params), tuple(losses), text, frozenset(barred))


def firsts(
    found: Sequence[Usable], space: SearchSpace, budget: int | None, beside: Sequence[Params]
) -> tuple[Params, ...]:
    """Give the best configurations of earlier studies, to be tried first `beside` others: few, and unlike each other.

    The studies take turns: first the best of each, then of its best tenth the one that is farthest from those taken.
    """
    most = _MOST_FIRSTS if budget is None else min(_MOST_FIRSTS, max(1, budget // _BEGIN_SHARE), budget - 1)
    pools = [_good(entry, space) for entry in found]
    taken: list[Params] = list(beside)
    for turn in range(most):
        for pool in pools:
            others = [params for params in pool if _apart(space, params, taken) > 0]
            if others and len(taken) < len(beside) + most:
                taken.append(max(others, key=lambda params: _apart(space, params, taken)) if turn else others[0])
    return tuple(taken[len(beside) :])


def _told_in(space: SearchSpace, old: Params) -> dict[str, ParamValue] | str:
    """Give a configuration in terms of a space, or the name of the parameter that has no such value."""
    values: dict[str, ParamValue] = {}
    for name in space.names:
        parameter = space[name]
        if name not in old or (old[name] is None and parameter.accepts(None)):
            continue  # as if not given: the default
        try:
            values[name] = _told_by(parameter, old[name])
        except ValueError:
            return name
    return space.complete(values)


def _told_by(parameter: Parameter, value: ParamValue) -> ParamValue:
    """Give a value as a parameter has it, be it outside its range. Raises `ValueError` where it has none like it."""
    if isinstance(parameter, Choice):
        if parameter.accepts(value) is None:
            return parameter.snap(value)
        alike = [v for v in parameter.values if _text(v) == _text(value)]
        return alike[0] if alike else _no_value(value)
    number = float(value) if is_number(value) else _no_value(value)  # type: ignore[arg-type]
    if parameter.log and number <= 0:
        _no_value(value)
    if parameter.kind == "float":
        return number
    return int(number) if number.is_integer() else _no_value(value)


def _no_value(value: ParamValue) -> NoReturn:
    raise ValueError(value)


def _text(value: ParamValue) -> str:
    known = plain(value.strip()) if isinstance(value, str) else value
    return json.dumps(float(known)) if is_number(known) else str(known).lower()  # type: ignore[arg-type]


def _good(entry: Usable, space: SearchSpace) -> list[dict[str, ParamValue]]:
    """Give the best tenth of the configurations that the space holds, at least three, best first."""
    allowed = (place for place in range(len(entry.losses)) if place not in entry.barred)
    order = sorted(allowed, key=lambda i: (entry.losses[i], i))
    inside = {configuration_key(entry.params[i]): entry.params[i] for i in order if space.contains(entry.params[i])}
    found = [space.validated(params) for params in inside.values()]
    return found[: max(_MOST_FIRSTS, math.ceil(_GOOD_SHARE * len(found)))]


def _apart(space: SearchSpace, params: Params, others: Iterable[Params]) -> float:
    """Give the distance to the nearest of some configurations: the largest that a parameter makes, scales in [0, 1]."""
    nearest = math.inf
    for other in others:
        widest = 0.0
        for name in space.names:
            if (name in params) != (name in other):
                widest = 1.0
            elif name in params:
                widest = max(widest, _gap(space[name], params[name], other[name]))
        nearest = min(nearest, widest)
    return nearest


def _gap(parameter: Parameter, a: ParamValue, b: ParamValue) -> float:
    if isinstance(parameter, Choice):
        if not parameter.ordered:
            return float(a != b)
        return abs(parameter.index(a) - parameter.index(b)) / max(1, len(parameter.values) - 1)
    low, high, x, y = (
        math.log(cast(float, v)) if parameter.log else cast(float, v) for v in (parameter.low, parameter.high, a, b)
    )
    return abs(x - y) / (high - low) if high > low else 0.0
