"""Losses on a surrogate's scale: rising with the loss, near to normal, mean 0 and variance 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

Floats = NDArray[np.float64]
How = Literal["power", "log"]

_MOST_POWER = 6.0
_BELOW = 0.05
"""How far below the best loss the logarithm's zero lies, as a share of the median's distance from it."""


@dataclass(frozen=True)
class Scale:
    """A rising map from losses to a surrogate's scale.

    `power` is Yeo and Johnson's (2000), by maximum likelihood: losses far above the rest (a diverged training) are
    drawn in, as HEBO does it (Cowen-Rivers et al. 2022, arXiv:2012.03826). `log` takes the logarithm of the distance to
    a bit below the best: differences among the best are spread out, which suits a search that closes in on an optimum.
    """

    how: How
    middle: float
    spread: float
    power: float
    mean: float
    sd: float

    @classmethod
    def of(cls, losses: Floats, how: How = "power") -> Scale:
        """Fit the map to finite losses; where they are all alike it only shifts them."""
        low, middle, high = (float(q) for q in np.quantile(losses, (0.25, 0.5, 0.75)))
        spread = high - low or float(np.std(losses))  # by quartiles: one diverged training must not set the scale
        if how == "log":
            middle, spread = float(np.min(losses)), float(np.median(losses) - np.min(losses))
        if not spread > 1e-12 * max(1.0, abs(middle)):
            return cls("power", float(np.mean(losses)), float(np.std(losses)) or 1.0, 1.0, 0.0, 1.0)
        power = 1.0
        if how == "power":
            power = _likeliest((losses - middle) / spread)
        unscaled = cls(how, middle, spread, power, 0.0, 1.0)
        bent = unscaled.told(losses)
        if not np.isfinite(bent).all() or not bent.std() > 0:
            return cls("power", float(np.mean(losses)), float(np.std(losses)) or 1.0, 1.0, 0.0, 1.0)
        return cls(how, middle, spread, power, float(bent.mean()), float(bent.std()))

    def told(self, losses: Floats) -> Floats:
        """Give losses on the surrogate's scale."""
        standard = (losses - self.middle) / self.spread
        bent = (
            _bent(standard, self.power) if self.how == "power" else np.log(np.maximum(standard, -0.9 * _BELOW) + _BELOW)
        )
        return (bent - self.mean) / self.sd

    def untold(self, values: Floats) -> Floats:
        """Give the losses that lie at these places of the surrogate's scale; what no loss could is brought near."""
        bent = values * self.sd + self.mean
        standard = np.exp(np.minimum(bent, 700.0)) - _BELOW if self.how == "log" else _unbent(bent, self.power)
        return np.asarray(standard * self.spread + self.middle)

    def told_variance(self, losses: Floats, sds: Floats) -> Floats:
        """Give the variance on the surrogate's scale of losses that are known up to a standard deviation."""
        half: Floats = (self.told(losses + sds) - self.told(losses - sds)) / 2
        return half * half


def _likeliest(values: Floats) -> float:
    """Give the power that makes the values most nearly normal."""
    slope = float(np.sum(np.sign(values) * np.log1p(np.abs(values))))

    def unlikely(power: float) -> float:
        variance = float(np.var(_bent(values, power)))
        return len(values) / 2 * math.log(variance) - (power - 1) * slope if 0 < variance < math.inf else math.inf

    return float(minimize_scalar(unlikely, bounds=(-_MOST_POWER, _MOST_POWER), method="bounded").x)


def _bent(values: Floats, power: float) -> Floats:
    found = np.empty_like(values)
    above = values >= 0
    found[above] = np.log1p(values[above]) if abs(power) < 1e-9 else np.expm1(power * np.log1p(values[above])) / power
    rest, below = 2 - power, -values[~above]
    found[~above] = -np.log1p(below) if abs(rest) < 1e-9 else -np.expm1(rest * np.log1p(below)) / rest
    return found


def _unbent(values: Floats, power: float) -> Floats:
    found = np.empty_like(values)
    above, rest = values >= 0, 2 - power
    high, low = values[above], -values[~above]
    found[above] = np.expm1(high) if abs(power) < 1e-9 else np.expm1(np.log1p(_over(power * high)) / power)
    found[~above] = -np.expm1(low) if abs(rest) < 1e-9 else -np.expm1(np.log1p(_over(rest * low)) / rest)
    return found


def _over(values: Floats) -> Floats:
    """Keep what a negative power brings to its limit a bit above it."""
    return np.maximum(values, -1 + 1e-9)
