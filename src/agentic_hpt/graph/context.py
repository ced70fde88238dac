"""The live parts of one study that the nodes work with. Nothing of this enters the graph's state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar, cast

from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import LedgerError, SameFailure
from agentic_hpt.graph.slots import Slots
from agentic_hpt.past import Memory
from agentic_hpt.protocols import Coordinator, EarlyStopping, Executor, Ledger, Objective, Situation, Strategy, Tracker
from agentic_hpt.records import (
    Assignment,
    DecisionRecord,
    FinalReport,
    Insights,
    Job,
    JsonObject,
    Outcome,
    Params,
    Report,
    Trial,
    WorkerKind,
)
from agentic_hpt.space import SearchSpace

P = ParamSpec("P")
T = TypeVar("T")

_TICK_SECONDS = 5.0


Emit = Callable[[JsonObject], None]
"""Tells whoever watches what happens; the events are listed in `docs/architecture.md`."""

OutputWriter = Callable[[Sequence[Trial], Sequence[DecisionRecord], FinalReport], list[Path]]
"""Draws the figures and writes the report of a study; gives the files' paths."""


def stopped_trials(decisions: Iterable[DecisionRecord]) -> set[int]:
    """Give the trials that decisions end."""
    actions = (action for decision in decisions for action in decision.actions)
    return {cast(int, a.detail["trial"]) for a in actions if a.type == "stop_trial" and a.verdict != "refused"}


@dataclass
class Bridging:
    """Where the bridge stands, which keeps free slots busy; see `graph.bridging`."""

    launching: dict[tuple[int, WorkerKind, str], int] = field(default_factory=dict)
    """The round's workers that have not started all their trials yet, and how many they have left."""
    given_started: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared while configurations given to run first wait to be started: nothing else is, until then."""
    live: dict[int, asyncio.Task[Trial]] = field(default_factory=dict)
    """Trials that the bridge started, until a worker has joined them."""
    task: asyncio.Task[None] | None = None
    """Starts trials while slots are free."""
    step: asyncio.Task[bool] | None = None
    """Starts the one that is being started; never cancelled half-way."""
    assignment: Assignment | None = None
    kept: int = 0
    """Trials of the budget that it leaves alone."""
    bounded: bool = False
    """Whether it has one round's trials at most. While stragglers finish it goes on as long as they do: a cluster would
    stand idle else."""
    trouble: BaseException | None = None
    """What ends the study: the ledger failed, or the objective was refused."""
    troubled: asyncio.Event = field(default_factory=asyncio.Event)

    def end_study(self, error: BaseException) -> None:
        """Note what ends the study; whoever waits for an answer, or drives the graph, raises it."""
        self.trouble = self.trouble or error
        self.troubled.set()


@dataclass(frozen=True)
class Ending:
    """A trial whose outcome the ledger has still to be told."""

    trial: Trial
    outcome: Outcome
    search: bool
    told: asyncio.Future[tuple[Trial, SameFailure | None]]
    """The trial as it was told, and why the study stops with it, if it does."""


@dataclass
class Telling:
    """What waits to be told; see `graph.telling`."""

    waiting: list[Ending] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    """Tells what waits."""


@dataclass
class StudyParts:
    """Everything one running study is made of.

    `brain` is the one thread in which the ledger is used and strategies think: no lock is needed, and the event loop
    stays free. `slots` bounds the trials that run at once.
    """

    name: str
    config: StudyConfig
    space: SearchSpace
    ledger: Ledger
    strategy: Strategy
    pruner: EarlyStopping
    executor: Executor
    coordinator: Coordinator
    tracker: Tracker
    objective: Objective
    artifacts: Path
    write_outputs: OutputWriter
    finished: Callable[[FinalReport | None], None]
    """Called in the brain thread when the loop has ended; without figures, no trial was complete."""
    facts: JsonObject = field(default_factory=dict)
    """What is known of the job: by the objective, and by the study's description."""
    initial: tuple[Params, ...] = ()
    """The configurations that run first, behind the default."""
    remarks: tuple[str, ...] = ()
    """What is told when the study begins."""
    begins: int = 0
    """The round behind which the study begins: 0, or the last one under a space that was revised since."""
    refitted: int = 0
    """Trials with smaller ids ran under such a space."""
    revised: int = 0
    """How often the space was revised."""
    reopened: int = 0
    """How often the study went on after its end."""
    goes_on: int = 0
    """The round after which it last did; 0 when it never did."""
    ended_with: FinalReport | None = None
    """The figures of its last end before that."""
    model_loader: str | None = None
    """The module whose `load_model` reads a saved model back, if the objective leaves one."""
    mirror: Callable[[Sequence[Trial]], int] | None = None
    """Copies finished trials to an Optuna storage; gives how many were new."""
    brain: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="hpt-brain"))
    slots: Slots = field(init=False)
    together: bool = False
    """Whether the executor runs trials that start together as one, so that slots are best filled all at once."""
    runs: dict[int, Trial] = field(default_factory=dict)
    """The trials as read back from the tracker."""
    rounds_read: set[int] = field(default_factory=set)
    memory: Memory = field(default_factory=Memory)
    """What the trials said at the last decision."""
    best: Trial | None = None
    """The search's best trial so far, for the live view."""
    described: bool = False
    """Whether the study's description was put into the outbox."""
    failed_rounds: int = 0
    """Rounds in a row, up to now and in this process, in which every worker failed."""
    replaying: bool = False
    """Whether the decisions are those of another study's ledger: its bridges are repeated, nobody is asked."""
    running: dict[int, tuple[Trial, list[Report]]] = field(default_factory=dict)
    """Trials of the search under way in this process, with what they have reported."""
    stopping: set[int] = field(default_factory=set)
    """Trials that a decision ends: they stop at their next report."""
    bridging: Bridging = field(default_factory=Bridging)
    telling: Telling = field(default_factory=Telling)
    shown: dict[int, JsonObject] = field(default_factory=dict)
    """By round, the evidence of the question that a person was last asked."""
    remarked: set[str] = field(default_factory=set)
    """What the objective has said of how it runs trials."""
    turned_down: dict[int, list[str]] = field(default_factory=dict)
    """By round, what was wrong with the answers so far: one that was turned down stays so, whatever ran since."""
    listener: Emit | None = None
    """Of whoever drives the graph and hears its events; none where a server does."""
    emit: Emit = lambda event: None
    """Tells what happens outside of any node: to the listener, else on the stream of the node that began last."""
    closing: bool = False
    """Whether trials end because everything does: then their ends are not told, so that they run again on resume."""
    executor_ready: asyncio.Task[None] | None = None
    ticker: asyncio.Task[None] | None = None
    clock: float = field(default_factory=time.monotonic)
    """When running time was last added to what is used."""

    def __post_init__(self) -> None:
        self.slots = Slots(self.executor.slots)
        self.bridging.given_started.set()

    async def think(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work of the ledger or a strategy in the brain thread."""
        return await asyncio.get_running_loop().run_in_executor(self.brain, lambda: call(*args, **kwargs))

    async def think_through(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Think to the end, also when whoever waits for it is cancelled: what was told must reach the ledger."""
        thinking = asyncio.ensure_future(self.think(call, *args, **kwargs))
        thinking.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may be left to see it
        return await asyncio.shield(thinking)

    def tick(self) -> None:
        """Add the running time since the last call to what is used. For the brain thread."""
        now = time.monotonic()
        self.ledger.add_seconds(now - self.clock)
        self.clock = now

    def unticked(self) -> float:
        """Give the seconds of running time that are not added yet."""
        return time.monotonic() - self.clock

    def seconds_left(self) -> float | None:
        """Give the seconds of the time budget that are left; `None` when there is no such budget."""
        minutes = self.config.limits_of_study.minutes
        if minutes is None:
            return None
        return minutes * 60 - self.ledger.usage().seconds - self.unticked()

    @property
    def thread(self) -> str:
        """The name of the graph's own state; a revision of the space begins a new one, and so does going on."""
        number = self.revised + self.reopened
        return f"{self.ledger.uid}-{number}" if number else self.ledger.uid

    @property
    def asks(self) -> bool:
        """Whether a model or a person decides, so that there is a decision before the first round too."""
        return self.coordinator.kind == "llm" or (self.config.coordinator.approve and not self.replaying)

    def under_way(self) -> tuple[Trial, ...]:
        """Give the trials of the search that run, with what they have reported so far."""
        return tuple(replace(trial, reports=tuple(reports)) for _, (trial, reports) in sorted(self.running.items()))

    def situation(
        self, round_: int, trials: Sequence[Trial], *, deciding: bool = False, running: tuple[Trial, ...] = ()
    ) -> Situation:
        """Give what coordinator and strategy may know after a round. For the brain thread.

        Insights cost time: they are worked out for a decision, and only when somebody looks at them.
        """
        stop = self.config.stop_rule
        looked_at = deciding and (self.asks or self.config.strategy == "auto" or stop is not None)
        return Situation(
            study=self.name,
            round=round_,
            goal=self.config.goal,
            space=self.space,
            budget=self.config.limits_of_study,
            usage=self.ledger.usage(),
            slots=self.executor.slots,
            round_trials=self.config.round_trials,
            trials=tuple(trials),
            decisions=tuple(d for d in self.ledger.decisions() if d.round >= self.begins),
            description=self.config.description,
            job=self.facts,
            strategy=self.config.strategy,
            running=running,
            insights=self.strategy.insights(trials) if looked_at else Insights(),
            notes=tuple(self.ledger.notes()) if deciding else (),
            halving=self.config.halving,
            initial=self.initial,
            stop=stop,
            memory=self.memory if deciding else Memory(),  # planning goes on in another thread
        )

    def job(self, trial: Trial, *, final: bool = False) -> Job:
        """Give what the executor needs to run a trial's newest attempt."""
        folder = self.artifacts / "trials" / f"{trial.id:05d}"
        first = trial
        while first.continues is not None:  # the one whose checkpoint it is
            first = self.ledger.trial(first.continues)
        return Job(
            study=self.name,
            trial=trial.id,
            attempt=trial.attempt,
            params=trial.params,
            seed=trial.seed,
            worker=trial.worker,
            artifact_dir=str(folder),
            checkpoint_dir=str(self.artifacts / "trials" / f"{first.id:05d}" / "checkpoint"),
            final=final,
            limits=self.config.limits_of_trial,
            lease=self.config.failures.lease_seconds,
            objectives=tuple(o.metric for o in self.config.goal.others),
            measured=self.config.measured,
        )

    async def start(self) -> None:
        """Start what takes time to get ready: the MLflow writer, and the executor in the background."""
        await self.tracker.start()
        self.executor_ready = asyncio.create_task(self.executor.start())
        self.ticker = asyncio.create_task(self._tick_on())

    async def _tick_on(self) -> None:
        """Keep the running time in the ledger, so that a kill forgets no more than some seconds of it."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            try:
                await self.think(self.tick)
            except LedgerError as error:  # the study was taken over, say: long trials must not go on
                self.bridging.end_study(error)
                return

    async def ready(self) -> None:
        """Wait until the executor can run trials, so that no attempt is opened before."""
        if self.executor_ready is not None:
            await asyncio.shield(self.executor_ready)

    async def close(self) -> None:
        """Stop everything: trials first, then what is left to write. Goes through to the end whatever fails."""
        self.closing = True
        for task in (self.executor_ready, self.ticker):
            if task is not None and not task.done():
                task.cancel()
        bridge = self.bridging
        held: list[asyncio.Task[object] | None] = [*bridge.live.values(), bridge.task, bridge.step]
        ending = [started for started in held if started is not None]
        for started in ending:
            started.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        try:
            await self.executor.close()
        finally:
            if self.telling.task is not None:  # what has ended is told
                await self.telling.task
            try:
                with suppress(LedgerError):  # where the ledger fails, the first error was told already
                    await self.think(self.tick)
                await self.tracker.close()
            finally:
                self.brain.shutdown(wait=True)


class PartsOf(Protocol):
    """Gives a study's live parts for a node's input."""

    def __call__(self, state: Mapping[str, object]) -> Awaitable[StudyParts]:
        """Open them (the input holds the fields of a study), or give those of the `uid` in the input."""
