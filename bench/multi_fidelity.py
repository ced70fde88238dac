"""Compare ways to stop trials early, on learning curves: regret against the epochs that were spent.

python -m bench.multi_fidelity --data FOLDER [--arms NAME,...] [--tasks chosen|confirmed|all] [--seeds 10] [--show]

The arms of Syne Tune run in an environment of their own that has syne-tune, numpy and onnxruntime, with
`PYTHONPATH=src:.`; runs are kept in `bench/results/multi_fidelity`, from which `--show` prints the table.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Protocol

import numpy as np

from agentic_hpt.fidelity import Halving
from agentic_hpt.protocols import Situation
from agentic_hpt.records import (
    Assignment,
    Budget,
    Goal,
    Params,
    Report,
    Trial,
    TrialState,
    Usage,
    configuration_key,
)
from agentic_hpt.space import Float, Int, SearchSpace

CHOSEN_ON = ("168335", "189908", "7593")
CONFIRMED_ON = ("167168", "126029", "189862")
_SETS = {"chosen": CHOSEN_ON, "confirmed": CONFIRMED_ON, "all": CHOSEN_ON + CONFIRMED_ON}
EPOCHS = 52
BUDGET = 30 * EPOCHS
"""Epochs of a run, all trials together: 30 whole ones."""
WORKERS = 4
AT = (260, 520, 1040, 1560)
GOAL = Goal("accuracy")


class Curves:
    """An lcbench instance of YAHPO: the validation accuracy (%) of a configuration after each of 52 epochs."""

    def __init__(self, instance: str, data: Path) -> None:
        import onnxruntime

        folder = (data / "yahpo" if (data / "yahpo").is_dir() else data) / "lcbench"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), sess_options=options)
        self._code = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"][instance]
        described = json.loads((folder / "config_space.json").read_text())["hyperparameters"]
        with (folder.parent / "global_statistics" / "instance_target_statistics.csv").open() as file:
            self.best = max(
                float(row["value"])
                for row in csv.DictReader(file)
                if (row["scenario"], row["instance"], row["metric"]) == ("lcbench", instance, "val_accuracy")
            )
        """The best of the 2,000 measured curves that the surrogate was made from."""
        self.name = instance
        self.space = SearchSpace(
            {
                h["name"]: (Int if "int" in h["type"] else Float)(h["lower"], h["upper"], log=bool(h.get("log")))
                for h in described
                if h["name"] not in ("OpenML_task_id", "epoch")
            }
        )
        self._known: dict[object, tuple[float, ...]] = {}

    def of(self, params: Params) -> tuple[float, ...]:
        """Give a configuration's curve."""
        key = configuration_key(params)
        if key not in self._known:
            names = (
                "batch_size",
                "learning_rate",
                "momentum",
                "weight_decay",
                "num_layers",
                "max_units",
                "max_dropout",
            )
            row = [float(params[name]) for name in names]  # type: ignore[arg-type]
            numbers = np.array([[epoch, *row] for epoch in range(1, EPOCHS + 1)], dtype=np.float32)
            codes = np.full((EPOCHS, 1), self._code, dtype=np.int32)
            inputs = [entry.name for entry in self._session.get_inputs()]
            found = self._session.run(None, {inputs[0]: codes, inputs[1]: numbers})[0]
            self._known[key] = tuple(float(value) for value in found[:, 1])
        return self._known[key]


@dataclass
class Live:
    """A trial under way: `epoch` counts those behind it."""

    number: int
    params: Params
    epoch: int = 0


class Method(Protocol):
    """What is compared. Values are accuracies."""

    def next(self) -> Live:
        """Give the next trial to run, maybe one that was stopped before."""

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Take in a value; `True` stops the trial. It is not asked after the last epoch."""

    def complete(self, number: int, value: float) -> None:
        """Learn that a trial ran to its end."""


@dataclass
class Course:
    """A run: complete trials with the epochs spent by then, and how far each configuration came."""

    complete: list[tuple[int, float]] = field(default_factory=list)
    """Epochs spent, and the accuracy."""
    reached: dict[int, int] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    """By configuration, the accuracy that it has, or would have had, after its last epoch."""


def simulate(method: Method, curves: Curves, budget: int = BUDGET) -> Course:
    """Run trials side by side, an epoch each in turn, until the budget is spent."""
    course, spent = Course(), 0
    running: list[Live] = []
    identities: dict[object, int] = {}
    while spent < budget:
        while len(running) < WORKERS:
            running.append(method.next())
        for live in list(running):
            curve = curves.of(live.params)
            value = curve[live.epoch]
            live.epoch, spent = live.epoch + 1, spent + 1
            which = identities.setdefault(configuration_key(live.params), len(identities))
            course.reached[which] = max(live.epoch, course.reached.get(which, 0))
            course.ends[which] = curve[-1]
            if live.epoch == EPOCHS:
                method.complete(live.number, value)
                course.complete.append((spent, value))
                running.remove(live)
            elif method.report(live.number, live.epoch, value):
                running.remove(live)
    return course


class Ours:
    """One of our strategies under a pruner: rounds as in a study, but nobody waits for a round's end."""

    def __init__(self, space: SearchSpace, seed: int, pruner: str, halving: Halving, sampler: str) -> None:
        from agentic_hpt.strategies import AsyncHalving, Auto, FloorRule, Joint, MedianPruner, NoPruner

        rules = {"asha": lambda: AsyncHalving(GOAL, halving), "median": lambda: MedianPruner(GOAL), "none": NoPruner}
        self._stopping = FloorRule(rules[pruner](), halving)
        self._halving = halving if pruner == "asha" else None
        self._space, self._seed, self._random = space, seed, sampler == "random"
        self._strategy = Auto(space, GOAL, seed) if sampler == "auto" else Joint(space, GOAL)
        self._trials: list[Trial] = []
        self._waiting: list[tuple[Assignment, int]] = []
        self._round = 0

    def next(self) -> Live:
        while not self._waiting:
            self._waiting = [(a, 0) for a in self._strategy.plan(self._situation(), None)]
            self._round += 1
        assignment, done = self._waiting.pop(0)
        if done + 1 < assignment.trials:
            self._waiting.append((assignment, done + 1))
        number = len(self._trials)
        stopped = assignment.continues[done] if assignment.continues else None
        if assignment.queue:
            params = assignment.queue[done]
        elif self._random:
            params = _drawn(self._space, self._seed * 100_003 + number)
        else:
            proposal = self._strategy.propose(assignment, self._trials, self._seed * 1_000_003 + number * 101)
            assert proposal is not None
            params = proposal.params
        state, kind = TrialState.RUNNING, assignment.kind
        trial = Trial(number, params, state, 0, assignment.worker, kind, self._round, tuned=(), continues=stopped)
        self._trials.append(trial)
        self._stopping.began(trial)
        return Live(number, params, 0 if stopped is None else self._trials[stopped].reports[-1].step)

    def _situation(self) -> Situation:
        return Situation(
            study="bench",
            round=self._round,
            goal=GOAL,
            space=self._space,
            budget=Budget(trials=10**6),
            usage=Usage(trials=len(self._trials)),
            slots=WORKERS,
            round_trials=8,
            trials=tuple(self._trials),
            strategy="joint",
            halving=self._halving,
        )

    def report(self, number: int, epoch: int, value: float) -> bool:
        report, held = Report(epoch, {GOAL.metric: value}), self._trials[number]
        stops = self._stopping.should_stop(number, report)
        state = TrialState.PRUNED if stops else held.state
        self._trials[number] = replace(held, state=state, reports=(*held.reports, report))
        if stops:
            self._stopping.ended(number, False)
        return stops

    def complete(self, number: int, value: float) -> None:
        self.report_last(number, value)
        values = {GOAL.metric: value}
        self._trials[number] = replace(self._trials[number], state=TrialState.COMPLETE, values=values)
        self._stopping.ended(number, True)

    def report_last(self, number: int, value: float) -> None:
        report, held = Report(EPOCHS, {GOAL.metric: value}), self._trials[number]
        self._stopping.should_stop(number, report)
        self._trials[number] = replace(held, reports=(*held.reports, report))


def _drawn(space: SearchSpace, seed: int) -> Params:
    import random

    from agentic_hpt.strategies.drawing import random_value

    dice = random.Random(seed)
    return {name: random_value(space[name], dice) for name in space}


class OptunaPeer:
    """Optuna's default sampler under one of its pruners."""

    def __init__(self, space: SearchSpace, seed: int, pruner: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        pruners = {
            "hyperband": lambda: optuna.pruners.HyperbandPruner(
                min_resource=1, max_resource=EPOCHS, reduction_factor=3
            ),
            "median": optuna.pruners.MedianPruner,
            "none": optuna.pruners.NopPruner,
        }
        sampler = optuna.samplers.TPESampler(seed=seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruners[pruner]())
        self._study.enqueue_trial(dict(space.default()))
        self._space = space
        self._live: dict[int, optuna.Trial] = {}

    def next(self) -> Live:
        trial = self._study.ask()
        params: dict[str, float] = {}
        for name in self._space:
            p = self._space[name]
            suggest = trial.suggest_int if isinstance(p, Int) else trial.suggest_float
            params[name] = suggest(name, p.low, p.high, log=p.log)  # type: ignore[union-attr, arg-type]
        self._live[trial.number] = trial
        return Live(trial.number, params)

    def report(self, number: int, epoch: int, value: float) -> bool:
        import optuna

        trial = self._live[number]
        trial.report(value, epoch)
        if not trial.should_prune():
            return False
        self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return True

    def complete(self, number: int, value: float) -> None:
        trial = self._live[number]
        trial.report(value, EPOCHS)
        self._study.tell(trial, value)


class SynePeer:
    """ASHA as Syne Tune has it, driven by this loop instead of its own tuner."""

    def __init__(self, space: SearchSpace, seed: int, name: str) -> None:
        from syne_tune import config_space as cs
        from syne_tune.optimizer import baselines

        np.random.seed(seed)
        kinds = {
            (True, True): cs.lograndint,
            (True, False): cs.randint,
            (False, True): cs.loguniform,
            (False, False): cs.uniform,
        }
        described = {n: kinds[isinstance(space[n], Int), space[n].log](space[n].low, space[n].high) for n in space}
        self._scheduler = getattr(baselines, name)(
            described,
            metric="accuracy",
            time_attr="epoch",
            max_t=EPOCHS,
            do_minimize=False,
            random_seed=seed,
            points_to_evaluate=[dict(space.default())],
        )
        self._live: dict[int, object] = {}

    def next(self) -> Live:
        from datetime import datetime

        from syne_tune.backend.trial_status import Trial as SyneTrial

        suggestion = self._scheduler.suggest()
        trial = SyneTrial(trial_id=len(self._live), config=suggestion.config, creation_time=datetime.now())
        self._live[trial.trial_id] = trial
        self._scheduler.on_trial_add(trial)
        return Live(trial.trial_id, dict(suggestion.config))

    def report(self, number: int, epoch: int, value: float) -> bool:
        trial = self._live[number]
        stops: bool = self._scheduler.on_trial_result(trial, {"accuracy": value, "epoch": epoch}) == "STOP"
        if stops:
            self._scheduler.on_trial_remove(trial)
        return stops

    def complete(self, number: int, value: float) -> None:
        self._scheduler.on_trial_complete(self._live[number], {"accuracy": value, "epoch": EPOCHS})


Make = Callable[[SearchSpace, int], Method]


def _ours(pruner: str, seeds_from: int = 0, sampler: str = "auto", **settings: object) -> Make:
    return lambda space, seed: Ours(space, seeds_from + seed, pruner, Halving(**settings), sampler)  # type: ignore[arg-type]


_MEASURE = "random, none"
ARMS: dict[str, Make] = {
    _MEASURE: _ours("none", sampler="random"),
    "none": _ours("none"),
    "median": _ours("median"),
    "asha, stop": _ours("asha", promote=False),
    "asha": _ours("asha"),
    "asha again": _ours("asha", seeds_from=1000),
    "random, asha": _ours("asha", sampler="random"),
    "joint, none": _ours("none", sampler="joint"),
    "joint, asha": _ours("asha", sampler="joint"),
    "optuna, none": lambda space, seed: OptunaPeer(space, seed, "none"),
    "optuna, median": lambda space, seed: OptunaPeer(space, seed, "median"),
    "optuna, hyperband": lambda space, seed: OptunaPeer(space, seed, "hyperband"),
    "syne-tune ASHA": lambda space, seed: SynePeer(space, seed, "ASHA"),
    "syne-tune ASHACQR": lambda space, seed: SynePeer(space, seed, "ASHACQR"),
}
"""Ours propose by the strategy `auto` where nothing else is said; `again` is the control: the same on other seeds."""
VARIANTS: dict[str, Make] = {
    "asha, eta 2": _ours("asha", eta=2),
    "asha, eta 4": _ours("asha", eta=4),
    "asha, min_steps 2": _ours("asha", min_steps=2),
}


@dataclass(frozen=True)
class Run:
    """What is kept of a run."""

    task: str
    seed: int
    best: tuple[float, ...]
    """The best accuracy of a complete trial at each of `AT`."""
    top: float
    """The best that any of its configurations has or would have had."""
    configurations: int
    complete: int
    saved: float
    """The share of the steps that its configurations would have taken, and did not."""
    false_stops: int
    """Configurations that were stopped for good, and would have been better than the best complete one."""
    seconds: float
    by: str = ""
    """The library that ran, and its version."""


def run(name: str, curves: Curves, seed: int) -> Run:
    """Run an arm once and judge it."""
    began = time.process_time()
    course = simulate({**ARMS, **VARIANTS}[name](curves.space, seed), curves)
    best = tuple(max((v for spent, v in course.complete if spent <= at), default=float("nan")) for at in AT)
    whole = EPOCHS * len(course.reached)
    missed = sum(course.ends[c] > best[-1] for c, epochs in course.reached.items() if epochs < EPOCHS)
    return Run(
        curves.name,
        seed,
        best,
        max(course.ends.values()),
        len(course.reached),
        len(course.complete),
        1 - sum(course.reached.values()) / whole,
        missed,
        time.process_time() - began,
        _library(name),
    )


def _library(arm: str) -> str:
    name = arm.replace(",", " ").split()[0]
    return f"{name} {metadata.version(name)}" if name in ("optuna", "syne-tune") else ""


class Store:
    """Keeps runs, a file an arm, a line a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def runs(self, arm: str) -> Iterator[Run]:
        path = self._path(arm)
        for line in path.read_text().splitlines() if path.exists() else []:
            row = json.loads(line)
            yield Run(**{**row, "best": tuple(row["best"])})

    def add(self, arm: str, found: Run) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path(arm).open("a") as file:
            file.write(json.dumps(vars(found)) + "\n")

    def _path(self, arm: str) -> Path:
        return self._folder / f"{arm.replace(',', '').replace(' ', '-')}.jsonl"


def show(store: Store, arms: Sequence[str], tasks: Sequence[str], seeds: int, known: dict[str, float]) -> None:
    """Print the table: regret as a share of that of random search without stopping, and what stopping did."""
    runs = {arm: [r for r in store.runs(arm) if r.task in tasks and r.seed < seeds] for arm in arms}
    if len(runs.get(_MEASURE, ())) < len(tasks) * seeds:
        print(f"there is no table yet: its measure, `{_MEASURE}`, has not been run on all of these")
        return

    def regret(arm: str, task: str, place: int) -> list[float]:
        worst = {r.task: known[r.task] for r in runs[arm]}
        return [max(0.0, worst[task] - r.best[place]) for r in runs[arm] if r.task == task]

    by = sorted({r.by for of in runs.values() for r in of if r.by})
    print(f"{', '.join([f'{len(tasks)} tasks, {seeds} seeds, {WORKERS} trials at a time, {BUDGET} epochs', *by])}\n")
    print(
        f"{'':22}{'share of regret at epochs':^32}{'rank':>7}{'configs':>9}{'whole':>7}{'saved':>7}{'false':>7}{'s':>7}"
    )
    print(f"{'':22}" + "".join(f"{at:8}" for at in AT))
    whole = [a for a in arms if len(runs[a]) == len(tasks) * seeds]
    finals = {arm: {(r.task, r.seed): known[r.task] - r.best[-1] for r in runs[arm]} for arm in whole}
    for arm in arms:
        if arm not in whole:
            print(f"{arm:22} {len(runs[arm])} of {len(tasks) * seeds} runs")
            continue
        cells = []
        for place in range(len(AT)):
            shares = [fmean(regret(arm, t, place)) / fmean(regret(_MEASURE, t, place)) for t in tasks]
            cells.append(float(np.exp(np.mean(np.log(np.maximum(shares, 1e-3))))))
        ranks = [
            1 + sum(finals[o][key] < mine for o in whole) + (sum(finals[o][key] == mine for o in whole) - 1) / 2
            for key, mine in finals[arm].items()
        ]
        r = runs[arm]
        duels = "".join(f"  {_duel(runs['asha'], r, place)}" for place in (1, -1))
        print(
            f"{arm:22}" + "".join(f"{c:8.2f}" for c in cells) + f"{fmean(ranks):7.2f}"
            f"{fmean(x.configurations for x in r):7.0f}{fmean(x.complete for x in r):7.1f}"
            f"{fmean(x.saved for x in r):7.0%}{fmean(x.false_stops for x in r):7.1f}{fmean(x.seconds for x in r):7.1f}"
            + duels
        )


def _duel(mine: Sequence[Run], others: Sequence[Run], place: int) -> str:
    """Count the runs, paired by task and seed, in which the first arm was better, equal, worse."""
    other = {(r.task, r.seed): r.best[place] for r in others}
    apart = [r.best[place] - other[r.task, r.seed] for r in mine if (r.task, r.seed) in other]
    counts = sum(d > 0 for d in apart), sum(d == 0 for d in apart), sum(d < 0 for d in apart)
    return "/".join(f"{count:3}" for count in counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("HPO_BENCH_DATA"))
    parser.add_argument("--arms", default="ours", help="ours, peers, syne, variants, or names separated by ';'")
    parser.add_argument("--tasks", choices=_SETS, default="all")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--show", action="store_true", help="print the table of all arms that were run")
    parser.add_argument("--store", type=Path, default=Path("bench/results/multi_fidelity"))
    options = parser.parse_args()
    if options.data is None:
        sys.exit("say where the YAHPO data are: --data FOLDER or HPO_BENCH_DATA (see docs/benchmarks.md)")
    warnings.simplefilter("ignore")
    store, tasks = Store(options.store), _SETS[options.tasks]
    groups = {
        "ours": [a for a in ARMS if not a.startswith(("optuna", "syne"))],
        "peers": [a for a in ARMS if a.startswith("optuna")],
        "syne": [a for a in ARMS if a.startswith("syne")],
        "variants": list(VARIANTS),
    }
    everything = {**ARMS, **VARIANTS}
    if not options.show:
        for task in tasks:
            curves = Curves(task, options.data)
            for arm in groups.get(options.arms) or options.arms.split(";"):
                there = {(r.task, r.seed) for r in store.runs(arm)}
                for seed in range(options.seeds):
                    if (task, seed) not in there:
                        store.add(arm, run(arm, curves, seed))
                print(f"{task}: {arm}", file=sys.stderr)
    known = {task: Curves(task, options.data).best for task in tasks}
    for arm in everything:
        for found in store.runs(arm):
            if found.task in known:
                known[found.task] = max(known[found.task], found.top)
    show(store, [a for a in everything if any(True for _ in store.runs(a))], tasks, options.seeds, known)


if __name__ == "__main__":
    main()
