"""Running trials: one from start to told, and one worker's assignment."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import ParamSpec, TypeVar

from agentic_hpt.config import mask_secrets
from agentic_hpt.errors import ConfigError, FailureKind, LedgerError, SameFailure
from agentic_hpt.graph.attempts import Curve, known_curve, told_of_all, tried_again
from agentic_hpt.graph.context import Emit, StudyParts
from agentic_hpt.graph.failing import check_first_answer, invalid, to_prove
from agentic_hpt.graph.telling import tell
from agentic_hpt.records import Assignment, Goal, Outcome, Report, Trial, TrialState, Wanted

P = ParamSpec("P")
T = TypeVar("T")

_MANY = 16
"""So many free slots are filled at once."""
_LEAST_BATCH = 8
"""So many trials are proposed as a batch; fewer one after the other, each knowing all before it."""


async def run_assignment(
    parts: StudyParts, assignment: Assignment, emit: Emit, launched: Callable[[], None] = lambda: None
) -> int:
    """Run a worker's trials and give how many have ended; `launched` is called once all that it has are started.

    Trials of the same assignment that were reserved before are found in the ledger: finished ones stand, those that
    the bridge has under way are joined, others (of an earlier, killed run) run again; only the rest is asked for anew.
    The worker asks for a slot a trial, so that the workers of a round take turns.
    """
    await parts.ready()
    live = parts.bridging.live
    key = (assignment.round, assignment.kind, assignment.worker)
    known = await parts.think(parts.ledger.of_assignment, *key)
    problem: Exception | None = None
    async with asyncio.TaskGroup() as group:

        def launch(trial: Trial) -> None:
            # The slot is given back by the task's end, also of one that is cancelled before its first step.
            task = group.create_task(run_trial(parts, trial, emit))
            task.add_done_callback(lambda _: parts.slots.release())

        for trial in known:
            if trial.id in live:
                group.create_task(_join(live[trial.id]))
            elif not trial.finished:
                await parts.slots.acquire()
                launch(await in_slot(parts, 1, parts.ledger.start, trial.id))
            elif trial.kind != "bridge":  # its turn passes: the workers go on in the order in which they would have
                await parts.slots.acquire()
                await in_slot(parts, 1, str)  # the brain thread's queue: until the others wait for their turns
                parts.slots.release()
        position = len(known)
        while position < assignment.trials:
            async with parts.slots.asking if _in_bulk(parts) else nullcontext():
                await parts.slots.acquire()
                count = 1 + await more_slots(parts, assignment.trials - position - 1)
                try:
                    begun = await in_slot(parts, count, next_trials, parts, assignment, position, count)
                except LedgerError:
                    raise
                except Exception as error:
                    problem = error  # the trials under way are sound: they end first
                    break
                parts.slots.release(count - len(begun))
                for trial in begun:
                    launch(trial)
            if len(begun) < count:
                break
            position += count
            if key in parts.bridging.launching:
                parts.bridging.launching[key] = assignment.trials - position
        launched()
    for trial in known:
        live.pop(trial.id, None)
    if problem is not None:
        raise problem
    return sum(trial.finished for trial in await parts.think(parts.ledger.of_assignment, *key))


async def _join(task: asyncio.Task[Trial]) -> None:
    """Wait for a trial that the bridge started. When that is given up the trial goes on: the bridge's end ends it."""
    await asyncio.shield(task)


def _in_bulk(parts: StudyParts) -> bool:
    """Say whether slots may be filled many at once."""
    return parts.together or parts.executor.slots >= _MANY


async def more_slots(parts: StudyParts, most: int) -> int:
    """Take more slots beside one that is held, up to `most`, and give how many: trials that start together cost less.

    Few free slots are taken one by one, so that the first trial starts before the next is thought of, and workers take
    turns. Many, and those of an executor that runs trials together, are shared out by what each worker has to start.
    """
    if most <= 0 or not (parts.together or parts.slots.free >= _MANY):
        return 0
    await asyncio.sleep(0)  # until all that have just ended gave theirs back, and who waited has one
    all_left = max(most + 1, sum(parts.bridging.launching.values()))
    share = math.ceil(parts.slots.free * (most + 1) / all_left)
    return await parts.slots.more(min(most, share))


async def in_slot(parts: StudyParts, held: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Think while holding so many slots; give them back when that fails."""
    try:
        return await parts.think(call, *args, **kwargs)
    except BaseException:
        parts.slots.release(held)
        raise


async def run_trial(parts: StudyParts, trial: Trial, emit: Emit, *, search: bool = True, final: bool = False) -> Trial:
    """Run a started trial to its end and tell the ledger; `search` trials may be pruned, and end with the budget.

    A lost worker costs an attempt, see `attempts`; whatever comes of it, it is one trial. Raises `SameFailure` when the
    study stops with this one.
    """
    emit(
        {
            "type": "trial_started",
            "trial": trial.id,
            "worker": trial.worker,
            "round": trial.round,
            "params": dict(trial.params),
            "continues": trial.continues,
        }
    )

    curve = await known_curve(parts, trial)
    if search:
        parts.running[trial.id] = trial, curve.reports
        parts.pruner.began(trial)
    try:
        while True:
            outcome = await _attempt(parts, trial, curve, search, final)
            if parts.closing:
                raise asyncio.CancelledError("the study is being closed")
            if outcome.failure is not FailureKind.LOST_WORKER:
                break
            again = await tried_again(parts, trial, curve, outcome.message, emit)
            if again is None:
                outcome = replace(outcome, message=await told_of_all(parts, trial))
                break
            trial = again
    finally:
        parts.running.pop(trial.id, None)
    if outcome.state is TrialState.PRUNED and trial.id in parts.stopping:
        outcome = replace(outcome, message="stopped by the coordinator")
    if problem := invalid(parts, outcome):
        await parts.think(check_first_answer, parts, problem)
    told, fatal = await tell(parts, trial, outcome, search)
    if search:
        parts.pruner.ended(trial.id, told.state is TrialState.COMPLETE, parts.config.goal.feasible(told))
    emit(_event(parts, told))
    if fatal is not None:
        raise fatal
    return told


async def _attempt(parts: StudyParts, trial: Trial, curve: Curve, search: bool, final: bool) -> Outcome:
    """Run one attempt; the outcome has the whole trial's reports, and no secret in its message."""

    def on_report(report: Report) -> bool:
        if not curve.add(report):
            return False
        return search and parts.pruner.should_stop(trial.id, report, asked=trial.id in parts.stopping)

    timer = asyncio.timeout(parts.seconds_left() if search else None)
    try:
        async with timer:
            outcome = await parts.executor.run(parts.job(trial, final=final), on_report)
    except Exception as error:
        if isinstance(error, TimeoutError) and timer.expired():
            outcome = Outcome.failed(FailureKind.CANCELLED, "the study's time budget ended while the trial ran")
        else:  # an executor's or a pruner's own fault must not leave the trial open
            outcome = Outcome.failed(FailureKind.CRASH, f"running the trial failed: {type(error).__name__}: {error}")
    return replace(outcome, message=mask_secrets(outcome.message), reports=curve.whole(outcome.reports))


def next_trials(parts: StudyParts, assignment: Assignment, position: int, count: int) -> list[Trial]:
    """Propose, reserve and start the assignment's next trials; fewer when budget, time or subspace is used up."""
    left = parts.seconds_left()
    if parts.closing or (left is not None and left <= 0):
        return []
    if assignment.queue:
        return _reserved(parts, assignment, _queued(parts, assignment, position, count))
    if count >= _LEAST_BATCH:
        return _reserved(parts, assignment, _proposed(parts, assignment, count))
    found: list[Trial] = []
    for _ in range(count):
        begun = _reserved(parts, assignment, _proposed(parts, assignment, 1))
        if not begun:
            break
        found += begun
    return found


def _reserved(parts: StudyParts, assignment: Assignment, wanted: Sequence[Wanted]) -> list[Trial]:
    return parts.ledger.reserve_many(
        wanted,
        round_=assignment.round,
        worker=assignment.worker,
        kind=assignment.kind,
        revision=assignment.revision,
    )


def _queued(parts: StudyParts, assignment: Assignment, position: int, count: int) -> list[Wanted]:
    """Give the next of the configurations that were decided beforehand; with those go the trials they go on from."""
    queue = assignment.queue[position : position + count]
    if not assignment.continues:
        return [Wanted(params, assignment.tuned) for params in queue]
    stopped = [parts.ledger.trial(number) for number in assignment.continues[position : position + count]]
    return [Wanted(params, assignment.tuned, t.seed, t.id) for params, t in zip(queue, stopped, strict=True)]


def _proposed(parts: StudyParts, assignment: Assignment, count: int) -> list[Wanted]:
    trials = parts.ledger.trials()
    known = to_prove(parts, trials)
    found = [Wanted(known.params, assignment.tuned)] if known is not None else []
    seeds = [parts.config.proposal_seed(len(trials) + i) for i in range(len(found), count)]
    if len(seeds) == 1:
        proposal = parts.strategy.propose(assignment, trials, seeds[0])
        proposals = [] if proposal is None else [proposal]
    else:
        proposals = parts.strategy.propose_many(assignment, trials, seeds) if seeds else []
    return [*found, *(Wanted(proposal.params, proposal.tuned) for proposal in proposals)]


def _event(parts: StudyParts, trial: Trial) -> dict[str, object]:
    goal, best, usage = parts.config.goal, parts.best, parts.ledger.usage()
    return {
        "type": "trial",
        "trial": trial.id,
        "worker": trial.worker,
        "round": trial.round,
        "state": str(trial.state),
        "value": goal.value(trial),
        "values": _objectives(goal, trial),
        "failure": str(trial.failure) if trial.failure else None,
        "message": trial.message,
        "seconds": trial.seconds,
        "params": dict(trial.params),
        "best": {
            "trial": best.id,
            "value": goal.value(best),
            "values": _objectives(goal, best),
            "params": dict(best.params),
        }
        if best
        else None,
        "trials_used": usage.trials,
        "seconds_used": usage.seconds + parts.unticked(),
    }


def _objectives(goal: Goal, trial: Trial) -> dict[str, float]:
    return {o.metric: trial.values[o.metric] for o in goal.objectives if o.metric in trial.values}


def fatal_error(group: BaseExceptionGroup[BaseException]) -> LedgerError | ConfigError | SameFailure | None:
    """Find what stops the whole study among the errors of a worker's trials: the ledger's, or the objective's fault."""
    for error in group.exceptions:
        if isinstance(error, LedgerError | ConfigError | SameFailure):
            return error
        if isinstance(error, BaseExceptionGroup):
            return fatal_error(error)
    return None
