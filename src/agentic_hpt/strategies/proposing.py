"""Proposals for a subspace: a sampler, kept from repeating what is tried or running."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from agentic_hpt.feasible import feasible_draw, mended, random_value
from agentic_hpt.records import (
    Arm,
    Assignment,
    ConfigurationKey,
    Goal,
    Params,
    ParamValue,
    Proposal,
    Region,
    Trial,
    TrialState,
    configuration_key,
)
from agentic_hpt.space import SearchSpace
from agentic_hpt.steering import in_range, space_within
from agentic_hpt.strategies.arms import Arms
from agentic_hpt.strategies.chance import ENOUGH
from agentic_hpt.strategies.drawing import value_outside
from agentic_hpt.strategies.encoding import Encoding, Floats
from agentic_hpt.strategies.threads import one_thread
from agentic_hpt.strategies.view import SamplerView

_GRID_LIMIT = 10_000
_TRIES = 12
_EVEN_CHANCE = 0.5
_MOST_CANDIDATES = 100
_RANDOM_TRIES = 50
_ANCHORS = 50
_ALIKE = 1e-3


class Proposer:
    """Proposes configurations for assignments of one study. Same trials and seed, same proposal."""

    def __init__(self, space: SearchSpace, goal: Goal, arm: Arm = "tpe", arms: Arms | None = None) -> None:
        """`arm` is how a worker proposes whose assignment does not say."""
        self._space = space
        self._goal = goal
        self._arm = arm
        self._arms = arms or Arms(space, goal)
        self._encoding = Encoding(space)
        self._views: dict[tuple[object, ...], SamplerView] = {}
        self._used: set[tuple[object, ...]] = set()
        self._spaces: dict[str, SearchSpace] = {}
        self._round = -1
        self._known: set[int] = set()
        self._ids: dict[ConfigurationKey, list[int]] = {}

    def propose(self, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        """Give a configuration not tried yet, or `None` when the subspace is a grid that is used up."""
        with one_thread():
            return self._one(assignment, trials, seed)

    def _one(self, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        tried, near = self._tried(trials), list[Params]()
        running = self._encoding.rows([t.params for t in trials if t.state is TrialState.RUNNING])
        chance = self._arms.chance(trials)
        likely, doubtful = 0.0, list[Params]()
        for number, params in enumerate(self._candidates(assignment, trials, seed), start=1):
            if tried(params):
                continue
            if alike(self._encoding.rows([params])[0], running, self._encoding):
                near.append(params)
                continue
            found = 1.0 if chance is None else float(chance([params])[0])
            if found >= ENOUGH:
                return Proposal(params, assignment.tuned)
            if found > likely:
                likely, doubtful = found, [params]
            if number >= _TRIES and likely >= _EVEN_CHANCE:  # better than what nobody chose
                break
        for last in (*doubtful, *near[:1]):  # the subspace has nothing else
            return Proposal(last, assignment.tuned)
        left = [c for c in self._grid(assignment) or () if not tried(c)]
        if left:
            return Proposal(left[seed % len(left)], assignment.tuned)
        return None

    def propose_many(
        self,
        assignment: Assignment,
        trials: Sequence[Trial],
        seeds: Sequence[int],
        beside: Sequence[Params] = (),
    ) -> list[Proposal]:
        """Give configurations not tried yet that are to run together, a seed each, and together with those `beside`.

        They are the first that an arm would try: what it knows is worked out once for all of them. Fewer where the
        subspace is a grid that is used up.
        """
        if len(seeds) == 1 and not beside:
            found = self.propose(assignment, trials, seeds[0])
            return [] if found is None else [found]
        with one_thread():
            return self._many(assignment, trials, seeds, beside)

    def _many(
        self, assignment: Assignment, trials: Sequence[Trial], seeds: Sequence[int], beside: Sequence[Params]
    ) -> list[Proposal]:
        count, tried = len(seeds), self._tried(trials)
        chosen, near, doubtful = list[Params](), list[Params](), list[tuple[float, int, Params]]()
        rows = self._encoding.rows([*(t.params for t in trials if t.state is TrialState.RUNNING), *beside])
        known = {configuration_key(params) for params in beside}
        chance = self._arms.chance(trials)
        pending = [*trials, *_pending(assignment, trials, beside)]
        for params in self._candidates(assignment, pending, seeds[0], count):
            if len(chosen) == count:
                break
            key = configuration_key(params)
            if key in known or tried(params):
                continue
            known.add(key)
            row = self._encoding.rows([params])
            if alike(row[0], rows, self._encoding):
                near.append(params)
                continue
            likely = 1.0 if chance is None else float(chance([params])[0])
            if likely >= ENOUGH:
                chosen.append(params)
                rows = np.concatenate([rows, row])
            else:
                doubtful.append((-likely, len(doubtful), params))
        chosen += [params for *_, params in sorted(doubtful, key=lambda told: told[:2])]
        chosen += near
        if len(chosen) < count:
            chosen += [c for c in self._grid(assignment) or () if configuration_key(c) not in known and not tried(c)]
        return [Proposal(params, assignment.tuned) for params in chosen[:count]]

    def _sampled(
        self, assignment: Assignment, trials: Sequence[Trial], seed: int, count: int
    ) -> Iterator[dict[str, ParamValue]]:
        arm = assignment.arm or self._arm
        if arm == "tpe":
            view = self._view(assignment)
            view.sync([trial for trial in trials if fits(trial, assignment)] if _choosy(assignment) else trials)
            if count == 1:
                for attempt in range(_TRIES):
                    yield view.propose((seed + attempt) % 2**32)
                return
            if view.knows:
                yield from view.propose_many(seed, count)
                return
            arm = "quasi"  # instead of draws: so many are better spread
        within, most = self._within(assignment), max(_MOST_CANDIDATES, 4 * count)
        yield from islice(self._arms.candidates(arm, assignment, within, trials, seed, count), most)

    def _candidates(
        self, assignment: Assignment, trials: Sequence[Trial], seed: int, count: int = 1
    ) -> Iterator[dict[str, ParamValue]]:
        """Give allowed configurations: sampled ones, sampled ones mended where they broke a constraint, drawn ones."""
        dice = random.Random(seed)
        turn = sum(trial.kind == "outside" for trial in trials) if assignment.kind == "outside" else 0
        broken: list[dict[str, ParamValue]] = []
        for params in self._sampled(assignment, trials, seed, count):
            if assignment.kind == "outside":
                params = self._moved_outside(params, assignment.region, turn, dice)
            if self._space.allows(params):
                yield params
            else:
                broken.append(params)
        anchors = self._anchors(assignment, trials) if self._space.constraints else []
        for params in broken:
            found = mended(self._within(assignment), params, anchors, dice)
            if found is not None and not (assignment.kind == "outside" and _inside(found, assignment.region)):
                yield found

        def draw(dice: random.Random) -> dict[str, ParamValue]:
            params = self._random(assignment, dice)
            if assignment.kind == "outside":
                return self._moved_outside(params, assignment.region, turn, dice)
            return params

        for _ in range(max(_RANDOM_TRIES, 2 * count)):
            drawn = feasible_draw(self._within(assignment), draw, dice, anchors=anchors, tries=_TRIES)
            if drawn is not None:
                yield drawn

    def _anchors(self, assignment: Assignment, trials: Sequence[Trial]) -> list[dict[str, ParamValue]]:
        """Give allowed configurations of the subspace to mend from: those of the newest trials, and the default."""
        space, found = self._within(assignment), []
        for params in (*(t.params for t in trials[-_ANCHORS:]), self._space.default()):
            tuned = {name: params[name] for name in assignment.tuned if name in params}
            anchor = space.complete({**tuned, **assignment.held})
            if space.contains(anchor):
                found.append(anchor)
        return found

    def new_values(self, assignment: Assignment, trials: Sequence[Trial]) -> int | None:
        """Count the subspace's configurations that were not tried; `None` when they can't be counted."""
        configurations = self._grid(assignment)
        if configurations is None:
            return None
        tried = self._tried(trials)
        return sum(not tried(c) for c in configurations)

    def _grid(self, assignment: Assignment) -> list[dict[str, ParamValue]] | None:
        """List the configurations of a subspace; `None` when there are more than 10,000, or infinitely many."""
        space = self._within(assignment)
        found: list[dict[str, ParamValue]] = [{}]
        for name in space.order:
            grown: list[dict[str, ParamValue]] = []
            for params in found:
                if not space.is_active(name, params):
                    grown.append(params)
                    continue
                if name in assignment.tuned:
                    values = space[name].grid()
                    if values is None:
                        return None
                else:
                    values = [assignment.held.get(name, space[name].resolved_default())]
                grown.extend({**params, name: value} for value in values)
                if len(grown) > _GRID_LIMIT:
                    return None
            found = grown
        found = [params for params in found if space.allows(params)]
        if assignment.kind == "outside":
            return [params for params in found if not _inside(params, assignment.region)]
        return found

    def _random(self, assignment: Assignment, dice: random.Random) -> dict[str, ParamValue]:
        space = self._within(assignment)
        params: dict[str, ParamValue] = {}
        for name in space.order:
            if space.is_active(name, params):
                if name in assignment.tuned:
                    params[name] = random_value(space[name], dice)
                else:
                    params[name] = assignment.held.get(name, space[name].resolved_default())
        return {name: params[name] for name in self._space if name in params}

    def _moved_outside(
        self, params: dict[str, ParamValue], region: Region, turn: int, dice: random.Random
    ) -> dict[str, ParamValue]:
        """Give `params` if it lies outside, else with one limited parameter, by turns, drawn outside its range."""
        if not _inside(params, region):
            return params
        drawn = {name: value_outside(self._space[name], region[name], dice) for name in region if name in self._space}
        found = [(name, values[0]) for name, values in drawn.items() if values]
        if not found:
            return params
        name, value = found[turn % len(found)]
        return self._space.complete({**self._activated(params, name, dice), name: value})

    def _activated(self, params: Params, name: str, dice: random.Random) -> dict[str, ParamValue]:
        """Give `params` with the parents of a parameter set so that it is active."""
        changed = dict(params)
        for parent, wanted in self._space[name].when.items():
            changed = self._activated(changed, parent, dice)
            values = list(wanted) if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]
            if parent not in changed or not in_range(changed[parent], {"values": values}):
                changed[parent] = dice.choice(values)
        return changed

    def _tried(self, trials: Sequence[Trial]) -> Callable[[Params], bool]:
        """Give what says whether a configuration is among the trials'; each one's identity is worked out once."""
        here = {trial.id for trial in trials}
        if not here <= self._known:
            for trial in trials:
                if trial.id not in self._known:
                    self._known.add(trial.id)
                    self._ids.setdefault(configuration_key(trial.params), []).append(trial.id)
        return lambda params: any(number in here for number in self._ids.get(configuration_key(params), ()))

    def _within(self, assignment: Assignment) -> SearchSpace:
        """Give the space that an assignment's proposals come from: the limited one, or all of it for `outside`."""
        region = {n: r for n, r in assignment.region.items() if n in assignment.tuned}
        if assignment.kind == "outside" or not region:
            return self._space
        key = repr(sorted(region.items()))
        if key not in self._spaces:
            self._spaces = {} if len(self._spaces) > 100 else self._spaces
            self._spaces[key] = space_within(self._space, region)
        return self._spaces[key]

    def _view(self, assignment: Assignment) -> SamplerView:
        """Give the view of a subspace; one that served neither this round nor the last is dropped."""
        if assignment.round > self._round:
            self._views = {key: view for key, view in self._views.items() if key in self._used}
            self._round, self._used = assignment.round, set()
        region = {} if assignment.kind == "outside" else assignment.region
        alone = assignment.kind == "per_parameter"
        key = (alone, assignment.tuned, configuration_key(assignment.held), repr(sorted(region.items())))
        self._used.add(key)
        if key not in self._views:
            space = self._within(assignment)
            self._views[key] = SamplerView(space, self._goal, assignment.tuned, assignment.held)
        return self._views[key]


def _pending(assignment: Assignment, trials: Sequence[Trial], beside: Sequence[Params]) -> list[Trial]:
    """Give configurations as running trials."""
    first = max((trial.id for trial in trials), default=-1) + 1
    running, kind = TrialState.RUNNING, assignment.kind
    return [
        Trial(number, params, running, 0, assignment.worker, kind, assignment.round)
        for number, params in enumerate(beside, start=first)
    ]


def alike(row: Floats, rows: Floats, encoding: Encoding) -> bool:
    """Say whether one of `rows` is nearly the same configuration: within a thousandth of each range, choices equal."""
    apart = np.where(encoding.categorical, rows != row, np.abs(rows - row))
    one, both = np.isnan(rows) != np.isnan(row), np.isnan(rows) & np.isnan(row)
    return bool((np.where(both, 0.0, np.where(one, 1.0, apart)) < _ALIKE).all(axis=1).any())


def fits(trial: Trial, assignment: Assignment) -> bool:
    """Say whether a worker learns from a trial.

    Its tuned parameters must lie in the worker's region. A worker of one parameter learns from trials with the held
    values only: the others' influence would drown its own. For a group or the joint worker that would throw most of
    the history away: it sees them all, whatever they had where it holds.
    """
    params = trial.params
    if assignment.kind != "outside":
        for name, range_ in assignment.region.items():
            if name in assignment.tuned and name in params and not in_range(params[name], range_):
                return False
    if assignment.kind != "per_parameter":
        return True
    return all(name not in params or params[name] == value for name, value in assignment.held.items())


def _choosy(assignment: Assignment) -> bool:
    """Say whether there may be trials that a worker does not learn from."""
    limited = assignment.kind != "outside" and any(name in assignment.tuned for name in assignment.region)
    return limited or assignment.kind == "per_parameter"


def _inside(params: Params, region: Region) -> bool:
    return all(name not in params or in_range(params[name], range_) for name, range_ in region.items())
