"""The contracts between the parts, on one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from agentic_hpt.errors import FailureKind
from agentic_hpt.fidelity import Halving
from agentic_hpt.past import Memory, Past
from agentic_hpt.records import (
    Assignment,
    Budget,
    Change,
    DecisionRecord,
    FinalReport,
    Goal,
    Insights,
    Job,
    JsonObject,
    LostAttempt,
    ModelCall,
    Note,
    OutboxEntry,
    Outcome,
    Params,
    Proposal,
    Report,
    Stop,
    Trial,
    Usage,
    Wanted,
    WorkerKind,
    configuration_key,
)
from agentic_hpt.space import SearchSpace
from agentic_hpt.steering import Steering


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a coordinator and a strategy may know when they decide and plan, after `round` (0: before the first)."""

    study: str
    round: int
    goal: Goal
    space: SearchSpace
    budget: Budget
    usage: Usage
    slots: int
    round_trials: int
    trials: tuple[Trial, ...]
    """The study's trials, in order of their ids; imported ones among them, final ones not."""
    decisions: tuple[DecisionRecord, ...] = ()
    source: Literal["mlflow", "ledger"] = "ledger"
    exhausted: bool = False
    """Whether nothing new is left to try."""
    description: str = ""
    job: JsonObject = field(default_factory=dict)
    """What is known of the job before it runs: how large its data and its model are, say."""
    strategy: str = "per_parameter"
    """The strategy's name; with `auto` the coordinator says which workers there are."""
    running: tuple[Trial, ...] = ()
    """Trials under way (of the next round), with what they have reported so far."""
    insights: Insights = field(default_factory=Insights)
    """Handed in by the strategy, so that a coordinator needs no sampler's library."""
    notes: tuple[Note, ...] = ()
    """The person's notes, all of them; those that no decision lists were not seen yet."""
    initial: tuple[Params, ...] = ()
    """Whole configurations that somebody gave to run first, behind the default."""

    def __post_init__(self) -> None:
        """See several objectives as one, with a figure a trial: whoever decides compares trials; see `Goal.merged`."""
        if self.goal.several:
            goal, trials = self.goal.merged(self.trials)
            object.__setattr__(self, "goal", goal)
            object.__setattr__(self, "trials", trials)

    halving: Halving | None = None
    """Set where trials stopped at a rung may go on later."""
    stop: Stop | None = None
    """Set where the search ends when going on is not worth it."""
    memory: Memory = field(default_factory=Memory, compare=False, repr=False)
    """What the trials said before: handed on from one decision to the next."""

    @property
    def past(self) -> Past:
        """What the finished trials say that several ask for."""
        return self.memory.of(self.goal, self.trials)

    @property
    def steering(self) -> Steering:
        """What the decisions so far have made of the search."""
        return self.memory.steering(self.decisions)

    def best_inside(self) -> Trial | None:
        """Give the best complete trial that lies in the space and inside all limits."""
        limited = self.steering
        held = [t for t in self.trials if limited.holds(t.params)] if limited.limits else self.trials
        best = self.goal.best(held)
        if best is None or self.space.contains(best.params):
            return best
        return self.goal.best(t for t in held if self.space.contains(t.params))

    @property
    def waiting(self) -> tuple[Params, ...]:
        """Those of the given configurations that did not run in this round or before: where a round is too short."""
        tried = {configuration_key(t.params) for t in self.trials if t.round <= self.round} if self.initial else set()
        return tuple(params for params in self.initial if configuration_key(params) not in tried)


class TrialHandle(Protocol):
    """What an objective sees of its trial."""

    id: int
    params: Params
    seed: int
    """Differs for each trial; derived from the study's seed."""
    worker: str
    artifact_dir: Path
    """The trial's own folder; what is left there stays."""
    checkpoint_dir: Path
    """Kept across a retry of the same trial, and handed to the trial that goes on from this one when it was stopped."""

    def report(self, metrics: Mapping[str, float] | float, step: int) -> None:
        """Report intermediate metrics at `step` (0, 1, ...). Raises `Pruned` when the trial should stop."""


class Objective(Protocol):
    """What is run. Must pickle, and work in a fresh process."""

    @property
    def has_holdout(self) -> bool:
        """Whether `holdout` can be called."""

    def preload(self) -> tuple[str, ...]:
        """Name the modules worth importing once before trial processes are forked."""

    def facts(self, params: Params) -> JsonObject:
        """Give what is known of the job before it runs: data set, rows, features, classes, say; empty when nothing is.

        What depends on a configuration is said for `params`, the default one. Must be quick, and import nothing heavy.
        """

    def run(self, params: Params, trial: TrialHandle) -> object:
        """Run the trial and give its metrics: a mapping, or the one metric's number."""

    def holdout(self, params: Params, trial: TrialHandle) -> object:
        """Train the final model, leave it in `trial.artifact_dir`, give its score on data that no trial saw."""


class Batch(Protocol):
    """What a batch objective sees of the trials it evaluates together; a trial is known by its id."""

    @property
    def trials(self) -> Sequence[TrialHandle]:
        """Give the trials, all of them, in order of their ids; their own `report` is not for use here."""

    def report(self, metrics: Mapping[int, Mapping[str, float]], step: int) -> frozenset[int]:
        """Report metrics of many trials at `step` at once; give the ids of those that end here, told already.

        They are those that should stop, and those whose metric is no finite number: that is their failure alone.
        """

    def complete(self, trial: int, answer: object) -> None:
        """Give a trial's metrics, as `Objective.run` would: a mapping, or the one metric's number."""

    def fail(self, trial: int, kind: FailureKind, message: str) -> None:
        """Say that a trial failed, and why; the others go on."""

    def remark(self, text: str) -> None:
        """Say how trials are evaluated where that isn't what a person would think; a study tells and keeps it once."""


class BatchObjective(Objective, Protocol):
    """An objective that can also evaluate many trials together, with the figures each would have alone."""

    def groups(self, params: Sequence[Params]) -> list[list[int]]:
        """Divide configurations into lists to evaluate together, each position in one of them.

        Those of a list fit into the device's memory, as far as is known. Called where trials run.
        """

    def run_batch(self, batch: Batch) -> None:
        """Evaluate one such list; each trial is completed, failed, or ended by `Batch.report`.

        What it raises is the failure of those not told yet; when that is a lack of memory, they are tried again in two
        halves.
        """


class Executor(Protocol):
    """Where trials run."""

    slots: int
    """How many trials may run at once; the caller keeps to it."""

    async def start(self) -> None:
        """Get ready; may take seconds."""

    async def run(self, job: Job, on_report: Callable[[Report], bool]) -> Outcome:
        """Run one attempt to its end. Never raises for what the objective does: that is a failed outcome.

        `on_report` is called in the event loop's thread for each report; `True` means: stop the trial early.
        When the calling task is cancelled the trial is killed, with all processes it started, before this returns.
        """

    async def close(self) -> None:
        """Kill what still runs and free everything."""


class Strategy(Protocol):
    """Who proposes. Calls of one study come from one thread."""

    def plan(self, situation: Situation, decision: DecisionRecord | None) -> list[Assignment]:
        """Turn the last decision into the next round's assignments; empty when nothing new is left to try."""

    def propose(self, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        """Give the next configuration, or `None` when the assignment's subspace holds nothing new.

        `trials` are all of the study's, running ones included. Same arguments, same answer.
        """

    def propose_many(self, assignment: Assignment, trials: Sequence[Trial], seeds: Sequence[int]) -> list[Proposal]:
        """Give a configuration for each seed, no two alike; fewer when the subspace holds nothing new beyond them.

        They are to run together: each is chosen knowing the others. With one seed it is what `propose` gives.
        """

    def bridge(self, situation: Situation) -> Assignment | None:
        """Give the worker that keeps free slots busy while stragglers finish or a coordinator thinks.

        It has the kind and the name `bridge`, belongs to the round after `situation.round`, and works under the last
        decision; its `trials` are the most that it may run. `None` when nothing new is left to try.
        """

    def insights(self, trials: Sequence[Trial]) -> Insights:
        """Say which parameters matter and which interact. Same trials, same answer."""


class Pruner(Protocol):
    """A rule that says when a running trial looks poor; whether it stops then, `EarlyStopping` says."""

    def hear(self, trial: int, report: Report) -> None:
        """Take a report in that `should_stop` is asked about later, when those of the trial's rivals are known too."""

    def should_stop(self, trial: int, report: Report) -> bool:
        """Take a report in, and say whether the trial looks too poor to go on."""

    def ended(self, trial: int, complete: bool, allowed: bool = True) -> None:
        """Learn that a trial ended; only complete trials that are `allowed` become a measure for others."""


class EarlyStopping(Protocol):
    """Says when a running trial stops early, whoever wants it stopped. Calls of one study come from one thread."""

    def began(self, trial: Trial) -> None:
        """Learn that an attempt of a trial begins."""

    def hear(self, trial: int, report: Report) -> None:
        """Take in a report that `should_stop` is asked about later: of trials that report together, all come first."""

    def should_stop(self, trial: int, report: Report, asked: bool = False) -> bool:
        """Take a report in, and say whether the trial stops; `asked` says that a decision wants it stopped."""

    def ended(self, trial: int, complete: bool, allowed: bool = True) -> None:
        """Learn that a trial ended; one that breaks an outcome constraint is not `allowed`."""


class Coordinator(Protocol):
    """Who decides after a round."""

    kind: Literal["rules", "llm"]
    model: str | None

    async def decide(self, situation: Situation) -> DecisionRecord:
        """Give the next decision, guards applied. Never raises for what a model does."""


class Ledger(Protocol):
    """One study's records: the truth, and the only writer of trials. Blocking; one thread calls it."""

    uid: str
    """Unique among all studies ever, also of the same name."""

    def trials(self) -> Sequence[Trial]:
        """Give the study's trials in order of their ids, imported ones included, final ones not."""

    def trial(self, number: int) -> Trial:
        """Give one trial, final ones too."""

    def of_assignment(self, round_: int, kind: WorkerKind, worker: str) -> list[Trial]:
        """Give the trials reserved for one assignment, in order.

        A per-parameter worker has its parameter's name, which may be any: so the kind is part of the key.
        """

    def reserve(
        self,
        *,
        round_: int,
        worker: str,
        kind: WorkerKind,
        params: Params,
        tuned: Sequence[str],
        seed: int | None = None,
        begin: bool = False,
        revision: int = 0,
        continues: int | None = None,
    ) -> Trial | None:
        """Reserve the next trial; `None` when the trial budget is used up (final trials are not counted).

        With `begin` its first attempt is opened in the same transaction. `continues` is the stopped trial that it goes
        on from.
        """

    def reserve_many(
        self, wanted: Sequence[Wanted], *, round_: int, worker: str, kind: WorkerKind, revision: int = 0
    ) -> list[Trial]:
        """Reserve trials and open their first attempts in one transaction; as many as the trial budget has left."""

    def start(self, number: int) -> Trial:
        """Open a new attempt of a reserved trial and give the trial with its attempt number."""

    def lose(self, number: int, attempt: int, message: str, *, reports: tuple[Report, ...] = ()) -> int:
        """Close an attempt whose worker was lost, and why; the trial stays open for another one.

        `reports` are the trial's so far. Gives how many of its attempts were lost so. Raises `LedgerError` like
        `finish`.
        """

    def lost_attempts(self, number: int | None = None) -> list[LostAttempt]:
        """Give the attempts of a trial, or of all, that were lost with their workers."""

    def lost_reports(self, number: int) -> tuple[Report, ...]:
        """Give what an open trial had reported when its worker was last lost."""

    def finish(self, number: int, attempt: int, outcome: Outcome) -> Trial:
        """Close a trial with its reports and its outbox entry in one transaction.

        Raises `LedgerError` when the trial is finished already or `attempt` is not its newest.
        """

    def finish_many(self, ends: Sequence[tuple[int, int, Outcome]]) -> list[Trial]:
        """Close trials (number, attempt, outcome) as `finish` does, in one transaction: all of them or none."""

    def usage(self) -> Usage:
        """Give what has been used of the budget."""

    def add_seconds(self, seconds: float) -> None:
        """Add running time to what has been used."""

    def decision(self, round_: int) -> DecisionRecord | None:
        """Give the decision taken after a round, if there is one."""

    def decisions(self) -> list[DecisionRecord]:
        """Give all decisions, in order."""

    def record_decision(self, decision: DecisionRecord) -> None:
        """Keep a decision; a second one for the same round is refused with `LedgerError`."""

    def record_evidence(self, round_: int, shown: JsonObject) -> None:
        """Keep what the decision after a round rests on; what was kept before, when no decision came of it, goes."""

    def evidence(self, round_: int) -> JsonObject | None:
        """Give what the decision after a round rests on; `None` where none was kept."""

    def record_call(self, call: ModelCall) -> None:
        """Keep a call of the model; its verdicts are put in by `record_decision` of the same round."""

    def notes(self) -> list[Note]:
        """Give the person's notes, also those that another process left a moment ago."""

    def changes(self) -> list[Change]:
        """Give what was changed of the study beside its space, and what its objective remarked, in order."""

    def record_change(self, change: Change, config: JsonObject | None = None) -> None:
        """Keep a change, and the description that is in force with it. The ledger must be opened anew after one."""

    def post_study(self, payload: JsonObject) -> None:
        """Put the study's description into the outbox, once."""

    def final(self) -> FinalReport | None:
        """Give the final figures, once there are any."""

    def record_final(self, report: FinalReport, payload: JsonObject, best: Sequence[Trial] = ()) -> None:
        """Keep the final figures and put `payload` into the outbox; before it `best`, unless MLflow knows them."""

    def unsent(self, round_: int | None = None) -> int:
        """Count outbox entries that MLflow has not got yet, of one round or of all."""


class Outbox(Protocol):
    """What MLflow must still be told, in order. Its reader is the process that writes to MLflow."""

    def pending(self, limit: int) -> list[OutboxEntry]:
        """Give the oldest entries not sent yet."""

    def claim(self, entries: Sequence[OutboxEntry]) -> None:
        """Note that these are about to be sent: after a crash they may have been."""

    def sent(self, refs: Mapping[int, str]) -> None:
        """Note that entries were sent: their ids, with the MLflow run's id for each."""


class Tracker(Protocol):
    """MLflow, as the driver sees it. Writing happens behind, from the outbox."""

    async def start(self) -> None:
        """Begin to write behind; does not wait."""

    async def read_round(self, round_: int, expected: int, wait: float) -> list[Trial]:
        """Read a round's trials back, once `expected` of them are there. Raises `TrackerAway` after `wait` seconds."""

    async def drain(self, wait: float) -> int:
        """Wait until everything is written, at most `wait` seconds; give how many entries are left."""

    async def info(self) -> JsonObject:
        """Give `tracking_uri` (secrets masked), `experiment` and `run_id` (`None` while unknown)."""

    async def close(self) -> None:
        """Write what can be written shortly, and stop."""
