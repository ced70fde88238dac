"""The kinds of parameters: their ranges, scales and defaults, and how a description writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, cast

from agentic_hpt.errors import SpaceError
from agentic_hpt.records import JsonObject, ParamValue, is_number

When = Mapping[str, ParamValue | Sequence[ParamValue]]
_LONGEST_GRID = 10_000
_LARGEST_FLOAT = 1e300
"""So that no difference of two values is infinite, and no value on a log scale loses digits."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,99}")


@dataclass(frozen=True)
class Float:
    """A real number in [low, high], on a log scale if asked for.

    Without `default` the middle of the range is the default (on its scale). `step` counts from `low`.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    default: float | None = None
    when: When = field(default_factory=dict)
    kind: ClassVar[str] = "float"

    def problem(self) -> str | None:
        """Say what is wrong with the declaration, if anything is."""
        return _range_problem(self)

    def resolved_default(self) -> float:
        """Give the declared default, or the middle of the range."""
        if self.default is not None:
            return self.snap(self.default)
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return self.snap(min(max(middle, self.low), self.high))

    def accepts(self, value: ParamValue) -> str | None:
        """Say why `value` is not one of this parameter's values; `None` when it is."""
        if not is_number(value):
            return f"{value!r} is not a finite number"
        return _outside(cast(float, value), self.low, self.high)

    def snap(self, value: float) -> float:
        """Give the nearest value on the grid of `step`, or `value` itself."""
        if self.step is None:
            return float(value)
        steps = math.floor((self.high - self.low) / self.step + 1e-9)
        exact = self.low + min(steps, max(0, round((value - self.low) / self.step))) * self.step
        digits = 12 + max(0, -math.floor(math.log10(self.step)))  # rounds 0.30000000000000004, and no small step away
        return float(min(max(round(exact, digits), self.low), self.high))

    @property
    def count(self) -> float:
        """How many values it has; without a step infinitely many, where it has more than one."""
        if self.low == self.high:
            return 1
        return math.inf if self.step is None else math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def grid(self) -> list[ParamValue] | None:
        """List all values; `None` when they are infinitely many, or more than 10,000."""
        if self.count > _LONGEST_GRID:
            return None
        return [self.snap(self.low + i * (self.step or 0.0)) for i in range(int(self.count))]


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high], on a log scale if asked for; `step` counts from `low`."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    default: int | None = None
    when: When = field(default_factory=dict)
    kind: ClassVar[str] = "int"

    def problem(self) -> str | None:
        """Say what is wrong with the declaration, if anything is."""
        for name in ("low", "high", "step", "default"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                return f"{name} is {value!r}, not a whole number"
            if value is not None and not _is_short(value):
                return f"{name} is {value!r:.40}, a whole number of more than 64 bits; scale it down"
        if self.log and self.step != 1:
            return "log and step can't be combined for a whole number; drop one"
        return _range_problem(self)

    def resolved_default(self) -> int:
        """Give the declared default, or the middle of the range."""
        if self.default is not None:
            return self.default
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return self.snap(middle)

    def accepts(self, value: ParamValue) -> str | None:
        """Say why `value` is not one of this parameter's values; `None` when it is."""
        if not is_number(value) or value != int(cast(float, value)):
            return f"{value!r} is not a whole number"
        return _outside(cast(float, value), self.low, self.high)

    def snap(self, value: float) -> int:
        """Give the nearest value on the grid of `step`."""
        steps = (self.high - self.low) // self.step
        return int(self.low + min(steps, max(0, round((value - self.low) / self.step))) * self.step)

    @property
    def count(self) -> int:
        """How many values it has."""
        return 1 + (self.high - self.low) // self.step

    def grid(self) -> list[ParamValue] | None:
        """List all values; `None` when they are more than 10,000."""
        if self.count > _LONGEST_GRID:
            return None
        return list(range(self.low, self.high + 1, self.step))


@dataclass(frozen=True)
class Choice:
    """One of a list of values; `ordered` says that neighbours in the list are alike.

    Without `default`, the default is the middle value if ordered, else the first.
    """

    values: Sequence[ParamValue]
    ordered: bool = False
    default: ParamValue = None
    when: When = field(default_factory=dict)
    kind: ClassVar[str] = "choice"

    def problem(self) -> str | None:
        """Say what is wrong with the declaration, if anything is."""
        if isinstance(self.values, str | bytes) or not isinstance(self.values, Sequence):
            return f"the values are {self.values!r}, not a list"
        if not self.values:
            return "the list of values is empty"
        values: Sequence[object] = self.values
        for value in values:
            # By type, not by isinstance: a numpy.float64 is a float, but becomes another value in a file.
            if value is not None and type(value) not in (bool, int, float, str):
                return f"{value!r} is not a plain value (number, text, true/false or null)"
            if isinstance(value, float) and not math.isfinite(value):
                return f"{value!r} is not a finite number"
            if type(value) is int and not _is_short(value):
                return f"{value!r:.40} has more than 64 bits; give it as a text"
        for i, value in enumerate(self.values):
            if any(same_value(value, other) for other in self.values[:i]):
                return f"the value {value!r} stands twice"
        if self.default is not None and not any(same_value(self.default, v) for v in self.values):
            return f"default {self.default!r} is not one of {list(self.values)!r}"
        return None

    def resolved_default(self) -> ParamValue:
        """Give the declared default, or the middle (ordered) or first value."""
        if self.default is not None:
            return self.values[self.index(self.default)]
        return self.values[(len(self.values) - 1) // 2 if self.ordered else 0]

    def accepts(self, value: ParamValue) -> str | None:
        """Say why `value` is not one of this parameter's values; `None` when it is."""
        if any(same_value(value, v) for v in self.values):
            return None
        return f"{value!r} is not one of {list(self.values)!r}"

    def index(self, value: ParamValue) -> int:
        """Give the position of `value` in the list."""
        return next(i for i, v in enumerate(self.values) if same_value(value, v))

    def snap(self, value: ParamValue) -> ParamValue:
        """Give the listed value that equals `value`."""
        return self.values[self.index(value)]

    def grid(self) -> list[ParamValue] | None:
        """List all values."""
        return list(self.values)


Parameter = Float | Int | Choice
_KINDS: dict[str, type[Float] | type[Int] | type[Choice]] = {"float": Float, "int": Int, "choice": Choice}


def check_parameter(name: object, parameter: object) -> None:
    """See that a declaration can be used. Raises `SpaceError`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpaceError(
            f"{name!r} can't be a parameter's name",
            "use letters, digits, '_', '-' and '.', at most 100, a letter first",
        )
    if not isinstance(parameter, Float | Int | Choice):
        raise SpaceError(
            f"parameter {name!r} is {parameter!r}", "use Float(low, high), Int(low, high) or Choice([...])"
        )
    if not isinstance(parameter.when, Mapping):
        raise SpaceError(f"parameter {name!r}: when is {parameter.when!r}", "write when: {PARAMETER: VALUE}")
    why = parameter.problem()
    if why:
        raise SpaceError(f"parameter {name!r}: {why}", "mend this entry of the search space")


def same_value(a: ParamValue, b: ParamValue) -> bool:
    """Compare values without taking true for 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def parameter_json(parameter: Parameter) -> JsonObject:
    """Give a declaration as plain data, without what is as by default."""
    head: object = list(parameter.values) if isinstance(parameter, Choice) else [parameter.low, parameter.high]
    entry: JsonObject = {parameter.kind: head}
    for spec in fields(parameter):
        if spec.name in ("low", "high", "values"):
            continue
        value = getattr(parameter, spec.name)
        if spec.name == "when":
            if value:
                entry["when"] = {
                    k: list(v) if not isinstance(v, str) and isinstance(v, Sequence) else v for k, v in value.items()
                }
        elif value != spec.default:
            entry[spec.name] = value
    return entry


def parameter_from_json(name: str, entry: object) -> Parameter:
    """Read a declaration from plain data, `{float: [low, high], log: true, ...}`, or take it as it was made in Python.

    Raises `SpaceError`.
    """
    if isinstance(entry, Parameter):
        return entry
    form = "write {float: [low, high]}, {int: [low, high]} or {choice: [a, b, c]}"
    if not isinstance(entry, Mapping):
        raise SpaceError(f"parameter {name!r} is {entry!r}", form)
    kinds = [k for k in _KINDS if k in entry]
    if len(kinds) != 1:
        raise SpaceError(f"parameter {name!r} declares {' and '.join(kinds) or 'no kind'}: {dict(entry)!r}", form)
    kind = _KINDS[kinds[0]]
    rest = {str(k): v for k, v in entry.items() if k != kinds[0]}
    allowed = [f.name for f in fields(kind) if f.name not in ("low", "high", "values")]
    unknown = [k for k in rest if k not in allowed]
    if unknown:
        raise SpaceError(f"parameter {name!r}: unknown key {unknown[0]!r}", f"a {kinds[0]} takes {', '.join(allowed)}")
    for flag in ("log", "ordered"):
        if flag in rest and not isinstance(rest[flag], bool):
            raise SpaceError(f"parameter {name!r}: {flag} is {rest[flag]!r}", "write true or false")
    head = entry[kinds[0]]
    if kind is Choice:
        return Choice(head, **rest)
    if not isinstance(head, Sequence) or isinstance(head, str) or len(head) != 2:
        raise SpaceError(f"parameter {name!r}: the range is {head!r}", "write two numbers, [low, high]")
    if isinstance(rest.get("default"), str) or any(isinstance(bound, str) for bound in head):
        raise SpaceError(
            f"parameter {name!r}: a bound or default is text: {head!r}", "in YAML write 1.0e-5, not 1e-5, for a number"
        )
    return kind(head[0], head[1], **rest)


def _outside(value: float, low: float, high: float) -> str | None:
    return None if low <= value <= high else f"{value!r} is outside [{low!r}, {high!r}]"


def _is_short(value: int) -> bool:
    """Say whether a whole number has at most 64 bits, as a checkpoint of the graph holds it."""
    return -(2**63) <= value < 2**63


def _range_problem(p: Float | Int) -> str | None:
    for name in ("low", "high"):
        if not is_number(getattr(p, name)):
            return f"{name} is {getattr(p, name)!r}, not a finite number"
    if p.low > p.high:
        return f"the range [{p.low!r}, {p.high!r}] is empty; swap the bounds"
    if max(abs(p.low), abs(p.high)) > _LARGEST_FLOAT or (p.log and 0 < p.low < 1 / _LARGEST_FLOAT):
        return f"the range [{p.low!r}, {p.high!r}] is too wide; numbers have sizes from 1e-300 to 1e300"
    if p.log and p.low <= 0:
        return f"a log scale needs low > 0, and low is {p.low!r}; raise it or drop log"
    if p.step is not None:
        if not is_number(p.step) or p.step <= 0:
            return f"step is {p.step!r}; it must be a number above 0"
        if p.log and isinstance(p, Float):
            return "log and step can't be combined; drop one"
        if p.step > p.high - p.low > 0:
            return f"step {p.step!r} is larger than the range [{p.low!r}, {p.high!r}]; make it smaller"
    if p.default is not None:
        why = p.accepts(p.default)
        if why:
            return f"default {why}"
        if p.step is not None and not math.isclose(p.snap(p.default), p.default, rel_tol=1e-9, abs_tol=1e-12):
            return f"default {p.default!r} is not on the grid of step {p.step!r} from {p.low!r}"
    return None
