"""The ledger: studies, trials, attempts, reports, decisions, model calls and the MLflow outbox in one schema."""

from agentic_hpt.ledger.holding import Hold
from agentic_hpt.ledger.outbox import open_outbox
from agentic_hpt.ledger.store import LedgerStore, StudyRow, StudyStatus
from agentic_hpt.ledger.study_ledger import StudyLedger

__all__ = ["Hold", "LedgerStore", "StudyLedger", "StudyRow", "StudyStatus", "open_outbox"]
