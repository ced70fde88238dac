"""Asynchronous successive halving: at each rung only the best go on, and nobody waits for the others."""

from __future__ import annotations

from agentic_hpt.fidelity import Halving, Rung, ends_at, rung_of, rung_steps, steps_done
from agentic_hpt.records import Goal, Report


class AsyncHalving:
    """ASHA (Li et al. 2020, MLSys), on what trials report; a rung lets no more than its share go on, as in Hyper-Tune.

    A trial that comes to a rung stops unless it is the best that came there so far, or among the best 1 / eta while
    fewer than these have gone on (the delay of Li et al. 2022, VLDB). Who was stopped and belongs to the best later
    may go on then: that is planned, see `strategies.promoting`.
    """

    def __init__(self, goal: Goal, halving: Halving) -> None:
        self._goal = goal
        self._halving = halving
        self._curves: dict[int, dict[int, float]] = {}
        self._lengths: dict[int, int] = {}
        """Of the complete trials."""
        self._rungs: dict[int, tuple[dict[int, float], set[int]]] = {}
        """What trials had at each rung, lowest first, and who went on."""
        self._judged: dict[int, int] = {}
        """For each trial the highest rung it was judged at: it is not judged there again, when it goes on say."""
        self._unjudged: set[int] = set()
        """Those that came to a rung and are about to be judged: of these, too, the best get the room."""

    def hear(self, trial: int, report: Report) -> None:
        """Take a report in: at a rung it is what the trial came there with. Nothing changes when it is heard again."""
        value = report.metrics.get(self._goal.metric)
        if value is None:
            return
        curve = self._curves.setdefault(trial, {})
        further = report.step > max(curve, default=-1)
        curve[report.step] = value
        done = steps_done(curve, report.step)
        for steps, (values, passed) in self._rungs.items():
            if done >= steps:
                if trial in values and further:
                    passed.add(trial)
                if trial not in values:
                    values[trial] = value
                    self._unjudged.add(trial)

    def should_stop(self, trial: int, report: Report) -> bool:
        """Take a report in, and say whether the trial came to a rung where it does not go on."""
        if self._goal.metric not in report.metrics:
            return False
        self.hear(trial, report)
        self._unjudged.discard(trial)
        done = steps_done(self._curves[trial], report.step)
        reached = max((steps for steps in self._rungs if done >= steps), default=0)
        if reached <= self._judged.get(trial, 0):
            return False
        self._judged[trial] = reached
        values, passed = self._rungs[reached]
        ahead = {t for t in self._unjudged if t in values and self._goal.better(values[t], values[trial])}
        goes_on = Rung(reached, values, frozenset(passed | ahead)).goes_on(trial, self._goal, self._halving.eta)
        if goes_on:
            passed.add(trial)
        return not goes_on

    def ended(self, trial: int, complete: bool, allowed: bool = True) -> None:
        """Learn that a trial ended: the first complete ones say where the rungs are.

        One that turned out not to be `allowed` takes no place at any rung: it can't be the best one.
        One that ended at a rung did not go on from there, whatever was said: a resumed study is told of trials in the
        order of their numbers, which need not be that in which they came.
        """
        self._unjudged.discard(trial)
        curve = self._curves.get(trial)
        if not curve:
            return
        if not complete:
            for steps, (_, passed) in self._rungs.items():
                if trial in passed and ends_at(curve, steps):
                    passed.discard(trial)
            return
        self._lengths[trial] = steps_done(curve)
        if not allowed:
            del self._curves[trial]
            for values, passed in self._rungs.values():
                values.pop(trial, None)
                passed.discard(trial)
        found = rung_steps([self._lengths[t] for t in sorted(self._lengths)], self._halving)
        if found != tuple(self._rungs):
            rungs = (rung_of(self._curves, steps) for steps in found)
            self._rungs = {rung.steps: (dict(rung.values), set(rung.passed)) for rung in rungs}
