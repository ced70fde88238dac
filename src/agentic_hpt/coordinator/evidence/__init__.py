"""The evidence: what the logged runs say, bounded in size whatever the history, and the same for the same runs.

It holds values, kinds and places, never a trial's message: those may hold paths and secrets. Names, descriptions and
notes in it are data; nothing in the rendered text can close the fence around it.
"""

from agentic_hpt.coordinator.evidence.building import build_evidence
from agentic_hpt.coordinator.evidence.history import MAX_TRIALS, describe_progress, select_trials
from agentic_hpt.coordinator.evidence.keeping import kept
from agentic_hpt.coordinator.evidence.rendering import evidence_id, render
from agentic_hpt.coordinator.evidence.told_decisions import MAX_NOTES

__all__ = [
    "MAX_NOTES",
    "MAX_TRIALS",
    "build_evidence",
    "describe_progress",
    "evidence_id",
    "kept",
    "render",
    "select_trials",
]
