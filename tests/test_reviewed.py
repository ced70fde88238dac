"""Bugs that a reader found: each was shown by its test first."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import agentic_hpt as hpt
from agentic_hpt.config import StudyConfig, mask_secrets
from agentic_hpt.records import Assignment, JsonObject, Proposal, Report, Trial
from agentic_hpt.strategies import Joint
from agentic_hpt.study import Result, Study, resume_study, run_study
from agentic_hpt.testing import bowl
from study_runs import describe, drive, finished

SPACE = hpt.SearchSpace(num_layers=hpt.Int(1, 6, default=2), dropout=hpt.Float(0.0, 0.5, default=0.1))


def run(home: Path, objective: Any = None, **options: Any) -> Result:
    given = {"executor": "inline", "mlflow": {"enabled": False}, "fresh_seeds": 1, "budget": hpt.Budget(trials=8)}
    space = options.pop("space", SPACE)
    options = {"metric": "score", "study": "study", **given, **options}
    return hpt.tune(objective or bowl(num_layers=5, dropout=0.3), space, home=home, **options)


@pytest.mark.parametrize("name", ["holdout", "default", "fresh-seed", "joint", "combination"])
def test_a_parameter_may_be_named_like_a_worker(home: Path, name: str) -> None:
    space = hpt.SearchSpace({name: hpt.Float(0.0, 1.0), "y": hpt.Float(0.0, 1.0)})
    result = run(home, lambda p: p[name] + p["y"], space=space, final=lambda p: -777.0)
    assert result.final is not None
    assert result.final.holdout == -777.0
    assert result.final.fresh_seeds == 1
    assert len(result.trials) == 8


def test_a_killed_study_with_such_a_parameter_is_resumed(tmp_path: Path, home: Path) -> None:
    space = {"default": {"float": [0, 1]}, "learning_rate": {"float": [1e-4, 1e-1], "log": True}}
    code = "def train(params):\n    return params['default']"
    description = describe(tmp_path, code, space=space, executor="processes", parallel=3, budget={"trials": 9})
    assert drive(description, home, "trial_started", 3).returncode == -signal.SIGKILL
    assert len(resume_study("study", home=home).trials) == 9


def test_a_study_that_has_ended_stays_ended(home: Path) -> None:
    run(home)
    study = Study.open("study", home)
    study.settle(KeyboardInterrupt())
    with pytest.raises(hpt.ConfigError, match="has ended"):
        study.ask()
    study.close()
    assert Study.open("study", home).status == "finalized"

    def broken(params: Mapping[str, object]) -> float:
        raise ValueError("no data\nat all")

    run(home, broken, study="failed")  # stops after some alike, and is given the rest of its budget
    failed = run(home, broken, study="failed", if_exists="resume")
    assert (failed.status, failed.exit_code) == ("failed", 1)
    assert "no data" in str(failed.error)
    again = run(home, broken, study="failed", if_exists="resume")
    assert (again.status, again.exit_code, again.error) == ("failed", 1, failed.error)


def test_a_secret_in_a_failure_is_masked_everywhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2-hunter2")

    def leaking(params: Mapping[str, float]) -> float:
        if params["num_layers"] > 2:
            raise RuntimeError("401 for key hunter2-hunter2 at https://host/?api_key=abc123456")
        return 1.0

    events: list[JsonObject] = []
    result = run(home, leaking, listener=events.append)
    assert any(t.message for t in result.trials)
    written = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    for secret in ("hunter2-hunter2", "abc123456"):
        assert secret not in json.dumps(events)
        assert secret.encode() not in written


@pytest.mark.parametrize("url", ["db://h/x?password=hunter22", "http://h/?a=1&API_KEY=hunter22", "x://u:hunter22@h/"])
def test_passwords_in_urls_are_masked(url: str) -> None:
    assert "hunter22" not in mask_secrets(f"can't open {url} now")


def test_a_failing_proposal_leaves_no_trial_open(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, calls = Joint.propose, iter(range(1000))

    def failing_once(self: Joint, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        if next(calls) == 4:
            raise RuntimeError("the sampler broke")
        return sound(self, assignment, trials, seed)

    monkeypatch.setattr(Joint, "propose", failing_once)
    description = describe(tmp_path, strategy="joint", executor="processes", parallel=3, budget={"trials": 12})
    result = run_study(StudyConfig.from_mapping(description), home=home)
    assert len(result.trials) == 12
    assert all(t.finished for t in result.trials)


def test_a_pruner_that_fails_leaves_no_trial_open(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentic_hpt.strategies import MedianPruner

    def failing(self: MedianPruner, trial: int, report: Report) -> bool:
        raise RuntimeError("the pruner broke")

    monkeypatch.setattr(MedianPruner, "should_stop", failing)
    result = run(home)
    assert all(t.finished for t in result.trials)
    assert (result.status, result.stopped_by, result.exit_code) == ("stopped", "failures", 1)


def test_imported_trials_do_not_hide_an_objective_that_never_works(tmp_path: Path, home: Path) -> None:
    import optuna

    url = f"sqlite:///{tmp_path}/optuna.db"
    source = optuna.create_study(storage=url, study_name="old", direction="maximize")
    wanted = {"num_layers": optuna.distributions.IntDistribution(1, 6), "dropout": None}
    wanted["dropout"] = optuna.distributions.FloatDistribution(0.0, 0.5)
    for layers in (1, 2, 3):
        params = {"num_layers": layers, "dropout": 0.2}
        source.add_trial(optuna.trial.create_trial(params=params, distributions=wanted, value=float(layers)))
    imported = {"import_optuna": {"storage": url, "study": "old"}}
    with pytest.raises(hpt.ConfigError, match="first answer"):
        run(home, lambda params: "text", **imported)

    def broken(params: Mapping[str, object]) -> float:
        raise ValueError("never")

    result = run(home, broken, **imported)
    assert (result.status, result.stopped_by, result.final) == ("stopped", "failures", None)
    assert len([t for t in result.trials if t.counted]) == 5
    good = run(home, study="good", **imported)
    assert good.status == "finalized"
    assert good.trials[0].kind == "imported"


def test_an_objective_that_cannot_be_sent_leaves_the_name_free(home: Path) -> None:
    lock = threading.Lock()

    def holds_a_lock(params: Mapping[str, float]) -> float:
        return params["dropout"] if lock else 0.0

    with pytest.raises(hpt.ConfigError):
        run(home, holds_a_lock, executor="processes")
    assert hpt.list_studies(home) == []
    assert run(home).status == "finalized"


def test_a_ledger_that_fails_ends_the_study_with_its_own_words(home: Path) -> None:
    def after_some_trials(event: JsonObject) -> None:
        if event["type"] == "trial" and event["trial"] == 3:
            with sqlite3.connect(home / "ledger.db") as ledger:
                trigger = "create trigger full before insert on hpt_outbox begin select raise(abort, 'disk full'); end"
                ledger.execute(trigger)
            ledger.close()

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(hpt.LedgerError, match="disk full"):
        run(home, listener=after_some_trials)
    assert signal.getsignal(signal.SIGINT) is before
    assert not any(t.name.startswith("hpt-brain") for t in threading.enumerate())
    held = finished(home)
    assert len(held) == 4
    with sqlite3.connect(home / "ledger.db") as ledger:
        ledger.execute("drop trigger full")
    ledger.close()
    result = run(home, if_exists="resume")
    assert len(result.trials) == 8
    assert {n: held[n] for n in held} == {n: v for n, v in finished(home).items() if n in held}


def test_running_time_is_kept_while_a_trial_runs(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentic_hpt.graph.context._TICK_SECONDS", 0.05)
    seen: list[float] = []

    def waiting(params: Mapping[str, float], trial: Any) -> float:
        study = Study.open("study", home)
        while not seen or seen[-1] <= 0.0:
            seen.append(study.result().usage.seconds)
        return 1.0

    run(home, waiting, budget=hpt.Budget(trials=1), fresh_seeds=0)
    assert seen[-1] > 0.0


def test_fresh_works_with_a_mirror(tmp_path: Path, home: Path) -> None:
    import optuna

    url = f"sqlite:///{tmp_path}/mirror.db"
    run(home, optuna_storage=url)
    result = run(home, optuna_storage=url, if_exists="fresh", budget=hpt.Budget(trials=3))
    assert result.status == "finalized"
    names = {s.study_name: s.n_trials for s in optuna.get_all_study_summaries(url)}
    assert sorted(names.values()) == [3, 8]


def test_an_archived_study_keeps_its_experiment(home: Path) -> None:
    run(home, study="arc")
    run(home, study="arc", if_exists="fresh", budget=hpt.Budget(trials=2))
    quiet = {"mlflow": {"enabled": True}}
    held = Study.open("arc-archived-1", home)
    row = held._row
    assert row.first_name == "arc"
    from agentic_hpt import wiring
    from agentic_hpt.config import Settings

    config = StudyConfig.from_mapping({**held.config.to_json(), **quiet})
    tracker = wiring.make_tracker(config, Settings.load(home), row)
    assert tracker._settings["experiment"] == "arc"  # type: ignore[attr-defined]


def test_conditional_configurations_are_not_repeated(home: Path) -> None:
    space = hpt.SearchSpace(opt=hpt.Choice(["a", "b"]), momentum=hpt.Float(0.0, 1.0, when={"opt": "a"}))
    result = run(
        home,
        lambda params: 1.0 if params["opt"] == "b" else 0.5,
        space=space,
        strategy="joint",
        budget=hpt.Budget(trials=30),
    )
    keys = [json.dumps(dict(t.params), sort_keys=True) for t in result.trials]
    assert len(set(keys)) == len(keys) == 30


def test_resuming_with_other_settings_says_so(home: Path) -> None:
    run(home)
    with pytest.raises(hpt.ConfigError, match="another budget"):
        run(home, if_exists="resume", budget=hpt.Budget(trials=9))
    with pytest.raises(hpt.ConfigError, match="another seed"):
        run(home, if_exists="resume", seed=5)


def test_numpy_numbers_can_be_told(home: Path) -> None:
    import numpy as np

    description = {"study": "mine", "metric": "score", "space": SPACE, "mlflow": {"enabled": False}}
    with Study.create(StudyConfig.from_mapping(description), home=home) as study:
        trial = study.ask()
        assert study.tell(trial.id, {"score": np.float32(0.5)}).values == {"score": 0.5}  # type: ignore[dict-item]


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_a_message_that_no_encoding_holds_is_written_all_the_same(tmp_path: Path, home: Path, executor: str) -> None:
    code = "def train(params):\n    if params['dropout'] > 0.2: raise ValueError('bad \\ud800 text')\n    return 1.0"
    description = describe(tmp_path, code, executor=executor, parallel=1, budget={"trials": 8})
    result = run_study(StudyConfig.from_mapping(description), home=home)
    assert result.status == "finalized"
    assert all(t.finished for t in result.trials)
    assert any("bad \\ud800 text" in t.message for t in result.trials)


@pytest.mark.parametrize("name", ["h ?x", "h#x"])
def test_a_home_that_no_address_can_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(hpt.ConfigError, match="in its path"):
        run(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_bad_input_on_resume_removes_nothing(tmp_path: Path, home: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    description = describe(tmp_path, optuna_storage=f"sqlite:///{away}/o.db")
    assert drive(description, home, "trial_started", 1).returncode == -signal.SIGKILL
    away.rename(tmp_path / "gone")
    with pytest.raises(hpt.ConfigError, match="optuna_storage"):
        resume_study("study", home=home)
    (tmp_path / "gone").rename(away)
    assert len(resume_study("study", home=home).trials) == 20


def test_a_lock_is_let_go_when_the_last_writes_fail(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(self: Study) -> None:
        raise OSError("no writer")

    description = {"study": "mine", "metric": "score", "space": SPACE, "mlflow": {"enabled": False}}
    study = Study.create(StudyConfig.from_mapping(description), home=home)
    study.ask()
    monkeypatch.setattr(Study, "_write_behind", failing)
    with pytest.raises(OSError, match="no writer"):
        study.close()
    assert Study.open("mine", home).status == "stopped"
