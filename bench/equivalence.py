"""Whether two ways of training give the same final figures: two one-sided tests (Schuirmann 1987) of their means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Equivalence:
    """The difference of two means, and the interval that must lie within the margin."""

    difference: float
    low: float
    high: float
    margin: float

    @property
    def holds(self) -> bool:
        """Whether the means differ by less than the margin, at the level of 5 %."""
        return -self.margin < self.low and self.high < self.margin

    def __str__(self) -> str:
        word = "equivalent" if self.holds else "NOT SHOWN to be equivalent"
        return (
            f"{self.difference:+.4f} (90 % interval {self.low:+.4f} to {self.high:+.4f}, margin {self.margin}): {word}"
        )


def compare(one: Sequence[float], other: Sequence[float], margin: float) -> Equivalence:
    """Compare figures of the same configurations in the same order, each pair with seeds of its own."""
    differences = np.asarray(one) - np.asarray(other)
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))
    reach = stats.t.ppf(0.95, len(differences) - 1) * error
    return Equivalence(float(mean), float(mean - reach), float(mean + reach), margin)
