"""What the workers that a model spawned brought, and how many trials it may give to such workers now.

An account bounds what useless workers cost, as it does for proposals (`credit`): it opens with a thirtieth of the trial
budget; a trial is paid from it by how far it stood below the samplers' trials of its round, and pays back by how far
above.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import cast

from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, Goal, Trial

_SHARE = 0.03
_LEAST = 3
_MOST = 0.5
_UNKNOWN_BUDGET = 50
_SAMPLED = ("per_parameter", "group", "joint", "bridge", "combination")
_LEAST_OTHERS = 3


def spawn_room(situation: Situation) -> int:
    """Give how many trials of the next round, at most half of it, a model may have for workers that it spawns."""
    whole = situation.budget.trials or max(_UNKNOWN_BUDGET, len(situation.trials))
    account = size = max(_LEAST, _SHARE * whole)
    sampled = [t for t in situation.trials if t.finished and t.kind in _SAMPLED]
    own: set[int] = set()
    for decision in situation.decisions:
        spawned = [a for a in decision.actions if a.type == "spawn" and a.verdict != "refused" and not a.by]
        if decision.kind != "llm" or not spawned:
            continue
        ran = [t for t in sampled if t.round == decision.round + 1]
        mine = [t for t in ran if any(_of(t, action) for action in spawned)]
        own |= {t.id for t in mine}
        others = [t for t in ran if t.id not in own]
        if len(others) < _LEAST_OTHERS:
            others = [t for t in sampled if t.id not in own and t.round <= decision.round + 1]
        for rank in _ranks(situation.goal, mine, others):
            account = min(size, account + 2 * rank - 1)
    return max(0, min(math.floor(account + 1e-9), max(1, int(_MOST * situation.round_trials))))


def _ranks(goal: Goal, own: Sequence[Trial], others: Sequence[Trial]) -> list[float]:
    """Give for each trial the share of the others that it beats, 0 for one without a value; a half without others."""
    values = sorted(_worth(goal, trial) for trial in others)
    found = []
    for trial in own:
        worth = _worth(goal, trial)
        middle = (bisect_left(values, worth) + bisect_right(values, worth)) / 2 / len(values) if values else 0.5
        found.append(middle if worth > -math.inf else 0.0)
    return found


def _worth(goal: Goal, trial: Trial) -> float:
    value = goal.value(trial)
    if value is None:
        return -math.inf
    return value if goal.direction == "maximize" else -value


def _of(trial: Trial, action: ActionRecord) -> bool:
    """Say whether a trial is one that a spawned worker ran; a joint worker's can't be told from the strategy's own."""
    if trial.kind != action.detail["worker"]:
        return False
    return trial.kind == "joint" or set(trial.tuned) == set(cast(Sequence[str], action.detail["parameters"]))
