"""The per-parameter strategy: a worker for each parameter, the others held at the incumbent.

After such a round the improvements that different workers found are tried together (a combination), since each was
measured with the others held. Trials that single parameters have no new values for go to a joint worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentic_hpt.protocols import Situation
from agentic_hpt.records import (
    Assignment,
    DecisionRecord,
    Goal,
    Insights,
    ParamValue,
    Proposal,
    Trial,
    configuration_key,
)
from agentic_hpt.space import SearchSpace
from agentic_hpt.strategies.insights import insights_of
from agentic_hpt.strategies.planning import Begun, begin, bridge_worker, incumbent, joint_worker, shared
from agentic_hpt.strategies.proposing import Proposer


class PerParameter:
    """One parameter at a time, all in parallel; see `protocols.Strategy`."""

    def __init__(self, space: SearchSpace, goal: Goal) -> None:
        self._space = space
        self._goal = goal
        self._proposer = Proposer(space, goal)

    def plan(self, situation: Situation, decision: DecisionRecord | None) -> list[Assignment]:
        """Give a round of combinations if the last one found several improvements, else a worker per parameter."""
        begun = begin(situation, decision, self._proposer)
        combined = self._combinations(situation, begun)[: min(begun.room, max(2, situation.slots))]
        if combined:
            names = sorted({name for params, changed in combined for name in changed})
            reason = f"the improvements of {', '.join(names)} together"
            queue = tuple(params for params, _ in combined)
            worker = Assignment(
                "combination", "combination", situation.round + 1, len(queue), tuple(names), queue=queue, reason=reason
            )
            fill = min(begun.room, situation.slots) - len(queue)
            return joint_worker(situation, begun, self._proposer, fill, "fills slots left free", [worker])
        workers = self._workers(situation, begun)
        left = begun.room - sum(a.trials for a in workers)
        return joint_worker(situation, begun, self._proposer, left, "what single parameters leave over", workers)

    def propose(self, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        """Give the next configuration, or `None` when the assignment's subspace holds nothing new."""
        return self._proposer.propose(assignment, trials, seed)

    def propose_many(self, assignment: Assignment, trials: Sequence[Trial], seeds: Sequence[int]) -> list[Proposal]:
        """Give configurations that are to run together; fewer when the subspace holds nothing new beyond them."""
        return self._proposer.propose_many(assignment, trials, seeds)

    def bridge(self, situation: Situation) -> Assignment | None:
        """Give the worker that keeps free slots busy."""
        return bridge_worker(situation, self._proposer)

    def insights(self, trials: Sequence[Trial]) -> Insights:
        """Say which parameters matter and which interact."""
        return insights_of(self._space, self._goal, trials)

    def _workers(self, situation: Situation, begun: Begun) -> list[Assignment]:
        """Give a worker for each free parameter that no spawned one tunes; prioritised ones get double shares."""
        steering = begun.steering
        base = incumbent(situation, steering)
        spawned = {a.worker for a in begun.workers if a.kind == "per_parameter"}
        names = [n for n in steering.free(self._space.names) if n in base and n not in spawned]
        weights = [2 if name in steering.priorities else 1 for name in names]
        workers, kept = [], []
        for name, weight in zip(names, weights, strict=True):
            held = {**steering.frozen, **{n: v for n, v in base.items() if n != name}}
            region = {n: r for n, r in steering.region.items() if n == name}
            share = -(-situation.round_trials * weight // sum(weights))
            why = "others held at the incumbent"
            worker = Assignment(
                name, "per_parameter", situation.round + 1, share, (name,), held, region=region, reason=why
            )
            new = self._proposer.new_values(worker, situation.trials)
            if new is None or new > 0:
                workers.append(replace(worker, trials=share if new is None else min(share, new)))
                kept.append(weight)
        return shared(workers, begun.room, kept, situation.round)

    def _combinations(self, situation: Situation, begun: Begun) -> list[tuple[dict[str, ParamValue], tuple[str, ...]]]:
        """Merge what the workers of the last round improved, each on its own, over the incumbent they held.

        The first merges all improvements; then, of three or more, the two strongest and all but the weakest.
        """
        goal = situation.goal
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
        tried = {configuration_key(t.params) for t in situation.trials}
        found: list[tuple[dict[str, ParamValue], tuple[str, ...]]] = []
        for group in (ranked, ranked[:2], ranked[:-1]):
            changed = tuple(trial.tuned[0] for trial in group)
            merged = {
                **begun.steering.frozen,
                **base_params,
                **{name: t.params[name] for name, t in zip(changed, group, strict=True)},
            }
            params = self._space.complete(merged)
            new = configuration_key(params) not in tried and begun.steering.holds(params)
            if len(group) > 1 and new and self._space.allows(params):
                tried.add(configuration_key(params))
                found.append((params, changed))
        return found
