"""The graph's edges, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from langgraph.graph import END, START, StateGraph

from agentic_hpt.graph.context import PartsOf
from agentic_hpt.graph.nodes import Nodes
from agentic_hpt.graph.state import StudyInput, StudyState
from agentic_hpt.records import Budget

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph

Node = Callable[..., Awaitable[StudyState]]

_STEPS_PER_ROUND = 4
_STEPS_AROUND = 10


def build_graph(
    parts_of: PartsOf, checkpointer: BaseCheckpointSaver[str] | None = None, watch: Callable[[Node], Node] = lambda n: n
) -> CompiledStateGraph[StudyState, None, StudyInput, StudyState]:
    """Wire the loop. `parts_of` gives a study's live parts to the nodes; `watch` may wrap each node."""
    nodes = Nodes(parts_of)
    graph = StateGraph(StudyState, input_schema=StudyInput)
    graph.add_node("define_parameters", watch(nodes.define_parameters))
    graph.add_node("start_workers", watch(nodes.start_workers))
    graph.add_node("tune", watch(nodes.tune))
    graph.add_node("coordinator", watch(nodes.coordinator))
    graph.add_node("review", watch(nodes.review))
    graph.add_node("finalize", watch(nodes.finalize))
    graph.add_edge(START, "define_parameters")
    graph.add_conditional_edges("define_parameters", nodes.begin, ["coordinator", "start_workers"])
    graph.add_conditional_edges("start_workers", nodes.dispatch, ["tune", "coordinator"])
    graph.add_edge("tune", "coordinator")
    graph.add_conditional_edges("coordinator", nodes.route, ["review", "start_workers", "finalize"])
    graph.add_conditional_edges("review", nodes.route_reviewed, ["start_workers", "finalize"])
    graph.add_edge("finalize", END)
    return graph.compile(checkpointer=checkpointer, name="agentic-hpt")


def flush_traces(seconds: float) -> None:
    """Send what LangSmith tracing still holds, for at most `seconds`; its own thread ends with the process."""
    from langchain_core.tracers.langchain import wait_for_all_tracers

    flush = threading.Thread(target=wait_for_all_tracers, daemon=True)
    flush.start()
    flush.join(seconds)


def recursion_limit(budget: Budget) -> int:
    """Give a limit of supersteps that no study within its budget can meet: a round has at least one trial."""
    rounds = budget.trials if budget.trials is not None else 1_000_000
    return _STEPS_PER_ROUND * rounds + _STEPS_AROUND
