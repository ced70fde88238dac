"""The one validated description of a study."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Self, cast

from pydantic import BaseModel, Field, ValidationError, model_validator

from agentic_hpt.config.constraining import sorted_constraints
from agentic_hpt.config.keys import (
    BudgetConfig,
    CoordinatorConfig,
    FailuresConfig,
    JobField,
    LimitsConfig,
    MlflowConfig,
    ObjectiveConfig,
    OptunaSource,
    PruningConfig,
    RayConfig,
    SpaceField,
    StopConfig,
    Strict,
    TransferSource,
)
from agentic_hpt.config.masking import check_study_name, mask_data, mask_secrets
from agentic_hpt.config.objectives import (
    FREE_METRICS,
    DirectionField,
    MetricField,
    ReferenceField,
    TargetField,
    goal_of,
)
from agentic_hpt.config.study_file import read_study_file
from agentic_hpt.constraints import Condition
from agentic_hpt.errors import ConfigError, HptError, SpaceError
from agentic_hpt.feasible import check_constraints
from agentic_hpt.fidelity import Halving
from agentic_hpt.presets import TASKS, task_study
from agentic_hpt.records import (
    Budget,
    ConfigurationKey,
    Goal,
    JsonObject,
    Limits,
    Params,
    ParamValue,
    Stop,
    configuration_key,
)
from agentic_hpt.space import SearchSpace

_HAS_AFFINITY = hasattr(os, "sched_getaffinity")
_ON_CPU = 32
"""Trials that a batch usefully holds there: more of them take as long each."""


class StudyConfig(Strict):
    """The description of a study. `from_mapping` and `from_file` build it, and raise `ConfigError` in plain words."""

    study: str
    objective: ObjectiveConfig | None = None
    """`None` when the objective is a Python object handed over in code."""
    metric: MetricField
    """One metric's name, or two to four names: then the Pareto front is searched. `goal` says it all in one."""
    direction: DirectionField = "maximize"
    """`maximize` or `minimize`; of several metrics one for all, or one each."""
    target: TargetField = None
    """The search may stop once a trial's metric reaches it; of several metrics a number by name, all to be reached."""
    reference: ReferenceField = Field(default_factory=dict)
    """Of several metrics the worst value that still counts, by name; by default the first trials say it."""
    space: SpaceField
    initial: tuple[dict[str, ParamValue], ...] = ()
    """Configurations to run first, behind the default; what one leaves out has its default in it."""
    constraints: tuple[str, ...] = ()
    """Conditions: over parameters alone, what may be tried; with a metric in them, what the best trial must satisfy."""
    budget: BudgetConfig = BudgetConfig(trials=100)
    strategy: Literal["auto", "per_parameter", "joint"] = "auto"
    """`auto`: a portfolio of samplers over one history, each with the trials it earns, beside the workers that the
    coordinator spawns; `joint`: TPE over all parameters at once; `per_parameter`: a worker for each parameter, the
    others held at the incumbent."""
    trials_per_round: int | None = Field(None, ge=1)
    """How many trials a round has; by default eight or two a slot, or three a parameter for `per_parameter`."""
    parallel: int | None = Field(None, ge=1, le=4096)
    """Trials at once; by default the number of cores for `processes`, one for `inline`, for `batched` 32, or 256 where
    there is a GPU, but no more than a quarter of the trials."""
    executor: Literal["auto", "inline", "processes", "ray", "batched"] = "auto"
    """`auto`: `batched` where the objective can be and a measurement at the beginning says that it pays, else
    `processes`."""
    coordinator: CoordinatorConfig = CoordinatorConfig()
    pruner: Literal["median", "asha", "none"] = "median"
    """`median` stops a trial whose reports are worse than the median of the earlier ones at the same step; `asha` one
    that is not among the best third where steps are compared, and lets it go on if it comes to belong to it. Where
    minutes are the only budget, `asha` is the default."""
    pruning: PruningConfig = PruningConfig()
    limits: LimitsConfig = LimitsConfig()
    failures: FailuresConfig = FailuresConfig()
    ray: RayConfig = RayConfig()
    fresh_seeds: int = Field(3, ge=0, le=100)
    """How many new seeds the winner is retrained with at the end."""
    finalists: int | None = Field(None, ge=1, le=10)
    """How many of the best run on new seeds before one of them is the winner; by default one where there is no noise,
    else two or three, as the number of trials allows."""
    stop: StopConfig | None = None
    """When the search ends although budget is left; `no_gain` for the noise alone, never by default."""
    seed: int = Field(0, ge=0, lt=2**32)
    description: str = Field("", max_length=4000)
    """What the job is, in plain words; told to a model."""
    job: JobField = Field(default_factory=dict)
    """Facts of the job, by name: how large data and model are, say; they add to what the objective itself knows."""
    mlflow: MlflowConfig = MlflowConfig()
    optuna_storage: str | None = None
    """An Optuna RDB storage (a URL) to which finished trials are mirrored."""
    import_optuna: OptunaSource | None = None
    transfer: tuple[TransferSource, ...] = Field((), max_length=5)
    """Earlier studies of related tasks to learn from, as far as they predict this one."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: object) -> object:
        if isinstance(data, Mapping):
            data = dict(data)
            if isinstance(data.get("constraints"), str):
                data["constraints"] = [data["constraints"]]
            stop = data.get("stop")
            if isinstance(stop, str):
                if stop not in ("no_gain", "never"):
                    raise ValueError(f"stop: {stop!r}: write never, no_gain, or a mapping such as {{min_gain: 0.001}}")
                data["stop"] = {} if stop == "no_gain" else None
            coordinator = data.get("coordinator")
            if isinstance(coordinator, str):
                data["coordinator"] = {} if coordinator == "rules" else {"model": coordinator}
            if isinstance(data.get("budget"), Budget):
                budget = data["budget"]
                data["budget"] = {k: getattr(budget, k) for k in ("trials", "minutes", "tokens", "dollars", "calls")}
            if "pruner" not in data and _by_minutes(data.get("budget")):
                data["pruner"] = "asha"
        return data

    @model_validator(mode="after")
    def _constrained(self) -> StudyConfig:
        """Put the constraints over parameters into the space, and those that it came with among the texts."""
        texts = tuple(dict.fromkeys((*self.constraints, *(c.text for c in self.space.constraints))))
        inputs, outcomes = sorted_constraints(texts, self.space.names)
        for outcome in outcomes:
            self.space.check_answers(Condition.of(outcome.text))
        if inputs:
            object.__setattr__(self, "constraints", texts)  # frozen to all but this
            object.__setattr__(self, "space", self.space.constrained(inputs))
            check_constraints(self.space)
        return self

    @model_validator(mode="after")
    def _whole(self) -> StudyConfig:
        check_study_name(self.study)
        goal_of(self.metric, self.direction, self.target, self.reference)
        if self.budget.trials is None and self.budget.minutes is None:
            raise ValueError("budget: give trials or minutes (or both), else the study would never end")
        if self.budget.dollars is not None and self.coordinator.model and self.coordinator.price is None:
            raise ValueError("budget.dollars needs coordinator.price: {input: …, output: …} per million tokens")
        if self.executor == "inline" and (self.parallel or 1) > 1:
            raise ValueError(
                f"parallel: {self.parallel} does not go with executor: inline, which runs one trial at a time; "
                "set parallel: 1 or executor: processes"
            )
        if self.executor == "inline" and (asked := self.limits.of_processes):
            raise ValueError(
                f"limits.{asked} does not go with executor: inline, where a trial has no process of its own; "
                "take it away or set executor: processes"
            )
        if self.executor == "batched" and self.measured:
            raise ValueError(
                f"{self.measured[0]} does not go with executor: batched, where a trial has no process of its own that "
                "it could be measured of; take it away or set executor: processes"
            )
        _configurations(self.space, self.initial)
        return self

    @cached_property
    def initial_configurations(self) -> tuple[Params, ...]:
        """The configurations of `initial`, whole, each once, and without the default, which runs before them."""
        return _configurations(self.space, self.initial)

    @cached_property
    def goal(self) -> Goal:
        """What is optimized: the metrics, their directions and targets, and what the best trial must satisfy."""
        _, outcomes = sorted_constraints(self.constraints, self.space.names)
        return goal_of(self.metric, self.direction, self.target, self.reference, outcomes)

    @cached_property
    def measured(self) -> tuple[str, ...]:
        """The metrics that the study looks at and that are measured only where one does."""
        goal = self.goal
        looked_at = {o.metric for o in goal.objectives} | {name for c in goal.constraints for name in c.metrics}
        return tuple(name for name in FREE_METRICS if name in looked_at)

    @property
    def halving(self) -> Halving | None:
        """How trials stopped at a rung may go on; `None` where there are no rungs."""
        return self.pruning.halving if self.pruner == "asha" and not self.goal.several else None

    @property
    def stop_rule(self) -> Stop | None:
        """What ends the search before its budget, as a plain record."""
        return Stop(**self.stop.model_dump()) if self.stop is not None else None

    @cached_property
    def limits_of_trial(self) -> Limits:
        """What one trial may use, as a plain record."""
        return Limits(**self.limits.model_dump())

    @cached_property
    def limits_of_study(self) -> Budget:
        """The budget as a plain record."""
        return Budget(**self.budget.model_dump())

    @property
    def slots(self) -> int:
        """How many trials run at once."""
        if self.parallel is not None:
            return self.parallel
        if self.executor == "batched":
            return self.batch_slots(_ON_CPU)
        return 1 if self.executor == "inline" else max(1, len(os.sched_getaffinity(0)) if _HAS_AFFINITY else 2)

    @property
    def round_trials(self) -> int:
        """How many trials a round has, before the budget cuts it."""
        if self.trials_per_round is not None:
            return self.trials_per_round
        if self.strategy == "per_parameter":
            return 3 * len(self.space)
        return max(8, self.slots if self.executor == "batched" else 2 * self.slots)

    def batch_slots(self, useful: int) -> int:
        """Give how many trials a batch has where so many are `useful`: few trials are not all asked for at once."""
        return useful if self.budget.trials is None else min(useful, max(8, self.budget.trials // 4))

    def proposal_seed(self, trials: int) -> int:
        """Give the seed, in [0, 2**32), of the proposal that follows `trials` trials; the same whenever asked for."""
        return (self.seed * 1_000_003 + trials * 101) % 2**32

    def model_copy(self, *, update: Mapping[str, object] | None = None, deep: bool = False) -> Self:
        """Give a copy with other values for some keys; pydantic's would keep what was worked out from the old ones."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    def to_json(self) -> JsonObject:
        """Give the description as plain data."""
        return self.model_dump(mode="json")

    def told(self) -> JsonObject:
        """Give the description as others may see it: with secrets masked, and without the environment of trials."""
        data = cast(JsonObject, mask_data(self.to_json()))
        return {**data, "ray": {**self.ray.model_dump(mode="json"), "env": dict.fromkeys(self.ray.env, "***")}}

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
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise _explained(error, where) from None
        except HptError as error:
            raise type(error)(f"{where}: {error.message}", error.hint) from None

    @classmethod
    def from_file(cls, path: str | Path, overrides: Mapping[str, object] | None = None) -> StudyConfig:
        """Read a study file and lay `overrides` (whole keys; mappings key by key) over it. Raises `ConfigError`."""
        path = Path(path)
        data = read_study_file(path)
        for key, value in (overrides or {}).items():
            held = data.get(key)
            data[key] = {**held, **value} if isinstance(value, Mapping) and isinstance(held, Mapping) else value
        objective = data.get("objective")
        if isinstance(objective, Mapping) and "task" not in objective and "folder" not in objective:
            data["objective"] = {**objective, "folder": str(path.resolve().parent)}
        if isinstance(sources := data.get("transfer"), list):
            data["transfer"] = [_with_path(source, path.resolve().parent) for source in sources]
        ray = data.get("ray")
        if isinstance(ray, Mapping) and isinstance(copied := ray.get("working_dir"), str) and "://" not in copied:
            data["ray"] = {**ray, "working_dir": str(path.resolve().parent / copied)}
        return cls.from_mapping(data, where=path.name)


def _with_path(source: object, folder: Path) -> object:
    """Give a source with the path of its table from the study file's folder."""
    if isinstance(source, Mapping) and isinstance(source.get("csv"), str):
        return {**source, "csv": str(folder / source["csv"])}
    return source


def _configurations(space: SearchSpace, entries: Sequence[Params]) -> tuple[Params, ...]:
    """Complete the configurations to run first, each once, without the default. Raises `ConfigError`."""
    found: dict[ConfigurationKey, Params] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            params = space.validated({**space.complete(entry), **entry})
        except SpaceError as error:
            raise ConfigError(f"initial: configuration {number}: {error.message}", error.hint) from None
        found[configuration_key(params)] = params
    found.pop(configuration_key(space.default()), None)
    return tuple(found.values())


def _by_minutes(budget: object) -> bool:
    """Say whether only time is limited: then it pays to try many configurations for a short while."""
    return isinstance(budget, Mapping) and budget.get("minutes") is not None and budget.get("trials") is None


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
        elif entry["type"] in ("model_type", "model_attributes_type", "dict_type"):
            given = mask_secrets(repr(entry["input"]))[:200]
            lines.append(f"{head}: {given}: input should be a mapping of keys to values, such as {{key: value}}")
        else:
            said = entry["msg"].replace("tuple", "list")  # as YAML and a call of `tune` have it
            lines.append(f"{head}: {mask_secrets(repr(entry['input']))[:200]}: {said[:1].lower()}{said[1:]}")
    return ConfigError(mask_secrets("\n".join(lines)), "`hpt init` writes a study file in which every key is explained")


def _model_at(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    spec = model.model_fields.get(key)
    if spec is None:
        return None
    candidates = [spec.annotation, *getattr(spec.annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
