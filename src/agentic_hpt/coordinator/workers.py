"""Which workers the rules have in a round of the strategy `auto`, and on what evidence.

The round is the strategy's, whose arms search all parameters at once. Beside them a group worker tunes parameters that
interact, the others held at the best configuration's values, and workers of single parameters tune those that matter
and of which no interaction is certain. Without such evidence there are none: on `bench/search` workers that every round
had, whatever was known, trebled the regret.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Literal

from agentic_hpt.coordinator.decisions import Spawn
from agentic_hpt.coordinator.evidence.shortening import share
from agentic_hpt.coordinator.statistics import affordable, beyond_noise
from agentic_hpt.coordinator.undo import incumbent
from agentic_hpt.past import Past
from agentic_hpt.protocols import Situation
from agentic_hpt.records import Params, Trial, configuration_key
from agentic_hpt.space import Choice, Parameter, SearchSpace
from agentic_hpt.steering import space_within

_WORKERS = ("group", "per_parameter")
_ARMS = ("joint", "outside", "bridge")
"""The kinds of the trials that the strategy's arms have."""
_USUAL_SHARE = 0.1
_LEAST_SHARE = 0.03
_MOST_SHARE = 0.3
_RECENT = 100
_PRIOR = 30
"""The workers are credited with so many trials that gained as often as all of late: a lucky one moves little."""
_LEAST_TIMED = 5
_MOST_COST = 4.0
"""Trials that take longer are credited at most so many times less, and so many times more at the other end."""
_MOST_INTERACTING = 4
_MATTERS = 0.05
"""A parameter matters from this importance on, less two of its standard deviations."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A worker that the evidence speaks for."""

    kind: Literal["group", "per_parameter"]
    names: tuple[str, ...]
    weight: float
    had: int
    """Trials that such workers had so far."""
    most: float
    """How many it can have until nothing new is left."""
    reason: str


def workers(situation: Situation, taken: int = 0) -> list[Spawn]:
    """Give the workers beside the strategy's own in the next round; `taken` trials of it are given away already."""
    steering = situation.steering
    if not situation.insights.importance:
        return []
    limited = bool(steering.limits)
    best = situation.best_inside() if limited else incumbent(situation)
    if best is None:
        return []
    space = space_within(situation.space, {name: limit.range for name, limit in steering.limits.items()})
    names = tuple(n for n in steering.free(space.names) if n in best.params and _varies(space[n]))
    found = _candidates(situation, space, best.params, names)
    if not found:
        return []
    more = affordable(situation.budget, situation.usage, situation.slots, situation.past)
    part, why = share_of_workers(situation.past, by_time=more.by_time)
    room = min(situation.round_trials, situation.usage.trials_left(situation.budget))
    given: Counter[_Candidate] = Counter()
    for _ in range(min(room - taken, trials_due(situation.past, part, room))):
        open_ = [c for c in found if given[c] < c.most]
        if open_:
            given[min(open_, key=lambda c: (c.had + given[c]) / c.weight)] += 1
    return [
        Spawn(reason=f"{c.reason}; {why}", evidence=(best.id,), worker=c.kind, parameters=c.names, trials=given[c])
        for c in found
        if given[c]
    ]


def trials_due(past: Past, part: float, room: int) -> int:
    """Give how many trials of a round of `room` bring the workers to their share of the newest hundred.

    A small share so comes to one trial every few rounds; what was not given for want of evidence is not made up for.
    """
    recent = _newest(past, max(room, _RECENT - room))
    due = part * (len(recent) + room) - sum(t.kind in _WORKERS for t in recent)
    return max(0, min(math.floor(due + 1e-9), math.ceil(part * room)))


def share_of_workers(past: Past, by_time: bool = False) -> tuple[float, str]:
    """Give the workers' share of the trials, and why: a tenth, more or less as they gain more often than the arms.

    A gain is a trial that bettered the best by more than noise. Only what ran side by side is compared: before there
    were workers gains were cheap. With `by_time`, where time runs out before the trials do, a gain counts the less the
    longer the workers' trials take.
    """
    first = min((t.round for t in past.trials if t.kind in _WORKERS), default=math.inf)
    recent = _newest(past, _RECENT, first)
    mine, arms = ([t for t in recent if t.kind in kinds] for kinds in (_WORKERS, _ARMS))
    if not mine:
        return _USUAL_SHARE, "no worker has a record yet"
    noise = past.noise()
    sd = noise.sd if noise is not None else None
    gained = {number for number, gain in past.improvements().items() if beyond_noise(gain, sd)}
    won, theirs = (sum(t.id in gained for t in some) for some in (mine, arms))
    usual = (won + theirs + 1) / (len(recent) + 1)
    credit = (won / usual + _PRIOR) / (len(mine) + _PRIOR)
    why = f"of late {won} of {len(mine)} trials of such workers bettered the best, and {theirs} of {len(arms)} others"
    cost = _relative_cost(mine, arms) if by_time else None
    if cost is not None:
        credit /= cost
        why = f"{why}; they took {cost:.2g} times the others' seconds, and time is short"
    return min(_MOST_SHARE, max(_LEAST_SHARE, _USUAL_SHARE * credit)), why


def connected(pairs: Sequence[tuple[str, str]]) -> set[str]:
    """Give what the first pair is connected with, at most four parameters: the strongest pairs stand first."""
    joined = set(pairs[0])
    while len(joined) < _MOST_INTERACTING:
        touching = [pair for pair in pairs if len(joined & set(pair)) == 1]
        if not touching:
            break
        joined |= set(touching[0])
    return joined


def _candidates(situation: Situation, space: SearchSpace, best: Params, names: Sequence[str]) -> list[_Candidate]:
    """Give what is worth a worker: the parameters that interact most, and those that matter each for itself."""
    insights, trials = situation.insights, situation.trials
    found: list[_Candidate] = []
    pairs = [(i.a, i.b) for i in insights.interactions if i.a in names and i.b in names]
    if pairs:
        joined = connected(pairs)
        tuned = tuple(n for n in names if n in joined)
        had = sum(t.kind == "group" and not joined.isdisjoint(t.tuned) for t in trials)
        strongest = next(i for i in insights.interactions if (i.a, i.b) == pairs[0])
        strength = share(strongest.strength, strongest.sd)
        reason = f"{', '.join(tuned)} depend on each other (strength up to {strength})"
        weight = sum(insights.importance.get(n, 0.0) for n in tuned) or 1.0
        found.append(_Candidate("group", tuned, weight, had, math.inf, reason))
    interacting = {n for i in insights.interactions for n in (i.a, i.b)}
    own = Counter(t.tuned[0] for t in trials if t.kind == "per_parameter" and t.tuned)
    for name in names:
        if name in interacting or len(names) < 2 or insights.sure(name) < _MATTERS:
            continue
        told = share(insights.importance[name], insights.importance_sd.get(name, 0.0))
        ran = f"{own[name]} trial{'s' * (own[name] != 1)} of its own so far"
        reason = f"importance {told}, no interaction of it is certain, {ran}"
        most = _new_values(space, best, name, trials)
        found.append(_Candidate("per_parameter", (name,), insights.importance[name], own[name], most, reason))
    return found


def _newest(past: Past, count: int, first: float = 0) -> list[Trial]:
    kinds = (*_WORKERS, *_ARMS)
    return list(islice((t for t in reversed(past.finished) if t.kind in kinds and t.round >= first), count))


def _relative_cost(mine: Sequence[Trial], arms: Sequence[Trial]) -> float | None:
    """Give how many times the seconds of the arms' trials the workers' took; `None` where too few have told them."""
    taken = [[t.seconds for t in some if t.seconds] for some in (mine, arms)]
    if any(len(seconds) < _LEAST_TIMED for seconds in taken):
        return None
    return min(_MOST_COST, max(1 / _MOST_COST, fmean(taken[0]) / fmean(taken[1])))


def _new_values(space: SearchSpace, params: Params, name: str, trials: Sequence[Trial]) -> float:
    """Count a parameter's values that were not tried with the others as they are in `params`."""
    values = space[name].grid()
    if values is None:
        return math.inf
    plain = [(n, value) for n, value in params.items() if n != name and not space[n].when]
    near = [t.params for t in trials if all(t.params.get(n) == value for n, value in plain)]
    tried = {configuration_key(other) for other in near}
    return sum(configuration_key(space.complete({**params, name: value})) not in tried for value in values)


def _varies(parameter: Parameter) -> bool:
    if isinstance(parameter, Choice):
        return len(parameter.values) > 1
    return parameter.low < parameter.high
