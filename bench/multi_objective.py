"""Compare searches for two objectives at once: how much of the best front's hypervolume is missing.

python -m bench.multi_objective --data FOLDER [--arms NAME,...] [--tasks NAME,...] [--seeds 10] [--trials 100] [--show]

Needs optuna, torch (for Optuna's GP sampler) and onnxruntime. Runs are kept in `bench/results/multi_objective`, one
file an arm; a run that is there is not made again, and `--show` only prints the table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from bench.search.arms import ARMS
from bench.search.driver import run_study
from bench.search.scoring import wilcoxon
from bench.search.suite import Task, surrogate
from bench.search.trials import first_trials

from agentic_hpt.config import StudyConfig
from agentic_hpt.pareto import Point, course, hypervolume
from agentic_hpt.records import Params
from agentic_hpt.space import SearchSpace

STORE = Path(__file__).parent / "results" / "multi_objective"
AT = (25, 50, 100)
FIRST = 10
PEERS = ("random", "tpe", "nsga2", "gp")
_FLOOR = 0.001
_SAMPLE = 1000
_WORST = 0.9
"""The reference point has a tenth of random configurations beyond it in each objective."""
_PLACES = {
    "lcbench": {"val_balanced_accuracy": (3, -1), "time": (0, 1)},
    "rbv2_xgboost": {"acc": (0, -1), "timetrain": (6, 1), "memory": (8, 1)},
    "rbv2_rpart": {"acc": (0, -1), "timetrain": (6, 1), "memory": (8, 1)},
}
"""Each metric's place in the surrogate's answer, and -1 where more is better."""
CHOSEN_ON = ("lcbench/168335/time", "rbv2_rpart/14/timetrain", "rbv2_rpart/14/memory")
CONFIRMED_ON = ("lcbench/167168/time", "rbv2_xgboost/16/timetrain", "rbv2_xgboost/16/memory")


@dataclass(frozen=True)
class TwoObjectives:
    """A surrogate with two of its metrics, both to be minimised."""

    name: str
    metrics: tuple[str, str]
    space: SearchSpace
    evaluate: Callable[[Params], Point]

    def first(self, seed: int) -> Sequence[Params]:
        """Give the configurations that every run begins with: the default and random ones."""
        return first_trials(Task(self.name, self.space, lambda params, noise: (0.0, 0.0), 0.0), seed, FIRST)


def load(name: str, data: Path) -> TwoObjectives:
    """Load `SCENARIO/INSTANCE/METRIC`: the accuracy against that metric."""
    scenario, instance, metric = name.split("/")
    space, metrics = surrogate(scenario, instance, data)
    places = _PLACES[scenario]
    names = (next(iter(places)), metric)

    def evaluate(params: Params) -> Point:
        found = metrics(params)
        return tuple(sign * found[place] for place, sign in (places[n] for n in names))

    return TwoObjectives(name, names, space, evaluate)


def ours(arm: str, task: TwoObjectives, seed: int, trials: int) -> list[Point]:
    """Search with one of our arms, through the product's own strategy, rules and rounds."""
    config = StudyConfig.from_mapping(
        {
            "study": "bench",
            "metric": list(task.metrics),
            "direction": "minimize",
            "space": task.space,
            "initial": [dict(params) for params in task.first(seed)],
            "budget": {"trials": trials},
            "strategy": ARMS[arm].strategy,
            "executor": "inline",
            "seed": seed,
        }
    )
    points: list[Point] = []

    def evaluate(params: Params, trial: int) -> Mapping[str, float]:
        points.append(task.evaluate(params))
        return dict(zip(task.metrics, points[-1], strict=True))

    run_study(config, ARMS[arm].make(config.space, config.goal), ARMS[arm].coordinator(seed), evaluate)
    return points


def optunas(sampler: str, task: TwoObjectives, seed: int, trials: int) -> list[Point]:
    """Search with one of Optuna's samplers at its own defaults."""
    import optuna

    from agentic_hpt.strategies.view import distribution, suggest, to_internal, to_value

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made: Mapping[str, Callable[..., optuna.samplers.BaseSampler]] = {
        "random": optuna.samplers.RandomSampler,
        "tpe": optuna.samplers.TPESampler,
        "nsga2": optuna.samplers.NSGAIISampler,
        "gp": optuna.samplers.GPSampler,
    }
    study = optuna.create_study(directions=["minimize"] * 2, sampler=made[sampler](seed=seed))
    for params in task.first(seed):
        study.enqueue_trial({n: to_internal(task.space[n], value) for n, value in params.items()})
    points: list[Point] = []
    for _ in range(trials):
        trial = study.ask()
        params: dict[str, object] = {}
        for name in task.space.order:
            if task.space.is_active(name, params):  # type: ignore[arg-type]
                wanted = distribution(task.space[name])
                params[name] = to_value(task.space[name], suggest(trial, name, wanted))
        points.append(task.evaluate(params))  # type: ignore[arg-type]
        study.tell(trial, points[-1])
    return points


def scale(task: TwoObjectives) -> tuple[list[Point], Point, Point]:
    """Give random configurations' points, and the box by them: the reference point and the best of each objective."""
    dice = random.Random(f"scale {task.name}")
    seeds = [dice.getrandbits(31) for _ in range(_SAMPLE // (FIRST - 1))]
    points = [task.evaluate(params) for seed in seeds for params in task.first(seed)[1:]]
    columns = [sorted(column) for column in zip(*points, strict=True)]
    worst = tuple(column[int(_WORST * (len(column) - 1))] for column in columns)
    return points, worst, tuple(column[0] for column in columns)


def shown(tasks: Sequence[TwoObjectives], arms: Sequence[str], seeds: int, trials: int) -> str:
    """Give the table: hypervolume regret as a share of random search's, geometric and plain mean, and mean ranks.

    It is on the seeds that all arms have; below it the first arm is set against each on the runs that both have.
    """
    shares: dict[str, dict[int, list[float]]] = {arm: {} for arm in arms}
    ranks: dict[str, list[float]] = {arm: [] for arm in arms}
    ends: dict[str, dict[tuple[str, int], float]] = {arm: {} for arm in arms}
    lines, counted = [], 0
    held = {arm: stored(arm) for arm in {*arms, "random"}}
    for task in tasks:
        sample, worst, best = scale(task)

        def unit(point: Sequence[float], worst: Point = worst, best: Point = best) -> Point:
            return tuple((x - b) / (w - b) for x, w, b in zip(point, worst, best, strict=True))

        found = {arm: {s: run for (name, s), run in of.items() if name == task.name} for arm, of in held.items()}
        runs = {arm: {s: [*map(unit, run[:trials])] for s, run in of.items() if s < seeds} for arm, of in found.items()}
        common = [s for s in range(seeds) if all(s in of for of in runs.values())]
        if not common:
            continue
        counted += len(common)
        everything = [p for of in runs.values() for run in of.values() for p in run]
        known = hypervolume([*map(unit, sample), *everything], (1.0, 1.0))
        volumes = {arm: {s: course(run, (1.0, 1.0)) for s, run in of.items()} for arm, of in runs.items()}
        for after in (n for n in AT if n <= trials):
            regret = {a: fmean(known - of[s][min(after, len(of[s])) - 1] for s in common) for a, of in volumes.items()}
            for arm in arms:
                shares[arm].setdefault(after, []).append(regret[arm] / max(regret["random"], 1e-12))
        for arm in arms:
            ends[arm] |= {
                (task.name, s): (known - v[-1]) / max(regret["random"], 1e-12) for s, v in volumes[arm].items()
            }
            for s in common:
                others = [volumes[other][s][-1] - volumes[arm][s][-1] for other in arms if other != arm]
                ranks[arm].append(1 + sum((more > 0) + 0.5 * (more == 0) for more in others))
        lines.append(f"  {task.name}: " + ", ".join(f"{arm} {shares[arm][max(shares[arm])][-1]:.3f}" for arm in arms))
    head = f"{'arm':<16}" + "".join(f"{f'at {n}':>10}" for n in AT if n <= trials) + f"{'mean':>10}{'rank':>8}"
    rows = []
    for arm in arms:
        means = [math.exp(fmean(math.log(max(x, _FLOOR)) for x in of)) for of in shares[arm].values()]
        plain = fmean(shares[arm][max(shares[arm])]) if shares[arm] else math.nan
        rank = fmean(ranks[arm]) if ranks[arm] else math.nan
        rows.append(f"{arm:<16}" + "".join(f"{m:>10.3f}" for m in means) + f"{plain:>10.3f}{rank:>8.2f}")
    whole = [f"{counted} runs an arm on {len(lines)} tasks", head, *rows, *_against(arms[0], ends)]
    return "\n".join([*whole, "last, by task:", *lines])


def _against(arm: str, ends: Mapping[str, Mapping[tuple[str, int], float]]) -> list[str]:
    """Set an arm against each other one: runs won, tied and lost in the end, and how likely that is by chance."""
    lines = [f"{arm} in the end: runs won / tied / lost; p of Wilcoxon's signed-rank test"]
    for other, theirs in ends.items():
        both = sorted(ends[arm].keys() & theirs.keys())
        if other != arm and both:
            gaps = np.array([ends[arm][pair] - theirs[pair] for pair in both])
            counts = f"{(gaps < 0).sum()}/{(gaps == 0).sum()}/{(gaps > 0).sum()}"
            lines.append(f"{other:<16}{counts:>12}   p {wilcoxon(gaps)[1]:.1e}")
    return lines


def stored(arm: str) -> dict[tuple[str, int], list[Point]]:
    """Read an arm's runs, by task and seed; of a run that was made twice the newest."""
    file = STORE / f"{arm.replace(' ', '-')}.jsonl"
    entries = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return {(e["task"], e["seed"]): [tuple(p) for p in e["points"]] for e in entries}


def make(arm: str, task: TwoObjectives, seed: int, trials: int) -> None:
    """Make a run and keep it."""
    began = time.process_time()
    points = (optunas if arm in PEERS else ours)(arm, task, seed, trials)
    entry = {
        "task": task.name,
        "seed": seed,
        "seconds": round(time.process_time() - began, 2),
        "points": [[float(f"{x:.7g}") for x in point] for point in points],
    }
    STORE.mkdir(parents=True, exist_ok=True)
    with (STORE / f"{arm.replace(' ', '-')}.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("HPO_BENCH_DATA"), help="the folder with yahpo/")
    parser.add_argument("--arms", default="auto,joint,random,tpe,nsga2,gp")
    parser.add_argument("--tasks", default="all", help="chosen, confirmed, all, or names")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--show", action="store_true", help="only print what is stored")
    given = parser.parse_args()
    if given.data is None:
        parser.error("name the folder with the YAHPO data by --data or HPO_BENCH_DATA")
    sets = {"chosen": CHOSEN_ON, "confirmed": CONFIRMED_ON, "all": CHOSEN_ON + CONFIRMED_ON}
    tasks = [load(name, Path(given.data)) for name in sets.get(given.tasks, given.tasks.split(","))]
    arms = given.arms.split(",")
    warnings.simplefilter("ignore")  # of Optuna's samplers that are experimental
    for seed in range(0 if given.show else given.seeds):
        for arm in arms:
            done = stored(arm)
            for task in tasks:
                if len(done.get((task.name, seed), ())) < given.trials:
                    make(arm, task, seed, given.trials)
    print(shown(tasks, arms, given.seeds, given.trials))


if __name__ == "__main__":
    main()
