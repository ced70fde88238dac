"""What `langgraph.json` points at: the same graph, its live parts opened from the run's input.

The input form holds the fields of a study file; `{"objective": {"task": "wine"}}` is enough. The server brings its own
checkpointer. A study's parts live in the server's process from its first node to its last. The server looks for
blocking calls in its event loop, so studies are opened and closed in threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache, wraps
from typing import TYPE_CHECKING

from langgraph.errors import GraphBubbleUp

from agentic_hpt import wiring
from agentic_hpt.config import StudyConfig, mask_secrets
from agentic_hpt.errors import ConfigError, HptError
from agentic_hpt.graph import build_graph
from agentic_hpt.graph.state import StudyInput
from agentic_hpt.records import FinalReport
from agentic_hpt.study import Study

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    from agentic_hpt.graph.build import Node
    from agentic_hpt.graph.context import StudyParts
    from agentic_hpt.graph.state import StudyState


class ServerStudies:
    """The studies that run in this server process, by their unique ids."""

    def __init__(self) -> None:
        self._open: dict[str, StudyParts] = {}
        self._studies: dict[str, Study] = {}
        # When the server goes on with a round after a restart, its workers ask for the same parts at once.
        self._opening = asyncio.Lock()
        self._failing: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def parts_of(self, state: Mapping[str, object]) -> StudyParts:
        """Give a study's parts; for an input without an id, make the study that it describes.

        Raises `ValueError` with the reason when that fails: of errors of other types the server hides the message.
        """
        uid = state.get("uid")
        try:
            if not isinstance(uid, str):
                return await self._start(await asyncio.to_thread(_create, state))
            async with self._opening:
                held = self._open.get(uid)
                return held or await self._start(await asyncio.to_thread(Study.by_uid, uid))
        except HptError as error:
            raise ValueError(mask_secrets(str(error))) from error

    async def _start(self, study: Study) -> StudyParts:
        loop = asyncio.get_running_loop()

        def finished(final: FinalReport | None) -> None:
            study.record_end(final)
            loop.call_soon_threadsafe(self._end, study)

        opening = asyncio.ensure_future(asyncio.to_thread(study.open_parts, finished))
        try:
            parts = await asyncio.shield(opening)
            await parts.start()
        except BaseException as error:
            # Also a run that is cancelled while the thread still opens the parts lets them go.
            await asyncio.shield(asyncio.create_task(_drop(study, opening, error)))
            raise
        self._open[study.uid], self._studies[study.uid] = parts, study
        return parts

    def watch(self, node: Node) -> Node:
        """Wrap a node so that a run which fails, or is cancelled, lets its study go; the person sees why it failed."""

        @wraps(node)
        async def watched(state: Mapping[str, object]) -> StudyState:
            try:
                return await node(state)
            except GraphBubbleUp:
                raise  # the run waits for a person; the study is held, and its bridge goes on
            except (Exception, asyncio.CancelledError) as error:
                uid = state.get("uid")
                if isinstance(uid, str) and uid in self._open:
                    self._failing[uid] = asyncio.create_task(
                        self._fail(self._open.pop(uid), self._studies.pop(uid), error)
                    )
                if isinstance(uid, str) and uid in self._failing:
                    # Workers may fail together: all wait until the study is let go, also one that is cancelled.
                    await asyncio.shield(self._failing[uid])
                if isinstance(error, HptError):
                    raise ValueError(mask_secrets(str(error))) from error
                raise

        return watched

    async def _fail(self, parts: StudyParts, study: Study, error: BaseException) -> None:
        try:
            await parts.close()
        finally:
            await asyncio.to_thread(study.settle, error)
            await asyncio.to_thread(study.close)
            self._failing.pop(study.uid)

    def _end(self, study: Study) -> None:
        """Close a study's parts behind the back of its last node, which need not wait for that."""
        closing = asyncio.get_running_loop().create_task(_close(study, self._open.pop(study.uid)))
        self._studies.pop(study.uid)
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _create(state: Mapping[str, object]) -> Study:
    fields = {k: state[k] for k in StudyInput.__annotations__ if state.get(k) is not None}
    if not fields.get("objective"):
        raise ConfigError("the input names no objective", 'start with {"objective": {"task": "wine"}}')
    fields.setdefault("study", f"studio-{datetime.now():%Y%m%d-%H%M%S}")
    config = StudyConfig.from_mapping(fields, where="input")
    wiring.make_objective(config)  # bad input is refused before anything is made
    return Study.create(config)


async def _drop(study: Study, opening: asyncio.Future[StudyParts], error: BaseException) -> None:
    """Let a study go that could not be started."""
    with suppress(Exception):  # the error that is told is the one that came first
        parts = await opening
        await parts.close()
    await asyncio.to_thread(study.settle, error)
    await asyncio.to_thread(study.close)


async def _close(study: Study, parts: StudyParts) -> None:
    await parts.close()
    await asyncio.to_thread(study.close)


@cache
def _studies() -> ServerStudies:
    return ServerStudies()


def graph() -> CompiledStateGraph[StudyState, None, StudyInput, StudyState]:
    """Build the graph for LangGraph's server."""
    return build_graph(_studies().parts_of, watch=_studies().watch)
