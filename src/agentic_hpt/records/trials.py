"""Trials and what they are made of: configurations, proposals, assignments, attempts, outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Literal, cast

from agentic_hpt.errors import FailureKind

ParamValue = bool | int | float | str | None
Params = Mapping[str, ParamValue]
Metrics = Mapping[str, float]
Direction = Literal["maximize", "minimize"]
JsonObject = dict[str, object]
"""Plain data: text, numbers, true/false, null, lists and mappings of these."""
WorkerKind = Literal[
    "default",
    "initial",
    "per_parameter",
    "group",
    "joint",
    "combination",
    "proposals",
    "repeat",
    "promotion",
    "outside",
    "bridge",
    "imported",
    "ask",
    "fresh_seed",
    "holdout",
]
Arm = Literal["gp", "local", "niche", "tpe", "cmaes", "quasi"]
"""A way to propose: a Gaussian process over all, around the incumbent or away from it, TPE, CMA-ES, quasi-random."""
Range = Mapping[str, object]
"""A part of a parameter's values, as plain data: `{"low": 0.1, "high": 0.5}`, or `{"values": ["adam", "sgd"]}`."""
ConfigurationKey = tuple[tuple[str, str], ...]
Region = Mapping[str, Range]
"""A part of the space: a range for each parameter that it limits."""


class TrialState(StrEnum):
    """Where a trial stands. A reserved trial that is not running yet counts as running."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Report:
    """Intermediate metrics of a trial at one step (an epoch, say)."""

    step: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration and what became of it. `values` is empty unless the trial is complete."""

    id: int
    params: Params
    state: TrialState
    seed: int
    worker: str
    kind: WorkerKind
    round: int
    tuned: tuple[str, ...] = ()
    revision: int = 0
    attempt: int = 1
    values: Metrics = field(default_factory=dict)
    failure: FailureKind | None = None
    message: str = ""
    seconds: float | None = None
    reports: tuple[Report, ...] = ()
    continues: int | None = None
    """The stopped trial whose checkpoint this one goes on from, with the same configuration and seed."""
    source: str = ""
    """Which earlier study an imported trial comes from."""

    @property
    def counted(self) -> bool:
        """Say whether the trial is part of the search and of its budget (imported and final ones are not)."""
        return self.kind not in ("imported", "fresh_seed", "holdout")

    @property
    def finished(self) -> bool:
        """Say whether the trial has ended, in whatever way."""
        return self.state is not TrialState.RUNNING


@dataclass(frozen=True, slots=True)
class LostAttempt:
    """An attempt of a trial whose worker was lost, and why."""

    trial: int
    attempt: int
    message: str


@dataclass(frozen=True, slots=True)
class EarlierStudy:
    """The complete trials of a study of a related task, as they were there. They are never trials of this study."""

    source: str
    """Where they come from, as a person is told."""
    params: tuple[Params, ...]
    losses: tuple[float, ...]
    """For each its value there, turned so that less is better."""
    without: int = 0
    """How many trials there ended without a value."""
    barred: tuple[int, ...] = ()
    """The places of those that break an outcome constraint: they are learned from, but none is begun with."""

    def to_json(self) -> JsonObject:
        """Give it as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> EarlierStudy:
        """Rebuild it from `to_json`."""
        lists: JsonObject = {name: tuple(data[name]) for name in ("params", "losses", "barred") if name in data}  # type: ignore[arg-type]
        return cls(**{**data, **lists})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an executor says of a finished attempt."""

    state: TrialState
    values: Metrics = field(default_factory=dict)
    failure: FailureKind | None = None
    message: str = ""
    seconds: float = 0.0
    reports: tuple[Report, ...] = ()

    @classmethod
    def complete(cls, values: Metrics, **rest: object) -> Outcome:
        """A trial that ended with values."""
        return cls(TrialState.COMPLETE, values, **rest)  # type: ignore[arg-type]

    @classmethod
    def pruned(cls, **rest: object) -> Outcome:
        """A trial that was stopped early because it looked poor."""
        return cls(TrialState.PRUNED, **rest)  # type: ignore[arg-type]

    @classmethod
    def failed(cls, kind: FailureKind, message: str, **rest: object) -> Outcome:
        """A trial that ended without a value."""
        return cls(TrialState.FAILED, failure=kind, message=message, **rest)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A configuration to try, and the parameters that the worker chose (the others were held)."""

    params: Params
    tuned: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A trial that a worker wants reserved."""

    params: Params
    tuned: tuple[str, ...]
    seed: int | None = None
    """By default the trial's own."""
    continues: int | None = None
    """The stopped trial that it goes on from."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A worker's job for one round: what it tunes, what it holds, how many trials it may run.

    `queue` holds configurations decided beforehand (the default, combinations, a model's proposals); when it is not
    empty the worker runs these and asks no sampler. `region` limits what a sampler may propose; a worker of the kind
    `outside` proposes only what lies outside it in at least one parameter.
    """

    worker: str
    kind: WorkerKind
    round: int
    trials: int
    tuned: tuple[str, ...] = ()
    held: Params = field(default_factory=dict)
    queue: tuple[Params, ...] = ()
    region: Region = field(default_factory=dict)
    reason: str = ""
    revision: int = 0
    """Of the space, when the round was planned."""
    continues: tuple[int, ...] = ()
    """For a `promotion`, the stopped trials that the configurations of `queue` go on from."""
    arm: Arm | None = None
    """How the worker proposes; by default as the strategy does."""

    def to_json(self) -> JsonObject:
        """Give the assignment as plain data, fit for the graph's state."""
        data = asdict(self)
        data["tuned"] = list(self.tuned)
        data["queue"] = [dict(q) for q in self.queue]
        data["continues"] = list(self.continues)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Assignment:
        """Rebuild an assignment from `to_json`."""
        known = dict(data)
        known["tuned"] = tuple(known.get("tuned", ()))  # type: ignore[arg-type]
        known["queue"] = tuple(known.get("queue", ()))  # type: ignore[arg-type]
        known["continues"] = tuple(known.get("continues", ()))  # type: ignore[arg-type]
        return cls(**known)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one trial may use. A trial beyond `seconds` or `memory_mb` is killed with all that it started."""

    seconds: float | None = None
    """Of wall time, for each attempt."""
    memory_mb: float | None = None
    """Of resident memory in MiB, of the trial's process and its descendants together."""
    threads: int = 1
    """Of the numeric libraries; on a cluster also the CPUs that a trial takes."""
    gpus: float = 0.0
    """How many GPUs a trial takes; a part of one below 1."""


@dataclass(frozen=True, slots=True)
class Job:
    """What an executor gets: one attempt of one trial. Paths are absolute."""

    study: str
    trial: int
    attempt: int
    params: Params
    seed: int
    worker: str
    artifact_dir: str
    checkpoint_dir: str
    final: bool = False
    """Train the final model: also score the holdout, and leave the model under `artifact_dir`."""
    limits: Limits = Limits()
    objectives: tuple[str, ...] = ()
    """The metrics beside the first one that a trial of the search must have."""
    measured: tuple[str, ...] = ()
    """The metrics to measure: `seconds` and `memory_mb` are, unless the objective gives them itself."""
    lease: float = 30.0
    """Seconds without a sign of life of the attempt's worker after which it counts as lost."""


def configuration_key(params: Params) -> ConfigurationKey:
    """Give a hashable identity of a configuration; `True`, `1` and `1.0` differ only where their kinds do."""
    return tuple(sorted((name, repr(value)) for name, value in params.items()))


def is_number(value: object) -> bool:
    """Say whether `value` is an int or float that is finite, also as a float, and not a bool."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


LARGEST = 1e150
"""So large may a figure be: beyond that its square is infinite, and neither noise nor importance can be worked out."""


def is_figure(value: object) -> bool:
    """Say whether `value` can be a metric's: a number that is not too large to be reckoned with."""
    return is_number(value) and abs(cast(float, value)) <= LARGEST
