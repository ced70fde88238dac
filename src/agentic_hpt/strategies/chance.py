"""How likely a configuration is to end with a value: learned from where trials failed by their own fault."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from agentic_hpt.strategies.gaussian import GaussianProcess, Mask
from agentic_hpt.strategies.observed import Observed

Floats = NDArray[np.float64]

ENOUGH = 0.8
"""What is less likely than this to end with a value is tried only where there is nothing more likely."""
_STEEP = 40.0
_BLUR = 0.2


@dataclass(frozen=True)
class Chance:
    """A process over -1 for what gave a value and 1 for what failed; far from all trials it expects their mean."""

    process: GaussianProcess
    mean: float

    @classmethod
    def of(cls, seen: Observed, categorical: Mask) -> Chance | None:
        """Fit it; nothing while nothing failed."""
        if not len(seen.failed):
            return None
        labels = np.concatenate([np.full(len(seen.rows), -1.0), np.ones(len(seen.failed))])
        blurred = np.full(len(labels), _BLUR)  # else the border's sharpness makes all else uncertain
        mean = float(labels.mean())
        rows = np.concatenate([seen.rows, seen.failed])
        return cls(GaussianProcess.fit(rows, labels - mean, categorical, blurred), mean)

    def log(self, rows: Floats) -> Floats:
        """Give the logarithm of the chance that each row ends with a value."""
        mean, sd = self.process.predict(rows)
        return np.asarray(log_ndtr(-(self.mean + mean) / np.sqrt(sd * sd + self.process.noise)))

    def weight(self, rows: Floats) -> Floats:
        """Give what the chance adds to the logarithm of a row's worth.

        It is the chance's own logarithm, and below `ENOUGH` far less: where the best lies at the border of what fails,
        expected gains alone would have half of all trials fail there.
        """
        log = self.log(rows)
        return np.asarray(log - _STEEP * np.maximum(0.0, ENOUGH - np.exp(log)))
