"""A study without graph, ledger and MLflow: the same strategy, coordinator, rounds and seeds.

With one trial at a time a test holds it to `hpt.tune(executor="inline", mlflow={"enabled": False})`: the same trials
for the same seed. With several, the one that began first ends first, and the bridge starts trials of the next round
while a round's last ones run, as `graph.bridging` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agentic_hpt.config import StudyConfig
from agentic_hpt.coordinator.guards.draft import trials_of
from agentic_hpt.ledger.study_ledger import trial_seed
from agentic_hpt.protocols import Coordinator, Situation, Strategy
from agentic_hpt.records import (
    Assignment,
    DecisionRecord,
    Params,
    Proposal,
    Trial,
    TrialState,
    Usage,
    configuration_key,
)

Evaluate = Callable[[Params, int], float | Mapping[str, float]]
"""Gives a configuration's metric, or all of several; the number is the trial's seed."""


@dataclass(frozen=True)
class Course:
    """What a study came to."""

    trials: tuple[Trial, ...]
    decisions: tuple[DecisionRecord, ...]


def run_study(
    config: StudyConfig,
    strategy: Strategy,
    coordinator: Coordinator,
    evaluate: Evaluate,
    opening: bool = False,
    pending: int = 1,
) -> Course:
    """Run a study to its end, up to `pending` trials at once.

    `opening` asks the coordinator before round 1 too, as a study with a model does.
    """
    return _Drive(config, strategy, coordinator, evaluate, pending).run(opening)


class _Drive:
    def __init__(
        self, config: StudyConfig, strategy: Strategy, coordinator: Coordinator, evaluate: Evaluate, pending: int
    ) -> None:
        self._config = config
        self._strategy = strategy
        self._coordinator = coordinator
        self._evaluate = evaluate
        self._pending = pending
        self._trials: list[Trial] = []
        self._running: list[int] = []
        """The trials under way, in the order in which they began."""
        self._decisions: list[DecisionRecord] = []

    def run(self, opening: bool) -> Course:
        decision: DecisionRecord | None = None
        if opening:
            decision = self._decide(self._situation(0))
        round_ = 0
        while decision is None or not decision.finalizes:
            plan = self._plan(round_, decision)
            before, bridged = len(self._trials), any(t.round == round_ + 1 for t in self._trials)
            round_ += 1
            self._run_round(plan)
            self._bridge(round_)
            ran = bridged or len(self._trials) > before
            situation = self._situation(round_)
            situation = replace(situation, exhausted=not ran or not self._strategy.plan(situation, None))
            if self._config.strategy == "auto":  # what others decide doesn't look at it, and it takes time
                situation = replace(situation, insights=self._strategy.insights(situation.trials))
            decision = self._decide(situation)
        while self._running:
            self._end_one()
        return Course(tuple(self._trials), tuple(self._decisions))

    def _decide(self, situation: Situation) -> DecisionRecord:
        """Run the coordinator's coroutine to its end; the rules await nothing, so they need no event loop."""
        work = self._coordinator.decide(situation)
        if self._coordinator.kind == "llm":
            decision = asyncio.run(work)
        else:
            try:
                work.send(None)
            except StopIteration as end:
                decision = end.value
            else:
                raise RuntimeError("the rules waited for something")
        self._decisions.append(decision)
        return decision

    def _situation(self, round_: int) -> Situation:
        """Give what may be known after a round: its trials have ended, those of the next may be under way."""
        config = self._config
        return Situation(
            study=config.study,
            round=round_,
            goal=config.goal,
            space=config.space,
            budget=config.limits_of_study,
            usage=Usage(trials=len(self._trials)),
            slots=config.slots,
            round_trials=config.round_trials,
            trials=tuple(t for t in self._trials if t.finished and t.round <= round_),
            decisions=tuple(self._decisions),
            description=config.description,
            strategy=config.strategy,
            running=tuple(self._trials[number] for number in self._running),
            initial=config.initial_configurations,
        )

    def _plan(self, round_: int, decision: DecisionRecord | None) -> list[Assignment]:
        """Plan the round after `round_` beside what the bridge has begun of it; see `graph.nodes._plan`."""
        situation = self._situation(round_)
        begun = [t for t in self._trials if t.round == round_ + 1]
        if begun:
            whole = situation.round_trials
            beside = max(whole - len(begun), -(-whole // 2), _places(situation, decision))
            situation = replace(situation, round_trials=beside)
        tried = {configuration_key(t.params) for t in begun}
        found: list[Assignment] = []
        for assignment in self._strategy.plan(situation, decision):
            if assignment.queue and assignment.kind != "repeat" and tried:
                queue = tuple(params for params in assignment.queue if configuration_key(params) not in tried)
                if queue:
                    found.append(replace(assignment, queue=queue, trials=len(queue)))
            else:
                found.append(assignment)
        return found

    def _run_round(self, plan: Sequence[Assignment]) -> None:
        """Start a round's trials: what was given to run first, then the workers take turns, a trial each."""
        for assignment in plan:
            if assignment.kind in ("default", "initial"):
                for done in range(assignment.trials):
                    self._start(assignment, done)
        waiting = [(a, 0) for a in plan if a.kind not in ("default", "initial")]
        while waiting and self._room():
            assignment, done = waiting.pop(0)
            if self._start(assignment, done) and done + 1 < assignment.trials:
                waiting.append((assignment, done + 1))

    def _bridge(self, round_: int) -> None:
        """See a round's trials to their ends, and keep the slots busy that become free meanwhile."""
        held: Assignment | None = None
        begun = 0
        while any(self._trials[number].round <= round_ for number in self._running):
            if len(self._running) < self._pending and self._room() and begun >= 0:
                held = held or self._strategy.bridge(self._situation(round_))
                if held is not None and begun < held.trials and self._start(held, begun):
                    begun += 1
                else:
                    begun = -1  # nothing more to start in this round
            else:
                self._end_one()

    def _room(self) -> bool:
        return len(self._trials) < (self._config.limits_of_study.trials or 2**31)

    def _start(self, assignment: Assignment, done: int) -> bool:
        """Start a worker's next trial, once a slot is free; says whether there was one to start."""
        if not self._room():
            return False
        while len(self._running) >= self._pending:
            self._end_one()
        number, config = len(self._trials), self._config
        proposal: Proposal | None
        if assignment.queue:
            proposal = Proposal(assignment.queue[done], assignment.tuned)
        else:
            proposal = self._strategy.propose(assignment, list(self._trials), config.proposal_seed(number))
        if proposal is None:
            return False
        self._running.append(number)
        self._trials.append(
            Trial(
                id=number,
                params=proposal.params,
                state=TrialState.RUNNING,
                seed=trial_seed(config.seed, number),
                worker=assignment.worker,
                kind=assignment.kind,
                round=assignment.round,
                tuned=proposal.tuned,
            )
        )
        return True

    def _end_one(self) -> None:
        """End the trial that began first."""
        number = self._running.pop(0)
        trial = self._trials[number]
        given = self._evaluate(trial.params, trial.seed)
        values = given if isinstance(given, Mapping) else {self._config.goal.metric: given}
        self._trials[number] = replace(trial, state=TrialState.COMPLETE, values=values)


def _places(situation: Situation, decision: DecisionRecord | None) -> int:
    """Give how many trials of the next round have their places before the strategy's own, as `graph.bridging` does."""
    asked = sum(trials_of(a) for a in decision.actions if a.verdict != "refused") if decision is not None else 0
    outside = -(-situation.round_trials // 10) if situation.steering.limits else 0
    return min(situation.round_trials, asked + len(situation.waiting) + outside)
