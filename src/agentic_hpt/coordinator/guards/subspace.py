"""Questions to a limited space: whether it holds anything new, and how close two configurations are."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice

from agentic_hpt.records import Params, ParamValue, Trial, configuration_key, is_number
from agentic_hpt.space import Choice, Float, Int, Parameter, SearchSpace

_NEAR = 0.01


def single(parameter: Parameter) -> bool:
    """Say whether a parameter has one value only."""
    if isinstance(parameter, Choice):
        return len(parameter.values) == 1
    if isinstance(parameter, Int):
        return parameter.high - parameter.low < parameter.step
    return parameter.low == parameter.high


def endless(parameter: Parameter) -> bool:
    """Say whether a parameter's values can't be listed."""
    return isinstance(parameter, Float) and parameter.step is None and parameter.low < parameter.high


def count_new(space: SearchSpace, trials: Iterable[Trial], most: int) -> int:
    """Count the configurations of a space that no trial has, up to `most`."""
    if any(endless(space[name]) and not space[name].when for name in space):
        return most
    tried = {configuration_key(t.params) for t in trials}
    new = 0
    for params in islice(_configurations(space, space.order, {}), len(tried) + most):
        if params is None:
            return most
        new += configuration_key(params) not in tried
        if new >= most:
            return most
    return new


def _configurations(
    space: SearchSpace, names: Sequence[str], params: dict[str, ParamValue]
) -> Iterator[dict[str, ParamValue] | None]:
    """List a space's configurations; `None` stands for endlessly many."""
    if not names:
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


def near(space: SearchSpace, a: Params, b: Params) -> bool:
    """Say whether two configurations are all but the same.

    That is: the same parameters, equal choices, and every number less than 1 % of its range apart, on its scale. Whole
    and stepped numbers with up to a hundred values so must be equal.
    """
    return a.keys() == b.keys() and all(_alike(space[name], a[name], b[name]) for name in a if name in space)


def in_any(space: SearchSpace, params: Params, others: Collection[Params]) -> bool:
    """Say whether a configuration is all but the same as one of `others`."""
    return any(near(space, params, other) for other in others)


def _alike(parameter: Parameter, a: ParamValue, b: ParamValue) -> bool:
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    if a == b:
        return True
    if isinstance(parameter, Choice) or not is_number(a) or not is_number(b):
        return False
    first, second = place(parameter, float(a)), place(parameter, float(b))  # type: ignore[arg-type]
    return first is not None and second is not None and abs(first - second) < _NEAR - 1e-9
