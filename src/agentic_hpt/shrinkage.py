"""What a few noisy runs say of a configuration's mean: plain numbers in, plain numbers out.

Of many configurations that ran once the best looking one is the luckiest, too. Its value is therefore drawn towards
what the others say, the less the more often it ran (the empirical Bayes of Efron and Morris 1973): a configuration with
n runs keeps the weight n * spread / (n * spread + noise) of its own mean. Without noise nothing is drawn anywhere.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Pooled", "Prior", "pooled", "student"]

_LEAST_SPREAD = 0.1
"""The true values spread by at least so many times the noise's variance: else every run would be for nothing."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """The SD of one configuration's runs, pooled over several, and the runs beyond each one's first."""

    sd: float
    freedom: int

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Give the interval that holds the true SD with this probability, if the runs are normal."""
        most, least = (_chi_square(0.5 + sign * level / 2, self.freedom) for sign in (1, -1))
        return self.sd * math.sqrt(self.freedom / most), self.sd * math.sqrt(self.freedom / least)


def pooled(groups: Iterable[Sequence[float]]) -> Pooled | None:
    """Pool the SD within groups of runs; `None` when no group has two."""
    # Sorted, so that the order in which the runs came plays no part.
    repeated = [sorted(values) for values in groups if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if not freedom:
        return None
    squares = math.fsum((len(values) - 1) * statistics.variance(values) for values in repeated)
    return Pooled(math.sqrt(squares / freedom), freedom)


@dataclass(frozen=True, slots=True)
class Prior:
    """What the configurations of a study say of one of them before its own runs do; less is better."""

    mean: float
    spread: float
    """The variance of the true values."""
    noise: float
    """The variance of one run about its configuration's true value."""

    @classmethod
    def of(cls, losses: Sequence[float], sd: float) -> Prior:
        """Learn it from a loss a configuration.

        The better half tells how far values spread about the median: how bad bad configurations are is no matter here.
        """
        middle = statistics.median(losses)
        better = [loss for loss in losses if loss <= middle]
        whole = math.fsum((loss - middle) ** 2 for loss in better) / len(better)
        return cls(middle, max(whole - sd**2, _LEAST_SPREAD * sd**2), sd**2)

    def estimate(self, mean: float, runs: int) -> float:
        """Give the estimated mean of a configuration whose runs have this one."""
        return self.mean + self._weight(runs) * (mean - self.mean)

    def doubt(self, runs: int) -> float:
        """Give the SD of that estimate."""
        return math.sqrt(self._weight(runs) * self.noise / runs)

    def _weight(self, runs: int) -> float:
        return runs * self.spread / (runs * self.spread + self.noise) if self.noise else 1.0


def student(freedom: float, level: float = 0.95) -> float:
    """Give how many standard errors an interval of Student's t reaches to either side; one part in 100 exact."""
    part = 0.5 + level / 2
    if freedom == 1:
        return math.tan(math.pi * (part - 0.5))
    if freedom == 2:
        return (2 * part - 1) * math.sqrt(2 / (4 * part * (1 - part)))
    z = statistics.NormalDist().inv_cdf(part)
    # Cornish and Fisher's expansion in 1 / freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _chi_square(part: float, freedom: int) -> float:
    """Give the quantile of the chi-square distribution below which this part lies."""
    if freedom == 1:
        return statistics.NormalDist().inv_cdf(0.5 + part / 2) ** 2
    if freedom == 2:
        return -2 * math.log(1 - part)
    step = 2 / (9 * freedom)  # Wilson and Hilferty 1931
    return freedom * (1 - step + statistics.NormalDist().inv_cdf(part) * math.sqrt(step)) ** 3
