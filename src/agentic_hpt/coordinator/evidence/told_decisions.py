"""What was decided before, with the verdicts; what it was to bring and brought; what the person wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentic_hpt.coordinator.evidence.shortening import cut, listed, short, shortened
from agentic_hpt.coordinator.undo import Effect
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, DecisionRecord, JsonObject

_DECISIONS = 6
_ACTIONS = 5
_WITH_REASONS = 3
_REASON = 100
_EFFECTS = 10
_NOTE = 500
MAX_NOTES = 10
"""Notes beyond these are shown after the next round: so a decision lists no more of them as seen."""


def told_decisions(decisions: Sequence[DecisionRecord]) -> list[JsonObject]:
    """Give the last 6 decisions, the newest last: what was asked for, and the verdict; the reasons of the last 3."""
    found = []
    shown = decisions[-_DECISIONS:]
    for place, decision in enumerate(shown):
        entry: JsonObject = {"round": decision.round, "by": decision.kind}
        if decision.fallback is not None:
            entry["stands_in_for_the_model"] = True
        if decision.review:
            entry["review"] = cut(decision.review, _REASON)
        reasons = place >= len(shown) - _WITH_REASONS
        entry["actions"] = [_action(action, reasons) for action in decision.actions[:_ACTIONS]]
        if len(decision.actions) > _ACTIONS:
            entry["actions_left_out"] = len(decision.actions) - _ACTIONS
        found.append(entry)
    return found


def told_effects(effects: Sequence[Effect]) -> list[JsonObject]:
    """Give what the newest 10 actions with an effect were to bring, and what they have brought so far."""
    return [
        {
            "round": effect.round,
            "type": effect.type,
            "parameter": cut(effect.parameter, _REASON),
            "stated_gain": short(effect.stated),
            "within_trials": effect.window,
            "gain": short(effect.gain),
            "after_trials": effect.trials,
            "status": effect.status,
        }
        for effect in effects[-_EFFECTS:]
    ]


def told_notes(situation: Situation) -> list[JsonObject]:
    """Give the person's notes, those that no decision has seen first: at most 10, of 500 characters each."""
    seen = {note for decision in situation.decisions for note in decision.notes}
    new = [note for note in situation.notes if note.id not in seen]
    old = [note for note in situation.notes if note.id in seen]
    shown = [*new, *old[::-1]][:MAX_NOTES]
    return [{"note": n.id, "new": n.id not in seen, "text": cut(n.text, _NOTE)} for n in shown]


def _action(action: ActionRecord, reasons: bool) -> JsonObject:
    entry: JsonObject = {"type": action.type, **_detail(action.detail)}
    if action.by:
        entry["by"] = action.by
    if reasons:
        entry["reason"] = cut(action.reason, _REASON)
    entry["verdict"] = action.verdict
    if reasons and action.verdict != "accepted":
        entry["why"] = cut(action.verdict_reason, _REASON)
    return entry


def _detail(detail: Mapping[str, object]) -> JsonObject:
    found: JsonObject = {}
    for key in ("parameter", "worker", "trials", "trial", "seeds"):
        if key in detail:
            found[key] = short(detail[key])
    parameters, range_, configurations = (detail.get(key) for key in ("parameters", "range", "configurations"))
    if isinstance(parameters, list | tuple):
        found["parameters"] = listed(parameters, most=6)
    if isinstance(range_, Mapping):
        found["range"] = shortened(range_)
    if isinstance(configurations, list | tuple):
        found["configurations"] = len(configurations)
    return found
