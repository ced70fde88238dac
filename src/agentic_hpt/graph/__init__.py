"""The loop as a LangGraph graph: define_parameters, start_workers, tune by Send, coordinator, review, finalize."""

from agentic_hpt.graph.agreeing import ledger_is_behind
from agentic_hpt.graph.build import build_graph, flush_traces, recursion_limit
from agentic_hpt.graph.context import StudyParts
from agentic_hpt.graph.state import StudyState

__all__ = ["StudyParts", "StudyState", "build_graph", "flush_traces", "ledger_is_behind", "recursion_limit"]
