"""Trials on Ray do what trials in processes do: the same tests, on another executor."""

from __future__ import annotations

import inspect

import pytest

import objectives_for_tests as jobs
import test_executors
from agentic_hpt.errors import FailureKind
from executor_runs import go, job
from on_ray.conftest import build

OF_PROCESSES = [
    "test_a_dead_process_fails_its_trial_only",
    "test_the_reports_of_a_killed_trial_are_kept",
    "test_a_time_limit_kills_a_trial_that_ignores_sigterm_and_its_grandchild",
    "test_cancelling_kills_the_whole_group_before_it_returns",
    "test_cancelling_while_the_process_is_being_started_leaves_none",
    "test_closing_gives_a_running_trial_the_kind_cancelled",
    "test_what_a_finished_trial_left_running_is_killed",
    "test_output_goes_to_the_log_not_to_the_driver",
    "test_two_trials_run_at_once",
    "test_an_objective_that_cant_be_sent_is_refused_by_name",
]

LEFT_OUT = {
    "test_a_failure_has_its_kind_and_says_why",  # below, on one executor: each costs Ray a process
    "test_a_number_is_the_metric",  # what a mapping is shows it
    "test_closing_ends_what_runs",  # one of those above says more
}

globals().update(
    {
        name: test
        for name, test in vars(test_executors).items()
        if name.startswith("test_")
        and name not in LEFT_OUT
        and (name in OF_PROCESSES or "kind" in inspect.signature(test).parameters)
    }
)


@pytest.fixture
def kind() -> str:
    return "ray"


@pytest.fixture(autouse=True)
def _on_ray(ray_here, monkeypatch):
    monkeypatch.setattr(test_executors, "build", build)


def test_failures_have_their_kinds_and_say_why(tmp_path):
    expected = [
        ("raises", FailureKind.CRASH, "ValueError: the learning rate is cursed"),
        ("runs_out_of_memory", FailureKind.OUT_OF_MEMORY, "MemoryError"),
        ("reports_nan", FailureKind.NAN, "inf at step 0"),
        ("gives_none", FailureKind.INVALID_OUTPUT, "nothing (None)"),
    ]

    def train(params, trial):
        return getattr(jobs, params["what"])(*(params, trial)[: 2 if "reports" in params["what"] else 1])

    outcomes = go(build("ray", train), *(job(tmp_path, {"what": what}) for what, _, _ in expected))
    assert [(o.failure, text in o.message) for o, (_, _, text) in zip(outcomes, expected, strict=True)] == [
        (kind, True) for _, kind, _ in expected
    ]
