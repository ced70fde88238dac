"""Proposals for a subspace: a sampler, kept from repeating what is tried or running."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from agentic_hpt.records import Assignment, Goal, Params, ParamValue, Proposal, Trial
from agentic_hpt.space import Choice, Parameter, SearchSpace
from agentic_hpt.strategies.view import ConfigurationKey, SamplerView, key_of

_GRID_LIMIT = 10_000
_TRIES = 12
_RANDOM_TRIES = 50


class Proposer:
    """Proposes configurations for assignments of one study. Same trials and seed, same proposal."""

    def __init__(self, space: SearchSpace, goal: Goal) -> None:
        self._space = space
        self._goal = goal
        self._views: dict[tuple[object, ...], SamplerView] = {}
        self._round = -1
        self._keys: dict[int, ConfigurationKey] = {}

    def propose(self, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        """Give a configuration not tried yet, or `None` when the subspace is a grid that is used up."""
        tried = self._tried(trials)
        view = self._view(assignment)
        view.sync([trial for trial in trials if fits(trial, assignment)])
        for attempt in range(_TRIES):
            params = view.propose((seed + attempt) % 2**32)
            if key_of(params) not in tried:
                return Proposal(params, assignment.tuned)
        dice = random.Random(seed)
        for _ in range(_RANDOM_TRIES):
            params = self._random(assignment, dice)
            if key_of(params) not in tried:
                return Proposal(params, assignment.tuned)
        left = [c for c in self.grid(assignment.tuned, assignment.held) or () if key_of(c) not in tried]
        if left:
            return Proposal(left[seed % len(left)], assignment.tuned)
        return None

    def new_values(self, tuned: Sequence[str], held: Params, trials: Sequence[Trial]) -> int | None:
        """Count the subspace's configurations that were not tried; `None` when they can't be counted."""
        configurations = self.grid(tuned, held)
        if configurations is None:
            return None
        tried = self._tried(trials)
        return sum(key_of(c) not in tried for c in configurations)

    def grid(self, tuned: Sequence[str], held: Params) -> list[dict[str, ParamValue]] | None:
        """List the configurations of a subspace; `None` when there are more than 10,000, or infinitely many."""
        found: list[dict[str, ParamValue]] = [{}]
        for name in self._space.order:
            grown: list[dict[str, ParamValue]] = []
            for params in found:
                if not self._space.is_active(name, params):
                    grown.append(params)
                    continue
                if name in tuned:
                    values = self._space[name].grid()
                    if values is None:
                        return None
                else:
                    values = [held[name] if name in held else self._space[name].resolved_default()]
                grown.extend({**params, name: value} for value in values)
                if len(grown) > _GRID_LIMIT:
                    return None
            found = grown
        return found

    def _random(self, assignment: Assignment, dice: random.Random) -> dict[str, ParamValue]:
        params: dict[str, ParamValue] = {}
        for name in self._space.order:
            if self._space.is_active(name, params):
                if name in assignment.tuned:
                    params[name] = random_value(self._space[name], dice)
                else:
                    params[name] = assignment.held.get(name, self._space[name].resolved_default())
        return {name: params[name] for name in self._space if name in params}

    def _tried(self, trials: Sequence[Trial]) -> set[ConfigurationKey]:
        """Give the identities of all configurations; each trial's is worked out once, since it never changes."""
        for trial in trials:
            if trial.id not in self._keys:
                self._keys[trial.id] = key_of(trial.params)
        return {self._keys[trial.id] for trial in trials}

    def _view(self, assignment: Assignment) -> SamplerView:
        if assignment.round != self._round:
            # Views of subspaces around an old incumbent are dead; the joint one grows on.
            self._views = {key: view for key, view in self._views.items() if not key[1]}
            self._round = assignment.round
        key = (assignment.tuned, key_of(assignment.held))
        if key not in self._views:
            self._views[key] = SamplerView(self._space, self._goal, assignment.tuned, assignment.held)
        return self._views[key]


def random_value(parameter: Parameter, dice: random.Random) -> ParamValue:
    """Draw one of a parameter's values, evenly on its scale."""
    if isinstance(parameter, Choice):
        return dice.choice(list(parameter.values))
    if parameter.log:
        drawn = math.exp(dice.uniform(math.log(parameter.low), math.log(parameter.high)))
    else:
        drawn = dice.uniform(parameter.low, parameter.high)
    return parameter.snap(min(max(drawn, parameter.low), parameter.high))


def fits(trial: Trial, assignment: Assignment) -> bool:
    """Say whether a trial lies in an assignment's subspace: its held parameters have the held values."""
    return all(name not in trial.params or trial.params[name] == value for name, value in assignment.held.items())
