"""Which workers the rules have in a round of the strategy `auto`, and on what evidence.

A round is divided between exploring (a joint worker over all that is free) and refining the best configuration: a group
worker in its neighbourhood, and workers of single parameters, which try all values of one while the others are held.
What the division and the sizes rest on was found on `bench/search`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from agentic_hpt.coordinator.decisions import RegionPart, Repeat, Spawn
from agentic_hpt.coordinator.statistics import affordable, improvements, noise_sd
from agentic_hpt.protocols import Situation
from agentic_hpt.records import Goal, Params, Trial, TrialState, configuration_key
from agentic_hpt.space import Choice, Float, Int, Parameter, SearchSpace
from agentic_hpt.steering import space_within

_ARMS = {"joint": ("joint", "outside", "bridge"), "group": ("group",), "per_parameter": ("per_parameter",)}
"""The kinds of workers whose trials are credited to each arm."""
_LEAST_TRIALS = 20
"""Before so many complete trials there is nothing worth refining; where few can be afforded, before half of them."""
_FEWEST_TRIALS = 6
_FEWEST_EACH = 2
"""But never before six complete trials, or two a parameter."""
_LEAST_TIMED = 5
_MOST_COST = 4.0
"""An arm whose trials take longer is credited at most so many times less, and so many times more at the other end."""
_LEAST_SHARE = 0.15
"""The part of a round that each arm keeps whatever it brought."""
_RECENT = 40
_PRIOR = 20
_PRIOR_WON = 2.0
"""Each arm is credited with 20 trials of which two were gains: a few lucky ones move the shares little."""
_RADIUS = 0.2
_LEAST_RADIUS = 0.05
_MOST_RADIUS = 0.3
_SHRINK = 0.7
_GROW = 1.4
_PATIENCE = 8
"""The group looks nearer after so many trials without a gain."""
_MOST_TOGETHER = 100
_MOST_INTERACTING = 4
_MOST_VALUES = 400
_SINGLE = 4
"""At most so many workers of single parameters in a round."""
_LEAST_FOR_NOISE = 24
_LEAST_RUNS = 2
_RUNS = 3
_CLEAR = 4.0
"""The best runs a third time unless it is ahead of the best tenth by so many SDs of the noise."""
_FIRST_REPEATS = 2
_REPEATS_SHARE = 0.1


def workers(situation: Situation, taken: int = 0) -> list[Spawn]:
    """Give the workers that refine the best configuration in the next round; what they leave over explores.

    `taken` trials of the round are given away already.
    """
    goal, steering = situation.goal, situation.steering
    complete = [t for t in situation.trials if goal.value(t) is not None]
    inside = [t for t in complete if steering.holds(t.params) and situation.space.contains(t.params)]
    best = goal.best(inside)
    if best is None:
        return []
    space = space_within(situation.space, {name: limit.range for name, limit in steering.limits.items()})
    names = tuple(n for n in steering.free(space.names) if n in best.params and _varies(space[n]))
    more = affordable(situation.budget, situation.usage, situation.slots, situation.trials)
    least = least_trials(len(names), situation.usage.trials + more.trials)
    if not names or _told(situation) < least:
        return []
    shares, why = shares_of_arms(goal, situation.trials, by_time=more.by_time)
    if least < _LEAST_TRIALS:
        why = f"{why}; refined from {least} trials on, as about {situation.usage.trials + more.trials} fit the budget"
    room = min(situation.round_trials, situation.usage.trials_left(situation.budget))
    alone = len(names) == 1
    group = 0 if alone else min(round(shares["group"] * room), room - taken)
    singly = shares["per_parameter"] + (shares["group"] if alone else 0.0)
    found: list[Spawn] = []
    if group:
        tuned, region, reason = _together(situation, space, best, names)
        found.append(
            Spawn(
                reason=f"{reason}; {why}",
                evidence=(best.id,),
                worker="group",
                parameters=tuned,
                trials=group,
                region=region,
            )
        )
    open_ = {n: new for n in names if (new := _new_values(space, best.params, n, situation.trials))}
    for name, count, reason in _singles(situation, open_, min(round(singly * room), room - taken - group)):
        found.append(
            Spawn(reason=reason, evidence=(best.id,), worker="per_parameter", parameters=(name,), trials=count)
        )
    return found


def least_trials(parameters: int, affordable: int) -> int:
    """Give how many complete trials it takes until the best is refined, if a study can afford so many in all."""
    fewest = max(_FEWEST_TRIALS, _FEWEST_EACH * parameters)
    return min(_LEAST_TRIALS, max(fewest, affordable // 2))


def shares_of_arms(goal: Goal, trials: Sequence[Trial], by_time: bool = False) -> tuple[dict[str, float], str]:
    """Give the share of a round for each arm, by how often its trials bettered the best of late.

    Only what ran side by side is compared: before there was something to refine, gains were cheap. With `by_time`,
    where time runs out before the trials do, a gain counts the less the longer the arm's trials take.
    """
    refining = [t.round for t in trials if t.kind in ("group", "per_parameter")]
    first = min(refining, default=math.inf)
    recent = sorted((t for t in trials if t.finished and t.round >= first), key=lambda t: t.id)[-_RECENT:]
    better = improvements(goal, trials)
    costs = _relative_costs(recent) if by_time else {}
    rates, told = {}, []
    for arm, kinds in _ARMS.items():
        mine = [t for t in recent if t.kind in kinds]
        won = sum(t.id in better for t in mine)
        rates[arm] = (won + _PRIOR_WON) / (len(mine) + _PRIOR) / costs.get(arm, 1.0)
        told.append(f"{arm} in {won} of {len(mine)}")
    free = 1 - len(_ARMS) * _LEAST_SHARE
    whole = sum(rates.values())
    shares = {arm: _LEAST_SHARE + free * rate / whole for arm, rate in rates.items()}
    if not any(t.kind in kinds for t in recent for kinds in _ARMS.values()):
        return shares, "no worker has a record yet"
    why = f"of late the best was bettered by {', '.join(told)} trials"
    if costs:
        took = ", ".join(f"{arm} {factor:.2g}" for arm, factor in costs.items())
        why = f"{why}, which took {took} times the mean seconds, and time is short"
    return shares, why


def _relative_costs(trials: Sequence[Trial]) -> dict[str, float]:
    """Give how many times the mean seconds each arm's trials took; nothing where they are not known of every arm."""
    taken = {arm: [t.seconds for t in trials if t.kind in kinds and t.seconds] for arm, kinds in _ARMS.items()}
    if any(len(seconds) < _LEAST_TIMED for seconds in taken.values()):
        return {}
    mean = fmean(s for seconds in taken.values() for s in seconds)
    return {arm: min(_MOST_COST, max(1 / _MOST_COST, fmean(seconds) / mean)) for arm, seconds in taken.items()}


def _together(
    situation: Situation, space: SearchSpace, best: Trial, names: Sequence[str]
) -> tuple[tuple[str, ...], tuple[RegionPart, ...], str]:
    """Choose what the group worker tunes: parameters that interact, every other round, else all near the best."""
    pairs = [(i.a, i.b) for i in situation.insights.interactions if i.a in names and i.b in names]
    if pairs and situation.round % 2:
        joined = connected(pairs)
        strongest = situation.insights.interactions[0].strength
        reason = f"{', '.join(sorted(joined))} depend on each other (strength up to {strongest:.0%})"
        return tuple(n for n in names if n in joined), (), reason
    radius = refining_radius(situation.goal, situation.trials)
    importance = situation.insights.importance
    chosen = set(sorted(names, key=lambda n: -importance.get(n, 0.0))[:_MOST_TOGETHER])
    tuned = tuple(n for n in names if n in chosen)
    region = neighbourhood(space, best.params, tuned, radius)
    return tuned, region, f"within {radius:.0%} of each range around trial {best.id}, the best"


def connected(pairs: Sequence[tuple[str, str]]) -> set[str]:
    """Give what the first pair is connected with, at most four parameters: the strongest pairs stand first."""
    joined = set(pairs[0])
    while len(joined) < _MOST_INTERACTING:
        touching = [pair for pair in pairs if len(joined & set(pair)) == 1]
        if not touching:
            break
        joined |= set(touching[0])
    return joined


def refining_radius(goal: Goal, trials: Sequence[Trial]) -> float:
    """Give how far from the best the group worker looks: farther after a gain, nearer after trials without one."""
    better = improvements(goal, trials)
    radius, without = _RADIUS, 0
    for trial in sorted((t for t in trials if t.kind == "group" and t.finished), key=lambda t: t.id):
        without = 0 if trial.id in better else without + 1
        if trial.id in better:
            radius = min(_MOST_RADIUS, radius * _GROW)
        elif without == _PATIENCE:
            radius, without = max(_LEAST_RADIUS, radius * _SHRINK), 0
    return radius


def neighbourhood(space: SearchSpace, params: Params, names: Sequence[str], radius: float) -> tuple[RegionPart, ...]:
    """Give the region within `radius` (a share of each range, on its scale) around a configuration.

    Values without an order have no neighbours: such a parameter is not limited. An ordered one has at least one
    neighbour on either side.
    """
    found: list[RegionPart] = []
    for name in names:
        parameter = space[name]
        if isinstance(parameter, Choice):
            if parameter.ordered:
                reach = min(_MOST_VALUES, max(1, round(radius * (len(parameter.values) - 1))))
                here = parameter.index(params[name])
                values = tuple(parameter.values[max(0, here - reach) : here + reach + 1])
                found.append(RegionPart(parameter=name, values=values))
        else:
            low, high = _around(parameter, float(params[name]), radius)  # type: ignore[arg-type]
            found.append(RegionPart(parameter=name, low=low, high=high))
    return tuple(found)


def _around(parameter: Float | Int, value: float, radius: float) -> tuple[float, float]:
    low, high = parameter.low, parameter.high
    if parameter.log:
        factor = (high / low) ** radius
        below, above = value / factor, value * factor
    else:
        below, above = value - radius * (high - low), value + radius * (high - low)
    step = parameter.step
    if step is not None:
        below, above = min(below, value - step), max(above, value + step)
    return max(low, below), min(high, above)


def _singles(situation: Situation, open_: Mapping[str, float], trials: int) -> list[tuple[str, int, str]]:
    """Choose the parameters that get a worker of their own: those that had the fewest trials for their importance.

    `open_` says how many values each has that are new beside the best configuration's.
    """
    importance = situation.insights.importance
    had = Counter(t.tuned[0] for t in situation.trials if t.kind == "per_parameter" and t.tuned)
    weights = {n: 1 / len(situation.space) + importance.get(n, 0.0) for n in open_}
    order = sorted(open_, key=lambda n: had[n] / weights[n])[: min(_SINGLE, trials)]
    found = []
    for place, name in enumerate(order):
        count = int(min(-(-trials // (len(order) - place)), open_[name]))
        trials -= count
        told = f"importance {importance[name]:.0%}" if name in importance else "importance not known yet"
        found.append((name, count, f"{told}, {had[name]} trial{'s' * (had[name] != 1)} of its own so far"))
    return found


def _new_values(space: SearchSpace, params: Params, name: str, trials: Sequence[Trial]) -> float:
    """Count a parameter's values that were not tried with the others as they are in `params`."""
    values = space[name].grid()
    if values is None:
        return math.inf
    tried = {configuration_key(t.params) for t in trials}
    return sum(configuration_key(space.complete({**params, name: value})) not in tried for value in values)


def _varies(parameter: Parameter) -> bool:
    if isinstance(parameter, Choice):
        return len(parameter.values) > 1
    return parameter.low < parameter.high


def confirmation(situation: Situation) -> list[Repeat]:
    """Run the best configuration again where noise may have made it the best: at first to measure the noise."""
    goal = situation.goal
    complete = [t for t in situation.trials if goal.value(t) is not None]
    best = goal.best(complete)
    if best is None or _told(situation) < _LEAST_FOR_NOISE:
        return []
    sd = noise_sd(complete, goal)
    if sd is None:
        reason = "no configuration ran twice yet: how much of a value is luck is not known"
        return [Repeat(reason=reason, evidence=(best.id,), trial=best.id, seeds=1)]
    groups: dict[object, list[float]] = {}
    for trial in complete:
        groups.setdefault(configuration_key(trial.params), []).append(goal.value(trial) or 0.0)
    runs = len(groups[configuration_key(best.params)])
    repeated = _own_repeats(situation)
    if sd == 0 or repeated >= _FIRST_REPEATS + _REPEATS_SHARE * len(complete):
        return []
    means = sorted((math.fsum(v) / len(v) for v in groups.values()), reverse=goal.direction == "maximize")
    ahead = abs(means[0] - means[min(len(means) - 1, max(1, len(means) // 10))])
    if runs >= (_RUNS if ahead <= _CLEAR * sd else _LEAST_RUNS):
        return []
    ran = f"ran {runs} time{'s' * (runs != 1)}"
    reason = f"trial {best.id}, the best, {ran}; the noise is {sd:.3g}, the best tenth within {ahead:.3g} of it"
    return [Repeat(reason=reason, evidence=(best.id,), trial=best.id, seeds=1)]


def _own_repeats(situation: Situation) -> int:
    """Count the repeats that the rules asked for; a model's don't use up what they may have."""
    own = {
        (decision.round + 1, f"repeat-{action.detail['trial']}")
        for decision in situation.decisions
        for action in decision.actions
        if action.type == "repeat" and action.verdict != "refused" and "rules" in (decision.kind, action.by)
    }
    return sum(t.kind == "repeat" and (t.round, t.worker) in own for t in situation.trials)


def _told(situation: Situation) -> int:
    """Count the trials that say where it is good: pruned ones do too, failed ones don't."""
    return sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in situation.trials)
