"""A search space that changes in mid-study: what is possible, and what earlier trials are in the new one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import cast

from agentic_hpt.errors import SpaceError
from agentic_hpt.records import JsonObject, Params, ParamValue
from agentic_hpt.space import Choice, Parameter, SearchSpace

_RANGE = ("low", "high", "values")


@dataclass(frozen=True, slots=True)
class Revision:
    """A change of a study's space by a person."""

    before: SearchSpace
    after: SearchSpace
    round: int
    """The last round under the old space, also one that was cut short."""
    trials: int
    """How many trials there were: those with smaller numbers ran under the old space."""
    by: str
    """Who changed it, as the machine names them."""
    created: float
    """Seconds since the epoch."""
    told: str
    """What was changed, and what became of the trials."""

    def to_json(self) -> JsonObject:
        """Give it as plain data."""
        spaces = {name: [space.to_json(), [c.text for c in space.constraints]] for name, space in self._spaces.items()}
        rest = {name: getattr(self, name) for name in ("round", "trials", "by", "created", "told")}
        return {**spaces, **rest}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Revision:
        """Rebuild it from `to_json`."""
        spaces = {}
        for name in ("before", "after"):
            parameters, texts = cast(list[list[str]], data[name])
            spaces[name] = SearchSpace.from_json(parameters).constrained(texts)
        return cls(**{**data, **spaces})  # type: ignore[arg-type]

    @property
    def _spaces(self) -> dict[str, SearchSpace]:
        return {"before": self.before, "after": self.after}


def refit(params: Params, *spaces: SearchSpace) -> dict[str, ParamValue] | None:
    """Give a configuration of the first space as one of the last; `None` when it is none there.

    The spaces are those that a study had, in order. A parameter that is new in one was at its declared default before;
    one that is gone stays at the default that it had, so a configuration with another value is not one any more. A
    value that lies outside a range, or off its grid, is none either.
    """
    known = dict(params)
    fixed: dict[str, ParamValue] = {}
    for before, after in pairwise(spaces):
        for name in after:
            if name not in before:
                known.setdefault(name, after[name].resolved_default())
        fixed = {name: value for name, value in fixed.items() if name not in after}
        fixed |= {name: before[name].resolved_default() for name in before if name not in after}
    if any(name in known and not _equal(known[name], value) for name, value in fixed.items()):
        return None
    last = spaces[-1]
    whole = last.complete({name: value for name, value in known.items() if name in last})
    if not last.contains(whole):
        return None
    found = last.validated(whole)
    return found if all(_equal(value, whole[name]) for name, value in found.items()) else None


def check_revision(before: SearchSpace, after: SearchSpace) -> None:
    """See that a space may follow another in one study. Raises `SpaceError` that names what can't be."""
    if before == after:
        raise SpaceError("the space is the study's own: nothing was changed", "change it, or resume without it")
    common = [name for name in after if name in before]
    if not common:
        raise SpaceError(
            "the new space has no parameter of the old one", "make another study, with this one under `transfer`"
        )
    for name in common:
        old, new = before[name], after[name]
        if old.kind != new.kind and not (isinstance(new, Choice) and all(old.accepts(v) is None for v in new.values)):
            raise SpaceError(
                f"parameter {name!r} can't become a {new.kind}: it was a {old.kind}",
                "a choice of some of its values is possible; for anything else use another name",
            )
        if not _meet(old, new):
            raise SpaceError(
                f"parameter {name!r} has no value in common with what it was: no trial would be of use",
                "make another study, with this one under `transfer`",
            )


def changes(before: SearchSpace, after: SearchSpace) -> list[str]:
    """Say for each parameter that was changed, in words, how."""
    told = [
        f"{name} added ({_shown(after[name])}); it was {after[name].resolved_default()!r} before"
        for name in after
        if name not in before
    ]
    told += [f"{name} removed; it stays {before[name].resolved_default()!r}" for name in before if name not in after]
    told += [_change(name, before[name], after[name]) for name in after if name in before]
    texts = [[c.text for c in space.constraints] for space in (before, after)]
    told += [f"constraint {text!r} added" for text in texts[1] if text not in texts[0]]
    told += [f"constraint {text!r} removed" for text in texts[0] if text not in texts[1]]
    return list(filter(None, told)) or ["the order of the parameters"]


def _meet(old: Parameter, new: Parameter) -> bool:
    """Say whether two declarations of a parameter have a value in common."""
    if isinstance(new, Choice):
        return any(old.accepts(value) is None for value in new.values)
    if isinstance(old, Choice):
        return any(new.accepts(value) is None for value in old.values)
    return max(old.low, new.low) <= min(old.high, new.high)


def _equal(a: ParamValue, b: ParamValue) -> bool:
    if isinstance(a, bool) or isinstance(b, bool) or not isinstance(a, int | float) or not isinstance(b, int | float):
        return a == b and isinstance(a, bool) == isinstance(b, bool)
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def _change(name: str, before: Parameter, after: Parameter) -> str:
    """Say how a parameter was changed: its values, and whatever else is declared of it."""
    values = f"from {_shown(before)} to {_shown(after)}" if _values(before) != _values(after) else ""
    common = [field.name for field in fields(after) if field.name not in _RANGE and hasattr(before, field.name)]
    rest = [
        f"{key} from {getattr(before, key)!r} to {getattr(after, key)!r}"
        for key in common
        if getattr(before, key) != getattr(after, key)
    ]
    return f"{name} {', '.join(filter(None, [values, *rest]))}" if values or rest else ""


def _values(parameter: Parameter) -> tuple[object, ...]:
    return tuple(getattr(parameter, key, None) for key in _RANGE)


def _shown(parameter: Parameter) -> str:
    if isinstance(parameter, Choice):
        values = ", ".join(map(str, parameter.values[:6]))
        return f"{values}, …" if len(parameter.values) > 6 else values
    return f"{parameter.low:g} to {parameter.high:g}"
