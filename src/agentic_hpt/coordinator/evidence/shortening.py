"""Cutting what is told to a bounded length: digits, texts, lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentic_hpt.records import JsonObject
from agentic_hpt.space import Choice, Parameter, SearchSpace

_DIGITS = 5
_LISTED = 12
_TEXT = 60


def short(value: object, text: int = _TEXT) -> object:
    """Give a value with 5 digits, a text with a bounded length."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    return cut(value, text) if isinstance(value, str) else value


def cut(value: str, length: int) -> str:
    """Give the beginning of a text, marked where it was cut."""
    return value if len(value) <= length else value[: length - 3] + "..."


def share(part: float, sd: float) -> str:
    """Give a share in percent, with how unsure it is where that is known."""
    return f"{part:.0%} ± {sd:.0%}" if sd else f"{part:.0%}"


def listed(values: Sequence[object], most: int = _LISTED) -> list[object]:
    """Give the first values of a list, and in words how many more there are."""
    shown = [short(value) for value in values[:most]]
    return shown if len(values) <= most else [*shown, f"({len(values) - most} more)"]


def shortened(range_: Mapping[str, object]) -> JsonObject:
    """Give a range with short values."""
    return {key: listed(v) if isinstance(v, list | tuple) else short(v) for key, v in range_.items()}


def told_space(space: SearchSpace, names: Sequence[str]) -> JsonObject:
    """Give the declarations of these parameters, as in a study file; long lists of values are cut."""
    declared = space.to_json()
    return {name: _told(space[name], declared[name]) for name in space if name in names}


def _told(parameter: Parameter, entry: object) -> object:
    if not isinstance(entry, dict):
        return entry
    told = {key: short(value) for key, value in entry.items()}
    if isinstance(parameter, Choice):
        told["choice"] = listed(parameter.values)
    if parameter.when:
        told["when"] = {
            name: listed(list(wanted)) if isinstance(wanted, list | tuple) else short(wanted)
            for name, wanted in list(parameter.when.items())[:_LISTED]
        }
    return told
