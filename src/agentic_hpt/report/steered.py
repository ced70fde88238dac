"""What steered a search: limits and priorities, set and taken back; and the edges that the best one lies on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agentic_hpt.records import DecisionRecord, Params, ParamValue
from agentic_hpt.report.actions import action_words
from agentic_hpt.report.plain import counted, number, visible
from agentic_hpt.space import Choice, SearchSpace

__all__ = ["OnEdge", "Steered", "edge_sentence", "on_edge", "steered", "steering_sentence"]

_NEAR = 0.01
"""A float so near a bound, as a part of its range (on its scale), counts as lying on it."""
_PRIORITIES = ""
_STEERING = ("freeze", "unfreeze", "narrow", "widen", "prioritise")


@dataclass(frozen=True, slots=True)
class Steered:
    """A limit or a priority: when and by whom it was set, and how it ended; `until` is empty while it stands."""

    what: str
    round: int
    by: str
    until: str = ""


@dataclass(frozen=True, slots=True)
class OnEdge:
    """A parameter whose best value is the lowest or highest that was declared."""

    parameter: str
    value: ParamValue
    edge: Literal["lowest", "highest"]


def steered(decisions: Iterable[DecisionRecord], since: int = 0) -> tuple[Steered, ...]:
    """List what accepted actions set, in order, each with what ended it.

    Decisions before the round `since` were about a space that was revised, which ended all that they had set.
    """
    found: list[Steered] = []
    standing: dict[str, int] = {}
    of_now = False
    for decision in decisions:
        if decision.round >= since and not of_now:
            of_now = True
            _lift(found, standing)
        for action in decision.actions:
            if action.verdict == "refused" or action.type not in _STEERING:
                continue
            name = _PRIORITIES if action.type == "prioritise" else str(action.detail.get("parameter", ""))
            by = action.by or decision.kind
            who = "model" if by == "llm" else by
            if name in standing:
                how = "changed" if _sets(action.type, action.detail) else "taken back"
                place = standing.pop(name)
                found[place] = replace(found[place], until=f"{how} after round {decision.round} by the {who}")
            if _sets(action.type, action.detail):
                standing[name] = len(found)
                found.append(Steered(action_words(action), decision.round, by))
    if not of_now:
        _lift(found, standing)
    return tuple(found)


def _lift(found: list[Steered], standing: dict[str, int]) -> None:
    for place in standing.values():
        found[place] = replace(found[place], until="lifted when the space was revised")
    standing.clear()


def on_edge(space: SearchSpace, params: Params) -> tuple[OnEdge, ...]:
    """List the parameters of a configuration that lie on a declared bound; choices only when they are ordered."""
    found: list[OnEdge] = []
    for name, value in params.items():
        if name not in space:
            continue
        parameter = space[name]
        if isinstance(parameter, Choice):
            low, high = parameter.values[0], parameter.values[-1]
            if parameter.ordered and len(parameter.values) > 2 and value in (low, high):
                found.append(OnEdge(name, value, "lowest" if value == low else "highest"))
            continue
        if not isinstance(value, int | float) or parameter.low >= parameter.high:
            continue
        place = _place(float(value), float(parameter.low), float(parameter.high), parameter.log)
        near = 0.0 if parameter.kind == "int" or parameter.step is not None else _NEAR
        if place <= near or place >= 1 - near:
            found.append(OnEdge(name, value, "lowest" if place <= near else "highest"))
    return tuple(found)


def steering_sentence(entries: Sequence[Steered]) -> str:
    """Say how many limits and priorities were set, and which stand at the end."""
    standing = [entry.what for entry in entries if not entry.until]
    said = f"The search was steered by {counted(len(entries), 'limit or priority', 'limits or priorities')}"
    return f"{said}; at the end {'; '.join(standing)}." if standing else f"{said}; none of them stands."


def edge_sentence(edges: Sequence[OnEdge]) -> str:
    """Say which parameters lie on a bound, and what to do about it."""
    named = ", ".join(f"{visible(e.parameter)} ({number(e.value)}, the {e.edge})" for e in edges)
    return (
        f"The best configuration lies on the edge of what was declared for {named}: "
        "where the job allows it, declare a wider range."
    )


def _sets(type_: str, detail: dict[str, object]) -> bool:
    if type_ == "prioritise":
        return bool(detail.get("parameters"))
    return type_ in ("freeze", "narrow") or (type_ == "widen" and detail.get("range") is not None)


def _place(value: float, low: float, high: float, log: bool) -> float:
    """Give where a value lies between two others on its scale: 0 at `low`, 1 at `high`."""
    if log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) if value > 0 else 0.0
    return (value - low) / (high - low)
