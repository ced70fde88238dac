"""How a round's trials are divided among the arms: by what each earned, with a floor."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from agentic_hpt.records import Arm, Goal, Trial
from agentic_hpt.space import Choice, SearchSpace
from agentic_hpt.strategies.history import of_arm

_USUAL: Mapping[Arm, float] = {"gp": 0.53, "local": 0.27, "niche": 0.05, "tpe": 0.10, "cmaes": 0.05}
"""What each arm brought on the tasks that the constants were chosen on, as shares."""
_FLOOR = 0.02
"""The share of trials that an arm keeps whatever it brought."""
_GOLDEN = (5**0.5 - 1) / 2
_RECENT = 60
_PRIOR = 30.0
_STALLED = 8.0
_PATIENCE = 15
_LEAST_GAIN = 0.001
_FIRST = 10
_LEAST_TIMED = 5
_MOST_COST = 4.0
_PRIOR_WON = 0.1
"""Together the arms are credited with 30 trials, a tenth of them gains, divided as usual."""


def arms_for(space: SearchSpace, goal: Goal) -> tuple[Arm, ...]:
    """Name the arms whose assumptions hold.

    CMA-ES knows numbers that are always active, and one objective; with several there is no one incumbent to leave.
    """
    plain = not any(p.when or (isinstance(p, Choice) and not p.ordered) for p in map(space.__getitem__, space))
    left_out = {"niche", "cmaes"} if goal.several else set() if plain and len(space) > 1 else {"cmaes"}
    return tuple(arm for arm in _USUAL if arm not in left_out)


@dataclass(frozen=True)
class Credit:
    """What an arm's newest trials brought, and took."""

    gains: int = 0
    trials: int = 0
    seconds: float | None = None
    """Of a trial, on the mean; `None` where that isn't known of five of them."""


def gains(goal: Goal, trials: Sequence[Trial]) -> set[int]:
    """Give the trials that bettered what was best before them.

    They do so by more than the noise that repeats showed, and by more than a thousandth of what the best is ahead of
    the first ten trials' median: the last digits of a basin that is known are no gain, nor is the luck of a repeat.
    """
    order = sorted((t for t in trials if t.finished and t.kind != "imported"), key=lambda t: t.id)
    figures = {t.id: f for t in order if t.kind != "repeat" and (f := goal.figure(t)) is not None}
    losses = {number: -f if goal.direction == "maximize" else f for number, f in figures.items()}
    least = _least_gain(goal, order, list(losses.values()))
    found: set[int] = set()
    best: float | None = None
    for number, loss in losses.items():
        if best is not None and loss < best - least:
            found.add(number)
        best = loss if best is None or loss < best - least else best
    return found


def credits(arms: Sequence[Arm], trials: Sequence[Trial], gained: Collection[int]) -> dict[Arm, Credit]:
    """Give each arm's credit among the newest sixty trials of all arms."""
    ran = (t for t in trials if t.finished and any(of_arm(t, arm) for arm in arms))
    own = sorted(ran, key=lambda t: t.id)[-_RECENT:]
    mine = {arm: [t for t in own if of_arm(t, arm)] for arm in arms}
    return {arm: Credit(sum(t.id in gained for t in its), len(its), _mean(its)) for arm, its in mine.items()}


def stalled(trials: Sequence[Trial], gained: Collection[int]) -> bool:
    """Say whether the newest trials that tried something new brought no gain."""
    tried = sorted(t.id for t in trials if t.finished and t.kind not in ("imported", "repeat"))
    return len(tried) > _PATIENCE and not any(number in gained for number in tried[-_PATIENCE:])


def _least_gain(goal: Goal, trials: Sequence[Trial], losses: Sequence[float]) -> float:
    if not losses:
        return 0.0
    noise = goal.noise(trials) if goal.merges is None else None
    return max(noise.sd if noise is not None else 0.0, _LEAST_GAIN * (median(losses[:_FIRST]) - min(losses)))


def _mean(trials: Sequence[Trial]) -> float | None:
    known = [t.seconds for t in trials if t.seconds is not None]
    return fmean(known) if len(known) >= _LEAST_TIMED else None


def shares(
    arms: Sequence[Arm], credit: Mapping[Arm, Credit], stalled: bool = False, by_time: bool = False
) -> dict[Arm, float]:
    """Give each arm's share of the trials; they sum to 1.

    Where the search has stalled, it is time to look away from the incumbent: the niche gets more. With `by_time`, where
    minutes are what runs out, a gain counts the less the longer the arm's trials take.
    """
    whole = sum(_USUAL[arm] for arm in arms)
    timed = [c.seconds for c in credit.values() if c.seconds]
    rates = {}
    for arm in arms:
        usual, earned = _USUAL[arm] / whole, credit[arm]
        usual *= _STALLED if stalled and arm == "niche" else 1.0
        rate = (earned.gains + _PRIOR_WON * _PRIOR * usual) / (earned.trials + _PRIOR * usual) / _PRIOR_WON
        if by_time and earned.seconds and timed:
            rate /= min(_MOST_COST, max(1 / _MOST_COST, earned.seconds / fmean(timed)))
        rates[arm] = usual * rate
    total = sum(rates.values())
    return {arm: _FLOOR + (1 - len(arms) * _FLOOR) * rate / total for arm, rate in rates.items()}


def divided(room: int, wanted: Mapping[Arm, float], had: Mapping[Arm, int]) -> dict[Arm, int]:
    """Divide a round's trials so that over all rounds each arm comes to its share; leave out those without a trial."""
    given = dict.fromkeys(wanted, 0)
    total = sum(had.values())
    for _ in range(room):
        total += 1
        arm = max(given, key=lambda a: wanted[a] * total - had.get(a, 0) - given[a])
        given[arm] += 1
    return {arm: count for arm, count in given.items() if count}


def by_turn(arms: Sequence[Arm], turn: int) -> Arm:
    """Give the arm of a trial where nobody keeps count: by its number, each as often as usual, well mixed."""
    place = turn * _GOLDEN % 1.0 * sum(_USUAL[arm] for arm in arms)
    for arm in arms:
        place -= _USUAL[arm]
        if place < 0:
            return arm
    return arms[0]
