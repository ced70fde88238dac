"""What the workers that a model spawned brought, and how many trials it may give to such workers now.

An account bounds what useless workers cost, as it does for proposals (`credit`): it opens with a thirtieth of the trial
budget; a trial is paid from it by how far it stood below the samplers' trials of its round, and pays back by how far
above.
"""

from __future__ import annotations

import math

from agentic_hpt.coordinator.statistics import share_beaten, worth_of
from agentic_hpt.coordinator.undo import asked_for
from agentic_hpt.protocols import Situation

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
        mine = [t for t in ran if any(asked_for(t, action) for action in spawned)]
        own |= {t.id for t in mine}
        others = [t for t in ran if t.id not in own]
        if len(others) < _LEAST_OTHERS:
            others = [t for t in sampled if t.id not in own and t.round <= decision.round + 1]
        values = sorted(worth_of(situation.goal, trial) for trial in others)
        for trial in mine:
            rank = share_beaten(worth_of(situation.goal, trial), values)
            account = min(size, account + 2 * rank - 1)
    return max(0, min(math.floor(account + 1e-9), max(1, int(_MOST * situation.round_trials))))
