"""Whole runs with MLflow on: what is logged, whose runs decide, and what happens when MLflow is away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import agentic_hpt as hpt
from agentic_hpt.records import JsonObject
from agentic_hpt.study import Result, Study, resume_study
from agentic_hpt.testing import bowl

SPACE = hpt.SearchSpace(num_layers=hpt.Int(1, 6, default=2), dropout=hpt.Float(0.0, 0.5, default=0.1))


def run(home: Path, study: str, objective: Any = None, events: list[JsonObject] | None = None, **mlflow: Any) -> Result:
    return hpt.tune(
        objective or bowl(num_layers=5, dropout=0.3),
        SPACE,
        metric="score",
        study=study,
        home=home,
        budget=hpt.Budget(trials=12),
        strategy="per_parameter",
        executor="inline",
        fresh_seeds=1,
        mlflow=mlflow,
        listener=events.append if events is not None else None,
    )


def test_what_a_run_leaves_in_mlflow(home: Path) -> None:
    from mlflow import MlflowClient

    result = run(home, "first")
    assert {d.source for d in result.decisions} == {"mlflow"}
    assert Study.open("first", home).tracking["run_id"] == result.tracking["run_id"]

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("first")
    assert experiment is not None
    assert experiment.artifact_location.startswith(f"file://{home}")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    by_kind: dict[str, list[Any]] = {}
    for logged in runs:
        by_kind.setdefault(logged.data.tags.get("hpt.worker_kind") or logged.data.tags["hpt.kind"], []).append(logged)
    assert len(by_kind["study"]) == 1
    assert len(by_kind["decision"]) == len(result.decisions)
    assert {"default", "per_parameter", "combination", "fresh_seed"} <= set(by_kind)
    trials = {int(r.data.tags["hpt.trial"]): r for r in runs if "hpt.trial" in r.data.tags}
    assert set(trials) == {*range(12), 12}
    for trial in result.trials:
        logged = trials[trial.id]
        assert set(logged.data.params) == set(SPACE.names), "held parameters are logged too"
        assert logged.data.tags["mlflow.parentRunId"] == result.tracking["run_id"]
        if trial.values:
            assert logged.data.metrics["score"] == trial.values["score"]


def test_runs_of_other_studies_in_the_experiment_never_decide(home: Path) -> None:
    def splendid(params: Mapping[str, object]) -> float:
        return 1000.0

    assert run(home, "splendid", splendid, experiment="shared").best is not None
    second = run(home, "modest", experiment="shared")
    assert {d.source for d in second.decisions} == {"mlflow"}
    assert second.best is not None
    assert second.best.values["score"] <= 0
    assert not any("1000" in a.reason for d in second.decisions for a in d.actions)
    again = hpt.tune(
        splendid, SPACE, metric="score", study="modest", home=home, if_exists="fresh", executor="inline",
        budget=hpt.Budget(trials=4), fresh_seeds=0, mlflow={"experiment": "shared"},
    )  # fmt: skip
    assert len(again.trials) == 4
    assert again.best is not None
    assert again.best.id == 0


def test_without_mlflow_the_ledgers_own_records_decide_and_it_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    events: list[JsonObject] = []
    result = run(home, "alone", events=events)
    assert result.status == "finalized"
    assert {d.source for d in result.decisions} == {"ledger"}
    notices = [str(e["text"]) for e in events if e["type"] == "notice"]
    assert any("ledger's own records" in text for text in notices)
    assert any("MLflow is away" in text for text in notices)

    events.clear()
    with monkeypatch.context() as hurried:
        hurried.setattr("agentic_hpt.study.holding.LAST_WRITES_SECONDS", 0.1)
        resume_study("alone", home=home, listener=events.append)
    assert [str(e["text"]).partition(":")[0] for e in events] == ["MLflow is away"]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/back.db")
    assert resume_study("alone", home=home).tracking["run_id"] is not None
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/back.db")
    experiment = client.get_experiment_by_name("alone")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    written = sorted(int(r.data.tags["hpt.trial"]) for r in runs if "hpt.trial" in r.data.tags)
    assert written == list(range(13)), "everything is there, once"


@pytest.mark.slow
def test_the_built_in_job_ends_with_a_model_that_can_be_served(home: Path) -> None:
    import mlflow
    import numpy as np
    import torch

    from agentic_hpt.config import StudyConfig
    from agentic_hpt.objectives.torch_trainer import load_example, load_model
    from agentic_hpt.study import run_study

    config = StudyConfig.from_mapping({"objective": {"task": "wine"}, "budget": {"trials": 10}, "parallel": 2})
    result = run_study(config, home=home)
    assert [p.name for p in home.parent.iterdir()] == ["home"], "nothing outside the home is touched"
    assert result.final is not None
    assert result.final.holdout is not None
    assert result.final.model_dir is not None
    folder = Path(result.final.model_dir)
    weights = torch.load(folder / "weights.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in weights.values())
    example = load_example(folder)
    expected = load_model(folder)(torch.from_numpy(example)).detach().numpy()

    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
    served = mlflow.pyfunc.load_model("models:/wine@champion")
    assert served.metadata.signature is not None
    assert served.metadata.run_id == result.tracking["run_id"]
    np.testing.assert_allclose(np.asarray(served.predict(example)), expected, rtol=1e-5, atol=1e-6)
    artifacts = {a.path for a in mlflow.MlflowClient().list_artifacts(str(result.tracking["run_id"]))}
    assert {"history.png", "confusion.png", "report.html"} <= {Path(a).name for a in artifacts} | {
        Path(a.path).name
        for folder_ in artifacts
        for a in mlflow.MlflowClient().list_artifacts(str(result.tracking["run_id"]), folder_)
    }
    for name in ("history.png", "confusion.png", "report.html"):
        assert (result.artifacts / name).stat().st_size > 1000
