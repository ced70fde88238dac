"""Frozen values that travel between the parts: plain data, no behaviour beyond reading them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Literal

from agentic_hpt.errors import FailureKind

ParamValue = bool | int | float | str | None
Params = Mapping[str, ParamValue]
Metrics = Mapping[str, float]
Direction = Literal["maximize", "minimize"]
JsonObject = dict[str, object]
"""Plain data: text, numbers, true/false, null, lists and mappings of these."""

WorkerKind = Literal[
    "default",
    "per_parameter",
    "group",
    "joint",
    "combination",
    "proposals",
    "repeat",
    "outside",
    "bridge",
    "imported",
    "ask",
    "fresh_seed",
    "holdout",
]
Verdict = Literal["accepted", "repaired", "refused"]
DeciderKind = Literal["rules", "llm", "policy", "person"]
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
class Goal:
    """What is optimized: one metric, its direction, and the value at which the search may stop."""

    metric: str
    direction: Direction = "maximize"
    target: float | None = None

    def better(self, a: float, b: float) -> bool:
        """Say whether `a` is strictly better than `b`."""
        return a > b if self.direction == "maximize" else a < b

    def reached(self, value: float | None) -> bool:
        """Say whether the target is set and `value` meets it."""
        if self.target is None or value is None:
            return False
        return value >= self.target if self.direction == "maximize" else value <= self.target

    def value(self, trial: Trial) -> float | None:
        """Give the trial's objective value; `None` unless it is complete."""
        return trial.values.get(self.metric) if trial.state is TrialState.COMPLETE else None

    def best(self, trials: Iterable[Trial]) -> Trial | None:
        """Give the complete trial with the best value; of equals, the earliest.

        A configuration that was repeated on other seeds counts by its mean, so that luck is not taken for merit.
        """
        trials = list(trials)
        estimates = self.estimates(trials)
        sign = 1.0 if self.direction == "maximize" else -1.0
        best: Trial | None = None
        held = 0.0
        for trial in trials:
            value = trial.values.get(self.metric) if trial.state is TrialState.COMPLETE else None
            if value is None:
                continue
            worth = sign * estimates.get(trial.id, value)
            if best is None or worth > held or (worth == held and trial.id < best.id):
                best, held = trial, worth
        return best

    def repeated_means(self, trials: Iterable[Trial]) -> dict[ConfigurationKey, float]:
        """Give the mean value of each configuration that a `repeat` ran again."""
        runs = self._repeated(list(trials))
        return {key: sum(t.values[self.metric] for t in same) / len(same) for key, same in runs.items()}

    def estimates(self, trials: Iterable[Trial]) -> dict[int, float]:
        """Give that mean by the ids of the trials that ran such a configuration."""
        runs = self._repeated(list(trials))
        return {t.id: sum(s.values[self.metric] for s in same) / len(same) for same in runs.values() for t in same}

    def _repeated(self, trials: list[Trial]) -> dict[ConfigurationKey, list[Trial]]:
        repeats = [t.params for t in trials if t.kind == "repeat" and self.value(t) is not None]
        if not repeats:
            return {}
        names = list(set[str]().union(*repeats))
        alike = {tuple(map(params.get, names)) for params in repeats}
        columns = [{values[place] for values in alike} for place in range(len(names))]
        telling = max(range(len(names)), key=lambda place: len(columns[place]), default=None)
        if telling is not None:  # to make a key takes time: only for those that may be the same
            name, values = names[telling], columns[telling]
            trials = [t for t in trials if t.params.get(name) in values]
            trials = [t for t in trials if tuple(map(t.params.get, names)) in alike]
        found: dict[ConfigurationKey, list[Trial]] = {configuration_key(params): [] for params in repeats}
        for trial in trials:
            if self.value(trial) is not None:
                found.get(configuration_key(trial.params), []).append(trial)
        return found

    def ranked(self, trials: Iterable[Trial]) -> list[Trial]:
        """Give the complete trials, best first; of equals, the earliest first."""
        sign = -1.0 if self.direction == "maximize" else 1.0
        done = [(sign * value, t.id, t) for t in trials if (value := self.value(t)) is not None]
        return [t for _, _, t in sorted(done, key=lambda entry: entry[:2])]


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

    @property
    def counted(self) -> bool:
        """Say whether the trial is part of the search and of its budget (imported and final ones are not)."""
        return self.kind not in ("imported", "fresh_seed", "holdout")

    @property
    def finished(self) -> bool:
        """Say whether the trial has ended, in whatever way."""
        return self.state is not TrialState.RUNNING


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

    def to_json(self) -> JsonObject:
        """Give the assignment as plain data, fit for the graph's state."""
        data = asdict(self)
        data["tuned"] = list(self.tuned)
        data["queue"] = [dict(q) for q in self.queue]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Assignment:
        """Rebuild an assignment from `to_json`."""
        known = dict(data)
        known["tuned"] = tuple(known.get("tuned", ()))  # type: ignore[arg-type]
        known["queue"] = tuple(known.get("queue", ()))  # type: ignore[arg-type]
        return cls(**known)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Budget:
    """Hard limits of a study. `trials` counts every search trial, failed ones too; `minutes` is time of running."""

    trials: int | None = None
    minutes: float | None = None
    tokens: int | None = None
    dollars: float | None = None
    calls: int | None = None
    """Calls of the model, failed ones too. Like tokens and dollars it ends the use of the model, not the study."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a study has used of its budget so far."""

    trials: int = 0
    seconds: float = 0.0
    calls: int = 0
    tokens: int = 0
    dollars: float = 0.0

    def spent(self, budget: Budget) -> Literal["budget.trials", "budget.minutes"] | None:
        """Name the budget that is used up, if one is. Tokens and dollars only end the use of the model."""
        if budget.trials is not None and self.trials >= budget.trials:
            return "budget.trials"
        if budget.minutes is not None and self.seconds >= budget.minutes * 60:
            return "budget.minutes"
        return None

    def trials_left(self, budget: Budget) -> int:
        """Give how many trials may still be started; a large number when there is no such limit."""
        return 2**31 if budget.trials is None else max(0, budget.trials - self.trials)


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
    time_limit: float | None = None
    """Seconds of wall time; the trial is killed when they are over."""


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """One action of a decision, with the guard's verdict on it."""

    type: str
    reason: str
    evidence: tuple[int, ...]
    verdict: Verdict
    verdict_reason: str
    detail: JsonObject = field(default_factory=dict)
    """What the guard let through, beyond type and reason: the configurations of a `propose`, say."""
    asked: JsonObject = field(default_factory=dict)
    """The whole action as it was asked for, before any repair; empty for the policy's own."""
    by: str = ""
    """Who asked for it when it was not the decision's `kind`: `policy` for an undo, `person` for an edit."""


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """What was decided after a round, by whom, and at what cost."""

    round: int
    kind: DeciderKind
    actions: tuple[ActionRecord, ...]
    source: Literal["mlflow", "ledger"] = "mlflow"
    """Where the runs that were the evidence came from."""
    fallback: str | None = None
    """Why the rules decided although a model was asked; `None` when they did not."""
    tokens: int = 0
    dollars: float = 0.0
    seconds: float = 0.0
    asked: str = ""
    """Why the model was asked, or why it was not; empty when there is none."""
    evidence_id: str = ""
    """A hash of the evidence that was shown; empty when none was built."""
    notes: tuple[int, ...] = ()
    """The ids of the person's notes that were seen for the first time."""
    review: str = ""
    """What a person said of it (`approve`, `edit`, `refuse`, and why); empty when nobody was asked."""
    bridged: int = 0
    """Trials of the next round that were started before the decision was there, so that no slot idled."""
    shown: JsonObject = field(default_factory=dict, compare=False, repr=False)
    """The evidence itself, on its way to the ledger, which keeps it beside the decision; not part of `to_json`."""

    def accepted(self, type_: str) -> ActionRecord | None:
        """Give the first action of this type that a guard let through."""
        return next((a for a in self.actions if a.type == type_ and a.verdict != "refused"), None)

    @property
    def finalizes(self) -> bool:
        """Say whether the search ends here."""
        return self.accepted("finalize") is not None

    def to_json(self) -> JsonObject:
        """Give the decision as plain data."""
        data = asdict(replace(self, shown={}))
        del data["shown"]
        data["actions"] = [{**asdict(a), "evidence": list(a.evidence)} for a in self.actions]
        data["notes"] = list(self.notes)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> DecisionRecord:
        """Rebuild a decision from `to_json`."""
        known = dict(data)
        known["notes"] = tuple(known.get("notes", ()))  # type: ignore[arg-type]
        actions = known["actions"]
        known["actions"] = tuple(
            ActionRecord(**{**a, "evidence": tuple(a["evidence"])})
            for a in actions  # type: ignore[attr-defined]
        )
        return cls(**known)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call of the language model. `prompt` and `answer` are kept with secrets masked."""

    round: int
    model: str
    prompt_version: str
    input_hash: str
    prompt: str
    answer: str
    input_tokens: int
    output_tokens: int
    dollars: float
    seconds: float
    error: str = ""
    purpose: Literal["decide", "repair"] = "decide"
    attempt: int = 1
    """Counts the tries of one question; a second one follows a transient error."""
    evidence_id: str = ""
    verdicts: tuple[str, ...] = ()
    """The guards' verdicts on the answer's actions, in order (`freeze: refused: ...`); put in with the decision."""

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> ModelCall:
        """Rebuild a call from `asdict`."""
        return cls(**{**data, "verdicts": tuple(data.get("verdicts", ()))})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Interaction:
    """Two parameters whose best values depend on each other; `strength` is in [0, 1]."""

    a: str
    b: str
    strength: float


@dataclass(frozen=True, slots=True)
class Insights:
    """What a surrogate says of the trials so far. Empty while there are too few of them."""

    importance: Mapping[str, float] = field(default_factory=dict)
    """For each parameter its share of what decides over good and bad, in [0, 1]; they sum to 1."""
    interactions: tuple[Interaction, ...] = ()
    """The strongest first."""
    trials: int = 0
    """How many trials it rests on."""


@dataclass(frozen=True, slots=True)
class Note:
    """A person's note on a running study, in plain words, which the next decision must see."""

    id: int
    text: str
    created: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """Something that MLflow must still be told. `claimed` says that an earlier writer may have told it already."""

    id: int
    kind: Literal["study", "trial", "decision", "final"]
    key: str
    """Unique in the study: `study`, `trial/12/1` (number and attempt), `decision/3`, `final`."""
    payload: JsonObject
    claimed: bool = False


@dataclass(frozen=True, slots=True)
class FinalReport:
    """The figures a study ends with.

    `mean` and `sd` are of the objective's metric on fresh seeds; `holdout` is the one score on data that no decision
    saw, `None` when the objective has none; `selection_gap` is how much better the tuned-on figure looked than `mean`.
    """

    trial: int
    validation_best: float
    fresh_seeds: int
    mean: float | None
    sd: float | None
    holdout: float | None
    selection_gap: float | None
    model_dir: str | None = None
    failed_seeds: int = 0

    def to_json(self) -> JsonObject:
        """Give the report as plain data."""
        return asdict(self)


def configuration_key(params: Params) -> ConfigurationKey:
    """Give a hashable identity of a configuration; `True`, `1` and `1.0` differ only where their kinds do."""
    return tuple(sorted((name, repr(value)) for name, value in params.items()))


def is_number(value: object) -> bool:
    """Say whether `value` is an int or float that is finite, also as a float, and not a bool."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
