"""The trials as a surrogate sees them: rows, losses, what ran badly, what runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentic_hpt.records import Goal, Trial, TrialState
from agentic_hpt.strategies.encoding import Encoding

Floats = NDArray[np.float64]

MOST = 160
"""So many trials are looked at: with more, a proposal's time would grow with the study."""


@dataclass(frozen=True)
class Observed:
    """What ended with a value, or is expected to have had one: n trials, m objectives, c constraints."""

    rows: Floats
    """Shape (n, parameters)."""
    losses: Floats
    """Shape (n, m), to be minimised."""
    sds: Floats
    """Shape (n): how unsure the first loss is; 0 for what was measured."""
    violations: Floats
    """Shape (n, c), at most 0 where satisfied; nan where unknown."""
    failed: Floats
    """Rows that gave no value by their own fault."""
    running: Floats
    """Rows under way."""

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Which of the n may be the best one."""
        known: NDArray[np.bool_] = (self.violations <= 0).all(axis=1) & (self.sds == 0)
        return known

    def chosen(self, which: NDArray[np.intp]) -> Observed:
        """Give it with only these of the n."""
        rows, losses, sds, violations = (p[which] for p in (self.rows, self.losses, self.sds, self.violations))
        return Observed(rows, losses, sds, violations, self.failed, self.running)


def observed(
    encoding: Encoding,
    goal: Goal,
    trials: Sequence[Trial],
    finals: Mapping[int, tuple[float, float]],
    most: int = MOST,
) -> Observed:
    """Give what a surrogate is fitted to; `finals` are the expected values of stopped trials, with their SDs.

    Of more than `most` trials the best third is taken, the newest third, and of the rest an even spread.
    """
    width, several = len(goal.constraints), len(goal.objectives)
    kept: list[tuple[Trial, tuple[float, ...], float, tuple[float, ...]]] = []
    failed: list[Trial] = []
    unknown = (np.nan,) * width
    for trial in trials:
        losses = goal.losses(trial)
        if losses is not None:
            kept.append((trial, losses, 0.0, goal.violations(trial) or unknown))
        elif trial.id in finals and several == 1:
            value, sd = finals[trial.id]
            kept.append((trial, (goal.objectives[0].loss(value),), sd, unknown))
        elif trial.state is TrialState.FAILED and not (trial.failure and trial.failure.infrastructure):
            failed.append(trial)
    table = np.array([losses for _, losses, _, _ in kept], dtype=float).reshape(len(kept), several)
    which = _representative(table, most)
    chosen = [kept[i] for i in which]
    return Observed(
        encoding.rows([trial.params for trial, *_ in chosen]),
        table[which],
        np.array([sd for _, _, sd, _ in chosen]),
        np.array([found for *_, found in chosen], dtype=float).reshape(len(chosen), width),
        encoding.rows([t.params for t in failed[-most:]]),
        encoding.rows([t.params for t in trials if t.state is TrialState.RUNNING][-most:]),
    )


def _representative(losses: Floats, most: int) -> NDArray[np.intp]:
    """Choose at most `most` of the trials, in their order."""
    count = len(losses)
    if count <= most:
        return np.arange(count)
    third = most // 3
    ranks = np.argsort(np.argsort(losses, axis=0, kind="stable"), axis=0, kind="stable").min(axis=1)
    taken = np.zeros(count, dtype=bool)
    taken[np.argsort(ranks, kind="stable")[:third]] = True
    taken[-third:] = True
    rest = np.flatnonzero(~taken)
    room = most - int(taken.sum())
    taken[rest[np.arange(room) * len(rest) // room]] = True
    return np.flatnonzero(taken)
