"""Trials of the built-in job trained together: told one by one, with the figures that each has alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from agentic_hpt.errors import FailureKind, Pruned
from agentic_hpt.executors.batched import BatchedExecutor
from agentic_hpt.objectives import mlp_batch, torch_checkpoint, torch_trainer
from agentic_hpt.objectives.torch_trainer import TorchTrainer
from agentic_hpt.records import Outcome, TrialState
from batch_objectives import together as run_together
from called_batches import Handle, Together, handles
from executor_runs import job

Curve = list[tuple[int, dict[str, float]]]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some(**fixed: object) -> list[dict[str, object]]:
    """Configurations of two depths, with several widths, batch sizes, optimizers and lengths."""
    base = {"epochs": 4, "learning_rate": 3e-3, "hidden_dim": 24, **fixed}
    return [
        {**base},
        {**base, "hidden_dim": 40, "batch_size": 32, "optimizer": "sgd", "momentum": 0.5},
        {**base, "num_layers": 1, "dropout": 0.4, "schedule": "linear"},
        {**base, "hidden_dim": 16, "optimizer": "adamw", "weight_decay": 0.01, "dropout": 0.0},
        {**base, "epochs": fixed.get("epochs", 6), "activation": "relu"},
    ]


def together(trials: Sequence[Handle], task: str = "wine", latency: bool = False) -> Together:
    batch = Together(trials)
    TorchTrainer(task, latency).run_batch(batch)
    return batch


def alone(trial: Handle, task: str = "wine") -> dict[str, float] | None:
    """Give a trial's answer, or `None` where it was stopped."""
    try:
        return TorchTrainer(task).run(trial.params, trial)
    except Pruned:
        return None


def near(curve: Curve) -> list[tuple[int, object]]:
    return [(step, pytest.approx(figures, abs=2e-5)) for step, figures in curve]


def test_trials_of_a_batch_have_the_curves_and_answers_that_they_have_alone(tmp_path):
    trials = handles(tmp_path / "together", some())
    batch = together(trials)
    assert not batch.failures
    for trial in handles(tmp_path / "alone", some()):
        answer = alone(trial)
        assert batch.answers[trial.id] == pytest.approx(answer, abs=2e-5)
        assert trials[trial.id].told == near(trial.told)
    assert not list((tmp_path / "together" / "checkpoints").iterdir()), "complete trainings leave no checkpoint"


def test_a_batch_leaves_torchs_random_numbers_alone_and_gives_the_same_again(tmp_path):
    state = torch.get_rng_state()
    first = together(handles(tmp_path / "a", some(epochs=1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert together(handles(tmp_path / "b", some(epochs=1))).answers == first.answers


@pytest.mark.parametrize("wide", [8, 64])
def test_one_that_diverges_has_failed_and_its_neighbours_are_untouched(tmp_path, wide):
    wild = {"learning_rate": 1e30, "hidden_dim": wide, "epochs": 4}
    trials = handles(tmp_path, [*some(), wild])
    batch = together(trials)
    [(number, (kind, message))] = batch.failures.items()
    assert (number, kind) == (5, FailureKind.NAN)
    assert "diverged" in message
    assert not any(math.isnan(x) for trial in trials for _, told in trial.told for x in told.values())
    apart = together(handles(tmp_path / "apart", some()))
    assert batch.answers == {k: pytest.approx(answer, abs=2e-5) for k, answer in apart.answers.items()}


@pytest.mark.parametrize("bad", [{"hidden_dim": 0}, {"dropout": 1.5}, {"warmup": 3}, {"activation": "step"}])
def test_a_configuration_that_cant_be_trained_fails_by_itself(tmp_path, bad):
    params = [*some(epochs=1)[:2], bad]
    assert [2] in TorchTrainer("wine").groups(params)
    batch = together(handles(tmp_path, params))
    [(number, (kind, message))] = batch.failures.items()
    assert (number, kind) == (2, FailureKind.INVALID_OUTPUT)
    assert next(iter(bad)) in message
    assert sorted(batch.answers) == [0, 1]


def test_each_configuration_is_in_one_group_and_a_group_is_not_too_long():
    params = [*some(), *some(num_layers=3)] * 10
    groups = TorchTrainer("digits").groups(params)
    assert sorted(k for group in groups for k in group) == list(range(100))
    assert max(map(len, groups)) <= torch_trainer.MOST["cpu"]
    assert len(groups) <= 6
    assert TorchTrainer("digits").groups([]) == []


def test_several_workers_share_the_stacks_and_change_nothing(tmp_path):
    params = [*some(), *some(num_layers=3, hidden_dim=8)]
    single = together(handles(tmp_path / "one", params))
    torch.set_num_threads(3)
    shared = together(handles(tmp_path / "three", params))
    assert torch.get_num_threads() == 3
    assert shared.answers == {k: pytest.approx(answer, abs=2e-5) for k, answer in single.answers.items()}


def test_latency_is_measured_where_it_is_looked_at(tmp_path):
    [answer] = together(handles(tmp_path, some(epochs=1)[:1]), latency=True).answers.values()
    assert 0 < answer["latency_ms"] < 1000
    assert answer["parameters"] == 13 * 24 + 24 + 24 * 24 + 24 + 24 * 3 + 3


@pytest.mark.parametrize("first", ["together", "alone"])
@pytest.mark.parametrize("then", ["together", "alone"])
def test_stopped_trials_go_on_from_their_checkpoints_to_the_same_figures(tmp_path, first, then):
    """In a batch or alone, whatever they were before; each at the epoch that it was stopped at."""
    whole = handles(tmp_path / "whole", some(epochs=5))
    complete = together(whole)
    trials = handles(tmp_path, some(epochs=5))
    for trial in trials[:4]:
        trial.stops = trial.id % 3
    batch = together(trials) if first == "together" else None
    if batch is not None:
        assert batch.stopped == {0, 1, 2, 3}
        assert list(batch.answers) == [4]
    else:
        assert [alone(trial) is None for trial in trials] == [True] * 4 + [False]
    again = handles(tmp_path, some(epochs=5))[:4]
    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        epoch = mlp_batch.Stack.epoch
        patch.setattr(mlp_batch.Stack, "epoch", lambda stack: (steps.append(len(stack.hp)), epoch(stack))[1])
        answers = together(again).answers if then == "together" else {t.id: alone(t) for t in again}
    for trial in again:
        assert answers[trial.id] == pytest.approx(complete.answers[trial.id], abs=5e-5)
        assert trial.told == [(s, pytest.approx(f, abs=5e-5)) for s, f in whole[trial.id].told]
    if then == "together":
        assert sum(steps) <= 4 * 4, "only the epochs that were left"


def test_a_host_that_is_killed_loses_what_came_after_the_newest_checkpoints_only(tmp_path, monkeypatch):
    whole = together(handles(tmp_path / "whole", some(epochs=5)))
    monkeypatch.setattr(torch_checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(torch_checkpoint, "SAVING", math.inf)

    with pytest.raises(KeyboardInterrupt):
        TorchTrainer("wine").run_batch(Together(handles(tmp_path, some(epochs=5))[3:4], killed_at=3))
    epochs: list[int] = []
    epoch = mlp_batch.Stack.epoch
    monkeypatch.setattr(mlp_batch.Stack, "epoch", lambda stack: (epochs.append(1), epoch(stack))[1])
    again = together(handles(tmp_path, some(epochs=5))[3:4])
    assert again.answers[3] == pytest.approx(whole.answers[3], abs=5e-5)
    assert len(epochs) == 1


def test_in_the_process_for_batches_losers_leave_and_go_on_later_to_the_figures_of_a_whole_training(tmp_path):
    def run(folder: Path, stops: Mapping[int, int]) -> list[Outcome]:
        jobs = [job(folder, params, trial=number) for number, params in enumerate(some(epochs=5))]
        executor = BatchedExecutor(TorchTrainer("wine"), "accuracy", len(jobs))
        return run_together(executor, jobs, lambda trial, report: report.step >= stops.get(trial, 9))

    whole = run(tmp_path / "whole", {})
    assert [outcome.state for outcome in whole] == [TrialState.COMPLETE] * 5
    first = run(tmp_path / "halved", {0: 1, 3: 2, 4: 0})
    assert [outcome.state is TrialState.COMPLETE for outcome in first] == [False, True, True, False, False]
    assert [len(outcome.reports) for outcome in first] == [2, 5, 5, 3, 1]
    again = run(tmp_path / "halved", {})
    for outcome, expected in zip(again, whole, strict=True):
        assert outcome.values == pytest.approx(dict(expected.values), abs=5e-5)
        assert [r.step for r in outcome.reports] == [0, 1, 2, 3, 4]


def test_with_what_a_device_draws_trials_end_stop_and_go_on_as_they_should(tmp_path, monkeypatch):
    """As on a GPU, its graphs apart: a stack is not made smaller for each that leaves, and who left is not told of."""
    monkeypatch.setattr(mlp_batch, "_AS_ALONE", ())
    sizes: list[int] = []
    epoch = mlp_batch.Stack.epoch
    monkeypatch.setattr(mlp_batch.Stack, "epoch", lambda stack: (sizes.append(len(stack.hp)), epoch(stack))[1])
    params = [
        {"hidden_dim": 16 + k, "dropout": 0.2, "epochs": 4, "batch_size": 16, "learning_rate": 1e-2} for k in range(8)
    ]
    params.append({**params[0], "learning_rate": 1e30})
    trials = handles(tmp_path, params)
    for number, step in ((0, 1), (1, 2), (2, 2)):
        trials[number].stops = step
    batch = together(trials)
    assert batch.stopped == {0, 1, 2}
    assert list(batch.failures) == [8]
    assert sorted(batch.answers) == [3, 4, 5, 6, 7]
    assert [[step for step, _ in trial.told] for trial in trials[:4]] == [[0, 1], [0, 1, 2], [0, 1, 2], [0, 1, 2, 3]]
    assert sizes == [9, 9, 9, 5], "eight of nine stay together; five go on by themselves"
    again = handles(tmp_path, params)[:3]
    later = together(again)
    assert sorted(later.answers) == [0, 1, 2]
    for trial, before in zip(again, trials, strict=False):
        assert [step for step, _ in trial.told] == [0, 1, 2, 3]
        assert trial.told[: len(before.told)] == before.told, "the epochs behind it"
    assert all(answer["accuracy"] > 0.6 for answer in (*batch.answers.values(), *later.answers.values()))
