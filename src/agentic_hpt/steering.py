"""What the accepted actions have made of the search: limits, priorities, and the workers to spawn.

Nothing of this is stored: it is folded from the decisions, so the ledger's log of decisions is the one truth, and the
same decisions give the same search.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from agentic_hpt.errors import SpaceError
from agentic_hpt.records import ActionRecord, DecisionRecord, Params, ParamValue, Range, Region
from agentic_hpt.space import Choice, Float, Int, Parameter, SearchSpace


@dataclass(frozen=True, slots=True)
class Limit:
    """A part of a parameter's declared values to which the search keeps for now."""

    parameter: str
    kind: Literal["frozen", "narrowed"]
    range: Range
    """Of a frozen parameter, `{"values": [value]}`."""
    round: int
    """The round after which it was decided, and the place of the action in that decision."""
    action: int

    @property
    def value(self) -> ParamValue:
        """The value of a frozen parameter."""
        return cast(list[ParamValue], self.range["values"])[0]

    def holds(self, params: Params) -> bool:
        """Say whether a configuration lies inside; one in which the parameter is not active does."""
        return self.parameter not in params or in_range(params[self.parameter], self.range)


@dataclass(frozen=True, slots=True)
class Spawn:
    """A worker that a decision asks for in the next round."""

    kind: Literal["per_parameter", "group", "joint"]
    parameters: tuple[str, ...]
    trials: int
    region: Region = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Steering:
    """The standing of the search after some decisions."""

    limits: Mapping[str, Limit] = field(default_factory=dict)
    """At most one a parameter."""
    priorities: tuple[str, ...] = ()
    """Parameters that get more than their share of trials; the last `prioritise` counts."""
    spawns: tuple[Spawn, ...] = ()
    """The workers that the last decision asks for; they live for one round."""
    revision: int = 0
    """How often the limits were changed: the revision of the space."""

    @property
    def frozen(self) -> dict[str, ParamValue]:
        """The frozen parameters and their values."""
        return {name: limit.value for name, limit in self.limits.items() if limit.kind == "frozen"}

    @property
    def region(self) -> dict[str, Range]:
        """The ranges of the narrowed parameters (frozen ones are not among them)."""
        return {name: limit.range for name, limit in self.limits.items() if limit.kind == "narrowed"}

    def free(self, names: Sequence[str]) -> tuple[str, ...]:
        """Give those of `names` that are not frozen."""
        frozen = self.frozen
        return tuple(name for name in names if name not in frozen)

    def holds(self, params: Params) -> bool:
        """Say whether a configuration lies inside all limits."""
        return all(limit.holds(params) for limit in self.limits.values())

    def after(self, action: ActionRecord, round_: int, position: int) -> Steering:
        """Give the standing once an action that a guard let through is in force; a refused one changes nothing."""
        if action.verdict == "refused":
            return self
        name, detail = str(action.detail.get("parameter", "")), action.detail
        if action.type in ("freeze", "narrow"):
            kind: Literal["frozen", "narrowed"] = "frozen" if action.type == "freeze" else "narrowed"
            limit = Limit(name, kind, cast(Range, detail["range"]), round_, position)
            return replace(self, limits={**self.limits, name: limit}, revision=self.revision + 1)
        if action.type in ("unfreeze", "widen"):
            limits = {n: held for n, held in self.limits.items() if n != name}
            if detail.get("range") is not None:  # widened, but not to all that was declared
                limits[name] = Limit(name, "narrowed", cast(Range, detail["range"]), round_, position)
            return replace(self, limits=limits, revision=self.revision + 1)
        if action.type == "prioritise":
            return replace(self, priorities=tuple(cast(Sequence[str], detail["parameters"])))
        if action.type == "spawn":
            spawn = Spawn(
                kind=cast(Literal["per_parameter", "group", "joint"], detail["worker"]),
                parameters=tuple(cast(Sequence[str], detail["parameters"])),
                trials=cast(int, detail["trials"]),
                region=cast(Region, detail.get("region", {})),
                reason=action.reason,
            )
            return replace(self, spawns=(*self.spawns, spawn))
        return self


def steering_of(decisions: Iterable[DecisionRecord], begun: Steering | None = None) -> Steering:
    """Fold decisions, in their order, into what they have made of the search; `begun` is what earlier ones have."""
    steering = begun or Steering()
    for decision in decisions:
        steering = replace(steering, spawns=()) if steering.spawns else steering
        for position, action in enumerate(decision.actions):
            steering = steering.after(action, decision.round, position)
    return steering


def in_range(value: ParamValue, range_: Range) -> bool:
    """Say whether a value lies in a range, its bounds included."""
    values = range_.get("values")
    if values is not None:
        return any(
            value == v and isinstance(value, bool) == isinstance(v, bool) for v in cast(Sequence[object], values)
        )
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return cast(float, range_["low"]) <= value <= cast(float, range_["high"])


def full_range(space: SearchSpace, name: str) -> dict[str, object]:
    """Give the declared range of a parameter."""
    parameter = space[name]
    if isinstance(parameter, Choice):
        return {"values": list(parameter.values)}
    return {"low": parameter.low, "high": parameter.high}


def space_within(space: SearchSpace, region: Region) -> SearchSpace:
    """Give the space with its parameters limited to `region`; all its configurations are ones of `space` too.

    A default outside its range becomes the nearest value inside. A parameter whose condition can't hold any more is
    left out; a constraint on it holds. Raises `SpaceError` for a range that holds no value.
    """
    found: dict[str, Parameter] = {}
    for name in space.order:
        parameter = space[name]
        when: dict[str, list[ParamValue]] = {}
        possible = True
        for parent, wanted in parameter.when.items():
            values = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]
            if parent in found:
                when[parent] = [v for v in values if found[parent].accepts(v) is None]
            possible = possible and bool(when.get(parent))
        if possible:
            found[name] = replace(_limited(name, parameter, region.get(name)), when=when)
    return space.limited({name: found[name] for name in space if name in found})


def _limited(name: str, parameter: Parameter, range_: Range | None) -> Parameter:
    if range_ is None:
        return parameter
    if isinstance(parameter, Choice):
        values = [v for v in parameter.values if in_range(v, range_)]
        default = parameter.resolved_default()
        kept = default if any(in_range(default, {"values": [v]}) for v in values) else None
        if not values:
            raise SpaceError(f"parameter {name!r}: {dict(range_)!r} holds none of its values", "widen the range")
        return replace(parameter, values=values, default=kept)
    if "values" in range_:
        value = cast(list[float], range_["values"])[0]
        range_ = {"low": value, "high": value}
    low, high = cast(float, range_["low"]), cast(float, range_["high"])
    inside = _on_grid(parameter, max(low, parameter.low), min(high, parameter.high))
    if inside is None:
        raise SpaceError(f"parameter {name!r}: {dict(range_)!r} holds none of its values", "widen the range")
    low, high = inside
    step = parameter.step if parameter.step is not None and parameter.step <= high - low else None
    default = min(max(parameter.resolved_default(), low), high)
    if isinstance(parameter, Int):
        return replace(parameter, low=int(low), high=int(high), step=int(step or 1), default=int(default))
    return replace(parameter, low=low, high=high, step=step, default=default)


def _on_grid(parameter: Float | Int, low: float, high: float) -> tuple[float, float] | None:
    """Give the smallest and the largest value of a parameter in [low, high]; `None` when there is none."""
    if parameter.step is None:
        return (low, high) if low <= high else None
    first = parameter.low + math.ceil((low - parameter.low) / parameter.step - 1e-9) * parameter.step
    last = parameter.low + math.floor((high - parameter.low) / parameter.step + 1e-9) * parameter.step
    return (parameter.snap(first), parameter.snap(last)) if first <= last + 1e-12 else None
