"""Ranges as an answer states them, cut to what there is and stretched to what must stay inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from agentic_hpt.coordinator.decisions import Narrow, RegionPart, Widen
from agentic_hpt.coordinator.guards.subspace import place
from agentic_hpt.errors import SpaceError
from agentic_hpt.records import ParamValue, Range, is_number
from agentic_hpt.space import Choice, Parameter, SearchSpace
from agentic_hpt.steering import full_range, in_range, space_within

_LEAST_CUT = 0.05

Asked = Narrow | Widen | RegionPart


class Unusable(Exception):
    """A range that nothing can be made of; the text says why."""


def asked_range(asked: Asked, parameter: Parameter, present: Range, notes: list[str]) -> Range:
    """Give the range that was asked for in the parameter's own form; a missing bound is that of `present`.

    Raises `Unusable`. What had to be changed is added to `notes`.
    """
    if asked.low is None and asked.high is None and asked.values is None:
        raise Unusable("it names no range")
    if isinstance(parameter, Choice):
        return _asked_values(asked, parameter, notes)
    low, high = asked.low, asked.high
    if low is None and high is None:
        values = [cast(float, v) for v in asked.values or () if is_number(v)]
        if len(values) != len(asked.values or ()):
            raise Unusable("its values are no numbers; give low and high")
        notes.append("the values were taken for a range")
        low, high = min(values), max(values)
    low = cast(float, present["low"]) if low is None else low
    high = cast(float, present["high"]) if high is None else high
    if low > high:
        notes.append("low and high were swapped")
        low, high = high, low
    return {"low": low, "high": high}


def overlap(range_: Range, within: Range, notes: list[str]) -> Range:
    """Cut a range to another one. Raises `Unusable` where they have nothing in common."""
    if "values" in range_:
        wanted = cast(Sequence[ParamValue], range_["values"])
        kept = [v for v in wanted if in_range(v, within)]
        if not kept:
            raise Unusable("none of its values is in the present range")
        if len(kept) < len(wanted):
            notes.append("values outside the present range were dropped")
        return {"values": kept}
    low, high = _bounds(range_)
    least, most = _bounds(within)
    if high < least or low > most:
        raise Unusable(f"it lies outside the present range, {least:g} to {most:g}")
    if low < least or high > most:
        notes.append(f"it was cut to the present range, {least:g} to {most:g}")
    return {"low": max(low, least), "high": min(high, most)}


def joined(range_: Range, other: Range, parameter: Parameter) -> Range:
    """Give the smallest range that holds two."""
    if isinstance(parameter, Choice):
        return {"values": [v for v in parameter.values if in_range(v, range_) or in_range(v, other)]}
    low, high = _bounds(range_)
    least, most = _bounds(other)
    return {"low": min(low, least), "high": max(high, most)}


def stretched(range_: Range, values: Sequence[ParamValue], parameter: Parameter) -> Range:
    """Give the smallest range that holds another and these values of the parameter."""
    for value in values:
        range_ = joined(range_, {"values": [value]} if isinstance(parameter, Choice) else _point(value), parameter)
    return range_


def on_grid(space: SearchSpace, name: str, range_: Range) -> Range:
    """Give a range with bounds that are values of the parameter. Raises `Unusable` when it holds none."""
    try:
        return full_range(space_within(space, {name: range_}), name)
    except SpaceError:
        raise Unusable("it holds none of the parameter's values") from None


def really_less(range_: Range, than: Range, parameter: Parameter) -> bool:
    """Say whether a range is smaller than another by what is worth a change: a choice, or 5 % on the scale."""
    if isinstance(parameter, Choice):
        return len(cast(list[object], range_["values"])) < len(cast(list[object], than["values"]))
    kept, whole = (_width(r, parameter) for r in (range_, than))
    return whole > 0 and kept <= (1 - _LEAST_CUT) * whole + 1e-9


def one_value(range_: Range) -> bool:
    """Say whether a range on the grid holds one value only."""
    values = cast(Sequence[object] | None, range_.get("values"))
    return len(values) == 1 if values is not None else range_["low"] == range_["high"]


def same(a: Range, b: Range) -> bool:
    """Say whether two ranges of one parameter hold the same values."""
    if "values" in a:
        return len(cast(list[object], a["values"])) == len(cast(list[object], b["values"]))
    return _bounds(a) == _bounds(b)


def _asked_values(asked: Asked, parameter: Choice, notes: list[str]) -> Range:
    if asked.values is not None:
        kept = [v for v in parameter.values if in_range(v, {"values": asked.values})]
        if len(kept) < len(asked.values):
            notes.append("values that the parameter does not have were dropped")
    elif not (parameter.ordered and all(is_number(v) for v in parameter.values)):
        raise Unusable("the parameter is a choice; give values")
    else:
        low, high = asked.low, asked.high
        numbers = cast(Sequence[float], parameter.values)
        kept = [v for v in numbers if (low is None or v >= low) and (high is None or v <= high)]
        notes.append("the bounds were taken for the values between them")
    if not kept:
        raise Unusable("it holds none of the parameter's values")
    return {"values": kept}


def _bounds(range_: Range) -> tuple[float, float]:
    return cast(float, range_["low"]), cast(float, range_["high"])


def _point(value: ParamValue) -> Range:
    return {"low": value, "high": value}


def _width(range_: Range, parameter: Parameter) -> float:
    if isinstance(parameter, Choice):
        raise TypeError("a choice has no width")
    low, high = (place(parameter, bound) for bound in _bounds(range_))
    return 0.0 if low is None or high is None else high - low
