"""Telling the ledger how trials ended: those that end together are told together, in one transaction.

While the brain thread is at work on the last lot, the next one gathers. A trial that ends alone is told at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from agentic_hpt.errors import FailureKind, SameFailure
from agentic_hpt.graph.context import Ending, StudyParts
from agentic_hpt.graph.failing import failing_alike
from agentic_hpt.records import JsonObject, Outcome, Trial, TrialState


async def tell(parts: StudyParts, trial: Trial, outcome: Outcome, search: bool) -> tuple[Trial, SameFailure | None]:
    """Give the trial as it was told, and why the study stops with it, if it does.

    It is told also when whoever waits for it is cancelled: what has ended must reach the ledger.
    """
    told: asyncio.Future[tuple[Trial, SameFailure | None]] = asyncio.get_running_loop().create_future()
    told.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may be left to see it
    telling = parts.telling
    telling.waiting.append(Ending(trial, outcome, search, told))
    if telling.task is None or telling.task.done():
        telling.task = asyncio.create_task(_tell_on(parts))
    return await asyncio.shield(told)


async def _tell_on(parts: StudyParts) -> None:
    """Tell what waits, and what has come up meanwhile, until nothing does."""
    telling = parts.telling
    while telling.waiting:
        lot, telling.waiting = telling.waiting, []
        try:
            told = await parts.think(_tell_all, parts, lot)
        except Exception as error:
            for ending in lot:
                ending.told.set_exception(error)
        else:
            for ending, answer in zip(lot, told, strict=True):
                ending.told.set_result(answer)


def _tell_all(parts: StudyParts, lot: Sequence[Ending]) -> list[tuple[Trial, SameFailure | None]]:
    if not parts.described:
        # Not before: a study whose objective is refused leaves nothing in MLflow.
        description: JsonObject = {"study": parts.name, "uid": parts.ledger.uid, "config": parts.config.told()}
        parts.ledger.post_study(description)
        parts.described = True
    told = parts.ledger.finish_many([(e.trial.id, e.trial.attempt, _checked(parts, e.trial, e.outcome)) for e in lot])
    answers: list[tuple[Trial, SameFailure | None]] = []
    later = {trial.id for trial in told}
    for ending, trial in zip(lot, told, strict=True):
        later.discard(trial.id)
        if ending.search:
            parts.best = _best_now(parts, trial)
        answers.append((trial, failing_alike(parts, trial, later) if ending.search else None))
    return answers


def _best_now(parts: StudyParts, told: Trial) -> Trial | None:
    """Give the best trial once one more was told.

    A front's knee, and what noise leaves of a challenger or of a repeated best, are found among all of them only.
    """
    goal, before = parts.config.goal, parts.best
    if not goal.several and told.kind != "repeat":
        better = goal.best([told] if before is None else [before, told])
        if before is None or better is before:
            return better
    return goal.best(parts.ledger.trials())


def _checked(parts: StudyParts, trial: Trial, outcome: Outcome) -> Outcome:
    """Hold executors to the contract: a complete outcome has the metrics, a score on the holdout the first one."""
    wanted = parts.config.goal.objectives[: 1 if trial.kind == "holdout" else None]
    missing = [objective.metric for objective in wanted if objective.metric not in outcome.values]
    if outcome.state is TrialState.COMPLETE and missing:
        message = f"the executor gave no {missing[0]!r}"
        return replace(outcome, state=TrialState.FAILED, values={}, failure=FailureKind.INVALID_OUTPUT, message=message)
    return outcome
