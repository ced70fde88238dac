"""What `langgraph.json` points at: the same graph, its live parts opened from the run's input.

The input form holds the fields of a study file; `{"objective": {"task": "wine"}}` is enough. The server brings its own
checkpointer. A study's parts live in the server's process from its first node to its last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, cast

from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError
from agentic_hpt.graph import build_graph
from agentic_hpt.graph.state import StudyInput
from agentic_hpt.records import FinalReport
from agentic_hpt.study import Study

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    from agentic_hpt.graph.context import StudyParts
    from agentic_hpt.graph.state import StudyState


class ServerStudies:
    """The studies that run in this server process, by their unique ids."""

    def __init__(self) -> None:
        self._open: dict[str, StudyParts] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def parts_of(self, state: Mapping[str, object]) -> StudyParts:
        """Give a study's parts; for an input without an id, make the study that it describes."""
        uid = state.get("uid")
        if isinstance(uid, str) and uid in self._open:
            return self._open[uid]
        study = await asyncio.to_thread(_reopen if isinstance(uid, str) else _create, state)

        async def finished(final: FinalReport | None) -> None:
            await study.record_end(final)
            parts = self._open.pop(study.uid)
            # The node that calls this is one of the parts' users: they are closed when it has returned.
            closing = asyncio.get_running_loop().create_task(_close(study, parts))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

        parts = await asyncio.to_thread(study.open_parts, finished)
        self._open[study.uid] = parts
        await parts.start()
        return parts


def _create(state: Mapping[str, object]) -> Study:
    fields = {k: state[k] for k in StudyInput.__annotations__ if state.get(k) is not None}
    if not fields.get("objective"):
        raise ConfigError("the input names no objective", 'start with {"objective": {"task": "wine"}}')
    fields.setdefault("study", f"studio-{datetime.now():%Y%m%d-%H%M%S}")
    return Study.create(StudyConfig.from_mapping(fields, where="input"))


def _reopen(state: Mapping[str, object]) -> Study:
    return Study.by_uid(cast(str, state["uid"]))


async def _close(study: Study, parts: StudyParts) -> None:
    await parts.close()
    study.close()


@cache
def _studies() -> ServerStudies:
    return ServerStudies()


def graph() -> CompiledStateGraph[StudyState, None, StudyInput, StudyState]:
    """Build the graph for LangGraph's server."""
    return build_graph(_studies().parts_of)
