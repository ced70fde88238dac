"""The bridge: trials of the next round that run while stragglers finish, or while a model or a person thinks.

A bridge's trials belong to the worker `bridge` of the round after the one under way and are counted to that round. They
are started only into slots that nobody else wants: when all workers of the round have started what they have and at
least one trial still runs, or when a decision is waited for; then it leaves so much of the budget alone that all that
the guards let through can run. A worker of the next round joins the bridge's trials; after a kill it runs them again,
like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TypeVar

from agentic_hpt import config
from agentic_hpt.coordinator.guards.draft import trials_of
from agentic_hpt.errors import ConfigError, HptError, LedgerError
from agentic_hpt.fronts import meeting
from agentic_hpt.graph.context import StudyParts
from agentic_hpt.graph.running import fatal_error, in_slot, more_slots, next_trials, run_assignment, run_trial
from agentic_hpt.protocols import Situation
from agentic_hpt.records import Assignment, DecisionRecord, Trial

T = TypeVar("T")

_WORKER = "bridge"


def worker_begins(parts: StudyParts, assignment: Assignment) -> None:
    """Note that a worker of the round has trials to start; called before any of them does."""
    parts.bridging.launching[assignment.round, assignment.kind, assignment.worker] = assignment.trials
    if assignment.kind == "initial":
        parts.bridging.given_started.clear()


async def turn(parts: StudyParts, assignment: Assignment) -> None:
    """Wait until a worker may start trials: behind those that were given to run first."""
    if assignment.kind not in ("default", "initial"):
        await parts.bridging.given_started.wait()


def worker_launched(parts: StudyParts, assignment: Assignment) -> None:
    """Note that a worker has started all it has; with the last one free slots are nobody's, and the bridge begins."""
    waiting, key = parts.bridging.launching, (assignment.round, assignment.kind, assignment.worker)
    if key not in waiting:
        return
    del waiting[key]
    if assignment.kind == "initial":
        parts.bridging.given_started.set()
    if not waiting and not parts.replaying:
        round_ = assignment.round
        parts.bridging.kept, parts.bridging.bounded = 0, False
        _begin(parts, round_, lambda: any(trial.round <= round_ for trial, _ in list(parts.running.values())), 0.0)


def begin_thinking(parts: StudyParts, round_: int, kept: int) -> None:
    """Let trials go on while a model or a person decides, but for `kept` trials of the budget.

    A decision that comes at once is not worth a bridge.
    """
    if not parts.asks or parts.replaying:
        return
    parts.bridging.kept, parts.bridging.bounded = kept, True
    _begin(parts, round_, lambda: True, config.BRIDGE_AFTER_SECONDS)


def places(situation: Situation, decision: DecisionRecord | None) -> int:
    """Give how many trials of the next round have their places before the strategy's own.

    They are what a decision's accepted actions ask for, the default configuration, those that were given to run first,
    and a look outside the limits.
    """
    asked = sum(trials_of(a) for a in decision.actions if a.verdict != "refused") if decision is not None else 0
    outside = -(-situation.round_trials // 10) if situation.steering.limits else 0
    return min(situation.round_trials, asked + (situation.round == 0) + len(situation.waiting) + outside)


async def decide(parts: StudyParts, situation: Situation) -> DecisionRecord:
    """Ask the coordinator while trials go on, until the answer is there."""
    await _stop(parts)
    # The guards judge what a model asks for by what is left now; the rules answer before the bridge begins.
    kept = situation.round_trials if parts.coordinator.kind == "llm" else 0
    begin_thinking(parts, situation.round, kept)
    decision = await unless_troubled(parts, parts.coordinator.decide(situation))
    await _stop(parts)
    return decision


async def unless_troubled(parts: StudyParts, answer: Coroutine[object, object, T]) -> T:
    """Wait for an answer while trials go on; what ends the study ends the waiting too."""
    waiting = asyncio.create_task(answer)
    troubled = asyncio.create_task(parts.bridging.troubled.wait())
    try:
        await asyncio.wait({waiting, troubled}, return_when=asyncio.FIRST_COMPLETED)
        _raise_trouble(parts)
        return waiting.result()
    finally:
        for task in (waiting, troubled):
            task.cancel()
        await asyncio.gather(waiting, troubled, return_exceptions=True)


async def keep(parts: StudyParts, decision: DecisionRecord) -> DecisionRecord:
    """End the bridge and keep the decision with the number of trials that were started meanwhile; give what was kept.

    From here on nothing is started for the next round but by its plan, which rests on that number.
    """
    if parts.replaying and decision.bridged:
        await _repeat(parts, decision.round, decision.bridged)
    await _stop(parts)

    def record() -> DecisionRecord:
        counted = replace(decision, bridged=len(_reserved(parts, decision.round)))
        parts.ledger.record_decision(counted)
        return counted

    return await parts.think(record)


async def pause(parts: StudyParts) -> None:
    """End the bridge, without a decision."""
    await _stop(parts)


def rest(parts: StudyParts, round_: int) -> Assignment | None:
    """Give the worker that takes over what was started of the round after `round_`. For the brain thread."""
    trials = _reserved(parts, round_)
    if not trials:
        return None
    first, why = trials[0], "started while slots were free"
    return Assignment(_WORKER, "bridge", round_ + 1, len(trials), first.tuned, reason=why, revision=first.revision)


async def finish(parts: StudyParts, round_: int) -> None:
    """See the trials that were started of the round after `round_` to their ends; those of a killed run run again."""
    assignment = await parts.think(rest, parts, round_)
    if assignment is None:
        return
    try:
        await run_assignment(parts, assignment, parts.emit)
    except BaseExceptionGroup as several:
        raise fatal_error(several) or several.exceptions[0] from several


def _reserved(parts: StudyParts, round_: int) -> list[Trial]:
    return parts.ledger.of_assignment(round_ + 1, "bridge", _WORKER)


def _begin(parts: StudyParts, round_: int, wanted: Callable[[], bool], patience: float) -> None:
    under_way = parts.bridging.task is not None and not parts.bridging.task.done()
    if not under_way and not parts.closing:
        parts.bridging.task = asyncio.create_task(_keep_busy(parts, round_, wanted, patience))


async def _keep_busy(parts: StudyParts, round_: int, wanted: Callable[[], bool], patience: float) -> None:
    """Start trials into free slots as long as they are `wanted` and there is something to start."""
    try:
        await asyncio.sleep(patience)
        await parts.ready()
        while wanted():
            await parts.slots.acquire()
            if not wanted() or parts.bridging.trouble is not None:
                parts.slots.release()
                return
            parts.bridging.step = asyncio.create_task(_start_next(parts, round_, None))
            if not await asyncio.shield(parts.bridging.step):
                return
    except (LedgerError, ConfigError) as error:
        parts.bridging.end_study(error)
    except Exception as error:  # an executor's or a strategy's own fault costs the bridge, not the study
        text = config.mask_secrets(f"{type(error).__name__}: {error}")[:500]
        parts.emit({"type": "notice", "text": f"free slots stay idle in round {round_}: {text}"})


async def _repeat(parts: StudyParts, round_: int, trials: int) -> None:
    """Start as many trials as were started when this decision was first taken."""
    await parts.ready()
    while True:
        await parts.slots.acquire()
        if not await _start_next(parts, round_, trials):
            return


async def _start_next(parts: StudyParts, round_: int, limit: int | None) -> bool:
    """Start trials in the slot that is held and in those free beside it; say no when there are none to start."""
    count = 1 + await more_slots(parts, parts.slots.free)
    begun = await in_slot(parts, count, _next_trials, parts, round_, limit, count)
    parts.slots.release(count - len(begun))
    for trial in begun:
        task = asyncio.create_task(run_trial(parts, trial, lambda event: parts.emit(event)))
        parts.bridging.live[trial.id] = task
        task.add_done_callback(lambda ended: _ended(parts, ended))
    return bool(begun)


def _ended(parts: StudyParts, task: asyncio.Task[Trial]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        parts.bridging.end_study(error)
    parts.slots.release()


def _next_trials(parts: StudyParts, round_: int, limit: int | None, count: int) -> list[Trial]:
    """Reserve the bridge's next trials, at most `limit` in all; none when it may have no more. In the brain thread.

    Before the first round the default and the given configurations come first, as that round's plan will have them.
    With a `limit` an earlier bridge is repeated: what its trials found, or left of the budget, did not end it.
    """
    usage, budget, bridge = parts.ledger.usage(), parts.config.limits_of_study, parts.bridging
    if usage.spent(budget) or (limit is None and _reached(parts)):
        return []
    held = bridge.assignment if bridge.assignment is not None and bridge.assignment.round == round_ + 1 else None
    if held is None or round_ == 0:
        ended = [t for t in parts.ledger.trials() if t.finished and t.round <= round_]
        situation = parts.situation(round_, ended)
        for planned in parts.strategy.plan(situation, None) if round_ == 0 else ():
            if planned.kind in ("default", "initial"):
                begun = len(parts.ledger.of_assignment(1, planned.kind, planned.worker))
                if begun < planned.trials:
                    return next_trials(parts, planned, begun, min(count, planned.trials - begun))
    spare = usage.trials_left(budget) - bridge.kept if limit is None else count
    if held is None and spare > 0:
        whole = parts.strategy.bridge(replace(situation, round_trials=usage.trials_left(budget)))
        held = None if whole is None else replace(whole, revision=situation.steering.revision)
        bridge.assignment = held
    if held is None:
        return []
    most = min(held.trials, parts.config.round_trials) if bridge.bounded else held.trials
    position = len(_reserved(parts, round_))
    count = min(count, spare, (most if limit is None else limit) - position)
    return next_trials(parts, held, position, count) if count > 0 else []


def _reached(parts: StudyParts) -> bool:
    """Say whether the targets are reached, if there are any."""
    goal = parts.config.goal
    if all(objective.target is None for objective in goal.objectives):
        return False
    trials = parts.ledger.trials()
    if goal.several:
        return meeting(goal, trials) is not None
    best = goal.best(trials)
    return best is not None and goal.reached(goal.value(best))


async def _stop(parts: StudyParts) -> None:
    """Start no more trials; those under way go on. Raises what ends the study, if something came up."""
    bridging = parts.bridging
    task, bridging.task = bridging.task, None
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
    if bridging.step is not None:
        await asyncio.wait({bridging.step})
        error = None if bridging.step.cancelled() else bridging.step.exception()
        bridging.step = None
        if isinstance(error, HptError):
            parts.bridging.end_study(error)
    _raise_trouble(parts)


def _raise_trouble(parts: StudyParts) -> None:
    if parts.bridging.trouble is not None:
        raise parts.bridging.trouble
