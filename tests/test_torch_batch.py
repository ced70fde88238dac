"""Modules of the user's trained together come out as they do alone, whatever they are."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

import agentic_hpt as hpt
from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError, FailureKind, Pruned
from agentic_hpt.objectives import torch_batch, torch_checkpoint
from agentic_hpt.objectives.function import load_function
from agentic_hpt.objectives.module_memory import bytes_of_model
from agentic_hpt.objectives.module_stack import ModuleStack
from agentic_hpt.objectives.module_training import Member
from agentic_hpt.objectives.module_vectorising import vectorising
from agentic_hpt.objectives.torch_batch import ModuleObjective
from agentic_hpt.study import run_study
from called_batches import Handle, Together, handles
from study_runs import describe

ROWS = 150


def points():
    """Rows of 16 numbers in 3 classes that can be told apart."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 16, generator=draw)
    y = torch.randint(0, 3, (ROWS,), generator=draw)
    x = (centres[y] + torch.randn(ROWS, 16, generator=draw)).double()
    return (x[:110], y[:110]), (x[110:], y[110:])


def mlp(params):
    width = params.get("width", 12)
    return nn.Sequential(nn.Linear(16, width), nn.Tanh(), nn.Dropout(params.get("dropout", 0.0)), nn.Linear(width, 3))


def cnn(params):
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.Dropout2d(params.get("dropout", 0.0)),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def normed(params):
    return nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


class Block(nn.Module):
    """A transformer's block over four tokens of four numbers."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        tokens = self.embed(x.view(-1, 4, 4))
        seen, _ = self.attend(tokens, tokens, tokens, need_weights=False)
        return self.out(self.drop(self.norm(tokens + seen)).mean(1))


def block(params):
    return Block(params.get("dropout", 0.0))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.lstm(x.view(-1, 4, 4))[0][:, -1])


def recurrent(params):
    return Recurrent()


class Counting(nn.Linear):
    """Keeps a state that is no buffer: the second step is another one than the first."""

    steps = 0

    def forward(self, x):
        if self.training:
            self.steps += 1
        return super().forward(x) * (1 + 0.5 * self.steps)


def alone(objective: ModuleObjective, folder: Path, params: Mapping[str, object], number: int) -> Handle:
    trial = Handle(number, params, 40 + number, folder / "alone")
    trial.told.append((-1, dict(objective.run(params, trial))))
    return trial


def together(objective: ModuleObjective, folder: Path, params: Sequence[Mapping[str, object]]) -> Together:
    batch = Together(handles(folder / "together", params))
    objective.run_batch(batch)
    return batch


def ways(count: int, **fixed: object) -> list[dict[str, object]]:
    """Give configurations of one shape."""
    return [
        {
            "learning_rate": 10 ** (-3 + k / count),
            "weight_decay": 0.01 * (k % 2),
            "optimizer": ("adam", "sgd", "adamw")[k % 3],
            "schedule": ("cosine", "constant", "linear")[k // 3 % 3],
            "epochs": 2 + k % 2,
            **fixed,
        }
        for k in range(count)
    ]


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of the stacks that are trained, on one core."""
    made: list[int] = []
    begin = ModuleStack.__init__

    def noted(self, members, task):
        made.append(len(members))
        begin(self, members, task)

    monkeypatch.setattr(ModuleStack, "__init__", noted)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield made
    torch.set_num_threads(threads)


def double(build):
    return lambda params: build(params).double()


@pytest.mark.parametrize("build", [mlp, cnn, block, normed])
@pytest.mark.parametrize("count", [1, 6])
def test_each_of_a_stack_reports_and_answers_what_it_does_alone(build, count, tmp_path, stacks):
    """Whatever its optimizer, its schedule, its rates of decay and of dropout: masks and orders are its own."""
    objective = hpt.torch_batch(double(build), points, batch_size=32)
    params = [{**own, "dropout": 0.1 * k} for k, own in enumerate(ways(count))]
    batch = together(objective, tmp_path, params)
    assert stacks == [count]
    assert not batch.failures
    for trial, own in zip(batch.trials, params, strict=True):
        *reports, (_, answer) = alone(objective, tmp_path, own, trial.id).told
        assert [step for step, _ in trial.told] == [step for step, _ in reports] == list(range(own["epochs"]))
        for (_, found), (_, expected) in zip(trial.told, reports, strict=True):
            assert found == pytest.approx(expected, abs=1e-6), own
        assert batch.answers[trial.id] == pytest.approx(answer, abs=1e-6)


def test_on_two_cores_two_stacks_go_on_at_once_to_the_same_figures(tmp_path, stacks):
    objective = hpt.torch_batch(double(cnn), points, batch_size=32)
    params = [{**own, "dropout": 0.1 * k} for k, own in enumerate(ways(5))]
    one = together(objective, tmp_path / "one", params)
    torch.set_num_threads(2)
    two = together(objective, tmp_path / "two", params)
    assert stacks == [5, 3, 2]
    assert torch.get_num_threads() == 2
    assert [two.answers[k] for k in range(5)] == [pytest.approx(one.answers[k], abs=1e-9) for k in range(5)]


def test_the_gradient_of_a_step_is_that_of_the_plain_loop(tmp_path):
    """By plain descent, so that what a weight changed by is its gradient."""
    objective = hpt.torch_batch(double(block), points, batch_size=200, optimizer="sgd", momentum=0.0, epochs=1)
    task = objective._load()
    params = [{"learning_rate": 0.1 * k} for k in (1, 2, 3)]
    members = [Member.begin(task, objective._recipe.with_params(t.params), t) for t in handles(tmp_path, params)]
    stack = ModuleStack(members, task)
    before = [[p.detach().clone() for p in m.model.parameters()] for m in stack.members]
    with vectorising(task.device):
        stack.epoch()
    for k, member in enumerate(stack.members):
        model = double(block)({})
        model.load_state_dict(dict(zip(model.state_dict(), before[k], strict=True)))
        task.loss(model(task.train.x), task.train.y).backward()
        after = stack.give_back(k).model.parameters()
        for was, now, plain in zip(before[k], after, model.parameters(), strict=True):
            gradient = (was - now.detach()) / member.recipe.learning_rate
            torch.testing.assert_close(gradient, plain.grad, atol=1e-9, rtol=0)


def test_one_that_diverges_fails_alone_and_leaves_its_neighbours_figures(tmp_path, stacks):
    objective = hpt.torch_batch(double(normed), points, optimizer="sgd", epochs=3)
    sound = [{"learning_rate": 0.01 * k} for k in (1, 2, 3)]
    wild = {"learning_rate": 1e300}
    apart = together(objective, tmp_path / "apart", sound)
    beside = together(objective, tmp_path / "beside", [*sound, wild])
    assert beside.failures[3][0] is FailureKind.NAN
    assert [beside.answers[k] for k in range(3)] == [pytest.approx(apart.answers[k], abs=1e-9) for k in range(3)]
    assert stacks == [3, 4]


def test_what_is_stopped_leaves_the_stack_and_goes_on_later_to_the_same_figures(tmp_path):
    """In another batch, beside others, or alone; with its moments, its running statistics, its random numbers."""

    def build(params):
        return nn.Sequential(normed(params), nn.Dropout(0.0), nn.Linear(3, 3), nn.Dropout(0.2)).double()

    objective = hpt.torch_batch(build, points, epochs=5)
    params = [{"learning_rate": 0.003 * (k + 1), "optimizer": ("adam", "sgd")[k % 2]} for k in range(5)]
    batch = Together(handles(tmp_path, params))
    for trial, step in ((1, 1), (2, 1), (4, 2)):
        batch.trials[trial].stops = step
    objective.run_batch(batch)
    assert batch.stopped == {1, 2, 4}
    assert set(batch.answers) == {0, 3}
    expected = {k: alone(objective, tmp_path, params[k], k).told for k in range(5)}
    for k in (0, 3):
        assert batch.answers[k] == pytest.approx(expected[k][-1][1], abs=1e-6)
    later = handles(tmp_path, params)
    again = Together([later[1], later[4]])
    objective.run_batch(again)
    for trial in again.trials:
        assert [step for step, _ in trial.told] == [0, 1, 2, 3, 4]
        assert again.answers[trial.id] == pytest.approx(expected[trial.id][-1][1], abs=1e-6)
    assert dict(objective.run(params[2], later[2])) == pytest.approx(expected[2][-1][1], abs=1e-6)
    assert not list(tmp_path.glob("checkpoints/*/*")), "what came to its end needs no state any more"


def test_a_model_changed_since_a_trial_was_stopped_is_trained_anew(tmp_path):
    before = hpt.torch_batch(double(mlp), points, epochs=3)
    stopped = Handle(0, {}, 40, tmp_path / "alone", stops=1)
    with pytest.raises(Pruned):
        before.run({}, stopped)
    after = hpt.torch_batch(lambda params: mlp({"width": 9}).double(), points, epochs=3)
    assert alone(after, tmp_path, {}, 0).told == alone(after, tmp_path / "elsewhere", {}, 0).told


def test_what_is_killed_goes_on_from_what_was_saved_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(torch_checkpoint, "SAVING", math.inf)

    objective = hpt.torch_batch(double(mlp), points, epochs=4)
    with pytest.raises(KeyboardInterrupt):
        objective.run_batch(Together(handles(tmp_path, [{}, {"lr": 0.01}]), killed_at=2))
    batch = Together(handles(tmp_path, [{}, {"lr": 0.01}]))
    begun, epoch = [], ModuleStack.epoch

    def noted(stack):
        begun.extend(len(member.behind) for member in stack.members)
        return epoch(stack)

    monkeypatch.setattr(ModuleStack, "epoch", noted)
    objective.run_batch(batch)
    assert set(begun) == {2, 3}
    for k in (0, 1):
        expected = alone(objective, tmp_path, batch.trials[k].params, k).told
        assert batch.answers[k] == pytest.approx(expected[-1][1], abs=1e-6)


@pytest.mark.parametrize(
    ("build", "why"),
    [(recurrent, "lstm"), (lambda p: nn.Sequential(nn.Linear(16, 3), Counting(3, 3)), "plain loop")],
)
def test_what_cant_be_stacked_is_trained_one_by_one_and_remarked(build, why, tmp_path):
    objective = hpt.torch_batch(double(build), points, epochs=2)
    params = [{"learning_rate": 0.01}, {"learning_rate": 0.02}, {"learning_rate": math.inf}]
    batch = together(objective, tmp_path, params)
    [remark] = set(batch.remarks)
    assert "models are trained one by one, since they can't be stacked: " in remark
    assert why in remark
    assert batch.failures[2][0] is FailureKind.NAN
    for k in (0, 1):
        assert batch.answers[k] == alone(objective, tmp_path, params[k], k).told[-1][1]


def test_other_random_numbers_than_those_of_dropout_layers_are_each_members_own(tmp_path, stacks):
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x)) if self.training else super().forward(x)

    objective = hpt.torch_batch(lambda params: Noisy(16, 3).double(), points, epochs=6, learning_rate=0.05)
    batch = together(objective, tmp_path, [{}] * 8)
    assert stacks == [8]
    assert len({answer["loss"] for answer in batch.answers.values()}) == 8
    single = [alone(objective, tmp_path, {}, k).told[-1][1]["accuracy"] for k in range(8)]
    assert np.mean([a["accuracy"] for a in batch.answers.values()]) == pytest.approx(np.mean(single), abs=0.1)


def test_groups_divide_what_differs_in_more_than_weights_and_dropout():
    def build(params):
        body = nn.Sequential(nn.LeakyReLU(params.get("slope", 0.1)), nn.Dropout(params.get("dropout", 0.1)))
        model = nn.Sequential(nn.Linear(16, params.get("width", 8)), body, nn.Linear(params.get("width", 8), 3))
        model.params = dict(params)  # many keep them
        model.learning_rate = params.get("learning_rate")
        if "dropout" in params:
            model.params.pop("dropout")
        return model.double()

    objective = hpt.torch_batch(build, points)
    alike = [{"learning_rate": 0.1, "optimizer": "sgd"}, {"lr": 0.2, "dropout": 0.5, "weight_decay": 1.0, "epochs": 3}]
    apart = [{"width": 9}, {"slope": 0.2}, {"batch_size": 8}, {"width": "nine"}, {"epochs": 0}]
    assert objective.groups([*alike, *apart, *alike]) == [[0, 1, 7, 8], [2], [3], [4], [5], [6]]


def test_that_no_two_have_one_shape_is_remarked_with_the_reason(tmp_path):
    objective = hpt.torch_batch(double(mlp), points, epochs=1)
    objective.groups([{"width": 4}, {"width": 5}, {"width": 6}])
    assert together(objective, tmp_path / "apart", [{"width": 4}]).remarks == [
        "torch_batch(<lambda>): no two models can be trained together: they differ in 0.out_features"
    ]
    objective.groups([{"width": 4}, {"width": 5}, {"width": 4}])
    assert together(objective, tmp_path / "alike", [{"width": 4}]).remarks == []


def test_groups_are_as_large_as_memory_holds(monkeypatch):
    objective = hpt.torch_batch(double(cnn), points)
    monkeypatch.setattr(
        torch_batch,
        "bytes_free",
        lambda device: 10 * torch_batch.bytes_of_model(cnn({}).double(), objective._load(), 64) + 1,
    )
    assert [len(group) for group in objective.groups([{}] * 25)] == [9, 9, 7]
    monkeypatch.setattr(torch_batch, "bytes_free", lambda device: 1)
    assert objective.groups([{}] * 2) == [[0], [1]], "one is tried, whatever is thought of it"


def test_the_memory_of_a_model_grows_with_its_weights_and_its_batch():
    task = hpt.torch_batch(mlp, points)._load()
    build = double(mlp)
    small, wide, long = (bytes_of_model(build({"width": w}), task, rows) for w, rows in ((8, 16), (4000, 16), (8, 96)))
    assert wide > 7 * 8 * 4000 * 19
    assert long > small


def test_what_lacks_memory_is_raised_so_that_the_executor_halves_the_batch(tmp_path):
    def loss(outputs, targets):
        if torch.is_grad_enabled() and outputs.requires_grad:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return nn.functional.cross_entropy(outputs, targets)

    with pytest.raises(RuntimeError, match="out of memory"):
        together(hpt.torch_batch(double(mlp), points, loss=loss), tmp_path, [{}, {}])


def test_a_model_too_large_to_be_built_is_alone_in_its_list():
    objective = hpt.torch_batch(double(mlp), points)
    assert objective.groups([{"width": 4}, {"width": 10**13}, {"width": 4}]) == [[0, 2], [1]]


def test_a_model_that_cant_be_built_fails_alone(tmp_path):
    def build(params):
        return mlp({"width": params["width"]}).double() if params["width"] else None

    params = [{"width": 4}, {"width": -1}, {"width": 0}, {"width": 4}]
    batch = together(hpt.torch_batch(build, points, epochs=1), tmp_path, params)
    assert set(batch.answers) == {0, 3}
    assert batch.failures[1][0] is FailureKind.CRASH
    assert "RuntimeError" in batch.failures[1][1]
    assert batch.failures[2] == (FailureKind.INVALID_OUTPUT, "build_model returned a NoneType, not a torch.nn.Module")


def test_losses_and_metrics_may_be_ones_own_and_may_read_numbers(tmp_path, stacks):
    def share(outputs, targets):
        return sum(float(o > 0) for o in outputs[:, 0]) / len(targets)

    def data():
        x = np.random.default_rng(0).normal(size=(60, 16))
        y = x[:, :1] * 2
        return (x[:40], y[:40]), (x[40:], y[40:])

    objective = hpt.torch_batch(
        lambda params: nn.Linear(16, 1), data, loss=nn.L1Loss(), metrics={"share": share}, epochs=2
    )
    batch = together(objective, tmp_path, [{"lr": 0.1}, {"lr": 0.01}])
    assert stacks == [2]
    for k, own in enumerate(({"lr": 0.1}, {"lr": 0.01})):
        expected = alone(objective, tmp_path, own, k).told[-1][1]
        assert set(expected) == {"loss", "share", "parameters"}
        assert batch.answers[k] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
        ({"epochs": 0}, "epochs: 0"),
        ({"learning_rate": "fast"}, "learning_rate: 'fast'"),
        ({"metrics": {"f1": 3}}, "f1 is 3, not a function"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_what_torch_batch_cant_use_is_refused_where_it_is_made(given, told):
    with pytest.raises(ConfigError, match=told):
        hpt.torch_batch(mlp, points, **given)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (lambda: 3, "not two pairs"),
        (lambda: (([[1.0]], [1, 2]), ([[1.0]], [1])), "1 inputs and 2 targets"),
        (lambda: ((1, 2, 3), (1, 2)), "no pair"),
    ],
)
def test_data_that_cant_be_trained_on_are_refused(data, told):
    with pytest.raises(ConfigError, match=told):
        hpt.torch_batch(mlp, data)._load()


def test_it_pickles_small_whatever_was_loaded_before():
    objective = hpt.torch_batch(mlp, points)
    before = len(cloudpickle.dumps(objective))
    objective._load()
    assert len(cloudpickle.dumps(objective)) == before
    assert repr(pickle.loads(cloudpickle.dumps(objective))) == "torch_batch(mlp)"


@pytest.mark.parametrize("executor", ["processes", "batched"])
def test_a_module_is_tuned_and_its_holdout_scored(executor, tmp_path):
    objective = hpt.torch_batch(double(mlp), points, holdout=lambda: points()[1], epochs=2)
    result = hpt.tune(
        objective,
        {"learning_rate": hpt.Float(1e-3, 1e-1, log=True, default=1e-2), "dropout": hpt.Float(0, 0.5, default=0.1)},
        metric="accuracy",
        budget=hpt.Budget(trials=4),
        home=tmp_path,
        parallel=2,
        executor=executor,
        fresh_seeds=1,
        mlflow={"enabled": False},
    )
    assert result.exit_code == 0, result
    assert result.final.holdout is not None
    assert {t.state for t in result.trials} == {"complete"}
    assert result.trials[0].values["parameters"] == 243
    assert torch.load(Path(result.final.model_dir) / "weights.pt")["0.weight"].shape == (12, 16)


@pytest.mark.parametrize("executor", ["processes", "batched"])
def test_data_that_cant_be_used_refuse_the_study_with_what_is_wrong(executor, tmp_path):
    def uneven():
        (x, y), validation = points()
        return (x, y[:-1]), validation

    with pytest.raises(ConfigError, match=r"the first of data has \d+ inputs and \d+ targets \(give a target for each"):
        hpt.tune(
            hpt.torch_batch(mlp, uneven, epochs=1),
            {"learning_rate": hpt.Float(1e-3, 1e-1, log=True, default=1e-2)},
            metric="accuracy",
            budget=hpt.Budget(trials=4),
            home=tmp_path,
            parallel=2,
            executor=executor,
            mlflow={"enabled": False},
        )


FILE = """
import torch
import agentic_hpt as hpt

def build(params):
    return torch.nn.Linear(4, 2)

def data():
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return (x[:30], y[:30]), (x[30:], y[30:])

objective = hpt.torch_batch(build, data, epochs=2, optimizer="sgd")
"""


def test_a_study_file_may_name_one(tmp_path):
    described = describe(tmp_path, FILE, executor="processes", metric="accuracy", budget={"trials": 2})
    described["objective"]["python"] = "train.py:objective"
    described["space"] = {"learning_rate": {"float": [0.01, 1.0], "log": True, "default": 0.1}}
    result = run_study(StudyConfig.from_mapping(described), home=tmp_path / "home")
    assert result.exit_code == 0
    assert [t.state for t in result.trials] == ["complete"] * 2
    with pytest.raises(ConfigError, match="takes no final function"):
        load_function("train.py:objective", str(tmp_path), "train.py:build")
