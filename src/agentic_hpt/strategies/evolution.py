"""The CMA-ES arm: an evolution strategy that starts at the incumbent and replays its own trials.

Hansen's CMA-ES (2016, arXiv:1604.00772) as the package `cmaes` has it. For numbers without conditions only.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agentic_hpt.records import Goal, Trial
from agentic_hpt.strategies.encoding import Encoding
from agentic_hpt.strategies.history import of_arm

Floats = NDArray[np.float64]

_STEP = 0.2
_COUNT = 64
_STRIDE = 100
"""The newest 100 to 200 of its own trials are replayed; at every hundredth it starts anew, from what was best then."""


def evolved(encoding: Encoding, goal: Goal, trials: Sequence[Trial], seed: int, count: int = 1) -> Floats | None:
    """Give rows drawn from the distribution as it is after the arm's own trials; `None` before anything has a value.

    They are enough for `count` trials.
    It starts at what was best before the arm's first trial, and anew when it has converged. A trial without a value
    counts as the worst of its generation; one with a value that limits have since taken from a list, as none.
    """
    own = [t for t in trials if of_arm(t, "cmaes") and t.finished]
    own = own[max(0, len(own) // _STRIDE - 1) * _STRIDE :]
    center = _incumbent(encoding, goal, [t for t in trials if not own or t.id < own[0].id])
    if center is None:
        return None
    optimizer = _started(encoding, center, seed)
    generation: list[tuple[Floats, float]] = []
    best, best_loss = center, np.inf
    for trial in own:
        row, loss = encoding.rows([trial.params])[0], _loss(goal, trial)
        if np.isnan(row).any():
            continue
        if loss < best_loss:
            best, best_loss = row, loss
        generation.append((row, loss))
        if len(generation) == optimizer.population_size:
            known = [value for _, value in generation if np.isfinite(value)]
            worst = max(known, default=0.0)
            optimizer.tell([(point, value if np.isfinite(value) else worst) for point, value in generation])
            generation = []
            if optimizer.should_stop():
                optimizer = _started(encoding, best, seed + len(own))
    optimizer._rng = np.random.RandomState(seed)
    return encoding.snapped(np.array([optimizer.ask() for _ in range(max(_COUNT, 2 * count))]))


def _started(encoding: Encoding, center: Floats, seed: int):  # type: ignore[no-untyped-def]
    from cmaes import CMA

    width = len(encoding.names)
    bounds = np.array([[0.0, 1.0]] * width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CMA(np.clip(center, 0.0, 1.0), _STEP, bounds=bounds, seed=seed % 2**31)


def _incumbent(encoding: Encoding, goal: Goal, trials: Sequence[Trial]) -> Floats | None:
    best = goal.best(trials)
    if best is None:
        return None
    rows = encoding.rows([best.params])
    found: Floats = np.where(np.isnan(rows), encoding.snapped(rows), rows)[0]
    return found


def _loss(goal: Goal, trial: Trial) -> float:
    losses = goal.losses(trial)
    return losses[0] if losses is not None and goal.feasible(trial) else np.inf
