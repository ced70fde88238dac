"""The built-in network: what a trial may set of it, and how it is built and trained, one trial at a time or many."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, Self

from agentic_hpt.errors import ConfigError
from agentic_hpt.records import Params

if TYPE_CHECKING:
    import torch

__all__ = [
    "BETAS",
    "EPSILON",
    "OPTIMIZERS",
    "SCHEDULES",
    "SMOOTHING",
    "HowToTrain",
    "Hyperparameters",
    "blank",
    "build",
    "draw",
    "make_optimizer",
    "make_schedule",
    "rate",
    "weights",
]

SMOOTHING = 0.1
"""Of the labels, in training."""
BETAS = (0.9, 0.999)
EPSILON = 1e-8
_ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh"}
OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("cosine", "linear", "constant")
_SIZES = {"num_layers": 0, "hidden_dim": 1, "batch_size": 1, "epochs": 0}
_RATES = {
    "learning_rate": (math.inf, "a number from 0 on"),
    "weight_decay": (math.inf, "a number from 0 on"),
    "momentum": (math.inf, "a number from 0 on"),
    "dropout": (1.0, "a number from 0 to 1"),
}
_CHOICES = {"activation": tuple(_ACTIVATIONS), "optimizer": OPTIMIZERS, "schedule": SCHEDULES}


class HowToTrain(Protocol):
    """What the training of any network needs to know."""

    @property
    def learning_rate(self) -> float:
        """As the training begins."""

    @property
    def weight_decay(self) -> float:
        """A part of the gradient; with `adamw` of the step."""

    @property
    def momentum(self) -> float:
        """Of `sgd` alone."""

    @property
    def epochs(self) -> int:
        """How long it is."""

    @property
    def optimizer(self) -> str:
        """One of `OPTIMIZERS`."""

    @property
    def schedule(self) -> str:
        """One of `SCHEDULES`: how the learning rate goes to 0, or stays."""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What a trial's parameters may set; the same names."""

    num_layers: int = 2
    learning_rate: float = 1e-3
    hidden_dim: int = 64
    dropout: float = 0.1
    weight_decay: float = 0.0
    batch_size: int = 64
    epochs: int = 30
    activation: str = "relu"
    optimizer: str = "adam"
    momentum: float = 0.9
    """Of `sgd` alone."""
    schedule: str = "cosine"
    """How the learning rate goes from its start to 0 over the training; `constant`: it stays."""

    @classmethod
    def read(cls, params: Params) -> Hyperparameters:
        """Read a configuration. Raises `ConfigError` for a name or a choice that the trainer doesn't know."""
        unknown = [name for name in params if name not in cls.__slots__]
        if unknown:
            raise ConfigError(
                f"the built-in trainer has no parameter {unknown[0]!r}", f"it knows {', '.join(cls.__slots__)}"
            )
        read = cls(**params)  # type: ignore[arg-type]
        for name, known in _CHOICES.items():
            if getattr(read, name) not in known:
                raise ConfigError(f"unknown {name} {getattr(read, name)!r}", f"choose from {', '.join(known)}")
        return read

    def checked(self) -> Self:
        """Give itself. Raises `ConfigError` for a size, a rate or a share that no training can have."""
        for name, least in _SIZES.items():
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or size < least:
                raise ConfigError(f"{name} is {size!r}", f"give a whole number from {least} on")
        for name, (most, words) in _RATES.items():
            rate = getattr(self, name)
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= most:
                raise ConfigError(f"{name} is {rate!r}", f"give {words}")
        return self


def build(hp: Hyperparameters, inputs: int, classes: int) -> torch.nn.Sequential:
    """Build the network: a standardisation, then `num_layers` hidden layers, then one output a class."""
    from torch import nn

    # A frozen batch norm is a standardisation whose figures lie in the state dict; training goes round it.
    layers: list[nn.Module] = [nn.BatchNorm1d(inputs, eps=0.0, affine=False)]
    width = inputs
    for _ in range(hp.num_layers):
        layers += [nn.Linear(width, hp.hidden_dim), getattr(nn, _ACTIVATIONS[hp.activation])(), nn.Dropout(hp.dropout)]
        width = hp.hidden_dim
    return nn.Sequential(*layers, nn.Linear(width, classes))


def blank(hp: Hyperparameters, inputs: int, classes: int) -> torch.nn.Sequential:
    """Build the network as `build` does, with whatever lies in memory for weights: nothing random is drawn."""
    import torch

    with torch.device("meta"):
        made = build(hp, inputs, classes)
    return made.to_empty(device="cpu")


def weights(hp: Hyperparameters, inputs: int, classes: int) -> int:
    """Count the weights, biases among them."""
    return sum((a + 1) * b for a, b in pairwise((inputs, *[hp.hidden_dim] * hp.num_layers, classes)))


def draw(
    hp: Hyperparameters, inputs: int, classes: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Draw each layer's weight and bias: the very numbers that `build` draws, in a tenth of its time."""
    import torch

    widths = (inputs, *[hp.hidden_dim] * hp.num_layers, classes)
    numbers = torch.rand(weights(hp, inputs, classes), generator=generator, dtype=torch.float32)
    begin = 0
    for a, b in pairwise(widths):
        bound = 1 / math.sqrt(a)  # of weights and biases alike, as nn.Linear has it
        layer = numbers[begin : begin + (a + 1) * b] * (2 * bound) - bound
        yield layer[: a * b].view(b, a), layer[a * b :]
        begin += (a + 1) * b


def make_optimizer(hp: HowToTrain, body: torch.nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of one network."""
    import torch

    if hp.optimizer == "sgd":
        return torch.optim.SGD(
            body.parameters(), lr=hp.learning_rate, momentum=hp.momentum, weight_decay=hp.weight_decay, fused=True
        )
    kind = torch.optim.Adam if hp.optimizer == "adam" else torch.optim.AdamW
    return kind(
        body.parameters(), lr=hp.learning_rate, betas=BETAS, eps=EPSILON, weight_decay=hp.weight_decay, fused=True
    )


def make_schedule(
    hp: Hyperparameters, optimizer: torch.optim.Optimizer, batches: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Make the schedule of the learning rate, a step a batch of which an epoch has `batches`."""
    from torch.optim import lr_scheduler

    steps = hp.epochs * batches
    if hp.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if hp.schedule == "linear":
        return lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    return lr_scheduler.ConstantLR(optimizer, 1.0)


def rate(hp: HowToTrain, taken: int, steps: int) -> float:
    """Give the learning rate behind `taken` of all `steps`."""
    gone = min(1.0, taken / max(1, steps))
    shares = {"cosine": (1 + math.cos(math.pi * gone)) / 2, "linear": 1 - gone, "constant": 1.0}
    return hp.learning_rate * shares[hp.schedule]
