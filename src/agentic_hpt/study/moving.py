"""Moving a study from the files of a home into a database."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentic_hpt.config import Settings, StudyConfig, is_postgres
from agentic_hpt.config.postgres import FORM
from agentic_hpt.errors import ConfigError, NoLedger, StudyNotFound
from agentic_hpt.study.checkpoints import checkpointer
from agentic_hpt.study.core import Study
from agentic_hpt.study.driving import run_coroutine
from agentic_hpt.study.lock import StudyLock

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig


def move_study(name: str, home: str | Path | None = None) -> Study:
    """Move a study into the database of AGENTIC_HPT_LEDGER, and archive what stays in the files.

    Checkpoints go first, then the ledger's rows in one transaction: a move that was cut off can be begun again. Runs in
    the home's own MLflow store are written anew to the database's. Raises `ConfigError` when it can't be, `StudyBusy`
    while the study runs.
    """
    from agentic_hpt.ledger import LedgerStore

    there = Settings.load(home)
    if not is_postgres(there.ledger_url):
        raise ConfigError("there is no database to move to", f"set AGENTIC_HPT_LEDGER: {FORM}")
    here = there.in_files()
    try:
        source = LedgerStore(here.ledger_url, create=False)
    except NoLedger:
        raise StudyNotFound(f"no study named {name!r}: there is no ledger in {here.home}", "check --home") from None
    row = source.find(name)
    config = StudyConfig.from_mapping(row.config, where=f"study {name!r} in the ledger")
    lock = StudyLock(source, row, here.artifacts(row.folder) / ".lock", config.failures.lease_seconds)
    lock.acquire()
    try:
        target = LedgerStore(there.ledger_url)
        repeated = source.replayed_by(row.uid)
        if repeated is not None and all(study.uid != repeated for study in target.list_studies()):
            name_there = source.by_uid(repeated).name
            raise ConfigError(
                f"study {name!r} repeats the decisions of {name_there!r}, which the database does not have",
                f"move that one first: hpt move {name_there}",
            )
        ledger = source.open_study(row, budget=config.limits_of_study, seed=config.seed)
        begun = 1 + len(ledger.revisions) + sum(change.reopens for change in ledger.changes())
        threads = [row.uid, *(f"{row.uid}-{number}" for number in range(1, begun))]  # see `StudyParts.thread`
        run_coroutine(_copy_checkpoints(here.checkpoints, there.checkpoints, threads))
        again = here.resolve_tracking_uri(config.mlflow) != there.resolve_tracking_uri(config.mlflow)
        source.copy_study(row.uid, target, tell_again=again)
        source.archive(name)
        target.close()
    finally:
        lock.release()
        source.close()
    return Study.open(name, home)


async def _copy_checkpoints(source: str, target: str, threads: Sequence[str]) -> None:
    """Copy the newest checkpoint of each thread that has one, with what nodes wrote since."""
    if not Path(source.removeprefix("sqlite:///")).exists():
        return
    async with checkpointer(source) as old, checkpointer(target) as new:
        for thread in threads:
            config: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
            found = await old.aget_tuple(config)
            if found is None:
                continue
            versions = found.checkpoint["channel_versions"]
            at = await new.aput(config, found.checkpoint, found.metadata, versions)
            for task, writes in itertools.groupby(found.pending_writes or (), key=lambda write: write[0]):
                await new.aput_writes(at, [(channel, value) for _, channel, value in writes], task)
