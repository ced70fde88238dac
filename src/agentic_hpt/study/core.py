"""One study in a home: making it, changing it, running it, asking and telling."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from agentic_hpt.config import Settings, StudyConfig, mask_secrets
from agentic_hpt.errors import ConfigError, SameFailure, StudyNotFound
from agentic_hpt.records import FinalReport, JsonObject, Trial
from agentic_hpt.study.asking import Asking
from agentic_hpt.study.driving import Stopping, run_coroutine
from agentic_hpt.study.holding import LAST_WRITES_SECONDS, HeldStudy, made_elsewhere
from agentic_hpt.study.looping import Approver, NobodyAnswers, check_approver
from agentic_hpt.study.result import Result

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from agentic_hpt.graph.context import StudyParts
    from agentic_hpt.ledger import LedgerStore, StudyLedger, StudyRow
    from agentic_hpt.protocols import Objective, Situation
    from agentic_hpt.refitting import Revision
    from agentic_hpt.space import SearchSpace

Listener = Callable[[JsonObject], None]
_AWAY_SECONDS = 3.0
_AWAY = "MLflow is away: {} entries wait; `hpt resume` writes them"
_TRACES_SECONDS = 5.0


class Study(HeldStudy):
    """One study in a home. Reading takes no lock; running, asking and telling hold it, and refuse a second holder.

    Open it with `Study.open`, make it with `Study.create`. Usable as a context manager.
    """

    def __init__(self, settings: Settings, store: LedgerStore, row: StudyRow) -> None:
        super().__init__(settings, store, row)
        self._asking: Asking | None = None

    @classmethod
    def create(
        cls,
        config: StudyConfig,
        *,
        home: str | Path | None = None,
        fresh: bool = False,
        replays: Study | None = None,
    ) -> Study:
        """Make a study. Raises `StudyExists` when the name is taken, unless `fresh`: then the old one is archived.

        One that `replays` another takes that one's decisions, and its imported trials, from the ledger they share.
        """
        from agentic_hpt import wiring
        from agentic_hpt.ledger import LedgerStore

        settings = Settings.load(home)
        wiring.check_coordinator(config.coordinator)
        config = wiring.with_slots(config)
        elsewhere = made_elsewhere(config, settings, replays)
        settings.create()
        store = LedgerStore(settings.ledger_url)
        if fresh:
            try:
                old = cls(settings, store, store.find(config.study))
            except StudyNotFound:
                pass
            else:
                with old:
                    old._acquire()
                    store.archive(config.study)
        row = store.create_study(config.study, config.to_json(), replays=replays.uid if replays is not None else None)
        study = cls(settings, store, row)
        study._made_here = True
        if any(elsewhere):
            study._acquire()
            try:
                study._fill(*elsewhere)
            finally:
                study._release()
        return study

    # -- changing -------------------------------------------------------------------------------------------------

    def revise(self, space: SearchSpace | Mapping[str, object], constraints: Sequence[str] | None = None) -> Revision:
        """Change the search space of a study that is not running; `run` then goes on in the new one.

        A parameter that is added is taken to have been at its default so far, one that is removed stays at its own.
        Trials that the new space holds are of use in it, all others stay in the ledger. What limited the search is
        lifted, and trials that had not ended are given up. `constraints` replace the study's; without them these stay.
        Raises `ConfigError` for an impossible change and when the study has ended, `StudyBusy` while it runs.
        """
        from agentic_hpt.study.revising import revision_of

        if self._ended():
            raise ConfigError(
                f"study {self.name!r} has ended",
                "give it more budget as well (--trials +N), or make another study, with this one under `transfer`",
            )
        if self._asking is not None:
            raise ConfigError(f"study {self.name!r} is being asked", "close it first")
        changed = self.in_space(space, constraints)
        self._acquire()
        try:
            ledger = self._ledger()
            made = revision_of(self.config, changed, ledger)
            ledger.revise(made, changed.to_json())
        finally:
            self._release()
        self._row = self._store.by_uid(self._row.uid)
        self.config = changed
        return made

    def in_space(
        self, space: SearchSpace | Mapping[str, object], constraints: Sequence[str] | None = None
    ) -> StudyConfig:
        """Give the description that `revise` makes, and change nothing. Raises `ConfigError` as it does."""
        from agentic_hpt import wiring
        from agentic_hpt.study.revising import revised

        changed = revised(self.config, space, constraints)
        if changed.objective is not None:
            wiring.make_objective(changed)  # a task, or a program, may not know a new parameter
        return changed

    def extend(
        self,
        trials: int | str | None = None,
        minutes: float | str | None = None,
        target: float | None = None,
        described: StudyConfig | None = None,
    ) -> list[str]:
        """Give a study more budget, one that has ended too; `run` then goes on. Says what was changed.

        `trials` and `minutes` come on top; text is what `hpt resume` takes, `+50` or a new total. A description that
        was changed beside is `described`. Raises `ConfigError` where there would be nothing to go on for, `StudyBusy`
        while the study runs.
        """
        from agentic_hpt.study.describing import budgeted, ended_by

        more = {"trials": trials, "minutes": minutes}
        asked = {name: given if isinstance(given, str) else f"+{given}" for name, given in more.items() if given}
        ledger = self._ledger()
        ended = self._ended() or ended_by(ledger) is not None
        config = described or self.config
        return self.redescribe(budgeted(config, ledger.usage(), ended=ended, target=target, **asked))

    def redescribe(self, config: StudyConfig) -> list[str]:
        """Take over a changed description of a study that is not running; `run` then goes on with it.

        Says what was changed. A study that has ended goes on if the budget or the target lets it. Raises `ConfigError`
        for what can't change, with each reason, and for a budget below what is used up; `StudyBusy` while it runs.
        """
        from agentic_hpt import wiring
        from agentic_hpt.study import describing
        from agentic_hpt.study.revising import revision_of

        before = self.config
        if set(config.transfer) <= set(before.transfer):  # it was read when the study was made
            config = config.model_copy(update={"transfer": before.transfer})
        config = wiring.with_slots(describing.settled(before, config))
        told = describing.checked(before, config)
        other_space = before.space != config.space
        if not told and not other_space:
            return []
        if self._asking is not None:
            raise ConfigError(f"study {self.name!r} is being asked", "close it first")
        wiring.check_coordinator(config.coordinator)
        if config.objective is not None:
            wiring.make_objective(config)
        self._acquire()
        try:
            ledger = self._ledger()
            usage = ledger.usage()
            describing.check_budget(config, usage)
            ended_by = describing.ended_by(ledger)
            other_end = (before.budget, before.target) != (config.budget, config.target)
            other_end |= other_space and ended_by == "exhausted"
            other_end |= before.stop != config.stop and ended_by == "no_gain"
            reopens = self._ended() or (ended_by is not None and other_end)
            if reopens:
                describing.check_worth_it(before, config, ledger, ended_by)
            change = describing.change_of(ledger, "; ".join(told), reopens=reopens)
            if other_space:
                revision = revision_of(before, config, ledger)
                told = [*told, revision.told]
                ledger.revise(revision, config.to_json(), change if change.told or reopens else None)
            else:
                ledger.record_change(change, config.to_json())
                if reopens:
                    ledger.give_up("the study went on before it had ended", lambda trial: not trial.counted)
        finally:
            self._release()
        self._row = self._store.by_uid(self._row.uid)
        self.config = config
        return told

    # -- running --------------------------------------------------------------------------------------------------

    def run(
        self,
        *,
        objective: Objective | None = None,
        chat_model: BaseChatModel | None = None,
        seen: Callable[[Situation], Situation] | None = None,
        approver: Approver | None = None,
        listener: Listener | None = None,
    ) -> Result:
        """Run the study to its end, from wherever it stands, and give the result.

        Of a finished one it only writes to MLflow what is not there yet. `seen` may change what a model is shown.
        With `coordinator.approve` each decision is put to `approver`; when it raises `EOFError` the study stops.
        Ctrl-C and SIGTERM stop it cleanly: running trials are killed and run again on resume. Raises `StudyBusy` when
        another process runs it, `ConfigError` when the objective can't be had, `LedgerError` when the store fails.
        """
        if self._ended():
            if self.config.mlflow.enabled and self._ledger().unsent():
                self._acquire()
                try:
                    run_coroutine(self._write_behind())
                finally:
                    self._release()
                if listener is not None and (left := self._ledger().unsent()):
                    listener({"type": "notice", "text": _AWAY.format(left)})
            return self.result()
        if not self.replays:
            check_approver(self.config, approver)
        self._asking = None
        driving = self._drive(objective, chat_model, seen, listener or (lambda event: None), approver)
        try:
            outcome = run_coroutine(driving)
        finally:
            self._release()
        return self.result(interrupted=outcome == signal.SIGINT)

    def open_parts(
        self,
        finished: Callable[[FinalReport | None], None],
        *,
        objective: Objective | None = None,
        chat_model: BaseChatModel | None = None,
        seen: Callable[[Situation], Situation] | None = None,
    ) -> StudyParts:
        """Take hold of the study and put its live parts together, for a graph that somebody else drives."""
        from agentic_hpt import wiring

        objective = objective if objective is not None else wiring.make_objective(self.config)
        self._acquire()
        try:
            self._complete_making()
            self._note("running")
            self._ledger().give_up("the study was run before this was told", lambda trial: trial.kind == "ask")
            return wiring.open_parts(
                self.config,
                self._settings,
                self._store,
                self._row,
                objective,
                chat_model=chat_model,
                seen=seen,
                finished=finished,
                hold=self._lock.hold,
            )
        except Exception as error:
            self.settle(error)
            self._release()
            raise

    async def choose_executor(self, objective: Objective, told: Callable[[str], None]) -> None:
        """Settle `executor: auto` for a study without trials of its own, and keep what was chosen: it stays so."""
        from agentic_hpt import wiring
        from agentic_hpt.study.describing import change_of

        if self.config.executor != "auto" or self.replays:
            return
        if any(t.kind != "imported" for t in self._ledger().trials()):
            return
        said: list[str] = []

        def tell(text: str) -> None:
            said.append(text)
            told(text)

        self._acquire()
        try:
            chosen = await wiring.choose_executor(self.config, objective, tell)
            if chosen != self.config:
                ledger = self._ledger()
                ledger.record_change(change_of(ledger, said[-1]), chosen.to_json())
                self._row = self._store.by_uid(self._row.uid)
                self.config = chosen
        except (Exception, asyncio.CancelledError) as error:
            self.settle(error)
            self._release()
            raise

    async def _drive(
        self,
        objective: Objective | None,
        chat_model: BaseChatModel | None,
        seen: Callable[[Situation], Situation] | None,
        listener: Listener,
        approver: Approver | None,
    ) -> signal.Signals | None:
        """Run the graph; give the signal that stopped it, if one did."""
        from agentic_hpt import wiring

        def say(text: str) -> None:
            listener({"type": "notice", "text": text})

        objective = objective if objective is not None else wiring.make_objective(self.config)
        with Stopping(lambda: say("stopping: running trials are ended, the study can be resumed")) as stopping:
            try:
                await stopping.run(self.choose_executor(objective, say))
            except asyncio.CancelledError:
                if not stopping.received:
                    raise
                return stopping.received[0]
            parts = self.open_parts(self.record_end, objective=objective, chat_model=chat_model, seen=seen)
            if changed := self._note_code(parts.objective):
                say(changed)
            ended: BaseException | None = None
            try:
                await stopping.run(self._loop(parts, listener, approver))
            except NobodyAnswers:
                ended = asyncio.CancelledError()
                say("nobody answers: the study stops here, and can be resumed")
            except SameFailure as error:
                ended = error
                say(f"the study stops: {mask_secrets(str(error))}")
            except (Exception, asyncio.CancelledError) as error:
                ended = error
                if not stopping.received:
                    raise
            finally:
                try:
                    await parts.close()
                finally:
                    if ended is not None:
                        self.settle(ended)
        return stopping.received[0] if stopping.received else None

    async def _loop(self, parts: StudyParts, listener: Listener, approver: Approver | None) -> None:
        from agentic_hpt.graph import flush_traces
        from agentic_hpt.graph.bridging import unless_troubled
        from agentic_hpt.study.looping import run_graph, write_on

        budget = self.config.limits_of_study
        about: JsonObject = {
            "home": str(self._settings.home),
            "trials_budget": budget.trials,
            "minutes_budget": budget.minutes,
            "tracking_uri": self.tracking["tracking_uri"],
        }
        await unless_troubled(parts, run_graph(parts, self._settings.checkpoints, listener, approver, about))
        await asyncio.to_thread(flush_traces, _TRACES_SECONDS)
        decided = await parts.think(parts.ledger.decisions)
        away = self.config.mlflow.top is None and bool(decided) and decided[-1].source == "ledger"
        left = await write_on(parts, listener, _AWAY_SECONDS if away else LAST_WRITES_SECONDS)
        if left:
            listener({"type": "notice", "text": _AWAY.format(left)})

    # -- ask and tell -----------------------------------------------------------------------------------------------

    def ask(self) -> Trial:
        """Reserve the next trial and give it, for those who own their loop. Holds the study until `close`.

        Raises `ConfigError` when the budget is spent or the space holds nothing new.
        """
        return self._begin_asking().ask()

    def tell(
        self,
        trial: Trial | int,
        values: Mapping[str, float] | float | None,
        *,
        state: Literal["complete", "pruned", "failed"] = "complete",
        message: str = "",
    ) -> Trial:
        """Give the outcome of what `ask` gave, or of its id: the metrics, or the state it ended in.

        A second answer raises `LedgerError`.
        """
        number: object = trial.id if isinstance(trial, Trial) else trial
        if not isinstance(number, int) or isinstance(number, bool):
            raise ConfigError(f"tell: {trial!r} is no trial", "give what ask gave, or its id")
        return self._begin_asking().tell(number, values, state, message)

    def close(self) -> None:
        """Write what was told to MLflow, and let the study go."""
        try:
            if self._asking is not None:
                self._asking = None
                if not self._ended():
                    self._note("stopped", "user")
                run_coroutine(self._write_behind())
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin_asking(self) -> Asking:
        if self._asking is None:
            from agentic_hpt import wiring

            if self._ended():
                raise ConfigError(f"study {self.name!r} has ended", "make another study")
            self._acquire()
            self._complete_making()
            ledger = self._ledger()
            ledger.post_study(self._description())
            self._note("running")
            earlier = wiring.usable_earlier(self.config, ledger)
            first = wiring.first_configurations(self.config, earlier)
            self._asking = Asking(self.config, ledger, wiring.make_strategy(self.config, earlier), first)
        return self._asking

    # -- inside -----------------------------------------------------------------------------------------------------

    def _note_code(self, objective: Objective) -> str:
        """Keep what code the objective is; say so where it is not what it was."""
        from agentic_hpt import wiring
        from agentic_hpt.study.describing import change_of

        ledger, code = self._ledger(), wiring.code_of(self.config, objective)
        known = [change.code for change in ledger.changes() if change.code]
        if not code or known[-1:] == [code]:
            return ""
        told = "the objective's code was changed: trials before and after are compared all the same" if known else ""
        ledger.record_change(change_of(ledger, told, kind="code", code=code))
        return told

    def _ledger(self) -> StudyLedger:
        if self._asking is not None:
            return self._asking.ledger
        return super()._ledger()
