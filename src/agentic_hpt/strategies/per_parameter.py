"""The per-parameter strategy: a worker for each parameter, the others held at the incumbent.

After such a round the improvements that different workers found are tried together (a combination), since each was
measured with the others held. Trials that single parameters have no new values for go to a joint worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentic_hpt.protocols import Situation
from agentic_hpt.records import Assignment, DecisionRecord, Goal, ParamValue, Proposal, Trial
from agentic_hpt.space import SearchSpace
from agentic_hpt.strategies.planning import incumbent, joint_worker, queued
from agentic_hpt.strategies.proposing import Proposer
from agentic_hpt.strategies.view import key_of


class PerParameter:
    """One parameter at a time, all in parallel; see `protocols.Strategy`."""

    def __init__(self, space: SearchSpace, goal: Goal) -> None:
        self._space = space
        self._goal = goal
        self._proposer = Proposer(space, goal)

    def plan(self, situation: Situation, decision: DecisionRecord | None) -> list[Assignment]:
        """Give a round of combinations if the last one found several improvements, else a worker per parameter."""
        room = min(situation.round_trials, situation.usage.trials_left(situation.budget))
        found = queued(situation, decision, room)
        room -= sum(a.trials for a in found)
        combined = self._combinations(situation)[: min(room, max(2, situation.slots))]
        if combined:
            names = sorted({name for params, changed in combined for name in changed})
            reason = f"the improvements of {', '.join(names)} together"
            queue = tuple(params for params, _ in combined)
            worker = Assignment(
                "combination", "combination", situation.round + 1, len(queue), tuple(names), queue=queue, reason=reason
            )
            fill = min(room, situation.slots) - len(queue)
            return [*found, worker, *joint_worker(situation, self._proposer, fill, "fills slots left free")]
        workers = self._workers(situation, room)
        left = room - sum(a.trials for a in workers)
        return found + workers + joint_worker(situation, self._proposer, left, "what single parameters leave over")

    def propose(self, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        """Give the next configuration, or `None` when the assignment's subspace holds nothing new."""
        return self._proposer.propose(assignment, trials, seed)

    def _workers(self, situation: Situation, room: int) -> list[Assignment]:
        base = incumbent(situation)
        share = -(-situation.round_trials // len(base))
        workers = []
        for name in self._space.names:
            if name not in base:
                continue
            held = {n: v for n, v in base.items() if n != name}
            new = self._proposer.new_values((name,), held, situation.trials)
            trials = share if new is None else min(share, new)
            if trials > 0:
                why = "others held at the incumbent"
                workers.append(
                    Assignment(name, "per_parameter", situation.round + 1, trials, (name,), held, reason=why)
                )
        return _cut(workers, room, situation.round)

    def _combinations(self, situation: Situation) -> list[tuple[dict[str, ParamValue], tuple[str, ...]]]:
        """Merge what the workers of the last round improved, each on its own, over the incumbent they held.

        The first merges all improvements; then, of three or more, the two strongest and all but the weakest.
        """
        goal = self._goal
        last = [t for t in situation.trials if t.round == situation.round and t.kind == "per_parameter"]
        if not last:
            return []
        base = goal.best(t for t in situation.trials if t.round < situation.round or t.kind == "default")
        base_value = goal.value(base) if base is not None else None
        base_params = dict(base.params) if base is not None else self._space.default()
        improved = []
        for name in self._space.names:
            best = goal.best(t for t in last if t.tuned == (name,))
            value = goal.value(best) if best is not None else None
            if best is not None and value is not None and (base_value is None or goal.better(value, base_value)):
                improved.append(best)
        ranked = goal.ranked(improved)
        if len(ranked) < 2:
            return []
        tried = {key_of(t.params) for t in situation.trials}
        found: list[tuple[dict[str, ParamValue], tuple[str, ...]]] = []
        for group in (ranked, ranked[:2], ranked[:-1]):
            changed = tuple(trial.tuned[0] for trial in group)
            merged = {**base_params, **{name: t.params[name] for name, t in zip(changed, group, strict=True)}}
            params = self._space.complete(merged)
            if len(group) > 1 and key_of(params) not in tried:
                tried.add(key_of(params))
                found.append((params, changed))
        return found


def _cut(workers: list[Assignment], room: int, turn: int) -> list[Assignment]:
    """Take trials from the largest workers until they fit; where there is no trial for each, take turns."""
    if not workers or room <= 0:
        return []
    turn = turn % len(workers) if room < len(workers) else 0
    kept = (workers[turn:] + workers[:turn])[:room]
    trials = [a.trials for a in kept]
    while sum(trials) > room:
        largest = max(range(len(trials)), key=lambda i: (trials[i], i))
        trials[largest] -= 1
    return [replace(a, trials=n) for a, n in zip(kept, trials, strict=True)]
