"""The search space: parameters with ranges, scales, defaults and conditions.

A configuration maps every *active* parameter to a value. A parameter with `when` is active only where the parameters
it names are active and hold one of the values it lists. Constraints over parameters say which configurations count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, cast

from agentic_hpt.constraints import Condition, conjunction
from agentic_hpt.errors import SpaceError
from agentic_hpt.records import JsonObject, Params, ParamValue, is_number

__all__ = ["Choice", "Float", "Int", "Parameter", "SearchSpace"]

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
            if any(_same(value, other) for other in self.values[:i]):
                return f"the value {value!r} stands twice"
        if self.default is not None and not any(_same(self.default, v) for v in self.values):
            return f"default {self.default!r} is not one of {list(self.values)!r}"
        return None

    def resolved_default(self) -> ParamValue:
        """Give the declared default, or the middle (ordered) or first value."""
        if self.default is not None:
            return self.values[self.index(self.default)]
        return self.values[(len(self.values) - 1) // 2 if self.ordered else 0]

    def accepts(self, value: ParamValue) -> str | None:
        """Say why `value` is not one of this parameter's values; `None` when it is."""
        if any(_same(value, v) for v in self.values):
            return None
        return f"{value!r} is not one of {list(self.values)!r}"

    def index(self, value: ParamValue) -> int:
        """Give the position of `value` in the list."""
        return next(i for i, v in enumerate(self.values) if _same(value, v))

    def snap(self, value: ParamValue) -> ParamValue:
        """Give the listed value that equals `value`."""
        return self.values[self.index(value)]

    def grid(self) -> list[ParamValue] | None:
        """List all values."""
        return list(self.values)


Parameter = Float | Int | Choice
_KINDS: dict[str, type[Float] | type[Int] | type[Choice]] = {"float": Float, "int": Int, "choice": Choice}


class SearchSpace:
    """An ordered set of named parameters. Immutable; equal when the declarations are equal.

    Raises `SpaceError` when a declaration is wrong: it names the parameter, the value and the remedy.
    """

    def __init__(self, parameters: Mapping[str, Parameter] | None = None, /, **named: Parameter) -> None:
        if parameters is not None and not isinstance(parameters, Mapping):
            raise SpaceError(f"the search space is {parameters!r:.80}, not a mapping", "give names with parameters")
        merged = {**(parameters or {}), **named}
        if not merged:
            raise SpaceError("the search space has no parameters", "declare at least one, e.g. lr=Float(1e-5, 1e-1)")
        for name, parameter in merged.items():
            _check_parameter(name, parameter)
        self._parameters = merged
        self._order = self._topological()
        self._constraints: tuple[Condition, ...] = ()

    @property
    def constraints(self) -> tuple[Condition, ...]:
        """The conditions that every configuration satisfies, beside the ranges."""
        return self._constraints

    def constrained(self, conditions: Sequence[str | Condition]) -> SearchSpace:
        """Give the space with these constraints added; equal ones count once.

        Raises `ConfigError` for a text that can't be read, `SpaceError` for one that does not fit the parameters.
        """
        read = [c if isinstance(c, Condition) else Condition.of(c) for c in conditions]
        for condition in read:
            unknown = next((name for name in condition.names if name not in self._parameters), None)
            if unknown is not None:
                raise SpaceError(
                    f"the constraint {condition.text!r} names the unknown parameter {unknown!r}",
                    f"the space has {', '.join(self._parameters)}",
                )
            self.check_answers(condition)
        made = self.limited(self._parameters)
        made._constraints = tuple(dict.fromkeys((*self._constraints, *read)))
        return made

    def check_answers(self, condition: Condition) -> None:
        """See that a condition asks of each parameter in it what its values can answer. Raises `SpaceError`."""
        _check_condition(self._parameters, condition)

    def limited(self, parameters: Mapping[str, Parameter]) -> SearchSpace:
        """Give a space of other parameters, parts of this one's, under the same constraints."""
        made = SearchSpace(parameters)
        made._constraints = self._constraints
        return made

    def allows(self, params: Params) -> bool:
        """Say whether a configuration satisfies the constraints; its ranges are not looked at."""
        return all(condition.holds(params) for condition in self._constraints)

    def violation(self, params: Params) -> float:
        """Give by how much a configuration breaks the constraints; 0 when it satisfies all."""
        return max(0.0, conjunction([condition.margin(params) for condition in self._constraints]))

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, as declared."""
        return tuple(self._parameters)

    @property
    def order(self) -> tuple[str, ...]:
        """The names with each parameter behind those its condition looks at."""
        return self._order

    def __getitem__(self, name: str) -> Parameter:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SearchSpace)
            and self.names == other.names
            and self._constraints == other._constraints
            and self.to_json() == other.to_json()
        )

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        shown = f"SearchSpace({', '.join(f'{n}={p!r}' for n, p in self._parameters.items())})"
        return f"{shown}.constrained({[c.text for c in self._constraints]!r})" if self._constraints else shown

    def is_active(self, name: str, params: Params) -> bool:
        """Say whether `name` plays a part in the configuration `params`."""
        for parent, wanted in self._parameters[name].when.items():
            if parent not in params or not self.is_active(parent, params):
                return False
            if not any(_same(params[parent], w) for w in _listed(wanted)):
                return False
        return True

    def default(self) -> dict[str, ParamValue]:
        """Give the default configuration: the declared defaults of all active parameters."""
        return self.complete({})

    def complete(self, params: Params) -> dict[str, ParamValue]:
        """Give `params` with defaults put in for missing active parameters and inactive ones taken out."""
        result: dict[str, ParamValue] = {}
        for name in self._order:
            if self.is_active(name, result):
                result[name] = params[name] if name in params else self._parameters[name].resolved_default()
        return {name: result[name] for name in self._parameters if name in result}

    def validated(self, params: Mapping[str, object]) -> dict[str, ParamValue]:
        """Give `params` snapped to the grid, in declared order. Raises `SpaceError` for anything outside the space."""
        unknown = [name for name in params if name not in self._parameters]
        if unknown:
            raise SpaceError(
                f"unknown parameter {unknown[0]!r} in a configuration", f"the space has {', '.join(self.names)}"
            )
        result: dict[str, ParamValue] = {}
        for name in self._order:
            if not self.is_active(name, result):
                continue
            if name not in params:
                raise SpaceError(f"the configuration lacks the active parameter {name!r}", "give it a value")
            value = cast(ParamValue, params[name])
            why = self._parameters[name].accepts(value)
            if why:
                raise SpaceError(f"parameter {name!r}: {why}", "choose a value inside the declared range")
            result[name] = self._parameters[name].snap(value)  # type: ignore[arg-type]
        inactive = [name for name in params if name not in result]
        if inactive:
            raise SpaceError(
                f"parameter {inactive[0]!r} is given but not active in this configuration",
                f"its condition is {dict(self._parameters[inactive[0]].when)!r}; leave it out",
            )
        broken = next((c for c in self._constraints if not c.holds(result)), None)
        if broken is not None:
            values = ", ".join(f"{name}={result[name]!r}" for name in broken.names if name in result)
            raise SpaceError(f"the constraint {broken.text!r} does not hold for {values}", "choose other values")
        return {name: result[name] for name in self._parameters if name in result}

    def contains(self, params: Mapping[str, object]) -> bool:
        """Say whether `params` is a whole configuration of this space."""
        try:
            self.validated(params)
        except SpaceError:
            return False
        return True

    def to_json(self) -> JsonObject:
        """Give the parameters as plain data; `from_json` reads them back. Constraints are texts beside them."""
        return {name: _parameter_json(parameter) for name, parameter in self._parameters.items()}

    @classmethod
    def from_json(cls, data: object) -> SearchSpace:
        """Read a space from plain data, `{name: {float: [low, high], log: true, ...}}`."""
        if not isinstance(data, Mapping):
            raise SpaceError(f"the search space is {data!r}, not a mapping", "write NAME: {float: [low, high]}")
        return cls({str(name): _parameter_from_json(str(name), entry) for name, entry in data.items()})

    def _topological(self) -> tuple[str, ...]:
        order: list[str] = []
        visiting: list[str] = []

        def visit(name: str) -> None:
            if name in order:
                return
            if name in visiting:
                circle = " -> ".join([*visiting[visiting.index(name) :], name])
                raise SpaceError(f"the conditions run in a circle: {circle}", "remove one of these `when` entries")
            visiting.append(name)
            for parent, wanted in self._parameters[name].when.items():
                if parent not in self._parameters:
                    raise SpaceError(
                        f"parameter {name!r}: its condition names the unknown parameter {parent!r}",
                        f"the space has {', '.join(self._parameters)}",
                    )
                why = _impossible(self._parameters[parent], _listed(wanted))
                if why:
                    raise SpaceError(
                        f"parameter {name!r}: its condition on {parent!r} can never hold: {why}",
                        f"use values that {parent!r} can take",
                    )
                visit(parent)
            visiting.pop()
            order.append(name)

        for name in self._parameters:
            visit(name)
        return tuple(order)


def _listed(wanted: ParamValue | Sequence[ParamValue]) -> Sequence[ParamValue]:
    return wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else (wanted,)


def _same(a: ParamValue, b: ParamValue) -> bool:
    """Compare values without taking true for 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _impossible(parent: Parameter, values: Sequence[ParamValue]) -> str | None:
    for value in values:
        why = parent.accepts(value)
        if why:
            return why
        if parent.snap(value) != value:  # type: ignore[arg-type]
            return f"{value!r} is not on the grid of its step"
    return None if values else "it lists no value"


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


def _check_parameter(name: object, parameter: object) -> None:
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


def _check_condition(parameters: Mapping[str, Parameter], condition: Condition) -> None:
    """See that a constraint asks of each parameter in it what its values can answer; other names are metrics."""
    for name in condition.names:
        parameter = parameters.get(name)
        if name in condition.numbers and isinstance(parameter, Choice):
            texts = [v for v in parameter.values if v is None or isinstance(v, str)]
            if texts:
                raise SpaceError(
                    f"the constraint {condition.text!r} reckons with {name!r}, which may be {texts[0]!r}",
                    f"compare it by == or in, as in {name} != {texts[0]!r}",
                )
    for name, value in condition.equals:
        if name not in parameters:
            continue
        parameter = parameters[name]
        why = parameter.accepts(value) if isinstance(parameter, Choice) or not is_number(value) else None
        if why:
            raise SpaceError(f"the constraint {condition.text!r}: {name} {why}", "compare it with one of its values")


def _parameter_json(parameter: Parameter) -> JsonObject:
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


def _parameter_from_json(name: str, entry: object) -> Parameter:
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
