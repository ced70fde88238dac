"""Whole runs: what a study does from its first trial to its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError, FailureKind, StudyExists
from agentic_hpt.records import Assignment, JsonObject, Proposal, Trial, TrialState
from agentic_hpt.strategies import PerParameter
from agentic_hpt.study import Result, Study, list_studies, run_study
from agentic_hpt.testing import bowl
from study_runs import describe, drive

SPACE = hpt.SearchSpace(
    num_layers=hpt.Int(1, 6, default=2),
    learning_rate=hpt.Float(1e-4, 1e-1, log=True, default=1e-3),
    dropout=hpt.Float(0.0, 0.5, default=0.1),
)
QUIET: dict[str, object] = {"executor": "inline", "mlflow": {"enabled": False}, "fresh_seeds": 2}


def run(home: Path, events: list[JsonObject] | None = None, **changes: object) -> Result:
    options: dict[str, object] = {**QUIET, "budget": hpt.Budget(trials=24), "metric": "score", **changes}
    options.setdefault("strategy", "per_parameter")
    objective = options.pop("objective", bowl(num_layers=5, learning_rate=1e-2, dropout=0.3))
    space = options.pop("space", SPACE)
    listener = events.append if events is not None else None
    return hpt.tune(objective, space, study="study", home=home, listener=listener, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["auto", "per_parameter", "joint"])
def test_a_run_spends_its_budget_exactly_and_improves_on_the_default(home: Path, strategy: str) -> None:
    result = run(home, strategy=strategy)
    assert result.status == "finalized"
    assert result.stopped_by == "budget.trials"
    assert len(result.trials) == 24
    first = result.trials[0]
    assert (first.id, first.kind, first.params) == (0, "default", SPACE.default())
    assert result.best is not None
    assert result.best.values["score"] > first.values["score"] / 4
    assert all(set(t.params) == set(SPACE.names) for t in result.trials)


def test_the_four_workers_of_the_first_round_come_from_assignments(home: Path) -> None:
    events: list[JsonObject] = []
    run(home, events)
    first = next(e for e in events if e["type"] == "round")
    assert isinstance(first["workers"], list)
    assert [(w["worker"], w["kind"]) for w in first["workers"]] == [
        ("default", "default"),
        *((name, "per_parameter") for name in SPACE.names),
    ]


def test_all_improvements_of_a_round_are_tried_together(home: Path) -> None:
    result = run(home)
    combined = [t for t in result.trials if t.kind == "combination"]
    assert combined
    merged = combined[0]
    last = [t for t in result.trials if t.round == merged.round - 1]
    base = max((t for t in last if t.kind == "default"), key=lambda t: t.values["score"])
    for name in merged.tuned:
        candidates = [t for t in last if t.tuned == (name,) and t.state is TrialState.COMPLETE]
        best = max(candidates, key=lambda t: t.values["score"])
        if best.values["score"] > base.values["score"]:
            assert merged.params[name] == best.params[name]


def test_the_target_ends_the_search(home: Path) -> None:
    result = run(home, target=-1.0)
    assert result.stopped_by == "target"
    assert len(result.trials) < 24
    assert result.best is not None
    assert result.best.values["score"] >= -1.0


def test_the_best_of_all_rounds_is_never_forgotten(home: Path) -> None:
    """The seed system kept the last round's best only."""
    calls = iter(range(1000))

    def fading(params: Mapping[str, object]) -> float:
        return -float(next(calls))

    result = run(home, objective=fading, pruner="none")
    assert result.best is not None
    assert result.best.id == 0
    assert result.final is not None
    assert result.final.trial == 0


def test_more_than_25_rounds_run(home: Path) -> None:
    result = run(home, trials_per_round=1, budget=hpt.Budget(trials=40), strategy="joint")
    assert len(result.decisions) >= 40


def test_a_worker_that_dies_neither_ends_nor_stalls_the_round(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = PerParameter.propose

    def dying(self: PerParameter, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        if assignment.worker == "dropout":
            raise RuntimeError("the worker's sampler broke")
        return sound(self, assignment, trials, seed)

    monkeypatch.setattr(PerParameter, "propose", dying)
    events: list[JsonObject] = []
    result = run(home, events)
    assert result.status == "finalized"
    assert {t.worker for t in result.trials if t.round == 1} == {"default", "num_layers", "learning_rate"}
    assert any("dropout failed" in str(e["text"]) for e in events if e["type"] == "notice")


def test_when_all_workers_die_the_study_stops_and_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(self: PerParameter, assignment: Assignment, trials: Sequence[Trial], seed: int) -> Proposal | None:
        raise RuntimeError("no sampler works")

    monkeypatch.setattr(PerParameter, "propose", dying)
    with pytest.raises(hpt.HptError, match="no sampler works"):
        run(home)
    monkeypatch.undo()
    assert Study.open("study", home).status == "stopped"
    assert len(run(home, if_exists="resume").trials) == 24


def test_failed_trials_have_a_kind_and_no_value_and_the_study_goes_on(home: Path) -> None:
    def fragile(params: Mapping[str, float]) -> float:
        if params["num_layers"] > 4:
            raise MemoryError("too deep")
        if params["dropout"] > 0.4:
            return float("nan")
        return float(params["num_layers"])

    result = run(home, objective=fragile)
    failed = [t for t in result.trials if t.state is TrialState.FAILED]
    assert {t.failure for t in failed} <= {FailureKind.OUT_OF_MEMORY, FailureKind.NAN}
    assert FailureKind.OUT_OF_MEMORY in {t.failure for t in failed}
    assert all(not t.values for t in failed)
    assert result.best is not None
    assert result.best.params["num_layers"] == 4
    assert result.to_json()["trials"]["failed"] == len(failed)  # type: ignore[index]


def test_a_study_in_which_nothing_completes_fails_and_says_why(home: Path) -> None:
    def broken(params: Mapping[str, object]) -> float:
        raise ValueError("the data is missing")

    result = run(home, objective=broken, budget=hpt.Budget(trials=4))
    assert (result.status, result.exit_code) == ("failed", 1)
    assert result.best is None
    assert result.final is None
    assert "the data is missing" in str(result.to_json()["error"])


@pytest.mark.parametrize("executor", ["inline", "processes"])
@pytest.mark.parametrize(
    ("answer", "said"), [("None", "nothing"), ("'0.9'", "'0.9'"), ("{'other': 1.0}", "other"), ("[0.5]", "0.5")]
)
def test_an_objective_without_a_usable_answer_is_refused(
    tmp_path: Path, home: Path, executor: str, answer: str, said: str
) -> None:
    code = f"def train(params):\n    return {answer}"
    with pytest.raises(hpt.ConfigError, match="first answer can't be used") as refused:
        run_study(StudyConfig.from_mapping(describe(tmp_path, code, executor=executor)), home=home)
    assert refused.value.exit_code == 2
    assert said in str(refused.value)
    assert "'score'" in refused.value.message
    assert list_studies(home) == [], "the name stays free"
    assert list((home / "artifacts").iterdir()) == []
    good = describe(tmp_path, "def train(params):\n    return 1.0", executor="inline", budget={"trials": 2})
    assert run_study(StudyConfig.from_mapping(good), home=home).status == "finalized"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "train.py"]


def test_an_objective_that_is_always_nan_ends_with_exit_code_2(home: Path) -> None:
    result = run(home, objective=lambda params: float("nan"), budget=hpt.Budget(trials=3))
    assert (result.status, result.exit_code) == ("failed", 2)
    assert {t.failure for t in result.trials} == {FailureKind.NAN}
    assert "nan" in str(result.error)


def test_the_time_budget_ends_trials_that_run(tmp_path: Path, home: Path) -> None:
    slow = "import time\ndef train(params):\n    time.sleep(600)"
    description = describe(tmp_path, slow, budget={"minutes": 0.1}, executor="processes", parallel=2)
    result = run_study(StudyConfig.from_mapping(description), home=home)
    assert result.stopped_by == "budget.minutes"
    assert {t.failure for t in result.trials} == {FailureKind.CANCELLED}


def test_a_finite_space_ends_when_all_of_it_was_tried(home: Path) -> None:
    space = hpt.SearchSpace(a=hpt.Int(1, 3), b=hpt.Choice(["x", "y"]))
    result = run(home, space=space, objective=lambda params: params["a"], budget=hpt.Budget(trials=50))
    assert result.stopped_by == "exhausted"
    assert len(result.trials) == 6
    assert len({json.dumps(dict(t.params), sort_keys=True) for t in result.trials}) == 6


def test_the_final_figures_are_of_fresh_seeds_and_the_holdout(home: Path) -> None:
    def noisy(params: Mapping[str, object], trial: object) -> float:
        return (trial.seed % 1000) / 1000  # type: ignore[attr-defined]

    asked: list[object] = []

    def holdout(params: Mapping[str, object], trial: object) -> float:
        asked.append(params)
        return 0.25

    result = run(home, objective=noisy, final=holdout, fresh_seeds=5, pruner="none")
    final, best = result.final, result.best
    assert final is not None
    assert best is not None
    assert len(asked) == 1
    assert final.holdout == 0.25
    assert final.fresh_seeds == 5
    assert final.mean is not None
    assert final.mean < best.values["score"]
    assert final.selection_gap == pytest.approx(best.values["score"] - final.mean)
    assert len(result.trials) == 24, "fresh seeds are no trials of the search"
    (home / "report").mkdir()
    assert "0.25" in result.report(home / "report" / "r.html").read_text()


def test_what_is_no_metrics_name_is_refused(home: Path) -> None:
    with pytest.raises(hpt.ConfigError, match="metric: 3: give a metric's name"):
        run(home, metric=3)


def test_a_taken_name_is_refused_resumed_or_archived_never_merged(home: Path) -> None:
    first = run(home)
    with pytest.raises(StudyExists, match="hpt resume study"):
        run(home)
    again = run(home, if_exists="resume")
    assert [t.id for t in again.trials] == [t.id for t in first.trials]
    with pytest.raises(hpt.ConfigError, match="another metric"):
        run(home, if_exists="resume", metric="other")
    fresh = run(home, if_exists="fresh", budget=hpt.Budget(trials=5))
    assert len(fresh.trials) == 5
    assert {(s["study"], s["trials"]) for s in list_studies(home)} == {("study", 5), ("study-archived-1", 24)}
    assert len(Study.open("study-archived-1", home).trials()) == 24


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_the_same_file_and_seed_give_the_same_trials_and_decisions(tmp_path: Path, home: Path, executor: str) -> None:
    description = describe(tmp_path, executor=executor, parallel=1)
    courses = []
    for name in ("one", "two"):
        done = drive(description, home / name)
        assert done.returncode == 0, done.stderr
        study = Study.open("study", home / name)
        trials = [(t.id, t.params, t.values, t.state, t.worker, t.round, t.seed) for t in study.trials()]
        decisions = [[(a.type, a.reason, a.evidence, a.verdict) for a in d.actions] for d in study.decisions()]
        courses.append((trials, decisions))
    assert courses[0] == courses[1]
    other = drive({**description, "seed": 1}, home / "three")
    assert other.returncode == 0
    assert [t.params for t in Study.open("study", home / "three").trials()] != [t[1] for t in courses[0][0]]


def test_ask_and_tell(home: Path) -> None:
    description = {
        "study": "mine",
        "metric": "score",
        "space": SPACE,
        "budget": {"trials": 6},
        "mlflow": {"enabled": False},
    }
    with Study.create(StudyConfig.from_mapping(description), home=home) as study:
        asked = [study.ask() for _ in range(3)]
        assert asked[0].params == SPACE.default()
        assert len({json.dumps(dict(t.params)) for t in asked}) == 3
        assert study.tell(asked[1], {"score": 0.5}).values == {"score": 0.5}
        for what in ("1", 1.0, True, None, {"id": 1}):
            with pytest.raises(hpt.ConfigError, match=r"tell: .* is no trial .*give what ask gave, or its id"):
                study.tell(what, 0.25)  # type: ignore[arg-type]
        study.tell(asked[0].id, 0.25)
        study.tell(asked[2].id, None, state="failed", message="no GPU")
        with pytest.raises(hpt.LedgerError, match="second answer"):
            study.tell(asked[0].id, 0.9)
        with pytest.raises(hpt.ConfigError, match="no finite number"):
            study.tell(study.ask().id, float("nan"))
        with pytest.raises(hpt.ConfigError, match="the state is 'ok'"):
            study.tell(3, 0.5, state="ok")  # type: ignore[arg-type]
        for wrong in (True, 10**400, 1e200, "0.5", [0.5, 0.6]):
            with pytest.raises(hpt.ConfigError, match="no finite number"):
                study.tell(3, {"score": wrong})  # type: ignore[dict-item]
        for _ in range(2):
            study.ask()
        with pytest.raises(hpt.ConfigError, match="all 6 trials"):
            study.ask()
    with Study.open("mine", home) as study:
        best = study.best()
        assert best is not None
        assert (best.id, best.values) == (1, {"score": 0.5})
        assert study.trials()[2].failure is FailureKind.CRASH


def test_what_was_asked_for_and_not_told_is_given_up_when_the_study_is_run(tmp_path: Path, home: Path) -> None:
    described = describe(tmp_path, strategy="joint", budget={"trials": 3}, fresh_seeds=0)
    with Study.create(StudyConfig.from_mapping(described), home=home) as study:
        study.tell(study.ask(), 0.5)
        study.ask()
        result = study.run()
    assert [t.state.value for t in result.trials] == ["complete", "failed", "complete"], "else it would run for ever"
    assert (result.trials[1].failure, result.trials[1].message) == (
        FailureKind.CANCELLED,
        "the study was run before this was told",
    )


def test_only_the_home_is_written(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    run(home)
    assert list(work.iterdir()) == []
    assert {p.name for p in home.iterdir()} <= {
        "ledger.db",
        "ledger.db-wal",
        "ledger.db-shm",
        "checkpoints.db",
        "artifacts",
    }


def test_bad_input_leaves_nothing_behind(tmp_path: Path, home: Path) -> None:
    for changes in (
        {"objective": {"python": "missing.py:train", "folder": str(tmp_path)}},
        {"objective": {"python": "train.py:absent", "folder": str(tmp_path)}},
        {"objective": {"command": ["no-such-program-anywhere", "{learning_rate}"]}},
        {"objective": {"command": ["python3", "{unknown}"]}},
        {"coordinator": {"model": "nobody:model"}},
        {"objective": {"task": "wine"}, "metric": "accuracy", "space": {"depth": {"int": [1, 2]}}},
        {"objective": {"task": "wine"}, "metric": "f1", "space": {"dropout": {"float": [0, 0.5]}}},
        {"import_optuna": {"storage": f"sqlite:///{tmp_path}/none.db", "study": "x"}},
    ):
        with pytest.raises(hpt.ConfigError):
            run_study(StudyConfig.from_mapping(describe(tmp_path, **changes)), home=home)
        assert not home.exists()


def test_a_coordinator_is_described_as_in_the_study_file(home: Path) -> None:
    run(home, budget=hpt.Budget(trials=2), coordinator={"max_tokens": 100})
    assert Study.open("study", home).config.coordinator.max_tokens == 100


@pytest.mark.parametrize("coordinator", [3, ["openai:m"], object()])
def test_what_can_coordinate_nothing_is_refused_before_a_trial_is_spent(home: Path, coordinator: object) -> None:
    with pytest.raises(ConfigError, match=r"coordinator: .* is no coordinator"):
        run(home, coordinator=coordinator)
    assert not home.exists() or not list_studies(home)


def test_a_word_of_ones_own_for_what_becomes_of_a_name_that_is_taken_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match="if_exists: 'replace'"):
        run(home, if_exists="replace")
    assert not home.exists()


def test_a_home_that_is_no_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="home: 3 is no folder"):
        run(3)  # type: ignore[arg-type]
