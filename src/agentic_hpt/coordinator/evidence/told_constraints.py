"""What the evidence says of the constraints: what they are, how the trials stand to them, and where they are broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentic_hpt.coordinator.evidence.contrasts import SharedRegion, shared_regions
from agentic_hpt.coordinator.evidence.shortening import cut, short, shortened
from agentic_hpt.outcomes import Standing, breaks, nearest, standings
from agentic_hpt.protocols import Situation
from agentic_hpt.records import JsonObject, OutcomeConstraint, Trial

_MOST = 10
_TEXT = 120
_REGIONS = 3
_UNSURE = 0.9
"""Below this probability that it holds on another seed, a constraint of the best trial is worth a sentence."""


def told_constraints(situation: Situation, best: Trial | None, names: Sequence[str]) -> JsonObject | None:
    """Give at most 10 constraints of each kind, with how the trials and the best one stand to them; `None` for none."""
    goal, inputs = situation.goal, situation.space.constraints
    if not inputs and not goal.constraints:
        return None
    known = standings(goal, situation.trials, best.params if best is not None else None)
    entries = list(zip(goal.constraints, known, strict=True))[:_MOST]
    return {
        "on_parameters": [cut(condition.text, _TEXT) for condition in inputs[:_MOST]],
        "on_outcomes": [
            _entry(number, standing, _where(situation, constraint, names))
            for number, (constraint, standing) in enumerate(entries, start=1)
        ],
    }


def constraint_sentences(situation: Situation, best: Trial | None) -> Iterator[str]:
    """Say what stands in the way: that nothing is feasible yet, what few trials satisfy, what holds by luck."""
    goal = situation.goal
    closest = nearest(goal, situation.trials) if goal.constraints else None
    if closest is None:
        return
    if best is None:
        broken = "; ".join(breaks(goal, closest))
        yield f"No trial satisfies the constraints; trial {closest.id} comes nearest ({broken})."
    for standing in standings(goal, situation.trials, best.params if best is not None else None)[:_MOST]:
        text = cut(standing.text, _TEXT)
        if 2 * standing.satisfied < standing.measured:
            yield f"{standing.satisfied} of {standing.measured} trials satisfy {text!r}: keep to where they lie."
        chance = standing.probability
        if chance is not None and chance < _UNSURE:
            yield f"On another seed the best trial would satisfy {text!r} with a probability of {chance:.0%} only."


def _where(situation: Situation, constraint: OutcomeConstraint, names: Sequence[str]) -> Sequence[SharedRegion]:
    """Find where the trials that break a constraint have in common what the others have not."""
    margins = [(t, m) for t in situation.trials if (m := constraint.margin(t)) is not None]
    broken, kept = [t for t, m in margins if m > 0], [t for t, m in margins if m <= 0]
    return shared_regions(situation.space, names, broken, kept)[:_REGIONS]


def _entry(number: int, standing: Standing, regions: Sequence[SharedRegion]) -> JsonObject:
    return {
        "number": number,
        "text": cut(standing.text, _TEXT),
        "trials": standing.measured,
        "satisfied": standing.satisfied,
        "best_value": short(standing.value),
        "best_broken_by": short(standing.margin),
        "best_holds_on_another_seed": short(standing.probability),
        "broken_where": [
            {
                "parameter": region.parameter,
                "range": shortened(region.range),
                "broken": short(region.failures),
                "kept": short(region.successes),
            }
            for region in regions
        ],
    }
