"""The trials that are shown: at most 60 of them, a few curves, and where the study stands in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from agentic_hpt.coordinator.evidence.shortening import cut, short
from agentic_hpt.coordinator.evidence.told_front import values_text
from agentic_hpt.fidelity import curve_of
from agentic_hpt.protocols import Situation
from agentic_hpt.records import Goal, JsonObject, Trial

MAX_TRIALS = 60
_CURVES = 3
_RUNNING_CURVES = 4
_POINTS = 8
_CELL = 24
_WORKER = 16
INACTIVE = "-"


def select_trials(situation: Situation, trials: Sequence[Trial], most: int = MAX_TRIALS) -> list[Trial]:
    """Choose at most 60 trials: the best third, the most recent third, and a spread of the rest, in order of ids."""
    ordered = sorted(trials, key=lambda t: t.id)
    if len(ordered) <= most:
        return ordered
    third = most // 3
    chosen = {t.id: t for t in situation.past.ranked()[:third]}
    recent = [t for t in ordered[::-1] if t.id not in chosen][:third]
    chosen.update({t.id: t for t in recent})
    rest = [t for t in ordered if t.id not in chosen]
    room = most - len(chosen)
    spread = [rest[i * len(rest) // room] for i in range(room)] if len(rest) > room else rest
    chosen.update({t.id: t for t in spread})
    return [chosen[i] for i in sorted(chosen)]


def table(situation: Situation, trials: Sequence[Trial], names: Sequence[str]) -> JsonObject:
    """Give trials as a table; a trial without a value has its failure's kind, or its state, in that place."""
    goal = situation.goal
    metrics = [o.metric for o in goal.merges.objectives] if goal.merges is not None else []
    broken = ["breaks"] if goal.constraints else []
    columns = ["trial", "round", "worker", "value", *(cut(metric, _CELL) for metric in metrics), *broken, *names]
    rows = []
    for trial in trials:
        value = goal.value(trial)
        told = short(value) if value is not None else str(trial.failure or trial.state)
        cells = [short(trial.params[name], _CELL) if name in trial.params else INACTIVE for name in names]
        figures = [short(trial.values.get(metric)) for metric in metrics]
        figures += [_broken(goal, trial)] if goal.constraints else []
        rows.append([trial.id, trial.round, cut(trial.worker, _WORKER), told, *figures, *cells])
    return {"columns": columns, "rows": rows}


def _broken(goal: Goal, trial: Trial) -> str:
    """Give the numbers of the outcome constraints that a complete trial breaks, counted from 1."""
    if goal.value(trial) is None:
        return INACTIVE
    margins = ((number, c.margin(trial)) for number, c in enumerate(goal.constraints, start=1))
    return ",".join(str(number) for number, margin in margins if margin is None or margin > 0) or "none"


def curves(situation: Situation) -> list[JsonObject]:
    """Give the learning curves of the 3 best trials, the 3 newest, and of running ones, in at most 8 points each."""
    goal, past = situation.goal.merges or situation.goal, situation.past
    reported = past.reported

    def has_reported(trial: Trial) -> bool:
        return any(goal.metric in r.metrics for r in trial.reports)

    best = list(islice(filter(has_reported, past.ranked() if reported else ()), _CURVES))
    shown_best = {t.id for t in best}
    newest = list(islice((t for t in reported[::-1] if t.id not in shown_best), _CURVES))
    running = [t for t in situation.running if has_reported(t)][-_RUNNING_CURVES:]
    shown = (("best", best), ("newest", newest), ("running", running))
    return [{"trial": t.id, "of": why, "points": _points(t, goal, past.known)} for why, group in shown for t in group]


def _points(trial: Trial, goal: Goal, known: Mapping[int, Trial]) -> list[list[object]]:
    """Give [step, value] pairs, evenly over the curve, its first and its last among them."""
    points = curve_of(trial, goal.metric, known)
    steps = sorted(points)
    if len(steps) > _POINTS:
        steps = [steps[i * (len(steps) - 1) // (_POINTS - 1)] for i in range(_POINTS)]
    return [[step, short(points[step])] for step in steps]


def describe_progress(situation: Situation) -> str:
    """Say in one sentence where the study stands."""
    goal = situation.goal
    best = situation.past.best()
    if best is None:
        nothing = "no trial is complete yet"
        if goal.constraints and any(goal.value(t) is not None for t in situation.trials):
            nothing = "no trial satisfies the constraints yet"
        return f"{nothing}; {_left(situation)}"
    if goal.merges is not None:
        volume = goal.figure(situation.past.furthest() or best)
        knee = values_text({o.metric: best.values[o.metric] for o in goal.merges.objectives})
        return f"hypervolume {volume:.4g}, knee trial {best.id} ({knee}); {_left(situation)}"
    before = situation.past.best(situation.round)
    value = situation.past.estimates().get(best.id, goal.value(best))
    earlier = situation.past.estimates(situation.round)
    old = earlier.get(before.id, goal.value(before)) if before is not None else None
    text = f"best {goal.metric} {value:.5g} (trial {best.id}, worker {best.worker})"
    if value is not None and old is not None and situation.round > 1:
        text += f", {value - old:+.3g} in round {situation.round}" if value != old else ", no gain in this round"
    if goal.target is not None:
        text += f"; target {goal.target:g} not reached"
    return f"{text}; {_left(situation)}"


def _left(situation: Situation) -> str:
    parts = []
    if situation.budget.trials is not None:
        parts.append(f"{situation.usage.trials_left(situation.budget)} of {situation.budget.trials} trials left")
    if situation.budget.minutes is not None:
        parts.append(f"of {situation.budget.minutes:g} minutes some are left")
    return ", ".join(parts)
