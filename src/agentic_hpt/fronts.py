"""The Pareto front of a study with several objectives, as it is told: means, the knee, what noise leaves open."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentic_hpt.pareto import Frame, Point, front
from agentic_hpt.records import ConfigurationKey, Goal, JsonObject, ObjectiveSpec, Trial, configuration_key

_CLEAR = 2.0
"""So many SDs of a difference are more than noise."""


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A configuration of the front. `values` are the means of its runs, of which `trial` is the earliest."""

    trial: Trial
    values: Mapping[str, float]
    runs: int
    knee: bool = False
    """Whether it is the one that is suggested: alone it covers the largest volume up to the reference point."""
    within_noise: bool = False
    """Whether another one is better in every objective as measured, but not by more than the noise."""

    def to_json(self) -> JsonObject:
        """Give the point as plain data."""
        return {
            "trial": self.trial.id,
            "params": dict(self.trial.params),
            "values": dict(self.values),
            "runs": self.runs,
            "knee": self.knee,
            "within_noise": self.within_noise,
        }


@dataclass(frozen=True, slots=True)
class _Configuration:
    trials: tuple[Trial, ...]
    mean: Point


def front_of(goal: Goal, trials: Iterable[Trial]) -> tuple[FrontPoint, ...]:
    """Give the front by estimated means, ordered by the first objective, its best end first; empty with one objective.

    A configuration counts as dominated only where the noise allows the claim: in each objective the other one's mean
    must be better by two SDs of the difference, by the SD over seeds of those that were repeated. Those that only noise
    keeps on the front are marked. While nothing was repeated every difference counts. Trials that break a constraint
    are left out.
    """
    goal = goal.merges or goal
    given = list(trials)
    knee = goal.best(given) if goal.several else None
    configurations = _configurations(goal, given)
    if knee is None or not configurations:
        return ()
    means = [c.mean for c in configurations]
    clear = set(front(means))
    noise = _noise(goal, configurations)
    suggested = configuration_key(knee.params)
    held = {i for i, c in enumerate(configurations) if configuration_key(c.trials[0].params) == suggested} | clear
    if noise is not None:
        held |= {i for i in range(len(means)) if not _beaten(i, configurations, clear, noise)}
    points = [
        FrontPoint(
            trial=configurations[i].trials[0],
            values=_values(goal.objectives, means[i]),
            runs=len(configurations[i].trials),
            knee=configuration_key(configurations[i].trials[0].params) == suggested,
            within_noise=i not in clear,
        )
        for i in sorted(held, key=lambda i: (means[i], configurations[i].trials[0].id))
    ]
    return tuple(points)


def hypervolume_of(goal: Goal, trials: Iterable[Trial]) -> float | None:
    """Give the share of the box that the front covers; see `pareto.Frame`. `None` while no trial is complete."""
    merged, shown = (goal.merges or goal).merged(trials)
    volumes = [v for t in shown if (v := merged.figure(t)) is not None]
    return max(volumes) if merged.merges is not None and volumes else None


def frame_of(goal: Goal, trials: Iterable[Trial]) -> Mapping[str, float] | None:
    """Give the reference point in the objectives' own units; `None` while no trial is complete."""
    goal = goal.merges or goal
    done = sorted((t for t in trials if goal.losses(t) is not None), key=lambda t: t.id)
    points = [p for t in done if (p := goal.losses(t)) is not None]
    if not points:
        return None
    frame = Frame.of(points, [o.bound for o in goal.objectives])
    return _values(goal.objectives, frame.reference)


def meeting(goal: Goal, trials: Iterable[Trial]) -> FrontPoint | None:
    """Give a configuration that meets the targets of several objectives all at once, by its means, if one does."""
    goal = goal.merges or goal
    wanted = [(o, o.loss(o.target)) for o in goal.objectives if o.target is not None]
    if not goal.several or not wanted:
        return None
    places = {o.metric: place for place, o in enumerate(goal.objectives)}
    for configuration in _configurations(goal, list(trials)):
        if all(configuration.mean[places[o.metric]] <= bound for o, bound in wanted):
            values = _values(goal.objectives, configuration.mean)
            return FrontPoint(configuration.trials[0], values, len(configuration.trials))
    return None


def _configurations(goal: Goal, trials: Sequence[Trial]) -> list[_Configuration]:
    """Gather what ran of each configuration that satisfies the constraints, in the order of the first runs."""
    runs: dict[ConfigurationKey, list[Trial]] = {}
    for trial in sorted(goal.satisfying(trials), key=lambda t: t.id):
        if goal.losses(trial) is not None:
            runs.setdefault(configuration_key(trial.params), []).append(trial)
    found = []
    for same in runs.values():
        columns = zip(*(point for t in same if (point := goal.losses(t)) is not None), strict=True)
        found.append(_Configuration(tuple(same), tuple(statistics.fmean(column) for column in columns)))
    return found


def _noise(goal: Goal, configurations: Sequence[_Configuration]) -> Point | None:
    """Give the SD over seeds of each objective, pooled; `None` when nothing was repeated."""
    repeated = [c.trials for c in configurations if len(c.trials) > 1]
    freedom = sum(len(same) - 1 for same in repeated)
    if not freedom:
        return None
    squares = [0.0] * len(goal.objectives)
    for same in repeated:
        for place, objective in enumerate(goal.objectives):
            squares[place] += (len(same) - 1) * statistics.variance(t.values[objective.metric] for t in same)
    return tuple(math.sqrt(total / freedom) for total in squares)


def _beaten(place: int, configurations: Sequence[_Configuration], clear: set[int], noise: Point) -> bool:
    """Say whether one of the front is better in every objective beyond noise (where there is none: no worse)."""
    own = configurations[place]
    for rival in (configurations[i] for i in clear if i != place):
        factor = _CLEAR * math.sqrt(1 / len(own.trials) + 1 / len(rival.trials))
        ahead = [mine - its for mine, its in zip(own.mean, rival.mean, strict=True)]
        if own.mean != rival.mean and all(lead >= factor * sd for lead, sd in zip(ahead, noise, strict=True)):
            return True
    return False


def _values(objectives: Sequence[ObjectiveSpec], point: Point) -> dict[str, float]:
    return {o.metric: o.loss(loss) for o, loss in zip(objectives, point, strict=True)}
