"""When the model is asked: before round 1, after each of the first rounds, and then only when something happens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from agentic_hpt.coordinator.guards import plateau
from agentic_hpt.coordinator.statistics import beyond_noise, noise_sd
from agentic_hpt.errors import FailureKind
from agentic_hpt.protocols import Situation
from agentic_hpt.records import DecisionRecord, Params, Trial, configuration_key

FIRST_ROUNDS = 3
NOT_ASKED = "not asked: "
_MILESTONES = (90, 75, 50)
_FAILED_SHARE = 0.3
_SURPRISING_SHARE = 0.5
_LEAST_STALL = 10
_STALL_PER_PARAMETER = 2.5
_ALWAYS = ("first rounds", "note", "budget")
"""These can't come round after round by themselves; the other triggers rest for a round once they were used."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Whether the model is asked now, and why (or why not): what is kept as the decision's `asked`."""

    asked: bool
    reason: str


def why_ask(situation: Situation) -> Ask:
    """Say whether the model is asked after this round.

    A reason is `trigger: what happened`; several are joined by `; `. A trigger that the decision before this one was
    asked for is not used again at once: the model has said what it had to say.
    """
    if situation.round == 0:
        return Ask(True, "before the first round")
    last = [decision for decision in situation.decisions if decision.round == situation.round - 1]
    used = {part.split(":", 1)[0] for decision in last for part in decision.asked.split("; ")}
    # A note stays unseen while the model fails: then it rests for a round like the others.
    always = tuple(n for n in _ALWAYS if n != "note" or not any(decision.fallback for decision in last))
    found = [(name, text) for name, text in _triggers(situation) if name in always or name not in used]
    if not found:
        return Ask(False, f"{NOT_ASKED}no trigger")
    return Ask(True, "; ".join(f"{name}: {text}" for name, text in found))


def unseen_notes(situation: Situation) -> tuple[int, ...]:
    """Give the ids of the person's notes that no decision has seen yet."""
    seen = {note for decision in situation.decisions for note in decision.notes}
    return tuple(note.id for note in situation.notes if note.id not in seen)


def _triggers(situation: Situation) -> Iterator[tuple[str, str]]:
    early = situation.round <= FIRST_ROUNDS  # when everything is new, no gain is a surprise
    if early:
        yield "first rounds", f"after round {situation.round}"
    if unseen := unseen_notes(situation):
        yield "note", f"{len(unseen)} of a person's notes not seen yet"
    for name, text in (
        ("failures", _failures(situation)),
        ("surprise", "" if early else _surprise(situation) or _misjudged(situation)),
        ("plateau", _plateau(situation)),
        ("budget", _milestone(situation)),
    ):
        if text:
            yield name, text


def _failures(situation: Situation) -> str:
    """Look for a round in which many trials failed, or one failed in a new way."""
    last = [t for t in situation.trials if t.round == situation.round and t.finished]
    failed = [t for t in last if t.failure not in (None, FailureKind.CANCELLED)]
    known = {t.failure for t in situation.trials if t.round < situation.round}
    new = sorted({str(t.failure) for t in failed if t.failure not in known})
    if new:
        return f"the first of kind {', '.join(new)}"
    if len(failed) > 1 and len(failed) >= _FAILED_SHARE * len(last):
        return f"{len(failed)} of {len(last)} trials of the round"
    return ""


def _surprise(situation: Situation) -> str:
    """Look for a round that brought more than half of all that was gained, and more than noise."""
    goal = situation.goal
    done = [t for t in situation.trials if goal.figure(t) is not None]
    before = goal.furthest(t for t in done if t.round < situation.round)
    best = goal.furthest(t for t in done if t.round <= situation.round)
    if before is None or best is None or best.round != situation.round:
        return ""
    sign = 1.0 if goal.direction == "maximize" else -1.0
    first, old, new = (sign * (goal.figure(t) or 0.0) for t in (done[0], before, best))
    gain = new - old
    if not beyond_noise(gain, noise_sd(done, goal)) or gain <= _SURPRISING_SHARE * (new - first):
        return ""
    return f"trial {best.id} gained {gain:.3g}, more than half of all gain so far"


def _misjudged(situation: Situation) -> str:
    """Look for a result far outside the interval that the model gave for it: by more than the interval's own width."""
    ran = {
        configuration_key(t.params): t
        for t in situation.trials
        if t.round == situation.round and t.kind == "proposals" and situation.goal.value(t) is not None
    }
    for params, interval in _predictions(situation.decisions, situation.round - 1):
        trial: Trial | None = ran.get(configuration_key(params))
        if trial is None:
            continue
        value, (_, low, high) = cast(float, situation.goal.value(trial)), interval
        if max(low - value, value - high) > high - low:
            return f"trial {trial.id} has {value:.4g}, expected in [{low:.4g}, {high:.4g}]"
    return ""


def _predictions(decisions: Sequence[DecisionRecord], round_: int) -> Iterator[tuple[Params, list[float]]]:
    for decision in decisions:
        proposed = decision.accepted("propose") if decision.round == round_ else None
        if proposed is None:
            continue
        configurations = cast(list[Params], proposed.detail.get("configurations", []))
        expected = cast(list[list[float] | None], proposed.detail.get("expected", []))
        for params, interval in zip(configurations, expected, strict=False):
            if interval is not None and None not in interval:
                yield params, interval


def _plateau(situation: Situation) -> str:
    """Look for a stretch of trials without gain, counted from the last time that the model was asked for it."""
    since, _ = plateau(situation)
    asked = max((d.round for d in situation.decisions if "plateau: " in d.asked), default=0)
    fresh = sum(t.finished and t.counted and t.round > asked for t in situation.trials)
    stall = math.ceil(max(_LEAST_STALL, _STALL_PER_PARAMETER * len(situation.space)))
    if min(since, fresh) < stall:
        return ""
    return f"{since} trials without a better one"


def _milestone(situation: Situation) -> str:
    """Look for a share of the budget that was passed and that no reason has named yet."""
    usage, budget = situation.usage, situation.budget
    spent = 0.0
    if budget.trials:
        spent = usage.trials / budget.trials
    if budget.minutes:
        spent = max(spent, usage.seconds / 60 / budget.minutes)
    for milestone in _MILESTONES:
        if spent * 100 >= milestone:
            text = f"{milestone} % is spent"
            return "" if any(f"budget: {text}" in d.asked for d in situation.decisions) else text
    return ""
