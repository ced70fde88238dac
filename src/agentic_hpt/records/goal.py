"""What is optimized: which of two trials is better, and which is the best of many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from agentic_hpt.constraints import Condition
from agentic_hpt.pareto import Frame, front
from agentic_hpt.records.trials import ConfigurationKey, Direction, Trial, TrialState, configuration_key
from agentic_hpt.shrinkage import Pooled, Prior, pooled


@dataclass(frozen=True, slots=True)
class OutcomeConstraint:
    """What a trial's metrics must satisfy; parameters may stand in the condition beside them."""

    text: str
    metrics: tuple[str, ...]

    def margin(self, trial: Trial) -> float | None:
        """Give by how much a trial breaks it, at most 0 where it does not; in the unit of what is compared.

        `None` unless the trial is complete with all these metrics; infinity for what can't be worked out.
        """
        if trial.state is not TrialState.COMPLETE or not all(name in trial.values for name in self.metrics):
            return None
        return Condition(self.text).margin({**{name: trial.values[name] for name in self.metrics}, **trial.params})


COVERED = "covered volume"
HYPERVOLUME = "hypervolume"
_ON_FRONT = "on the front"


@dataclass(frozen=True, slots=True)
class ObjectiveSpec:
    """One of the objectives. `reference` is its worst value that still counts: volumes are measured from there."""

    metric: str
    direction: Direction = "maximize"
    target: float | None = None
    reference: float | None = None

    def loss(self, value: float) -> float:
        """Give a value so that less is better."""
        return -value if self.direction == "maximize" else value

    @property
    def bound(self) -> float | None:
        """The reference as a loss."""
        return None if self.reference is None else self.loss(self.reference)


@dataclass(frozen=True, slots=True)
class Goal:
    """What is optimized: one metric, its direction, and the value at which the search may stop.

    With several objectives these are the first one's and `others` holds the rest. Then no single value says which trial
    is better: `best` is the knee of the Pareto front, `ranked` has the front first, and whoever needs one figure a
    trial takes `merged`.
    """

    metric: str
    direction: Direction = "maximize"
    target: float | None = None
    constraints: tuple[OutcomeConstraint, ...] = ()
    """What a trial must satisfy to be the best one."""
    others: tuple[ObjectiveSpec, ...] = ()
    reference: float | None = None
    merges: Goal | None = None
    """The goal of several objectives that this one stands for; see `merged`."""

    @property
    def several(self) -> bool:
        """Whether there are several objectives."""
        return bool(self.others)

    @property
    def objectives(self) -> tuple[ObjectiveSpec, ...]:
        """All objectives, the first one first."""
        return (ObjectiveSpec(self.metric, self.direction, self.target, self.reference), *self.others)

    def losses(self, trial: Trial) -> tuple[float, ...] | None:
        """Give a number an objective, each to be minimised; `None` unless the trial is complete with all of them."""
        if trial.state is not TrialState.COMPLETE or any(o.metric not in trial.values for o in self.objectives):
            return None
        return tuple(o.loss(trial.values[o.metric]) for o in self.objectives)

    def merged(self, trials: Iterable[Trial], whole: bool = True) -> tuple[Goal, tuple[Trial, ...]]:
        """Give the goal as one with a single objective, and the trials with the figures that it looks at.

        A trial's value is then the volume that it covers alone, the best one is the knee, and `figure` is the
        hypervolume of the front once the trial had ended: both as shares of the same box, to be maximised. With one
        objective it is the goal itself. Not `whole`, there is what `best` looks at only, which costs little.
        """
        given = tuple(trials)
        if not self.several:
            return self, given
        known = sorted(((t.id, point, t) for t in given if (point := self.losses(t)) is not None), key=lambda e: e[0])
        stands_for = replace(
            self, metric=COVERED, direction="maximize", target=None, others=(), reference=None, merges=self
        )
        if not known:
            return stands_for, given
        points = [point for _, point, _ in known]
        frame = Frame.of(points, [o.bound for o in self.objectives])
        allowed = [(number, point) for number, point, t in known if whole and t.kind != "repeat" and self.feasible(t)]
        on_front = {allowed[place][0] for place in front([point for _, point in allowed])}
        volumes = dict(zip((n for n, _ in allowed), frame.course([p for _, p in allowed]), strict=True))
        shown: dict[int, Trial] = {}
        volume = 0.0
        for number, point, trial in known:
            volume = volumes.get(number, volume)
            figures = {COVERED: frame.covered(point), HYPERVOLUME: volume, _ON_FRONT: float(number in on_front)}
            shown[number] = replace(trial, values={**trial.values, **figures})
        return stands_for, tuple(shown.get(t.id, t) for t in given)

    def figure(self, trial: Trial) -> float | None:
        """Give the figure whose best so far says how the search gets on: the value, or the front's hypervolume.

        `None` for a trial that breaks an outcome constraint, whose value is no gain.
        """
        if self.constraints and not self.feasible(trial):
            return None
        return self.value(trial) if self.merges is None else trial.values.get(HYPERVOLUME)

    def furthest(self, trials: Iterable[Trial]) -> Trial | None:
        """Give the trial that brought the search to where it is: the best one, or the last that moved the front."""
        if self.merges is None:
            return self.best(trials)
        moved = [t for t in trials if self.figure(t) is not None]
        return max(moved, key=lambda t: (t.values[HYPERVOLUME], -t.id), default=None)

    def better(self, a: float, b: float) -> bool:
        """Say whether `a` is strictly better than `b`."""
        return a > b if self.direction == "maximize" else a < b

    def reached(self, value: float | None) -> bool:
        """Say whether the target is set and `value` meets it."""
        if self.target is None or value is None:
            return False
        return value >= self.target if self.direction == "maximize" else value <= self.target

    def value(self, trial: Trial) -> float | None:
        """Give the trial's objective value; `None` unless it is complete."""
        return trial.values.get(self.metric) if trial.state is TrialState.COMPLETE else None

    def violations(self, trial: Trial) -> tuple[float, ...] | None:
        """Give for each outcome constraint by how much a trial breaks it, at most 0 where it does not.

        `None` unless the trial is complete with all metrics that they name.
        """
        margins = [constraint.margin(trial) for constraint in self.constraints]
        known = tuple(margin for margin in margins if margin is not None)
        return known if trial.state is TrialState.COMPLETE and len(known) == len(margins) else None

    def feasible(self, trial: Trial) -> bool:
        """Say whether a trial is complete and satisfies all outcome constraints; what was not measured does not."""
        if not self.constraints:
            return trial.state is TrialState.COMPLETE
        margins = self.violations(trial)
        return margins is not None and all(margin <= 0 for margin in margins)

    def unmeasured(self, metrics: Mapping[str, float]) -> tuple[str, OutcomeConstraint] | None:
        """Give the first metric that a constraint needs and `metrics` lack, with that constraint, if there is one."""
        needed = ((metric, constraint) for constraint in self.constraints for metric in constraint.metrics)
        return next(((metric, constraint) for metric, constraint in needed if metric not in metrics), None)

    def satisfying(self, trials: Iterable[Trial]) -> list[Trial]:
        """Give the trials that may be the best one: the complete ones that satisfy the outcome constraints.

        A configuration that was repeated on other seeds counts by the means of what its runs break.
        """
        trials = [t for t in trials if t.state is TrialState.COMPLETE]
        if not self.constraints:
            return trials
        repeated: dict[int, bool] = {}
        for same in self._repeated(trials).values():
            margins = [self.violations(t) for t in same]
            columns = zip(*[m for m in margins if m is not None], strict=True)
            holds = None not in margins and all(sum(column) / len(same) <= 0 for column in columns)
            repeated.update({t.id: holds for t in same})
        return [t for t in trials if repeated.get(t.id, self.feasible(t))]

    def _meeting(self, trials: list[Trial]) -> set[int]:
        """Give the trials (by id) that reach the targets of several objectives, by the means of what ran again."""
        bounds = [math.inf if o.target is None else o.loss(o.target) for o in self.objectives]
        losses = {t.id: [own] for t in trials if (own := self.losses(t)) is not None}
        for same in self._repeated(trials).values():
            runs = [own for t in same for own in losses.get(t.id, ())]
            losses.update((t.id, runs) for t in same)
        return {
            number
            for number, runs in losses.items()
            if all(
                sum(column) / len(runs) <= bound for column, bound in zip(zip(*runs, strict=True), bounds, strict=True)
            )
        }

    def best(self, trials: Iterable[Trial]) -> Trial | None:
        """Give the complete trial with the best value that satisfies the constraints; of equals, the earliest.

        With several objectives it is the knee of the front: of those that reach the targets, once there are any.
        Where repeats have shown noise the estimated means count, so that luck is not taken for merit.
        """
        if self.several:
            given = {t.id: t for t in trials}
            goal, shown = self.merged(given.values(), whole=False)
            meeting = self._meeting(list(given.values())) if any(o.target is not None for o in self.objectives) else ()
            knee = goal.best([t for t in shown if t.id in meeting]) or goal.best(shown)
            return given[knee.id] if knee is not None else None
        trials = self.satisfying(trials)
        estimates = self.expected(trials)
        if not estimates:
            return self._highest(trials)
        sign = 1.0 if self.direction == "maximize" else -1.0
        best: Trial | None = None
        held = 0.0
        for trial in trials:
            value = trial.values.get(self.metric) if trial.state is TrialState.COMPLETE else None
            if value is None:
                continue
            worth = sign * estimates.get(trial.id, value)
            if best is None or worth > held or (worth == held and trial.id < best.id):
                best, held = trial, worth
        return best

    def _highest(self, complete: list[Trial]) -> Trial | None:
        """Give the one with the best value of its own; of equals, the earliest."""
        values = [t.values[self.metric] for t in complete if self.metric in t.values]
        if not values:
            return None
        top = max(values) if self.direction == "maximize" else min(values)
        return min((t for t in complete if t.values.get(self.metric) == top), key=lambda t: t.id)

    def repeated_means(self, trials: Iterable[Trial]) -> dict[ConfigurationKey, float]:
        """Give the mean value of each configuration that a `repeat` ran again."""
        runs = self._repeated(list(trials))
        return {key: sum(t.values[self.metric] for t in same) / len(same) for key, same in runs.items()}

    def estimates(self, trials: Iterable[Trial]) -> dict[int, float]:
        """Give that mean by the ids of the trials that ran such a configuration."""
        return self.means_of(self._repeated(list(trials)).values())

    def expected(self, trials: Iterable[Trial]) -> dict[int, float]:
        """Give the estimated means of the complete trials' configurations, by id.

        A single run is drawn towards what the others say, by as much as repeats have shown noise (`shrinkage`): a
        challenger is not the best one before it has stood a second run. Without noise they are the runs' means; where
        nothing was repeated there is none.
        """
        trials = list(trials)
        runs = self._repeated(trials)
        noise, estimates = self.noise_of(runs.values()), self.means_of(runs.values())
        if noise is None or not noise.sd:
            return estimates
        sign = -1.0 if self.direction == "maximize" else 1.0
        counts = {t.id: len(same) for same in runs.values() for t in same}
        losses = {t.id: sign * value for t in trials if (value := self.value(t)) is not None}
        means = {number: sign * mean for number, mean in estimates.items()}
        single = [loss for number, loss in losses.items() if number not in counts]
        prior = Prior.of([*single, *(means[same[0].id] for same in runs.values())], noise.sd)
        return {i: sign * prior.estimate(means.get(i, loss), counts.get(i, 1)) for i, loss in losses.items()}

    def noise(self, trials: Iterable[Trial]) -> Pooled | None:
        """Give the SD within the configurations that a `repeat` ran again; `None` where none was."""
        return self.noise_of(self._repeated(list(trials)).values())

    def means_of(self, runs: Iterable[Sequence[Trial]]) -> dict[int, float]:
        """Give the mean value of each configuration's runs, by the ids of the trials that are its runs."""
        return {t.id: sum(s.values[self.metric] for s in same) / len(same) for same in runs for t in same}

    def noise_of(self, runs: Iterable[Sequence[Trial]]) -> Pooled | None:
        """Give the SD within configurations, by the runs of each."""
        return pooled([t.values[self.metric] for t in same] for same in runs)

    def _repeated(self, trials: list[Trial]) -> dict[ConfigurationKey, list[Trial]]:
        repeats = [t.params for t in trials if t.kind == "repeat" and self.value(t) is not None]
        if not repeats:
            return {}
        names = list(set[str]().union(*repeats))
        alike = {tuple(map(params.get, names)) for params in repeats}
        columns = [{values[place] for values in alike} for place in range(len(names))]
        telling = max(range(len(names)), key=lambda place: len(columns[place]), default=None)
        if telling is not None:  # to make a key takes time: only for those that may be the same
            name, values = names[telling], columns[telling]
            trials = [t for t in trials if t.params.get(name) in values]
            trials = [t for t in trials if tuple(map(t.params.get, names)) in alike]
        found: dict[ConfigurationKey, list[Trial]] = {configuration_key(params): [] for params in repeats}
        for trial in trials:
            if self.value(trial) is not None:
                found.get(configuration_key(trial.params), []).append(trial)
        return found

    def ranked(self, trials: Iterable[Trial]) -> list[Trial]:
        """Give the complete trials, best first; of equals, the earliest first. With several objectives the front leads.

        Those that break an outcome constraint stand behind the others, the least broken first (Deb 2000).
        """
        sign = -1.0 if self.direction == "maximize" else 1.0
        trials = list(trials)
        if self.several:
            given = {t.id: t for t in trials}
            goal, shown = self.merged(trials)
            return [given[t.id] for t in goal.ranked(shown)]
        if not self.constraints and self.merges is None:  # the usual case, of all trials at each decision
            metric, complete = self.metric, TrialState.COMPLETE
            plain = [(sign * t.values[metric], t.id, t) for t in trials if t.state is complete and metric in t.values]
            return [t for *_, t in sorted(plain, key=itemgetter(0, 1))]
        broken = self._broken(trials) if self.constraints else {}
        done = [
            (broken.get(t.id, 0.0), -t.values.get(_ON_FRONT, 0.0) * (self.merges is not None), sign * value, t.id, t)
            for t in trials
            if (value := self.value(t)) is not None
        ]
        return [t for *_, t in sorted(done, key=itemgetter(0, 1, 2, 3))]

    def leading(self, trials: Iterable[Trial]) -> list[Trial]:
        """Give the best fifth of the complete trials; with several objectives the whole front at least."""
        ranked = self.ranked(trials)
        members = sum(t.values.get(_ON_FRONT, 0.0) > 0 for t in ranked) if self.merges is not None else 0
        return ranked[: max(-(-len(ranked) // 5), members)]

    def _broken(self, trials: list[Trial]) -> dict[int, float]:
        """Give by how much each complete trial breaks the constraints, each as a part of the most that it is broken."""
        margins = {t.id: self.violations(t) for t in trials if t.state is TrialState.COMPLETE}
        known = [m for m in margins.values() if m is not None]
        most = [max((m for m in column if 0 < m < math.inf), default=1.0) for column in zip(*known, strict=True)]
        return {
            number: math.inf if found is None else sum(m / by for m, by in zip(found, most, strict=True) if m > 0)
            for number, found in margins.items()
        }
