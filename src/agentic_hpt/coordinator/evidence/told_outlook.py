"""What going on may bring, as the evidence tells it: advice where the study does not end by it."""

from __future__ import annotations

from collections.abc import Iterator

from agentic_hpt.coordinator.evidence.shortening import short
from agentic_hpt.coordinator.termination import Prospect, floor, round_cost, round_worth
from agentic_hpt.protocols import Situation
from agentic_hpt.records import JsonObject


def told_outlook(situation: Situation, found: Prospect | None) -> JsonObject | str:
    """Give what is left, what it may bring at most, and what it is held against."""
    if found is None:
        return "not worked out: too few trials, or nothing is left"
    least, what = floor(situation, found)
    entry: JsonObject = {
        "trials_left": found.trials,
        "gain_at_most": short(found.gain),
        "gain_of_a_round_at_most": short(found.round_gain),
        "by": found.by,
        "held_against": {"gain": short(least), "which_is": what},
        "evidence_enough": found.enough,
        "ends_the_search": situation.stop is not None,
    }
    cost, worth = round_cost(situation), round_worth(situation, found)
    if cost is not None and worth is not None:
        entry["dollars_of_a_round"] = {"cost": short(cost), "worth_at_most": short(worth)}
    return entry


def outlook_sentences(situation: Situation, found: Prospect | None) -> Iterator[str]:
    """Say that going on is hardly worth it, where it is not and there is evidence enough."""
    if found is None or not found.enough:
        return
    least, what = floor(situation, found)
    if found.gain < least:
        yield (
            f"The {found.trials} trials left may bring at most {found.gain:.3g}, less than {what}, {least:.3g}: to go "
            "on is hardly worth it."
        )
