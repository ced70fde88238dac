"""What a surrogate believes of the space, and how much a row is worth trying under it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from agentic_hpt.strategies.acquisition import log_expected_improvement, log_volume_gain
from agentic_hpt.strategies.chance import Chance
from agentic_hpt.strategies.gaussian import GaussianProcess, Mask
from agentic_hpt.strategies.observed import Observed
from agentic_hpt.strategies.scales import How, Scale
from agentic_hpt.strategies.transfer import Informed, Prior

Floats = NDArray[np.float64]
Process = GaussianProcess | Informed

_FAILED_LOSS, _FAILED_SD = 1.0, 0.5
_NOISY = 1e-3
"""From this noise variance on (of outcomes with variance 1) the best observed value may be luck."""

_MAY_COUNT = math.log(0.5)
"""A running trial that more likely breaks a constraint, or fails, is not believed to become the incumbent."""


@dataclass(frozen=True)
class Belief:
    """Processes for the objectives, for the constraints, and for whether a trial ends with a value at all."""

    objectives: tuple[Process, ...]
    scales: tuple[Scale, ...]
    best: float | None
    """Of one objective: the incumbent's on the process's scale, or what a running trial is expected to better it to;
    `None` while nothing feasible is known."""
    front: Floats
    """Of several objectives: what is expected at the feasible rows and at the running ones, shape (n, m)."""
    reference: Floats
    limits: tuple[tuple[GaussianProcess, float], ...]
    """For each constraint its process, and where 0 lies on its scale."""
    chance: Chance | None

    @classmethod
    def of(
        cls,
        seen: Observed,
        categorical: Mask,
        prior: Prior | None = None,
        references: tuple[float | None, ...] = (),
        how: How = "power",
    ) -> Belief:
        """Fit to two trials or more; `references` are the objectives' worst losses that count."""
        scales = tuple(Scale.of(column, how) for column in seen.losses.T)
        several = len(scales) > 1
        objectives: list[Process] = []
        for column, scale in zip(seen.losses.T, scales, strict=True):
            told, extra = scale.told(column), scale.told_variance(column, seen.sds)
            if len(seen.failed):
                told = np.concatenate([told, np.full(len(seen.failed), _FAILED_LOSS)])
                extra = np.concatenate([extra, np.full(len(seen.failed), _FAILED_SD**2)])
            process = GaussianProcess.fit(np.concatenate([seen.rows, seen.failed]), told, categorical, extra)
            objectives.append(prior.inform(process) if prior is not None and not several else process)
        feasible = seen.feasible
        best, front = None, np.zeros((0, len(scales)))
        if feasible.any():
            expected = np.stack([process.predict(seen.rows[feasible])[0] for process in objectives], axis=1)
            measured = np.stack([s.told(c[feasible]) for s, c in zip(scales, seen.losses.T, strict=True)], axis=1)
            noisy = np.array([own_process(process).noise > _NOISY for process in objectives])
            front = np.where(noisy, expected, measured)
            best = float(front[:, 0].min())
        worst = [
            float(scale.told(np.array([r]))[0]) if r is not None else float(scale.told(column).max()) + 0.1
            for scale, column, r in zip(scales, seen.losses.T, references or (None,) * len(scales), strict=True)
        ]
        return cls(
            tuple(objectives),
            scales,
            best,
            front,
            np.array(worst),
            _limits(seen, categorical),
            Chance.of(seen, categorical),
        ).believing(seen.running)

    def worth(self, rows: Floats) -> Floats:
        """Give the logarithm of what a row is expected to gain, times the chance that it counts."""
        chance = self.log_chance(rows)
        if self.best is None:
            return chance
        predicted = [process.predict(rows) for process in self.objectives]
        if len(predicted) == 1:
            return log_expected_improvement(*predicted[0], self.best) + chance
        means, sds = (np.stack(part, axis=1) for part in zip(*predicted, strict=True))
        return log_volume_gain(means, sds, self.front, self.reference) + chance

    def believing(self, rows: Floats) -> Belief:
        """Give it as if `rows` ran too, and will end at what is expected of them.

        So they may become the incumbent, or part of the front: what a running trial is expected to gain isn't to be
        gained once more beside it (Ginsbourger, Le Riche, Carraro 2010, kriging believer).
        """
        if not len(rows):
            return self
        best, front = self.best, self.front
        expected = np.stack([process.predict(rows)[0] for process in self.objectives], axis=1)
        expected = expected[self.log_chance(rows) > _MAY_COUNT]
        if best is not None and len(expected):
            best, front = min(best, float(expected[:, 0].min())), np.concatenate([front, expected])
        limits = tuple((process.believing(rows), zero) for process, zero in self.limits)
        objectives = tuple(process.believing(rows) for process in self.objectives)
        return replace(self, objectives=objectives, limits=limits, best=best, front=front)

    def log_chance(self, rows: Floats) -> Floats:
        """Give the logarithm of the chance that a row meets the constraints and ends with a value."""
        found = np.zeros(len(rows))
        for process, zero in self.limits:
            mean, sd = process.predict(rows)
            found += log_ndtr((zero - mean) / sd)
        if self.chance is not None:
            found += self.chance.weight(rows)
        return found


def own_process(process: Process) -> GaussianProcess:
    """Give a study's own process, without what earlier studies know."""
    return process.own if isinstance(process, Informed) else process


def _limits(seen: Observed, categorical: Mask) -> tuple[tuple[GaussianProcess, float], ...]:
    found = []
    for column in seen.violations.T:
        known = np.isfinite(column)
        if known.sum() < 2:
            continue
        values = column[known]
        reach = np.quantile(np.abs(values), 0.9) or 1.0
        values = np.clip(values, -3 * reach, 3 * reach)  # only where it crosses 0 matters
        sd = float(values.std()) or 1.0
        process = GaussianProcess.fit(seen.rows[known], (values - values.mean()) / sd, categorical)
        found.append((process, float(-values.mean() / sd)))
    return tuple(found)
