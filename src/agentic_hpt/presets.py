"""The built-in jobs, as plain study descriptions: a PyTorch MLP classifier on data sets bundled with scikit-learn."""

from __future__ import annotations

from agentic_hpt.records import JsonObject

TASKS: tuple[str, ...] = ("breast_cancer", "digits", "wine")
METRIC = "accuracy"

# The other two have so few validation rows that one trial reaches any target by luck.
_TARGETS = {"digits": 0.992}
_TRIALS = {"breast_cancer": 40, "digits": 60, "wine": 40}


def task_space() -> JsonObject:
    """Give the built-in job's search space as plain data."""
    return {
        "num_layers": {"int": [1, 5], "default": 2},
        "learning_rate": {"float": [1e-4, 1e-1], "log": True, "default": 1e-3},
        "hidden_dim": {"choice": [16, 32, 64, 128, 192, 256], "ordered": True, "default": 64},
        "dropout": {"float": [0.0, 0.6], "default": 0.1},
    }


def task_study(task: str) -> JsonObject:
    """Give the whole description of the study that `hpt run --task TASK` runs."""
    return {
        "study": task,
        "objective": {"task": task},
        "metric": METRIC,
        "direction": "maximize",
        "target": _TARGETS.get(task),
        "space": task_space(),
        "budget": {"trials": _TRIALS[task]},
    }
