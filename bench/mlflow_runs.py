"""A large study's way into MLflow: every trial is one child run, once, though the writer is killed.

    python bench/mlflow_runs.py [--trials 5000] [--kills 3]

Finishes that many trials (4 parameters, 10 reports each) in a ledger of their own, has them written to MLflow by the
tracker and kills its writer process at even distances. Prints the rate, and what was missing or doubled.
With AGENTIC_HPT_LEDGER=postgresql://... ledger and MLflow are in that (empty) database, else in SQLite files.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path

from agentic_hpt.config import MlflowConfig, Settings, mask_secrets
from agentic_hpt.ledger import LedgerStore, StudyLedger
from agentic_hpt.records import Budget, Outcome, Report
from agentic_hpt.tracking.client import MlflowTracker

NAME = "mlflow-runs"
PARAMS = {"num_layers": 3, "learning_rate": 1e-3, "hidden_dim": 64, "dropout": 0.1}
REPORTS = tuple(Report(step, {"accuracy": step / 10}) for step in range(10))


def fill(ledger: StudyLedger, trials: int) -> None:
    ledger.post_study({"study": NAME, "config": {"seed": 0}})
    for number in range(trials):
        params = {**PARAMS, "dropout": number / trials}
        trial = ledger.reserve(round_=1 + number // 50, worker="w", kind="joint", params=params, tuned=list(params))
        if trial is None:
            raise SystemExit("the budget was spent too soon")
        ledger.finish(trial.id, ledger.start(trial.id).attempt, Outcome.complete({"accuracy": 0.5}, reports=REPORTS))


async def write(tracker: MlflowTracker, ledger: StudyLedger, kills: int) -> float:
    """Write everything, killing the writer so often; give the seconds it took."""
    entries = ledger.unsent()
    marks = [entries * (kills - number) // (kills + 1) for number in range(kills)]
    began = time.perf_counter()
    await tracker.start()
    while (left := ledger.unsent()) or marks:
        if marks and left <= marks[0]:
            marks.pop(0)
            if tracker._writer is not None:
                os.kill(tracker._writer.pid, signal.SIGKILL)
        await tracker.drain(1.0)  # also starts another writer
    took = time.perf_counter() - began
    await tracker.close()
    return took


def keys_in_mlflow(uri: str) -> list[str]:
    """Give the keys of the experiment's runs."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(NAME)
    found, token = [], None
    while True:
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
        found += [run.data.tags for run in page]
        token = page.token
        if not token:
            break
    parents = {tags.get("mlflow.parentRunId") for tags in found if tags["hpt.key"] != "study"}
    if len(parents) != 1 or None in parents:
        raise SystemExit(f"the runs have {len(parents)} parents")
    return [tags["hpt.key"] for tags in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.load(Path(folder) / "home")
        settings.create()
        store = LedgerStore(settings.ledger_url)
        row = store.create_study(NAME, {})
        ledger = store.open_study(row, budget=Budget(trials=given.trials), seed=0)
        fill(ledger, given.trials)
        uri = settings.resolve_tracking_uri(MlflowConfig())
        tracker = MlflowTracker(
            ledger_url=settings.ledger_url,
            uid=row.uid,
            study=NAME,
            tracking_uri=uri,
            experiment=NAME,
            artifact_root=settings.home / "artifacts" / "mlflow",
            log=settings.home / "mlflow-writer.log",
        )
        took = asyncio.run(write(tracker, ledger, given.kills))
        keys = keys_in_mlflow(uri)
        trials = [key for key in keys if key != "study"]
        missing = len({f"trial/{number}/1" for number in range(given.trials)} - set(trials))
        doubled = len(trials) - len(set(trials))
        print(f"{given.trials} trials, writer killed {given.kills} times, MLflow in {mask_secrets(uri).split('?')[0]}")
        print(f"  {took:.0f} s, {given.trials / took:.1f} runs/s")
        print(f"  child runs {len(trials)}, missing {missing}, doubled {doubled}")
        store.close()
    raise SystemExit(bool(missing or doubled))


if __name__ == "__main__":
    main()
