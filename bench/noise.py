"""What running configurations again brings, and what ending early costs, on stored runs of the search benchmark.

python bench/noise.py --store STORE [--arm "optuna tpe"] [--seeds 10]

A stored run's configurations are tried again in their order, with the product's own repeats among them, so that both
courses have 100 trials and the same sampler. Needs the runs with their configurations, before they are packed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench.search.store import Run, Store
from bench.search.suite import CHOSEN_ON, CONFIRMED_ON, Task, load_task
from bench.search.trials import Setting

from agentic_hpt.coordinator.guards import must_finalize
from agentic_hpt.coordinator.repeating import confirmation
from agentic_hpt.coordinator.rules import decide_by_rules
from agentic_hpt.protocols import Situation
from agentic_hpt.records import (
    Budget,
    DecisionRecord,
    Goal,
    Params,
    Stop,
    Trial,
    TrialState,
    Usage,
    configuration_key,
)
from agentic_hpt.space import Choice, SearchSpace

GOAL = Goal("loss", "minimize")
TRIALS, ROUND = 100, 8


class Course:
    """A stored run, tried again: with the product's repeats, or without."""

    def __init__(self, task: Task, run: Run, repeat: bool) -> None:
        self._task, self._run, self._repeat = task, run, repeat
        self._decisions: list[DecisionRecord] = []
        self.trials: list[Trial] = []
        self.truth: dict[object, float] = {}
        while len(self.trials) < TRIALS:
            self._round()

    def situation(self, at: int, stop: Stop | None = None) -> Situation:
        return Situation(
            study="bench",
            round=len(self._decisions),
            goal=GOAL,
            space=self._task.space,
            budget=Budget(trials=TRIALS),
            usage=Usage(trials=at),
            slots=1,
            round_trials=ROUND,
            trials=tuple(self.trials[:at]),
            decisions=tuple(self._decisions),
            strategy="auto",
            stop=stop,
        )

    def regret(self, at: int, how: str) -> float:
        """Give the truth of the incumbent after `at` trials above the best known, by one of three rules."""
        trials = self.trials[:at]
        estimates = {"raw": {}, "means": GOAL.estimates(trials), "estimated": GOAL.expected(trials)}[how]
        best = min(trials, key=lambda t: (estimates.get(t.id, t.values["loss"]), t.id))
        return max(0.0, self.truth[configuration_key(best.params)] - self._task.best)

    def ends(self) -> int:
        """Give after how many trials `stop: no_gain` ends it."""
        rounds = range(ROUND, TRIALS, ROUND)
        ended = (at for at in rounds if (end := must_finalize(self.situation(at, Stop()))) and end[0] == "no_gain")
        return next(ended, TRIALS)

    def _round(self) -> None:
        now = self.situation(len(self.trials))
        wanted = [r.trial for r in confirmation(now)] if self._repeat else []
        self._decisions.append(replace(decide_by_rules(now), round=len(self._decisions)))
        place = sum(t.kind != "repeat" for t in self.trials)
        for number in range(len(self.trials), min(TRIALS, len(self.trials) + ROUND)):
            again = self.trials[wanted.pop(0)] if wanted else None
            params = again.params if again is not None else exact(self._task.space, self._run.params[place])
            # A new configuration keeps what it observed; a repeat draws by a seed of its own.
            observed, truth = self._task.evaluate(params, 10_000 * (self._run.seed + 1) + number)
            if again is None:
                observed, place = self._run.observed[place], place + 1
            self.truth[configuration_key(params)] = truth
            worker = f"repeat-{again.id}" if again is not None else "w"
            made = Trial(number, params, TrialState.COMPLETE, number, worker, "repeat" if again else "joint", 1)
            self.trials.append(replace(made, round=len(self._decisions), values={"loss": observed}))


def exact(space: SearchSpace, kept: Params) -> Params:
    """Give a kept configuration with the choices' own values: numbers are kept with six digits."""
    found = dict(kept)
    for name, value in kept.items():
        parameter = space[name]
        if isinstance(parameter, Choice) and isinstance(value, float):
            numbers = [v for v in parameter.values if isinstance(v, float)]
            found[name] = min(numbers, key=lambda v, value=value: abs(v - value), default=value)
    return found


def ratio(mine: Sequence[float], other: Sequence[float]) -> float:
    return float((np.mean(mine) + 1e-9) / (np.mean(other) + 1e-9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("HPO_BENCH_DATA"))
    parser.add_argument("--store", type=Path, default=Path("bench/results/search"))
    parser.add_argument("--arm", default="optuna tpe")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    runs = Store(options.store).runs(options.arm, Setting())
    noisy = [n for n in (*CHOSEN_ON, *CONFIRMED_ON) if n.split("/")[0] in ("HPOLib", "HPOBench", "NASBench201")]
    print(f"{options.arm}, {options.seeds} seeds; truth's regret with repeats as a share of that without, at 50 / 100")
    print(f"{'':28}{'repeats':>8}{'raw':>14}{'means':>14}{'estimated':>14}{'ends after':>12}{'its regret':>12}")
    for name in noisy:
        task = load_task(name, options.data)
        kept = [runs[name, seed] for seed in range(options.seeds) if (name, seed) in runs]
        plain = [Course(task, run, repeat=False) for run in kept]
        again = [Course(task, run, repeat=True) for run in kept]
        cells = []
        for how in ("raw", "means", "estimated"):
            shares = [
                ratio([c.regret(at, how) for c in again], [c.regret(at, "raw") for c in plain]) for at in (50, 100)
            ]
            cells.append(" / ".join(f"{share:.2f}" for share in shares).rjust(14))
        repeats = np.mean([sum(t.kind == "repeat" for t in c.trials) for c in again])
        ends = [c.ends() for c in again]
        whole = [c.regret(TRIALS, "estimated") for c in again]
        early = ratio([c.regret(at, "estimated") for c, at in zip(again, ends, strict=True)], whole)
        which = "chosen" if name in CHOSEN_ON else "confirmed"
        print(f"{name:28}{repeats:8.1f}{''.join(cells)}{np.mean(ends):12.0f}{early:12.2f}  {which}", flush=True)


if __name__ == "__main__":
    main()
