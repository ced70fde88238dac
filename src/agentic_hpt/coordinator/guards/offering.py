"""What could be accepted now, found by asking the guards themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import cast

from agentic_hpt.coordinator.decisions import (
    MAX_RANGES,
    MAX_VALUES,
    ActionType,
    Freeze,
    Narrow,
    Options,
    Prioritise,
    Repeat,
    Spawn,
    StopTrial,
)
from agentic_hpt.coordinator.guards.draft import Draft
from agentic_hpt.coordinator.guards.ends import stop_trial
from agentic_hpt.coordinator.guards.judging import opened
from agentic_hpt.coordinator.guards.limits import freeze, must_hold, narrow, prioritise
from agentic_hpt.coordinator.guards.policy import plateau
from agentic_hpt.coordinator.guards.runs import proposals, repeat, spawn, spawnable
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, ParamValue
from agentic_hpt.space import Choice
from agentic_hpt.steering import in_range

_REPEATABLE = 5
_STOPPABLE = 8
_PROBES = 20
_PROBE = "-"


def options(situation: Situation, by: str = "") -> Options:
    """Say what could be accepted now, for the schema of the model's answer; short where the guards know more.

    Ranges are offered for the parameters that matter most, repeats for the best trials: what a schema can bear.
    """
    draft, _ = opened(situation, by)
    free = draft.tunable()
    importance = situation.insights.importance
    by_weight = sorted(free, key=lambda name: -importance.get(name, 0.0))
    narrowable = list(islice((name for name in by_weight if _can_narrow(draft, name)), MAX_RANGES))
    frozen, narrowed = draft.steering.frozen, draft.steering.region
    freezable = [n for n in situation.space if _lets(freeze(Freeze(reason=_PROBE, parameter=n), draft))]
    best = [t.id for t in situation.goal.ranked(draft.complete)[:_REPEATABLE]]
    repeatable = [i for i in best if _lets(repeat(Repeat(reason=_PROBE, trial=i, seeds=1), draft))]
    running = [t.id for t in situation.running if _lets(stop_trial(StopTrial(reason=_PROBE, trial=t.id), draft))]
    joint = spawn(Spawn(reason=_PROBE, worker="joint", trials=1), draft)
    spawn_trials = spawnable(draft) if _lets(joint) else 0
    room = proposals(draft)
    since, needed = plateau(situation)
    weighable = any(_lets(prioritise(Prioritise(reason=_PROBE, parameters=(name,)), draft)) for name in free)
    may = {
        "continue": True,
        "freeze": freezable,
        "unfreeze": frozen,
        "prioritise": weighable,
        "narrow": narrowable,
        "widen": narrowed,
        "spawn": spawn_trials,
        "propose": room,
        "repeat": repeatable,
        "stop_trial": running and situation.goal.merges is None,
        "finalize": since >= needed,
    }
    return Options(
        actions=tuple(cast(ActionType, type_) for type_, possible in may.items() if possible),
        freezable=tuple(freezable),
        frozen=tuple(n for n in situation.space if n in frozen),
        narrowable=tuple(n for n in situation.space if n in narrowable),
        narrowed=tuple(n for n in situation.space if n in narrowed)[:MAX_RANGES],
        free=free,
        proposals=room,
        spawn_trials=spawn_trials,
        repeatable=tuple(repeatable),
        stoppable=tuple(running[:_STOPPABLE]),
    )


def _lets(record: ActionRecord) -> bool:
    return record.verdict != "refused"


def _can_narrow(draft: Draft, name: str) -> bool:
    return any(_lets(narrow(probe, draft)) for probe in _narrowings(draft, name))


def _narrowings(draft: Draft, name: str) -> Iterator[Narrow]:
    """Give the largest ranges that are worth a narrowing: without one of the choices, or without an end."""
    parameter, present = draft.space[name], draft.range(name)
    if isinstance(parameter, Choice):
        values, kept = cast(list[ParamValue], present["values"]), must_hold(draft, name)
        droppable = [v for v in values if not in_range(v, {"values": kept})]
        for dropped in droppable[:_PROBES]:
            rest = [v for v in values if v is not dropped]
            if 1 < len(rest) <= MAX_VALUES:
                yield Narrow(reason=_PROBE, parameter=name, values=tuple(rest))
        return
    low, high = cast(float, present["low"]), cast(float, present["high"])
    for share in (0.06, 0.2, 0.5, 1.0):
        if parameter.log:
            above, below = low * (high / low) ** share, high * (low / high) ** share
        else:
            above, below = low + share * (high - low), high - share * (high - low)
        yield Narrow(reason=_PROBE, parameter=name, low=min(above, high), high=high)
        yield Narrow(reason=_PROBE, parameter=name, low=low, high=max(below, low))
        if above < below:
            yield Narrow(reason=_PROBE, parameter=name, low=above, high=below)
