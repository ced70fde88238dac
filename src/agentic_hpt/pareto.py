"""Several objectives at once, on plain numbers: fronts, hypervolumes, and the box that they are measured in.

A point is a tuple of numbers, one per objective, each to be minimised. Pure Python: it is imported wherever records
are.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, ...]

FIRST_TRIALS = 20
"""The box is fixed by so many trials, so that a figure means the same for the rest of a study."""
_MARGIN = 0.1


def dominates(a: Point, b: Point) -> bool:
    """Say whether `a` is no worse than `b` in every objective, and better in one."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Point]) -> list[int]:
    """Give the places of the points that no other one dominates, in order; equal points stand together."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    if points and len(points[0]) == 2:
        return sorted(_staircase(points, order))
    members: list[int] = []
    for place in order:  # what dominates a point stands before it
        if not any(dominates(points[m], points[place]) for m in reversed(members)):
            members.append(place)
    return sorted(members)


def _staircase(points: Sequence[Point], order: Sequence[int]) -> list[int]:
    members: list[int] = []
    for place in order:
        last = points[members[-1]] if members else None
        if last is None or points[place][1] < last[1] or points[place] == last:
            members.append(place)
    return members


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Give the volume that `points` dominate up to `reference`, exactly; a point beyond it in one objective adds none.

    The exclusive volume of each point, dimension by dimension (While, Bradstreet & Barone 2012, WFG): quick up to some
    hundred points of four objectives.
    """
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    return _volume([inside[i] for i in front(inside)], reference)


def _volume(points: Sequence[Point], reference: Point) -> float:
    """Give the volume of points that don't dominate each other."""
    if not points:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(points)[0]
    if len(reference) == 2:
        total, height = 0.0, reference[1]
        for x, y in sorted(points):
            if y < height:
                total, height = total + (reference[0] - x) * (height - y), y
        return total
    total = 0.0
    ordered = sorted(set(points), key=lambda p: p[-1])
    for place, point in enumerate(ordered):  # those before it are better in the last objective, so that it drops out
        total += (reference[-1] - point[-1]) * _exclusive(point[:-1], [p[:-1] for p in ordered[:place]], reference[:-1])
    return total


def _exclusive(point: Point, others: Sequence[Point], reference: Point) -> float:
    """Give the volume that a point dominates and none of `others` does."""
    limited = [tuple(map(max, point, other)) for other in others]
    limited = [p for p in limited if all(x < r for x, r in zip(p, reference, strict=True))]
    whole = math.prod(r - x for x, r in zip(point, reference, strict=True))
    return whole - _volume([limited[i] for i in front(limited)], reference)


def contributions(points: Sequence[Point], reference: Point) -> list[float]:
    """Give for each point by how much the hypervolume would be smaller without it."""
    found = []
    for place, point in enumerate(points):
        within = all(x < r for x, r in zip(point, reference, strict=True))
        others = [*points[:place], *points[place + 1 :]]
        found.append(max(0.0, _exclusive(point, others, reference)) if within else 0.0)
    return found


def course(points: Sequence[Point], reference: Point) -> list[float]:
    """Give the hypervolume of the first point, of the first two, and so on: only what joins the front costs time."""
    if len(reference) == 2:
        return _area_course(points, reference)
    found: list[float] = []
    members: list[Point] = []
    volume = 0.0
    for point in points:
        within = all(x < r for x, r in zip(point, reference, strict=True))
        if within and not any(m == point or dominates(m, point) for m in members):
            volume += _exclusive(point, members, reference)
            members = [m for m in members if not dominates(point, m)]
            members.insert(bisect_left(members, point), point)
        found.append(volume)
    return found


def _area_course(points: Sequence[Point], reference: Point) -> list[float]:
    """Give the course for two objectives: a point touches its neighbours on the front and what it beats only."""
    found: list[float] = []
    members: list[Point] = []  # from left to right, each lower than the one before
    area = 0.0
    for point in points:
        x, y = point
        place = bisect_right(members, point)
        top = members[place - 1][1] if place else reference[1]
        if x < reference[0] and y < top:
            beaten = place
            while beaten < len(members) and members[beaten][1] >= y:
                area += (members[beaten][0] - x) * (top - y)
                x, top = members[beaten]
                beaten += 1
            right = members[beaten][0] if beaten < len(members) else reference[0]
            area += (right - x) * (top - y)
            members[place:beaten] = [point]
        found.append(area)
    return found


@dataclass(frozen=True, slots=True)
class Frame:
    """The box in which volumes are measured: from the reference point to the best of the first trials is 1 a side."""

    reference: Point
    scale: Point

    @classmethod
    def of(cls, points: Sequence[Point], given: Sequence[float | None]) -> Frame:
        """Fix the box by the first 20 points, in order. Without a reference `given` it is the worst and 10 % more.

        So the same trials have the same box, and it moves no more once 20 are complete. Raises `ValueError` for none.
        """
        first = points[:FIRST_TRIALS]
        if not first:
            raise ValueError("no point, no box")
        reference, scale = [], []
        for values, told in zip(zip(*first, strict=True), given, strict=True):
            low, high = min(values), max(values)
            spread = high - low or abs(high) or 1.0
            bound = high + _MARGIN * spread if told is None else told
            reference.append(bound)
            scale.append(bound - low if bound > low else spread)
        return cls(tuple(reference), tuple(scale))

    def inside(self, point: Point) -> Point:
        """Give how far a point lies before the reference in each objective, in sides of the box; below 0: beyond it."""
        return tuple((r - x) / s for x, r, s in zip(point, self.reference, self.scale, strict=True))

    def covered(self, point: Point) -> float:
        """Give the share of the box that a point covers alone; beyond the reference, below 0, by how far it lies there.

        The one with most is a front's knee: what it gives up in one objective wins more in the others, whatever their
        units (Nash's bargaining product).
        """
        sides = self.inside(point)
        return math.prod(sides) if min(sides) > 0 else min(sides)

    def course(self, points: Sequence[Point]) -> list[float]:
        """Give the hypervolume after each point, as a share of the box."""
        zero = (0.0,) * len(self.reference)
        return course([tuple(-side for side in self.inside(point)) for point in points], zero)
