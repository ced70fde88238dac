"""Fronts, hypervolumes and the box they are measured in, held against the slow and obvious ways to find them."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentic_hpt.pareto import FIRST_TRIALS, Frame, Point, contributions, course, dominates, front, hypervolume


@st.composite
def clouds(draw: st.DrawFn) -> list[Point]:
    """Give a few points of 2 to 4 objectives on a coarse grid, so that ties and equal points are common."""
    objectives = draw(st.integers(2, 4))
    coordinate = st.integers(0, 6).map(float)
    return draw(st.lists(st.tuples(*[coordinate] * objectives), min_size=1, max_size=7))


def by_inclusion_and_exclusion(points: list[Point], reference: Point) -> float:
    total = 0.0
    for count in range(1, len(points) + 1):
        for group in combinations(points, count):
            corner = [max(column) for column in zip(*group, strict=True)]
            sides = [max(0.0, r - x) for r, x in zip(reference, corner, strict=True)]
            total += (-1) ** (count + 1) * math.prod(sides)
    return total


@settings(max_examples=200, deadline=None)
@given(clouds())
def test_the_hypervolume_is_that_of_inclusion_and_exclusion(points: list[Point]) -> None:
    reference = (5.0,) * len(points[0])
    assert hypervolume(points, reference) == pytest.approx(by_inclusion_and_exclusion(points, reference))


@settings(max_examples=200, deadline=None)
@given(clouds())
def test_the_front_is_what_no_point_dominates(points: list[Point]) -> None:
    slow = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
    assert front(points) == slow


@settings(max_examples=100, deadline=None)
@given(clouds())
def test_contributions_and_the_course_follow_from_the_hypervolume(points: list[Point]) -> None:
    reference = (5.0,) * len(points[0])
    whole = hypervolume(points, reference)
    without = [hypervolume([*points[:i], *points[i + 1 :]], reference) for i in range(len(points))]
    assert contributions(points, reference) == pytest.approx([whole - rest for rest in without])
    assert course(points, reference) == pytest.approx(
        [hypervolume(points[: i + 1], reference) for i in range(len(points))]
    )


def test_a_known_volume_of_each_dimension() -> None:
    assert hypervolume([(1.0, 3.0), (2.0, 1.0)], (4.0, 4.0)) == 7.0
    assert hypervolume([(0.0, 0.0, 1.0), (1.0, 1.0, 0.0)], (2.0, 2.0, 2.0)) == 5.0
    assert hypervolume([(0.0, 0.0, 0.0, 0.0)], (1.0, 2.0, 3.0, 4.0)) == 24.0
    assert hypervolume([(1.0, 1.0), (5.0, 0.0)], (2.0, 2.0)) == 1.0, "a point beyond the reference adds nothing"
    assert hypervolume([], (1.0, 1.0)) == 0.0


def test_equal_points_stand_on_the_front_together_and_contribute_nothing_alone() -> None:
    points = [(1.0, 2.0), (1.0, 2.0), (2.0, 2.0), (0.0, 3.0)]
    assert front(points) == [0, 1, 3]
    assert contributions(points, (4.0, 4.0)) == [0.0, 0.0, 0.0, 1.0]


def test_the_box_goes_a_tenth_beyond_the_worst_of_the_first_trials_and_then_stays() -> None:
    points: list[Point] = [(float(i), 100.0 - i) for i in range(FIRST_TRIALS)]
    frame = Frame.of(points, (None, None))
    assert frame.reference == pytest.approx((20.9, 101.9))
    assert frame.scale == pytest.approx((20.9, 20.9))
    assert Frame.of([*points, (1000.0, 1000.0), (-5.0, -5.0)], (None, None)) == frame


def test_a_given_reference_is_kept_and_one_that_no_trial_meets_still_makes_a_box() -> None:
    points: list[Point] = [(1.0, 10.0), (3.0, 5.0)]
    frame = Frame.of(points, (2.0, 4.0))
    assert frame.reference == (2.0, 4.0)
    assert frame.inside((1.0, 3.0)) == pytest.approx((1.0, 0.2))
    assert frame.covered((1.0, 10.0)) == pytest.approx(-6 / 5), "beyond it: by how far, in sides of the box"
    assert frame.covered((3.0, 10.0)) < frame.covered((3.0, 5.0)) < 0 < frame.covered((1.0, 3.0))


def test_without_any_spread_the_box_still_has_sides() -> None:
    assert Frame.of([(0.0, 7.0)], (None, None)).scale == pytest.approx((0.1, 0.7))
    with pytest.raises(ValueError, match="no point"):
        Frame.of([], (None, None))


def test_the_knee_does_not_hang_on_units() -> None:
    points = [(0.0, 1.0), (0.2, 0.3), (0.6, 0.2), (1.0, 0.0)]
    scaled: list[Point] = [(1000 * x, 0.01 * y - 3) for x, y in points]
    for cloud in (points, scaled):
        frame = Frame.of(cloud, (None, None))
        assert max(range(4), key=lambda i: frame.covered(cloud[i])) == 1
