"""From a study's history to findings: pure functions, plain data, no drawing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import FailureKind
from agentic_hpt.outcomes import Standing, standings
from agentic_hpt.records import (
    DecisionRecord,
    FinalReport,
    Goal,
    Trial,
    TrialState,
    Usage,
    best_of,
    configuration_key,
    is_number,
)
from agentic_hpt.report.constrained import asked_sentences, constraint_sentences, fresh_sentences
from agentic_hpt.report.gaining import gain_sentences
from agentic_hpt.report.plain import counted, duration, number, visible
from agentic_hpt.report.several import front_sentences, wanted
from agentic_hpt.report.steered import OnEdge, Steered, edge_sentence, on_edge, steered, steering_sentence
from agentic_hpt.report.stopping import stopping_sentences

__all__ = [
    "Failures",
    "Findings",
    "Step",
    "Yield",
    "final_sentences",
    "repeated_sentence",
    "steps",
    "summarize",
    "target_sentence",
]


@dataclass(frozen=True, slots=True)
class Step:
    """A trial that improved on all before it."""

    trial: int
    value: float


@dataclass(frozen=True, slots=True)
class Yield:
    """What a round or a worker brought. `steps` counts its trials that improved on all before them."""

    name: str
    trials: int
    complete: int
    pruned: int
    failed: int
    best: float | None
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed trials of one kind, with the newest message."""

    kind: FailureKind
    trials: tuple[int, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What a study's history says. Imported trials count for the best and the trend, not for states and yields."""

    goal: Goal
    counts: Mapping[str, int]
    """Trials of the search by state; states that no trial has are 0."""
    imported: int
    failures: tuple[Failures, ...]
    best: Trial | None
    default: Trial | None
    trend: tuple[Step, ...]
    rounds: tuple[Yield, ...]
    workers: tuple[Yield, ...]
    top: tuple[Trial, ...]
    decisions: tuple[DecisionRecord, ...]
    steered: tuple[Steered, ...]
    edges: tuple[OnEdge, ...]
    final: FinalReport | None
    constraints: tuple[Standing, ...]
    """How the best trial stands to each outcome constraint."""
    sentences: tuple[str, ...]
    """The study in plain words, for a person who reads nothing else."""


def summarize(
    config: StudyConfig,
    status: str,
    trials: Sequence[Trial],
    decisions: Sequence[DecisionRecord],
    final: FinalReport | None,
    usage: Usage,
    since: int = 0,
) -> Findings:
    """Find out what a study's history says; `trials` in order of their ids, final ones left out or not.

    Behind the round `since` the search went on in a revised space.
    """
    goal = config.goal
    searched = [t for t in trials if t.counted]
    pool = [t for t in trials if t.counted or t.kind == "imported"]
    merged, seen = goal.merged(pool)
    trend = steps(merged, seen)
    gains = {step.trial for step in trend}
    best = best_of(goal, pool, final)
    declared = configuration_key(config.space.default())  # it may have been changed since the first trial
    default = next((t for t in searched if configuration_key(t.params) == declared), None)
    counts = {state.value: sum(t.state is state for t in searched) for state in TrialState}
    steering = steered(decisions, since)
    edges = on_edge(config.space, best.params) if best is not None else ()
    return Findings(
        goal=goal,
        counts=counts,
        imported=len(pool) - len(searched),
        failures=_failures(searched),
        best=best,
        default=default,
        trend=trend,
        rounds=_yields(merged, ((f"round {t.round}", t) for t in seen if t.counted), gains),
        workers=_yields(merged, ((t.worker, t) for t in seen if t.counted), gains),
        top=tuple(goal.ranked(pool)[:10]),
        decisions=tuple(decisions),
        steered=steering,
        edges=edges,
        final=final,
        constraints=standings(goal, pool, best.params if best is not None else None),
        sentences=(
            *_sentences(
                config, status, counts, best, default, final, usage, decisions, repeated_sentence(goal, pool, best)
            ),
            *asked_sentences(config),
            *constraint_sentences(config, pool, best),
            *front_sentences(goal, pool),
            *stopping_sentences(goal, searched, config.halving),
            *([steering_sentence(steering)] if steering else []),
            *([edge_sentence(edges)] if edges else []),
        ),
    )


def steps(goal: Goal, trials: Iterable[Trial]) -> tuple[Step, ...]:
    """Give the trials, in the order of their ids, that improved on all before them: a repeat's luck does not."""
    found: list[Step] = []
    for trial in sorted((t for t in trials if t.kind != "repeat"), key=lambda t: t.id):
        value = goal.figure(trial)
        if value is not None and (not found or goal.better(value, found[-1].value)):
            found.append(Step(trial.id, value))
    return tuple(found)


def final_sentences(metric: str, final: Mapping[str, object]) -> list[str]:
    """Say what the final figures are and mean, from `FinalReport.to_json()` or the `final` of `hpt run --json`."""
    mean, sd, gap = (_figure(final.get(key)) for key in ("mean", "sd", "selection_gap"))
    seeds, failed = (int(_figure(final.get(key)) or 0) for key in ("fresh_seeds", "failed_seeds"))
    holdout = _figure(final.get("holdout"))
    said = []
    if mean is None:
        said.append("The winner was not retrained with fresh seeds, so how much of its figure is luck is not known.")
    else:
        spread = f" ± {number(sd, 2)} (mean ± SD)" if sd is not None else ""
        said.append(
            f"Retrained with {counted(seeds, 'fresh seed')}, the winner has {metric} {number(mean)}{spread}: "
            "this is the figure to expect."
        )
    means = final.get("means")
    if isinstance(means, Mapping) and means:
        others = ", ".join(f"{visible(name)} {number(value)}" for name, value in means.items() if name != metric)
        said.append(f"Its means of the other objectives there: {others}.")
    if failed:
        said.append(f"{counted(failed, 'training')} with a fresh seed failed and is not part of that figure.")
    if holdout is None:
        said.append("There is no holdout score: the objective has no data set aside, or it could not be scored.")
    elif (looks := int(_figure(final.get("looks")) or 1)) > 1:
        said.append(
            f"On the holdout: {number(holdout)}. It was scored {looks} times, as the study went on after its end: no "
            "decision saw a score, but whoever let it go on may have, so this one may flatter."
        )
    else:
        said.append(f"On the holdout, data that no decision saw and that was scored once: {number(holdout)}.")
    constraints = final.get("constraints")
    said += fresh_sentences(constraints) if isinstance(constraints, list) else []
    if gap is not None:
        said.append(f"Selection gap {number(gap)}: {_gap_meaning(gap, sd)}")
    return [*said, *gain_sentences(metric, final)]


def repeated_sentence(goal: Goal, trials: Sequence[Trial], best: Trial | None) -> str:
    """Say what the best configuration has on the mean of its runs, by which it was judged; empty where it ran once."""
    if best is None or goal.several:  # of several, see `front_sentences`
        return ""
    key = configuration_key(best.params)
    mean = goal.repeated_means(trials).get(key)
    runs = sum(goal.value(t) is not None and configuration_key(t.params) == key for t in trials)
    if mean is None or runs < 2:
        return ""
    return f"Trial {best.id} was judged by the mean of its {runs} runs on other seeds, {goal.metric} {number(mean)}."


def target_sentence(goal: Goal, best: float | None, mean: float | None, ended: bool = False) -> str | None:
    """Say whether the target was reached, and whether that holds on fresh seeds; `None` without a target.

    Where it `ended` the search, that was by the mean of what ran again, or by another one than the winner on fresh
    seeds: the best trial's own value need not reach it.
    """
    if goal.target is None or goal.several:  # of several, one trial must reach all at once: see `front_sentences`
        return None
    head = f"The target, {goal.metric} {'≥' if goal.direction == 'maximize' else '≤'} {number(goal.target)},"
    if not goal.reached(best) and not ended:
        return f"{head} was not reached."
    if mean is None:
        by = "by the best trial" if goal.reached(best) else "by the mean of its runs"
        return f"{head} was reached {by}; fresh seeds did not test it."
    if goal.reached(mean):
        return f"{head} was reached, and holds on fresh seeds."
    by = "by the best trial" if goal.reached(best) else "in the search"
    return f"{head} was reached {by}, but not by the mean over fresh seeds."


def _gap_meaning(gap: float, sd: float | None) -> str:
    if gap <= 0:
        return "the best trial's figure did not flatter; fresh seeds did as well or better."
    if sd is None:
        return "so much better did the best trial look than its fresh-seed mean; the spread of seeds is not known."
    if gap <= 2 * sd:
        return "the best trial looked that much better than its fresh-seed mean, within two SD of the seeds."
    return (
        "the best trial looked that much better than its fresh-seed mean, more than two SD of the seeds: "
        "a part of the search's figure was luck of the draw, trust the mean."
    )


def _figure(value: object) -> float | None:
    return float(value) if is_number(value) else None  # type: ignore[arg-type]


def _sentences(
    config: StudyConfig,
    status: str,
    counts: Mapping[str, int],
    best: Trial | None,
    default: Trial | None,
    final: FinalReport | None,
    usage: Usage,
    decisions: Sequence[DecisionRecord],
    repeated: str,
) -> Iterable[str]:
    goal = config.goal
    names = ", ".join(config.space.names)
    were = "was" if len(config.space) == 1 else "were"
    yield f"{counted(len(config.space), 'parameter')} ({names}) {were} searched to {wanted(goal)}."
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    ran = max(usage.trials, sum(counts.values()))
    outside = ran - sum(counts.values())
    states += f", {outside} outside the space as revised" if outside else ""
    asked = config.coordinator.model or any(d.kind == "llm" for d in decisions)
    decider = f"the model {config.coordinator.model or ''}".rstrip() + " under the guards" if asked else "the rules"
    yield (
        f"{counted(ran, 'trial')} ({states or 'none yet'}) ran in {duration(usage.seconds)}; "
        f"{decider} decided after each round."
    )
    value = goal.value(best) if best is not None else None
    if best is None or value is None:
        if not goal.constraints or not counts[TrialState.COMPLETE]:
            yield "No trial is complete yet, so there is no best configuration."
    else:
        held = goal.value(default) if default is not None else None
        against = ""
        if default is not None and held is not None and default.id != best.id:
            breaks = "" if goal.feasible(default) else ", but breaks a constraint"
            against = f"; the default configuration had {number(held)}{breaks}"
        if not goal.several:
            yield f"The best validation figure is {goal.metric} {number(value)}, of trial {best.id}{against}."
            yield from [repeated] if repeated else []
    if final is not None:
        yield from final_sentences(goal.metric, final.to_json())
    end = decisions[-1].accepted("finalize") if decisions else None
    by_target = status == "finalized" and end is not None and end.detail.get("stopped_by") == "target"
    target = target_sentence(goal, value, final.mean if final else None, by_target)
    if target is not None:
        yield target
    if status == "failed":
        yield "The study failed before its end; what is shown is what it found until then."
    elif status != "finalized":
        yield f"The study has not ended (it is {status}), so the figures are preliminary."


def _failures(trials: Sequence[Trial]) -> tuple[Failures, ...]:
    kinds: dict[FailureKind, list[Trial]] = {}
    for trial in trials:
        if trial.failure is not None:
            kinds.setdefault(trial.failure, []).append(trial)
    ordered = sorted(kinds.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return tuple(Failures(kind, tuple(t.id for t in hit), hit[-1].message) for kind, hit in ordered)


def _yields(goal: Goal, named: Iterable[tuple[str, Trial]], gains: set[int]) -> tuple[Yield, ...]:
    groups: dict[str, list[Trial]] = {}
    for name, trial in named:
        groups.setdefault(name, []).append(trial)
    return tuple(_yield(goal, name, members, gains) for name, members in groups.items())


def _yield(goal: Goal, name: str, trials: Sequence[Trial], gains: set[int]) -> Yield:
    best = goal.best(trials)
    return Yield(
        name=name,
        trials=len(trials),
        complete=sum(t.state is TrialState.COMPLETE for t in trials),
        pruned=sum(t.state is TrialState.PRUNED for t in trials),
        failed=sum(t.state is TrialState.FAILED for t in trials),
        best=goal.value(best) if best is not None else None,
        steps=sum(t.id in gains for t in trials),
        seconds=sum(t.seconds or 0.0 for t in trials),
    )
