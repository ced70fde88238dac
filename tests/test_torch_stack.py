"""Networks trained together come out as they do alone, whatever their neighbours are."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest
import torch
from bench.equivalence import compare

from agentic_hpt.objectives import torch_trainer
from agentic_hpt.objectives.buckets import buckets, bytes_of_network, padded_share
from agentic_hpt.objectives.datasets import load, sizes
from agentic_hpt.objectives.mlp import Hyperparameters
from agentic_hpt.objectives.torch_sampling import OnDevice
from agentic_hpt.objectives.torch_stack import Data, Stack


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def test_where_everything_is_dropped_nothing_is_drawn_for_it() -> None:
    hp = Hyperparameters(hidden_dim=16, epochs=4, batch_size=32, dropout=1.0)  # the orders of all epochs are as alone
    found = trained([hp], data_of("wine"))[0]
    assert found["loss"] == pytest.approx(alone(hp, 100, "wine")["loss"], abs=2e-6)


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
    made = buckets(of, sizes("wine"), launch=1e6, room=1e9, most=12)
    assert sorted(k for bucket in made for k in bucket.members) == list(range(80))
    for bucket in made:
        assert len({(of[k].num_layers, of[k].activation) for k in bucket.members}) == 1
        assert len(bucket.members) <= 12
        assert bucket.width == max(of[k].hidden_dim for k in bucket.members)
        assert bucket.batch_size == max(of[k].batch_size for k in bucket.members)


def test_dear_launches_make_few_buckets_and_cheap_ones_little_padding() -> None:
    of, data = drawn(60), sizes("digits")
    few = buckets(of, data, launch=1e12, room=1e12, most=10_000)
    many = buckets(of, data, launch=0.0, room=1e12, most=10_000)
    assert len(few) == 1
    assert len(many) == 9, "each width with each batch size"
    last_steps = 1 - 1078 / (math.ceil(1078 / 64) * 64)
    assert padded_share(of, many, data) < last_steps < 0.5 < padded_share(of, few, data)


def test_many_widths_and_batch_sizes_are_divided_at_once() -> None:
    draw = random.Random(0)
    of = [Hyperparameters(hidden_dim=draw.randint(8, 256), batch_size=draw.randint(16, 256)) for _ in range(400)]
    made = buckets(of, sizes("digits"), launch=3e6, room=1e12, most=10_000)
    assert sorted(k for bucket in made for k in bucket.members) == list(range(400))
    assert 2 <= len(made) <= 100
    assert padded_share(of, made, sizes("digits")) < 0.4


def test_a_bucket_takes_what_the_model_of_memory_says() -> None:
    of, data = drawn(24, dropout=0.2, hidden_dim=48, batch_size=40), data_of("digits")
    stack = Stack([(hp, k) for k, hp in enumerate(of)], data, as_alone=False)
    stack.epoch()
    shared = {t.data_ptr() for t in (data.x, data.y, data.x_val, data.y_val)}
    held = {t.data_ptr(): t.untyped_storage().nbytes() for t in tensors_in(stack) if t.data_ptr() not in shared}
    own = bytes_of_network(sizes("digits"), 2, 48, 40)
    judged = 2 * 4 * 48 * len(data.x_val)  # comes and goes
    sorting = 8 * 5 * len(data.x)
    assert 0.75 * (own - judged - sorting) < sum(held.values()) / 24 < own
    made = buckets(of, sizes("digits"), launch=1e6, room=5.5 * own, most=1000)
    assert [len(bucket.members) for bucket in made] == [5, 5, 5, 5, 4]


def tensors_in(thing: object) -> list[torch.Tensor]:
    """All tensors that an object of the package's holds."""
    if isinstance(thing, torch.Tensor):
        return [thing]
    if isinstance(thing, list | tuple):
        return [t for part in thing for t in tensors_in(part)]
    if type(thing).__module__.startswith("agentic_hpt") and hasattr(thing, "__dict__"):
        return [t for part in vars(thing).values() for t in tensors_in(part)]
    return []


def test_what_is_drawn_on_the_device_is_drawn_as_it_should_be() -> None:
    of = [Hyperparameters(hidden_dim=64, dropout=p, epochs=1) for p in (0.0, 0.25, 0.6, 1.0)]
    sampling = OnDevice(5, torch.device("cpu"))
    masks, order = torch.empty(2, 4, 50, 64), torch.empty(4, 500, dtype=torch.long)
    sampling.begin(of, masks)
    drawn_masks, places = [], []
    for _ in range(40):
        sampling.masks(())
        drawn_masks.append(masks.clone())
        sampling.order(order)
        assert torch.equal(order.sort(1).values, torch.arange(500).expand(4, -1)), "each row once"
        places.append(order[:, 0].clone())
    seen = torch.stack(drawn_masks)
    for k, hp in enumerate(of):
        scale = 1 / (1 - hp.dropout) if hp.dropout < 1 else 0.0
        values = seen[:, :, k].unique()
        assert torch.minimum(values, (values - scale).abs()).max() < 1e-6
        deviation = math.sqrt(hp.dropout * (1 - hp.dropout) / seen[:, :, k].numel())
        assert (seen[:, :, k] > 0).float().mean().item() == pytest.approx(1 - hp.dropout, abs=5 * deviation + 1e-9)
    layers = torch.corrcoef(torch.stack([seen[:, 0, 1].flatten(), seen[:, 1, 1].flatten(), seen[:, 0, 2].flatten()]))
    assert (layers - torch.eye(3)).abs().max() < 0.02, "layers and networks are independent"
    first = torch.stack(places).flatten().float()
    assert len(first.unique()) > 120
    assert first.mean().item() == pytest.approx(249.5, abs=5 * 144 / math.sqrt(160))


def test_networks_with_what_the_device_draws_are_as_good_as_alone() -> None:
    """Two one-sided tests: the mean accuracies differ by less than 0.01, at a level of 5 %."""
    fixed = {"learning_rate": 1e-2, "hidden_dim": 64, "epochs": 4, "schedule": "linear"}
    kinds = [{"dropout": 0.5}, {"dropout": 0.1, "optimizer": "adamw"}, {"batch_size": 24, "dropout": 0.3}]
    of = [Hyperparameters(**{**fixed, **kind}) for kind in kinds * 6]
    wider = Hyperparameters(hidden_dim=96, batch_size=80, epochs=4)
    stack = Stack([(hp, 500 + k) for k, hp in enumerate([*of, wider])], data_of("digits"), as_alone=False)
    stack.epoch()
    stack.keep([number < len(of) for number in stack.numbers])
    for _ in range(3):
        figures = stack.epoch()
    single = [alone(hp, 900 + k, "digits")["accuracy"] for k, hp in enumerate(of)]
    found = compare([entry["accuracy"] for entry in figures], single, margin=0.01)
    assert found.holds, found


def test_two_means_that_differ_are_not_called_equivalent() -> None:
    draw = random.Random(1)
    one = [draw.gauss(0.9, 0.01) for _ in range(30)]
    assert compare(one, [x + draw.gauss(0, 0.01) for x in one], 0.02).holds
    assert not compare(one, [x - 0.03 for x in one], 0.02).holds
    assert not compare(one[:3], [0.8, 0.9, 1.0], 0.02).holds, "so few say nothing"
