"""What befell a study from outside, in sentences: lost workers, and what persons changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from agentic_hpt.records import Change, LostAttempt
from agentic_hpt.refitting import Revision
from agentic_hpt.report.plain import counted, number

_MOST_NAMED = 10
_FIGURES = (("mean over fresh seeds", "mean"), ("holdout", "holdout"))


def lost_sentences(lost: Sequence[LostAttempt]) -> list[str]:
    """Tell of attempts whose workers were lost; nothing where none was."""
    if not lost:
        return []
    trials = sorted({attempt.trial for attempt in lost})
    named = ", ".join(map(str, trials[:_MOST_NAMED])) + (", …" if len(trials) > _MOST_NAMED else "")
    were, their = ("was", "its worker") if len(lost) == 1 else ("were", "their workers")
    whose = f"trial{'' if len(trials) == 1 else 's'} {named}"
    last = " ".join(lost[-1].message.split())[:200]
    return [f"{counted(len(lost), 'attempt')} {were} lost with {their} (of {whose}), the last one because: {last}."]


def change_sentences(changes: Sequence[Change]) -> list[str]:
    """Tell of what persons changed, and of the ends behind which the study went on."""
    return [_changed(change) for change in changes if change.told]


def revision_sentences(revisions: Sequence[Revision]) -> list[str]:
    """Tell of what persons changed of the space."""
    return [_headed(revision.created, revision.by, revision.trials, revision.told) for revision in revisions]


def _headed(created: float, by: str, trials: int, told: str) -> str:
    when = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{when}, {by}, behind {counted(trials, 'trial')}: {told}."


def _changed(change: Change) -> str:
    head = _headed(change.created, change.by, change.trials, change.told)
    if not change.reopens:
        return head
    final = change.final or {}
    figures = [f"{name} {number(final[key])}" for name, key in _FIGURES if final.get(key) is not None]
    with_ = f", with {', '.join(figures)}," if figures else ""
    return f"{head} The study had ended{with_} and went on."
