"""How far trials went: their curves, the rungs at which successive halving compares them, and who stands where.

Plain reading of trials, so that the pruner, the planner of promotions, the evidence and the report say the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from agentic_hpt.errors import FailureKind
from agentic_hpt.records import Goal, Trial, TrialState

Curve = Mapping[int, float]
"""A metric by step."""

MEASURING_TRIALS = 3
"""So many complete trials say how long a trial is; before that there are no rungs."""
_NEWEST = 1000
_RUNGS = 2
"""Below the end of a typical trial, where `min_steps` does not say where they begin."""


@dataclass(frozen=True, slots=True)
class Halving:
    """Asynchronous successive halving (Li et al. 2020, MLSys): its settings."""

    eta: int = 3
    """At a rung the best 1 / eta go on, and rungs lie a factor of eta apart."""
    min_steps: int | None = None
    """The first rung, in steps; without it, it is measured by the length of the first complete trials."""
    promote: bool = True
    """Whether a stopped trial goes on once it belongs to the best 1 / eta of its rung."""


@dataclass(frozen=True, slots=True)
class Rung:
    """Where trials are compared, and what each of those that came so far had there, by number."""

    steps: int
    values: Mapping[int, float]
    passed: frozenset[int]
    """Those of them that went on."""

    def goes_on(self, trial: int, goal: Goal, eta: int) -> bool:
        """Say whether a trial that comes goes on: the best so far does, others of the best 1 / eta while there is room.

        Without looking at the room, a search that finds ever better trials would stop next to none.
        """
        mine = self.values[trial]
        better = sum(goal.better(value, mine) for value in self.values.values())
        return better == 0 or (better < self._places(eta) and len(self.passed - {trial}) < self._places(eta))

    def waiting(self, goal: Goal, eta: int) -> list[int]:
        """Give who may go on later: the best of those that did not, while there is room; of equals, the earliest."""
        sign = -1.0 if goal.direction == "maximize" else 1.0
        order = sorted(self.values, key=lambda trial: (sign * self.values[trial], trial))[: self._places(eta)]
        return [trial for trial in order if trial not in self.passed][: max(0, self._places(eta) - len(self.passed))]

    def best(self, goal: Goal) -> float | None:
        """Give the best value at it."""
        values = self.values.values()
        return max(values, default=None) if goal.direction == "maximize" else min(values, default=None)

    def _places(self, eta: int) -> int:
        return len(self.values) // eta


@dataclass(frozen=True, slots=True)
class Spent:
    """What a study's trials took in steps, and what stopping them early has saved."""

    used: int
    saved: int
    """Steps that stopped trials did not run, by the length of the complete ones."""
    stopped: int
    """Trials that were stopped and did not go on later."""
    promoted: int
    complete: int


def curve_of(trial: Trial, metric: str, known: Mapping[int, Trial]) -> Curve:
    """Give a trial's metric by step, behind what the trials it goes on from reported; `known` are trials by number."""
    chain = [trial]
    while chain[-1].continues is not None and chain[-1].continues in known:
        chain.append(known[chain[-1].continues])
    return {r.step: r.metrics[metric] for one in reversed(chain) for r in one.reports if metric in r.metrics}


def steps_done(curve: Curve, step: int | None = None) -> int:
    """Give how many steps a curve has behind it at a step, by default its last; counting may begin at 0 or at 1."""
    if not curve:
        return 0
    return (max(curve) if step is None else step) + (min(curve) == 0)


def value_at(curve: Curve, steps: int) -> float | None:
    """Give the value of the first report that had so many steps behind it; `None` for a curve that ends before."""
    shift = steps_done(curve, 0)
    found = min((step for step in curve if step + shift >= steps), default=None)
    return None if found is None else curve[found]


def rung_steps(lengths: Sequence[int], halving: Halving) -> tuple[int, ...]:
    """Give the rungs, lowest first, by the lengths of the first complete trials; none while these are too few.

    A study need not say how long its trials are: rungs lie below the length of a typical one.
    """
    if len(lengths) < MEASURING_TRIALS:
        return ()
    typical = int(statistics.median(lengths[:MEASURING_TRIALS]))
    if halving.min_steps is None:
        found = {round(typical / halving.eta**k) for k in range(1, _RUNGS + 1)}
    else:
        found = {halving.min_steps * halving.eta**k for k in range(typical.bit_length())}
    return tuple(sorted(steps for steps in found if 0 < steps < typical))


def rungs(trials: Sequence[Trial], goal: Goal, halving: Halving) -> list[Rung]:
    """Give the rungs, lowest first, with who of the newest 1,000 came to each; `trials` are in order of their numbers.

    Of trials that go on from one another the newest stands for all; one that was given up before its first report never
    went on. A complete one that breaks an outcome constraint has no place there: it can't be the best.
    """
    counting = (t for t in trials if t.kind not in ("imported", "repeat"))
    known = {t.id: t for t in counting if t.reports or t.failure is not FailureKind.CANCELLED}
    complete = [t for t in known.values() if t.state is TrialState.COMPLETE]
    lengths = (steps_done(curve_of(t, goal.metric, known)) for t in complete)
    found = rung_steps(list(islice((length for length in lengths if length), MEASURING_TRIALS)), halving)
    continued = {t.continues for t in known.values()}
    barred = {t.id for t in complete if not goal.feasible(t)} if goal.constraints else set()
    newest = [t for t in known.values() if t.id not in continued and t.id not in barred][-_NEWEST:]
    curves = {t.id: curve_of(t, goal.metric, known) for t in newest}
    on_their_way = {t.id for t in newest if t.continues is not None and not t.finished}
    return [rung_of(curves, steps, on_their_way) for steps in found]


def rung_of(curves: Mapping[int, Curve], steps: int, going_on: Collection[int] = ()) -> Rung:
    """Give the rung at so many steps; who reported more than once from there on went on, and so did `going_on`."""
    came = {i: value for i, curve in curves.items() if (value := value_at(curve, steps)) is not None}
    return Rung(steps, came, frozenset(i for i in came if i in going_on or not ends_at(curves[i], steps)))


def ends_at(curve: Curve, steps: int) -> bool:
    """Say whether a curve ends with the first report that has so many steps behind it."""
    shift = steps_done(curve, 0)
    return sum(step + shift >= steps for step in curve) == 1


def spent(trials: Iterable[Trial]) -> Spent | None:
    """Give what the trials of the search took in steps; `None` where none was stopped or none complete has reported."""
    lengths: dict[int, int] = {}
    firsts: dict[int, int] = {}
    states: dict[int, TrialState] = {}
    promoted: set[int] = set()
    used = 0
    for trial in sorted((t for t in trials if t.counted), key=lambda t: t.id):
        before = 0
        if trial.continues is not None:
            promoted.add(trial.continues)
            before = lengths.get(trial.continues, 0)
            firsts[trial.id] = firsts.get(trial.continues, 1)
        states[trial.id], lengths[trial.id] = trial.state, before
        if trial.reports:
            first = firsts.setdefault(trial.id, trial.reports[0].step)
            lengths[trial.id] = trial.reports[-1].step + (first == 0)
        used += lengths[trial.id] - before
    complete = [lengths[i] for i, state in states.items() if state is TrialState.COMPLETE]
    whole = [length for length in complete if length]
    stopped = [i for i, state in states.items() if state is TrialState.PRUNED]
    if not stopped or not whole:
        return None
    typical = int(statistics.median(whole))
    ended = [lengths[i] for i in stopped if i not in promoted]
    saved = sum(max(0, typical - length) for length in ended)
    return Spent(used, saved, len(ended), len(promoted), len(complete))
