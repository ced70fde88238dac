"""Which parameters matter, and which interact.

Importance is PED-ANOVA's (Watanabe 2023, arXiv:2304.10255; with conditions: arXiv:2601.20800), as Optuna has it. Optuna
has no measure of interactions, so there is one here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from agentic_hpt.errors import FailureKind
from agentic_hpt.records import Goal, Insights, Interaction, Trial, TrialState
from agentic_hpt.space import Choice, SearchSpace

_LEAST = 10
_LEAST_A_PARAMETER = 3
_LEAST_FOR_PAIRS = 30
_MOST = 1_000
_MOST_VALUES = 12_000
_MOST_FOR_PAIRS = 24
"""So many parameters, the most important ones, are looked at pairwise."""
_MOST_LEVELS = 8
_MOST_INTERACTIONS = 10
_TOP = 0.1
_LEAST_TOP = 5
_SHARE = 0.05
_SWEEPS = 50
_CHANCE = 0.01
_NOT_THE_REGIONS_FAULT = (FailureKind.LOST_WORKER, FailureKind.CANCELLED)

_Levels = dict[str, NDArray[np.intp]]


def insights_of(space: SearchSpace, goal: Goal, trials: Sequence[Trial]) -> Insights:
    """Say which parameters matter and which interact; empty while there are too few trials.

    Too few are less than 10 complete ones, or 3 a parameter. It rests on at most 1,000 trials (fewer where each has
    many parameters): the newest, and a spread of those before, so that its cost stays the same however long the
    history. Same trials, same answer.
    """
    most = min(_MOST, max(_MOST_VALUES // len(space), 2 * _LEAST_A_PARAMETER * len(space)))
    ours = _spread(sorted((t for t in trials if _tells(goal, t)), key=lambda t: t.id), most)
    ours = [t for t in ours if space.contains(t.params)]
    complete = [t for t in ours if goal.value(t) is not None]
    if len(complete) < max(_LEAST, _LEAST_A_PARAMETER * len(space)):
        return Insights()
    importance = _importance(space, goal, ours)
    return Insights(importance, _interactions(space, goal, complete, importance), len(ours))


def _tells(goal: Goal, trial: Trial) -> bool:
    """Say whether a trial tells of the space: it has a value, or it was too poor to get one."""
    if trial.state is TrialState.FAILED:
        return trial.failure not in _NOT_THE_REGIONS_FAULT
    return trial.state is TrialState.PRUNED or goal.value(trial) is not None


def _spread(trials: Sequence[Trial], most: int) -> list[Trial]:
    if len(trials) <= most:
        return list(trials)
    half = most // 2
    older = trials[:-half]
    return [*(older[i * len(older) // half] for i in range(half)), *trials[-half:]]


def _importance(space: SearchSpace, goal: Goal, trials: Sequence[Trial]) -> dict[str, float]:
    """Give each parameter's share in getting among the best tenth; nothing when no trial is better than another.

    Trials without a value take part as the worst: what fails is no way to the top either.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.trial import create_trial

    from agentic_hpt.strategies.view import distribution, to_internal

    trials = _without_loners(trials, space.names)
    losses = _losses(goal, trials)
    order = np.sort(losses)
    complete = sum(goal.value(t) is not None for t in trials)
    top = max(_LEAST_TOP, math.ceil(_TOP * complete))
    if top >= len(order) or order[top - 1] == order[-1]:
        top = int(np.sum(order < order[-1])) if len(order) else 0
    if not top:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {name: distribution(space[name]) for name in space}
    study = optuna.create_study(direction="minimize")
    study.add_trials(
        create_trial(
            value=float(loss),
            params={name: to_internal(space[name], value) for name, value in trial.params.items()},
            distributions={name: distributions[name] for name in trial.params},
        )
        for trial, loss in zip(trials, losses, strict=True)
    )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=(top - 0.5) / len(order))
    names = [name for name in space if any(name in t.params for t in trials)]
    found = evaluator.evaluate(study, params=names)
    total = math.fsum(found.values())
    if total <= 0:
        return {}
    shares = {name: found.get(name, 0.0) / total for name in space}
    return dict(sorted(shares.items(), key=lambda entry: -entry[1]))


def _without_loners(trials: Sequence[Trial], names: Sequence[str]) -> list[Trial]:
    """Leave out a trial that is the only one with a parameter, or the only one without: nothing compares with it."""
    left = list(trials)
    while True:
        alone = set()
        for name in names:
            having = [t.id for t in left if name in t.params]
            if len(having) == 1:
                alone.add(having[0])
            elif len(having) == len(left) - 1:
                alone.update(t.id for t in left if name not in t.params)
        if not alone:
            return left
        left = [t for t in left if t.id not in alone]


def _losses(goal: Goal, trials: Sequence[Trial]) -> NDArray[np.float64]:
    """Give the trials' ranks, 0 for the best; those without a value come behind all others."""
    sign = -1.0 if goal.direction == "maximize" else 1.0
    values = np.array([math.inf if (v := goal.value(t)) is None else sign * v for t in trials])
    return np.unique(values, return_inverse=True)[1].astype(float)


def _interactions(
    space: SearchSpace, goal: Goal, trials: Sequence[Trial], importance: Mapping[str, float]
) -> tuple[Interaction, ...]:
    """Find the pairs whose joint effect is more than the sum of their own; the strongest first.

    The functional ANOVA of Hooker (2007) and Hutter et al. (2014), on bins: an additive model of all parameters is
    fitted by least squares, then for each pair the means of the residuals over its cells. The strength is the share of
    the whole variance that these explain, adjusted for their number; it counts from 0.05 on, if an F-test over all
    pairs (Paulson's 1942 approximation, Bonferroni's correction) gives chance less than one in a hundred. Both must
    hold on the values and on their ranks, as an interaction that goes away with the metric's scale is none.
    """
    if len(trials) < _LEAST_FOR_PAIRS:
        return ()
    levels = _levels(space, trials, list(importance or space)[:_MOST_FOR_PAIRS])
    if len(levels) < 2:
        return ()
    pairs = [_Pair(a, b, levels[a], levels[b]) for a, b in combinations([n for n in space if n in levels], 2)]
    strengths = np.minimum(*(_strengths(levels, pairs, y) for y in (_clipped(goal, trials), _ranks(goal, trials))))
    found = [Interaction(p.a, p.b, float(s)) for p, s in zip(pairs, strengths, strict=True) if s >= _SHARE]
    return tuple(sorted(found, key=lambda i: -i.strength)[:_MOST_INTERACTIONS])


class _Pair:
    """Two parameters' cells: in which each trial lies, how many lie in each, and what they can tell."""

    def __init__(self, a: str, b: str, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> None:
        self.a, self.b = a, b
        width = int(columns.max()) + 1
        self.cells = rows * width + columns
        self.sizes = np.bincount(self.cells)
        occupied = np.flatnonzero(self.sizes).tolist()
        self.freedom = _own_freedom([(cell // width, cell % width) for cell in occupied])


def _strengths(levels: _Levels, pairs: Sequence[_Pair], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give for each pair the adjusted share of the variance of `y` that only the pair explains; 0 for chance."""
    residual = _without_own_effects(levels, y)
    total, left = float(np.sum((y - y.mean()) ** 2)), float(np.sum(residual**2))
    freedom = len(y) - 1 - sum(int(mine.max()) for mine in levels.values())
    found = np.zeros(len(pairs))
    if total <= 0 or left <= 1e-12 * total:
        return found
    limit = NormalDist().inv_cdf(1 - _CHANCE / len(pairs))
    for place, pair in enumerate(pairs):
        own, rest = pair.freedom, freedom - pair.freedom
        if own < 1 or rest < 2:
            continue
        sums = np.bincount(pair.cells, residual)
        explained = float(np.sum(sums**2 / np.maximum(pair.sizes, 1)))
        noise = max(left - explained, 1e-12 * total) / rest
        if _normal_of_f(explained / own / noise, own, rest) > limit:
            found[place] = max(0.0, (explained - own * noise) / total)
    return found


def _without_own_effects(levels: _Levels, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give what an additive model leaves of `y`. It is fitted by backfitting, which needs no large matrix."""
    residual: NDArray[np.float64] = y - y.mean()
    enough = 1e-6 * float(np.abs(residual).max(initial=0.0))
    for _ in range(_SWEEPS):
        largest = 0.0
        for mine in levels.values():
            means = np.bincount(mine, residual) / np.bincount(mine)
            residual = residual - means[mine]
            largest = max(largest, float(np.abs(means).max()))
        if largest <= enough:
            break
    return residual


def _own_freedom(cells: Sequence[tuple[int, int]]) -> int:
    """Count what the cells of a pair can tell beyond rows and columns: cells - rows - columns + connected parts."""
    part: dict[tuple[int, int], tuple[int, int]] = {}

    def root(node: tuple[int, int]) -> tuple[int, int]:
        while part.setdefault(node, node) != node:
            node = part[node]
        return node

    for row, column in cells:
        part[root((0, row))] = root((1, column))
    return len(cells) - len(part) + sum(node == above for node, above in part.items())


def _normal_of_f(f: float, own: int, rest: int) -> float:
    """Turn a value of the F distribution into one of the normal distribution that is as improbable."""
    a, b = 2 / (9 * own), 2 / (9 * rest)
    root = math.pow(f, 1 / 3)
    return ((1 - b) * root - (1 - a)) / math.sqrt(b * root**2 + a)


def _levels(space: SearchSpace, trials: Sequence[Trial], names: Sequence[str]) -> _Levels:
    """Divide the trials by each parameter: bins with as many trials each, the most frequent values of a choice.

    Where a parameter is not active is a level of its own. Those are left out that don't vary, and those for which the
    trials are too few.
    """
    most = min(_MOST_LEVELS, max(2, math.isqrt(len(trials) // 5)))
    found: _Levels = {}
    room = len(trials) // 3
    for name in names:
        parameter = space[name]
        active = np.array([name in t.params for t in trials])
        given = [t.params[name] for t in trials if name in t.params]
        if isinstance(parameter, Choice):
            values = np.array([parameter.index(v) for v in given], dtype=float)
        else:
            values = np.array(given, dtype=float)
        levels = np.zeros(len(trials), dtype=np.intp)
        if isinstance(parameter, Choice) and not parameter.ordered:
            frequent = [v for v, _ in sorted(Counter(values.tolist()).items(), key=lambda e: (-e[1], e[0]))]
            place = {v: min(i, most - 1) for i, v in enumerate(frequent)}
            levels[active] = [place[v] for v in values.tolist()]
        elif len(given):
            distinct = np.unique(values)
            edges = np.quantile(values, np.arange(1, most) / most, method="inverted_cdf")
            levels[active] = np.searchsorted(distinct if len(distinct) <= most else np.unique(edges), values)
        levels[~active] = most + 1
        levels = np.unique(levels, return_inverse=True)[1]
        columns = int(levels.max())
        if columns and columns <= room:
            found[name] = levels
            room -= columns
    return found


def _clipped(goal: Goal, trials: Sequence[Trial]) -> NDArray[np.float64]:
    """Give the values; those far out count as if they lay at the fence (Tukey's), lest a few decide all."""
    values = np.array([goal.value(t) for t in trials], dtype=float)
    low, high = (float(q) for q in np.quantile(values, [0.25, 0.75]))
    reach = 3 * (high - low)
    clipped: NDArray[np.float64] = np.clip(values, low - reach, high + reach)
    return clipped


def _ranks(goal: Goal, trials: Sequence[Trial]) -> NDArray[np.float64]:
    values = np.array([goal.value(t) for t in trials], dtype=float)
    order = np.sort(values)
    ranks: NDArray[np.float64] = (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right")) / 2
    return ranks
