"""Running arms and peers on tasks: the same first trials, the same budget, every trial kept."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.search.arms import Arm
from bench.search.driver import run_study
from bench.search.peers import Child, Peer, play
from bench.search.store import Run
from bench.search.suite import Task
from bench.search.trials import Lab, Setting, first_trials

from agentic_hpt.config import StudyConfig
from agentic_hpt.records import Budget, Params


def run_arm(arm: Arm, task: Task, seed: int, setting: Setting) -> Run:
    """Run one study of ours and judge its incumbents."""
    lab, seconds = Lab(task, arm.seeds_from + seed), list[float]()
    config = study_of(arm, task, seed, setting)
    clock = time.process_time()

    def evaluate(params: Params, number: int) -> float:
        nonlocal clock
        seconds.append(time.process_time() - clock)
        value = lab.evaluate(params)
        clock = time.process_time()
        return value

    strategy, coordinator = arm.make(config.space, config.goal), arm.coordinator(config.seed)
    course = run_study(config, strategy, coordinator, evaluate, arm.opening, setting.pending)
    goal, regret = config.goal, list[float]()
    for number in range(1, len(course.trials) + 1):
        best = goal.best(course.trials[:number])
        regret.append(max(0.0, (lab.truth[best.id] if best else float("inf")) - task.best))
    regret += regret[-1:] * (setting.trials - len(regret))  # a study that ended before its budget
    kinds: dict[str, int] = {}
    for trial in course.trials:
        kinds[trial.kind] = kinds.get(trial.kind, 0) + 1
    return _run(lab, seed, regret, seconds, kinds, "agentic-hpt", arm.version)


def run_peer(child: Child, peer: Peer, task: Task, seed: int, setting: Setting) -> Run:
    """Run one study of a peer; its incumbent is the trial that observed the best value, the earlier of equals."""
    lab = Lab(task, peer.seeds_from + seed)
    by, seconds = play(child, peer, lab, setting)
    regret, best = list[float](), 0
    for number, value in enumerate(lab.observed):
        best = number if value < lab.observed[best] else best
        regret.append(max(0.0, lab.truth[best] - task.best))
    return _run(lab, seed, regret, seconds, {}, by, "")


def study_of(arm: Arm, task: Task, seed: int, setting: Setting) -> StudyConfig:
    """Give the study file, so to say, of one run. The task's name isn't in it: a model might know the task."""
    first = first_trials(task, arm.seeds_from + seed, setting.first)
    return StudyConfig(
        study="bench",
        metric="loss",
        direction="minimize",
        space=task.space,
        initial=tuple(dict(params) for params in first[1:]),
        budget=Budget(trials=setting.trials),
        strategy=arm.strategy,
        executor="processes",
        parallel=setting.pending,
        seed=arm.seeds_from + seed,
    )


def _run(
    lab: Lab, seed: int, regret: Sequence[float], seconds: Sequence[float], kinds: dict[str, int], by: str, version: str
) -> Run:
    lists = tuple(regret), tuple(lab.observed), tuple(lab.truth), tuple(seconds), tuple(lab.params)
    return Run(lab.task.name, seed, *lists, kinds, by, version)
