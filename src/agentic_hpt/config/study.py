"""The one validated description of a study."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from agentic_hpt.config.keys import (
    BudgetConfig,
    CoordinatorConfig,
    JobField,
    LimitsConfig,
    MlflowConfig,
    ObjectiveConfig,
    OptunaSource,
    SpaceField,
    Strict,
)
from agentic_hpt.config.masking import check_study_name, mask_secrets
from agentic_hpt.config.study_file import read_study_file
from agentic_hpt.errors import ConfigError, HptError
from agentic_hpt.presets import TASKS, task_study
from agentic_hpt.records import Budget, Goal, JsonObject

_HAS_AFFINITY = hasattr(os, "sched_getaffinity")


class StudyConfig(Strict):
    """The description of a study. `from_mapping` and `from_file` build it, and raise `ConfigError` in plain words."""

    study: str
    objective: ObjectiveConfig | None = None
    """`None` when the objective is a Python object handed over in code."""
    metric: str = Field(min_length=1, max_length=100)
    direction: Literal["maximize", "minimize"] = "maximize"
    target: float | None = None
    """The search may stop once a trial's metric reaches it."""
    space: SpaceField
    budget: BudgetConfig = BudgetConfig(trials=100)
    strategy: Literal["auto", "per_parameter", "joint"] = "per_parameter"
    """`per_parameter`: a worker for each parameter, the others held at the incumbent; `joint`: all at once;
    `auto`: the coordinator says after each round, by the evidence, which workers there are."""
    trials_per_round: int | None = Field(None, ge=1)
    """How many trials a round has; by default three a parameter, or at least eight for `joint`."""
    parallel: int | None = Field(None, ge=1, le=4096)
    """Trials at once; by default the number of cores for `processes`, one for `inline`."""
    executor: Literal["inline", "processes"] = "processes"
    coordinator: CoordinatorConfig = CoordinatorConfig()
    pruner: Literal["median", "none"] = "median"
    """`median` stops a trial whose reports are worse than the median of the earlier ones at the same step."""
    limits: LimitsConfig = LimitsConfig()
    fresh_seeds: int = Field(3, ge=0, le=100)
    """How many new seeds the winner is retrained with at the end."""
    seed: int = Field(0, ge=0, lt=2**32)
    description: str = Field("", max_length=4000)
    """What the job is, in plain words; told to a model."""
    job: JobField = Field(default_factory=dict)
    """Facts of the job, by name: how large data and model are, say; they add to what the objective itself knows."""
    mlflow: MlflowConfig = MlflowConfig()
    optuna_storage: str | None = None
    """An Optuna RDB storage (a URL) to which finished trials are mirrored."""
    import_optuna: OptunaSource | None = None

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: object) -> object:
        if isinstance(data, Mapping):
            data = dict(data)
            coordinator = data.get("coordinator")
            if isinstance(coordinator, str):
                data["coordinator"] = {} if coordinator == "rules" else {"model": coordinator}
            if isinstance(data.get("budget"), Budget):
                budget = data["budget"]
                data["budget"] = {k: getattr(budget, k) for k in ("trials", "minutes", "tokens", "dollars", "calls")}
        return data

    @model_validator(mode="after")
    def _whole(self) -> StudyConfig:
        check_study_name(self.study)
        if self.budget.trials is None and self.budget.minutes is None:
            raise ValueError("budget: give trials or minutes (or both), else the study would never end")
        if self.budget.dollars is not None and self.coordinator.model and self.coordinator.price is None:
            raise ValueError("budget.dollars needs coordinator.price: {input: …, output: …} per million tokens")
        if self.executor == "inline" and (self.parallel or 1) > 1:
            raise ValueError(
                f"parallel: {self.parallel} does not go with executor: inline, which runs one trial at a time; "
                "set parallel: 1 or executor: processes"
            )
        return self

    @property
    def goal(self) -> Goal:
        """The metric, its direction and the target."""
        return Goal(self.metric, self.direction, self.target)

    @property
    def limits_of_study(self) -> Budget:
        """The budget as a plain record."""
        return Budget(**self.budget.model_dump())

    @property
    def slots(self) -> int:
        """How many trials run at once."""
        if self.parallel is not None:
            return self.parallel
        return 1 if self.executor == "inline" else max(1, len(os.sched_getaffinity(0)) if _HAS_AFFINITY else 2)

    @property
    def round_trials(self) -> int:
        """How many trials a round has, before the budget cuts it."""
        if self.trials_per_round is not None:
            return self.trials_per_round
        return 3 * len(self.space) if self.strategy == "per_parameter" else max(8, 2 * self.slots)

    def proposal_seed(self, trials: int) -> int:
        """Give the seed, in [0, 2**32), of the proposal that follows `trials` trials; the same whenever asked for."""
        return (self.seed * 1_000_003 + trials * 101) % 2**32

    def to_json(self) -> JsonObject:
        """Give the description as plain data."""
        return self.model_dump(mode="json")

    @classmethod
    def from_mapping(cls, data: Mapping[str, object], where: str = "study") -> StudyConfig:
        """Validate a description. Raises `ConfigError` naming each wrong key, its value and the remedy.

        A built-in task fills in what is left out: metric, space, target and budget.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: a study description is a mapping, not {type(data).__name__}", "see `hpt init`")
        merged = {str(k): v for k, v in data.items()}
        objective = merged.get("objective")
        if isinstance(objective, Mapping) and objective.get("task") in TASKS:
            preset = task_study(str(objective["task"]))
            if "metric" in merged or "direction" in merged or "space" in merged:
                preset.pop("target")
            merged = {**preset, **merged}
        elif isinstance(objective, Mapping) and objective.get("task") is not None:
            raise ConfigError(
                f"{where}: objective.task: {objective['task']!r} is no built-in task",
                f"the tasks are {', '.join(TASKS)}",
            )
        if isinstance(merged.get("metric"), list | tuple):
            raise ConfigError(
                f"{where}: metric: {merged['metric']!r}: several objectives are not supported yet", "name one metric"
            )
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise _explained(error, where) from None
        except HptError as error:
            raise type(error)(f"{where}: {error.message}", error.hint) from None

    @classmethod
    def from_file(cls, path: Path, overrides: Mapping[str, object] | None = None) -> StudyConfig:
        """Read a study file and lay `overrides` (whole keys; mappings key by key) over it. Raises `ConfigError`."""
        data = read_study_file(path)
        for key, value in (overrides or {}).items():
            held = data.get(key)
            data[key] = {**held, **value} if isinstance(value, Mapping) and isinstance(held, Mapping) else value
        objective = data.get("objective")
        if isinstance(objective, Mapping) and "task" not in objective and "folder" not in objective:
            data["objective"] = {**objective, "folder": str(path.resolve().parent)}
        return cls.from_mapping(data, where=path.name)


_FORMS = {
    "coordinator.model": "write provider:name, such as openai:gpt-5-mini, or rules",
    "objective.python": "write train.py:train or package.module:function",
    "objective.final": "write train.py:score or package.module:function",
}


def _explained(error: ValidationError, where: str) -> ConfigError:
    """Turn pydantic's errors into lines that name the key, the value and the remedy."""
    lines = []
    for entry in error.errors():
        key = ".".join(str(part) for part in entry["loc"])
        head = f"{where}: {key}" if key else where
        if entry["type"] == "extra_forbidden":
            model: type[BaseModel] = StudyConfig
            for part in entry["loc"][:-1]:
                model = _model_at(model, str(part)) or model
            near = difflib.get_close_matches(str(entry["loc"][-1]), model.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(model.model_fields)}"
            lines.append(f"{head}: unknown key; {hint}")
        elif entry["type"] == "missing":
            lines.append(f"{head}: this key is missing")
        elif entry["type"] == "string_pattern_mismatch" and key in _FORMS:
            lines.append(f"{head}: {mask_secrets(repr(entry['input']))[:200]}: {_FORMS[key]}")
        elif entry["type"] == "value_error":
            lines.append(f"{head}: {entry['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(
                f"{head}: {mask_secrets(repr(entry['input']))[:200]}: {entry['msg'][:1].lower()}{entry['msg'][1:]}"
            )
    return ConfigError("\n".join(lines), "`hpt init` writes a study file in which every key is explained")


def _model_at(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    spec = model.model_fields.get(key)
    if spec is None:
        return None
    candidates = [spec.annotation, *getattr(spec.annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
