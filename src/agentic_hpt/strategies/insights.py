"""Which parameters matter, and which interact, by a surrogate of the trials; and how unsure that is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from agentic_hpt.records import Goal, Insights, Interaction, ParamValue, Trial, TrialState
from agentic_hpt.space import SearchSpace
from agentic_hpt.strategies.acquisition import quasi_random
from agentic_hpt.strategies.anova import basis_of, variances
from agentic_hpt.strategies.curves import estimated_final
from agentic_hpt.strategies.encoding import Encoding
from agentic_hpt.strategies.gaussian import GaussianProcess
from agentic_hpt.strategies.scales import Scale
from agentic_hpt.strategies.threads import one_thread

Floats = NDArray[np.float64]

MOST = 128
"""So many trials the surrogate is fitted to, lest its cost grow with the study."""
_LEAST = 10
_LEAST_A_PARAMETER = 3
_DESIGN = 256
_DRAWS = 48
_MOST_PARAMETERS = 15
"""So many parameters, those along which the surrogate varies most, are looked at in pairs."""
_MOST_INTERACTIONS = 10
_SHARE = 0.05
"""A pair interacts if it surely explains so much of the variance that its parameters don't."""
_POOR, _POOR_SD = 1.0, 0.5
"""What a trial without a value counts as, in standard deviations above the mean loss."""


def insights_of(space: SearchSpace, goal: Goal, trials: Sequence[Trial]) -> Insights:
    """Say which parameters matter and which interact; empty while there are too few trials.

    Too few are less than 10 complete ones, or 3 a parameter. It rests on at most 128 trials: the newest, and a spread
    of those before, so that its cost stays the same however long the history. With several objectives what is looked
    at is the volume that a trial covers. A trial that failed counts as a poor one. Same trials, same answer.
    """
    goal, trials = goal.merged(trials)
    ours = sorted((t for t in trials if _tells(goal, t)), key=lambda t: t.id)
    enough = max(_LEAST, _LEAST_A_PARAMETER * len(space))
    if len(list(islice((t for t in ours if goal.value(t) is not None), enough))) < enough:
        return Insights()
    ours = [t for t in _spread(ours, MOST) if space.contains(t.params)]
    values = [goal.value(t) for t in ours]
    known = np.array([value is not None for value in values])
    if known.sum() < min(enough, MOST // 2):
        return Insights()
    losses = np.array([goal.objectives[0].loss(value) for value in values if value is not None])
    scale = Scale.of(losses)
    told, extra = np.full(len(ours), _POOR), np.full(len(ours), _POOR_SD**2)
    told[known], extra[known] = scale.told(losses), 0.0
    finals = estimated_final(trials, goal)
    for place, trial in enumerate(ours):
        if not known[place] and trial.id in finals:
            value, sd = finals[trial.id]
            loss = np.array([goal.objectives[0].loss(value)])
            told[place] = scale.told(loss)[0]
            extra[place] = scale.told_variance(loss, np.array([sd]))[0]
    if np.ptp(told) <= 0:
        return Insights({}, (), len(ours))
    encoding = Encoding(space)
    rows = encoding.rows([t.params for t in ours])
    varying = _varying(encoding, rows)
    encoding = Encoding(space, _held(space, ours, varying))
    with one_thread():
        process = GaussianProcess.fit(rows, told, encoding.categorical, extra)
        means, sds, interactions = _shares(encoding, process, varying, scale, (losses.min(), losses.max()))
    total = sum(means.values())
    if not total > 0:
        return Insights({}, (), len(ours))
    ranked = sorted(space, key=lambda name: -means.get(name, 0.0))
    return Insights(
        {name: means.get(name, 0.0) / total for name in ranked},
        interactions,
        len(ours),
        importance_sd={name: sd / total for name, sd in sds.items()},
    )


def _shares(
    encoding: Encoding,
    process: GaussianProcess,
    varying: NDArray[np.intp],
    scale: Scale,
    ends: tuple[float, float],
) -> tuple[dict[str, float], dict[str, float], tuple[Interaction, ...]]:
    """Give each parameter's share of the variance, the SDs of these, and the pairs that surely interact.

    What a pair explains beyond its two parameters must hold on the surrogate's scale and on the metric's own: an
    interaction that goes away with the scale is none. Noise is part of the variance that they are shares of, and what
    it explains by chance of the doubt: an effect with four degrees of freedom has 4 / n of it.
    """
    names = encoding.names
    weights = process.weights[varying]
    free = np.sort(varying[np.argsort(-weights, kind="stable")[:_MOST_PARAMETERS]])
    design = encoding.snapped(quasi_random(encoding, 0, _DESIGN, 0))
    basis = basis_of(encoding, design, free)
    if not basis:
        return {}, {}, ()
    drawn = process.draws(design, _DRAWS, np.random.default_rng(0)).T
    untold = np.clip(scale.untold(drawn), *ends)
    own = np.maximum(drawn.var(axis=0), 1e-12)
    whole = own + process.noise
    plain_whole = np.maximum(untold.var(axis=0), 1e-300) * whole / own
    chance = 4 / len(process.rows) * float((process.noise / whole).mean())
    (alone, pairs), (_, plain) = variances(drawn, basis), variances(untold, basis)
    importance = {names[j]: share / whole for j, share in alone.items()}
    found = []
    for (a, b), share in pairs.items():
        importance[names[a]] = importance[names[a]] + share / whole / 2
        importance[names[b]] = importance[names[b]] + share / whole / 2
        strengths = min((share / whole, plain[a, b] / plain_whole), key=lambda s: float(s.mean() - 2 * s.std()))
        strength, sd = float(strengths.mean()), math.hypot(float(strengths.std()), chance)
        if strength - 2 * sd > _SHARE:
            found.append(Interaction(names[a], names[b], min(1.0, strength), sd))
    sds = {name: math.hypot(float(each.std()), chance) for name, each in importance.items()}
    means = {name: max(0.0, float(each.mean())) for name, each in importance.items()}
    return means, sds, tuple(sorted(found, key=lambda i: -i.strength)[:_MOST_INTERACTIONS])


def _varying(encoding: Encoding, rows: Floats) -> NDArray[np.intp]:
    """Give the columns in which trials that have the parameter differ: of the others nothing is known.

    A choice that one trial only took says nothing either.
    """
    found = []
    for j, column in enumerate(rows.T):
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        found += [j] if len(values[counts > 1] if encoding.levels[j] else values) > 1 else []
    return np.array(found, dtype=np.intp)


def _held(space: SearchSpace, trials: Sequence[Trial], varying: NDArray[np.intp]) -> dict[str, ParamValue]:
    """Give the value that most trials have of each parameter in which they don't differ."""
    found: dict[str, ParamValue] = {}
    for j, name in enumerate(space.names):
        given = Counter(trial.params[name] for trial in trials if name in trial.params)
        if j not in varying and given:
            found[name] = given.most_common(1)[0][0]
    return found


def _tells(goal: Goal, trial: Trial) -> bool:
    """Say whether a trial tells of the space: it has a value, or it was too poor to get one."""
    if trial.state is TrialState.FAILED:
        return not (trial.failure and trial.failure.infrastructure)
    return trial.state is TrialState.PRUNED or goal.value(trial) is not None


def _spread(trials: Sequence[Trial], most: int) -> list[Trial]:
    if len(trials) <= most:
        return list(trials)
    half = most // 2
    older = trials[:-half]
    return [*(older[i * len(older) // half] for i in range(half)), *trials[-half:]]
