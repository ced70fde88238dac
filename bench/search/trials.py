"""What every optimizer gets alike: the first configurations, and the noise that a trial meets."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.search.suite import Task

from agentic_hpt.records import Params, ParamValue, configuration_key
from agentic_hpt.space import Choice, Parameter

_TRIES = 100


@dataclass(frozen=True)
class Setting:
    """How long a run is, how it begins, and how many trials are under way at once."""

    trials: int = 100
    first: int = 10
    """So many trials are the same for all: the default, then random ones. 0: each optimizer begins as it likes."""
    pending: int = 1


@dataclass
class Lab:
    """Evaluates a run's trials and keeps what came of them. The noise depends on task, seed and the trial's place."""

    task: Task
    seed: int
    params: list[Params] = field(default_factory=list)
    observed: list[float] = field(default_factory=list)
    truth: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """CPU time of the evaluations, so that it can be taken from the optimizer's."""

    def evaluate(self, params: Params) -> float:
        """Give what the next trial observes."""
        began = time.process_time()
        noise = random.Random(f"{self.task.name} {self.seed} {len(self.params)}").getrandbits(31)
        observed, truth = self.task.evaluate(params, noise)
        self.params.append(params)
        self.observed.append(observed)
        self.truth.append(truth)
        self.seconds.append(time.process_time() - began)
        return observed


def first_trials(task: Task, seed: int, count: int) -> Sequence[Params]:
    """Give a run's first configurations: the task's default, then random ones that depend on the task and the seed."""
    dice = random.Random(f"first {task.name} {seed}")
    found = {configuration_key(task.space.default()): task.space.default()} if count else {}
    for _ in range(_TRIES * count):
        if len(found) == count:
            break
        params = task.space.complete({name: _drawn(task.space[name], dice) for name in task.space.names})
        found.setdefault(configuration_key(params), params)
    return list(found.values())


def _drawn(parameter: Parameter, dice: random.Random) -> ParamValue:
    """Draw a value evenly on its scale. Not the product's own drawing: what is stored must not change with that."""
    if isinstance(parameter, Choice):
        return dice.choice(list(parameter.values))
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log:
        drawn = math.exp(dice.uniform(math.log(low), math.log(high)))
        return parameter.snap(min(max(drawn, low), high))
    return parameter.snap(dice.uniform(low, high))
