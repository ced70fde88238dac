"""The keys that say what is optimized: one metric, or two to four; their directions, targets and reference point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, SupportsFloat, cast

from pydantic import PlainSerializer, PlainValidator

from agentic_hpt.records import COVERED, HYPERVOLUME, Direction, Goal, ObjectiveSpec, OutcomeConstraint

FREE_METRICS = ("seconds", "memory_mb", "latency_ms")
"""Metrics that are measured only where the study looks at them; the last one by the built-in trainer only."""
MOST_OBJECTIVES = 4
_LONGEST_NAME = 100
_RESERVED = (COVERED, HYPERVOLUME)


def _metric(value: object) -> str | tuple[str, ...]:
    """Give the metric's name, or the names. Raises `ValueError` that says what is wrong."""
    if isinstance(value, str):
        return _name(value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r:.60}: give a metric's name, or a list of names")
    names = tuple(_name(entry) for entry in value)
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ValueError(f"{twice[0]!r} stands twice; name each metric once")
    if not 1 <= len(names) <= MOST_OBJECTIVES:
        raise ValueError(f"{len(names)} metrics; give 1 to {MOST_OBJECTIVES}, and state others as constraints")
    return names if len(names) > 1 else names[0]


def _name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_NAME:
        raise ValueError(f"{value!r:.60}: a metric's name is a text of 1 to {_LONGEST_NAME} characters")
    if value in _RESERVED:
        raise ValueError(f"{value!r}: the study itself computes this; give the metric another name")
    return value


def _direction(value: object) -> Direction | tuple[Direction, ...]:
    entries = value if isinstance(value, list | tuple) else [value]
    for entry in entries:
        if entry not in ("maximize", "minimize"):
            raise ValueError(f"{entry!r:.60}: input should be 'maximize' or 'minimize'")
    return cast(Direction, value) if isinstance(value, str) else tuple(cast(Sequence[Direction], entries))


def _target(value: object) -> float | dict[str, float] | None:
    if value is None:
        return None
    return _figures(value) if isinstance(value, Mapping) else _figure(value)


def _figures(value: object) -> dict[str, float]:
    """Read numbers by metric."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r:.60}: give a mapping of metrics to numbers")
    return {str(name): _figure(entry) for name, entry in value.items()}


def _figure(value: object) -> float:
    if isinstance(value, SupportsFloat | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):  # text is read too: YAML takes 1e-3 for one
            if math.isfinite(number := float(value)):
                return number
    raise ValueError(f"{value!r:.60}: give a finite number")


_AsList = PlainSerializer(lambda value: value if isinstance(value, str) else list(value))
MetricField = Annotated[str | tuple[str, ...], PlainValidator(_metric), _AsList]
DirectionField = Annotated[Direction | tuple[Direction, ...], PlainValidator(_direction), _AsList]
TargetField = Annotated[float | dict[str, float] | None, PlainValidator(_target)]
ReferenceField = Annotated[dict[str, float], PlainValidator(_figures)]


def goal_of(
    metric: str | Sequence[str],
    direction: Direction | Sequence[Direction],
    target: float | Mapping[str, float] | None,
    reference: Mapping[str, float],
    constraints: tuple[OutcomeConstraint, ...] = (),
) -> Goal:
    """Give what the keys say as a goal. Raises `ValueError` where they don't go together."""
    names = (metric,) if isinstance(metric, str) else tuple(metric)
    several = len(names) > 1
    directions = (direction,) * len(names) if isinstance(direction, str) else tuple(direction)
    if len(directions) != len(names):
        raise ValueError(
            f"direction: {len(directions)} directions for {len(names)} metrics; give one for all, or one each"
        )
    if isinstance(target, Mapping):
        targets = dict(target)
    elif target is None:
        targets = {}
    elif several:
        raise ValueError(f"target: {target:g} is of which metric? Write target: {{{names[0]}: {target:g}}}")
    else:
        targets = {names[0]: target}
    for key, figures in (("target", targets), ("reference", reference)):
        unknown = [name for name in figures if name not in names]
        if unknown:
            raise ValueError(f"{key}: {unknown[0]!r} is none of the metrics, {', '.join(names)}")
    if reference and not several:
        raise ValueError("reference: it goes with several metrics only; leave it out")
    first, *others = (
        ObjectiveSpec(name, way, targets.get(name), reference.get(name))
        for name, way in zip(names, directions, strict=True)
    )
    return Goal(first.metric, first.direction, first.target, constraints, tuple(others), first.reference)
