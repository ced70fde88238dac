"""The end of a study: fresh seeds, the holdout (once), the files and the final figures."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentic_hpt.coordinator.finalists import (
    CHOOSING_SEEDS,
    Gain,
    default_trial,
    finalists,
    gain_over,
    same_configuration,
    told,
    varies,
    winner,
)
from agentic_hpt.coordinator.statistics import noise_of
from agentic_hpt.graph.context import Emit, StudyParts
from agentic_hpt.graph.running import fatal_error, run_trial
from agentic_hpt.outcomes import on_fresh_seeds
from agentic_hpt.records import FinalReport, Goal, JsonObject, Trial, TrialState, WorkerKind


async def finalize_study(parts: StudyParts, round_: int, emit: Emit) -> FinalReport | None:
    """Evaluate the winner and keep the final figures; `None` when no trial of the search can be the best one.

    Replayable: seeds and the holdout that an earlier, killed run finished are taken from the ledger.
    """
    held = await parts.think(parts.ledger.final)
    if held is not None:
        return held
    goal = parts.config.goal
    trials = await parts.think(parts.ledger.trials)
    if goal.best(t for t in trials if t.counted) is None:
        return None
    chosen = await _choose(parts, trials, round_, emit)
    best, fresh = chosen.winner, chosen.fresh
    gain = await _over_default(parts, trials, chosen, round_, emit)
    values = [v for t in fresh if (v := goal.value(t)) is not None]
    mean = statistics.fmean(values) if values else None
    if len(set(values)) == 1:  # the mean of equal figures may differ from them in the last digit
        mean = values[0]
    # The model that is kept is the first fresh seed's, whatever its score: choosing among them would be selection.
    seed = fresh[0].seed if fresh else best.seed
    scored = await _score(parts, best, seed, round_, emit) if parts.objective.has_holdout else _Scored()
    gap, value = None, best.values[goal.metric]
    if mean is not None:
        gap = value - mean if goal.direction == "maximize" else mean - value
    report = FinalReport(
        trial=best.id,
        validation_best=value,
        fresh_seeds=len(values),
        mean=mean,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        holdout=scored.holdout,
        selection_gap=gap,
        model_dir=scored.model_dir,
        failed_seeds=len(fresh) - len(values),
        constraints=on_fresh_seeds(goal, fresh),
        finalists=told(goal, chosen.tried),
        default_mean=gain.default if gain is not None else None,
        gain=gain.value if gain is not None else None,
        gain_low=gain.low if gain is not None else None,
        gain_high=gain.high if gain is not None else None,
        means=_means(goal, fresh),
        looks=scored.looks,
    )
    files = await parts.think(lambda: parts.write_outputs(parts.ledger.trials(), parts.ledger.decisions(), report))
    payload: JsonObject = {
        "final": report.to_json(),
        "params": dict(best.params),
        "metric": goal.metric,
        "files": [str(path) for path in files],
        "model": {"dir": scored.model_dir, "loader": parts.model_loader}
        if scored.model_dir and parts.model_loader
        else None,
        "register_as": parts.name,
        "alias": "champion",
    }
    top = parts.config.mlflow.top
    shown = [t for t in goal.ranked(trials)[:top] if t.counted] if top is not None else []
    if top is not None and best.id not in {t.id for t in shown}:
        shown.append(best)
    await parts.think(parts.ledger.record_final, report, payload, shown)
    emit({"type": "final", **report.to_json()})
    return report


@dataclass(frozen=True, slots=True)
class _Scored:
    """The winner's score on the holdout, the model that has it, and how often the holdout was scored by now."""

    holdout: float | None = None
    model_dir: str | None = None
    looks: int = 1


async def _score(parts: StudyParts, best: Trial, seed: int, round_: int, emit: Emit) -> _Scored:
    """Train the model that is kept and score the holdout.

    Where the study had ended before with the same winner, its model and its score stand: the holdout is left alone.
    """
    before = parts.ended_with
    if before is not None and before.holdout is not None:
        won = await parts.think(parts.ledger.trial, before.trial)
        if same_configuration(won.params, best.params):
            return _Scored(before.holdout, before.model_dir, before.looks)
    (runs,) = await _evaluate(parts, [(best, "holdout", [seed])], round_, "holdout", emit)
    scored = runs[0]
    if scored.state is not TrialState.COMPLETE:
        emit({"type": "notice", "text": f"the holdout could not be scored: {scored.message}"})
    model = Path(parts.job(scored).artifact_dir) / "model"
    looks = await parts.think(_looks, parts, round_)
    return _Scored(parts.config.goal.value(scored), str(model) if model.is_dir() else None, looks)


def _looks(parts: StudyParts, round_: int) -> int:
    """Count the scores on the holdout up to now, also those of an end that was cut off behind them."""
    scored = (t for number in range(round_ + 1) for t in parts.ledger.of_assignment(number, "holdout", "holdout"))
    return sum(t.state is TrialState.COMPLETE for t in scored)


def _means(goal: Goal, fresh: Sequence[Trial]) -> dict[str, float]:
    """Give the mean of each of several objectives; nothing with one."""
    done = [t for t in fresh if goal.losses(t) is not None]
    if not goal.several or not done:
        return {}
    return {o.metric: statistics.fmean(t.values[o.metric] for t in done) for o in goal.objectives}


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The winner, its runs that are reported, and the finalists' runs that chose it."""

    winner: Trial
    fresh: list[Trial]
    tried: dict[int, list[Trial]]


async def _choose(parts: StudyParts, trials: Sequence[Trial], round_: int, emit: Emit) -> _Chosen:
    """Run the finalists on fresh seeds, the same for all, and the winner on others: what chose is not reported.

    Where a first fresh run shows no noise there is nothing to choose by.
    """
    goal, seeds = parts.config.goal, parts.config.fresh_seeds
    running = finalists(goal, trials, parts.config.finalists, seeds)
    best = running[0]
    emit({"type": "final_started", "trial": best.id, "seeds": seeds, "finalists": [t.id for t in running]})
    if len(running) == 1:
        return _Chosen(best, await _fresh(parts, best, seeds, round_, emit), {})
    few = min(CHOOSING_SEEDS, seeds)
    (first,) = await _evaluate(parts, [(best, _finalist(best), [None] * few)], round_, "fresh_seed", emit)
    if noise_of(goal, trials) is None and not varies(goal, best, first):
        return _Chosen(best, [*first, *await _fresh(parts, best, seeds - few, round_, emit)], {})
    same: list[int | None] = [t.seed for t in first]
    others = await _evaluate(parts, [(t, _finalist(t), same) for t in running[1:]], round_, "fresh_seed", emit)
    tried = {t.id: runs for t, runs in zip(running, [first, *others], strict=True)}
    chosen = winner(goal, trials, tried)
    return _Chosen(chosen, await _fresh(parts, chosen, seeds, round_, emit), tried)


async def _over_default(
    parts: StudyParts, trials: Sequence[Trial], chosen: _Chosen, round_: int, emit: Emit
) -> Gain | None:
    """Compare the winner with the default: on the same seeds where there is noise, by the search's values where not."""
    goal = parts.config.goal
    default = default_trial(goal, trials, parts.space.default())
    if default is None or goal.several or not chosen.fresh or same_configuration(default.params, chosen.winner.params):
        return None
    if not goal.feasible(default):
        return None  # it is no choice that anybody had
    noise = noise_of(goal, trials)
    if not varies(goal, chosen.winner, chosen.fresh) and (noise is None or noise.sd == 0):
        value, other = chosen.winner.values[goal.metric], default.values[goal.metric]
        gain = value - other if goal.direction == "maximize" else other - value
        return Gain(gain, gain, gain, other)
    seeds: list[int | None] = [t.seed for t in chosen.fresh]
    (runs,) = await _evaluate(parts, [(default, "default", seeds)], round_, "fresh_seed", emit)
    return gain_over(goal, trials, chosen.fresh, runs)


def _finalist(trial: Trial) -> str:
    return f"finalist-{trial.id}"


async def _fresh(parts: StudyParts, trial: Trial, count: int, round_: int, emit: Emit) -> list[Trial]:
    """Run a configuration on seeds of its own."""
    return (await _evaluate(parts, [(trial, "fresh-seed", [None] * count)], round_, "fresh_seed", emit))[0]


async def _evaluate(
    parts: StudyParts,
    wanted: Sequence[tuple[Trial, str, Sequence[int | None]]],
    round_: int,
    kind: WorkerKind,
    emit: Emit,
) -> list[list[Trial]]:
    """Run configurations outside the search's budget, each under a worker's name and with its seeds.

    A seed of `None` is a new one. Gives the trials of each; those that an earlier, killed run reserved are taken up.
    """
    await parts.ready()

    def reserve(winner: Trial, worker: str, seeds: Sequence[int | None]) -> list[Trial]:
        found = list(parts.ledger.of_assignment(round_, kind, worker))
        for seed in seeds[len(found) :]:
            reserved = parts.ledger.reserve(
                round_=round_, worker=worker, kind=kind, params=winner.params, tuned=(), seed=seed
            )
            if reserved is None:
                raise AssertionError("final trials are outside the budget")
            found.append(reserved)
        return found

    groups = [await parts.think(reserve, *each) for each in wanted]

    async def run(trial: Trial) -> Trial:
        async with parts.slots:
            started = await parts.think(parts.ledger.start, trial.id)
            return await run_trial(parts, started, emit, search=False, final=kind == "holdout")

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(t)) for trials in groups for t in trials if not t.finished]
    except BaseExceptionGroup as several:
        raise fatal_error(several) or several.exceptions[0] from several
    ended = {t.id: t for t in (task.result() for task in tasks)}
    return [[ended.get(t.id, t) for t in trials] for trials in groups]
