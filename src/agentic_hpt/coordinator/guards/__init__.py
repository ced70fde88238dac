"""The policy, as pure functions: what must happen, and what may. No model can pass by it.

`must_finalize` says when the search is over whatever anybody wants; `options` what could be accepted now; `judge` gives
the verdict on each action of a decision: accepted, repaired, or refused, always with the reason.
"""

from agentic_hpt.coordinator.guards.judging import judge, judge_both
from agentic_hpt.coordinator.guards.offering import options
from agentic_hpt.coordinator.guards.policy import StoppedBy, must_finalize, plateau

__all__ = ["StoppedBy", "judge", "judge_both", "must_finalize", "options", "plateau"]
