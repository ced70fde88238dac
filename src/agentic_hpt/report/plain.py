"""How values are written for people: numbers, durations, parameters, and text of unknown origin."""

from __future__ import annotations

from collections.abc import Mapping

from agentic_hpt.records import ParamValue


def visible(text: object) -> str:
    """Give `text` on one line, its control, direction and surrogate characters written as escapes.

    Names and failure messages come from outside: unescaped they could move a terminal's cursor or hide text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def on_one_line(message: str) -> str:
    """Give a failure's message, a traceback perhaps, on one line, without the marks below its code lines."""
    lines = (line.strip() for line in message.split("\n"))
    return visible(" / ".join(line for line in lines if line.strip("^~ ")))


def number(value: object, digits: int = 5) -> str:
    """Write a value briefly: a float with up to `digits` significant digits, anything else as it is."""
    if isinstance(value, float):
        return f"{value + 0.0:.{digits}g}"  # -0.0 becomes 0.0
    return "null" if value is None else visible(str(value).lower() if isinstance(value, bool) else value)


def parameters(params: Mapping[str, ParamValue]) -> str:
    """Write a configuration on one line, `name=value` separated by spaces."""
    return " ".join(f"{visible(name)}={number(value)}" for name, value in params.items())


def duration(seconds: float | None) -> str:
    """Write a number of seconds for people: `0.42 s`, `41 s`, `12 min 05 s`, `3 h 07 min`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, noun: str, several: str = "") -> str:
    """Write a count with its noun: `1 trial`, `3 trials`; `several` is a plural that is not made by an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {several or noun + 's'}"
