"""How many trials are wasted where a region of the space fails: `make bench-failures`.

python bench/failures.py [--seeds 10] [--trials 100] [--toys border,edge,wall] [--who auto,joint,optuna-fail]

Each toy is maximised over [0, 1]^2 and fails in a region towards which it gets better, so that whoever does not learn
where trials fail goes on proposing there. Ours are whole studies, with the rules; Optuna's TPE is told the same default
first, and of a failed trial that it failed (as a crash leaves it), that it was pruned, or that a constraint is broken.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import agentic_hpt as hpt
from agentic_hpt.records import TrialState

DEFAULT = 0.3


@dataclass(frozen=True)
class Toy:
    """What is maximised, where it fails, and the best value outside of that."""

    value: Callable[[float, float], float]
    fails: Callable[[float, float], bool]
    best: float


TOYS = {
    "border": Toy(lambda x, y: -((x - 0.7) ** 2 + (y - 0.7) ** 2), lambda x, y: x + y > 1.2, -0.02),
    "edge": Toy(lambda x, y: x + y, lambda x, y: x + y > 1.0, 1.0),
    "wall": Toy(lambda x, y: x + y, lambda x, y: x > 0.7 or y > 0.7, 1.4),
}
STRATEGIES = ("auto", "joint", "per_parameter")
TOLD = ("optuna-fail", "optuna-pruned", "optuna-constraint")


@dataclass(frozen=True)
class Ran:
    """One run: the share of trials that failed, the same of its second half, and what was missed of the best value."""

    wasted: float
    later: float
    regret: float


def ours(name: str, strategy: str, seed: int, trials: int) -> Ran:
    """Run a whole study."""
    toy = TOYS[name]

    def objective(params: Mapping[str, float]) -> float:
        if toy.fails(params["x"], params["y"]):
            raise MemoryError("the model does not fit")
        return toy.value(params["x"], params["y"])

    with tempfile.TemporaryDirectory() as home:
        result = hpt.tune(
            objective,
            {name: hpt.Float(0.0, 1.0, default=DEFAULT) for name in ("x", "y")},
            metric="score",
            budget=hpt.Budget(trials=trials),
            study="toy",
            home=home,
            strategy=strategy,
            seed=seed,
            executor="inline",
            fresh_seeds=0,
            mlflow={"enabled": False},
        )
    searched = [t for t in result.trials if t.counted]
    best = result.best.values["score"] if result.best is not None else float("-inf")
    return _ran([t.state is TrialState.FAILED for t in searched], toy.best - best)


def optunas(name: str, told: str, seed: int, trials: int) -> Ran:
    """Run Optuna's TPE, told of failures in one of three ways."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    toy, failed = TOYS[name], list[bool]()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial({"x": DEFAULT, "y": DEFAULT})
    best = float("-inf")
    for _ in range(trials):
        trial = study.ask()
        x, y = trial.suggest_float("x", 0.0, 1.0), trial.suggest_float("y", 0.0, 1.0)
        failed.append(toy.fails(x, y))
        if told == "optuna-constraint":
            trial.set_constraint("fails", 1.0 if failed[-1] else -1.0)
        if not failed[-1]:
            best = max(best, toy.value(x, y))
            study.tell(trial, toy.value(x, y))
        elif told == "optuna-constraint":
            study.tell(trial, 0.0)
        else:
            state = optuna.trial.TrialState
            study.tell(trial, state=state.FAIL if told == "optuna-fail" else state.PRUNED)
    return _ran(failed, toy.best - best)


def _ran(failed: list[bool], regret: float) -> Ran:
    half = failed[len(failed) // 2 :]
    return Ran(sum(failed) / len(failed), sum(half) / len(half), regret)


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--seeds", type=int, default=10)
    reader.add_argument("--trials", type=int, default=100)
    reader.add_argument("--jobs", type=int, default=2)
    reader.add_argument("--toys", default=",".join(TOYS))
    reader.add_argument("--who", default=",".join((*STRATEGIES, *TOLD)))
    options = reader.parse_args()
    print("| toy | who | wasted | of the second half | regret, median |\n|---|---|---|---|---|", flush=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        asked = {
            (toy, who): [
                pool.submit(optunas if who in TOLD else ours, toy, who, seed, options.trials)
                for seed in range(options.seeds)
            ]
            for toy in options.toys.split(",")
            for who in options.who.split(",")
        }
        for (toy, who), runs in asked.items():
            ran = [run.result() for run in runs]
            wasted, later = ([100 * getattr(r, part) for r in ran] for part in ("wasted", "later"))
            spread = f" ± {statistics.stdev(wasted):.0f}" if len(ran) > 1 else ""
            regret = statistics.median(r.regret for r in ran)
            cells = f"{statistics.fmean(wasted):.0f}{spread} % | {statistics.fmean(later):.0f} % | {regret:.4f}"
            print(f"| {toy} | {who} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
