"""Questions to a limited space: whether it holds anything new, and how close two configurations are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice

from agentic_hpt.records import ConfigurationKey, Params, ParamValue, Trial, configuration_key, is_number
from agentic_hpt.space import Choice, Float, Int, Parameter, SearchSpace

_NEAR = 0.01
_COARSE = 10
"""With more trials than this what counts as near shrinks: a late search is one of small steps."""
_SLACK = 1e-9
_COUNTED = 10_000
"""With so many configurations nobody looks how many of them the constraints allow."""


def single(parameter: Parameter) -> bool:
    """Say whether a parameter has one value only."""
    if isinstance(parameter, Choice):
        return len(parameter.values) == 1
    if isinstance(parameter, Int):
        return parameter.high - parameter.low < parameter.step
    return parameter.low == parameter.high


def endless(parameter: Parameter) -> bool:
    """Say whether a parameter's values can't be listed, or are more than its grid lists."""
    return isinstance(parameter, Float) and parameter.count > _COUNTED


class Tried:
    """The trials' configurations; their keys are made once, when they are first asked for."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = trials

    def __len__(self) -> int:
        return len(self._trials)

    @cached_property
    def keys(self) -> frozenset[ConfigurationKey]:
        """The key of each configuration."""
        return frozenset(configuration_key(t.params) for t in self._trials)


def count_new(space: SearchSpace, tried: Tried, most: int) -> int:
    """Count the configurations of a space that no trial has, up to `most`."""
    least = 1.0
    for name in space:
        if not space[name].when:  # what hangs on another parameter only adds to the number
            least *= _size(space[name])
    if least >= (max(_COUNTED, len(tried) + most) if space.constraints else len(tried) + most):
        return most
    new = 0
    for params in islice(_configurations(space, space.order, {}), len(tried.keys) + most):
        if params is None:
            return most
        new += configuration_key(params) not in tried.keys
        if new >= most:
            return most
    return new


def _size(parameter: Parameter) -> float:
    """Count a parameter's values."""
    if isinstance(parameter, Choice):
        return len(parameter.values)
    return math.inf if endless(parameter) else parameter.count


def _configurations(
    space: SearchSpace, names: Sequence[str], params: dict[str, ParamValue]
) -> Iterator[dict[str, ParamValue] | None]:
    """List a space's configurations; `None` stands for endlessly many."""
    if not names:
        if space.allows(params):
            yield params
        return
    name, rest = names[0], names[1:]
    if not space.is_active(name, params):
        yield from _configurations(space, rest, params)
        return
    parameter = space[name]
    if endless(parameter):
        yield None
        return
    values: Iterable[ParamValue] = (
        range(parameter.low, parameter.high + 1, parameter.step)  # its list ends at 10,000 values
        if isinstance(parameter, Int)
        else parameter.grid() or ()
    )
    for value in values:
        yield from _configurations(space, rest, {**params, name: value})


def place(parameter: Float | Int, value: float) -> float | None:
    """Give where in [0, 1] a value lies on its parameter's scale; `None` off a log scale's numbers."""
    if parameter.low == parameter.high:
        return 0.0
    if not parameter.log:
        return (value - parameter.low) / (parameter.high - parameter.low)
    if value <= 0:
        return None
    return math.log(value / parameter.low) / math.log(parameter.high / parameter.low)


def nearness(tried: int) -> float:
    """Give how near, as a part of each range, a configuration is to a tried one when it is all but the same.

    It is 1 %, and less the more was tried: near the optimum a late search learns only from small steps.
    """
    return _NEAR * min(1.0, _COARSE / max(1, tried))


def near(space: SearchSpace, a: Params, b: Params, within: float = _NEAR) -> bool:
    """Say whether two configurations are all but the same.

    That is: the same parameters, equal choices, and every number less than `within` of its range apart, on its scale.
    With 1 % whole and stepped numbers with up to a hundred values so must be equal.
    """
    return a.keys() == b.keys() and all(_alike(space[name], a[name], b[name], within) for name in a if name in space)


def in_any(space: SearchSpace, params: Params, others: Iterable[Params], within: float = _NEAR) -> bool:
    """Say whether a configuration is all but the same as one of `others`."""
    spans = [(name, *_span(space[name], params[name], within)) for name in params if name in space]
    numbers = [(name, low, high) for name, low, high in spans if low is not None and high is not None]
    for other in others:
        for name, low, high in numbers:  # most differ in the first: a look at all of them would take long
            value = other.get(name)
            if not isinstance(value, int | float) or not low <= value <= high:
                break
        else:
            if near(space, params, other, within):
                return True
    return False


def _span(parameter: Parameter, value: ParamValue, within: float) -> tuple[float, float] | tuple[None, None]:
    """Give bounds that hold all numbers near a value, and a few more."""
    if isinstance(parameter, Choice) or not is_number(value) or (parameter.log and float(value) <= 0):  # type: ignore[arg-type]
        return None, None
    number = float(value)  # type: ignore[arg-type]
    if parameter.log:
        factor = (parameter.high / parameter.low) ** (within + _SLACK)
        return number / factor, number * factor
    reach = (parameter.high - parameter.low) * (within + _SLACK)
    return number - reach, number + reach


def _alike(parameter: Parameter, a: ParamValue, b: ParamValue, within: float) -> bool:
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    if a == b:
        return True
    if isinstance(parameter, Choice) or not is_number(a) or not is_number(b):
        return False
    first, second = place(parameter, float(a)), place(parameter, float(b))  # type: ignore[arg-type]
    return first is not None and second is not None and abs(first - second) < within - _SLACK
