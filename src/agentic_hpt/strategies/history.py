"""Which trials of a long history samplers look at, so that a proposal's time stays the same however long it is."""

from __future__ import annotations

from collections.abc import Sequence

from agentic_hpt.records import Arm, Goal, Trial

MOST = 500


def of_arm(trial: Trial, arm: Arm) -> bool:
    """Say whether an arm's own worker ran a trial; one parameter's worker has the parameter's name, maybe the same."""
    return trial.worker == arm and trial.kind != "per_parameter"


class Window:
    """The newest trials, the best of the older ones, and a spread of the rest; all, while there are 500 or fewer.

    What is older is looked through again every 125 trials only. Same trials, same window, whatever was asked before.
    """

    def __init__(self, goal: Goal, most: int = MOST) -> None:
        self._goal = goal
        self._part = max(1, most // 4)
        self._older: list[Trial] = []
        self._kept: list[Trial] = []

    def of(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """Give the window of trials that are in order of their ids, in that order."""
        if len(trials) <= 4 * self._part:
            return trials
        border = (len(trials) // self._part - 1) * self._part
        older = list(trials[:border])
        if older != self._older:  # quick, as mostly the same objects are compared
            self._older, self._kept = older, self._chosen(older)
        return [*self._kept, *trials[border:]]

    def _chosen(self, older: Sequence[Trial]) -> list[Trial]:
        best = {t.id for t in self._goal.ranked(older)[: self._part]}
        best |= {t.id for t in older if not t.finished}
        rest = [t for t in older if t.id not in best]
        best |= {rest[i * len(rest) // self._part].id for i in range(self._part)} if rest else set()
        return [t for t in older if t.id in best]
