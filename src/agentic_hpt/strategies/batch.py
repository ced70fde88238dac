"""Which rows to try together: each is the best one once those before it are believed to end as expected."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from agentic_hpt.strategies.acquisition import log_expected_improvement
from agentic_hpt.strategies.belief import Belief, own_process
from agentic_hpt.strategies.gaussian import GaussianProcess

Floats = NDArray[np.float64]


class Pool:
    """Rows to choose from, and what each is still worth.

    A row that is chosen is believed to end at what is expected of it (kriging believer), as running trials are: that
    moves no expectation, but leaves less to learn near it, and it may be what the next ones have to better. So nothing
    is fitted anew, and a choice takes a part of a millisecond.
    """

    def __init__(self, belief: Belief, rows: Floats, worth: Floats) -> None:
        """`worth` is the rows' before anything is chosen; nothing is ever worth more than that."""
        self._worth = worth.copy()
        self._parts = [_Part(process, rows) for process in map(own_process, belief.objectives)]
        self._exact = belief.best is not None and len(belief.objectives) == 1
        if self._exact:
            self._mean = belief.objectives[0].predict(rows)[0]
            self._best = belief.best or 0.0
            self._rest = worth - log_expected_improvement(self._mean, self._parts[0].sd, self._best)

    def choose(self, count: int) -> list[int]:
        """Give the places of up to `count` rows, the most promising first."""
        found: list[int] = []
        while len(found) < count:
            place = int(np.argmax(self._worth))
            if not math.isfinite(self._worth[place]):
                break
            found.append(place)
            self._believe(place)
            self._worth[found] = -np.inf
        return found

    def _believe(self, place: int) -> None:
        before = [part.sd for part in self._parts]
        for part in self._parts:
            part.believe(place)
        if self._exact:
            self._best = min(self._best, float(self._mean[place]))
            self._worth = self._rest + log_expected_improvement(self._mean, self._parts[0].sd, self._best)
        else:  # several objectives, or nothing feasible yet: what is left to learn stands for what is left to gain
            self._worth += sum(np.log(part.sd / was) for part, was in zip(self._parts, before, strict=True))


class _Part:
    """How unsure one process is of the rows."""

    def __init__(self, process: GaussianProcess, rows: Floats) -> None:
        self._process = process
        self._rows = rows
        self._half, self._variance = process.explaining(rows)
        self._learned: list[Floats] = []

    @property
    def sd(self) -> Floats:
        return np.asarray(np.sqrt(self._variance))

    def believe(self, place: int) -> None:
        """Learn that one row is observed."""
        left = self._process.covariance(self._rows[[place]], self._rows)[0] - self._half[:, place] @ self._half
        for learned in self._learned:
            left -= learned[place] * learned
        learned = left / math.sqrt(self._variance[place] + self._process.noise)
        self._learned.append(learned)
        self._variance = np.maximum(self._variance - learned * learned, 1e-12)
