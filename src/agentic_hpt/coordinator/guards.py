"""The policy, as pure functions: what must happen, and what may. No model can pass by it.

`must_finalize` says when the search is over whatever anybody wants. `judge` gives the verdict on one action:
accepted, repaired, or refused, always with the reason.
"""

from __future__ import annotations

from typing import Literal

from agentic_hpt.coordinator.decisions import Continue, Decision, Finalize, Propose
from agentic_hpt.errors import SpaceError
from agentic_hpt.protocols import Situation
from agentic_hpt.records import ActionRecord, ParamValue, Verdict

StoppedBy = Literal["target", "budget.trials", "budget.minutes", "coordinator"]


def must_finalize(situation: Situation) -> tuple[StoppedBy, str] | None:
    """Say by what the search is over, and why in words; `None` while it may go on."""
    goal = situation.goal
    best = goal.best(situation.trials)
    value = goal.value(best) if best is not None else None
    if best is not None and goal.reached(value):
        return "target", f"trial {best.id} has {goal.metric} {value:g}; the target {goal.target:g} is reached"
    spent = situation.usage.spent(situation.budget)
    if spent == "budget.trials":
        return spent, f"all {situation.budget.trials} trials are spent"
    if spent == "budget.minutes":
        return spent, f"the {situation.budget.minutes:g} minutes are over"
    if situation.exhausted:
        return "coordinator", "the search space holds nothing that was not tried"
    return None


def plateau(situation: Situation) -> tuple[int, int]:
    """Give the finished trials since the best one, and how many make a plateau: 5 a parameter, at least 20."""
    best = situation.goal.best(situation.trials)
    finished = [t for t in situation.trials if t.finished and t.counted]
    since = len(finished) if best is None else sum(t.id > best.id for t in finished)
    return since, max(20, 5 * len(situation.space))


def allowed(situation: Situation) -> tuple[Literal["continue", "propose", "finalize"], ...]:
    """List the actions that could be accepted now, for the schema of the model's answer."""
    since, needed = plateau(situation)
    return ("continue", "propose", "finalize") if since >= needed else ("continue", "propose")


def judge(decision: Decision, situation: Situation) -> tuple[ActionRecord, ...]:
    """Give each action with its verdict. At least one is accepted: the study goes on when all others are refused."""
    records: list[ActionRecord] = []
    for action in decision.actions:
        if action.type == "propose" and any(r.type == "propose" and r.verdict != "refused" for r in records):
            records.append(_record(action, "refused", "one propose is taken; put all configurations into it"))
        else:
            records.append(_judge_one(action, situation))
    if all(record.verdict == "refused" or record.type == "propose" for record in records):
        why = "nothing asked for ends the search"
        records.append(ActionRecord("continue", why, (), "accepted", "budget is left and the target is not reached"))
    return tuple(records)


def _judge_one(action: Continue | Propose | Finalize, situation: Situation) -> ActionRecord:
    if isinstance(action, Propose):
        return _judge_propose(action, situation)
    if isinstance(action, Finalize):
        since, needed = plateau(situation)
        if since >= needed:
            verdict: Verdict = "accepted"
            why = f"{since} trials brought nothing better than the best one; {needed} are enough"
            return _record(action, verdict, why, stopped_by="coordinator")
        missing = f"the target is not reached, budget is left, and only {since} of {needed} trials passed without gain"
        return _record(action, "refused", missing)
    return _record(action, "accepted", "budget is left and the target is not reached")


def _judge_propose(action: Propose, situation: Situation) -> ActionRecord:
    """Keep the configurations that lie in the space and are new, as many as the budget lets."""
    left = min(situation.usage.trials_left(situation.budget), situation.round_trials)
    room = min(left, max(2, situation.round_trials // 2))
    tried = [dict(t.params) for t in situation.trials]
    kept: list[dict[str, ParamValue]] = []
    problems: list[str] = []
    for configuration in action.configurations:
        known = situation.space
        active = {n: v for n, v in configuration.items() if n not in known or known.is_active(n, configuration)}
        try:
            params = situation.space.validated(active)
        except SpaceError as error:
            problems.append(error.message)
            continue
        if params in tried or params in kept:
            problems.append("a configuration was tried already")
        elif len(kept) >= room:
            problems.append(f"only {room} proposals fit into a round")
        else:
            kept.append(params)
            if params != configuration:
                problems.append("a configuration was snapped to the space")
    why = "; ".join(dict.fromkeys(problems))[:500]
    if not kept:
        return _record(action, "refused", why)
    return _record(action, "repaired" if why else "accepted", why or "new, and inside the space", configurations=kept)


def _record(action: Continue | Propose | Finalize, verdict: Verdict, why: str, **detail: object) -> ActionRecord:
    return ActionRecord(action.type, action.reason[:500], action.evidence, verdict, why, detail)
