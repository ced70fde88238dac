"""The ledger: studies, trials, attempts, reports, decisions, model calls and the MLflow outbox in one schema."""

from agentic_hpt.ledger.outbox import open_outbox
from agentic_hpt.ledger.store import LedgerStore, StudyRow
from agentic_hpt.ledger.study_ledger import StudyLedger

__all__ = ["LedgerStore", "StudyLedger", "StudyRow", "open_outbox"]
