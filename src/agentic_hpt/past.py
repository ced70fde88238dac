"""What a study's trials say that every decision asks for, each trial looked at once however long the study grows.

A round adds a few trials to thousands that do not change any more. So what they say is kept from one decision to the
next and only taken further; of the same trials it is the same, whether they came at once or one by one.
"""

from __future__ import annotations

import math
import statistics
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Literal

from agentic_hpt.records import ConfigurationKey, DecisionRecord, Goal, Params, Trial, TrialState, configuration_key
from agentic_hpt.shrinkage import Pooled, Prior
from agentic_hpt.space import SearchSpace
from agentic_hpt.steering import Steering, steering_of

_BY_ID = attrgetter("id")
_Alike = frozenset[tuple[str, object]]


@dataclass(frozen=True, slots=True)
class RoundTrend:
    """A round's trials, and how far the search had come at its end."""

    round: int
    trials: int
    complete: int
    best_so_far: float | None
    median: float | None
    gain: float
    """By how much the round bettered the best value."""


@dataclass(frozen=True, slots=True)
class Yield:
    """What a worker, or all workers of a kind, have brought."""

    name: str
    trials: int
    complete: int
    improved_best: int
    """Trials that were the best so far when they ended."""
    gain_per_trial: float
    percentile: float | None
    """The mean rank of its complete trials among all: 1 is the best of the study, 0 the worst."""


@dataclass
class _Climb:
    """The trials that were the best so far when they ended, each with its gain; 0 for the first one."""

    gains: dict[int, float] = field(default_factory=dict)
    best: float | None = None

    def take(self, goal: Goal, trial: Trial, figure: float) -> bool:
        """Take the next trial in, and say whether it is one of them."""
        if self.best is not None and not goal.better(figure, self.best):
            return False
        self.gains[trial.id] = 0.0 if self.best is None else abs(figure - self.best)
        self.best = figure
        return True


@dataclass
class _Round:
    trials: int = 0
    values: list[float] = field(default_factory=list)
    top: float | None = None


@dataclass
class _Group:
    number: int
    trials: int = 0
    complete: int = 0
    gained: list[float] = field(default_factory=list)


class Past:
    """What the finished trials of a study say, in order of their ids."""

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self.trials: list[Trial] = []
        """All that were taken in; those that have not finished say nothing."""
        self.finished: list[Trial] = []
        self.complete: list[Trial] = []
        """Those with a value."""
        self.counts: Counter[TrialState] = Counter()
        self.failed: dict[str, list[Trial]] = {}
        """By kind of failure."""
        self.counted: list[int] = []
        """The ids of those that are of the search."""
        self.known: dict[int, Trial] = {}
        """All that were taken in, by id."""
        self.reported: list[Trial] = []
        """Those with a learning curve."""
        self._sign = -1.0 if goal.direction == "maximize" else 1.0
        self._metric = (goal.merges or goal).metric
        self._plain = not goal.constraints and not goal.several and goal.merges is None
        self._climb = _Climb()
        self._own_climb = _Climb()
        self._records: list[tuple[int, float]] = []
        self._alike: dict[_Alike, list[Trial]] = {}
        self._again: dict[_Alike, None] = {}
        self._repeats: list[Trial] = []
        self._places: list[tuple[float, int]] = []
        self._ranked: list[Trial] = []
        self._tried: list[float] = []
        self._tried_ids: list[int] = []
        self._rounds: dict[int, _Round] = {}
        self._values = array("d")
        self._groups: dict[str, dict[str, _Group]] = {"kind": {}, "worker": {}}
        self._members = {"kind": array("l"), "worker": array("l")}
        self._timed: list[Trial] = []
        self._seconds: list[float] = []
        self._inside: tuple[SearchSpace, Past] | None = None
        self._looked_at = 0
        self._contained: list[Trial] = []
        self._forget()

    @classmethod
    def of(cls, goal: Goal, trials: Iterable[Trial]) -> Past:
        """Give what these trials say; their order plays no part."""
        made = cls(goal)
        made._extend(sorted(trials, key=_BY_ID))
        return made

    def followed(self, goal: Goal, trials: Sequence[Trial]) -> Past:
        """Give what these trials say: this, taken further, where they only add to its own; else it begins anew."""
        known = len(self.trials)
        new = sorted(trials[known:], key=_BY_ID)
        adds = goal == self.goal and list(trials[:known]) == self.trials  # quick: mostly the same objects are compared
        if not adds or (new and self.trials and new[0].id < self.trials[-1].id):
            return Past.of(goal, trials)
        self._extend(new)
        return self

    def _extend(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self.trials.append(trial)
            self.known[trial.id] = trial
            if trial.finished:
                self._take(trial)
        if trials:
            self._forget()

    def _forget(self) -> None:
        """Drop what holds for these trials only."""
        self._best: dict[float, Trial | None] = {}
        self._runs: dict[ConfigurationKey, list[Trial]] | None = None
        self._order: list[Trial] | None = None
        self._pooled: Pooled | None = None
        self._knows_noise = False

    def _take(self, trial: Trial) -> None:
        goal, value, counted = self.goal, self.goal.value(trial), trial.counted
        self.finished.append(trial)
        self.counts[trial.state] += 1
        if any(self._metric in report.metrics for report in trial.reports):
            self.reported.append(trial)
        if trial.failure is not None:
            self.failed.setdefault(str(trial.failure), []).append(trial)
        if value is not None:
            self._take_value(trial, value)
        if counted:
            self.counted.append(trial.id)
            if trial.seconds is not None:
                self._timed.append(trial)
                if trial.state is TrialState.COMPLETE:
                    insort(self._seconds, trial.seconds)
        figure = goal.figure(trial)
        if figure is not None and trial.kind != "repeat" and self._climb.take(goal, trial, figure):
            self._records.append((len(self.counted), figure))
        if counted:
            self._take_counted(trial, value, figure)

    def _take_value(self, trial: Trial, value: float) -> None:
        self.complete.append(trial)
        if self._plain:
            place = bisect_right(self._places, (self._sign * value, trial.id))
            self._places.insert(place, (self._sign * value, trial.id))
            self._ranked.insert(place, trial)
            if trial.counted and trial.kind != "repeat":
                self._tried.append(self._sign * value)
                self._tried_ids.append(trial.id)
        alike = self._alike.setdefault(frozenset(trial.params.items()), [])
        alike.append(trial)
        if len(alike) > 1:
            self._again[frozenset(trial.params.items())] = None
        if trial.kind == "repeat":
            self._repeats.append(trial)

    def _take_counted(self, trial: Trial, value: float | None, figure: float | None) -> None:
        goal = self.goal
        gained = figure is not None and trial.kind != "repeat" and self._own_climb.take(goal, trial, figure)
        round_ = self._rounds.setdefault(trial.round, _Round())
        round_.trials += 1
        if figure is not None and (round_.top is None or goal.better(figure, round_.top)):
            round_.top = figure
        if value is not None:
            round_.values.append(value)
            self._values.append(value)
        for by, name in (("kind", trial.kind), ("worker", trial.worker)):
            groups = self._groups[by]
            group = groups.setdefault(name, _Group(len(groups)))
            group.trials += 1
            if value is not None:
                group.complete += 1
                self._members[by].append(group.number)
            if gained:
                group.gained.append(self._own_climb.gains[trial.id])

    # -- the best ------------------------------------------------------------------------------------------------------

    def best(self, before: float = math.inf) -> Trial | None:
        """Give what `Goal.best` gives of all these trials, or of those of the rounds before one."""
        if before not in self._best:
            if self._plain:
                self._best[before] = self._plain_best(before)
            else:
                self._best[before] = self.goal.best(t for t in self.trials if t.round < before)
        return self._best[before]

    def _plain_best(self, before: float) -> Trial | None:
        """Find it by the ranks: only what ran again is estimated otherwise than by its rank."""
        runs = self._repeated(before)
        noise = self.goal.noise_of(runs.values())
        means = {number: self._sign * mean for number, mean in self.estimates(before).items()}
        prior: Prior | None = None
        if noise is not None and noise.sd > 0:
            ranked = zip(self._places, self._ranked, strict=True)
            once = [loss for (loss, i), t in ranked if i not in means and (before == math.inf or t.round < before)]
            prior = Prior.of([*once, *(means[same[0].id] for same in runs.values())], noise.sd)
        best: tuple[float, int, Trial] | None = None
        for (loss, number), trial in zip(self._places, self._ranked, strict=True):
            if number in means or trial.round >= before:
                continue
            told = loss if prior is None else prior.estimate(loss, 1)
            if best is not None and told > best[0]:
                break  # the rest is no better
            if best is None or (told, number) < best[:2]:
                best = told, number, trial
        for same in runs.values():
            mean = means[same[0].id]
            told = mean if prior is None else prior.estimate(mean, len(same))
            if best is None or (told, same[0].id) < best[:2]:
                best = told, same[0].id, same[0]
        return best[2] if best is not None else None

    def furthest(self) -> Trial | None:
        """Give what `Goal.furthest` gives of all these trials."""
        return self.best() if self.goal.merges is None else self.goal.furthest(self.trials)

    def last_gain(self) -> int | None:
        """Give the id of the newest trial that was the best so far when it ended."""
        return next(reversed(self._climb.gains), None)

    def ranked(self) -> Sequence[Trial]:
        """Give what `Goal.ranked` gives of all these trials."""
        if self._order is None:
            self._order = self._ranked if self._plain else self.goal.ranked(self.trials)
        return self._order

    def leading(self) -> Sequence[Trial]:
        """Give what `Goal.leading` gives of all these trials."""
        ranked = self.ranked()
        return ranked[: -(-len(ranked) // 5)] if self.goal.merges is None else self.goal.leading(self.trials)

    def losses(self) -> list[float] | None:
        """Give the losses of what the search tried, in order; where a repeat ran it again, those of the means.

        `None` where constraints or several objectives say which trials count.
        """
        if not self._plain:
            return None
        found = list(self._tried)
        means = self.goal.estimates(t for same in self._repeated().values() for t in same if t.counted)
        for number, mean in means.items():
            place = bisect_left(self._tried_ids, number)
            if self._tried_ids[place : place + 1] == [number]:
                found[place] = self._sign * mean
        return found

    def estimates(self, before: float = math.inf) -> dict[int, float]:
        """Give what `Goal.estimates` gives of all these trials, or of those of the rounds before one."""
        return self.goal.means_of(self._repeated(before).values())

    def noise(self) -> Pooled | None:
        """Give the SD over seeds by all that ran twice, whoever asked for it; imported trials say nothing of it."""
        if not self._knows_noise:
            own = ([t for t in same if t.kind != "imported"] for same in self._same(self._again))
            self._pooled = self.goal.noise_of(own)
            self._knows_noise = True
        return self._pooled

    def runs(self) -> list[list[Trial]]:
        """Give the complete trials of each configuration that more than one has."""
        return [same for same in self._same(self._again) if len(same) > 1]

    def runs_like(self, params: Params) -> list[Trial]:
        """Give the complete trials of one configuration."""
        key = configuration_key(params)
        return [t for t in self._alike.get(frozenset(params.items()), ()) if configuration_key(t.params) == key]

    def _repeated(self, before: float = math.inf) -> dict[ConfigurationKey, list[Trial]]:
        """Give the trials of each configuration that a `repeat` ran again."""
        if self._runs is None:
            self._runs = {}
            for trial in self._repeats:
                self._runs.setdefault(configuration_key(trial.params), self.runs_like(trial.params))
        if before == math.inf:
            return self._runs
        earlier = ([t for t in same if t.round < before] for same in self._runs.values())
        return {configuration_key(s[0].params): s for s in earlier if any(t.kind == "repeat" for t in s)}

    def _same(self, alike: Iterable[_Alike]) -> Iterable[list[Trial]]:
        """Tell 1 from true: that takes time, so only where it matters."""
        for candidates in alike:
            groups: dict[ConfigurationKey, list[Trial]] = {}
            for trial in self._alike[candidates]:
                groups.setdefault(configuration_key(trial.params), []).append(trial)
            yield from groups.values()

    def inside(self, space: SearchSpace) -> Past:
        """Give what those say that may be chosen: the study's own in a space that satisfy the outcome constraints."""
        if self._inside is None or self._inside[0] is not space:
            self._inside, self._looked_at, self._contained = (space, Past(self.goal)), 0, []
        new = islice(self.complete, self._looked_at, None)
        self._contained += [t for t in new if t.kind != "imported" and space.contains(t.params)]
        self._looked_at = len(self.complete)
        allowed = self._contained
        if self.goal.constraints:
            satisfying = {t.id for t in self.goal.satisfying(self.complete)}
            allowed = [t for t in allowed if t.id in satisfying]
        self._inside = space, self._inside[1].followed(self.goal, allowed)
        return self._inside[1]

    # -- how it came about ---------------------------------------------------------------------------------------------

    def improvements(self) -> dict[int, float]:
        """Give the trials (by id) that were the best so far when they ended, each with its gain; 0 for the first one.

        A configuration's luck on another seed is no improvement, so repeats are left out.
        """
        return self._climb.gains

    def since(self, number: int) -> int:
        """Count the trials of the search with larger ids."""
        return len(self.counted) - bisect_right(self.counted, number)

    def since_gain(self, least: float) -> int:
        """Count the trials of the search since the last gain of more than `least`.

        Gains add up until they are more than that: a slow climb is one, too.
        """
        since = 0
        held: float | None = None
        for place, figure in self._records:
            if held is None or abs(figure - held) > least:
                held, since = figure, place
        return len(self.counted) - since

    def trend(self, rounds: int) -> list[RoundTrend]:
        """Follow the search round by round; the last `rounds` of them are given."""
        found: list[RoundTrend] = []
        best: float | None = None
        numbers = sorted(self._rounds)
        for place, number in enumerate(numbers):
            here, gain = self._rounds[number], 0.0
            if here.top is not None and (best is None or self.goal.better(here.top, best)):
                gain, best = 0.0 if best is None else abs(here.top - best), here.top
            if place >= len(numbers) - rounds:
                median = statistics.median(here.values) if here.values else None
                found.append(RoundTrend(number, here.trials, len(here.values), best, median, gain))
        return found

    def yields(self, by: Literal["kind", "worker"]) -> list[Yield]:
        """Give what the trials of each kind, or of each worker, have brought, those with the most trials first."""
        shares, found = self._percentiles(by), []
        for name, group in self._groups[by].items():
            percentile = shares[group.number] / group.complete if group.complete else None
            gain = math.fsum(group.gained) / group.trials
            found.append(Yield(name, group.trials, group.complete, len(group.gained), gain, percentile))
        return sorted(found, key=lambda y: (-y.trials, y.name))

    def _percentiles(self, by: str) -> list[float]:
        """Give for each group the sum of its values' ranks: the share of all others that one beats, equal ones by half.

        An only value has a half.
        """
        import numpy as np

        values, last = np.array(self._values), len(self._values) - 1
        if last < 1:
            return [0.5] * len(self._groups[by])
        order = np.sort(values)
        twice = np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right") - 1
        if self.goal.direction == "minimize":
            twice = 2 * last - twice
        sums = np.bincount(np.array(self._members[by]), weights=twice, minlength=len(self._groups[by]))
        return [float(found) / 2 / last for found in sums]

    def timed(self, most: int) -> list[Trial]:
        """Give the newest trials of the search that have told their seconds."""
        return self._timed[-most:]

    def median_seconds(self) -> float | None:
        """Give the median of what the complete trials of the search took; `None` when none has told."""
        return statistics.median(self._seconds) if self._seconds else None


class Memory:
    """Keeps what a study's trials and decisions said at its last decision, so that the next one only adds to it."""

    def __init__(self) -> None:
        self._past: Past | None = None
        self._given: Sequence[Trial] = ()
        self._decisions: Sequence[DecisionRecord] = ()
        self._steering = Steering()

    def steering(self, decisions: Sequence[DecisionRecord]) -> Steering:
        """Give what the decisions have made of the search."""
        if decisions is not self._decisions:
            known = len(self._decisions)
            follows = decisions[:known] == self._decisions  # quick, as mostly the same objects are compared
            new, begun = (decisions[known:], self._steering) if follows else (decisions, Steering())
            self._steering, self._decisions = steering_of(new, begun), decisions
        return self._steering

    def of(self, goal: Goal, trials: Sequence[Trial]) -> Past:
        """Give what these trials say."""
        if self._past is None:
            self._past = Past(goal)
        elif trials is self._given and goal == self._past.goal:
            return self._past
        self._past, self._given = self._past.followed(goal, trials), trials
        return self._past
