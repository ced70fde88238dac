"""Whole studies whose trials are evaluated in batches."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.fidelity import Halving
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.records import TrialState
from agentic_hpt.strategies import FloorRule, NoPruner
from agentic_hpt.study import Study
from agentic_hpt.study.telling import explain_study
from agentic_hpt.wiring.executors import make_executor
from batch_objectives import Toy
from command_line import called
from executor_runs import ENVIRONMENT


def described(**changes: object) -> StudyConfig:
    return StudyConfig.from_mapping(
        {
            "study": "batches",
            "metric": "score",
            "space": {"value": {"float": [0.0, 1.0], "default": 0.5}},
            "budget": {"trials": 24},
            "executor": "batched",
            "parallel": 8,
            "mlflow": {"enabled": False},
            "fresh_seeds": 2,
            "pruner": "none",
            "strategy": "joint",
            **changes,
        }
    )


def test_a_study_runs_in_batches_to_its_end(home, tmp_path):
    log = tmp_path / "log"
    result = Study.create(described(), home=home).run(objective=Toy(log=log))
    assert result.status == "finalized"
    assert [t.state for t in result.trials if t.counted] == [TrialState.COMPLETE] * 24
    assert max(len(line.split()) for line in log.read_text().splitlines()) > 1
    assert result.final is not None
    assert result.final.holdout == pytest.approx(10 * result.best.params["value"])


def test_what_the_objective_remarks_of_how_it_trains_is_told_and_kept_once(home):
    events: list[Mapping[str, object]] = []
    remark = "trained one by one, since\n sk-abcdefghijklmnopqrstuvwxyz0123456789 can't be stacked"
    study = Study.create(described(), home=home)
    study.run(objective=Toy(remarks=remark), listener=events.append)
    told = "trained one by one, since *** can't be stacked"
    assert [event["text"] for event in events if event["type"] == "notice"].count(told) == 1
    [incident] = [line for line in explain_study(study).end if told in line]
    assert "the objective, behind " in incident


def test_successive_halving_goes_on_inside_batches(home):
    result = Study.create(described(pruner="asha"), home=home).run(objective=Toy())
    trials = [t for t in result.trials if t.counted]
    assert [t.state for t in trials[:4]] == [TrialState.COMPLETE] * 4
    stopped = [t for t in trials if t.state is TrialState.PRUNED]
    assert stopped
    assert max(t.reports[-1].metrics["score"] for t in stopped) < result.best.values["score"]


@pytest.mark.parametrize("objective", [FunctionObjective(lambda params: 0.5)])
def test_an_objective_that_runs_one_at_a_time_is_refused_and_the_name_stays_free(home, objective):
    with pytest.raises(ConfigError, match=r"executor: batched: .*runs one trial at a time .*torch_batch"):
        Study.create(described(), home=home).run(objective=objective)
    Study.create(described(), home=home)


def test_what_is_measured_of_a_process_does_not_go_with_batches():
    with pytest.raises(ConfigError, match="seconds does not go with executor: batched"):
        described(metric=["score", "seconds"])


@pytest.mark.parametrize(("budget", "slots"), [({"trials": 1000}, 32), ({"trials": 60}, 15), ({"minutes": 5}, 32)])
def test_a_batch_is_as_large_as_is_useful_and_a_part_of_the_budget(budget, slots, home, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = Study.create(described(parallel=None, budget=budget), home=home).config
    assert (config.parallel, config.round_trials) == (slots, slots)


def test_where_there_is_a_gpu_batches_are_larger(home, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    config = Study.create(described(parallel=None, budget={"trials": 2000}), home=home).config
    assert config.parallel == 256


def auto(home: Path, objective: object, **changes: object) -> tuple[Study, list[str]]:
    """Choose for a study with `executor: auto`, and give it with what was told."""
    study = Study.create(
        described(executor="auto", **{"parallel": None, "budget": {"trials": 100}, **changes}), home=home
    )
    told: list[str] = []
    with study:
        asyncio.run(study.choose_executor(objective, told.append))
    return study, told


def test_auto_takes_batches_where_they_pay_keeps_that_and_says_why(home):
    study, told = auto(home, Toy(pace=(0.05, 0.0)))
    assert (study.config.executor, study.config.parallel) == ("batched", 25)
    assert told[-1].startswith("executor: batched, by auto: batches of 25 make ")
    assert [change.told for change in study.changes()] == [told[-1]]
    kept = Study.open("batches", home)
    assert kept.config == study.config
    assert kept.redescribe(kept.config.model_copy(update={"executor": "auto", "parallel": None})) == []


def test_auto_keeps_to_processes_where_batches_do_not_pay(home):
    study, told = auto(home, Toy(pace=(0.0, 0.3)), parallel=2)
    assert study.config.executor == "processes"
    assert "by auto: batches of 2 make" in told[-1]


@pytest.mark.parametrize(
    ("objective", "changes", "word"),
    [
        (FunctionObjective(lambda params: 0.5), {}, None),
        (Toy(), {"budget": {"trials": 60}}, "the budget is too small to measure"),
        (Toy(), {"metric": ["score", "seconds"]}, "seconds is measured of a process"),
    ],
)
def test_auto_means_processes_where_there_is_nothing_to_measure(home, objective, changes, word):
    study, told = auto(home, objective, **changes)
    assert study.config.executor == "auto"
    assert type(make_executor(study.config, objective, FloorRule(NoPruner(), Halving()))) is ProcessExecutor
    assert study.changes() == []
    assert [word in text for text in told] == ([True] if word else [])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"executor": "batched"}, {"constraints": ["seconds <= 5"]}),
        ({"executor": "inline"}, {"parallel": 4}),
        ({"executor": "inline"}, {"limits": {"memory_mb": 500}}),
    ],
)
def test_auto_goes_on_as_processes_where_what_was_changed_does_not_go_with_what_ran_so_far(before, after, home):
    study = Study.create(described(parallel=None, **before), home=home)
    study.redescribe(described(**{"parallel": None, "executor": "auto", **after}))
    assert (study.config.executor, study.config.parallel) == ("auto", after.get("parallel"))
    assert f"executor {before['executor']} -> auto" in study.changes()[0].told
    assert Study.open("batches", home).config == study.config


def test_auto_measures_nothing_once_there_are_trials(home):
    first = Study.create(described(executor="auto", budget={"trials": 100}), home=home)
    first.tell(first.ask().id, {"score": 0.5})
    told: list[str] = []
    asyncio.run(first.choose_executor(Toy(), told.append))
    first.close()
    assert told == []
    assert first.config.executor == "auto"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_measuring_as_it_does_the_search(home, number):
    told: list[object] = []

    def listener(event: Mapping[str, object]) -> None:
        told.append(event.get("text"))
        if "measuring for some seconds" in str(told[-1]):
            assert signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler)
            os.kill(os.getpid(), number)

    config = described(executor="auto", parallel=None, budget={"trials": 100})
    result = Study.create(config, home=home).run(objective=Toy(pace=(0.5, 0.5)), listener=listener)
    assert (result.status, result.stopped_by, result.usage.trials) == ("stopped", "user", 0)
    assert result.exit_code == {signal.SIGINT: 130, signal.SIGTERM: 3}[number]
    assert told[-1] == "stopping: running trials are ended, the study can be resumed"
    assert Study.open("batches", home).config.executor == "auto", "it is measured anew"


def test_a_process_that_is_killed_costs_its_trials_an_attempt(home, tmp_path):
    log, lost = tmp_path / "log", []

    def listener(event: Mapping[str, object]) -> None:
        if event["type"] == "trial_started" and event["trial"] == 12:
            os.kill(int(log.with_suffix(".pid").read_text()), signal.SIGKILL)
        if event["type"] == "trial_lost":
            lost.append(event["trial"])

    study = Study.create(described(), home=home)
    result = study.run(objective=Toy(log=log, pace=(0.0, 0.05)), listener=listener)
    assert [t.state for t in result.trials if t.counted] == [TrialState.COMPLETE] * 24
    assert sorted(a.trial for a in study.lost_attempts()) == sorted(lost)
    assert all("killed from outside" in a.message for a in study.lost_attempts())
    assert {t.attempt for t in result.trials if t.id in lost} <= {2}


STUDY = """
study: wine
objective: {task: wine}
space:
  hidden_dim: {choice: [8, 16], default: 8}
  learning_rate: {float: [0.001, 0.1], log: true, default: 0.01}
  epochs: {int: [4, 6], default: 6}
budget: {trials: 200}
fresh_seeds: 1
pruner: none
mlflow: {children: "top:3"}
"""


def test_two_hundred_trials_of_a_built_in_task_run_in_batches_from_the_command_line(home, tmp_path, capfd):
    (tmp_path / "study.yaml").write_text(STUDY)
    code, out, _ = called(
        capfd, "run", str(tmp_path / "study.yaml"), "--executor", "batched", "--home", str(home), "--json"
    )
    assert code == 0
    document = json.loads(out)
    assert document["trials"] == {"complete": 200, "pruned": 0, "failed": 0, "total": 200}
    assert document["final"]["holdout"] > 0.8
    trials = [t for t in Study.open("wine", home).trials() if t.counted]
    assert [t.id for t in trials] == list(range(200))
    assert {t.attempt for t in trials} == {1}
    assert all(len(t.reports) == t.params["epochs"] for t in trials)
    assert len(list((home / "artifacts").glob("*/trials/batches/output.log"))) == 1


DRIVER = """
import os, signal, sys
from agentic_hpt.study import Study
from batch_objectives import Toy
from test_batched_runs import described

def listener(event):
    if event["type"] == "trial" and event["trial"] == 11:
        os.kill(os.getpid(), signal.SIGKILL)

Study.create(described(), home=sys.argv[1]).run(objective=Toy(), listener=listener)
"""


def test_a_study_whose_driver_was_killed_goes_on_and_no_trial_runs_twice(home, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, str(script), str(home)],
        env={**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{Path(__file__).parent}"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9
    study = Study.open("batches", home)
    before = {t.id: t for t in study.trials() if t.finished}
    assert 11 in before
    result = study.run(objective=Toy())
    assert result.status == "finalized"
    after = {t.id: t for t in result.trials}
    assert {i: after[i] for i in before} == before
    assert [t.state for t in after.values() if t.counted] == [TrialState.COMPLETE] * 24
