"""The evidence: what the logged runs say, constant in size whatever the history, and the same for the same runs."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence

from agentic_hpt.coordinator.guards import must_finalize, plateau
from agentic_hpt.protocols import Situation
from agentic_hpt.records import JsonObject, Trial, TrialState

MAX_TRIALS = 60
_MAX_ROUNDS = 12
_MAX_DECISIONS = 6


def build_evidence(situation: Situation) -> JsonObject:
    """Give the evidence as plain data: at most 60 trials, 12 rounds and 6 earlier decisions."""
    goal, trials = situation.goal, [t for t in situation.trials if t.finished]
    best = goal.best(trials)
    since, needed = plateau(situation)
    forced = must_finalize(situation)
    states = Counter(str(t.state) for t in trials)
    failures = Counter(str(t.failure) for t in trials if t.failure)
    return {
        "study": situation.study,
        "description": situation.description,
        "source": situation.source,
        "goal": {"metric": goal.metric, "direction": goal.direction, "target": goal.target},
        "space": situation.space.to_json(),
        "round": situation.round,
        "budget": {
            "trials": {"used": situation.usage.trials, "of": situation.budget.trials},
            "minutes": {"used": round(situation.usage.seconds / 60, 1), "of": situation.budget.minutes},
        },
        "counts": dict(sorted(states.items())),
        "failures": dict(sorted(failures.items())),
        "best": _entry(situation, best) if best is not None else None,
        "trials_since_best": since,
        "plateau_after": needed,
        "must_finalize": forced[1] if forced else None,
        "rounds": _rounds(situation, trials),
        "workers": _workers(situation, trials),
        "trials": [_entry(situation, t) for t in select_trials(situation, trials)],
        "decisions": [
            {
                "round": d.round,
                "by": d.kind,
                "actions": [
                    {"type": a.type, "reason": a.reason[:200], "verdict": a.verdict, "why": a.verdict_reason[:200]}
                    for a in d.actions
                ],
            }
            for d in situation.decisions[-_MAX_DECISIONS:]
        ],
    }


def render(evidence: JsonObject) -> str:
    """Give the evidence as text for a model: JSON, a key a line. No text in it can close the tag around it."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=True)}" for key, value in evidence.items()]
    return "{\n" + ",\n".join(lines).replace("<", "\\u003c") + "\n}"


def select_trials(situation: Situation, trials: Sequence[Trial]) -> list[Trial]:
    """Choose at most 60 trials: the best third, the most recent third, and a spread of the rest, in order of ids."""
    if len(trials) <= MAX_TRIALS:
        return sorted(trials, key=lambda t: t.id)
    third = MAX_TRIALS // 3
    chosen = {t.id: t for t in situation.goal.ranked(trials)[:third]}
    recent = [t for t in sorted(trials, key=lambda t: -t.id) if t.id not in chosen][:third]
    chosen.update({t.id: t for t in recent})
    rest = [t for t in sorted(trials, key=lambda t: t.id) if t.id not in chosen]
    room = MAX_TRIALS - len(chosen)
    spread = [rest[i * len(rest) // room] for i in range(room)] if len(rest) > room else rest
    chosen.update({t.id: t for t in spread})
    return [chosen[i] for i in sorted(chosen)]


def describe_progress(situation: Situation) -> str:
    """Say in one sentence where the study stands."""
    goal = situation.goal
    best = goal.best(situation.trials)
    if best is None:
        return f"no trial is complete yet; {_left(situation)}"
    before = goal.best(t for t in situation.trials if t.round < situation.round)
    value, old = goal.value(best), goal.value(before) if before is not None else None
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


def _entry(situation: Situation, trial: Trial) -> JsonObject:
    entry: JsonObject = {"trial": trial.id, "params": {n: _short(v) for n, v in trial.params.items()}}
    value = situation.goal.value(trial)
    if value is not None:
        entry["value"] = _short(value)
    else:
        entry["state"] = str(trial.failure or trial.state)
    entry["worker"] = trial.worker
    return entry


def _short(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _rounds(situation: Situation, trials: Sequence[Trial]) -> list[JsonObject]:
    found: list[JsonObject] = []
    first = max(1, situation.round - _MAX_ROUNDS + 1)
    for number in range(first, situation.round + 1):
        mine = [t for t in trials if t.round == number]
        values = [v for t in mine if (v := situation.goal.value(t)) is not None]
        so_far = situation.goal.best(t for t in trials if t.round <= number)
        found.append(
            {
                "round": number,
                "trials": len(mine),
                "best_so_far": _short(situation.goal.value(so_far)) if so_far is not None else None,
                "median": _short(statistics.median(values)) if values else None,
            }
        )
    return found


def _workers(situation: Situation, trials: Sequence[Trial]) -> list[JsonObject]:
    """Give each kind of worker's yield: trials, and how often one was the best so far when it ended."""
    found: dict[str, dict[str, int]] = {}
    best: float | None = None
    for trial in sorted(trials, key=lambda t: t.id):
        entry = found.setdefault(trial.worker, {"trials": 0, "complete": 0, "improved_best": 0})
        entry["trials"] += 1
        value = situation.goal.value(trial)
        if trial.state is TrialState.COMPLETE and value is not None:
            entry["complete"] += 1
            if best is None or situation.goal.better(value, best):
                entry["improved_best"] += 1
                best = value
    return [{"worker": name, **counts} for name, counts in sorted(found.items())[:30]]
