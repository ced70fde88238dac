"""pymoo 0.6.1's loops over individuals, written over arrays: HEBO spends four fifths of its time in them.

The same random numbers are drawn in the same order and the same operations are made of them, so a run's trials are the
same, to the last digit; only its CPU time is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pymoo.core.individual import Individual, default_config
from pymoo.core.mixed import MixedVariableDuplicateElimination, MixedVariableMating
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.variable import Choice, get

_ABSENT = object()


def install() -> None:
    """Put them in pymoo's place, in this process."""
    shared = default_config()
    Individual.default_config = staticmethod(lambda: shared)  # nobody changes it
    Individual.get = _get
    Individual.feasible = property(lambda self: self.FEAS)  # without a warning each time
    Population.__new__ = staticmethod(_population)
    MixedVariableMating._do = _mated
    MixedVariableDuplicateElimination._do = _duplicates


def _get(self: Individual, *keys: str) -> object:
    found = []
    for key in keys:
        value = getattr(self, key, _ABSENT)
        found.append(self.data.get(key) if value is _ABSENT else value)
    return found[0] if len(found) == 1 else tuple(found)


def _population(cls: type[Population], individuals: Sequence[Individual] | Individual = ()) -> Population:
    if isinstance(individuals, Individual):
        individuals = [individuals]
    if not len(individuals) or isinstance(individuals, np.ndarray):
        return np.array(list(individuals)).view(cls)
    found = np.empty(len(individuals), dtype=object)
    found[:] = individuals
    return found.view(cls)


def _mated(
    self: MixedVariableMating,
    problem: Problem,
    pop: Population,
    n_offsprings: int,
    parents: bool = False,
    **kwargs: object,
) -> Population:
    groups: dict[type, list[str]] = {}
    for name, variable in problem.vars.items():
        groups.setdefault(type(variable), []).append(name)
    parts: list[tuple[type, list[str]]] = []
    for kind, names in groups.items():
        parts += [(kind, [name]) for name in names] if kind is Choice else [(kind, names)]
    found: list[dict[str, object]] = [{} for _ in range(n_offsprings)]
    if not parents:
        pop = self.selection(problem, pop, math.ceil(n_offsprings / 2), 2, **kwargs)
    told = [[individual.X for individual in mating] for mating in pop]
    for kind, names in parts:
        part = _part(problem, tuple(names))
        values = np.array(
            [[[params[name] for name in names] for params in mating] for mating in told],
            dtype="O" if kind is Choice else None,
        )
        crossed = _crossed(self.crossover[kind], part, values, kwargs)
        changed = _mutated(self.mutation[kind], part, crossed, kwargs)
        for params, row in zip(found, changed, strict=False):
            params.update(zip(names, row, strict=True))
    offspring = Population.empty(n_offsprings)
    for individual, params in zip(offspring, found, strict=True):
        individual._X = params
    return offspring


def _part(problem: Problem, names: tuple[str, ...]) -> Problem:
    """Give the problem of some of the variables; made once."""
    known = problem.data.setdefault("parts", {})
    if names not in known:
        low, high = (np.array([getattr(problem.vars[n], end, None) for n in names]) for end in ("lb", "ub"))
        known[names] = Problem(vars={name: problem.vars[name] for name in names}, xl=low, xu=high)
    return known[names]


def _crossed(crossover: object, problem: Problem, values: NDArray, kwargs: dict[str, object]) -> NDArray:
    """See `Crossover.do`: `values` are (matings, parents, variables), of which each two have two offspring."""
    values = np.swapaxes(values, 0, 1)
    if crossover.vtype is not None:
        values = values.astype(crossover.vtype)
    matings = values.shape[1]
    chance = get(crossover.prob, size=matings)
    which = np.random.random(matings) < chance
    found = np.copy(values)
    if np.any(which):
        found[:, which] = crossover._do(problem, values, **kwargs)[:, which]
    return _repaired(crossover, problem, found.reshape(-1, values.shape[-1]))


def _mutated(mutation: object, problem: Problem, values: NDArray, kwargs: dict[str, object]) -> NDArray:
    """See `Mutation.do`."""
    changed = mutation._do(problem, values, **kwargs)
    chance = get(mutation.prob, size=len(values))
    which = np.random.random(size=len(values)) <= chance
    found = np.where(which[:, None], changed, values)
    return _repaired(mutation, problem, found)


def _repaired(operator: object, problem: Problem, values: NDArray) -> NDArray:
    """See `Operator.__call__`."""
    if operator.vtype is not None:
        values = values.astype(operator.vtype)
    return operator.repair._do(problem, values) if operator.repair is not None else values


def _duplicates(
    self: MixedVariableDuplicateElimination, pop: Population, other: Population | None, is_duplicate: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """See `ElementwiseDuplicateElimination._do`: what equals a later one of its own, or one of the others."""
    keys = [_key(individual) for individual in pop]
    if other is None:
        last = {key: place for place, key in enumerate(keys)}
        return np.array([last[key] > place for place, key in enumerate(keys)])
    known = {_key(individual) for individual in other}
    is_duplicate[[place for place, key in enumerate(keys) if key in known]] = True
    return is_duplicate


def _key(individual: Individual) -> tuple[object, ...]:
    """Give what equals another's where its values do; they never change once it was looked for among others."""
    known = individual.data
    if "key" not in known:
        params = individual._X
        known["key"] = tuple(params[name] for name in sorted(params))
    return known["key"]
