"""`mlflow.children: top:N`: the best trials become runs at the end, a table holds all; what is told meanwhile."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import agentic_hpt as hpt
from agentic_hpt.cli.progress import Progress
from agentic_hpt.config import StudyConfig
from agentic_hpt.records import JsonObject, OutboxEntry
from agentic_hpt.study import Result, Study
from agentic_hpt.testing import bowl

FINAL = {12, 13}
"""The runs on fresh seeds, behind twelve trials."""
SPACE = hpt.SearchSpace(num_layers=hpt.Int(1, 6, default=2), dropout=hpt.Float(0.0, 0.5, default=0.1))


def run(home: Path, events: list[JsonObject] | None = None, **options: Any) -> Result:
    described: dict[str, Any] = {
        "study": "few",
        "budget": hpt.Budget(trials=12),
        "strategy": "joint",
        "executor": "inline",
        "fresh_seeds": 2,
        "pruner": "none",
        **options,
    }
    listener = events.append if events is not None else None
    return hpt.tune(bowl(num_layers=5, dropout=0.3), SPACE, metric="score", home=home, listener=listener, **described)


def entries(home: Path) -> list[OutboxEntry]:
    from agentic_hpt.ledger import LedgerStore, open_outbox

    url = f"sqlite:///{home}/ledger.db"
    return open_outbox(url, LedgerStore(url).find("few").uid).pending(1000)


def told(home: Path) -> list[str]:
    return [entry.key for entry in entries(home)]


def best(result: Result, count: int) -> set[int]:
    return {t.id for t in sorted(result.trials, key=lambda t: (-t.values["score"], t.id))[:count]}


def trials_of(keys: list[str]) -> list[int]:
    return [int(key.split("/")[1]) for key in keys if key.startswith("trial/")]


def test_only_the_best_and_the_final_trials_are_told_and_before_the_end(home: Path) -> None:
    result = run(home, mlflow={"enabled": False, "children": "top:3"})
    keys = told(home)
    assert set(trials_of(keys)) == best(result, 3) | FINAL
    assert keys[0] == "study"
    assert keys[-1] == "final"
    assert sum(key.startswith("decision/") for key in keys) == len(result.decisions)
    assert {d.source for d in result.decisions} == {"ledger"}


def test_a_trial_that_is_told_at_the_end_is_told_as_it_was_when_it_ended(tmp_path: Path) -> None:
    payloads = {}
    for children in ("all", "top:3"):
        home = tmp_path / children.replace(":", "-")
        run(home, mlflow={"enabled": False, "children": children})
        payloads[children] = {e.key: e.payload for e in entries(home) if e.kind == "trial"}
    assert set(payloads["top:3"]) < set(payloads["all"])
    for key, payload in payloads["top:3"].items():
        other = payloads["all"][key]
        seconds = {"seconds": 0.0}
        assert {**payload["trial"], **seconds} == {**other["trial"], **seconds}  # type: ignore[dict-item]
        assert payload["started"] <= payload["ended"]  # type: ignore[operator]
    early = [p["ended"] for key, p in payloads["top:3"].items() if int(key.split("/")[1]) < 12]
    late = [p["ended"] for key, p in payloads["top:3"].items() if int(key.split("/")[1]) >= 12]
    assert max(early) <= min(late)  # type: ignore[type-var]


def test_a_study_that_goes_on_tells_of_the_new_best_too_and_of_none_twice(home: Path) -> None:
    first = run(home, mlflow={"enabled": False, "children": "top:2"}, budget=hpt.Budget(trials=6))
    before = set(trials_of(told(home)))
    assert best(first, 2) <= before
    study = Study.open("few", home)
    study.extend(trials=6)
    study.close()
    second = run(home, mlflow={"enabled": False, "children": "top:2"}, if_exists="resume")
    numbers = trials_of(told(home))
    assert len(numbers) == len(set(numbers))
    assert best(second, 2) | before <= set(numbers)


def test_the_best_become_runs_of_mlflow_and_all_trials_a_table(home: Path) -> None:
    from mlflow import MlflowClient

    events: list[JsonObject] = []
    result = run(home, events, mlflow={"children": "top:2"})
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("few")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    logged = {int(r.data.tags["hpt.trial"]) for r in runs if "hpt.trial" in r.data.tags}
    assert logged == best(result, 2) | FINAL
    table = client.download_artifacts(str(result.tracking["run_id"]), "trials.csv", str(home))
    with Path(table).open(encoding="utf-8") as file:
        rows = {int(row["trial"]): row for row in csv.DictReader(file)}
    assert len(rows) == 12
    for trial in result.trials[:12]:
        assert float(rows[trial.id]["values.score"]) == trial.values["score"]
        assert float(rows[trial.id]["params.dropout"]) == trial.params["dropout"]
    notices = [str(e["text"]) for e in events if e["type"] == "notice"]
    assert any("decisions rest on the ledger's own records" in text for text in notices)
    assert not any("was decided on the ledger's own records" in text for text in notices), "it is no fault"


@pytest.mark.parametrize("children", ["top", "top:0", "top:-1", "best:3", "top: 3", "", "20", 20, {"top": 5}, None])
def test_what_children_may_not_be_is_refused(home: Path, children: object) -> None:
    with pytest.raises(hpt.ConfigError, match=r"mlflow.children: .* is neither 'all' nor 'top:N'"):
        run(home, mlflow={"enabled": False, "children": children})


def test_children_can_not_change_in_a_study(home: Path) -> None:
    run(home, mlflow={"enabled": False}, budget=hpt.Budget(trials=4), fresh_seeds=0)
    study = Study.open("few", home)
    changed = StudyConfig.from_mapping({**study.config.to_json(), "mlflow": {"enabled": False, "children": "top:3"}})
    with pytest.raises(hpt.ConfigError, match=r"mlflow\.children: the study's runs are there"):
        study.redescribe(changed)
    study.close()


def test_what_mlflow_has_still_to_get_is_told_at_the_end(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """MLflow takes half of what is left at each look."""
    from agentic_hpt.tracking.null import NullTracker

    looks: list[float] = []

    class Slow(NullTracker):
        async def drain(self, wait: float) -> int:
            looks.append(wait)
            outbox = open_(home)
            left = outbox.pending(1000)
            outbox.sent({entry.id: "run" for entry in left[: -(-len(left) // 2)]})
            return len(left) // 2

    def open_(home: Path) -> Any:
        from agentic_hpt.ledger import LedgerStore, open_outbox

        url = f"sqlite:///{home}/ledger.db"
        return open_outbox(url, LedgerStore(url).find("few").uid)

    monkeypatch.setattr("agentic_hpt.wiring.parts.make_tracker", lambda *given: Slow())
    events: list[JsonObject] = []
    run(home, events, mlflow={"enabled": False}, fresh_seeds=0)
    writing = [(e["left"], e["of"]) for e in events if e["type"] == "writing"]
    assert len(writing) == len(looks) - 1 > 2
    assert [left for left, _ in writing] == sorted((left for left, _ in writing), reverse=True)  # type: ignore[type-var]
    progress = Progress()
    lines = [progress.apply(e) for e in events if e["type"] == "writing"]
    assert "entries still to write" in str(lines[0])
    assert "the last entry is being written" in str(lines[-1])
    assert told(home) == []


def test_a_writer_that_does_not_get_on_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    from agentic_hpt.tracking.null import NullTracker

    class Stuck(NullTracker):
        async def drain(self, wait: float) -> int:
            return 5

    monkeypatch.setattr("agentic_hpt.wiring.parts.make_tracker", lambda *given: Stuck())
    events: list[JsonObject] = []
    run(home, events, mlflow={"enabled": False}, fresh_seeds=0)
    assert Study.open("few", home).status == "finalized"
    assert "MLflow is away" in str(events[-1]["text"])
