from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from agentic_hpt.errors import FailureKind, TrackerAway
from agentic_hpt.records import (
    ActionRecord,
    DecisionRecord,
    FinalReport,
    JsonObject,
    ModelCall,
    OutboxEntry,
    Report,
    Trial,
    TrialState,
)
from agentic_hpt.tracking.encoding import trial_to_json
from agentic_hpt.tracking.mlflow import EntryRefused, MlflowStore

UID = "0123456789abcdef"

# MLflow uses what SQLAlchemy is about to drop, and warns about its own type hints.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store made once: its migrations take seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    store(folder, experiment="another")
    connection = sqlite3.connect(folder / "home" / "mlflow.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return folder / "home" / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, migrated: Path) -> Iterator[Path]:
    (tmp_path / "home").mkdir()
    shutil.copy(migrated, tmp_path / "home" / "mlflow.db")
    yield tmp_path
    uri = f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}"
    from mlflow.tracking._tracking_service.utils import _get_store

    _get_store(uri).engine.dispose()


def store(folder: Path, uid: str = UID, study: str = "digits", experiment: str = "digits") -> MlflowStore:
    return MlflowStore(
        tracking_uri=f"sqlite:///{folder / 'home' / 'mlflow.db'}",
        experiment=experiment,
        artifact_root=folder / "home" / "artifacts",
        study=study,
        uid=uid,
    )


def trial(number: int, **rest: object) -> Trial:
    known: dict[str, object] = {
        "params": {"learning_rate": 0.1 + 0.2, "hidden_dim": 64, "optimizer": "adam", "nesterov": True, "decay": None},
        "state": TrialState.COMPLETE,
        "seed": 2**40 + number,
        "worker": "w-1",
        "kind": "per_parameter",
        "round": 1,
        "tuned": ("learning_rate", "decay"),
        "revision": 2,
        "attempt": 1,
        "values": {"accuracy": 0.1 + 0.7, "latency": 3.0},
        "seconds": 1.0 / 3.0,
    }
    return Trial(id=number, **{**known, **rest})  # type: ignore[arg-type]


def entry(known: Trial, claimed: bool = False) -> OutboxEntry:
    payload: JsonObject = {"trial": trial_to_json(known), "started": 1000.5, "ended": 1002.25}
    return OutboxEntry(known.id, "trial", f"trial/{known.id}/{known.attempt}", json.loads(json.dumps(payload)), claimed)


STUDY = OutboxEntry(
    1,
    "study",
    "study",
    {
        "study": "digits",
        "uid": UID,
        "config": {"seed": 3, "budget": {"trials": 60}, "mlflow": {"tracking_uri": "https://me:pass@host"}},
    },
)


def test_a_trial_reads_back_as_it_was_written(home: Path) -> None:
    mlflow = store(home)
    mlflow.write(STUDY)
    written = [
        trial(3, reports=(Report(0, {"accuracy": 0.95}), Report(1, {"accuracy": 0.2}))),
        trial(1, state=TrialState.FAILED, values={}, failure=FailureKind.NAN, message="x" * 900, seconds=None),
        trial(2, state=TrialState.PRUNED, values={}, reports=(Report(0, {"accuracy": 0.5}),), tuned=()),
        trial(4, values={"accuracy": 1.0, "acc@5": 0.5}, params={"top%": "3", "text": "a 'b' \"c\" é\n"}),
        trial(5, round=2),
    ]
    for known in written:
        mlflow.write(entry(known))
    for round_ in (1, 2):
        expected = [
            Trial(**{**{f: getattr(t, f) for f in t.__slots__}, "reports": (), "message": t.message[:500]})
            for t in sorted(written, key=lambda t: t.id)
            if t.round == round_
        ]
        read = mlflow.read_round(round_)
        assert read == expected
        assert [type(v) for t in read for _, v in sorted(t.params.items())] == [
            type(v) for t in expected for _, v in sorted(t.params.items())
        ]


def test_a_trial_looks_right_in_mlflow(home: Path) -> None:
    mlflow = store(home)
    parent = mlflow.write(STUDY)
    client = mlflow._client
    known = trial(12, reports=(Report(0, {"accuracy": 0.95, "loss": 0.5}),))
    run = client.get_run(mlflow.write(entry(known)))
    assert run.info.run_name == "trial-0012"
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", 1000500, 1002250)
    assert run.data.metrics == {"accuracy": known.values["accuracy"], "latency": 3.0, "loss": 0.5}
    assert run.data.params["hidden_dim"] == "64"
    tags = {name: run.data.tags[name] for name in ("mlflow.parentRunId", "hpt.uid", "hpt.tuned", "hpt.worker_kind")}
    assert tags == {
        "mlflow.parentRunId": parent,
        "hpt.uid": UID,
        "hpt.tuned": "learning_rate,decay",
        "hpt.worker_kind": "per_parameter",
    }
    states = {TrialState.PRUNED: "KILLED", TrialState.FAILED: "FAILED"}
    for number, (state, word) in enumerate(states.items()):
        assert client.get_run(mlflow.write(entry(trial(number, state=state, values={})))).info.status == word


def test_the_study_run_holds_the_description_without_secrets(home: Path) -> None:
    mlflow = store(home)
    run = mlflow._client.get_run(mlflow.write(STUDY))
    assert run.data.params == {"seed": "3", "budget.trials": "60", "mlflow.tracking_uri": "https://***@host"}
    assert run.data.tags["hpt.study"] == "digits"
    file = home / "home" / "artifacts" / run.info.run_id / "artifacts" / "study.json"
    assert "pass" not in file.read_text()
    assert json.loads(file.read_text())["seed"] == 3
    assert mlflow.parent() == run.info.run_id == store(home).parent()


def test_only_this_studys_trials_count(home: Path) -> None:
    other = store(home, uid="fedcba98", study="other")
    other.write(entry(trial(1)))
    mine = store(home)
    assert mine.read_round(1) == []
    assert mine.find("trial/1/1") is None
    assert mine.parent() is None
    assert [t.id for t in other.read_round(1)] == [1]


def test_a_claimed_entry_is_never_written_twice(home: Path) -> None:
    mlflow = store(home)
    for known in (STUDY, entry(trial(1)), DECISION):
        first = mlflow.write(known)
        again = OutboxEntry(known.id, known.kind, known.key, known.payload, claimed=True)
        assert store(home).write(again) == first
    runs = mlflow._client.search_runs([mlflow._experiment])
    assert len(runs) == 3
    assert [t.id for t in mlflow.read_round(1)] == [1]


def test_a_claimed_entry_that_was_not_written_is(home: Path) -> None:
    mlflow = store(home)
    mlflow.write(entry(trial(1), claimed=True))
    assert [t.id for t in mlflow.read_round(1)] == [1]


def test_a_half_written_run_does_not_count_until_it_is_completed(home: Path) -> None:
    mlflow = store(home)
    run_id = mlflow.write(entry(trial(7)))
    client = mlflow._client
    # as a writer leaves it that was killed right after `create_run`
    half = client.create_run(mlflow._experiment, tags=client.get_run(run_id).data.tags, start_time=1000500)
    client.delete_run(run_id)
    assert mlflow.read_round(1) == []
    assert mlflow.write(entry(trial(7), claimed=True)) == half.info.run_id
    assert [t.values for t in mlflow.read_round(1)] == [trial(7).values]


def test_a_round_of_more_than_one_page(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = store(home)
    monkeypatch.setattr("agentic_hpt.tracking.mlflow._PAGE", 2)
    for number in (5, 4, 3, 2, 1):
        mlflow.write(entry(trial(number)))
    assert [t.id for t in mlflow.read_round(1)] == [1, 2, 3, 4, 5]


def test_more_than_mlflows_batch_limits(home: Path) -> None:
    reports = tuple(Report(step, {"loss": float(step)}) for step in range(1200))
    known = trial(1, params={f"p{n}": n for n in range(150)}, reports=reports)
    mlflow = store(home)
    run_id = mlflow.write(entry(known))
    assert mlflow.read_round(1)[0].params == known.params
    with sqlite3.connect(home / "home" / "mlflow.db") as database:
        count = database.execute("select count(*) from metrics where run_uuid = ?", (run_id,)).fetchone()
    database.close()
    assert count == (1202,)


DECISION = OutboxEntry(
    9,
    "decision",
    "decision/3",
    {
        "decision": DecisionRecord(
            3,
            "llm",
            (ActionRecord("narrow", "r", (1,), "repaired", "v"), ActionRecord("finalize", "r", (), "refused", "v")),
            tokens=120,
            dollars=0.25,
            seconds=1.5,
        ).to_json(),
        "calls": [
            asdict(ModelCall(3, "openai:m", "1", "h", "the prompt", "bad", 1, 2, 0.1, 0.5)),
            asdict(ModelCall(3, "openai:m", "1", "h", "again", "the answer", 1, 2, 0.1, 0.5)),
        ],
    },
)


def test_a_decision_run(home: Path) -> None:
    mlflow = store(home)
    run = mlflow._client.get_run(mlflow.write(DECISION))
    assert run.info.run_name == "decision-03"
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"tokens": 120, "dollars": 0.25, "seconds": 1.5}
    tags = {name: run.data.tags[f"hpt.{name}"] for name in ("kind", "round", "decided_by", "verdicts", "model")}
    assert tags == {
        "kind": "decision",
        "round": "3",
        "decided_by": "llm",
        "verdicts": "narrow: repaired; finalize: refused",
        "model": "openai:m",
    }
    assert "hpt.fallback" not in run.data.tags
    files = home / "home" / "artifacts" / run.info.run_id / "artifacts"
    texts = {name: (files / name).read_text() for name in ("prompt.txt", "answer-2.txt")}
    assert texts == {"prompt.txt": "the prompt", "answer-2.txt": "the answer"}
    assert DecisionRecord.from_json(json.loads((files / "decision.json").read_text())).round == 3
    told = json.loads((files / "calls.json").read_text())
    assert [(c["prompt_version"], c["input_hash"], c["evidence_id"], c["seconds"]) for c in told] == [
        ("1", "h", "", 0.5)
    ] * 2
    assert [(c["prompt"], c["answer"]) for c in told] == [
        ("prompt.txt", "answer.txt"),
        ("prompt-2.txt", "answer-2.txt"),
    ]
    assert "hpt.review" not in run.data.tags
    assert not (files / "evidence.json").exists(), "none was kept"
    assert mlflow.read_round(3) == [], "a decision is no trial"


def test_a_decision_run_holds_the_evidence_and_a_persons_word(home: Path) -> None:
    mlflow = store(home)
    decided = DecisionRecord(
        3, "person", (ActionRecord("continue", "r", (), "accepted", "v"),), review="edit: " + "x" * 900
    )
    payload: JsonObject = {"decision": decided.to_json(), "calls": [], "evidence": {"conclusions": ["a"], "round": 3}}
    run = mlflow._client.get_run(mlflow.write(OutboxEntry(9, "decision", "decision/3", payload)))
    assert run.data.tags["hpt.review"] == ("edit: " + "x" * 900)[:500]
    files = home / "home" / "artifacts" / run.info.run_id / "artifacts"
    assert json.loads((files / "evidence.json").read_text()) == {"conclusions": ["a"], "round": 3}
    assert sorted(file.name for file in files.iterdir()) == ["decision.json", "evidence.json"]


def final(folder: Path, loader: str) -> OutboxEntry:
    figure = folder / "history.png"
    figure.write_bytes(b"png")
    report = FinalReport(12, 0.99, 3, 0.98, 0.002, None, 0.01)
    payload: JsonObject = {
        "final": report.to_json(),
        "params": {"learning_rate": 0.001, "optimizer": "adam"},
        "metric": "accuracy",
        "files": [str(figure), str(folder / "gone.png")],
        "model": {"dir": str(folder / "model"), "loader": loader},
        "register_as": "digits",
        "alias": "champion",
    }
    return OutboxEntry(20, "final", "final", payload)


def test_a_model_that_cannot_be_logged_leaves_the_rest(home: Path) -> None:
    mlflow = store(home)
    mlflow.write(STUDY)
    run = mlflow._client.get_run(mlflow.write(final(home, "no_such_module")))
    assert run.info.status == "FINISHED"
    assert run.data.metrics["final/mean"] == 0.98
    assert "final/holdout" not in run.data.metrics
    assert run.data.params["best.learning_rate"] == "0.001"
    assert (home / "home" / "artifacts" / run.info.run_id / "artifacts" / "history.png").exists()
    assert "gone.png is missing" in run.data.tags["hpt.problem"]
    assert "no_such_module" in run.data.tags["hpt.problem"]


def test_a_study_that_failed_does_not_run_for_ever(home: Path) -> None:
    mlflow = store(home)
    run_id = mlflow.write(STUDY)
    entry = OutboxEntry(20, "failed", "failed", {"why": "no trial was completed; 5 failed"})
    assert [mlflow.write(entry), mlflow.write(replace(entry, claimed=True))] == [run_id, run_id]
    run = mlflow._client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["hpt.problem"] == "no trial was completed; 5 failed"


def test_a_study_that_goes_on_behind_its_end_ends_anew_in_the_same_run(home: Path) -> None:
    mlflow = store(home)
    mlflow.write(STUDY)
    first = final(home, "no_such_module")
    run_id = mlflow.write(first)
    change = {"kind": "described", "told": "budget.trials 6 -> 16", "reopens": True, "code": "abc", "final": None}
    assert mlflow.write(OutboxEntry(21, "change", "change/2", change)) == run_id
    run = mlflow._client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert (run.data.tags["hpt.change-2"], run.data.tags["hpt.code"]) == ("budget.trials 6 -> 16", "abc")

    payload = {**first.payload, "params": {"learning_rate": 0.5}, "final": {**first.payload["final"], "mean": 0.99}}  # type: ignore[dict-item]
    again = OutboxEntry(22, "final", "final/2", payload)
    assert mlflow.write(again) == run_id
    run = mlflow._client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["final/mean"] == 0.99
    assert (run.data.params["best.learning_rate"], run.data.params["best-2.learning_rate"]) == ("0.001", "0.5")


@pytest.mark.slow
def test_the_final_model_is_logged_registered_and_usable(home: Path) -> None:
    import numpy as np
    import torch

    from test_tracking_net import load_example, load_model

    (home / "model").mkdir()
    torch.manual_seed(0)
    blank = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    torch.save(blank.state_dict(), home / "model" / "weights.pt")
    mlflow = store(home)
    mlflow.write(STUDY)
    done = final(home, "test_tracking_net")
    run_id = mlflow.write(done)
    assert mlflow.write(OutboxEntry(done.id, done.kind, done.key, done.payload, claimed=True)) == run_id
    client = mlflow._client
    assert "torch" not in client.get_run(run_id).data.tags["hpt.problem"]
    versions = client.search_model_versions("name = 'digits'")
    assert [v.version for v in versions] in (["1"], [1]), "written again, it is registered once"
    champion = client.get_model_version_by_alias("digits", "champion")
    assert (champion.tags["hpt.uid"], champion.tags["hpt.trial"], champion.run_id) == (UID, "12", run_id)

    import mlflow as library

    loaded = library.pyfunc.load_model("models:/digits@champion")
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 4)
    rows = np.concatenate([load_example("")] * 3)
    expected = load_model(str(home / "model"))(torch.from_numpy(rows)).detach().numpy()
    assert np.allclose(loaded.predict(rows), expected, atol=1e-6)
    assert not list((home / "home").rglob("*.pkl"))
    outside = [p for p in home.iterdir() if p.name not in ("home", "model", "history.png")]
    assert outside == []


def test_mlflows_own_refusal_is_told_from_its_absence(home: Path) -> None:
    mlflow = store(home)
    mlflow.write(STUDY)
    mlflow._client.delete_run(mlflow.parent())
    with pytest.raises(EntryRefused):
        mlflow.write(final(home, "no_such_module"))
    mlflow._client.delete_experiment(mlflow._experiment)
    with pytest.raises(TrackerAway):
        mlflow.write(entry(trial(1)))
    with pytest.raises(TrackerAway, match="deleted"):
        store(home)
    mlflow._client.restore_experiment(mlflow._experiment)
    mlflow.write(entry(trial(1)))
    assert [t.id for t in mlflow.read_round(1)] == [1]


def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(TrackerAway):
        store(tmp_path)


def test_a_new_local_store_can_be_read_while_it_is_written(migrated: Path) -> None:
    connection = sqlite3.connect(migrated)
    mode = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    assert mode == ("wal",)
