"""Whether to go on is worth it: what the rest of the budget may still bring, against the noise and against its cost.

What may still be gained is told from above: the surrogate's expected gain of a round, or, without a surrogate, what the
spacing of the best values lets expect of further draws (an exponential tail: Weissman 1978), each with its own doubt on
top, and never less than the last trials brought. How good that is on public tasks is in `docs/benchmarks.md`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentic_hpt.coordinator.statistics import Noise, affordable, noise_in
from agentic_hpt.protocols import Situation

_LEAST = 25
_LEAST_A_PARAMETER = 5
_LEAST_PART = 1 / 3
"""Nothing ends before so many complete configurations, and this part of the budget."""
_TOP = 10
_LEAST_TOP = 4
_DOUBT = 1.64
"""So many SDs stand on top of what is expected: it is less with a chance of 19 in 20."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """What going on may bring at most, in the metric's unit."""

    trials: int
    """That the budget still lets."""
    gain: float
    """Of all of them."""
    round_trials: int
    round_gain: float
    """Of one more round."""
    by: Literal["surrogate", "the best values", "the last trials"]
    """What it rests on."""
    noise: Noise | None
    enough: bool
    """Whether there is evidence enough to end anything on it."""


def prospect(situation: Situation) -> Prospect | None:
    """Say what the rest of the budget may bring; `None` where that can't be said.

    So it is with few trials, where nothing is left, where no trial satisfies the constraints, and with several
    objectives.
    """
    goal, past = situation.goal, situation.past
    left = affordable(situation.budget, situation.usage, situation.slots, past).trials
    if goal.merges is not None or left < 1:
        return None
    losses = past.losses()
    if losses is None:
        allowed = goal.satisfying(t for t in past.complete if t.counted)
        estimates = goal.estimates(allowed)
        sign = -1.0 if goal.direction == "maximize" else 1.0
        losses = [sign * estimates.get(t.id, t.values[goal.metric]) for t in allowed if t.kind != "repeat"]
    if len(losses) < 3 * _LEAST_TOP:
        return None
    of_round = min(situation.round_trials, left)
    outlook = situation.insights.outlook
    by: Literal["surrogate", "the best values", "the last trials"]
    if outlook is not None:
        round_gain = outlook.gain + _DOUBT * outlook.sd
        gain, by = round_gain * math.ceil(left / of_round), "surrogate"
    else:
        round_gain, gain, by = _of_draws(losses, of_round), _of_draws(losses, left), "the best values"
    lately = _lately(losses, left)
    if lately * left > gain:
        gain, round_gain, by = lately * left, max(round_gain, lately * of_round), "the last trials"
    noise = noise_in(past)
    return Prospect(left, gain, of_round, round_gain, by, noise, _enough(situation, len(losses)))


def no_gain(situation: Situation, found: Prospect | None) -> str | None:
    """Say why the search should end although budget is left; `None` while it should go on, or nobody asked."""
    if situation.stop is None or found is None or not found.enough:
        return None
    expected = f"the {found.trials} trials left may bring at most {found.gain:.3g} (by {_told(found)})"
    least, what = floor(situation, found)
    if found.gain < least:
        return f"{expected}, less than {what}, {least:.3g}"
    cost, worth = round_cost(situation), round_worth(situation, found)
    if cost is None or worth is None or worth >= cost:
        return None
    return (
        f"the next {found.round_trials} trials may bring at most {found.round_gain:.3g} (by {_told(found)}), worth "
        f"{worth:.3g} dollars, and cost {cost:.3g} dollars"
    )


def round_cost(situation: Situation) -> float | None:
    """Give the dollars that one more round costs by the median seconds of a trial; `None` while one isn't known."""
    rate = situation.stop.dollars_per_hour if situation.stop is not None else None
    median = situation.past.median_seconds()
    if rate is None or median is None:
        return None
    left = affordable(situation.budget, situation.usage, situation.slots, situation.past).trials
    hours = min(situation.round_trials, left) * median / situation.slots / 3600
    return hours * rate


def round_worth(situation: Situation, found: Prospect) -> float | None:
    """Give the dollars that the most of one more round's gain is worth."""
    worth = situation.stop.dollars_per_gain if situation.stop is not None else None
    return None if worth is None else found.round_gain * worth


def floor(situation: Situation, found: Prospect) -> tuple[float, str]:
    """Give the gain that is not worth going on for, and what makes it so: what was asked for, or measured noise."""
    asked = situation.stop.min_gain if situation.stop is not None else None
    noise = found.noise.sd if found.noise is not None else 0.0
    return (asked, "stop.min_gain") if asked is not None and asked >= noise else (noise, "the noise of one run")


def _told(found: Prospect) -> str:
    return found.by if found.by != "surrogate" else "the surrogate"


def _of_draws(losses: Sequence[float], more: int) -> float:
    """Give by how much `more` further draws may better the best, if they are as good as those so far."""
    top = min(_TOP, len(losses) // 3)
    best = heapq.nsmallest(top + 1, losses)
    scale = math.fsum(best[top] - loss for loss in best[:top]) / top
    return scale * (1 + _DOUBT / math.sqrt(top)) * math.log(1 + more / len(losses))


def _lately(losses: Sequence[float], left: int) -> float:
    """Give what a trial brought of late: as many trials as are left are looked at, a third to a half of all."""
    window = min(max(left, len(losses) // 3), len(losses) // 2)
    return max(0.0, min(losses[:-window]) - min(losses)) / window


def _enough(situation: Situation, configurations: int) -> bool:
    budget, usage = situation.budget, situation.usage
    parts = [usage.trials / budget.trials] if budget.trials else []
    parts += [usage.seconds / (budget.minutes * 60)] if budget.minutes else []
    least = max(_LEAST, _LEAST_A_PARAMETER * len(situation.space))
    return configurations >= least and max(parts, default=0.0) >= _LEAST_PART
