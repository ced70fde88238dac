"""A whole decision's verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from agentic_hpt.coordinator.decisions import (
    AnyAction,
    Continue,
    Decision,
    Finalize,
    Freeze,
    Narrow,
    Prioritise,
    Propose,
    Repeat,
    Spawn,
    StopTrial,
    Unfreeze,
    Widen,
)
from agentic_hpt.coordinator.guards.draft import Draft
from agentic_hpt.coordinator.guards.ends import finalize, go_on, stop_trial
from agentic_hpt.coordinator.guards.limits import freeze, narrow, prioritise, unfreeze, widen
from agentic_hpt.coordinator.guards.runs import propose, repeat, spawn
from agentic_hpt.coordinator.undo import reversals
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord

_FIRST = ("unfreeze", "widen", "freeze", "narrow", "prioritise")


def judge(decision: Decision, situation: Situation, by: str = "", *, rules: int = 0) -> tuple[ActionRecord, ...]:
    """Give each action with its verdict, after what the policy takes back; `by` says who asked (`person`).

    The last `rules` actions are the rules' own: what a model has earned does not bound them.

    Actions are judged one after the other, each against what the earlier ones have made of the search. What limits the
    search is judged before what spends trials, in whatever order they were asked for, since a round begins with all of
    it in force. Where nothing else says whether the search goes on, a `continue` of the policy stands at the end.
    """
    draft, undone = opened(situation, by)
    judged: dict[int, ActionRecord] = {}
    for position in sorted(range(len(decision.actions)), key=lambda i: decision.actions[i].type not in _FIRST):
        own = position >= len(decision.actions) - rules
        record = _judge_one(decision.actions[position], replace(draft, rules=own))
        judged[position] = record
        draft = draft.after(record, len(undone) + position)
    records = (*undone, *(judged[i] for i in range(len(decision.actions))))
    if any(r.type in ("continue", "finalize") and r.verdict != "refused" for r in records):
        return records
    why = "nothing asked for ends the search"
    told = "budget is left and the target is not reached"
    return (*records, ActionRecord("continue", why, (), "accepted", told, by="policy"))


def judge_both(decision: Decision, own: Sequence[AnyAction], situation: Situation) -> tuple[ActionRecord, ...]:
    """Give the verdicts on a model's decision and, behind it, on actions of the rules' own, which are marked so."""
    both = Decision.model_construct(actions=(*decision.actions, *own))
    records = judge(both, situation, rules=len(own))
    # What the policy takes back comes first, then a record for each action, then perhaps a `continue`.
    first = len(list(takewhile(lambda r: r.by == "policy", records))) + len(decision.actions)
    return tuple(replace(r, by="rules") if first <= i < first + len(own) else r for i, r in enumerate(records))


def opened(situation: Situation, by: str = "") -> tuple[Draft, tuple[ActionRecord, ...]]:
    """Give the draft with which judging begins, and what the policy has taken back in it."""
    draft, undone = Draft.of(situation, by), reversals(situation)
    for position, record in enumerate(undone):
        draft = draft.after(record, position)
    return draft, undone


def _judge_one(action: AnyAction, draft: Draft) -> ActionRecord:
    match action:
        case Continue():
            return go_on(action, draft)
        case Freeze():
            return freeze(action, draft)
        case Unfreeze():
            return unfreeze(action, draft)
        case Prioritise():
            return prioritise(action, draft)
        case Narrow():
            return narrow(action, draft)
        case Widen():
            return widen(action, draft)
        case Spawn():
            return spawn(action, draft)
        case Propose():
            return propose(action, draft)
        case Repeat():
            return repeat(action, draft)
        case StopTrial():
            return stop_trial(action, draft)
        case Finalize():
            return finalize(action, draft)
