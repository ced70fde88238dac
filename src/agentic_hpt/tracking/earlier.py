"""Reading the runs of an MLflow experiment as trials of an earlier study, once, in a process of its own.

The process gets its settings as one JSON line on standard input (they may hold a password) and answers with one line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

from agentic_hpt.config import mask_secrets
from agentic_hpt.earlier import plain
from agentic_hpt.errors import ConfigError
from agentic_hpt.records import JsonObject, Params, is_figure
from agentic_hpt.tracking.mlflow import behave

_MOST_RUNS = 5000
_PAGE = 500
_SECONDS = 120.0


def read_experiment(tracking_uri: str, experiment: str, metric: str) -> tuple[list[tuple[Params, float]], int]:
    """Give configuration and metric of an experiment's finished runs, the newest 5,000 at most, and how many have none.

    Raises `ConfigError` when MLflow can't be read, has no such experiment, or no run of it has the metric.
    """
    settings = {"tracking_uri": tracking_uri, "experiment": experiment, "metric": metric}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agentic_hpt.tracking.earlier"],
            input=json.dumps(settings),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        answer: JsonObject = json.loads(done.stdout.strip().rpartition("\n")[2])
    except subprocess.TimeoutExpired:
        answer = {"error": f"no answer within {_SECONDS:.0f} seconds"}
    except ValueError:
        answer = {"error": done.stderr.strip().rpartition("\n")[2] or "its reader ended without a word"}
    if "error" in answer:
        raise ConfigError(
            f"the MLflow experiment {experiment!r} can't be read from {mask_secrets(tracking_uri)!r}: "
            f"{mask_secrets(str(answer['error']))[:300]}",
            "check tracking_uri, the experiment's name and the metric's",
        )
    found = cast(list[tuple[dict[str, str], float]], answer["found"])
    trials: list[tuple[Params, float]] = []
    for params, value in found:
        trials.append(({name: plain(text) for name, text in params.items()}, value))
    return trials, cast(int, answer["without"])


def _read(tracking_uri: str, experiment: str, metric: str) -> JsonObject:
    behave()
    path = tracking_uri.removeprefix("sqlite:///")
    if path != tracking_uri and not Path(path).exists():  # else MLflow would make it
        return {"error": "there is no such file"}
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    held = client.get_experiment_by_name(experiment)
    if held is None:
        return {"error": "there is no such experiment"}
    found: list[tuple[dict[str, str], float]] = []
    without, seen, token = 0, set[str](), None
    while len(found) < _MOST_RUNS:
        page = client.search_runs([held.experiment_id], max_results=_PAGE, page_token=token)
        for run in page:
            tags = run.data.tags
            names = json.loads(tags.get("hpt.names", "{}"))
            metrics = {names.get(key, key): figure for key, figure in run.data.metrics.items()}
            seen.update(metrics)
            value = metrics.get(metric)
            if "hpt.uid" in tags and ("hpt.trial" not in tags or tags["hpt.worker_kind"] in ("fresh_seed", "holdout")):
                continue  # a study, a decision, a final run: no trial
            if run.info.status == "FINISHED" and value is not None and is_figure(value):
                found.append(({names.get(key, key): text for key, text in run.data.params.items()}, value))
            elif run.info.status != "RUNNING":
                without += 1
        token = page.token
        if not token:
            break
    if not found:
        shown = ", ".join(sorted(seen)[:10]) or "none"
        return {"error": f"no finished run has the metric {metric!r}; the metrics are: {shown}"}
    return {"found": found[:_MOST_RUNS], "without": without}


def _main() -> int:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes elsewhere
    try:
        answer = _read(**json.loads(sys.stdin.readline()))
    except Exception as error:  # MLflow's, a driver's, a server's: whatever the URI brings
        answer = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(answer) + "\n")
    answers.close()
    return 0


if __name__ == "__main__":
    sys.exit(_main())
