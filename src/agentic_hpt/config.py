"""The one validated description of a study, and the only reader of environment variables."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from agentic_hpt.errors import ConfigError, HptError
from agentic_hpt.presets import TASKS, task_study
from agentic_hpt.records import Budget, Goal, JsonObject
from agentic_hpt.space import SearchSpace

__all__ = [
    "BRIDGE_AFTER_SECONDS",
    "CoordinatorConfig",
    "LimitsConfig",
    "MlflowConfig",
    "ObjectiveConfig",
    "Settings",
    "StudyConfig",
    "check_study_name",
    "mask_paths",
    "mask_secrets",
    "read_study_file",
]

BRIDGE_AFTER_SECONDS = 0.05
"""How long a model or a person may take before trials go on without them."""

_MOST_FACTS = 20
_LONGEST_FACT = 200
_FACT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,39}")
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ \-]{0,99}")
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)", re.IGNORECASE)
_URL_USERINFO = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.\-]*://)[^/\s'\"]+@")
_URL_QUERY = re.compile(r"([?&][^=&\s]*(?:key|token|secret|password|passwd|pwd)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)
_PATH = re.compile(
    r"""(?P<url>\b(?!file:|sqlite)[A-Za-z][A-Za-z0-9+.\-]+://[^\s"'<>]+)               # not a path: stays
    | (?P<scheme>\b(?:file|sqlite(?:\+\w+)?):///?)/(?!\.{3}/)(?:[^/\s"']+/)+[^/\s"'?#]+
    | (?<=["'])(?:/|[A-Za-z]:[\\/]+|\\\\)[^"'\n]*[\\/][^"'\n\\/]+(?=["'])             # in quotes it may hold spaces
    | \b[A-Za-z]:[\\/]+(?:[^\\/:*?"'<>|\s]+[\\/]+)+[^\\/:*?"'<>|\s]+
    | (?<![\w\\])\\\\(?:[^\\/:*?"'<>|\s]+[\\/]+)+[^\\/:*?"'<>|\s]+
    | (?<![\w./~\-])/(?:[\w.@+~%\-]+/)+[\w.@+~%\-]+                                  # not `1/2`, `n/a`, a lone `/x`
    """,
    re.VERBOSE,
)


def check_study_name(name: object) -> str:
    """Give `name` if it can name a study (and so a folder and an MLflow experiment). Raises `ConfigError`."""
    if not isinstance(name, str) or not _STUDY_NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise ConfigError(
            f"study: {name!r} can't be a study's name",
            "use letters, digits, '.', '_', '-' and inner spaces, at most 100, a letter or digit first",
        )
    return name


def mask_secrets(text: str) -> str:
    """Give `text` with passwords in URLs and the values of secret-looking environment variables replaced by `***`."""
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    text = text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate can be written nowhere
    return _URL_QUERY.sub(r"\1***", _URL_USERINFO.sub(r"\g<scheme>***@", text))


def mask_paths(text: str) -> str:
    """Give `text` with absolute paths of a machine cut to `.../name`; URLs stay as they are."""

    def cut(found: re.Match[str]) -> str:
        name = re.split(r"[\\/]", found[0])[-1]
        return found["url"] or f"{found['scheme'] or ''}.../{name}"

    return _PATH.sub(cut, text)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class ObjectiveConfig(_Strict):
    """What is run: exactly one of a built-in task, a Python function, or a command line."""

    task: Literal["breast_cancer", "digits", "wine"] | None = None
    python: str | None = Field(None, pattern=r"^[^:]+:[A-Za-z_][A-Za-z0-9_.]*$")
    """`train.py:train` (a path, from the study file's folder) or `package.module:function`."""
    final: str | None = Field(None, pattern=r"^[^:]+:[A-Za-z_][A-Za-z0-9_.]*$")
    """Like `python`: called once with the winner, gives the score on data that no trial saw."""
    command: tuple[str, ...] | None = Field(None, min_length=1)
    """Program and arguments; `{name}` stands for a parameter. No shell is involved."""
    folder: str | None = None
    """Where relative paths of `python` and `command` start; the study file's folder by default."""

    @model_validator(mode="after")
    def _one_kind(self) -> ObjectiveConfig:
        kinds = [k for k in ("task", "python", "command") if getattr(self, k) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of task, python and command, not {' and '.join(kinds) or 'none'}")
        if self.final is not None and self.python is None:
            raise ValueError("final goes with python only")
        return self


class _PriceConfig(_Strict):
    input: float = Field(ge=0)
    output: float = Field(ge=0)


class CoordinatorConfig(_Strict):
    """Who decides after a round: the rules, or a chat model under the same guards."""

    model: str | None = Field(None, pattern=r"^[a-z_0-9]+:.+$")
    """`provider:name` as LangChain's `init_chat_model` takes it; none for the rules."""
    base_url: str | None = None
    timeout_seconds: float = Field(60.0, gt=0, le=3600)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int = Field(2000, ge=64)
    """Upper bound of one answer's length."""
    price: _PriceConfig | None = None
    """US dollars per million tokens; needed for a budget in dollars."""
    retries: int = Field(2, ge=0, le=10)
    """How often a call is tried again after a transient error (429, 5xx, no connection, no answer in time)."""
    context_tokens: int | None = Field(None, ge=1024)
    """The model's context window in tokens, if it is small: the evidence is cut to what fits beside the answer."""
    approve: bool = False
    """Whether a person approves, edits or refuses each decision before it is in force."""

    @model_validator(mode="after")
    def _fits(self) -> CoordinatorConfig:
        if self.context_tokens is not None and 4 * self.max_tokens > self.context_tokens:
            raise ValueError(
                f"context_tokens: {self.context_tokens} is too few for answers of max_tokens: {self.max_tokens}; "
                f"set max_tokens to {self.context_tokens // 4} or less"
            )
        return self


class MlflowConfig(_Strict):
    """Where runs are logged: `tracking_uri`, else `MLFLOW_TRACKING_URI`, else the home's SQLite store."""

    enabled: bool = True
    tracking_uri: str | None = None
    experiment: str | None = None
    """The study's name by default."""
    wait_seconds: float = Field(30.0, ge=0)
    """How long the coordinator waits for a round's runs before it reads the ledger's own records."""


class LimitsConfig(_Strict):
    """Limits of one trial."""

    seconds: float | None = Field(None, gt=0)


class OptunaSource(_Strict):
    """A study in an Optuna storage whose trials are taken as earlier trials."""

    storage: str
    study: str


class _BudgetConfig(_Strict):
    trials: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0)
    tokens: int | None = Field(None, ge=0)
    dollars: float | None = Field(None, ge=0)
    calls: int | None = Field(None, ge=0)


def _space(value: object) -> SearchSpace:
    return value if isinstance(value, SearchSpace) else SearchSpace.from_json(value)


SpaceField = Annotated[SearchSpace, PlainValidator(_space), PlainSerializer(lambda s: s.to_json())]


def _job(value: object) -> JsonObject:
    """Give the facts if they are few and short. Raises `ValueError` that names the one that is not."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r:.60} is no mapping of names to numbers or short texts")
    if len(value) > _MOST_FACTS:
        raise ValueError(f"{len(value)} facts are too many; give at most {_MOST_FACTS}")
    for name, fact in value.items():
        if not isinstance(name, str) or not _FACT_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r:.60} can't name a fact; use a letter, then letters, digits, '_', '.' and '-', at most 40"
            )
        if isinstance(fact, str) and len(fact) > _LONGEST_FACT:
            raise ValueError(
                f"{name} has {len(fact)} characters; give at most {_LONGEST_FACT}, and the rest as description"
            )
        if not isinstance(fact, str | int | float) or (isinstance(fact, float) and not math.isfinite(fact)):
            raise ValueError(f"{name}: {fact!r:.60} is neither a number nor a text")
    return dict(value)


JobField = Annotated[JsonObject, PlainValidator(_job)]


class StudyConfig(_Strict):
    """The description of a study. `from_mapping` and `from_file` build it, and raise `ConfigError` in plain words."""

    study: str
    objective: ObjectiveConfig | None = None
    """`None` when the objective is a Python object handed over in code."""
    metric: str = Field(min_length=1, max_length=100)
    direction: Literal["maximize", "minimize"] = "maximize"
    target: float | None = None
    """The search may stop once a trial's metric reaches it."""
    space: SpaceField
    budget: _BudgetConfig = _BudgetConfig(trials=100)
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


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: 1e-5 is a number, yes/no/on/off are text, a key stands once."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rx) for tag, rx in entries if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*)?\.[0-9_]+(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*\.?(?:[eE][-+]?[0-9]+)"
        r"|[-+]?[0-9][0-9_]*\.|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _unique_keys(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, list | dict):
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} can't be a key", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_keys)


def read_study_file(path: Path) -> dict[str, object]:
    """Read a YAML study file into plain data. Raises `ConfigError` with the line at fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the study file {path}: {error}", "`hpt init` writes one") from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date such as 2026-13-45 is a ValueError
        raise ConfigError(f"{path} is not valid YAML: {error}", "check indentation, colons and quotes") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} does not hold a mapping of keys to values", "`hpt init` writes a study file")
    return {str(k): v for k, v in data.items()}


_HAS_AFFINITY = hasattr(os, "sched_getaffinity")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things are kept: the home folder and the addresses that the environment may set."""

    home: Path
    ledger_url: str
    tracking_uri: str | None

    @classmethod
    def load(cls, home: str | Path | None = None) -> Settings:
        """Read the settings. An explicit `home` wins over `AGENTIC_HPT_HOME`, which wins over `hpt-home`."""
        folder = Path(home or os.environ.get("AGENTIC_HPT_HOME") or "hpt-home").expanduser().absolute()
        if "?" in str(folder) or "#" in str(folder):
            raise ConfigError(f"the home {folder} has '?' or '#' in its path", "addresses of stores can't hold these")
        ledger = os.environ.get("AGENTIC_HPT_LEDGER") or f"sqlite:///{folder / 'ledger.db'}"
        if not ledger.startswith("sqlite:///"):
            raise ConfigError(
                f"AGENTIC_HPT_LEDGER: {mask_secrets(ledger)!r} is not supported yet",
                "use a URL of the form sqlite:////path/ledger.db",
            )
        return cls(folder, ledger, os.environ.get("MLFLOW_TRACKING_URI") or None)

    @property
    def checkpoints(self) -> Path:
        """The graph's checkpoint store."""
        return self.home / "checkpoints.db"

    @property
    def mlflow_store(self) -> str:
        """The tracking URI used when none is set."""
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def artifacts(self, folder: str) -> Path:
        """The folder of one study's files."""
        return self.home / "artifacts" / folder

    def resolve_tracking_uri(self, config: MlflowConfig) -> str:
        """Give the study file's URI, else the environment's, else the home's own store."""
        return config.tracking_uri or self.tracking_uri or self.mlflow_store

    def has_variable(self, name: str) -> bool:
        """Say whether an environment variable is set and not empty."""
        return bool(os.environ.get(name))

    def create(self) -> None:
        """Make the home. Raises `ConfigError` when it can't be written."""
        try:
            (self.home / "artifacts").mkdir(parents=True, exist_ok=True)
            probe = self.home / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"the home {self.home} can't be written: {error.strerror or error}",
                "choose another with --home or AGENTIC_HPT_HOME",
            ) from None
