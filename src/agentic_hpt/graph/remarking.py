"""What the objective says of how it runs trials: told once a run, kept once a study."""

from __future__ import annotations

import time

from agentic_hpt.config import mask_secrets
from agentic_hpt.graph.context import StudyParts
from agentic_hpt.records import Change

_MOST = 10
"""Of one run: an objective that says something else of every batch says nothing."""
_SHOWN = 500


def remark(parts: StudyParts, text: str) -> None:
    """Tell a remark that was not told before, and have it kept. For the event loop's thread."""
    text = mask_secrets(" ".join(text.split()))[:_SHOWN]
    if text in parts.remarked or len(parts.remarked) >= _MOST:
        return
    parts.remarked.add(text)
    parts.emit({"type": "notice", "text": text})
    parts.brain.submit(_keep, parts, text)  # no trial waits for it; a ledger that fails says so to others


def _keep(parts: StudyParts, text: str) -> None:
    if any(change.told == text for change in parts.ledger.changes()):
        return
    decided = max((decision.round for decision in parts.ledger.decisions()), default=0)
    begun = len(parts.ledger.trials())
    parts.ledger.record_change(Change("remark", text, "the objective", time.time(), decided, begun))
