"""Configurations that satisfy a space's constraints: whether there are any, drawing one, mending one that does not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

from agentic_hpt.errors import ConfigError
from agentic_hpt.records import Params, ParamValue
from agentic_hpt.space import Choice, Float, Int, Parameter, SearchSpace

__all__ = ["check_constraints", "feasible_draw", "mended", "random_value"]

_CHECKS = 10_000
_TRIES = 50
_HALVINGS = 12


def check_constraints(space: SearchSpace) -> None:
    """See that there is something to try, and that the default satisfies the constraints.

    Raises `ConfigError` that says that 10,000 configurations drawn at random break one, or names the constraint that
    the default breaks, and its values.
    """
    if not space.constraints:
        return
    dice = random.Random(0)
    if not any(space.allows(random_configuration(space, dice)) for _ in range(_CHECKS)):
        raise ConfigError(
            f"constraints: {_CHECKS:,} configurations drawn at random all break one: there is nothing to search",
            "loosen the constraints; instead of a + b == 1 leave one parameter out and work it out in the objective",
        )
    default = space.default()
    for condition in space.constraints:
        if not condition.holds(default):
            values = ", ".join(f"{name}={default[name]!r}" for name in condition.names if name in default)
            raise ConfigError(
                f"constraints: the default configuration breaks {condition.text!r}: {values}",
                "give the parameters other defaults, with default: VALUE; the default is the first trial",
            )


def random_value(parameter: Parameter, dice: random.Random) -> ParamValue:
    """Draw one of a parameter's values, evenly on its scale."""
    if isinstance(parameter, Choice):
        return dice.choice(list(parameter.values))
    return value_between(parameter, parameter.low, parameter.high, dice)


def value_between(parameter: Float | Int, low: float, high: float, dice: random.Random) -> ParamValue:
    """Draw one of a parameter's values from a part of its range."""
    log = parameter.log
    drawn = math.exp(dice.uniform(math.log(low), math.log(high))) if log else dice.uniform(low, high)
    return parameter.snap(min(max(drawn, parameter.low), parameter.high))


def random_configuration(space: SearchSpace, dice: random.Random) -> dict[str, ParamValue]:
    """Draw a configuration without a look at the constraints."""
    params: dict[str, ParamValue] = {}
    for name in space.order:
        if space.is_active(name, params):
            params[name] = random_value(space[name], dice)
    return {name: params[name] for name in space if name in params}


def feasible_draw(
    space: SearchSpace,
    draw: Callable[[random.Random], dict[str, ParamValue]],
    dice: random.Random,
    *,
    anchors: Iterable[Params] = (),
    tries: int = _TRIES,
) -> dict[str, ParamValue] | None:
    """Draw until a configuration satisfies the constraints; when none does, mend the last one.

    `anchors` are configurations from which to mend: of the kind that `draw` gives, so that what it holds stays held.
    `None` when nothing was found.
    """
    drawn: dict[str, ParamValue] = {}
    for _ in range(max(1, tries)):
        drawn = draw(dice)
        if space.allows(drawn):
            return drawn
    return mended(space, drawn, anchors, dice)


def mended(
    space: SearchSpace, params: Params, anchors: Iterable[Params], dice: random.Random
) -> dict[str, ParamValue] | None:
    """Give an allowed configuration close to `params`: the nearest allowed anchor, moved there parameter by parameter.

    Their order is drawn; where a parameter can't take its value, a number goes as far as bisection finds it allowed.
    `None` when no anchor is allowed, or none of its parameters can move.
    """
    allowed = [anchor for anchor in anchors if space.allows(anchor)]
    if not allowed:
        return None
    nearest: Params = min(allowed, key=lambda anchor: _distance(space, anchor, params))
    start = reached = dict(nearest)
    for name in dice.sample(space.names, len(space)):
        if name in params and reached.get(name) != params[name]:
            reached = _towards(space, reached, name, params[name])
    found = space.complete(reached)
    return found if found != start else None


def _towards(space: SearchSpace, start: dict[str, ParamValue], name: str, value: ParamValue) -> dict[str, ParamValue]:
    """Give values in which one has come as close to `value` as is allowed; those of inactive parameters are kept."""
    whole = {**start, name: value}
    if space.allows(space.complete(whole)):
        return whole
    parameter = space[name]
    if isinstance(parameter, Choice) or name not in start:
        return start
    low, high, found = 0.0, 1.0, start
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        between = {**start, name: _moved(parameter, float(start[name]), float(value), middle)}  # type: ignore[arg-type]
        if space.allows(space.complete(between)):
            low, found = middle, between
        else:
            high = middle
    return found


def _moved(parameter: Float | Int, start: float, end: float, part: float) -> ParamValue:
    if parameter.log and start > 0 and end > 0:
        value = math.exp((1 - part) * math.log(start) + part * math.log(end))
    else:
        value = (1 - part) * start + part * end
    return parameter.snap(min(max(value, parameter.low), parameter.high))


def _distance(space: SearchSpace, a: Params, b: Params) -> float:
    """Give how far two configurations are apart: the sum over the parameters of the part of the range, or 0 or 1."""
    return sum(_apart(space[name], a, b, name) for name in space if name in a or name in b)


def _apart(parameter: Parameter, a: Params, b: Params, name: str) -> float:
    if name not in a or name not in b:
        return 1.0
    if isinstance(parameter, Choice):
        return float(a[name] != b[name])
    first, second, low, high = float(a[name]), float(b[name]), parameter.low, parameter.high  # type: ignore[arg-type]
    if low == high:
        return 0.0
    if parameter.log and min(first, second) > 0:
        return abs(math.log(first / second)) / math.log(high / low)
    return abs(first - second) / (high - low)
