"""What the next trial should be: expected improvement, and the search for where it is largest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from agentic_hpt.strategies.encoding import Encoding

Floats = NDArray[np.float64]
Box = tuple[Floats, Floats]
"""Its low and its high corner."""
Score = Callable[[Floats], Floats]
"""Gives each row's worth; the highest is tried."""

_EVEN = 2048
_BEST = 16
_CHILDREN = 16
_SWEEPS = 6
_DIRECTIONS = 32
_OUTCOMES = 8
_REACHES = (0.3, 0.1, 0.03, 0.01)


def log_expected_improvement(mean: Floats, sd: Floats, best: float) -> Floats:
    """Give the logarithm of the expected improvement on `best` of normal outcomes that are minimised.

    In logarithms it doesn't vanish far from the incumbent (Ament et al. 2023, arXiv:2310.20708).
    """
    gain = (best - mean) / sd
    density = -0.5 * gain * gain - 0.9189385332046727
    found = np.empty_like(gain)
    near = gain > -5
    found[near] = np.log(np.maximum(np.exp(density[near]) + gain[near] * np.exp(log_ndtr(gain[near])), 1e-300))
    far = ~near
    found[far] = density[far] - 2 * np.log(-gain[far])  # the tail's first term
    return np.asarray(found + np.log(sd))


def log_volume_gain(means: Floats, sds: Floats, front: Floats, reference: Floats) -> Floats:
    """Give the logarithm of the expected growth of the hypervolume, for normal outcomes (n, m) that are minimised.

    The volume between a front and the reference point is the mean over random directions of how far the front reaches
    along each (Zhang and Golovin 2020, arXiv:2006.04655); the expectation is over fixed draws. So its cost grows with
    the number of objectives only linearly.
    """
    width = means.shape[1]
    dice = np.random.default_rng(0)
    directions = np.abs(dice.standard_normal((_DIRECTIONS, width)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    noise = dice.standard_normal((_OUTCOMES, width))
    noise = np.concatenate([noise, -noise])
    reached = _reach(front, directions, reference).max(axis=0) if len(front) else np.zeros(_DIRECTIONS)
    gain = np.zeros(len(means))
    for row in noise:
        gain += np.maximum(_reach(means + sds * row, directions, reference) - reached, 0.0).mean(axis=1)
    # Where no draw gains anything, what is nearest to gaining something comes first.
    behind = (_reach(means - sds, directions, reference) - reached).max(axis=1)
    return np.asarray(np.log(gain / len(noise) + 1e-12 * np.exp(np.minimum(behind, 0.0))))


def _reach(points: Floats, directions: Floats, reference: Floats) -> Floats:
    """Give how far each point reaches from the reference along each direction, to the power of the objectives."""
    inside = np.maximum(reference - points, 0.0)
    reach: Floats = (inside[:, None, :] / directions[None, :, :]).min(axis=2) ** points.shape[1]
    return reach


def most_promising(
    encoding: Encoding,
    score: Score,
    around: Floats,
    dice: np.random.Generator,
    box: Box | None = None,
    even: int = _EVEN,
) -> tuple[Floats, Floats]:
    """Search for the rows with the highest score: draws over the space, mutants of `around`, then of the best found.

    With a `box` (its low and its high corner) nothing outside it is drawn. Gives rows and scores, the best first.
    """
    rows = spread_rows(encoding, around, dice, box, even)
    scores = score(rows)
    reach = 0.1 * _width(box)
    for _ in range(_SWEEPS):
        best = np.argsort(-scores, kind="stable")[:_BEST]
        children = mutants(encoding, np.repeat(rows[best], _CHILDREN, axis=0), reach, dice, box)
        rows, scores = np.concatenate([rows[best], children]), np.concatenate([scores[best], score(children)])
        reach /= 2
    order = np.argsort(-scores, kind="stable")
    return rows[order], scores[order]


def spread_rows(
    encoding: Encoding,
    around: Floats,
    dice: np.random.Generator,
    box: Box | None = None,
    even: int = _EVEN,
) -> Floats:
    """Draw rows over the space, or over the `box`, and mutants of `around`, near and far."""
    rows = _drawn(encoding, even, dice, box)
    if not len(around):
        return rows
    parents, reach = np.repeat(around, 16, axis=0), _width(box)
    return np.concatenate([rows, *(mutants(encoding, parents, r * reach, dice, box) for r in _REACHES)])


def mutants(
    encoding: Encoding,
    parents: Floats,
    reach: float,
    dice: np.random.Generator,
    box: Box | None = None,
) -> Floats:
    """Give each parent with some parameters moved, at least one; where there is a grid, by a step of it or more."""
    count, width = parents.shape
    whole = np.where(np.isnan(parents), encoding.uniform(count, dice), parents)
    share = np.maximum(1.0 / width, dice.random((count, 1)) ** 2)
    moved = dice.random((count, width)) < share
    moved[np.arange(count), dice.integers(width, size=count)] = True
    steps = dice.standard_normal((count, width)) * reach
    steps = np.where(np.abs(steps) < encoding.steps, np.sign(steps) * encoding.steps, steps)
    changed = np.where(encoding.categorical, encoding.uniform(count, dice), whole + steps)
    return _boxed(encoding, np.where(moved, changed, whole), box)


def quasi_random(encoding: Encoding, first: int, count: int, seed: int) -> Floats:
    """Give `count` rows from the `first` on of a sequence that covers the space evenly from any point on.

    Roberts' R sequence (2018), the additive recurrence of the generalised golden ratio, shifted by the seed.
    """
    width = len(encoding.names)
    ratio = 2.0
    for _ in range(50):
        ratio = (1 + ratio) ** (1 / (width + 1))
    steps = ratio ** -np.arange(1.0, width + 1)
    shift = np.random.default_rng(seed).random(width)
    return encoding.snapped(encoding.scaled((shift + np.outer(np.arange(first + 1, first + count + 1), steps)) % 1.0))


def _width(box: Box | None) -> float:
    return 1.0 if box is None else float(np.mean(box[1] - box[0]))


def _drawn(encoding: Encoding, count: int, dice: np.random.Generator, box: Box | None) -> Floats:
    rows = encoding.uniform(count, dice)
    if box is None:
        return encoding.snapped(rows)
    low, high = box
    inside = low + dice.random(rows.shape) * (high - low)
    return _boxed(encoding, np.where(encoding.categorical, rows, inside), box)


def _boxed(encoding: Encoding, rows: Floats, box: Box | None) -> Floats:
    if box is None:
        return encoding.snapped(rows)
    low, high = box
    return encoding.snapped(np.where(encoding.categorical, rows, np.clip(rows, low, high)))
