"""All trials as a table: a row a trial, a column for each parameter and each metric."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from agentic_hpt.config import mask_secrets
from agentic_hpt.records import Trial

_ABOUT = "trial", "state", "failure", "worker", "kind", "round", "attempt", "seed", "seconds", "message"


def write_table(path: Path, trials: Sequence[Trial]) -> Path:
    """Write trials to a CSV file, in their order; parameters are `params.NAME`, metrics `values.NAME`."""
    params = dict.fromkeys(name for trial in trials for name in trial.params)
    metrics = dict.fromkeys(name for trial in trials for name in trial.values)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*_ABOUT, *(f"params.{name}" for name in params), *(f"values.{name}" for name in metrics)])
        for trial in trials:
            about = (
                trial.id,
                trial.state,
                trial.failure or "",
                trial.worker,
                trial.kind,
                trial.round,
                trial.attempt,
                trial.seed,
                trial.seconds,
                mask_secrets(trial.message),
            )
            own = [trial.params.get(name, "") for name in params]
            table.writerow([*about, *own, *(trial.values.get(name, "") for name in metrics)])
    return path
