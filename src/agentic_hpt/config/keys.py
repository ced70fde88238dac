"""The keys of a study file, group by group."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, field_validator, model_validator

from agentic_hpt.fidelity import Halving
from agentic_hpt.records import JsonObject
from agentic_hpt.space import SearchSpace

_MOST_FACTS = 20
_LONGEST_FACT = 200
_FACT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,39}")


class Strict(BaseModel):
    """A group of keys: unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class ObjectiveConfig(Strict):
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


class _PriceConfig(Strict):
    input: float = Field(ge=0)
    output: float = Field(ge=0)


class CoordinatorConfig(Strict):
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


class MlflowConfig(Strict):
    """Where runs are logged: `tracking_uri`, else `MLFLOW_TRACKING_URI`, else the home's SQLite store."""

    enabled: bool = True
    tracking_uri: str | None = None
    experiment: str | None = None
    """The study's name by default."""
    wait_seconds: float = Field(30.0, ge=0)
    """How long the coordinator waits for a round's runs before it reads the ledger's own records."""
    children: str = "all"
    """Which trials become runs: `all`, each as it ends, or `top:N`, the N best when the study ends."""

    @field_validator("children", mode="before")
    @classmethod
    def _counts(cls, children: object) -> str:
        if not isinstance(children, str) or (children != "all" and not re.fullmatch(r"top:[1-9]\d{0,5}", children)):
            raise ValueError(f"{children!r} is neither 'all' nor 'top:N' with N from 1 on, as in top:20")
        return children

    @property
    def top(self) -> int | None:
        """How many trials become runs; `None` when all do."""
        return None if self.children == "all" else int(self.children.removeprefix("top:"))


class LimitsConfig(Strict):
    """What one trial may use; see `records.Limits`."""

    seconds: float | None = Field(None, gt=0)
    memory_mb: float | None = Field(None, gt=0)
    threads: int = Field(1, ge=1, le=1024)
    gpus: float = Field(0.0, ge=0, le=64)

    @property
    def of_processes(self) -> str:
        """The first key that asks for what only a process of its own can be held to; empty when there is none."""
        fields = LimitsConfig.model_fields
        return next((key for key in ("memory_mb", "threads", "gpus") if getattr(self, key) != fields[key].default), "")

    @model_validator(mode="after")
    def _shares(self) -> LimitsConfig:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: {self.gpus}: give a part of one GPU (0.5, say) or a whole number of them")
        return self


class FailuresConfig(Strict):
    """What happens when workers are lost, and when trials fail alike again and again."""

    attempts: int = Field(3, ge=1, le=100)
    """How often a trial is tried when its worker is lost (killed from outside, node gone, no sign of life)."""
    lease_seconds: float = Field(30.0, ge=1)
    """After so many seconds without a sign of life a trial's worker counts as lost, and so does a study's driver."""
    same: int = Field(5, ge=2)
    """After so many failures in a row with the same text, and nothing that ever worked, the study stops; where trials
    worked before, after three times as many, once one of them runs again and fails as well."""


class RayConfig(Strict):
    """Where `executor: ray` runs trials; what each takes of the cluster stands under `limits`."""

    address: str | None = None
    """`auto` for this node's cluster, `host:port` or `ray://host:port`; by default a new one on this machine."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the trials; those of the driver do not go along."""
    working_dir: str | None = None
    """A folder that Ray copies to the nodes; by default none: the code is on them already, at the same place."""
    autoscaling: bool = False
    """Whether the cluster may add nodes that are larger than those it has: else a trial must fit on one of these."""


class PruningConfig(Strict):
    """How trials are stopped early; without `min_steps` the first complete trials say where that begins."""

    eta: int = Field(3, ge=2, le=10)
    """For `asha`: at a rung the best 1 / eta go on, and the next rung lies eta times as far."""
    min_steps: int | None = Field(None, ge=1)
    """No trial is stopped before so many steps; for `asha` the first rung."""
    promote: bool = True
    """For `asha`: whether a stopped trial goes on later, once it is among the best of its rung."""

    @property
    def halving(self) -> Halving:
        """The settings as a plain record."""
        return Halving(**self.model_dump())


class StopConfig(Strict):
    """When the search ends although budget is left; with no key in it, once the rest may bring less than noise."""

    min_gain: float | None = Field(None, ge=0)
    """A gain of the metric that is not worth the rest of the budget."""
    dollars_per_hour: float | None = Field(None, gt=0)
    """What an hour of running costs, all slots together."""
    dollars_per_gain: float | None = Field(None, gt=0)
    """What a gain of 1 in the metric is worth; a round that costs more than it may bring is not run."""

    @model_validator(mode="after")
    def _whole(self) -> StopConfig:
        if (self.dollars_per_hour is None) != (self.dollars_per_gain is None):
            raise ValueError(
                "dollars_per_hour and dollars_per_gain go together: "
                "a round's cost is held against what its gain is worth"
            )
        return self


class OptunaSource(Strict):
    """A study in an Optuna storage whose trials are taken as earlier trials."""

    storage: str
    study: str


class TransferSource(Strict):
    """An earlier study of a related task, to learn from: exactly one of `study`, `mlflow`, `csv` and `optuna`."""

    study: str | None = None
    """A study of ours, in this home or in `home`."""
    home: str | None = None
    mlflow: str | None = None
    """An MLflow experiment, at this study's tracking URI or at `tracking_uri`."""
    tracking_uri: str | None = None
    csv: str | None = None
    """A table with a column for each parameter and one for the metric; from the study file's folder."""
    optuna: str | None = None
    """A study in the Optuna storage `storage`."""
    storage: str | None = None
    metric: str | None = None
    """What it is called there; by default like this study's."""
    direction: Literal["maximize", "minimize"] | None = None
    """By default what the earlier study says, else this study's."""

    @model_validator(mode="after")
    def _one_kind(self) -> TransferSource:
        places = {"study": "home", "mlflow": "tracking_uri", "csv": None, "optuna": "storage"}
        kinds = [kind for kind in places if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of study, mlflow, csv and optuna, not {' and '.join(kinds) or 'none'}")
        for kind, place in places.items():
            if place is not None and getattr(self, place) is not None and kind != kinds[0]:
                raise ValueError(f"{place} goes with {kind}, not with {kinds[0]}")
        if self.optuna is not None and self.storage is None:
            raise ValueError("optuna needs storage: the URL of the Optuna storage")
        return self


class BudgetConfig(Strict):
    """Hard limits of a study."""

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
