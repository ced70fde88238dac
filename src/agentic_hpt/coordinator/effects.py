"""Stated and real effects of a study as it stands, for reports: they hold no situation."""

from __future__ import annotations

from collections.abc import Sequence

from agentic_hpt.config import StudyConfig
from agentic_hpt.coordinator.undo import Effect, effects
from agentic_hpt.protocols import Situation
from agentic_hpt.records import DecisionRecord, Trial, Usage


def stated_effects(
    config: StudyConfig,
    usage: Usage,
    trials: Sequence[Trial],
    decisions: Sequence[DecisionRecord],
    noise: float | None = None,
    since: int = 0,
) -> tuple[Effect, ...]:
    """Give what the accepted actions were to bring, and what they have brought, as of the last decision.

    `noise` is the SD over seeds that a gain is held against; by default the one that the policy knows. Decisions before
    the round `since` are left out: they were about a space that was revised.
    """
    decisions = [decision for decision in decisions if decision.round >= since]
    return effects(
        Situation(
            study=config.study,
            round=decisions[-1].round if decisions else 0,
            goal=config.goal,
            space=config.space,
            budget=config.limits_of_study,
            usage=usage,
            slots=config.slots,
            round_trials=config.round_trials,
            trials=tuple(trials),
            decisions=tuple(decisions),
            strategy=config.strategy,
        ),
        noise,
    )
