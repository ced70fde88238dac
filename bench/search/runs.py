"""Running arms on tasks, and keeping the runs: one file an arm, a line a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.search.arms import Arm
from bench.search.driver import Course, run_study
from bench.search.suite import Task

from agentic_hpt.config import StudyConfig
from agentic_hpt.records import Budget, Params, configuration_key

TRIALS = 100


@dataclass(frozen=True)
class Run:
    """One study: how far the incumbent's truth was from the best known, after each trial."""

    task: str
    seed: int
    regret: tuple[float, ...]
    kinds: Mapping[str, int]


def run(arm: Arm, task: Task, seed: int, trials: int = TRIALS) -> Run:
    """Run one study and judge its incumbents."""
    truths: dict[object, float] = {}

    def evaluate(params: Params, number: int) -> float:
        observed, truth = task.evaluate(params, number)
        truths[configuration_key(params)] = truth
        return observed

    config = study_of(arm, task, seed, trials)
    strategy, coordinator = arm.make(config.space, config.goal), arm.coordinator(config.seed)
    course = run_study(config, strategy, coordinator, evaluate, opening=arm.opening)
    return Run(task.name, seed, regrets(config, task, course, truths), _kinds(course))


def study_of(arm: Arm, task: Task, seed: int, trials: int) -> StudyConfig:
    """Give the study file, so to say, of one run. The task's name isn't in it: a model might know the task."""
    return StudyConfig(
        study="bench",
        metric="loss",
        direction="minimize",
        space=task.space,
        budget=Budget(trials=trials),
        strategy=arm.strategy,
        executor="inline",
        seed=arm.seeds_from + seed,
    )


def regrets(config: StudyConfig, task: Task, course: Course, truths: Mapping[object, float]) -> tuple[float, ...]:
    """Give the regret of the incumbent, the best by what was observed, after each trial."""
    found: list[float] = []
    goal, trials = config.goal, course.trials
    repeated = any(t.kind == "repeat" for t in trials)
    best = None
    for number in range(1, (config.budget.trials or 0) + 1):
        if number <= len(trials):
            best = goal.best(trials[:number] if repeated else [*([best] if best else []), trials[number - 1]])
        if best is not None:
            found.append(max(0.0, truths[configuration_key(best.params)] - task.best))
    return tuple(found)


def _kinds(course: Course) -> dict[str, int]:
    counts: dict[str, int] = {}
    for trial in course.trials:
        counts[trial.kind] = counts.get(trial.kind, 0) + 1
    return counts


class Store:
    """Keeps runs in a folder, so that only what changed is run again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def runs(self, arm: Arm) -> dict[tuple[str, int], Run]:
        """Give the stored runs of an arm as it is now."""
        found: dict[tuple[str, int], Run] = {}
        path = self._path(arm)
        for line in path.read_text().splitlines() if path.exists() else []:
            row = json.loads(line)
            if row["version"] == arm.version:
                key = row["task"], row["seed"]
                found[key] = Run(*key, tuple(row["regret"]), row["kinds"])
        return found

    def add(self, arm: Arm, runs: Iterable[Run]) -> None:
        """Keep runs."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path(arm).open("a") as file:
            for found in runs:
                row = {"version": arm.version, "task": found.task, "seed": found.seed}
                regret = [float(f"{value:.6g}") for value in found.regret]
                file.write(json.dumps({**row, "kinds": found.kinds, "regret": regret}) + "\n")

    def _path(self, arm: Arm) -> Path:
        return self._folder / f"{arm.name.replace(' ', '-')}.jsonl"
