"""Frozen values that travel between the parts: plain data, no behaviour beyond reading them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from operator import itemgetter
from typing import Literal

from agentic_hpt.constraints import Condition
from agentic_hpt.errors import FailureKind
from agentic_hpt.pareto import Frame, front
from agentic_hpt.shrinkage import Pooled, Prior, pooled

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
class OutcomeConstraint:
    """What a trial's metrics must satisfy; parameters may stand in the condition beside them."""

    text: str
    metrics: tuple[str, ...]

    def margin(self, trial: Trial) -> float | None:
        """Give by how much a trial breaks it, at most 0 where it does not; in the unit of what is compared.

        `None` unless the trial is complete with all these metrics; infinity for what can't be worked out.
        """
        if trial.state is not TrialState.COMPLETE or not all(name in trial.values for name in self.metrics):
            return None
        return Condition(self.text).margin({**{name: trial.values[name] for name in self.metrics}, **trial.params})


COVERED = "covered volume"
HYPERVOLUME = "hypervolume"
_ON_FRONT = "on the front"


@dataclass(frozen=True, slots=True)
class ObjectiveSpec:
    """One of the objectives. `reference` is its worst value that still counts: volumes are measured from there."""

    metric: str
    direction: Direction = "maximize"
    target: float | None = None
    reference: float | None = None

    def loss(self, value: float) -> float:
        """Give a value so that less is better."""
        return -value if self.direction == "maximize" else value

    @property
    def bound(self) -> float | None:
        """The reference as a loss."""
        return None if self.reference is None else self.loss(self.reference)


@dataclass(frozen=True, slots=True)
class Goal:
    """What is optimized: one metric, its direction, and the value at which the search may stop.

    With several objectives these are the first one's and `others` holds the rest. Then no single value says which trial
    is better: `best` is the knee of the Pareto front, `ranked` has the front first, and whoever needs one figure a
    trial takes `merged`.
    """

    metric: str
    direction: Direction = "maximize"
    target: float | None = None
    constraints: tuple[OutcomeConstraint, ...] = ()
    """What a trial must satisfy to be the best one."""
    others: tuple[ObjectiveSpec, ...] = ()
    reference: float | None = None
    merges: Goal | None = None
    """The goal of several objectives that this one stands for; see `merged`."""

    @property
    def several(self) -> bool:
        """Whether there are several objectives."""
        return bool(self.others)

    @property
    def objectives(self) -> tuple[ObjectiveSpec, ...]:
        """All objectives, the first one first."""
        return (ObjectiveSpec(self.metric, self.direction, self.target, self.reference), *self.others)

    def losses(self, trial: Trial) -> tuple[float, ...] | None:
        """Give a number an objective, each to be minimised; `None` unless the trial is complete with all of them."""
        if trial.state is not TrialState.COMPLETE or any(o.metric not in trial.values for o in self.objectives):
            return None
        return tuple(o.loss(trial.values[o.metric]) for o in self.objectives)

    def merged(self, trials: Iterable[Trial], whole: bool = True) -> tuple[Goal, tuple[Trial, ...]]:
        """Give the goal as one with a single objective, and the trials with the figures that it looks at.

        A trial's value is then the volume that it covers alone, the best one is the knee, and `figure` is the
        hypervolume of the front once the trial had ended: both as shares of the same box, to be maximised. With one
        objective it is the goal itself. Not `whole`, there is what `best` looks at only, which costs little.
        """
        given = tuple(trials)
        if not self.several:
            return self, given
        known = sorted(((t.id, point, t) for t in given if (point := self.losses(t)) is not None), key=lambda e: e[0])
        stands_for = replace(
            self, metric=COVERED, direction="maximize", target=None, others=(), reference=None, merges=self
        )
        if not known:
            return stands_for, given
        points = [point for _, point, _ in known]
        frame = Frame.of(points, [o.bound for o in self.objectives])
        allowed = [(number, point) for number, point, t in known if whole and t.kind != "repeat" and self.feasible(t)]
        on_front = {allowed[place][0] for place in front([point for _, point in allowed])}
        volumes = dict(zip((n for n, _ in allowed), frame.course([p for _, p in allowed]), strict=True))
        shown: dict[int, Trial] = {}
        volume = 0.0
        for number, point, trial in known:
            volume = volumes.get(number, volume)
            figures = {COVERED: frame.covered(point), HYPERVOLUME: volume, _ON_FRONT: float(number in on_front)}
            shown[number] = replace(trial, values={**trial.values, **figures})
        return stands_for, tuple(shown.get(t.id, t) for t in given)

    def figure(self, trial: Trial) -> float | None:
        """Give the figure whose best so far says how the search gets on: the value, or the front's hypervolume.

        `None` for a trial that breaks an outcome constraint, whose value is no gain.
        """
        if self.merges is not None:
            return trial.values.get(HYPERVOLUME)
        return self.value(trial) if not self.constraints or self.feasible(trial) else None

    def furthest(self, trials: Iterable[Trial]) -> Trial | None:
        """Give the trial that brought the search to where it is: the best one, or the last that moved the front."""
        if self.merges is None:
            return self.best(trials)
        moved = [t for t in trials if self.figure(t) is not None]
        return max(moved, key=lambda t: (t.values[HYPERVOLUME], -t.id), default=None)

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

    def violations(self, trial: Trial) -> tuple[float, ...] | None:
        """Give for each outcome constraint by how much a trial breaks it, at most 0 where it does not.

        `None` unless the trial is complete with all metrics that they name.
        """
        margins = [constraint.margin(trial) for constraint in self.constraints]
        known = tuple(margin for margin in margins if margin is not None)
        return known if trial.state is TrialState.COMPLETE and len(known) == len(margins) else None

    def feasible(self, trial: Trial) -> bool:
        """Say whether a trial is complete and satisfies all outcome constraints; what was not measured does not."""
        if not self.constraints:
            return trial.state is TrialState.COMPLETE
        margins = self.violations(trial)
        return margins is not None and all(margin <= 0 for margin in margins)

    def satisfying(self, trials: Iterable[Trial]) -> list[Trial]:
        """Give the trials that may be the best one: the complete ones that satisfy the outcome constraints.

        A configuration that was repeated on other seeds counts by the means of what its runs break.
        """
        trials = [t for t in trials if t.state is TrialState.COMPLETE]
        if not self.constraints:
            return trials
        repeated: dict[int, bool] = {}
        for same in self._repeated(trials).values():
            margins = [self.violations(t) for t in same]
            columns = zip(*[m for m in margins if m is not None], strict=True)
            holds = None not in margins and all(sum(column) / len(same) <= 0 for column in columns)
            repeated.update({t.id: holds for t in same})
        return [t for t in trials if repeated.get(t.id, self.feasible(t))]

    def _meets(self, trial: Trial) -> bool:
        """Say whether a trial reaches the targets of several objectives, if there are any."""
        losses = self.losses(trial)
        bounds = [None if o.target is None else o.loss(o.target) for o in self.objectives]
        return losses is not None and all(b is None or loss <= b for loss, b in zip(losses, bounds, strict=True))

    def best(self, trials: Iterable[Trial]) -> Trial | None:
        """Give the complete trial with the best value that satisfies the constraints; of equals, the earliest.

        With several objectives it is the knee of the front: of those that reach the targets, once there are any.
        Where repeats have shown noise the estimated means count, so that luck is not taken for merit.
        """
        if self.several:
            given = {t.id: t for t in trials}
            goal, shown = self.merged(given.values(), whole=False)
            knee = goal.best([t for t in shown if self._meets(given[t.id])]) or goal.best(shown)
            return given[knee.id] if knee is not None else None
        trials = self.satisfying(trials)
        estimates = self.expected(trials)
        if not estimates:
            return self._highest(trials)
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

    def _highest(self, complete: list[Trial]) -> Trial | None:
        """Give the one with the best value of its own; of equals, the earliest."""
        values = [t.values[self.metric] for t in complete if self.metric in t.values]
        if not values:
            return None
        top = max(values) if self.direction == "maximize" else min(values)
        return min((t for t in complete if t.values.get(self.metric) == top), key=lambda t: t.id)

    def repeated_means(self, trials: Iterable[Trial]) -> dict[ConfigurationKey, float]:
        """Give the mean value of each configuration that a `repeat` ran again."""
        runs = self._repeated(list(trials))
        return {key: sum(t.values[self.metric] for t in same) / len(same) for key, same in runs.items()}

    def estimates(self, trials: Iterable[Trial]) -> dict[int, float]:
        """Give that mean by the ids of the trials that ran such a configuration."""
        runs = self._repeated(list(trials))
        return {t.id: sum(s.values[self.metric] for s in same) / len(same) for same in runs.values() for t in same}

    def expected(self, trials: Iterable[Trial]) -> dict[int, float]:
        """Give the estimated means of the complete trials' configurations, by id.

        A single run is drawn towards what the others say, by as much as repeats have shown noise (`shrinkage`): a
        challenger is not the best one before it has stood a second run. Without noise they are the runs' means; where
        nothing was repeated there is none.
        """
        trials = list(trials)
        runs = self._repeated(trials)
        noise = self._noise(runs)
        if noise is None or not noise.sd:
            return self.estimates(trials)
        sign = -1.0 if self.direction == "maximize" else 1.0
        counts = {t.id: len(same) for same in runs.values() for t in same}
        losses = {t.id: sign * value for t in trials if (value := self.value(t)) is not None}
        means = {t.id: sum(losses[s.id] for s in same) / len(same) for same in runs.values() for t in same}
        single = [loss for number, loss in losses.items() if number not in counts]
        prior = Prior.of([*single, *(means[same[0].id] for same in runs.values())], noise.sd)
        return {i: sign * prior.estimate(means.get(i, loss), counts.get(i, 1)) for i, loss in losses.items()}

    def noise(self, trials: Iterable[Trial]) -> Pooled | None:
        """Give the SD within the configurations that a `repeat` ran again; `None` where none was."""
        return self._noise(self._repeated(list(trials)))

    def _noise(self, runs: Mapping[ConfigurationKey, Sequence[Trial]]) -> Pooled | None:
        return pooled([t.values[self.metric] for t in same] for same in runs.values())

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
        """Give the complete trials, best first; of equals, the earliest first. With several objectives the front leads.

        Those that break an outcome constraint stand behind the others, the least broken first (Deb 2000).
        """
        sign = -1.0 if self.direction == "maximize" else 1.0
        trials = list(trials)
        if self.several:
            given = {t.id: t for t in trials}
            goal, shown = self.merged(trials)
            return [given[t.id] for t in goal.ranked(shown)]
        if not self.constraints and self.merges is None:  # the usual case, of all trials at each decision
            metric, complete = self.metric, TrialState.COMPLETE
            plain = [(sign * t.values[metric], t.id, t) for t in trials if t.state is complete and metric in t.values]
            return [t for *_, t in sorted(plain, key=itemgetter(0, 1))]
        broken = self._broken(trials) if self.constraints else {}
        done = [
            (broken.get(t.id, 0.0), -t.values.get(_ON_FRONT, 0.0) * (self.merges is not None), sign * value, t.id, t)
            for t in trials
            if (value := self.value(t)) is not None
        ]
        return [t for *_, t in sorted(done, key=itemgetter(0, 1, 2, 3))]

    def leading(self, trials: Iterable[Trial]) -> list[Trial]:
        """Give the best fifth of the complete trials; with several objectives the whole front at least."""
        ranked = self.ranked(trials)
        members = sum(t.values.get(_ON_FRONT, 0.0) > 0 for t in ranked) if self.merges is not None else 0
        return ranked[: max(-(-len(ranked) // 5), members)]

    def _broken(self, trials: list[Trial]) -> dict[int, float]:
        """Give by how much each complete trial breaks the constraints, each as a part of the most that it is broken."""
        margins = {t.id: self.violations(t) for t in trials if t.state is TrialState.COMPLETE}
        known = [m for m in margins.values() if m is not None]
        most = [max((m for m in column if 0 < m < math.inf), default=1.0) for column in zip(*known, strict=True)]
        return {
            number: math.inf if found is None else sum(m / by for m, by in zip(found, most, strict=True) if m > 0)
            for number, found in margins.items()
        }


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

    def to_json(self) -> JsonObject:
        """Give it as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> EarlierStudy:
        """Rebuild it from `to_json`."""
        lists: JsonObject = {name: tuple(data[name]) for name in ("params", "losses")}  # type: ignore[arg-type]
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
    """What a person changed of a study, beside its space: its description, or the code of its objective."""

    kind: Literal["described", "code"]
    told: str
    """What was changed, in words; empty for the code that the study began with."""
    by: str
    """Who changed it, as the machine names them."""
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
    kind: Literal["study", "trial", "decision", "revision", "change", "final"]
    key: str
    """Unique in the study: `study`, `trial/12/1` (number and attempt), `decision/3`, `revision/1`, `change/1`, `final`,
    and `final/2` where the study had ended before."""
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


def configuration_key(params: Params) -> ConfigurationKey:
    """Give a hashable identity of a configuration; `True`, `1` and `1.0` differ only where their kinds do."""
    return tuple(sorted((name, repr(value)) for name, value in params.items()))


def is_number(value: object) -> bool:
    """Say whether `value` is an int or float that is finite, also as a float, and not a bool."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
