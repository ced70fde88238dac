"""Early stopping with several objectives: only what most others beat in everything is stopped."""

from __future__ import annotations

import statistics

from agentic_hpt.pareto import Point, dominates
from agentic_hpt.records import Goal, Report

_STARTUP_TRIALS = 5
_WARMUP_SHARE = 0.25


class FrontPruner:
    """The median rule for several objectives: a trial stops when half of the complete trials dominate it at this step.

    It stands there with the best that it has reported of each objective so far, so that what is good in one of them is
    not stopped for being poor in another, and nothing near the front ever is. A report that lacks an objective stops
    nothing: what is not known yet may be what the trial is good at. Nothing is stopped before five trials are complete,
    nor in the first quarter of a typical trial's steps.
    """

    def __init__(self, goal: Goal) -> None:
        self._objectives = goal.objectives
        self._curves: dict[int, dict[int, Point]] = {}
        self._complete: set[int] = set()

    def hear(self, trial: int, report: Report) -> None:
        """Do nothing: trials are compared with complete ones only."""

    def should_stop(self, trial: int, report: Report) -> bool:
        """Take a report in, and say whether the trial looks too poor to go on."""
        if any(o.metric not in report.metrics for o in self._objectives):
            return False
        curve = self._curves.setdefault(trial, {})
        curve[report.step] = tuple(o.loss(report.metrics[o.metric]) for o in self._objectives)
        others = [self._curves[t] for t in self._complete if report.step in self._curves[t]]
        if len(others) < _STARTUP_TRIALS:
            return False
        if report.step < _WARMUP_SHARE * statistics.median(max(other) for other in others):
            return False
        reached = tuple(map(min, zip(*curve.values(), strict=True)))
        return 2 * sum(dominates(other[report.step], reached) for other in others) >= len(others)

    def ended(self, trial: int, complete: bool, allowed: bool = True) -> None:
        """Learn that a trial ended; only complete trials that are `allowed` become a measure for others."""
        if not (complete and allowed):
            self._curves.pop(trial, None)
        elif trial in self._curves:
            self._complete.add(trial)
