"""Running a study's graph to its end, with a person's word where the graph waits for one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError
from agentic_hpt.records import JsonObject
from agentic_hpt.study.checkpoints import checkpointer

if TYPE_CHECKING:
    from agentic_hpt.graph.context import Emit, StudyParts

T = TypeVar("T")
Approver = Callable[[JsonObject], object]
"""Gets what a person is to see (`round`, `decision`, `evidence`, `may`, `problem`) and gives the answer: `approve`,
`refuse`, or a mapping with `answer`, `actions` and `comment`. Raises `EOFError` when nobody is there to answer."""


_TOLD_SECONDS = 3.0
_BEHIND = "the ledger lacks what the loop had done (after a power cut, say): the loop begins again from the ledger"


class NobodyAnswers(Exception):
    """A decision waits for a person, and there is none. The study stops, and can be resumed."""


def check_approver(config: StudyConfig, approver: Approver | None) -> None:
    """See that there is somebody to ask where decisions need a person's word. Raises `ConfigError`."""
    if config.coordinator.approve and approver is None:
        raise ConfigError(
            "coordinator.approve: decisions wait for a person, and nobody is named who answers",
            "use `hpt run --approve`, LangGraph Studio, or approver=... in code",
        )


async def run_graph(
    parts: StudyParts, checkpoints: str, listener: Emit, approver: Approver | None, about: JsonObject
) -> None:
    """Run the graph from wherever it stands to its end. `about` is what the first event tells of the study."""
    from langgraph.types import Command

    from agentic_hpt.graph import build_graph, ledger_is_behind, recursion_limit

    async def parts_of(state: Mapping[str, object]) -> StudyParts:
        return parts

    budget = parts.config.limits_of_study
    parts.listener = parts.emit = listener  # the bridge goes on where no node runs that could tell of it
    async with checkpointer(checkpoints) as saver:
        graph = build_graph(parts_of, saver)
        config = {
            "configurable": {"thread_id": parts.thread},
            "recursion_limit": recursion_limit(budget),
        }
        snapshot = await graph.aget_state(config)  # type: ignore[arg-type]
        begun = bool(snapshot.values) or bool(snapshot.next)
        behind = begun and await parts.think(ledger_is_behind, parts, snapshot)
        if behind:
            await saver.adelete_thread(parts.thread)
        listener({"type": "study", "study": parts.name, **about, "slots": parts.executor.slots, "resumed": begun})
        for remark in () if begun else parts.remarks:
            listener({"type": "notice", "text": remark})
        if behind:
            begun = False
            listener({"type": "notice", "text": _BEHIND})
        if parts.mirror is not None:
            await parts.think(parts.mirror, ())  # a storage that can't be used is refused before trials run
        await parts.start()
        step: object = None if begun else {"study": parts.name}
        while True:
            async for event in graph.astream(step, config, stream_mode="custom", durability="sync"):  # type: ignore[call-overload]
                listener(event)
            waiting = (await graph.aget_state(config)).interrupts  # type: ignore[arg-type]
            if not waiting:
                return
            step = Command(resume=await _answer(parts, waiting[0].value, listener, approver))


async def write_on(parts: StudyParts, listener: Emit, patience: float) -> int:
    """Wait until MLflow has all that it is to be told, as long as that gets on, and tell how far it is.

    Gives how many entries are left when none was written for `patience` seconds.
    """
    left = whole = await parts.think(parts.ledger.unsent)
    stuck = 0.0
    while left and stuck < patience:
        wait = min(_TOLD_SECONDS, patience)
        if not await parts.tracker.drain(wait):
            return 0
        now = await parts.think(parts.ledger.unsent)
        if now < left or not stuck:
            listener({"type": "writing", "left": now, "of": whole})
        stuck = stuck + wait if now >= left else 0.0
        left = now
    return left


async def _answer(parts: StudyParts, request: JsonObject, listener: Emit, approver: Approver | None) -> object:
    from agentic_hpt.graph.bridging import unless_troubled

    listener({"type": "review", "round": request["round"]})
    if approver is None:
        raise NobodyAnswers
    try:
        return await unless_troubled(parts, _in_thread(approver, request))
    except EOFError:
        raise NobodyAnswers from None


async def _in_thread(call: Callable[[JsonObject], T], request: JsonObject) -> T:
    """Call what may wait for ever in a thread that nobody waits for, so that Ctrl-C ends the study all the same."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if answered.done():
            return
        if error is not None:
            answered.set_exception(error)
        else:
            answered.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, problem = None, None
        try:
            result = call(request)
        except BaseException as error:
            problem = error
        with suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(tell, result, problem)

    threading.Thread(target=run, daemon=True, name="hpt-approver").start()
    return await answered
