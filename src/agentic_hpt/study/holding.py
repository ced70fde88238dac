"""Holding a study: one process at a time changes how it stands."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentic_hpt.config import Settings, StudyConfig, mask_secrets
from agentic_hpt.errors import ConfigError, HptError, LedgerError, SameFailure, StudyBusy
from agentic_hpt.outcomes import breaks, nearest
from agentic_hpt.records import EarlierStudy, FinalReport, Goal, JsonObject, Trial, TrialState
from agentic_hpt.study.looking import StudyView

if TYPE_CHECKING:
    from agentic_hpt.ledger import LedgerStore, StudyRow, StudyStatus

LAST_WRITES_SECONDS = 60.0
"""How long the last writes to MLflow may take."""


class HeldStudy(StudyView):
    """A study that this process may hold: what it begins with, and how a run of it ended."""

    def __init__(self, settings: Settings, store: LedgerStore, row: StudyRow) -> None:
        super().__init__(settings, store, row)
        self._made_here = False

    def record_end(self, final: FinalReport | None) -> None:
        """Note that the loop has ended; without figures, that the study failed, and why."""
        from agentic_hpt.study.describing import ended_by

        ledger = self._ledger()
        stopped_by = ended_by(ledger) or "coordinator"
        if final is not None:
            self._note("finalized", stopped_by)
            return
        why = _why_nothing_was_found(self.config.goal, ledger.trials())
        ledger.record_failure(why)
        self._note("failed", stopped_by, why)

    def settle(self, error: BaseException) -> None:
        """Note why a run ended before its end, when its parts are closed.

        A new study whose objective was refused, at once or at its first answer, is removed: its name stays free.
        """
        try:
            if self._ended():
                return
            if isinstance(error, asyncio.CancelledError):
                self._note("stopped", "user")
            elif isinstance(error, SameFailure):
                self._note("stopped", "failures", mask_secrets(str(error))[:2000])
            elif self._made_here and isinstance(error, ConfigError) and not self._has_own_result():
                self._store.discard(self._row.uid, hold=self._lock.hold)
                shutil.rmtree(self.artifacts, ignore_errors=True)
                self._release()
            else:
                text = error.message if isinstance(error, HptError) else f"{type(error).__name__}: {error}"
                self._note("stopped", "error", mask_secrets(text)[:2000])
        except LedgerError:
            pass  # the store itself is what failed; the caller gets the first error

    def _note(self, status: StudyStatus, stopped_by: str | None = None, error: str | None = None) -> None:
        """Note how the study stands; nothing once another process took it over."""
        self._store.set_status(self._row.uid, status, stopped_by, error, hold=self._lock.hold)

    def _acquire(self) -> None:
        """Take hold of the study. Raises `StudyBusy` when another process has it, or changed it since it was opened.

        Raises `ConfigError` when the home can't be written: all trials would fail there.
        """
        if self._lock.hold is not None:
            return
        self._settings.create()  # a study in a database may go on where there is no home yet
        self._lock.acquire()
        now = self._store.by_uid(self._row.uid)
        if (now.name, now.config) != (self._row.name, self._row.config):
            self._release()
            raise StudyBusy(f"study {self._row.name!r} was changed by another process a moment ago", "try again")

    def _release(self) -> None:
        self._lock.release()

    def _complete_making(self) -> None:
        """Put in what was made elsewhere where the process that made the study was killed before."""
        from_elsewhere = self.config.transfer or self.config.import_optuna or self.replays
        if not from_elsewhere or self._ledger().count:
            return
        source = StudyView.by_uid(self.replays, self._settings.home) if self.replays else None
        self._fill(*made_elsewhere(self.config, self._settings, source))

    def _fill(self, imported: Sequence[Trial], earlier: Sequence[EarlierStudy]) -> None:
        """Put the trials that were made elsewhere into a study without trials."""
        ledger = self._ledger()
        if earlier and not ledger.earlier():
            ledger.keep_earlier(earlier)
        if imported:
            ledger.post_study(self._description())
            ledger.import_trials(imported)

    def _description(self) -> JsonObject:
        return {"study": self._row.first_name, "uid": self._row.uid, "config": self.config.told()}

    def _has_own_result(self) -> bool:
        return any(t.finished and t.counted for t in self._ledger().trials())

    async def _write_behind(self) -> None:
        from agentic_hpt import wiring

        tracker = wiring.make_tracker(self.config, self._settings, self._row)
        await tracker.start()
        try:
            await tracker.drain(LAST_WRITES_SECONDS)
        finally:
            await tracker.close()


def made_elsewhere(
    config: StudyConfig, settings: Settings, replays: StudyView | None
) -> tuple[list[Trial], list[EarlierStudy]]:
    """Give the trials that a new study begins with, and the earlier studies that it learns from."""
    from agentic_hpt import wiring

    if replays is not None:
        return [t for t in replays.trials() if t.kind == "imported"], replays.earlier()
    return wiring.import_optuna(config)[0], wiring.read_transfer(config, settings)


def _why_nothing_was_found(goal: Goal, trials: Sequence[Trial]) -> str:
    closest = nearest(goal, (t for t in trials if t.counted))
    if closest is not None:
        values = ", ".join(f"{name}={value!r}" for name, value in closest.params.items())
        broken = "; ".join(breaks(goal, closest))
        return f"no trial satisfies the constraints; trial {closest.id} comes nearest ({broken}), with {values}"[:2000]
    failed = [t for t in trials if t.state is TrialState.FAILED]
    if not failed:
        return "no trial was completed"
    kinds = sorted({str(t.failure) for t in failed}, key=lambda kind: -sum(str(t.failure) == kind for t in failed))
    example = next(t for t in failed if str(t.failure) == kinds[0])
    first_line = example.message.strip().partition("\n")[0]
    return f"no trial was completed; {len(failed)} failed, most by {kinds[0]}: {mask_secrets(first_line)[:300]}"
