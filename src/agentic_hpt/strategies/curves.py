"""What stopped trials would have come to, learned from the whole curves of the same study."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from agentic_hpt.fidelity import Curve, curve_of, steps_done, value_at
from agentic_hpt.records import Goal, Trial, TrialState

_LEAST_CURVES = 3
_MOST_CURVES = 200
_MOST_STOPPED = 1000

Vector = NDArray[np.float64]


def estimated_final(trials: Iterable[Trial], goal: Goal) -> dict[int, tuple[float, float]]:
    """Give the final value to be expected of each of the newest 1,000 stopped trials, and its SD, by number.

    It is the first metric's. A line is fitted through what the newest 200 complete trials had at the step where the
    trial ended and what they came to: its slope is the median of all pairs' (Theil 1950, Sen 1968), and never turns
    ranks round. The SD grows with the distance from what is known, and while few curves are. With fewer than three, and
    for a trial that went on later, there is nothing.
    """
    given = list(trials)
    stopped = [t for t in given if t.state is TrialState.PRUNED and t.kind != "imported"]
    if not stopped:
        return {}
    known = {t.id: t for t in given}
    complete = [t for t in known.values() if goal.metric in t.values and t.reports and t.state is TrialState.COMPLETE]
    complete = [t for t in complete if t.kind != "imported"][-_MOST_CURVES:]
    if len(complete) < _LEAST_CURVES:
        return {}
    curves = [curve_of(t, goal.metric, known) for t in complete]
    finals = [t.values[goal.metric] for t in complete]
    gone_on = {t.continues for t in known.values() if t.continues is not None}
    lines: dict[int, _Line | None] = {}
    found: dict[int, tuple[float, float]] = {}
    for trial in [t for t in stopped if t.id not in gone_on][-_MOST_STOPPED:]:
        curve = curve_of(trial, goal.metric, known)
        if curve:
            done = steps_done(curve)
            if done not in lines:
                lines[done] = _line(curves, finals, done)
            line = lines[done]
            if line is not None:
                found[trial.id] = line.at(curve[max(curve)])
    return found


class _Line:
    """Final values over those at one step."""

    def __init__(self, early: Vector, final: Vector) -> None:
        count = len(early)
        apart = early[:, None] - early[None, :]
        rises = (final[:, None] - final[None, :])[apart > 0] / apart[apart > 0]
        self._slope = max(0.0, float(np.median(rises))) if rises.size else 0.0
        self._height = float(np.median(final - self._slope * early))
        left = final - self._slope * early - self._height
        self._centre = float(early.mean())
        self._width = float(((early - self._centre) ** 2).sum())
        self._count = count
        spread = float(final.std())
        self._sd = max(float(np.sqrt((left**2).sum() / (count - 2))), spread / count, 1e-12)

    def at(self, value: float) -> tuple[float, float]:
        """Give the final value to be expected behind `value`, and its SD."""
        away = (value - self._centre) ** 2 / self._width if self._width > 0 else 0.0
        return self._height + self._slope * value, self._sd * float(np.sqrt(1 + 1 / self._count + away))


def _line(curves: list[Curve], finals: list[float], steps: int) -> _Line | None:
    pairs = [
        (early, end) for curve, end in zip(curves, finals, strict=True) if (early := value_at(curve, steps)) is not None
    ]
    if len(pairs) < _LEAST_CURVES:
        return None
    early, final = np.array(pairs, dtype=np.float64).T
    return _Line(early, final)
