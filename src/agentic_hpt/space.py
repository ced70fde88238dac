"""The search space: parameters with conditions, and constraints over them.

A configuration maps every *active* parameter to a value. A parameter with `when` is active only where the parameters
it names are active and hold one of the values it lists. Constraints over parameters say which configurations count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from agentic_hpt.constraints import Condition, conjunction
from agentic_hpt.errors import SpaceError
from agentic_hpt.parameters import (
    Choice,
    Float,
    Int,
    Parameter,
    check_parameter,
    parameter_from_json,
    parameter_json,
    same_value,
)
from agentic_hpt.records import JsonObject, Params, ParamValue, is_number

__all__ = ["Choice", "Float", "Int", "Parameter", "SearchSpace"]


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
            check_parameter(name, parameter)
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
            if not any(same_value(params[parent], w) for w in _listed(wanted)):
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
        return {name: parameter_json(parameter) for name, parameter in self._parameters.items()}

    @classmethod
    def from_json(cls, data: object) -> SearchSpace:
        """Read a space from plain data, `{name: {float: [low, high], log: true, ...}}`."""
        if not isinstance(data, Mapping):
            raise SpaceError(f"the search space is {data!r}, not a mapping", "write NAME: {float: [low, high]}")
        return cls({str(name): parameter_from_json(str(name), entry) for name, entry in data.items()})

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


def _impossible(parent: Parameter, values: Sequence[ParamValue]) -> str | None:
    for value in values:
        why = parent.accepts(value)
        if why:
            return why
        if parent.snap(value) != value:  # type: ignore[arg-type]
            return f"{value!r} is not on the grid of its step"
    return None if values else "it lists no value"


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
    chosen = {name: p.values for name in condition.names if isinstance(p := parameters.get(name), Choice)}
    for name in condition.names:
        of = next((choice for choice, values in chosen.items() if name in values), None)
        if of is not None and name not in parameters and name not in condition.quoted:
            raise SpaceError(
                f"the constraint {condition.text!r}: {name} is no parameter but a value of {of!r}",
                f"write {of} == {name!r}; if it is a metric, write it in backquotes: `{name}`",
            )
    for name, value in condition.equals:
        if name not in parameters:
            continue
        parameter = parameters[name]
        why = parameter.accepts(value) if isinstance(parameter, Choice) or not is_number(value) else None
        if why:
            raise SpaceError(f"the constraint {condition.text!r}: {name} {why}", "compare it with one of its values")
