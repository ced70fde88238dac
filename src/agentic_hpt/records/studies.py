"""What a study keeps beside its trials: budget, decisions, calls of a model, notes, changes, its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from agentic_hpt.records.goal import Goal
from agentic_hpt.records.trials import JsonObject, Metrics, Trial

Verdict = Literal["accepted", "repaired", "refused"]
DeciderKind = Literal["rules", "llm", "policy", "person"]


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
class Stop:
    """When a search ends although budget is left: what is left may bring less than noise, `min_gain`, or its cost."""

    min_gain: float | None = None
    dollars_per_hour: float | None = None
    """Of running."""
    dollars_per_gain: float | None = None
    """What a gain of 1 in the metric is worth."""


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
    sd: float = 0.0
    """Of the strength, as few trials leave it open."""


@dataclass(frozen=True, slots=True)
class Insights:
    """What a surrogate says of the trials so far. Empty while there are too few of them."""

    importance: Mapping[str, float] = field(default_factory=dict)
    """For each parameter its share of what decides over good and bad, in [0, 1]; they sum to 1."""
    interactions: tuple[Interaction, ...] = ()
    """The strongest first."""
    trials: int = 0
    """How many trials it rests on."""
    outlook: Outlook | None = None
    importance_sd: Mapping[str, float] = field(default_factory=dict)
    """How unsure each importance is."""

    def sure(self, name: str) -> float:
        """Give the importance that a parameter has at least: two standard deviations below what is expected."""
        return self.importance.get(name, 0.0) - 2 * self.importance_sd.get(name, 0.0)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a surrogate expects of going on."""

    gain: float
    """By how much one more round is expected to better the metric, at least 0."""
    sd: float
    """Of that gain."""
    noise: float | None
    """The SD of one configuration's metric over seeds, by how neighbours differ; `None` when not worked out."""
    trials: int
    """How many trials it rests on."""


@dataclass(frozen=True, slots=True)
class Note:
    """A person's note on a running study, in plain words, which the next decision must see."""

    id: int
    text: str
    created: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a person changed of a study, beside its space: its description, or the code of its objective.

    A `remark` is what the objective says of how it runs trials.
    """

    kind: Literal["described", "code", "remark"]
    told: str
    """What was changed, in words; empty for the code that the study began with."""
    by: str
    """Who changed it, as the machine names them, or `the objective`."""
    created: float
    """Seconds since the epoch."""
    round: int
    """The last round before."""
    trials: int
    """How many trials there were."""
    reopens: bool = False
    """Whether the study had ended, and goes on with it."""
    final: JsonObject | None = None
    """The figures that it had ended with."""
    code: str = ""
    """A hash of the objective's code."""

    def to_json(self) -> JsonObject:
        """Give the change as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Change:
        """Rebuild a change from `to_json`."""
        return cls(**data)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """Something that MLflow must still be told. `claimed` says that an earlier writer may have told it already."""

    id: int
    kind: Literal["study", "trial", "decision", "revision", "change", "final", "failed"]
    key: str
    """Unique in the study: `study`, `trial/12/1` (number and attempt), `decision/3`, `revision/1`, `change/1`, `final`
    or, without figures, `failed`, and `final/2` where the study had ended before."""
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
    constraints: tuple[JsonObject, ...] = ()
    """For each outcome constraint how the fresh seeds stand to it: `text`, `value`, `satisfied`, `margin`."""
    finalists: tuple[JsonObject, ...] = ()
    """The configurations that further fresh seeds chose among: `trial`, `seeds`, `mean`; empty when there was one."""
    default_mean: float | None = None
    """The default's mean on the winner's fresh seeds."""
    gain: float | None = None
    """How much better the winner is than the default there (below 0: worse)."""
    gain_low: float | None = None
    gain_high: float | None = None
    """The gain's 95 % interval; equal where there is no noise, none where it can't be told."""
    means: Metrics = field(default_factory=dict)
    """With several objectives the mean of each on the fresh seeds."""
    looks: int = 1
    """How often the holdout was scored: more than once where the study had ended before, with another winner."""

    def to_json(self) -> JsonObject:
        """Give the report as plain data."""
        return {**asdict(self), "constraints": list(self.constraints), "finalists": list(self.finalists)}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> FinalReport:
        """Rebuild a report from `to_json`."""
        lists: dict[str, object] = {
            name: tuple(data.get(name, ()))  # type: ignore[arg-type]
            for name in ("constraints", "finalists")
        }
        return cls(**{**data, **lists})  # type: ignore[arg-type]


def best_of(goal: Goal, trials: Iterable[Trial], final: FinalReport | None) -> Trial | None:
    """Give the trial that a study stands for: the winner among its finalists, and before its end the best so far."""
    trials = list(trials)
    chosen = next((t for t in trials if final is not None and t.id == final.trial), None)
    return chosen if chosen is not None else goal.best(trials)
