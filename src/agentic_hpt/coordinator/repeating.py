"""Which configurations the rules run again, so that luck is not taken for merit.

The best by estimated mean and its challengers race each other as in LUCB (Kalyanakrishnan et al. 2012): while their
intervals overlap whichever ran less often runs again, so none takes over on one lucky run, and what is decided costs
nothing more. What the sizes rest on is in `docs/benchmarks.md` under "Noise".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agentic_hpt.coordinator.decisions import Repeat
from agentic_hpt.coordinator.statistics import affordable, noise_in
from agentic_hpt.past import Past
from agentic_hpt.protocols import Situation
from agentic_hpt.records import Trial, TrialState
from agentic_hpt.shrinkage import Prior

MAX_RUNS = 5
"""How often one configuration may run in all."""
SHARE = 0.15
"""The part of a study's trials that may be the rules' repeats."""
LATE_SHARE = 0.5
"""The part of each of the last rounds that may be repeats."""
_LEAST_FOR_NOISE = 24
_LEAST_RUNS = 2
_TOO_FEW_FOR_NONE = 2
"""Noise is held to be none when so many repeats gave the same value: one may by chance."""
_EACH = 8
"""One repeat in a round, and one more for each eight further trials."""
_LATE_ROUNDS = 2
_REACH = 1.0
"""An interval reaches so many SDs of the estimate to either side."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A configuration in the race, by its first trial; losses: less is better."""

    trial: Trial
    runs: int
    loss: float
    sd: float

    @property
    def low(self) -> float:
        return self.loss - _REACH * self.sd

    @property
    def high(self) -> float:
        return self.loss + _REACH * self.sd


def confirmation(situation: Situation) -> list[Repeat]:
    """Run configurations again: at first the best to measure the noise, then whatever may be the best."""
    past = situation.past
    if past.counts[TrialState.COMPLETE] + past.counts[TrialState.PRUNED] < _LEAST_FOR_NOISE:
        return []
    noise = noise_in(past)
    if noise is not None and noise.sd == 0 and noise.repeats >= _TOO_FEW_FOR_NONE:
        return []
    allowed = past.inside(situation.space)
    best = allowed.best()
    room = min(_room(situation), _most(situation) - _own_repeats(situation))
    if best is None or room < 1:
        return []
    if noise is None:
        reason = "no configuration ran twice yet: how much of a value is luck is not known"
        return [Repeat(reason=reason, evidence=(best.id,), trial=best.id, seeds=1)]
    if noise.sd == 0:
        again = {t.id for same in allowed.runs() for t in same}
        once = next((t for t in allowed.ranked() if t.id not in again), None)
        if once is None:
            return []
        reason = f"{noise.repeats} repeat gave the same value, by chance perhaps: another one tells"
        return [Repeat(reason=reason, evidence=(once.id,), trial=once.id, seeds=1)]
    racing = _race(_candidates(allowed, noise.sd, room + 1), best)
    return [_repeat(candidate, racing[0], noise.sd) for candidate in racing if candidate.runs < MAX_RUNS][:room]


def _candidates(allowed: Past, sd: float, most: int) -> list[_Candidate]:
    """Give the configurations that ran again, and the `most` best of those that ran once: the others come too late."""
    metric, sign = allowed.goal.metric, -1.0 if allowed.goal.direction == "maximize" else 1.0
    groups = allowed.runs()
    means = [sign * math.fsum(t.values[metric] for t in same) / len(same) for same in groups]
    again = {t.id for same in groups for t in same}
    once = sorted((sign * t.values[metric], t.id, t) for t in allowed.complete if t.id not in again)
    prior = Prior.of([*means, *(loss for loss, *_ in once)], sd)
    found = [
        _Candidate(same[0], len(same), prior.estimate(mean, len(same)), prior.doubt(len(same)))
        for same, mean in zip(groups, means, strict=True)
    ]
    last = prior.estimate(once[:most][-1][0], 1) if once else 0.0
    for loss, _, trial in once:
        told = prior.estimate(loss, 1)
        if told > last:
            break
        found.append(_Candidate(trial, 1, told, prior.doubt(1)))
    return found


def _race(candidates: Sequence[_Candidate], best: Trial) -> list[_Candidate]:
    """Give those whose order is open, the one to run again first leading; empty when the best is clear."""
    leader = min(candidates, key=lambda c: (c.trial.params != best.params, c.loss, c.trial.id))
    behind = sorted((c for c in candidates if c is not leader), key=lambda c: (c.low, c.trial.id))
    open_ = [c for c in behind if c.low < leader.high]
    if leader.runs < _LEAST_RUNS or (open_ and leader.runs <= open_[0].runs):
        return [leader, *open_]
    return [open_[0], leader, *open_[1:]] if open_ else []


def _repeat(candidate: _Candidate, first: _Candidate, sd: float) -> Repeat:
    ran = f"ran {candidate.runs} time{'s' * (candidate.runs != 1)}"
    reason = f"trial {candidate.trial.id} may be the best and {ran}; the noise is {sd:.3g}, so it is not decided yet"
    return Repeat(reason=reason, evidence=(candidate.trial.id,), trial=candidate.trial.id, seeds=1)


def _room(situation: Situation) -> int:
    """Give how many repeats the next round may have: few, but half of each of the last rounds."""
    whole = min(situation.round_trials, situation.usage.trials_left(situation.budget))
    left = affordable(situation.budget, situation.usage, situation.slots, situation.past).trials
    late = left <= _LATE_ROUNDS * situation.round_trials
    return min(whole, max(1, int(LATE_SHARE * whole) if late else whole // _EACH))


def _most(situation: Situation) -> int:
    """Give how many of a study's trials may be the rules' repeats."""
    whole = situation.budget.trials if situation.budget.trials is not None else situation.usage.trials
    return max(_TOO_FEW_FOR_NONE, int(SHARE * whole))


def _own_repeats(situation: Situation) -> int:
    """Count the repeats that the rules asked for; a model's don't use up what they may have."""
    own = {
        (decision.round + 1, f"repeat-{action.detail['trial']}")
        for decision in situation.decisions
        for action in decision.actions
        if action.type == "repeat" and action.verdict != "refused" and "rules" in (decision.kind, action.by)
    }
    return sum(t.kind == "repeat" and (t.round, t.worker) in own for t in situation.trials)
