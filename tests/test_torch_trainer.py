"""The built-in PyTorch job: its data, its training, its model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from agentic_hpt.errors import ConfigError, FailureKind
from agentic_hpt.executors.handle import run_objective
from agentic_hpt.executors.processes import ProcessExecutor
from agentic_hpt.objectives import torch_checkpoint, torch_trainer
from agentic_hpt.objectives.datasets import Sizes, load, sizes
from agentic_hpt.objectives.torch_trainer import TorchTrainer, load_example, load_model
from agentic_hpt.presets import TASKS, task_study
from agentic_hpt.records import Job, Outcome, TrialState
from agentic_hpt.space import SearchSpace

GOOD = {"num_layers": 2, "learning_rate": 5e-3, "hidden_dim": 256, "dropout": 0.3}


def job(folder: Path, params, seed=1, final=False) -> Job:
    return Job("s", 0, 1, params, seed, "w", str(folder / "a"), str(folder / "c"), final)


def run(task: str, job_: Job, metric="accuracy", on_report=lambda report: False) -> Outcome:
    return run_objective(TorchTrainer(task), job_, metric, on_report)


@pytest.mark.parametrize("task", TASKS)
def test_the_sizes_that_are_told_without_loading_the_data_are_the_datas(task):
    split = load(task)
    parts = [len(part.labels) for part in (split.train, split.validation, split.holdout)]
    assert sizes(task) == Sizes(*parts, split.train.features.shape[1], len(split.labels))


@pytest.mark.parametrize("params", [{}, {"num_layers": 4, "hidden_dim": 16, "epochs": 1}])
def test_the_trainer_tells_its_data_and_how_many_weights_the_default_has(tmp_path, params):
    facts = TorchTrainer("wine").facts(params)
    assert facts["task"] == "wine"
    assert (facts["training_rows"], facts["validation_rows"], facts["holdout_rows"]) == (106, 36, 36)
    assert (facts["features"], facts["classes"]) == (13, 3)
    assert facts["epochs_at_default"] == params.get("epochs", 30)
    trained = run("wine", job(tmp_path, {**params, "epochs": 1}))
    assert facts["weights_at_default"] == trained.values["parameters"]


def test_a_size_that_is_no_whole_number_is_not_counted_with():
    assert "weights_at_default" not in TorchTrainer("wine").facts({"num_layers": 1.5})


@pytest.mark.parametrize("task", TASKS)
def test_the_split_is_fixed_stratified_and_scaled_by_the_train_part_only(task):
    split = load(task)
    parts = [split.train, split.validation, split.holdout]
    rows = sum(len(p.labels) for p in parts)
    assert [round(len(p.labels) / rows, 2) for p in parts] == [0.6, 0.2, 0.2]
    shares = [np.bincount(p.labels, minlength=len(split.labels)) / len(p.labels) for p in parts]
    assert np.abs(shares[0] - shares[1]).max() < 0.04
    assert np.abs(shares[0] - shares[2]).max() < 0.04
    np.testing.assert_allclose(split.mean, split.train.features.mean(axis=0), rtol=1e-5)
    scaled = split.standardised("train")
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    assert scaled.std() == pytest.approx(1, rel=1e-4)
    assert np.isfinite(split.standardised("holdout")).all()
    again = load(task)
    np.testing.assert_array_equal(again.holdout.features, split.holdout.features)
    rows_of = [{row.tobytes() for row in p.features} for p in parts]
    if task != "wine":
        assert not rows_of[0] & rows_of[2]


def stopped_at(step: int):
    return lambda report: report.step == step


def test_a_stopped_training_goes_on_from_its_checkpoint_to_the_very_same_figures(tmp_path):
    params = {**GOOD, "epochs": 6}
    whole = run("wine", job(tmp_path / "whole", params))
    assert whole.state is TrialState.COMPLETE
    assert not (tmp_path / "whole" / "c").exists(), "a complete training needs no checkpoint"
    first = run("wine", job(tmp_path, params), on_report=stopped_at(1))
    second = run("wine", job(tmp_path, params), on_report=stopped_at(3))
    assert [first.state, second.state] == [TrialState.PRUNED] * 2
    trained: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        evaluate = torch_trainer._figures
        patch.setattr(torch_trainer, "_figures", lambda *a: (trained.append(1), evaluate(*a))[1])
        last = run("wine", job(tmp_path, params))
    assert last.values == whole.values
    assert last.reports == whole.reports
    assert len(trained) == 2, "only the two epochs that were left"


def test_a_killed_training_loses_what_came_after_its_newest_checkpoint_only(tmp_path, monkeypatch):
    params = {**GOOD, "epochs": 4}
    whole = run("wine", job(tmp_path / "whole", params))
    monkeypatch.setattr(torch_checkpoint, "SECONDS", 0.0)

    def kill(report):
        if report.step == 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run("wine", job(tmp_path, params), on_report=kill)
    trained: list[int] = []
    evaluate = torch_trainer._figures
    monkeypatch.setattr(torch_trainer, "_figures", lambda *a: (trained.append(1), evaluate(*a))[1])
    again = run("wine", job(tmp_path, params))
    assert (again.values, again.reports, len(trained)) == (whole.values, whole.reports, 1)


@pytest.mark.parametrize("harm", ["other parameters", "other seed", "damaged"])
def test_a_checkpoint_that_is_not_this_trainings_is_not_used(tmp_path, harm):
    params = {**GOOD, "epochs": 3}
    whole = run("wine", job(tmp_path / "whole", params))
    before = {**params, "learning_rate": 1e-4} if harm == "other parameters" else params
    run("wine", job(tmp_path, before, seed=2 if harm == "other seed" else 1), on_report=stopped_at(1))
    file = tmp_path / "c" / "training.pt"
    if harm == "damaged":
        file.write_bytes(file.read_bytes()[:100])
    assert run("wine", job(tmp_path, params)).values == whole.values


def test_an_unknown_task_or_parameter_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown task 'iris'"):
        TorchTrainer("iris")
    with pytest.raises(ConfigError, match="unknown task 'iris'"):
        load("iris")
    outcome = run("wine", job(tmp_path, {"warmup": 3}))
    assert outcome.failure is FailureKind.INVALID_OUTPUT
    assert "'warmup'" in outcome.message


def test_the_same_seed_gives_the_same_figures_and_leaves_torchs_state_alone(tmp_path):
    import torch

    default = SearchSpace.from_json(task_study("wine")["space"]).default()
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = run("wine", job(tmp_path, default))
    torch.manual_seed(12345)
    second = run("wine", job(tmp_path, default))
    other = run("wine", job(tmp_path, default, seed=2))
    assert first.reports == second.reports
    assert first.reports != other.reports
    assert torch.get_num_threads() == threads
    torch.random.set_rng_state(state)
    run("wine", job(tmp_path, default))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_epoch_is_reported_and_the_last_one_is_the_result(tmp_path):
    params = {"num_layers": 1, "epochs": 4, "batch_size": 16, "weight_decay": 1e-4, "activation": "tanh"}
    outcome = run("wine", job(tmp_path, params))
    assert [r.step for r in outcome.reports] == [0, 1, 2, 3]
    last = outcome.reports[-1].metrics
    assert {k: outcome.values[k] for k in last} == dict(last)
    assert outcome.values["parameters"] == 13 * 64 + 64 + 64 * 3 + 3
    assert run("wine", job(tmp_path, params), metric="loss").values["loss"] == last["loss"]


def test_a_diverging_training_fails_as_nan(tmp_path):
    outcome = run("wine", job(tmp_path, {"learning_rate": 1e30}))
    assert outcome.failure is FailureKind.NAN
    assert "diverged" in outcome.message


def test_the_final_model_is_left_as_it_was_scored(tmp_path):
    import torch

    outcome = run("wine", job(tmp_path, {"epochs": 10, "hidden_dim": 32, "dropout": 0.5}, final=True))
    model = load_model(tmp_path / "a" / "model")
    assert not model.training
    split = load("wine")
    with torch.no_grad():
        logits = model(torch.from_numpy(split.holdout.features))
    answer = json.loads((tmp_path / "a" / "holdout.json").read_text())
    assert logits.argmax(1).tolist() == answer["predicted"]
    assert answer["true"] == split.holdout.labels.tolist()
    assert answer["labels"] == ["class_0", "class_1", "class_2"]
    assert outcome.values["accuracy"] == pytest.approx(np.mean(np.equal(answer["true"], answer["predicted"])))
    config = json.loads((tmp_path / "a" / "model" / "config.json").read_text())
    assert config["task"] == "wine"
    assert config["params"]["hidden_dim"] == 32
    example = load_example(tmp_path / "a" / "model")
    assert example.dtype == np.float32
    np.testing.assert_array_equal(example, split.train.features[: len(example)])


@pytest.mark.slow
def test_the_model_can_be_exported(tmp_path):
    import torch

    run("wine", job(tmp_path, {"epochs": 1}, final=True))
    model = load_model(tmp_path / "a" / "model")
    rows = torch.from_numpy(load_example(tmp_path / "a" / "model"))
    dynamic = {"input": {0: torch.export.Dim("rows")}}
    program = torch.export.export(model, (rows,), dynamic_shapes=dynamic)
    torch.testing.assert_close(program.module()(rows[:2]), model(rows[:2]))


@pytest.mark.slow
def test_a_good_configuration_beats_the_default_on_digits(tmp_path):
    default = SearchSpace.from_json(task_study("digits")["space"]).default()
    good = [run("digits", job(tmp_path, GOOD, seed)).values["accuracy"] for seed in range(3)]
    plain = [run("digits", job(tmp_path, default, seed)).values["accuracy"] for seed in range(3)]
    assert min(good) >= 0.98
    assert max(plain) < min(good)


@pytest.mark.slow
def test_a_process_gives_the_figures_that_this_thread_gives(tmp_path):
    params = {"epochs": 3}

    async def main() -> Outcome:
        executor = ProcessExecutor(TorchTrainer("digits"), "accuracy", 1)
        await executor.start()
        outcome = await executor.run(job(tmp_path, params), lambda report: False)
        await executor.close()
        return outcome

    outcome = asyncio.run(main())
    assert outcome.message == ""
    assert outcome.reports == run("digits", job(tmp_path, params)).reports
