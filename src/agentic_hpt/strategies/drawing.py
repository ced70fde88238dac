"""Drawing a parameter's values at random, evenly on its scale, outside a range."""

from __future__ import annotations

import random
from typing import cast

from agentic_hpt.feasible import random_value, value_between
from agentic_hpt.records import ParamValue, Range
from agentic_hpt.space import Choice, Parameter
from agentic_hpt.steering import in_range

_TRIES = 20


def value_outside(parameter: Parameter, range_: Range, dice: random.Random) -> list[ParamValue]:
    """Draw one of a parameter's values that does not lie in a range; an empty list when all of them do."""
    for _ in range(_TRIES):
        value = random_value(parameter, dice)
        if not in_range(value, range_):
            return [value]
    values = parameter.grid()
    if values is not None:
        outside = [value for value in values if not in_range(value, range_)]
        return [dice.choice(outside)] if outside else []
    if isinstance(parameter, Choice) or "values" in range_:
        return []  # a choice has a grid, and one value of a real number is missed by any draw
    # The range covers nearly all: what is left lies below it, above it, or on both sides.
    sides = [(parameter.low, cast(float, range_["low"])), (cast(float, range_["high"]), parameter.high)]
    dice.shuffle(sides)
    for low, high in sides:
        ends = (parameter.low, parameter.high)
        drawn = [value_between(parameter, low, high, dice), *ends] if low < high else []
        found = [value for value in drawn if not in_range(value, range_)]
        if found:
            return found[:1]
    return []
