"""What all strategies share when they plan a round: what the decisions ask for, shares of trials, the joint worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from agentic_hpt.protocols import Situation
from agentic_hpt.records import Arm, Assignment, DecisionRecord, Params, ParamValue, Range, Region, configuration_key
from agentic_hpt.space import Choice, SearchSpace
from agentic_hpt.steering import Spawn, Steering, space_within
from agentic_hpt.strategies.promoting import promotions
from agentic_hpt.strategies.proposing import Proposer

_OUTSIDE_SHARE = 10
"""One of so many trials goes to where the limits don't let the others look."""


@dataclass(frozen=True)
class Begun:
    """A round as far as the decisions say it: its first workers, and the trials that are left for the strategy's."""

    workers: list[Assignment]
    room: int
    steering: Steering


def limits_of(steering: Steering) -> dict[str, Range]:
    """Give the ranges of all limited parameters, frozen ones too."""
    return {name: limit.range for name, limit in steering.limits.items()}


def incumbent(situation: Situation, steering: Steering) -> dict[str, ParamValue]:
    """Give the configuration that workers hold on to: the best complete trial's inside the limits, else the default.

    While every trial breaks an outcome constraint, it is that of the one that breaks them least.
    """
    best = situation.best_inside()
    if best is None and situation.goal.constraints:
        inside = [t for t in situation.trials if steering.holds(t.params) and situation.space.contains(t.params)]
        best = next(iter(situation.goal.ranked(inside)), None)
    if best is not None:
        return dict(best.params)
    return space_within(situation.space, limits_of(steering)).default()


def begin(situation: Situation, decision: DecisionRecord | None, proposer: Proposer) -> Begun:
    """Plan what comes first: queued configurations, repeats, promotions, a look outside the limits, spawned workers."""
    room = min(situation.round_trials, situation.usage.trials_left(situation.budget))
    steering = situation.steering
    outside = outside_worker(situation, steering, proposer, room)
    left = room - sum(a.trials for a in outside)
    found: list[Assignment] = []
    for worker in (*queued(situation, decision), *repeats(situation, decision), *promotions(situation, room)):
        fits = worker.queue[: max(0, left)]
        if fits:
            found.append(replace(worker, queue=fits, trials=len(fits), continues=worker.continues[: len(fits)]))
            left -= len(fits)
    found += outside
    names = _Names(found)
    for spawn in steering.spawns if decision is not None else ():
        spawned = _spawned(situation, steering, proposer, spawn, left, names)
        if spawned is not None:
            found.append(spawned)
            left -= spawned.trials
    return Begun(found, left, steering)


def queued(situation: Situation, decision: DecisionRecord | None) -> list[Assignment]:
    """Give the workers for configurations decided beforehand: default, given ones, accepted proposals."""
    found: list[Assignment] = []
    names = situation.space.names
    proposed = [a for a in (decision.actions if decision else ()) if a.type == "propose" and a.verdict != "refused"]
    waiting = situation.waiting
    if situation.round and not waiting and not proposed:
        return found
    tried = {configuration_key(trial.params) for trial in situation.trials if trial.round <= situation.round}
    if situation.round == 0:
        default = situation.space.default()
        if configuration_key(default) not in tried:
            tried.add(configuration_key(default))
            found.append(Assignment("default", "default", 1, 1, names, queue=(default,), reason="the declared default"))
    given = [params for params in waiting if configuration_key(params) not in tried]
    if given:
        tried.update(configuration_key(params) for params in given)
        worker = Assignment("initial", "initial", situation.round + 1, len(given), names, queue=tuple(given))
        found.append(replace(worker, reason="to run first: given, or the best of earlier studies"))
    queue: list[Params] = []
    for action in proposed:
        for params in cast(list[Params], action.detail.get("configurations", [])):
            if configuration_key(params) not in tried:
                tried.add(configuration_key(params))
                queue.append(params)
    if queue:
        worker = Assignment("proposals", "proposals", situation.round + 1, len(queue), names, queue=tuple(queue))
        found.append(replace(worker, reason="the coordinator's proposals"))
    return found


def repeats(situation: Situation, decision: DecisionRecord | None) -> list[Assignment]:
    """Give a worker for each trial that is to run again on fresh seeds."""
    wanted: dict[int, int] = {}
    for action in decision.actions if decision else ():
        if action.type == "repeat" and action.verdict != "refused":
            number = cast(int, action.detail["trial"])
            wanted[number] = wanted.get(number, 0) + cast(int, action.detail["seeds"])
    known = {trial.id: trial.params for trial in situation.trials}
    return [
        Assignment(
            f"repeat-{number}",
            "repeat",
            situation.round + 1,
            seeds,
            situation.space.names,
            queue=(known[number],) * seeds,
            reason=f"trial {number} again on fresh seeds",
        )
        for number, seeds in wanted.items()
        if number in known
    ]


def outside_worker(situation: Situation, steering: Steering, proposer: Proposer, room: int) -> list[Assignment]:
    """Give the worker that keeps looking where the limits keep the others away; none while there are no limits.

    A round of one trial can't be shared: there it gets every tenth round, and all once nothing is new inside.
    """
    if not steering.limits or room <= 0:
        return []
    if room == 1 and (situation.round + 1) % _OUTSIDE_SHARE:
        inside = _over_all(situation, steering, 1, "inside the limits")
        if _at_most_new(inside, situation, proposer):
            return []
    worker = Assignment(
        "outside",
        "outside",
        situation.round + 1,
        -(-room // _OUTSIDE_SHARE),
        situation.space.names,
        region=limits_of(steering),
        reason=f"outside the limits of {', '.join(steering.limits)}",
    )
    return _at_most_new(worker, situation, proposer)


def joint_worker(
    situation: Situation, begun: Begun, proposer: Proposer, trials: int, reason: str, workers: Sequence[Assignment] = ()
) -> list[Assignment]:
    """Add a worker that tunes all free parameters at once to those of a round; gives the whole round.

    A joint worker that was spawned with the same limits takes the trials over.
    """
    found, steering = [*begun.workers, *workers], begun.steering
    worker = _over_all(situation, steering, max(0, trials), reason)
    same = next((a for a in found if a.kind == "joint" and a.region == worker.region), None)
    if same is not None:
        more = _at_most_new(replace(same, trials=same.trials + worker.trials), situation, proposer)
        found = [other for a in found for other in (more if a is same else [a])]
    else:
        worker = replace(worker, worker=_Names(found).free("joint", "joint"))
        found += _at_most_new(worker, situation, proposer)
    return [replace(a, revision=steering.revision) for a in found]


def arm_workers(
    situation: Situation, begun: Begun, proposer: Proposer, trials: Mapping[Arm, int], reasons: Mapping[Arm, str]
) -> list[Assignment]:
    """Add a worker over all free parameters for each arm with trials to those of a round; gives the whole round."""
    found, steering, names = list(begun.workers), begun.steering, _Names(begun.workers)
    for arm, count in trials.items():
        worker = replace(_over_all(situation, steering, count, reasons[arm]), worker=arm, arm=arm)
        found += _at_most_new(replace(worker, worker=names.free("joint", arm)), situation, proposer)
    return [replace(a, revision=steering.revision) for a in found]


def bridge_worker(situation: Situation, proposer: Proposer) -> Assignment | None:
    """Give the worker that keeps free slots busy while stragglers finish or a coordinator thinks."""
    worker = _over_all(situation, situation.steering, situation.round_trials, "keeps free slots busy")
    found = _at_most_new(worker, situation, proposer)
    return replace(found[0], worker="bridge", kind="bridge") if found else None


def shared(workers: Sequence[Assignment], room: int, weights: Sequence[int], turn: int) -> list[Assignment]:
    """Divide `room` trials by weights among workers, none above its own trials; where there are too few, take turns."""
    if not workers or room <= 0:
        return []
    turn = turn % len(workers) if room < len(workers) else 0
    order = [*range(turn, len(workers)), *range(turn)]
    given = [0] * len(workers)
    for _ in range(min(room, sum(a.trials for a in workers))):
        open_ = [i for i in order if given[i] < workers[i].trials]
        given[min(open_, key=lambda i: given[i] / weights[i])] += 1
    return [replace(workers[i], trials=given[i]) for i in order if given[i]]


def _over_all(situation: Situation, steering: Steering, trials: int, reason: str) -> Assignment:
    names = steering.free(situation.space.names)
    return Assignment(
        "joint", "joint", situation.round + 1, trials, names, steering.frozen, region=steering.region, reason=reason
    )


def _spawned(
    situation: Situation, steering: Steering, proposer: Proposer, spawn: Spawn, room: int, names: _Names
) -> Assignment | None:
    """Give the worker that a decision asks for, within the limits; `None` when there is nothing new for it, or no room.

    Parameters that are frozen, or play no part where the others are held, are left out.
    """
    space = situation.space
    base = incumbent(situation, steering)
    free = steering.free(space.names)
    if spawn.kind == "joint":
        tuned, held, base_name = free, steering.frozen, "joint"
    else:
        tuned = tuple(n for n in free if n in spawn.parameters and _within_reach(space, base, n, spawn))
        held = {**steering.frozen, **{n: v for n, v in base.items() if n not in tuned}}
        base_name = tuned[0] if spawn.kind == "per_parameter" and tuned else "group"
    if not tuned or (spawn.kind == "per_parameter" and len(tuned) != 1):
        return None
    region = _both(space, steering.region, {n: r for n, r in spawn.region.items() if n in tuned})
    worker = Assignment(
        names.free(spawn.kind, base_name),
        spawn.kind,
        situation.round + 1,
        min(spawn.trials, room),
        tuned,
        held,
        region={n: r for n, r in region.items() if n in tuned},
        reason=spawn.reason,
    )
    found = _at_most_new(worker, situation, proposer)
    if found:
        names.take(found[0])
    return found[0] if found else None


def _within_reach(space: SearchSpace, base: Params, name: str, spawn: Spawn) -> bool:
    """Say whether a parameter is active, or a parent that the same worker tunes can make it so."""
    return name in base or any(parent in spawn.parameters for parent in space[name].when)


def _at_most_new(worker: Assignment, situation: Situation, proposer: Proposer) -> list[Assignment]:
    """Cut a worker to what its subspace still holds; none when that is nothing."""
    new = proposer.new_values(worker, situation.trials)
    trials = worker.trials if new is None else min(worker.trials, new)
    return [replace(worker, trials=trials)] if trials > 0 else []


def _both(space: SearchSpace, limits: Region, wanted: Region) -> dict[str, Range]:
    """Give the ranges that lie in both regions; where they don't meet, the limits stand."""
    found: dict[str, Range] = dict(limits)
    for name, range_ in wanted.items():
        if name not in space:
            continue
        limited = space_within(space, {name: limits[name]})[name] if name in limits else space[name]
        if isinstance(limited, Choice):
            values = [v for v in limited.values if v in cast(Sequence[ParamValue], range_.get("values", ()))]
            if values:
                found[name] = {"values": values}
            continue
        low = max(limited.low, cast(float, range_.get("low", limited.low)))
        high = min(limited.high, cast(float, range_.get("high", limited.high)))
        if limited.snap(low) <= limited.snap(high) and low <= high:
            found[name] = {"low": low, "high": high}
    return found


class _Names:
    """The names that workers of a round have; each kind has its own."""

    def __init__(self, workers: Sequence[Assignment]) -> None:
        self._taken = {(a.kind, a.worker) for a in workers}

    def free(self, kind: str, name: str) -> str:
        """Give `name`, or with a number behind it the first that is free; groups are numbered from 1."""
        number = 1
        wanted = "group-1" if kind == "group" else name
        while (kind, wanted) in self._taken:
            number += 1
            wanted = f"{name}-{number}"
        return wanted

    def take(self, worker: Assignment) -> None:
        """Note that a name is given away."""
        self._taken.add((worker.kind, worker.worker))
