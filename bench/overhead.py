"""What the loop itself costs: no-op trials with everything on, against bare Optuna on SQLite, in one run.

    python bench/overhead.py [--trials 500] [--repeats 3] [--json FILE]

Each line is the median of the repeats: trials per second of the loop (from the first round to the last trial), CPU
milliseconds a trial of the driver (with its trial processes), and the ratio to bare Optuna on SQLite. `mlflow on` means
that the writer process runs beside the loop and competes for the cores; what it drains has a column of its own. A no-op
trial has 4 parameters and 10 reports.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import agentic_hpt as hpt
from agentic_hpt.records import JsonObject
from agentic_hpt.study import Study

REPORTS = 10
SPACE = hpt.SearchSpace(
    num_layers=hpt.Int(1, 8),
    learning_rate=hpt.Float(1e-5, 1e-1, log=True),
    hidden_dim=hpt.Int(16, 512),
    dropout=hpt.Float(0.0, 0.6),
)


def no_op(params: dict[str, float], trial: object) -> dict[str, float]:
    for step in range(REPORTS):
        trial.report({"accuracy": 0.5}, step=step)  # type: ignore[attr-defined]
    return {"accuracy": 1.0 - params["dropout"]}


def cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure_ours(trials: int, executor: str, mlflow: bool, strategy: str, round_trials: int) -> dict[str, float]:
    """Run a study and time its rounds: starting up, fresh seeds and the last writes to MLflow are left out."""
    marks: dict[str, float] = {}

    def listener(event: JsonObject) -> None:
        if event["type"] == "round" and "began" not in marks:
            marks["began"], marks["cpu"] = time.perf_counter(), cpu_seconds()
        if event["type"] == "trial":
            marks["last_trial"], marks["cpu_trial"] = time.perf_counter(), cpu_seconds()
        if event["type"] == "final_started":
            marks["decided"] = time.perf_counter()

    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        hpt.tune(
            no_op,
            SPACE,
            metric="accuracy",
            study="overhead",
            home=home,
            budget=hpt.Budget(trials=trials),
            executor=executor,
            parallel=1 if executor == "inline" else 2,
            strategy=strategy,
            trials_per_round=round_trials,
            fresh_seeds=0,
            pruner="none",
            mlflow={"enabled": mlflow},
            listener=listener,
        )
        whole = time.perf_counter() - began
        assert len(Study.open("overhead", home).trials()) == trials
    return {
        "trials_per_s": trials / (marks["last_trial"] - marks["began"]),
        "cpu_ms": 1000 * (marks["cpu_trial"] - marks["cpu"]) / trials,
        "decided_per_s": trials / (marks["decided"] - marks["began"]),
        "drained_per_s": trials / whole if mlflow else 0.0,
    }


def measure_optuna(trials: int, storage: str) -> dict[str, float]:
    """Run bare Optuna: ask, ten reports, tell, with its default sampler."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/optuna.db" if storage == "sqlite" else None
        study = optuna.create_study(direction="maximize", storage=url, sampler=optuna.samplers.TPESampler(seed=0))

        def objective(trial: optuna.Trial) -> float:
            trial.suggest_int("num_layers", 1, 8)
            trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
            trial.suggest_int("hidden_dim", 16, 512)
            dropout = trial.suggest_float("dropout", 0.0, 0.6)
            for step in range(REPORTS):
                trial.report(0.5, step)
            return 1.0 - dropout

        began, cpu = time.perf_counter(), cpu_seconds()
        study.optimize(objective, n_trials=trials)
        return {
            "trials_per_s": trials / (time.perf_counter() - began),
            "cpu_ms": 1000 * (cpu_seconds() - cpu) / trials,
        }


def median(run: Callable[[], dict[str, float]], repeats: int) -> dict[str, float]:
    found = [run() for _ in range(repeats)]
    return {key: statistics.median(entry[key] for entry in found) for key in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    n, repeats = options.trials, options.repeats
    rows = {
        "optuna, sqlite": median(lambda: measure_optuna(min(n, 200), "sqlite"), repeats),
        "optuna, in memory": median(lambda: measure_optuna(n, "memory"), repeats),
        "inline, joint, mlflow on": median(lambda: measure_ours(n, "inline", True, "joint", n), repeats),
        "inline, joint, mlflow off": median(lambda: measure_ours(n, "inline", False, "joint", n), repeats),
        "inline, per_parameter, mlflow on": median(
            lambda: measure_ours(n, "inline", True, "per_parameter", n), repeats
        ),
        "processes x 2, joint, mlflow on": median(lambda: measure_ours(n, "processes", True, "joint", n), repeats),
        "processes x 2, joint, mlflow off": median(lambda: measure_ours(n, "processes", False, "joint", n), repeats),
    }
    base = rows["optuna, sqlite"]["trials_per_s"]
    print(f"{n} no-op trials, medians of {repeats}; Python {platform.python_version()}, optuna {version('optuna')},")
    print(f"mlflow {version('mlflow')}, agentic-hpt {version('agentic-hpt')}\n")
    print(f"{'':36}{'trials/s':>10}{'CPU ms':>9}{'x optuna sqlite':>17}{'decided/s':>11}{'drained/s':>11}")
    for name, row in rows.items():
        line = f"{name:36}{row['trials_per_s']:10.1f}{row['cpu_ms']:9.2f}{row['trials_per_s'] / base:17.2f}"
        for key in ("decided_per_s", "drained_per_s"):
            line += f"{row[key]:11.1f}" if row.get(key) else f"{'':11}"
        print(line)
    print("\ndecided/s: until the decision after the round, for which the runs are read back from MLflow.")
    print("drained/s: until MLflow holds every run, start-up included.")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
