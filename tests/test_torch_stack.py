"""Networks trained together come out as they do alone, whatever their neighbours are."""

from __future__ import annotations

import math
import random

import pytest
import torch

from agentic_hpt.objectives import torch_trainer
from agentic_hpt.objectives.buckets import buckets, padded_share
from agentic_hpt.objectives.datasets import load
from agentic_hpt.objectives.mlp import Hyperparameters
from agentic_hpt.objectives.torch_stack import Data, Stack


def data_of(task: str, dtype: torch.dtype = torch.float32) -> Data:
    split = load(task)
    parts = [torch.from_numpy(split.standardised(part)).to(dtype) for part in ("train", "validation")]
    labels = [torch.from_numpy(part.labels) for part in (split.train, split.validation)]
    return Data(parts[0], labels[0], parts[1], labels[1], len(split.labels))


def drawn(count: int, seed: int = 0, **fixed: object) -> list[Hyperparameters]:
    draw = random.Random(seed)
    return [
        Hyperparameters(
            **{
                "num_layers": 2,
                "learning_rate": 10 ** draw.uniform(-3.5, -1.5),
                "hidden_dim": draw.choice([8, 16, 48]),
                "dropout": draw.choice([0.0, 0.2, 0.5]),
                "weight_decay": draw.choice([0.0, 1e-3]),
                "batch_size": draw.choice([16, 40, 64]),
                "optimizer": draw.choice(["adam", "adamw", "sgd"]),
                "schedule": draw.choice(["cosine", "linear", "constant"]),
                "epochs": 3,
                **fixed,
            }
        )
        for _ in range(count)
    ]


def trained(of: list[Hyperparameters], data: Data) -> dict[int, dict[str, float]]:
    stack = Stack([(hp, 100 + k) for k, hp in enumerate(of)], data)
    for _ in range(of[0].epochs):
        figures = stack.epoch()
    return dict(zip(stack.numbers, figures, strict=True))


def alone(hp: Hyperparameters, seed: int, task: str) -> dict[str, float]:
    return torch_trainer._train(hp, seed, load(task), None)[1]


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_each_network_of_a_stack_comes_out_as_it_does_alone(activation: str) -> None:
    of = drawn(9, activation=activation)
    found = trained(of, data_of("wine"))
    for k, hp in enumerate(of):
        single = alone(hp, 100 + k, "wine")
        assert found[k]["loss"] == pytest.approx(single["loss"], abs=2e-5), hp
        assert found[k]["accuracy"] == pytest.approx(single["accuracy"], abs=1e-6), hp


def test_a_stack_of_one_is_the_single_training() -> None:
    [hp] = drawn(1, seed=3, dropout=0.3, hidden_dim=24)
    found = trained([hp], data_of("digits"))[0]
    assert found["loss"] == pytest.approx(alone(hp, 100, "digits")["loss"], abs=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_the_gradients_of_a_step_agree_in_double_precision(activation: str) -> None:
    data, of = data_of("wine", torch.float64), drawn(4, dropout=0.0, activation=activation, batch_size=20)
    stack = Stack([(hp, k) for k, hp in enumerate(of)], data)
    networks = [stack.network(k).double() for k in range(4)]
    stack._rows.copy_(torch.arange(20).repeat(4, 6))
    stack._look_up()
    stack._forward()
    stack._backward()
    for k, network in enumerate(networks):
        logits = network[1:](data.x[:20])
        torch.nn.functional.cross_entropy(logits, data.y[:20], label_smoothing=0.1).backward()
        linear = [m for m in network if isinstance(m, torch.nn.Linear)]
        for module, gradient, bias in zip(linear, stack._gradients, stack._parts[1], strict=False):
            own = gradient[k, : module.in_features, : module.out_features]
            torch.testing.assert_close(own, module.weight.grad.T, atol=1e-5, rtol=0)
            torch.testing.assert_close(bias[k, 0, : module.out_features], module.bias.grad, atol=1e-5, rtol=0)
            assert gradient[k].abs().sum() == pytest.approx(own.abs().sum()), "padding stays out of it"


def test_a_network_that_diverges_leaves_its_neighbours_untouched() -> None:
    sound = drawn(3, optimizer="sgd", dropout=0.2)
    wild = Hyperparameters(**{**{n: getattr(sound[0], n) for n in Hyperparameters.__slots__}, "learning_rate": 1e30})
    apart, beside = trained(sound, data_of("wine")), trained([*sound, wild], data_of("wine"))
    assert not math.isfinite(beside[3]["loss"])
    for k in range(3):
        assert beside[k] == pytest.approx(apart[k], abs=1e-6)


def test_what_leaves_a_stack_changes_nothing_for_what_stays() -> None:
    of, data = drawn(6, epochs=4), data_of("wine")
    whole = trained(of, data)
    stack = Stack([(hp, 100 + k) for k, hp in enumerate(of)], data)
    stack.epoch()
    stay = [number in (1, 4) for number in stack.numbers]
    stack.keep(stay)
    assert sorted(stack.numbers) == [1, 4]
    assert stack._weights[0].shape[2] == max(of[1].hidden_dim, of[4].hidden_dim)
    for _ in range(3):
        figures = stack.epoch()
    for number, own in zip(stack.numbers, figures, strict=True):
        assert own == pytest.approx(whole[number], abs=1e-5)


def test_buckets_hold_each_network_once_and_never_mix_shapes() -> None:
    of = [*drawn(40), *drawn(20, seed=1, num_layers=4), *drawn(20, seed=2, activation="tanh")]
    made = buckets(of, 13, 3, launch=10_000.0, most=lambda hp: 12)
    assert sorted(k for bucket in made for k in bucket.members) == list(range(80))
    for bucket in made:
        shapes = {(of[k].num_layers, of[k].activation, of[k].batch_size) for k in bucket.members}
        assert len(shapes) == 1
        assert len(bucket.members) <= 12
        assert bucket.width == max(of[k].hidden_dim for k in bucket.members)


def test_dear_launches_make_few_buckets_and_cheap_ones_no_padding() -> None:
    of = drawn(60, batch_size=32)
    few = buckets(of, 64, 10, launch=1e9, most=lambda hp: 10_000)
    many = buckets(of, 64, 10, launch=0.0, most=lambda hp: 10_000)
    assert len(few) == 1
    assert len(many) == 3
    assert padded_share(of, many, 64, 10) == 0.0
    assert 0.0 < padded_share(of, few, 64, 10) < 1.0
