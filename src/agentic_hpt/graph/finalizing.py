"""The end of a study: fresh seeds, the holdout (once), the files and the final figures."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

from agentic_hpt.graph.context import Emit, StudyParts
from agentic_hpt.graph.running import fatal_error, run_trial
from agentic_hpt.records import FinalReport, JsonObject, Trial, TrialState, WorkerKind


async def finalize_study(parts: StudyParts, round_: int, emit: Emit) -> FinalReport | None:
    """Evaluate the winner and keep the final figures; `None` when no trial of the search itself is complete.

    Replayable: seeds and the holdout that an earlier, killed run finished are taken from the ledger.
    """
    held = await parts.think(parts.ledger.final)
    if held is not None:
        return held
    goal = parts.config.goal
    trials = await parts.think(parts.ledger.trials)
    best = goal.best(trials)
    value = goal.value(best) if best is not None else None
    if best is None or value is None or goal.best(t for t in trials if t.counted) is None:
        return None
    seeds = parts.config.fresh_seeds
    emit({"type": "final_started", "trial": best.id, "seeds": seeds})
    fresh = await _evaluate(parts, best, round_, "fresh_seed", seeds, emit)
    values = [v for t in fresh if (v := goal.value(t)) is not None]
    mean = statistics.fmean(values) if values else None
    holdout, model_dir = None, None
    if parts.objective.has_holdout:
        # The model that is kept is the first fresh seed's, whatever its score: choosing among them would be selection.
        seed = fresh[0].seed if fresh else best.seed
        scored = (await _evaluate(parts, best, round_, "holdout", 1, emit, seed=seed))[0]
        holdout = goal.value(scored)
        folder = Path(parts.job(scored).artifact_dir)
        model_dir = folder / "model" if (folder / "model").is_dir() else None
        if scored.state is not TrialState.COMPLETE:
            emit({"type": "notice", "text": f"the holdout could not be scored: {scored.message}"})
    gap = None
    if mean is not None:
        gap = value - mean if goal.direction == "maximize" else mean - value
    report = FinalReport(
        trial=best.id,
        validation_best=value,
        fresh_seeds=len(values),
        mean=mean,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        holdout=holdout,
        selection_gap=gap,
        model_dir=str(model_dir) if model_dir is not None else None,
        failed_seeds=len(fresh) - len(values),
    )
    files = await parts.think(lambda: parts.write_outputs(parts.ledger.trials(), parts.ledger.decisions(), report))
    payload: JsonObject = {
        "final": report.to_json(),
        "params": dict(best.params),
        "metric": goal.metric,
        "files": [str(path) for path in files],
        "model": {"dir": str(model_dir), "loader": parts.model_loader} if model_dir and parts.model_loader else None,
        "register_as": parts.name,
        "alias": "champion",
    }
    await parts.think(parts.ledger.record_final, report, payload)
    emit({"type": "final", **report.to_json()})
    return report


async def _evaluate(
    parts: StudyParts, winner: Trial, round_: int, kind: WorkerKind, count: int, emit: Emit, seed: int | None = None
) -> list[Trial]:
    """Run the winner's configuration `count` times outside the search's budget, and give the trials."""
    await parts.ready()
    worker = kind.replace("_", "-")
    known = await parts.think(parts.ledger.of_assignment, round_, kind, worker)

    def reserve() -> Trial:
        reserved = parts.ledger.reserve(
            round_=round_, worker=worker, kind=kind, params=winner.params, tuned=(), seed=seed
        )
        if reserved is None:
            raise AssertionError("final trials are outside the budget")
        return reserved

    trials = [*known, *[await parts.think(reserve) for _ in range(count - len(known))]]

    async def run(trial: Trial) -> Trial:
        async with parts.slots:
            started = await parts.think(parts.ledger.start, trial.id)
            return await run_trial(parts, started, emit, search=False, final=kind == "holdout")

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(t)) for t in trials if not t.finished]
    except BaseExceptionGroup as several:
        raise fatal_error(several) or several.exceptions[0] from several
    ended = {t.id: t for t in (task.result() for task in tasks)}
    return [ended.get(t.id, t) for t in trials]
