"""What stopping trials early came to, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from agentic_hpt.fidelity import Halving, rungs, spent
from agentic_hpt.records import Goal, Trial
from agentic_hpt.report.plain import counted

__all__ = ["stopping_sentences"]


def stopping_sentences(goal: Goal, trials: Sequence[Trial], halving: Halving | None) -> tuple[str, ...]:
    """Say how many trials were stopped and went on, what it saved, and where they were compared; often nothing."""
    known = spent(trials)
    if known is None:
        return ()
    share = known.saved / (known.used + known.saved)
    text = f"{counted(known.stopped, 'trial')} stopped early for good"
    if known.promoted:
        text += f", {known.promoted} went on later"
    text += f", {known.complete} ran to their ends"
    found = [f"{text}: {known.used} steps instead of about {known.used + known.saved} ({share:.0%} saved)."]
    if halving is not None:
        came = [f"{len(rung.values)} at {rung.steps}" for rung in rungs(trials, goal, halving)]
        if came:
            found.append(f"Trials were compared after so many steps: {', '.join(came)}.")
    return tuple(found)
