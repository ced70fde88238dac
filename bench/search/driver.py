"""A study without graph, ledger and MLflow: the same strategy, coordinator, rounds and seeds, trials one at a time.

A test holds it to `hpt.tune(executor="inline", mlflow={"enabled": False})`: the same trials for the same seed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agentic_hpt.config import StudyConfig
from agentic_hpt.ledger.study_ledger import trial_seed
from agentic_hpt.protocols import Coordinator, Situation, Strategy
from agentic_hpt.records import Assignment, DecisionRecord, Params, Proposal, Trial, TrialState, Usage

Evaluate = Callable[[Params, int], float]
"""Gives a configuration's metric; the number is the trial's seed."""


@dataclass(frozen=True)
class Course:
    """What a study came to."""

    trials: tuple[Trial, ...]
    decisions: tuple[DecisionRecord, ...]


def run_study(
    config: StudyConfig, strategy: Strategy, coordinator: Coordinator, evaluate: Evaluate, opening: bool = False
) -> Course:
    """Run a study to its end; `opening` asks the coordinator before round 1 too, as a study with a model does."""
    trials: list[Trial] = []
    decisions: list[DecisionRecord] = []
    decision: DecisionRecord | None = None
    if opening:
        decision = _decide(coordinator, _situation(config, strategy, 0, trials, decisions))
        decisions.append(decision)
    round_ = 0
    while decision is None or not decision.finalizes:
        plan = strategy.plan(_situation(config, strategy, round_, trials, decisions), decision)
        round_ += 1
        ran = _run_round(config, strategy, plan, trials, evaluate)
        situation = _situation(config, strategy, round_, trials, decisions)
        situation = replace(situation, exhausted=not ran or not strategy.plan(situation, None))
        if config.strategy == "auto":  # what others decide doesn't look at it, and it takes time
            situation = replace(situation, insights=strategy.insights(trials))
        decision = _decide(coordinator, situation)
        decisions.append(decision)
    return Course(tuple(trials), tuple(decisions))


def _decide(coordinator: Coordinator, situation: Situation) -> DecisionRecord:
    """Run the coordinator's coroutine to its end; the rules await nothing, so they need no event loop."""
    work = coordinator.decide(situation)
    if coordinator.kind == "llm":
        return asyncio.run(work)
    try:
        work.send(None)
    except StopIteration as end:
        decision: DecisionRecord = end.value
        return decision
    raise RuntimeError("the rules waited for something")


def _situation(
    config: StudyConfig,
    strategy: Strategy,
    round_: int,
    trials: Sequence[Trial],
    decisions: Sequence[DecisionRecord],
) -> Situation:
    return Situation(
        study=config.study,
        round=round_,
        goal=config.goal,
        space=config.space,
        budget=config.limits_of_study,
        usage=Usage(trials=len(trials)),
        slots=config.slots,
        round_trials=config.round_trials,
        trials=tuple(trials),
        decisions=tuple(decisions),
        description=config.description,
        strategy=config.strategy,
    )


def _run_round(
    config: StudyConfig, strategy: Strategy, plan: Sequence[Assignment], trials: list[Trial], evaluate: Evaluate
) -> int:
    """Run a round: with one slot, its workers take turns, a trial each. Gives how many trials ran."""
    before, limit = len(trials), config.limits_of_study.trials or 2**31
    waiting = [(assignment, 0) for assignment in plan]
    while waiting and len(trials) < limit:
        assignment, done = waiting.pop(0)
        proposal: Proposal | None
        if assignment.queue:
            proposal = Proposal(assignment.queue[done], assignment.tuned)
        else:
            proposal = strategy.propose(assignment, trials, config.proposal_seed(len(trials)))
        if proposal is None:
            continue
        seed = trial_seed(config.seed, len(trials))
        value = evaluate(proposal.params, seed)
        trials.append(
            Trial(
                id=len(trials),
                params=proposal.params,
                state=TrialState.COMPLETE,
                seed=seed,
                worker=assignment.worker,
                kind=assignment.kind,
                round=assignment.round,
                tuned=proposal.tuned,
                values={config.metric: value},
            )
        )
        if done + 1 < assignment.trials:
            waiting.append((assignment, done + 1))
    return len(trials) - before
