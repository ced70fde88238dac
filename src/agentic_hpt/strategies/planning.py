"""What all strategies share when they plan a round: queued configurations, shares of trials, the joint worker."""

from __future__ import annotations

from typing import cast

from agentic_hpt.protocols import Situation
from agentic_hpt.records import Assignment, DecisionRecord, Params, ParamValue
from agentic_hpt.strategies.proposing import Proposer
from agentic_hpt.strategies.view import key_of


def incumbent(situation: Situation) -> dict[str, ParamValue]:
    """Give the configuration that workers hold on to: the best complete trial's, else the default."""
    best = situation.goal.best(t for t in situation.trials if situation.space.contains(t.params))
    return dict(best.params) if best is not None else situation.space.default()


def queued(situation: Situation, decision: DecisionRecord | None, limit: int) -> list[Assignment]:
    """Give the workers for configurations decided beforehand: the default in round 1, accepted proposals later."""
    found: list[Assignment] = []
    tried = {key_of(trial.params) for trial in situation.trials if trial.round <= situation.round}
    names = situation.space.names
    if situation.round == 0:
        default = situation.space.default()
        if key_of(default) not in tried:
            found.append(Assignment("default", "default", 1, 1, names, queue=(default,), reason="the declared default"))
    propose = decision.accepted("propose") if decision else None
    if propose is not None:
        configurations = cast(list[Params], propose.detail.get("configurations", []))
        configurations = [c for c in configurations if key_of(c) not in tried]
        room = max(0, limit - len(found))
        if configurations[:room]:
            queue = tuple(configurations[:room])
            worker = Assignment("proposals", "proposals", situation.round + 1, len(queue), names, queue=queue)
            found.append(worker)
    return found[: max(limit, 0)]


def joint_worker(situation: Situation, proposer: Proposer, trials: int, reason: str) -> list[Assignment]:
    """Give the worker that tunes all parameters at once; none when there is nothing new to try, or no trials left."""
    names = situation.space.names
    new = proposer.new_values(names, {}, situation.trials)
    trials = trials if new is None else min(trials, new)
    return [Assignment("joint", "joint", situation.round + 1, trials, names, reason=reason)] if trials > 0 else []
