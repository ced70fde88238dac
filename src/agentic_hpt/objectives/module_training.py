"""One module of the user's in training: what its parameters set, its data, and the plain loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, cast

from agentic_hpt.errors import ConfigError, FailureKind, Pruned, TrialFailure
from agentic_hpt.objectives.mlp import OPTIMIZERS, SCHEDULES, make_optimizer, rate
from agentic_hpt.objectives.torch_checkpoint import Checkpoint, Stateful
from agentic_hpt.objectives.torch_seeding import seeded
from agentic_hpt.protocols import TrialHandle
from agentic_hpt.records import Params

if TYPE_CHECKING:
    import torch

    Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor | float]
    """Of a model's outputs for many rows and their targets."""

__all__ = ["Member", "Recipe", "Rows", "Task", "outputs_of", "train"]

_ALIASES = {"lr": "learning_rate"}
_ROWS_AT_ONCE = 4096
"""Of the validation part; times the models of a stack."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained; a trial's parameters of the same names set it."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    """Of `sgd` alone."""
    batch_size: int = 64
    epochs: int = 20
    optimizer: str = "adam"
    schedule: str = "constant"
    """How the learning rate goes from its start to 0 over the training; `constant`: it stays."""

    def __post_init__(self) -> None:
        """Refuse what no training can be done with."""
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"unknown {name} {getattr(self, name)!r}", f"choose from {', '.join(known)}")
        for name in ("batch_size", "epochs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}: {value!r}", "give a whole number from 1 on")
        for name in ("learning_rate", "weight_decay", "momentum"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ConfigError(f"{name}: {value!r}", "give a number from 0 on")

    def with_params(self, params: Params) -> Recipe:
        """Give the recipe of a trial; `lr` is another name of `learning_rate`."""
        own = {_ALIASES.get(name, name): value for name, value in params.items() if name in NAMES}
        return Recipe(**{**asdict(self), **own})


NAMES = frozenset({field.name for field in fields(Recipe)} | set(_ALIASES))
"""The parameters that training reads."""


@dataclass(frozen=True)
class Rows:
    """Inputs and targets, a row each, on one device."""

    x: torch.Tensor
    y: torch.Tensor

    def first(self, count: int) -> Rows:
        """Give so many of them."""
        return Rows(self.x[:count], self.y[:count])


@dataclass(frozen=True)
class Task:
    """What all trials share: how a model is built, and what it is trained and judged by."""

    build: Callable[[dict[str, object]], torch.nn.Module]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    metrics: Mapping[str, Score]
    train: Rows
    validation: Rows

    @property
    def device(self) -> torch.device:
        """Where the data lies."""
        return self.train.x.device

    def batches(self, recipe: Recipe) -> int:
        """Give the number of steps of an epoch."""
        return math.ceil(len(self.train.x) / recipe.batch_size)


@dataclass
class Member:
    """A trial's model before its next epoch."""

    id: int
    """The trial's."""
    recipe: Recipe
    seed: int
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    random: torch.Generator
    """What it draws from on the CPU."""
    behind: list[dict[str, float]]
    """The figures of the epochs it has behind it."""
    held: Checkpoint | None

    @classmethod
    def begin(cls, task: Task, recipe: Recipe, trial: TrialHandle, *, keeps: bool = True) -> Member:
        """Build a trial's model from its seed, or take over where the trial was stopped; unless it `keeps` nothing."""
        import torch

        with seeded(trial.seed):
            model = task.build(dict(trial.params))
            if not isinstance(model, torch.nn.Module):
                raise TrialFailure(
                    FailureKind.INVALID_OUTPUT, f"build_model returned a {type(model).__name__}, not a torch.nn.Module"
                )
            optimizer = make_optimizer(recipe, model)
            random = torch.Generator()
            random.set_state(torch.get_rng_state())
        held, behind = None, []
        if keeps:
            of = {**trial.params, **asdict(recipe), "seed": trial.seed}
            held = Checkpoint(trial.checkpoint_dir, of, cast(Sequence[Stateful], (model, optimizer)), random)
            behind = held.load()
        return cls(trial.id, recipe, trial.seed, model, optimizer, random, behind, held)

    @property
    def done(self) -> bool:
        """Whether it has all its epochs behind it."""
        return len(self.behind) >= self.recipe.epochs

    def save(self) -> None:
        """Keep the state, so that the trial can go on from it; a full disk costs it this, no more."""
        if self.held is not None:
            with contextlib.suppress(OSError, RuntimeError):  # the latter is PyTorch's
                self.held.save(self.behind)

    def forget(self) -> None:
        """Drop what was kept."""
        if self.held is not None:
            self.held.remove()


def train(task: Task, member: Member, report: Callable[[dict[str, float], int], None] | None) -> dict[str, float]:
    """Train a model alone to its end, in a plain loop; give the last epoch's figures, reported as all before.

    Lets `Pruned` through, of which the trial may go on later. Raises `TrialFailure` of kind `nan` when a figure is no
    number any more.
    """
    import torch

    recipe, x, y = member.recipe, task.train.x, task.train.y
    model, batches = member.model.to(task.device), task.batches(recipe)
    member.optimizer.load_state_dict(member.optimizer.state_dict())  # its moments go where the model has gone
    for epoch, known in enumerate(member.behind):
        if report is not None:
            report(known, epoch)
    with seeded(member.seed):
        torch.set_rng_state(member.random.get_state())
        for epoch in range(len(member.behind), recipe.epochs):
            model.train()
            order = torch.randperm(len(x)).to(task.device)
            for step, rows in enumerate(order.split(recipe.batch_size), start=epoch * batches):  # type: ignore[no-untyped-call]
                for group in member.optimizer.param_groups:
                    group["lr"] = rate(recipe, step, recipe.epochs * batches)
                loss = task.loss(model(x[rows]), y[rows])
                member.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                member.optimizer.step()
            member.random.set_state(torch.get_rng_state())
            outputs = outputs_of(model, task.validation.x)
            figures = {name: float(score(outputs, task.validation.y)) for name, score in task.metrics.items()}
            wrong = next((name for name, value in figures.items() if not math.isfinite(value)), None)
            if wrong is not None:
                raise TrialFailure(FailureKind.NAN, f"the training diverged: {wrong} is {figures[wrong]}")
            member.behind.append(figures)
            if report is not None:
                _save_now_and_then(member)
                try:
                    report(figures, epoch)
                except Pruned:
                    member.save()
                    raise
    member.forget()
    return member.behind[-1]


def _save_now_and_then(member: Member) -> None:
    if member.held is not None:
        with contextlib.suppress(OSError, RuntimeError):
            member.held.save_now_and_then(member.behind)


def outputs_of(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Give a model's outputs in eval mode, some rows at a time."""
    import torch

    model.eval()
    with torch.no_grad():
        return torch.cat([model(rows) for rows in x.split(_ROWS_AT_ONCE)])  # type: ignore[no-untyped-call]
