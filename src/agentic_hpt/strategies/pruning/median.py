"""Early stopping of trials that look poor against earlier ones at the same step."""

from __future__ import annotations

import statistics

from agentic_hpt.records import Goal, Report

_STARTUP_TRIALS = 5
_WARMUP_SHARE = 0.25


class MedianPruner:
    """The median rule of Google Vizier (Golovin et al. 2017, section 3.2.2).

    A trial stops when its best value so far is worse than the median of what the complete trials had at this step.
    Nothing is pruned before five trials are complete, nor in the first quarter of a typical trial's steps.
    """

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._curves: dict[int, dict[int, float]] = {}
        self._complete: set[int] = set()
        self._medians: dict[int, float | None] = {}
        """By step, until one more trial is complete: of a batch, hundreds are judged by the same."""

    def hear(self, trial: int, report: Report) -> None:
        """Do nothing: trials are compared with complete ones only."""

    def should_stop(self, trial: int, report: Report) -> bool:
        """Take a report in, and say whether the trial looks too poor to go on."""
        value = report.metrics.get(self._goal.metric)
        if value is None:
            return False
        curve = self._curves.setdefault(trial, {})
        curve[report.step] = value
        if report.step not in self._medians:
            self._medians[report.step] = self._median(report.step)
        median = self._medians[report.step]
        best = max(curve.values()) if self._goal.direction == "maximize" else min(curve.values())
        return median is not None and self._goal.better(median, best)

    def ended(self, trial: int, complete: bool, allowed: bool = True) -> None:
        """Learn that a trial ended; only complete trials that are `allowed` become a measure for others."""
        if not (complete and allowed):
            self._curves.pop(trial, None)
        elif trial in self._curves:
            self._complete.add(trial)
            self._medians.clear()

    def _median(self, step: int) -> float | None:
        """Give the median of the complete trials at a step; `None` where nothing is pruned yet."""
        others = [self._curves[t] for t in self._complete if step in self._curves[t]]
        if len(others) < _STARTUP_TRIALS:
            return None
        if step < _WARMUP_SHARE * statistics.median(max(other) for other in others):
            return None
        return statistics.median(other[step] for other in others)


class NoPruner:
    """Stops nothing."""

    def hear(self, trial: int, report: Report) -> None:
        """Do nothing."""

    def should_stop(self, trial: int, report: Report) -> bool:
        """Say no."""
        return False

    def ended(self, trial: int, complete: bool, allowed: bool = True) -> None:
        """Learn nothing."""
