"""The report of a study: findings as plain data, figures, and one self-contained page."""

from agentic_hpt.report.html import write_report
from agentic_hpt.report.summary import Findings, summarize

__all__ = ["Findings", "summarize", "write_report"]
