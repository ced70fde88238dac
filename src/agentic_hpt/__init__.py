"""Autonomous hyperparameter tuning: parallel worker agents under a coordinator that code keeps honest.

The public names are imported when they are first used, so that `import agentic_hpt` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentic_hpt.config import StudyConfig
    from agentic_hpt.errors import (
        ConfigError,
        CoordinatorError,
        FailureKind,
        HptError,
        LedgerError,
        MissingExtra,
        Pruned,
        SpaceError,
        StudyBusy,
        StudyExists,
        StudyNotFound,
        TrialFailure,
    )
    from agentic_hpt.objectives.torch_batch import torch_batch
    from agentic_hpt.parameters import Choice, Float, Int
    from agentic_hpt.records import Budget, FinalReport, Trial
    from agentic_hpt.space import SearchSpace
    from agentic_hpt.study import Result, Study, list_studies, tune

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Choice",
    "ConfigError",
    "CoordinatorError",
    "FailureKind",
    "FinalReport",
    "Float",
    "HptError",
    "Int",
    "LedgerError",
    "MissingExtra",
    "Pruned",
    "Result",
    "SearchSpace",
    "SpaceError",
    "Study",
    "StudyBusy",
    "StudyConfig",
    "StudyExists",
    "StudyNotFound",
    "Trial",
    "TrialFailure",
    "list_studies",
    "torch_batch",
    "tune",
]

_HOMES = {
    "config": ("StudyConfig",),
    "errors": (
        "ConfigError",
        "CoordinatorError",
        "FailureKind",
        "HptError",
        "LedgerError",
        "MissingExtra",
        "Pruned",
        "SpaceError",
        "StudyBusy",
        "StudyExists",
        "StudyNotFound",
        "TrialFailure",
    ),
    "objectives.torch_batch": ("torch_batch",),
    "parameters": ("Choice", "Float", "Int"),
    "records": ("Budget", "FinalReport", "Trial"),
    "space": ("SearchSpace",),
    "study": ("Result", "Study", "list_studies", "tune"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"agentic_hpt.{module}"), name)
    raise AttributeError(f"module 'agentic_hpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
