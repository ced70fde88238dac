"""Configurations that somebody gives run first, once each, behind the default."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import agentic_hpt as hpt
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError
from agentic_hpt.graph import bridging
from agentic_hpt.records import Trial, configuration_key
from agentic_hpt.study import Study, resume_study
from agentic_hpt.study.result import Result
from situations import NEW, SPACE, situation, trial
from study_runs import describe, drive, finished

ROUND = 6


def config(*initial: object, **changes: object) -> StudyConfig:
    described = {"study": "s", "metric": "accuracy", "space": SPACE, "budget": {"trials": 20}, "initial": list(initial)}
    return StudyConfig.from_mapping({**described, **changes})


def run(home: Path, *initial: dict[str, object], trials: int = 12, **options: object) -> Result:
    return hpt.tune(
        lambda params: -((params["x"] - 0.7) ** 2) - (params["y"] - 3) ** 2,
        {"x": hpt.Float(0.0, 1.0, default=0.5), "y": hpt.Int(1, 5, default=1)},
        metric="score",
        study="study",
        budget=hpt.Budget(trials=trials),
        executor="inline",
        mlflow={"enabled": False},
        fresh_seeds=0,
        trials_per_round=ROUND,
        home=home,
        initial=list(initial),
        **options,  # type: ignore[arg-type]
    )


def given(trials: tuple[Trial, ...]) -> list[dict[str, object]]:
    return [dict(t.params) for t in trials if t.kind == "initial"]


@pytest.mark.parametrize("strategy", ["auto", "per_parameter", "joint"])
def test_given_configurations_run_behind_the_default_and_count(home: Path, strategy: str) -> None:
    result = run(home, {"x": 0.7}, {"y": 3, "x": 0.2}, strategy=strategy)
    assert [(t.kind, t.round, dict(t.params)) for t in result.trials[:3]] == [
        ("default", 1, {"x": 0.5, "y": 1}),
        ("initial", 1, {"x": 0.7, "y": 1}),
        ("initial", 1, {"x": 0.2, "y": 3}),
    ]
    assert len(given(result.trials)) == 2
    assert result.usage.trials == len(result.trials) == 12
    assert sum(t.round == 1 for t in result.trials) == ROUND


def test_what_is_given_twice_or_is_the_default_runs_once(home: Path) -> None:
    result = run(home, {}, {"x": 0.7}, {"x": 0.5}, {"x": 0.7, "y": 1})
    assert given(result.trials) == [{"x": 0.7, "y": 1}]
    keys = [configuration_key(t.params) for t in result.trials]
    assert len(set(keys)) == len(keys)


def test_more_than_a_round_holds_go_on_in_the_next_one(home: Path) -> None:
    wanted = [{"x": n / 100, "y": 2} for n in range(8)]
    result = run(home, *wanted)
    assert given(result.trials) == wanted
    assert [t.round for t in result.trials if t.kind == "initial"] == [1] * (ROUND - 1) + [2] * (8 - ROUND + 1)


def test_what_is_left_out_has_its_default_and_what_is_not_active_stays_out() -> None:
    found = config({"optimizer": "sgd"}, {"layers": 5.0}).initial_configurations
    assert found == (
        {"layers": 3, "rate": 0.01, "optimizer": "sgd", "momentum": 0.5},
        {"layers": 5, "rate": 0.01, "optimizer": "adam"},
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"rate": 5.0}, ["configuration 2", "'rate'", "5.0 is outside"]),
        ({"optimizer": "adamw"}, ["configuration 2", "'optimizer'", "adamw"]),
        ({"lr": 0.1}, ["configuration 2", "unknown parameter 'lr'"]),
        ({"momentum": 0.9}, ["configuration 2", "'momentum'", "not active"]),
        ({"rate": "fast"}, ["configuration 2", "'rate'", "not a finite number"]),
        ([0.1], ["initial.1"]),
    ],
)
def test_a_wrong_one_is_refused_by_its_number_and_parameter(entry: object, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        config({"layers": 5}, entry)
    for word in words:
        assert word in str(refused.value)


def test_they_are_kept_with_the_study() -> None:
    described = config({"rate": 0.02}, {"optimizer": "sgd", "momentum": 0.9})
    assert StudyConfig.from_mapping(described.to_json()).initial_configurations == described.initial_configurations


@pytest.mark.parametrize(("event", "count"), [("trial_started", 2), ("trial", 3), ("trial", 6), ("decision", 1)])
def test_after_a_kill_none_is_lost_or_run_twice(tmp_path: Path, home: Path, event: str, count: int) -> None:
    wanted = [{"num_layers": n, "learning_rate": 0.01, "dropout": 0.1} for n in range(1, 6)]
    described = describe(tmp_path, initial=wanted, trials_per_round=4)
    assert drive(described, home, event, count).returncode == -signal.SIGKILL
    before = finished(home)
    result = resume_study("study", home=home)
    after = finished(home)
    assert {number: after[number] for number in before} == before
    assert given(result.trials) == wanted
    assert len(result.trials) == 20


def test_those_who_own_their_loop_get_them_behind_the_default(home: Path) -> None:
    described = config({"rate": 0.02}, {"layers": 5}, mlflow={"enabled": False})
    with Study.create(described, home=home) as study:
        asked = [dict(study.ask().params) for _ in range(4)]
    assert asked[:3] == [SPACE.default(), *map(dict, described.initial_configurations)]
    assert asked[3] not in asked[:3]


def test_those_who_own_their_loop_begin_with_the_default_behind_imported_trials_too(home: Path) -> None:
    described = config({"rate": 0.02}, mlflow={"enabled": False})
    with Study.create(described, home=home) as study:
        study._acquire()
        study._fill([trial(0, 0.5, params=NEW)], [])
        asked = [dict(study.ask().params) for _ in range(3)]
    assert asked[:2] == [SPACE.default(), *map(dict, described.initial_configurations)]
    assert asked[2] not in [*asked[:2], NEW]


def test_they_wait_until_they_have_run_and_have_their_place_in_the_round() -> None:
    first = {"layers": 5, "rate": 0.01, "optimizer": "adam"}
    now = situation(trials=(trial(0, 0.5, params=first),), initial=(first, NEW))
    assert now.waiting == (NEW,)
    assert bridging.places(now, None) == 1
    failed = trial(1, None, params=NEW)
    assert situation(trials=(*now.trials, failed), initial=(first, NEW)).waiting == ()
    later = trial(1, 0.5, params=NEW, round=2)
    assert situation(trials=(*now.trials, later), initial=(first, NEW)).waiting == (NEW,), "a killed round runs again"
