"""Guards of the actions that limit the search, lift its limits, or weigh its parameters."""

from __future__ import annotations

from typing import cast

from agentic_hpt.coordinator.decisions import Freeze, Narrow, Prioritise, Unfreeze, Widen
from agentic_hpt.coordinator.guards.draft import Draft, accepted, refused, resting, shown, tunable
from agentic_hpt.coordinator.guards.ranges import (
    Unusable,
    asked_range,
    joined,
    on_grid,
    one_value,
    overlap,
    really_less,
    same,
    stretched,
)
from agentic_hpt.coordinator.guards.subspace import count_new
from agentic_hpt.records import ActionRecord, ParamValue, Range
from agentic_hpt.space import Choice
from agentic_hpt.steering import full_range, in_range

LEAST_TRIALS = 10
_LEAST_INSIDE = 5
_TRIALS_PER_PARAMETER = 5


def freeze(action: Freeze, draft: Draft) -> ActionRecord:
    """Hold a parameter at the incumbent's value: one that matters little, on enough trials, and never the last."""
    name, best = action.parameter, draft.best
    why = _unlimitable(action, draft)
    if why:
        return refused(action, draft, why)
    needed = max(LEAST_TRIALS, _TRIALS_PER_PARAMETER * len(draft.tunable()))
    if best is None or len(draft.complete) < needed:
        return refused(action, draft, f"{len(draft.complete)} trials are complete; {needed} are needed to freeze")
    if name not in best.params:
        return refused(action, draft, f"{shown(name)} is not active in the best trial, so there is no value to hold")
    importance, fair = draft.situation.insights.importance, 1 / len(draft.space)
    if not importance and draft.by != "person":
        return refused(action, draft, "what matters is not known yet")
    share = importance.get(name, 0.0)
    if share >= fair:
        return refused(action, draft, f"its importance, {share:.0%}, is at least a fair share, {fair:.0%}")
    value = best.params[name]
    range_: Range = {"values": [value]}
    try:
        on_grid(draft.space, name, range_)
    except Unusable:
        return refused(action, draft, "the best trial's value is not on the grid")
    why = _unsearchable(draft, name, range_)
    if why:
        return refused(action, draft, why)
    told = f"held at {value!r}, the value of trial {best.id}, the best"
    return accepted(action, draft, told, [], parameter=name, range=range_)


def unfreeze(action: Unfreeze, draft: Draft) -> ActionRecord:
    """Tune a frozen parameter again."""
    name = action.parameter
    if draft.touched(name):
        return refused(action, draft, _ONCE)
    if name not in draft.steering.frozen:
        return refused(action, draft, f"{shown(name)} is not frozen")
    return accepted(action, draft, "it was frozen", [], parameter=name)


def narrow(action: Narrow, draft: Draft) -> ActionRecord:
    """Keep to a part of the present range: one that rests on trials, and holds the incumbent and the default."""
    name = action.parameter
    why = _unlimitable(action, draft)
    if why:
        return refused(action, draft, why)
    parameter, present, notes = draft.space[name], draft.range(name), list[str]()
    try:
        range_ = overlap(asked_range(action, parameter, present, notes), present, notes)
        kept = stretched(range_, must_hold(draft, name), parameter)
        if not same(kept, range_):
            notes.append("it was stretched to hold the default, the best trial, and where the best fifth lies")
        range_ = on_grid(draft.space, name, kept)
    except Unusable as unusable:
        return refused(action, draft, str(unusable))
    if not all(in_range(value, range_) for value in must_hold(draft, name)):
        return refused(action, draft, "the best trial's value is not on the grid")
    if one_value(range_):
        return refused(action, draft, "one value would be left; freeze holds a parameter at one")
    if not really_less(range_, present, parameter):
        return refused(action, draft, _too_little(bool(notes)))
    inside = [t for t in draft.complete if name in t.params]
    needed = max(LEAST_TRIALS, _TRIALS_PER_PARAMETER * len(draft.tunable()))
    if len(draft.complete) < needed and draft.by != "person":
        return refused(action, draft, f"{len(draft.complete)} trials are complete; {needed} are needed to narrow")
    if len(inside) < LEAST_TRIALS:
        return refused(action, draft, f"{len(inside)} complete trials have it; {LEAST_TRIALS} are needed to narrow")
    count = sum(in_range(t.params[name], range_) for t in inside)
    if count < _LEAST_INSIDE:
        return refused(action, draft, f"{count} complete trials lie inside; {_LEAST_INSIDE} are needed to narrow")
    why = _unsearchable(draft, name, range_)
    if why:
        return refused(action, draft, why)
    return accepted(action, draft, f"{count} complete trials lie inside", notes, parameter=name, range=range_)


def widen(action: Widen, draft: Draft) -> ActionRecord:
    """Give a narrowed parameter more of its declared values again, or all."""
    name = action.parameter
    if draft.touched(name):
        return refused(action, draft, _ONCE)
    if name not in draft.steering.region:
        return refused(action, draft, f"{shown(name)} is not narrowed")
    if action.low is None and action.high is None and action.values is None:
        return accepted(action, draft, "all declared values again", [], parameter=name)
    parameter, present, notes = draft.space[name], draft.range(name), list[str]()
    declared = on_grid(draft.space, name, full_range(draft.space, name))
    try:
        asked = overlap(asked_range(action, parameter, present, notes), declared, notes)
        range_ = on_grid(draft.space, name, joined(asked, present, parameter))
    except Unusable as unusable:
        return refused(action, draft, str(unusable))
    if same(range_, present):
        return refused(action, draft, "it is no wider than the present range")
    if not same(joined(asked, present, parameter), asked):
        notes.append("it was stretched to hold the present range")
    if same(range_, declared):
        return accepted(action, draft, "all declared values again", notes, parameter=name)
    return accepted(action, draft, "wider, and inside what was declared", notes, parameter=name, range=range_)


def prioritise(action: Prioritise, draft: Draft) -> ActionRecord:
    """Give some parameters more trials: at most half of those that are tuned."""
    free = draft.tunable()
    if draft.taken("prioritise"):
        return refused(action, draft, "one prioritise is taken; put all parameters into it")
    if len(free) < 2:
        return refused(action, draft, "one parameter is tuned, so there is nothing to weigh")
    asked = list(dict.fromkeys(action.parameters))
    names = [name for name in asked if name in free]
    if not names:
        return refused(action, draft, f"none of {', '.join(map(shown, asked[:5]))} is tuned")
    notes = ["parameters that are not tuned were dropped"] if len(names) < len(asked) else []
    most = max(1, len(free) // 2)
    if len(names) > most:
        notes.append(f"only the first {most} can come before the others")
        names = names[:most]
    if set(names) == set(draft.steering.priorities):
        return refused(action, draft, "these are prioritised already")
    if draft.undone("prioritise"):
        return refused(action, draft, "the policy took priorities back in the last rounds, for want of an effect")
    return accepted(action, draft, "tuned, and at most half of them", notes, parameters=names)


_ONCE = "this decision has changed the parameter already"


def _unlimitable(action: Freeze | Narrow, draft: Draft) -> str:
    """Say why a parameter can't be limited at all; empty when it can."""
    name = action.parameter
    if name not in draft.space:
        return f"there is no parameter {shown(name)}"
    if draft.touched(name):
        return _ONCE
    if name in draft.steering.frozen:
        return "it is frozen already" if action.type == "freeze" else "it is frozen; unfreeze it first"
    if name not in draft.tunable():
        return "it has one value as it is"
    if draft.undone(action.type, name):
        return "the policy took the same back in the last rounds"
    if draft.lifted(name):
        return "a limit of it was lifted in the last rounds"
    return resting(draft)


def _unsearchable(draft: Draft, name: str, range_: Range) -> str:
    """Say why there would be nothing to search inside the limits with this one; empty when there would be."""
    within = draft.within({name: range_})
    if not tunable(within, draft.steering):
        return "it is the last parameter that is tuned"
    if not count_new(within, draft.tried, 1):
        return "nothing that was not tried would be left inside"
    return ""


def must_hold(draft: Draft, name: str) -> list[ParamValue]:
    """Give the values that a narrowed range must hold: the default, the incumbent's, and where the best fifth lies.

    Of numbers that is all but a tenth of the best fifth on either side, of choices what a tenth of it has. A person may
    leave the best fifth out.
    """
    kept: list[ParamValue] = [draft.space[name].resolved_default()]
    if draft.best is not None and name in draft.best.params:
        kept.append(draft.best.params[name])
    found = [t.params[name] for t in draft.top if name in t.params]
    if draft.by == "person" or not found:
        return kept
    parameter, most = draft.space[name], len(found) // 10
    if isinstance(parameter, Choice):
        return kept + [v for v in parameter.values if sum(in_range(f, {"values": [v]}) for f in found) > most]
    numbers = sorted(cast(list[float], found))
    return [*kept, numbers[most], numbers[-1 - most]]


def _too_little(changed: bool) -> str:
    return "it is hardly smaller than the present range" + (", once it holds what it must" if changed else "")
