"""One study in a home, to look at: what it is, how it stands, and what it has found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from agentic_hpt.config import Settings, StudyConfig, check_study_name, is_postgres, mask_secrets, shown
from agentic_hpt.errors import ConfigError, NoLedger, StudyNotFound
from agentic_hpt.records import (
    Change,
    DecisionRecord,
    EarlierStudy,
    FinalReport,
    JsonObject,
    LostAttempt,
    ModelCall,
    Note,
    Trial,
    Usage,
    best_of,
)
from agentic_hpt.study.lock import StudyLock
from agentic_hpt.study.result import Result, Status

if TYPE_CHECKING:
    from agentic_hpt.coordinator.undo import Effect
    from agentic_hpt.ledger import LedgerStore, StudyLedger, StudyRow
    from agentic_hpt.refitting import Revision

MAX_NOTE = 2000


class StudyView:
    """What can be read of a study, by many at once and while it runs; a note may be left for it, too."""

    def __init__(self, settings: Settings, store: LedgerStore, row: StudyRow) -> None:
        self._settings = settings
        self._store = store
        self._row = row
        self.config = StudyConfig.from_mapping(row.config, where=f"study {row.name!r} in the ledger")
        self._lock = StudyLock(store, row, self.artifacts / ".lock", self.config.failures.lease_seconds)

    @classmethod
    def open(cls, name: str, home: str | Path | None = None) -> Self:
        """Open a study by name. Raises `StudyNotFound`; makes nothing."""
        from agentic_hpt.ledger import LedgerStore

        check_study_name(name)
        settings = Settings.load(home)
        try:
            store = LedgerStore(settings.ledger_url, create=False)
        except NoLedger:
            where = shown(settings.ledger_url) if is_postgres(settings.ledger_url) else settings.home
            raise StudyNotFound(
                f"no study named {name!r}: there is no ledger in {where}", "check --home and AGENTIC_HPT_LEDGER"
            ) from None
        return cls(settings, store, store.find(name))

    @classmethod
    def by_uid(cls, uid: str, home: str | Path | None = None) -> Self:
        """Open a study by its unique id. Raises `StudyNotFound`."""
        from agentic_hpt.ledger import LedgerStore

        settings = Settings.load(home)
        store = LedgerStore(settings.ledger_url, create=False)
        return cls(settings, store, store.by_uid(uid))

    @property
    def name(self) -> str:
        """The study's name."""
        return self._row.name

    @property
    def uid(self) -> str:
        """The study's unique id; no other study ever has it."""
        return self._row.uid

    @property
    def status(self) -> Status:
        """`running` while a process holds the study; one that was killed has `stopped`."""
        row = self._store.by_uid(self._row.uid)
        return "stopped" if row.status == "running" and not self._held() else row.status

    @property
    def replays(self) -> str | None:
        """The unique id of the study whose decisions this one repeats; `None` for one that decides for itself."""
        return self._store.replayed_by(self._row.uid)

    @property
    def artifacts(self) -> Path:
        """The folder of the study's files."""
        return self._settings.artifacts(self._row.folder)

    @property
    def tracking(self) -> JsonObject:
        """Where MLflow has the study: `tracking_uri` (secrets masked), `experiment`, `run_id` (once known)."""
        if not self.config.mlflow.enabled:
            return {"tracking_uri": None, "experiment": None, "run_id": None}
        return {
            "tracking_uri": shown(self._settings.resolve_tracking_uri(self.config.mlflow)),
            "experiment": self.config.mlflow.experiment or self._row.first_name,
            "run_id": self._ledger().run_id(),
        }

    @property
    def tracking_uri(self) -> str:
        """The tracking URI as a client needs it."""
        return self._settings.resolve_tracking_uri(self.config.mlflow)

    @property
    def final(self) -> FinalReport | None:
        """The final figures, once there are any."""
        return self._ledger().final()

    @property
    def usage(self) -> Usage:
        """What was used of the budget so far."""
        return self._ledger().usage()

    def trials(self) -> list[Trial]:
        """Give the study's trials in order of their ids."""
        return list(self._ledger().trials())

    def tried(self) -> tuple[list[Trial], set[int]]:
        """Give all trials in order of their ids, and the ids of those that the space does not hold any more.

        Those are as they were, the others in terms of the space as it is now.
        """
        ledger = self._ledger()
        return ledger.tried(), {trial.id for trial in ledger.outside()}

    def changes(self) -> list[Change]:
        """Give what persons changed of the study beside its space, in order."""
        return self._ledger().changes()

    def lost_attempts(self) -> list[LostAttempt]:
        """Give the attempts of trials that were lost with their workers, and why."""
        return self._ledger().lost_attempts()

    def decisions(self) -> list[DecisionRecord]:
        """Give the coordinator's decisions, in order."""
        return self._ledger().decisions()

    def evidence(self, round_: int) -> JsonObject | None:
        """Give what the decision after a round rests on; `None` where none was kept."""
        return self._ledger().evidence(round_)

    def calls(self) -> list[ModelCall]:
        """Give all calls of the model, in order."""
        return self._ledger().calls()

    def earlier(self) -> list[EarlierStudy]:
        """Give the trials of the earlier studies that this one learns from."""
        return self._ledger().earlier()

    def effects(self) -> tuple[Effect, ...]:
        """Give what the accepted actions were to bring, and what they have brought."""
        from agentic_hpt.coordinator.effects import stated_effects

        ledger = self._ledger()
        trials, decisions = ledger.trials(), ledger.decisions()
        return stated_effects(self.config, ledger.usage(), trials, decisions, since=ledger.begins)

    def notes(self) -> list[Note]:
        """Give the person's notes, in order."""
        return self._ledger().notes()

    def steer(self, text: str) -> Note:
        """Leave a note in plain words which the next decision must see; any process may, while the study runs too.

        Raises `ConfigError` for an empty or a long one, and when the study has ended.
        """
        text = mask_secrets(text.strip())
        if not text:
            raise ConfigError("the note is empty", "say in plain words what the next decision must know")
        if len(text) > MAX_NOTE:
            raise ConfigError(f"the note has {len(text)} characters; at most {MAX_NOTE} are taken", "make it shorter")
        if self._ended():
            raise ConfigError(f"study {self.name!r} has ended: there is no next decision", "make another study")
        return self._ledger().add_note(text)

    def best(self) -> Trial | None:
        """Give the complete trial that is the best by estimated mean, or the winner at the end; if there is one."""
        return best_of(self.config.goal, self._ledger().trials(), self.final)

    def result(self, *, interrupted: bool = False) -> Result:
        """Give the whole standing of the study."""
        ledger = self._ledger()
        row = self._store.by_uid(self._row.uid)
        trials, final = tuple(ledger.trials()), ledger.final()
        return Result(
            study=row.name,
            status=self.status,
            stopped_by=row.stopped_by,
            error=row.error,
            config=self.config,
            trials=trials,
            decisions=tuple(ledger.decisions()),
            best=best_of(self.config.goal, trials, final),
            final=final,
            usage=ledger.usage(),
            home=self._settings.home,
            begins=ledger.begins,
            artifacts=self.artifacts,
            tracking=self.tracking,
            interrupted=interrupted,
        )

    def result_json(self) -> JsonObject:
        """Give the document that `hpt run --json` prints."""
        return self.result().to_json()

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML page and give its path."""
        return self.result().report(path)

    @property
    def revisions(self) -> list[Revision]:
        """How the space was changed since the study began, in order."""
        return self._ledger().revisions

    def _ended(self) -> bool:
        """Say whether the study came to its end, with figures or without; that never changes again."""
        return self._store.by_uid(self._row.uid).status in ("finalized", "failed")

    def _ledger(self) -> StudyLedger:
        return self._store.open_study(
            self._row,
            budget=self.config.limits_of_study,
            seed=self.config.seed,
            hold=self._lock.hold,
            told=self.config.mlflow.top is None,
        )

    def _held(self) -> bool:
        return self._lock.held()
